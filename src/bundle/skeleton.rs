//! Writes what belljar generates: the root's own files and mount targets, and
//! the upper layers of merged mounts. Only below a directory that was made for
//! this, where nobody else can plant a link.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid, chown};

use crate::error::{Context, Result};
use crate::plan::{Content, Mount, MountKind, Plan, Shadow, ShadowKind};

/// Permission bits of a hidden directory: nobody may read it.
const UNREADABLE: u32 = 0o000;

/// Makes the root below `root`: generated entries, and a target for each mount
/// that does not lie in another one that brings or gets its own.
pub fn write_root(plan: &Plan, root: &Path) -> Result<()> {
    let top_level: Vec<&Mount> = plan.mounts.iter().filter(|mount| mount_above(plan, mount).is_none()).collect();
    for mount in top_level {
        let target = below(root, &mount.target);
        if is_directory(&mount.kind) {
            directory(&target)?;
        } else {
            file(&target, b"")?;
        }
    }
    for entry in &plan.root.generated {
        if merged_above(plan, &entry.path).is_none() {
            generate(&below(root, &entry.path), &entry.content)?;
        }
    }
    Ok(())
}

/// Makes the upper layer of a merged mount below `layer`: a placeholder for each
/// shadow, in directories with the mode of the merged ones, and the generated
/// files that lie under the mount. `lower` is the merged directory as this
/// process sees it; `owner` owns what is made.
pub fn write_shadows(plan: &Plan, index: usize, layer: &Path, lower: &Path, owner: u32) -> Result<()> {
    let mount = &plan.mounts[index];
    let MountKind::Merged { shadows, .. } = &mount.kind else {
        return Ok(());
    };
    like(layer, lower, owner)?;
    for shadow in shadows {
        write_shadow(layer, lower, shadow, owner)?;
    }
    for entry in &plan.root.generated {
        if merged_above(plan, &entry.path) == Some(index) {
            let inside = entry.path[mount.target.len()..].trim_start_matches('/');
            generate(&layer.join(inside), &entry.content)?;
        }
    }
    Ok(())
}

fn write_shadow(layer: &Path, lower: &Path, shadow: &Shadow, owner: u32) -> Result<()> {
    let mut way = PathBuf::new();
    for component in shadow.path.parent().into_iter().flat_map(Path::components) {
        way.push(component);
        let step = layer.join(&way);
        if !step.exists() {
            directory(&step)?;
            like(&step, &lower.join(&way), owner)?;
        }
    }
    let path = layer.join(&shadow.path);
    if shadow.kind == ShadowKind::Directory {
        directory(&path)?;
        return set(&path, UNREADABLE, owner);
    }
    file(&path, b"")?;
    set(&path, 0o444, owner)
}

/// Gives `made` the permission bits of `model`, so that a merged directory is as
/// open as the one it covers, and no more. Set-id bits mean nothing there.
fn like(made: &Path, model: &Path, owner: u32) -> Result<()> {
    let mode = fs::symlink_metadata(model).map_or(0o755, |meta| meta.mode());
    set(made, mode & 0o1777, owner)
}

fn set(path: &Path, mode: u32, owner: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).step(|| format!("chmod {}", path.display()))?;
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() != owner) {
        chown(path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
            .step(|| format!("chown {}", path.display()))?;
    }
    Ok(())
}

/// The mount, not a bind of host files with its own entries, in which `mount`
/// lies: its target is made there, by the runtime or by the source.
fn mount_above<'a>(plan: &'a Plan, mount: &Mount) -> Option<&'a Mount> {
    let inside = |other: &&Mount| other.target != mount.target && Path::new(&mount.target).starts_with(&other.target);
    plan.mounts.iter().find(inside)
}

fn merged_above(plan: &Plan, path: &str) -> Option<usize> {
    plan.mounts
        .iter()
        .position(|mount| matches!(mount.kind, MountKind::Merged { .. }) && Path::new(path).starts_with(&mount.target))
}

/// Whether the mount's target is a directory.
fn is_directory(kind: &MountKind) -> bool {
    match kind {
        MountKind::Bind { directory, .. } | MountKind::Generated { directory } => *directory,
        MountKind::DevNull | MountKind::Device | MountKind::Console => false,
        MountKind::Merged { .. } | MountKind::Empty | MountKind::Tmpfs { .. } | MountKind::Proc | MountKind::Devpts => {
            true
        }
    }
}

/// `path`, absolute inside, below `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect::<PathBuf>())
}

fn generate(path: &Path, content: &Content) -> Result<()> {
    match content {
        Content::Directory => directory(path),
        Content::Text(text) => file(path, text.as_bytes()),
        Content::Link(target) => {
            parents(path)?;
            symlink(target, path).step(|| format!("make the link {}", path.display()))
        }
        Content::Copy(from) => {
            parents(path)?;
            let copy = || -> io::Result<()> {
                io::copy(&mut File::open(from)?, &mut File::create(path)?)?;
                Ok(())
            };
            copy().step(|| format!("copy {} to {}", from.display(), path.display()))
        }
    }
}

fn parents(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), directory)
}

fn directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).step(|| format!("make directory {}", path.display()))
}

fn file(path: &Path, content: &[u8]) -> Result<()> {
    parents(path)?;
    fs::write(path, content).step(|| format!("write {}", path.display()))
}
