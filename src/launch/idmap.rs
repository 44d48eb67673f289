//! For runs by root: mount sources as detached, id-mapped mounts, so that files
//! which the agent makes belong to the owner of the mounted directory, while the
//! agent's own host id is an unprivileged one. Neither the launcher nor an
//! attached mount could do that later.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, getpid, getppid, pause};

use super::staging::{clone_tree, restrictions};
use crate::backend::reachable_by_all;
use crate::error::{Context, Error, Result};
use crate::plan::{FileId, Mount, MountKind, Plan, Resolved, open_without_links};
use crate::sys::{self, MountAttributes};

/// The place that stands for the runtime's own file.
pub const RUNTIME: usize = usize::MAX;

/// Detached mounts of everything that the launcher, who is nobody on the host,
/// may not be able to reach, by place of the plan.
pub fn detached_mounts(resolved: &Resolved) -> Result<Vec<(usize, OwnedFd)>> {
    let plan = &resolved.plan;
    let mut namespaces = Namespaces { of: HashMap::new() };
    let mut found = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let (source, id, submounts, system) = match &mount.kind {
            MountKind::Bind { source, id, submounts, .. } => (source, *id, submounts.len(), plan.is_system(mount)),
            MountKind::Merged { source, id, .. } => (source, Some(*id), 0, mount.target == "/etc"),
            _ => continue,
        };
        let opened;
        let file = match resolved.sources.get(&index) {
            Some(file) => file,
            None => {
                opened = open_without_links(source).refuse(|| format!("mount {}", source.display()))?;
                &opened
            }
        };
        let stat = rustix::fs::fstat(file).step(|| format!("stat {}", source.display()))?;
        let now = FileId { device: stat.st_dev, inode: stat.st_ino };
        if id.is_some_and(|id| id != now) {
            return Err(
                Error::refused(format!("mount {}", source.display())).because("it is not the file that was checked")
            );
        }
        let tree = clone_tree(file, source, submounts > 0)?;
        let mut attributes = MountAttributes { set: restrictions(mount), private: true, recursive: true, idmap: None };
        sys::mount_setattr(&tree, attributes).step(|| format!("restrict the mount of {}", mount.target))?;
        if !system {
            let namespace = namespaces.get(stat.st_uid, stat.st_gid, plan.identity.host_uid)?;
            attributes = MountAttributes { set: 0, private: false, recursive: false, idmap: Some(namespace.as_fd()) };
            if let Err(error) = sys::mount_setattr(&tree, attributes) {
                without_idmap(plan, mount, source, error)?;
            }
        }
        found.push((index, tree));
    }
    // What everyone can reach, the launcher stages by itself.
    if plan.runtime.staged && !reachable_by_all(&plan.runtime.path) {
        let path = &plan.runtime.path;
        let file = open_without_links(path).refuse(|| format!("runtime {}", path.display()))?;
        let stat = rustix::fs::fstat(&file).step(|| format!("stat {}", path.display()))?;
        let tree = clone_tree(&file, path, false)?;
        let runtime = plan.identity.launcher_uids.first().map_or(plan.identity.host_uid, |map| map.outside);
        let namespace = namespaces.get(stat.st_uid, stat.st_gid, runtime)?;
        let attributes = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            private: true,
            recursive: false,
            idmap: Some(namespace.as_fd()),
        };
        // Without id-mapped mounts it is run with the permissions that it has.
        let _ = sys::mount_setattr(&tree, attributes);
        found.push((RUNTIME, tree));
    }
    Ok(found)
}

/// A file system without id-mapped mounts: belljar's own directories are given
/// to the agent's host id instead (docs/security.md); what a person gave
/// read-only is read with that id's rights; read-write it could not be written.
fn without_idmap(plan: &Plan, mount: &Mount, source: &Path, error: io::Error) -> Result<()> {
    let agent = plan.identity.host_uid;
    let is_own = matches!(mount.kind, MountKind::Bind { id: None, .. });
    if is_own {
        return fchown(open_directory(source)?, Some(agent), Some(agent))
            .step(|| format!("give {} to host id {agent}", source.display()));
    }
    if mount.readonly {
        return Ok(());
    }
    Err(Error::refused(format!("mount {} read-write", source.display()))
        .because(format!(
            "its file system has no id-mapped mounts, so that host id {agent} could not write it: {error}"
        ))
        .hint("belljar run --as-user NAME, or mount it read-only"))
}

fn open_directory(path: &Path) -> Result<File> {
    File::open(path).step(|| format!("open {}", path.display()))
}

/// User namespaces whose maps turn an owner on disk into a host id, each made
/// once by a throw-away child.
struct Namespaces {
    of: HashMap<(u32, u32, u32), OwnedFd>,
}

impl Namespaces {
    fn get(&mut self, uid: u32, gid: u32, to: u32) -> Result<&OwnedFd> {
        let namespace = match self.of.entry((uid, gid, to)) {
            Entry::Occupied(have) => have.into_mut(),
            Entry::Vacant(room) => room.insert(make(Uid::from_raw(uid), Gid::from_raw(gid), to)?),
        };
        Ok(namespace)
    }
}

fn make(uid: Uid, gid: Gid, to: u32) -> Result<OwnedFd> {
    let parent = getpid();
    let child = sys::clone_process(CloneFlags::CLONE_NEWUSER, || {
        // Killed as soon as its namespace is held; with the parent if that dies,
        // also when that has happened already. It holds nothing of the parent's.
        sys::close_all_but(&[]);
        if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent {
            pause();
        }
        0
    })
    .step(|| "make a user namespace for an id-mapped mount".to_owned())?;
    let hold = || -> std::io::Result<OwnedFd> {
        fs::write(format!("/proc/{child}/uid_map"), format!("{uid} {to} 1\n"))?;
        fs::write(format!("/proc/{child}/gid_map"), format!("{gid} {to} 1\n"))?;
        Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
    };
    let held = hold().step(|| format!("map owner {uid}:{gid} to host id {to}"));
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    held
}
