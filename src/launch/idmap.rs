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
use nix::unistd::{getpid, getppid, pause};

use super::staging::{clone_tree, restrict};
use crate::backend::reachable_by_all;
use crate::error::{Context, Error, Result};
use crate::namespaces::{Restriction, Step};
use crate::plan::{AGENT_ID, FileId, Mount, MountKind, Plan, Resolved, RootKind, open_without_links};
use crate::sys::{self, MountAttributes};

/// The place that stands for the runtime's own file.
pub const RUNTIME: usize = usize::MAX;

/// Detached mounts, by place of the plan.
pub type Detached = Vec<(usize, OwnedFd)>;

/// Detached mounts of everything that the launcher, who is nobody on the host,
/// may not be able to reach, by place of the plan.
pub fn detached_mounts(resolved: &Resolved) -> Result<Detached> {
    let plan = &resolved.plan;
    let mut namespaces = Namespaces { of: HashMap::new() };
    let mut found = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let (source, id, submounts, system) = match &mount.kind {
            MountKind::Bind { source, id, submounts, .. } => (source, *id, submounts.len(), plan.is_system(mount)),
            MountKind::Merged { source, id, .. } => (source, Some(*id), 0, mount.target == "/etc"),
            // The host's own files stay whose they are.
            MountKind::Layered { source, id } => (source, Some(*id), 0, matches!(plan.root.kind, RootKind::Host)),
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
        restrict(&tree, mount)?;
        let of_image = matches!(&plan.root.kind, RootKind::Image { path, .. } if source.starts_with(path));
        if !system || of_image {
            let owners = match mount.kind {
                // Of an image they were unpacked by root, with the ids of the system and the agent only.
                _ if of_image || matches!(mount.kind, MountKind::Layered { .. }) => {
                    Owners::OfRoot { runtime: runtime_id(plan), agent: plan.identity.host_uid }
                }
                _ => Owners::One { uid: stat.st_uid, gid: stat.st_gid, to: plan.identity.host_uid },
            };
            let namespace = namespaces.get(owners)?;
            let attributes = MountAttributes { idmap: Some(namespace.as_fd()), ..MountAttributes::default() };
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
        let namespace = namespaces.get(Owners::One { uid: stat.st_uid, gid: stat.st_gid, to: runtime_id(plan) })?;
        let attributes = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            private: true,
            idmap: Some(namespace.as_fd()),
            ..MountAttributes::default()
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
    if matches!(mount.kind, MountKind::Layered { .. }) {
        return Err(Error::refused(format!("--writable-root over {}", source.display()))
            .because(format!(
                "its file system has no id-mapped mounts, so that nothing in it could be the agent's: {error}"
            ))
            .hint("belljar run --as-user NAME, or without --writable-root"));
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

/// Host id of the launcher's uid 0, and so of the runtime.
fn runtime_id(plan: &Plan) -> u32 {
    plan.identity.launcher_uids.first().map_or(plan.identity.host_uid, |map| map.outside)
}

/// Which owners on disk become which host ids; all others are nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owners {
    /// One owner and group become one host id.
    One {
        /// On disk.
        uid: u32,
        /// On disk.
        gid: u32,
        /// The host id.
        to: u32,
    },
    /// Of an unpacked root: root's own become the runtime's, without which an
    /// overlay could not copy directories into its layer; 1000's become the
    /// agent's.
    OfRoot {
        /// Host id.
        runtime: u32,
        /// Host id.
        agent: u32,
    },
}

impl Owners {
    /// The maps of uids and of gids, as written to /proc (user_namespaces(7)).
    fn maps(self) -> [String; 2] {
        match self {
            Self::One { uid, gid, to } => [uid, gid].map(|id| format!("{id} {to} 1\n")),
            Self::OfRoot { runtime, agent } => [(); 2].map(|()| format!("0 {runtime} 1\n{AGENT_ID} {agent} 1\n")),
        }
    }
}

/// User namespaces with such maps, each made once by a throw-away child.
struct Namespaces {
    of: HashMap<Owners, OwnedFd>,
}

impl Namespaces {
    fn get(&mut self, owners: Owners) -> Result<&OwnedFd> {
        let namespace = match self.of.entry(owners) {
            Entry::Occupied(have) => have.into_mut(),
            Entry::Vacant(room) => room.insert(make(owners)?),
        };
        Ok(namespace)
    }
}

fn make(owners: Owners) -> Result<OwnedFd> {
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
    .map_err(|errno| Restriction::of(Step::Namespaces, errno).refusal())?;
    let hold = || -> std::io::Result<OwnedFd> {
        let [uids, gids] = owners.maps();
        fs::write(format!("/proc/{child}/uid_map"), uids)?;
        fs::write(format!("/proc/{child}/gid_map"), gids)?;
        Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
    };
    let held = hold().step(|| format!("map the owners {owners:?}"));
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    held
}
