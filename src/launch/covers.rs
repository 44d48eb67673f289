//! What runtimes do differently with the same plan is made equal, in the
//! container, before it is verified: the flags of what covers parts of /proc and
//! of the devices, the modes of the private filesystems, and the mounts that
//! podman insists on.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};

use crate::error::{Context, Result};
use crate::plan::{Mount, MountKind, Plan};
use crate::sys::{self, MountAttributes};

/// podman 5 makes it read-only where it mounts no tmpfs of its own.
const DEV: &str = "/dev";
/// Flags of everything that is covered; and `nodev` where that is no device.
const ALL: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

/// Makes the container of `init` equal, whose agent has not begun; `extra` are
/// mounts that are taken away, the uppermost last. The launcher goes into its
/// mount namespace for that, and comes back.
pub fn make_equal(plan: &Plan, init: Pid, extra: &[&str]) -> Result<()> {
    let open = |path: &str| File::open(path).step(|| format!("open {path}"));
    let (own, its) = (open("/proc/self/ns/mnt")?, open(&format!("/proc/{init}/ns/mnt"))?);
    setns(&its, CloneFlags::CLONE_NEWNS).step(|| "enter the container's mount namespace".to_owned())?;
    let done = make_equal_here(plan, extra);
    setns(&own, CloneFlags::CLONE_NEWNS).step(|| "come back from the container's mount namespace".to_owned())?;
    done
}

fn make_equal_here(plan: &Plan, extra: &[&str]) -> Result<()> {
    for path in extra.iter().rev() {
        umount2(*path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .step(|| format!("take away the mount of {path}, which the plan does not have"))?;
    }
    if plan.mounts.iter().any(|mount| mount.target == DEV && !mount.readonly) {
        let step = || format!("let {DEV} be written");
        let dev = open(DEV, OFlags::PATH).step(step)?;
        change(&dev, MountAttributes { clear: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() }).step(step)?;
    }
    plan.mounts.iter().try_for_each(give_mode)?;
    let devices = plan.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Device));
    let devices = devices.map(|mount| (&mount.target, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC));
    let covered = plan.masked_paths.iter().chain(&plan.readonly_paths).map(|path| (path, ALL));
    devices.chain(covered).try_for_each(|(path, flags)| restrict(path, flags))
}

/// Gives a private filesystem the mode of the plan: runc before 1.2 gives it the
/// mode of the directory that it covers, an open `/tmp` among them.
fn give_mode(mount: &Mount) -> Result<()> {
    let MountKind::Tmpfs { mode, .. } = mount.kind else {
        return Ok(());
    };
    let step = || format!("give {} the mode {mode:o}", mount.target);
    let root = open(&mount.target, OFlags::RDONLY | OFlags::DIRECTORY).step(step)?;
    let is_private = rustix::fs::fstatfs(&root).step(step)?.f_type == libc::TMPFS_MAGIC;
    let found = Mode::from_raw_mode(rustix::fs::fstat(&root).step(step)?.st_mode);
    if is_private && found.as_raw_mode() != mode {
        rustix::fs::fchmod(&root, Mode::from_raw_mode(mode)).step(step)?;
    }
    Ok(())
}

fn restrict(path: &str, flags: u64) -> Result<()> {
    let step = || format!("restrict what is mounted at {path}");
    let file = open(path, OFlags::PATH).step(step)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file).step(step)?.st_mode);
    // `nodev` on a device would make opening it fail.
    let nodev = if kind.is_char_device() { 0 } else { libc::MOUNT_ATTR_NODEV };
    change(&file, MountAttributes { set: flags | nodev, ..MountAttributes::default() }).step(step)
}

fn change(file: &OwnedFd, attributes: MountAttributes) -> std::io::Result<()> {
    match sys::mount_setattr(file, attributes) {
        // Nothing is mounted there: verify says so, with everything else that is missing.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        done => done,
    }
}

fn open(path: &str, how: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, how | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
