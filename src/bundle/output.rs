//! `belljar bundle`: the plan as a self-contained bundle that a plain runtime
//! runs. It has no launcher and no handshake: what a plain runtime does with it
//! is not verified.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use super::{INIT, Place, Places, render, write_root, write_shadows};
use crate::config::create_private;
use crate::error::{Context, Error, Result};
use crate::gateway::Trust;
use crate::plan::{FileOwnership, IdMap, Identity, Mount, MountKind, Plan};

/// Writes the bundle into `output`, which must be empty or not there.
pub fn write_bundle(plan: &Plan, trust: Option<&Trust>, output: &Path) -> Result<()> {
    let shown = output.display();
    if plan.root.writable.is_some() {
        return Err(Error::refused("belljar bundle --writable-root")
            .because("what is written into the root goes into memory that belljar's launcher gives to one run, and a plain runtime has no such place")
            .hint("belljar run --writable-root, or the bundle without it (writable_root in config.toml)"));
    }
    if fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::refused(format!("--output {shown} is not empty"))
            .hint(format!("rm -r '{shown}', or name another directory")));
    }
    create_private(output)?;
    let output = output.canonicalize().step(|| format!("open {shown}"))?;
    open_directory(&output)?;
    let root = output.join("rootfs");
    open_directory(&root)?;
    write_root(plan, &root)?;
    let own = output.join("belljar");
    write_own_files(plan, trust, &own)?;
    let mut mounts = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        mounts.push(place(plan, index, mount, &output)?);
    }
    let places = Places {
        root: "rootfs".into(),
        mounts,
        handshake: "-".to_owned(),
        maps: plain_maps(&plan.identity),
        own_network: true,
        open_files: None,
        window: None,
    };
    let spec = render(plan, &places)?;
    let config = output.join("config.json");
    let text = serde_json::to_string_pretty(&spec).step(|| "render config.json".to_owned())?;
    fs::write(&config, text + "\n").step(|| format!("write {}", config.display()))?;
    let plan_file = output.join("plan.json");
    fs::write(&plan_file, plan.canonical() + "\n").step(|| format!("write {}", plan_file.display()))
}

/// The maps for a plain runtime. Root has an id to spare for the container's 0,
/// which runc needs mapped.
fn plain_maps(identity: &Identity) -> Vec<IdMap> {
    let one = |inside, outside| IdMap { inside, outside, count: 1 };
    let spare = identity.spare.map(|spare| one(0, spare));
    spare.into_iter().chain([one(identity.inside, identity.host_uid)]).collect()
}

/// Where the mount lies for a plain runtime. As root nobody makes detached
/// id-mapped mounts for it, and an overlay cannot map: there a project is an
/// id-mapped bind with its shadows on top.
fn place(plan: &Plan, index: usize, mount: &Mount, output: &Path) -> Result<Option<Place>> {
    let is_root = plan.identity.files == FileOwnership::Idmapped;
    let mapped = |path: &Path| -> Result<Place> {
        let meta = fs::metadata(path).step(|| format!("stat {}", path.display()))?;
        Ok(Place::Mapped { path: path.to_owned(), owner: (meta.uid(), meta.gid()), to: plan.identity.host_uid })
    };
    Ok(match &mount.kind {
        MountKind::Bind { source, .. } if is_root && !plan.is_system(mount) => Some(mapped(source)?),
        MountKind::Bind { source, .. } => Some(Place::Unstaged(source.clone())),
        MountKind::Merged { source, .. } if is_root && !plan.is_system(mount) => Some(mapped(source)?),
        MountKind::Merged { source, .. } => {
            let layer = output.join("shadows").join(index.to_string());
            open_directory(&output.join("shadows"))?;
            open_directory(&layer)?;
            write_shadows(plan, index, &layer, source, nix::unistd::geteuid().as_raw())?;
            if is_root {
                // The container's ids may not reach the source, which an overlay asks.
                copy_missing(source, &layer)?;
                return Ok(Some(Place::Unstaged(layer)));
            }
            Some(Place::Layers(vec![layer, source.clone()]))
        }
        MountKind::DevNull if is_root && covers_nothing(plan, &mount.target) => Some(Place::LeftOut),
        MountKind::DevNull => Some(Place::Unstaged("/dev/null".into())),
        MountKind::Empty => {
            let empty = output.join("empty");
            create_private(&empty)?;
            fs::set_permissions(&empty, Permissions::from_mode(0o000)).step(|| format!("chmod {}", empty.display()))?;
            Some(Place::Unstaged(empty))
        }
        MountKind::Generated { .. } => Some(Place::Unstaged(output.join("belljar"))),
        _ => None,
    })
}

/// Whether the shadow at `target` keeps a name free that is not there yet.
fn covers_nothing(plan: &Plan, target: &str) -> bool {
    plan.mounts.iter().any(|mount| match &mount.kind {
        MountKind::Merged { source, .. } => {
            let below = Path::new(target).strip_prefix(&mount.target).ok();
            below.is_some_and(|below| fs::symlink_metadata(source.join(below)).is_err())
        }
        _ => false,
    })
}

/// Copies the files, links and directories of `source` that `target` does not
/// have, with their modes and owners.
fn copy_missing(source: &Path, target: &Path) -> Result<()> {
    let step = || format!("copy {} to {}", source.display(), target.display());
    for entry in fs::read_dir(source).step(step)? {
        let entry = entry.step(step)?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let step = || format!("copy {} to {}", from.display(), to.display());
        let meta = entry.metadata().step(step)?;
        let there = fs::symlink_metadata(&to);
        if meta.is_dir() && there.as_ref().map_or(true, fs::Metadata::is_dir) {
            if there.is_err() {
                open_directory(&to)?;
                lchown(&to, Some(meta.uid()), Some(meta.gid())).step(step)?;
                fs::set_permissions(&to, Permissions::from_mode(meta.mode() & 0o1777)).step(step)?;
            }
            copy_missing(&from, &to)?;
        } else if there.is_err() && meta.is_symlink() {
            symlink(fs::read_link(&from).step(step)?, &to).step(step)?;
        } else if there.is_err() && meta.is_file() {
            fs::copy(&from, &to).step(step)?;
            lchown(&to, Some(meta.uid()), Some(meta.gid())).step(step)?;
        }
    }
    Ok(())
}

/// Opens the group's own directories for root's bundles: a runtime without
/// id-mapped mounts (runc before 1.2) gives them to an agent that does not own
/// them. Nobody else reaches them, because `closed` above them is closed; they
/// stay as they are where it is not.
pub fn open_group(directories: &[PathBuf], closed: &Path) -> Result<()> {
    let meta = fs::metadata(closed).step(|| format!("stat {}", closed.display()))?;
    if meta.mode() & 0o077 != 0 {
        return Ok(());
    }
    for directory in directories.iter().filter(|directory| directory.starts_with(closed)) {
        fs::set_permissions(directory, Permissions::from_mode(0o777))
            .step(|| format!("chmod {}", directory.display()))?;
    }
    Ok(())
}

/// Makes a directory that the container's ids, which own nothing here, may pass.
fn open_directory(path: &Path) -> Result<()> {
    create_private(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).step(|| format!("chmod {}", path.display()))
}

/// What is at /run/belljar inside: the init, the plan for the agent to read, and
/// whom its programs trust.
pub fn write_own_files(plan: &Plan, trust: Option<&Trust>, directory: &Path) -> Result<()> {
    create_private(directory)?;
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).step(|| format!("chmod {}", path.display()))
    };
    mode(directory, 0o755)?;
    let init = directory.join("init");
    fs::write(&init, INIT).step(|| format!("write {}", init.display()))?;
    mode(&init, 0o555)?;
    let summary = directory.join("summary.txt");
    fs::write(&summary, plan.summary()).step(|| format!("write {}", summary.display()))?;
    mode(&summary, 0o444)?;
    for (name, content) in trust.map(Trust::files).into_iter().flatten() {
        let path = directory.join(name);
        fs::write(&path, content).step(|| format!("write {}", path.display()))?;
        mode(&path, 0o444)?;
    }
    Ok(())
}
