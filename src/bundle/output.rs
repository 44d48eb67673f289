//! `belljar bundle`: the plan as a self-contained bundle that a plain runtime
//! runs. It has no launcher and no handshake: what a plain runtime does with it
//! is not verified.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{INIT, Place, Places, render, write_root, write_shadows};
use crate::config::create_private;
use crate::error::{Context, Error, Result};
use crate::plan::{MountKind, Plan};

/// Writes the bundle into `output`, which must be empty or not there.
pub fn write_bundle(plan: &Plan, output: &Path) -> Result<()> {
    let shown = output.display();
    if fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::refused(format!("--output {shown} is not empty"))
            .hint(format!("rm -r '{shown}', or name another directory")));
    }
    create_private(output)?;
    let output = output.canonicalize().step(|| format!("open {shown}"))?;
    // The container's root user is not mapped: it must pass this directory as another.
    let open = |path: &Path| {
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .step(|| format!("chmod {}", path.display()))
    };
    open(&output)?;
    let root = output.join("rootfs");
    create_private(&root)?;
    open(&root)?;
    write_root(plan, &root)?;
    let own = output.join("belljar");
    write_own_files(plan, &own)?;
    let mut mounts = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        mounts.push(match &mount.kind {
            MountKind::Bind { source, .. } => Some(Place::Path(source.clone())),
            MountKind::Merged { source, .. } => {
                let layer = output.join("shadows").join(index.to_string());
                create_private(&layer)?;
                let owner = nix::unistd::geteuid().as_raw();
                write_shadows(plan, index, &layer, source, owner)?;
                Some(Place::Layers(vec![layer, source.clone()]))
            }
            MountKind::DevNull => Some(Place::Path("/dev/null".into())),
            MountKind::Empty => {
                let empty = output.join("empty");
                create_private(&empty)?;
                fs::set_permissions(&empty, Permissions::from_mode(0))
                    .step(|| format!("chmod {}", empty.display()))?;
                Some(Place::Path(empty))
            }
            MountKind::Generated { .. } => Some(Place::Path(own.clone())),
            _ => None,
        });
    }
    let places = Places {
        root: "rootfs".into(),
        mounts,
        handshake: "-".to_owned(),
        mapped_to: plan.identity.host_uid,
        own_network: true,
        window: None,
    };
    let spec = render(plan, &places)?;
    let config = output.join("config.json");
    let text = serde_json::to_string_pretty(&spec).step(|| "render config.json".to_owned())?;
    fs::write(&config, text + "\n").step(|| format!("write {}", config.display()))?;
    let plan_file = output.join("plan.json");
    fs::write(&plan_file, plan.canonical() + "\n").step(|| format!("write {}", plan_file.display()))
}

/// What is at /run/belljar inside: the init, and the plan for the agent to read.
pub fn write_own_files(plan: &Plan, directory: &Path) -> Result<()> {
    create_private(directory)?;
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode))
            .step(|| format!("chmod {}", path.display()))
    };
    mode(directory, 0o755)?;
    let init = directory.join("init");
    fs::write(&init, INIT).step(|| format!("write {}", init.display()))?;
    mode(&init, 0o555)?;
    let summary = directory.join("summary.txt");
    fs::write(&summary, plan.summary()).step(|| format!("write {}", summary.display()))?;
    mode(&summary, 0o444)
}
