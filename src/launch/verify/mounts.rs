//! The container's mount table against the plan and the staging area.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::staging::staged;
use super::{Differences, Facts, below_podman, link};
use crate::bundle::Place;
use crate::error::{Error, Result};
use crate::plan::{Mount, MountEntry, MountKind, Plan, read_mountinfo};

/// What one mount must be.
#[derive(Debug)]
struct Expected {
    device: Option<String>,
    root: Option<String>,
    fstype: Option<String>,
    flags: Vec<String>,
    options: Vec<String>,
}

const FLAGS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// The mount table of the container against the plan and the staging area.
pub(super) fn check_mounts(
    plan: &Plan,
    places: &[Option<Place>],
    facts: &Facts<'_>,
    process: &Path,
    differences: &mut Differences,
) -> Result<usize> {
    let own = facts.staging;
    let kernel = read_mountinfo(&process.join("mountinfo"))?;
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    let mut root = source_of(own, &staged("bundle/rootfs"))?;
    // A writable one keeps the restrictions of the memory that it lies in.
    if plan.root.writable.is_none() {
        root.flags = vec!["ro".to_owned()];
    }
    expected.insert("/".to_owned(), root);
    for (index, mount) in plan.mounts.iter().enumerate() {
        expect(own, mount, places.get(index).and_then(Option::as_ref), &mut expected)?;
    }
    let null = source_of(own, Path::new("/dev/null"))?;
    for path in &plan.masked_paths {
        // The runtime covers a file with /dev/null, a directory with an empty one.
        let device = Path::new(path).is_file().then(|| null.device.clone()).flatten();
        let flags: &[&str] = if device.is_some() { &["ro", "nosuid", "noexec"] } else { &FLAGS };
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        expected.insert(path.clone(), Expected { device, root: None, fstype: None, flags, options: Vec::new() });
    }
    for path in &plan.readonly_paths {
        let below = path.strip_prefix("/proc").map(str::to_owned);
        let flags = FLAGS.map(str::to_owned).to_vec();
        let fstype = Some("proc".to_owned());
        expected.insert(path.clone(), Expected { device: None, root: below, fstype, flags, options: Vec::new() });
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &kernel {
        *seen.entry(&entry.target).or_default() += 1;
        match expected.get(&entry.target) {
            None if below_podman(plan) && hides_more(entry, &null) => {}
            None => differences.add(format!(
                "mount {}: the plan has none, the kernel {} {} ({})",
                entry.target,
                entry.fstype,
                entry.root,
                entry.options.join(",")
            )),
            Some(planned) => compare_mount(entry, planned, differences),
        }
    }
    for target in expected.keys() {
        match seen.get(target.as_str()) {
            None => differences.add(format!("mount {target}: the plan has it, the kernel not")),
            Some(1) => {}
            Some(times) => {
                differences.add(format!("mount {target}: the plan has one, the kernel {times} on top of each other"))
            }
        }
    }
    check_order(&kernel, differences);
    let root_link = link(&process.join("root"))?;
    differences.compare("root directory", "/", root_link);
    Ok(kernel.len())
}

/// Whether the mount only covers something of /proc or /sys: later versions of
/// podman mask more than the plan does.
fn hides_more(entry: &MountEntry, null: &Expected) -> bool {
    let below = ["/proc/", "/sys/"].iter().any(|system| entry.target.starts_with(system));
    let is_null = null.device.as_ref() == Some(&entry.device) && null.root.as_ref() == Some(&entry.root);
    below && (is_null || (entry.fstype == "tmpfs" && entry.root == "/" && entry.has("ro")))
}

/// Each mount lies on the nearest one above it; one that was made earlier than
/// that is covered by it.
fn check_order(kernel: &[MountEntry], differences: &mut Differences) {
    for entry in kernel.iter().filter(|entry| entry.target != "/") {
        let above = kernel
            .iter()
            .filter(|other| other.target != entry.target && Path::new(&entry.target).starts_with(&other.target))
            .max_by_key(|other| other.target.len());
        let on = kernel.iter().find(|other| other.id == entry.parent);
        let name = |mount: Option<&MountEntry>| mount.map_or("nothing", |mount| mount.target.as_str()).to_owned();
        if name(above) != name(on) {
            differences.add(format!(
                "mount {}: the plan has it on {}, the kernel on {}: the order of mounts is another",
                entry.target,
                name(above),
                name(on)
            ));
        }
    }
}

fn compare_mount(entry: &MountEntry, planned: &Expected, differences: &mut Differences) {
    let target = &entry.target;
    let mut wrong = |what: &str, planned: &str, kernel: &str| {
        differences.add(format!("mount {target}: {what}: the plan has `{planned}`, the kernel `{kernel}`"));
    };
    if let Some(device) = planned.device.as_ref().filter(|device| **device != entry.device) {
        wrong("file system", device, &entry.device);
    }
    if let Some(root) = planned.root.as_ref().filter(|root| **root != entry.root) {
        wrong("source", root, &entry.root);
    }
    if let Some(fstype) = planned.fstype.as_ref().filter(|fstype| **fstype != entry.fstype) {
        wrong("type", fstype, &entry.fstype);
    }
    for flag in FLAGS {
        let planned_flag = planned.flags.iter().any(|have| have == flag);
        if planned_flag && !entry.has(flag) {
            wrong("flag", flag, "without it");
        } else if flag == "ro"
            && !planned_flag
            && entry.has(flag)
            && planned.fstype.is_none()
            && planned.device.is_some()
            && !target.starts_with("/proc/")
            && !target.starts_with("/dev/")
        {
            wrong("flag", "rw", "ro");
        }
    }
    for option in &planned.options {
        if !entry.super_options.contains(option) {
            wrong("option", option, &entry.super_options.join(","));
        }
    }
    if entry.propagation.iter().any(|field| field.starts_with("shared:") || field.starts_with("master:")) {
        wrong("propagation", "private", &entry.propagation.join(" "));
    }
}

/// What `path`, in the launcher's view, is a part of.
fn source_of(own: &[MountEntry], path: &Path) -> Result<Expected> {
    let covering = own.iter().filter(|entry| path.starts_with(&entry.target)).max_by_key(|entry| entry.target.len());
    let entry = covering.ok_or_else(|| Error::failed(format!("verify: no mount holds {}", path.display())))?;
    // Of mounts on top of each other the last one is seen.
    let entry = own.iter().rev().find(|other| other.target == entry.target).unwrap_or(entry);
    let rest = path.strip_prefix(&entry.target).unwrap_or(Path::new(""));
    let root = if rest.as_os_str().is_empty() { PathBuf::from(&entry.root) } else { Path::new(&entry.root).join(rest) };
    Ok(Expected {
        device: Some(entry.device.clone()),
        root: Some(root.to_string_lossy().into_owned()),
        fstype: None,
        flags: FLAGS.iter().filter(|flag| entry.has(flag)).map(|flag| (*flag).to_owned()).collect(),
        options: Vec::new(),
    })
}

fn expect(
    own: &[MountEntry],
    mount: &Mount,
    place: Option<&Place>,
    expected: &mut BTreeMap<String, Expected>,
) -> Result<()> {
    let flag = |on: bool, name: &str| on.then(|| name.to_owned());
    let planned: Vec<String> =
        [flag(true, "nosuid"), flag(mount.readonly, "ro"), flag(mount.nodev, "nodev"), flag(mount.noexec, "noexec")]
            .into_iter()
            .flatten()
            .collect();
    let fresh = |fstype: &str, options: Vec<String>| Expected {
        device: None,
        root: Some("/".to_owned()),
        fstype: Some(fstype.to_owned()),
        flags: planned.clone(),
        options,
    };
    let what = match (&mount.kind, place) {
        (MountKind::Tmpfs { .. } | MountKind::Devpts | MountKind::Device, Some(Place::Path(path))) => {
            let mut source = source_of(own, path)?;
            source.flags.extend(planned);
            source
        }
        (MountKind::Proc, _) => fresh("proc", vec!["hidepid=invisible".to_owned()]),
        (MountKind::Devpts, _) => fresh("devpts", vec!["ptmxmode=666".to_owned()]),
        (MountKind::Tmpfs { size, inodes, .. }, _) => {
            fresh("tmpfs", vec![format!("size={}k", size >> 10), format!("nr_inodes={inodes}")])
        }
        (MountKind::Device, _) => {
            let mut device = source_of(own, Path::new(&mount.target))?;
            device.flags = planned;
            device
        }
        (MountKind::Console, _) => Expected {
            device: None,
            root: None,
            fstype: Some("devpts".to_owned()),
            flags: Vec::new(),
            options: Vec::new(),
        },
        (_, Some(Place::Path(path))) => {
            let mut source = source_of(own, path)?;
            source.flags.extend(planned);
            if let MountKind::Bind { submounts, .. } = &mount.kind {
                for submount in submounts {
                    let mut below = source_of(own, &path.join(submount))?;
                    below.flags.extend(source.flags.iter().cloned());
                    expected.insert(crate::plan::join(&mount.target, submount), below);
                }
            }
            source
        }
        _ => {
            return Err(Error::failed(format!("verify: the mount {} has no place", mount.target)));
        }
    };
    expected.insert(mount.target.clone(), what);
    Ok(())
}
