//! What `--disk` and `--io` mean for the mounts of a plan.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::mounts::Mounts;
use super::{Limit, Limits, Mount, MountKind, read_mountinfo};
use crate::error::{Error, Result};

impl Limits {
    /// Name and reason of each limit that was asked for and is not in force.
    pub fn not_in_force(&self) -> impl Iterator<Item = (&'static str, &str)> {
        fn why<T>(limit: &Option<Limit<T>>) -> Option<&str> {
            limit.as_ref().filter(|limit| !limit.enforced).map(|limit| limit.by.as_str())
        }
        let all =
            [("memory", why(&self.memory_bytes)), ("cpus", why(&self.cpus)), ("io", why(&self.io_bytes_per_second))];
        all.into_iter().filter_map(|(name, reason)| Some((name, reason?)))
    }

    /// Makes each private tmpfs as small as `--disk` says, and finds the devices
    /// for `--io`.
    pub(super) fn apply_to(&mut self, mounts: &mut Mounts) -> Result<()> {
        if let Some(disk) = &self.disk_bytes {
            for mount in &mut mounts.list {
                if let MountKind::Tmpfs { size, .. } = &mut mount.kind {
                    *size = (*size).min(disk.value);
                }
            }
        }
        if self.disk_bytes.is_some() {
            let mut written = mounts.list.iter().filter(|mount| !mount.readonly).filter_map(source_of);
            written.try_for_each(check_room)?;
        }
        if self.io_bytes_per_second.as_ref().is_some_and(|limit| limit.enforced) {
            self.io_devices = devices(mounts.list.iter().filter_map(source_of))?;
        }
        Ok(())
    }
}

/// The path of the host behind a mount.
pub fn source_of(mount: &Mount) -> Option<&Path> {
    match &mount.kind {
        MountKind::Bind { source, .. } | MountKind::Merged { source, .. } | MountKind::Layered { source, .. } => {
            Some(source)
        }
        _ => None,
    }
}

/// Of a file system of this many bytes, as many must stay free: others need them.
pub fn floor_of(size: u64) -> u64 {
    (size / 20).min(1 << 30)
}

/// Refuses a run that its guard would end at once.
fn check_room(path: &Path) -> Result<()> {
    let Some(its) = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok()) else {
        return Ok(());
    };
    let (free, floor) = (its.f_bavail * its.f_frsize, floor_of(its.f_blocks * its.f_frsize));
    if free >= floor {
        return Ok(());
    }
    Err(Error::refused(format!("--disk: the file system of {} is nearly full", path.display()))
        .because(format!("{free} bytes are free, and {floor} must stay free"))
        .hint(format!("df -h {}", path.display())))
}

/// The disks behind these paths, as `major:minor`; those of file systems without
/// one, such as tmpfs, are not limited by bytes per second.
fn devices<'a>(sources: impl Iterator<Item = &'a Path>) -> Result<Vec<String>> {
    let mut found: Vec<String> = sources.filter_map(device_of).collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err(Error::refused("--io: behind none of the mounts is a disk that the kernel can limit")
            .because("overlays and file systems of a network have none of their own")
            .hint("leave --io out"));
    }
    Ok(found)
}

/// The disk behind a path; of a path that is not there yet, behind the directory
/// in which it will be made.
fn device_of(path: &Path) -> Option<String> {
    let meta = path.ancestors().find_map(|path| fs::metadata(path).ok())?;
    let device = match major(meta.dev()) {
        // File systems of several devices have a number that is no device's own.
        0 => fs::metadata(mounted_from(meta.dev())?).ok()?.rdev(),
        _ => meta.dev(),
    };
    let own = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let own = fs::canonicalize(own).ok()?;
    // A limit is for a whole disk (cgroup-v2, io.max).
    let disk = if own.join("partition").exists() { own.parent()?.to_owned() } else { own };
    Some(fs::read_to_string(disk.join("dev")).ok()?.trim().to_owned())
}

/// The block device that a mounted file system names as its source.
fn mounted_from(device: u64) -> Option<PathBuf> {
    let device = format!("{}:{}", major(device), minor(device));
    let mounts = read_mountinfo(Path::new("/proc/self/mountinfo")).ok()?;
    let source = mounts.into_iter().find(|entry| entry.device == device)?.source;
    source.starts_with("/dev/").then(|| PathBuf::from(source))
}
