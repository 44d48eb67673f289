//! The root that can be written: a tmpfs with limits in the staging area, which
//! holds the generated root and the layers over the root's own directories. It
//! is gone with the launcher; nothing under a layer is ever written.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, Uid, chown};

use super::staging::{attach, merged, staged};
use crate::bundle::{write_holder, write_layer};
use crate::error::{Context, Result};
use crate::plan::{Plan, WritableRoot};

const FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Mounts the tmpfs, and a directory of it, which the agent owns, as the root.
pub fn prepare(plan: &Plan, limits: WritableRoot) -> Result<()> {
    let all = staged("writable");
    let none: Option<&str> = None;
    directory(&all)?;
    let options = format!("mode=0755,size={},nr_inodes={}", limits.size, limits.inodes);
    mount(Some("belljar"), &all, Some("tmpfs"), FLAGS, Some(options.as_str()))
        .step(|| "mount the memory for a writable root".to_owned())?;
    let root = all.join("root");
    directory(&root)?;
    let agent = plan.identity.in_launcher;
    chown(&root, Some(Uid::from_raw(agent)), Some(Gid::from_raw(agent)))
        .step(|| format!("chown {}", root.display()))?;
    mount(Some(&root), &staged("bundle/rootfs"), none, MsFlags::MS_BIND, none)
        .step(|| "bind the writable root".to_owned())
}

/// An overlay with a layer of the run's own over the directory in `tree`.
pub fn layer(plan: &Plan, index: usize, tree: &OwnedFd) -> Result<PathBuf> {
    let planned = &plan.mounts[index];
    let lower = staged("lower").join(index.to_string());
    attach(tree, planned, &lower, true)?;
    let (upper, work) = (own("upper", index), own("work", index));
    directory(&upper)?;
    directory(&work)?;
    write_layer(plan, index, &upper, &lower)?;
    let target = merged(index);
    directory(&target)?;
    let options =
        format!("lowerdir={},upperdir={},workdir={},userxattr", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &target, Some("overlay"), FLAGS, Some(options.as_str()))
        .step(|| format!("put a layer over {}", planned.target))
        .map_err(|error| error.hint("overlays in user namespaces need Linux 5.11 or later: belljar doctor"))?;
    Ok(target)
}

/// A directory of the generated root that is a mount by itself.
pub fn holder(plan: &Plan, index: usize) -> Result<PathBuf> {
    let path = own("holder", index);
    directory(&path)?;
    write_holder(plan, index, &path)?;
    Ok(path)
}

fn own(what: &str, index: usize) -> PathBuf {
    staged("writable").join(format!("{what}-{index}"))
}

fn directory(path: &Path) -> Result<()> {
    fs::create_dir(path).step(|| format!("make directory {}", path.display()))
}
