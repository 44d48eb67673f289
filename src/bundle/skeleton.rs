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
    write_targets(plan, None, root)
}

/// Makes what lies in the holder at `index`, below `directory`: generated
/// entries and targets, as in the root.
pub fn write_holder(plan: &Plan, index: usize, directory: &Path) -> Result<()> {
    write_targets(plan, Some(index), directory)
}

/// In the root, or in one of its directories that is a mount by itself.
fn write_targets(plan: &Plan, holder: Option<usize>, base: &Path) -> Result<()> {
    let prefix = holder.map_or("/", |index| &plan.mounts[index].target);
    for mount in plan.mounts.iter().filter(|mount| mount_above(plan, mount) == Some(holder)) {
        let target = below(base, prefix, &mount.target);
        if is_directory(&mount.kind) {
            directory(&target)?;
        } else {
            file(&target, b"")?;
        }
    }
    for entry in plan.root.generated.iter().filter(|entry| carrier(plan, &entry.path) == holder) {
        generate(&below(base, prefix, &entry.path), &entry.content)?;
    }
    Ok(())
}

/// Makes what belljar has in the layer of the mount at `index`, below `layer`:
/// the generated files that lie under the mount, and the directories that are
/// open to everybody, which could not be copied where their owner is not mapped.
/// `lower` is the directory as this process sees it; no link in it is followed.
pub fn write_layer(plan: &Plan, index: usize, layer: &Path, lower: &Path) -> Result<()> {
    let model = fs::symlink_metadata(lower).step(|| format!("stat {}", lower.display()))?;
    let own = nix::unistd::geteuid().as_raw();
    let owner = |id: u32| if id == UNMAPPED { own } else { id };
    chown(layer, Some(Uid::from_raw(owner(model.uid()))), Some(Gid::from_raw(owner(model.gid()))))
        .step(|| format!("chown {}", layer.display()))?;
    let open = model.mode() & 0o1777;
    fs::set_permissions(layer, Permissions::from_mode(open)).step(|| format!("chmod {}", layer.display()))?;
    for entry in fs::read_dir(lower).step(|| format!("read {}", lower.display()))? {
        let entry = entry.step(|| format!("read {}", lower.display()))?;
        let meta = entry.metadata().step(|| format!("stat {}", entry.path().display()))?;
        if meta.is_dir() && meta.mode() & 0o002 != 0 && (meta.uid() == UNMAPPED || meta.gid() == UNMAPPED) {
            let path = layer.join(entry.file_name());
            directory(&path)?;
            like(&path, &entry.path(), own)?;
        }
    }
    generate_below(plan, index, layer)
}

/// What an id is seen as that the user namespace does not map (proc(5),
/// overflowuid).
const UNMAPPED: u32 = 65_534;

fn generate_below(plan: &Plan, index: usize, layer: &Path) -> Result<()> {
    let entries = plan.root.generated.iter().filter(|entry| carrier(plan, &entry.path) == Some(index));
    entries
        .into_iter()
        .try_for_each(|entry| generate(&below(layer, &plan.mounts[index].target, &entry.path), &entry.content))
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
    generate_below(plan, index, layer)
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

/// In what belljar has to make the mount's target: the root (`Some(None)`) or a
/// holder. `None` where it is made by the runtime or by the source: the mount
/// lies in another that brings or gets its own.
fn mount_above(plan: &Plan, mount: &Mount) -> Option<Option<usize>> {
    let is_above = |other: &Mount| other.target != mount.target && Path::new(&mount.target).starts_with(&other.target);
    let mut above = (0..plan.mounts.len()).filter(|index| is_above(&plan.mounts[*index]));
    match (above.next(), above.next()) {
        (None, _) => Some(None),
        (Some(index), None) if matches!(plan.mounts[index].kind, MountKind::Holder) => Some(Some(index)),
        _ => None,
    }
}

/// The mount whose own files belljar makes, in which `path` lies; otherwise it
/// lies in the root.
fn carrier(plan: &Plan, path: &str) -> Option<usize> {
    plan.mounts.iter().position(|mount| {
        matches!(mount.kind, MountKind::Merged { .. } | MountKind::Layered { .. } | MountKind::Holder)
            && Path::new(path).starts_with(&mount.target)
    })
}

/// Whether the mount's target is a directory.
fn is_directory(kind: &MountKind) -> bool {
    match kind {
        MountKind::Bind { directory, .. } | MountKind::Generated { directory } => *directory,
        MountKind::DevNull | MountKind::Device | MountKind::Console => false,
        MountKind::Merged { .. }
        | MountKind::Layered { .. }
        | MountKind::Holder
        | MountKind::Empty
        | MountKind::Tmpfs { .. }
        | MountKind::Proc
        | MountKind::Devpts => true,
    }
}

/// `path`, absolute inside, in `base`, which is at `prefix` inside.
fn below(base: &Path, prefix: &str, path: &str) -> PathBuf {
    let rest = Path::new(path).strip_prefix(prefix).unwrap_or(Path::new(path));
    base.join(rest.components().filter(|part| matches!(part, Component::Normal(_))).collect::<PathBuf>())
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
