//! The staging area: a tmpfs in the launcher's own mount namespace, into which
//! every mount source is bound before the runtime starts. What lies there
//! cannot be swapped from outside, and is gone with the launcher.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, umask};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::idmap::RUNTIME;
use super::writable;
use crate::backend::{CgroupView, MapsBy};
use crate::bundle::{INIT, Place, write_own_files, write_root, write_shadows};
use crate::config::Backend;
use crate::error::{Context, Error, Result};
use crate::plan::{FileId, Mount, MountKind, Plan, Runtime, identify, open_without_links};
use crate::sys::{self, MountAttributes};

/// Where the staging area is mounted in the launcher's mount namespace: a
/// directory that every host has, that everyone may search, and that neither a
/// runtime nor a mount source needs anything of but `cgroup`, which is mounted
/// anew in it.
pub const STAGING: &str = "/sys/fs";

/// A path in the staging area.
pub fn staged(name: &str) -> PathBuf {
    Path::new(STAGING).join(name)
}

/// Where the overlay of a merged mount is, in the staging area.
pub fn merged(index: usize) -> PathBuf {
    staged("mounts").join(index.to_string())
}

/// Mounts the staging area, a proc of the launcher's process namespace, and a
/// cgroup v2 tree without which crun refuses hosts with hybrid cgroups.
pub fn prepare(runtime: &Runtime) -> Result<()> {
    let none: Option<&str> = None;
    // The agent passes through what is made here, whatever the caller's umask is.
    umask(Mode::from_bits_truncate(0o022));
    // Neither the host's later mounts come in, nor ours go out.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .step(|| "make the launcher's mounts private".to_owned())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("belljar"), STAGING, Some("tmpfs"), flags, Some("mode=0755"))
        .step(|| format!("mount the staging area on {STAGING}"))
        .map_err(|error| error.hint("belljar doctor"))?;
    let all = flags | MsFlags::MS_NOEXEC;
    // Below podman the launcher has no process namespace of its own.
    if runtime.backend != Backend::Podman {
        mount(Some("proc"), "/proc", Some("proc"), all, none)
            .step(|| "mount a proc of the launcher's own".to_owned())
            .map_err(|error| error.hint("inside another container /proc must be unmasked: belljar doctor"))?;
    }
    for name in ["cgroup", "bundle", "bundle/rootfs", "mounts", "lower", "layers", "state"] {
        let path = staged(name);
        DirBuilder::new().mode(0o755).create(&path).step(|| format!("make directory {}", path.display()))?;
    }
    let empty = staged("empty");
    DirBuilder::new().mode(0o000).create(&empty).step(|| format!("make directory {}", empty.display()))?;
    let sealed = runtime.kind.runtime().cgroups() == CgroupView::Sealed;
    let flags = if sealed { all | MsFlags::MS_RDONLY } else { all };
    mount(Some("cgroup2"), &staged("cgroup"), Some("cgroup2"), flags, none)
        .step(|| "mount a cgroup v2 tree in the staging area".to_owned())?;
    if sealed {
        let (file, list) = (staged("cgroup.procs"), staged("cgroup/cgroup.procs"));
        File::create(&file).step(|| format!("make {}", file.display()))?;
        mount(Some(&file), &list, none, MsFlags::MS_BIND, none).step(|| format!("cover {}", list.display()))?;
    }
    Ok(())
}

/// Puts everything of the plan into the staging area; returns where each mount
/// lies. `detached` are mounts that the supervisor, real root, made beforehand.
pub fn fill(plan: &Plan, mut detached: BTreeMap<usize, OwnedFd>) -> Result<Vec<Option<Place>>> {
    if let Some(layer) = plan.root.writable {
        writable::prepare(plan, layer)?;
    }
    write_root(plan, &staged("bundle/rootfs"))?;
    write_own_files(plan, None, &staged("belljar"))?;
    if plan.runtime.staged {
        stage_runtime(plan, detached.remove(&RUNTIME))?;
    }
    if plan.runtime.kind.runtime().maps_by() == MapsBy::Helpers {
        stage_helpers()?;
    }
    let mut places = Vec::with_capacity(plan.mounts.len());
    for (index, mount) in plan.mounts.iter().enumerate() {
        let ready = detached.remove(&index);
        places.push(match &mount.kind {
            MountKind::Bind { source, id, directory, submounts } => {
                let tree = match ready {
                    Some(tree) => tree,
                    None => clone_source(source, *id, !submounts.is_empty())?,
                };
                let target = merged(index);
                attach(&tree, mount, &target, *directory)?;
                Some(Place::Path(target))
            }
            MountKind::Merged { source, id, .. } => {
                let tree = match ready {
                    Some(tree) => tree,
                    None => clone_source(source, Some(*id), false)?,
                };
                Some(Place::Path(merge(plan, index, &tree)?))
            }
            MountKind::Layered { source, id } => {
                let tree = match ready {
                    Some(tree) => tree,
                    None => clone_source(source, Some(*id), false)?,
                };
                Some(Place::Path(writable::layer(plan, index, &tree)?))
            }
            MountKind::Holder => Some(Place::Path(writable::holder(plan, index)?)),
            MountKind::DevNull => Some(Place::Path("/dev/null".into())),
            MountKind::Empty => Some(Place::Path(staged("empty"))),
            MountKind::Generated { .. } => Some(Place::Path(staged("belljar"))),
            _ => None,
        });
    }
    Ok(places)
}

/// Copies what came from the supervisor to where /run/belljar is mounted from.
pub fn add_own_files(names: Vec<String>, files: Vec<OwnedFd>) -> Result<()> {
    for (name, file) in names.into_iter().zip(files) {
        let path = staged("belljar").join(name);
        let step = || format!("write {}", path.display());
        let mut from = File::from(file);
        let mut to = File::create_new(&path).step(step)?;
        io::copy(&mut from, &mut to).step(step)?;
        to.set_permissions(fs::Permissions::from_mode(0o444)).step(step)?;
    }
    Ok(())
}

/// newuidmap and newgidmap: names by which the init does their work.
fn stage_helpers() -> Result<()> {
    let directory = staged("helpers");
    fs::create_dir(&directory).step(|| format!("make directory {}", directory.display()))?;
    let program = directory.join("newuidmap");
    let step = || format!("write {}", program.display());
    fs::write(&program, INIT).step(step)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o555)).step(step)?;
    symlink("newuidmap", directory.join("newgidmap")).step(|| "make the link newgidmap".to_owned())
}

/// Binds the runtime's file read-only into the staging area.
fn stage_runtime(plan: &Plan, ready: Option<OwnedFd>) -> Result<()> {
    let path = &plan.runtime.path;
    let tree = match ready {
        Some(tree) => tree,
        None => clone_source(path, None, false)?,
    };
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
        private: true,
        ..MountAttributes::default()
    };
    sys::mount_setattr(&tree, attributes).step(|| format!("make {} read-only for the run", path.display()))?;
    let target = staged("runtime");
    File::create(&target).step(|| format!("make {}", target.display()))?;
    move_to(&tree, &target).step(|| "stage the runtime".to_owned())
}

/// Attaches a detached mount at `target` (move_mount(2)).
pub fn move_to(tree: &OwnedFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A detached copy of the mount of `source`, which must still be the file that
/// the plan saw.
pub fn clone_source(source: &Path, id: Option<FileId>, recursive: bool) -> Result<OwnedFd> {
    let changed = |why: String| {
        Error::refused(format!("mount {}", source.display()))
            .because(why)
            .hint("another process is changing the path; run again when it has settled")
    };
    let file = open_without_links(source).map_err(|error| changed(format!("it could not be opened again: {error}")))?;
    let now = identify(&file).map_err(|error| changed(error.to_string()))?;
    if id.is_some_and(|id| id != now) {
        return Err(changed("it is not the file that was checked: something else was put in its place".to_owned()));
    }
    clone_tree(&file, source, recursive)
}

/// A detached copy of the mount that `file` is on, from `file` on (open_tree(2)).
pub fn clone_tree(file: impl AsFd, source: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(file, "", flags).step(|| format!("copy the mount of {}", source.display()))
}

/// The restrictions of a mount of the host, as `MOUNT_ATTR_*` bits. Under a
/// layer it is read-only, whatever may be written into the layer.
fn restrictions(mount: &Mount) -> u64 {
    let is_lower = matches!(mount.kind, MountKind::Layered { .. });
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    libc::MOUNT_ATTR_NOSUID
        | bit(mount.readonly || is_lower, libc::MOUNT_ATTR_RDONLY)
        | bit(mount.nodev, libc::MOUNT_ATTR_NODEV)
        | bit(mount.noexec, libc::MOUNT_ATTR_NOEXEC)
}

/// Gives a detached copy the restrictions of its mount, and takes it out of the
/// host's propagation.
pub fn restrict(tree: &OwnedFd, mount: &Mount) -> Result<()> {
    let attributes =
        MountAttributes { set: restrictions(mount), private: true, recursive: true, ..MountAttributes::default() };
    sys::mount_setattr(tree, attributes).step(|| format!("restrict the mount of {}", mount.target))
}

pub fn attach(tree: &OwnedFd, mount: &Mount, target: &Path, directory: bool) -> Result<()> {
    restrict(tree, mount)?;
    if directory {
        fs::create_dir(target).step(|| format!("make directory {}", target.display()))?;
    } else {
        File::create(target).step(|| format!("make {}", target.display()))?;
    }
    move_to(tree, target).step(|| format!("stage the mount of {}", mount.target))
}

/// An overlay of the shadows over the directory, read-only. Without an upper
/// layer nothing can be written through it, and the host cannot detach what is
/// mounted on its names.
fn merge(plan: &Plan, index: usize, tree: &OwnedFd) -> Result<PathBuf> {
    let lower = staged("lower").join(index.to_string());
    attach(tree, &plan.mounts[index], &lower, true)?;
    let layer = staged("layers").join(index.to_string());
    fs::create_dir(&layer).step(|| format!("make directory {}", layer.display()))?;
    write_shadows(plan, index, &layer, &lower, plan.identity.in_launcher)?;
    let target = merged(index);
    fs::create_dir(&target).step(|| format!("make directory {}", target.display()))?;
    let options = format!("lowerdir={}:{},userxattr", layer.display(), lower.display());
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str()))
        .step(|| format!("merge the shadows over {}", plan.mounts[index].target))
        .map_err(|error| error.hint("overlays in user namespaces need Linux 5.11 or later: belljar doctor"))?;
    Ok(target)
}

/// Drops the names that the overlay has cached, so that the agent sees what the
/// host has saved since (reconfiguring shrinks the superblock's dentries).
pub fn refresh(index: usize) -> nix::Result<()> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, &merged(index), none, flags, none)
}
