//! Directories with a hidden name in them that the host replaces during a run.
//!
//! What covers the name pins the directory in the kernel's name cache, so that
//! the agent would go on to see the old one. The covers are taken away then; the
//! names stay hidden by the overlay's own empty files, which nothing can detach.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

use super::staging::staged;
use crate::error::{Context, Result};
use crate::plan::{FileId, MountKind, Plan, identify, join, open_without_links};
use crate::sys;

/// One directory with a hidden name in it.
struct Pinned {
    /// Place of its mount in the plan.
    index: usize,
    /// Relative to the mounted directory.
    directory: std::path::PathBuf,
    /// Which directory it was.
    id: Option<FileId>,
    /// What covers names in it or below, inside.
    covers: Vec<String>,
}

/// Watches over them.
pub struct Replaced {
    /// The container's mount namespace.
    namespace: File,
    pinned: Vec<Pinned>,
}

impl Replaced {
    /// Remembers the directories as they are now. `init` must be dumpable still.
    pub fn remember(plan: &Plan, init: Pid) -> Result<Self> {
        let path = format!("/proc/{init}/ns/mnt");
        let namespace = File::open(&path).step(|| format!("open {path}"))?;
        let mut pinned: Vec<Pinned> = Vec::new();
        for (index, mount) in plan.mounts.iter().enumerate() {
            let MountKind::Merged { shadows, .. } = &mount.kind else { continue };
            for shadow in shadows {
                let Some(cover) = shadow.path.to_str().map(|path| join(&mount.target, path)) else { continue };
                for directory in shadow.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
                    match pinned.iter_mut().find(|have| have.index == index && have.directory == directory) {
                        Some(have) => have.covers.push(cover.clone()),
                        None => pinned.push(Pinned {
                            index,
                            directory: directory.to_owned(),
                            id: identity(index, directory),
                            covers: vec![cover.clone()],
                        }),
                    }
                }
            }
        }
        Ok(Self { namespace, pinned })
    }

    /// Takes the covers off directories of the mount that were replaced since.
    pub fn uncover(&mut self, index: usize) {
        let mut covers = Vec::new();
        for pinned in self.pinned.iter_mut().filter(|pinned| pinned.index == index && !pinned.covers.is_empty()) {
            if identity(index, &pinned.directory) != pinned.id {
                covers.append(&mut pinned.covers);
            }
        }
        if covers.is_empty() {
            return;
        }
        // A child, because this process must stay in its own mount namespace.
        match sys::fork() {
            Ok(ForkResult::Child) => {
                if setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNS).is_ok() {
                    for cover in &covers {
                        // One that is gone already pins nothing.
                        let _ = umount2(cover.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
                    }
                }
                sys::exit_now(0)
            }
            Ok(ForkResult::Parent { child }) => {
                let _ = waitpid(child, None);
            }
            // Then the agent sees the old directory, as before.
            Err(_) => {}
        }
    }
}

fn identity(index: usize, directory: &Path) -> Option<FileId> {
    let path = staged("lower").join(index.to_string()).join(directory);
    identify(open_without_links(&path).ok()?).ok()
}
