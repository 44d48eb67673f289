//! Opening a path without following a link: openat2(2), and where that is not
//! to be had the same by single steps. systemd's RestrictSUIDSGID=, which
//! DynamicUser= implies, takes openat2 away (systemd.exec(5)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, openat, openat2, statx};
use rustix::io::Errno;

/// Opens an absolute path as O_PATH. A symbolic link anywhere gives ELOOP.
pub fn open_without_links(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(CWD, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => absolute_by_steps(path, flags),
        opened => opened,
    }
}

/// Opens a directory below `root`, or `root` itself for the empty path, for
/// reading. A symbolic link anywhere gives ELOOP, another mount EXDEV.
pub fn open_directory_beneath(root: BorrowedFd<'_>, relative: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => by_steps(root, path, flags, Some(mount_id(root)?)),
        opened => opened,
    }
}

fn absolute_by_steps(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let top = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let below = path.strip_prefix("/").map_err(|_| Errno::INVAL)?;
    if below.as_os_str().is_empty() { Ok(top) } else { by_steps(top.as_fd(), below, flags, None) }
}

/// One openat(2) for each component, which none of them can lead elsewhere:
/// what is opened is held, and is looked at before the next step. With `mount`
/// all must be on that one.
fn by_steps(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mount: Option<u64>) -> rustix::io::Result<OwnedFd> {
    let mut components = path.components().peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => ".".as_ref(),
            _ => return Err(Errno::XDEV),
        };
        let last = components.peek().is_none();
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = at.as_ref().map_or(root, AsFd::as_fd);
        let held = openat(parent, name, step, Mode::empty())?;
        let is_link = FileType::from_raw_mode(fstat(&held)?.st_mode) == FileType::Symlink;
        if is_link {
            return Err(Errno::LOOP);
        }
        at = Some(if last && !flags.contains(OFlags::PATH) {
            // Not what was held, if it was replaced; a link is not followed either.
            openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?
        } else {
            held
        });
        if let (Some(mount), Some(opened)) = (mount, &at)
            && mount_id(opened.as_fd())? != mount
        {
            return Err(Errno::XDEV);
        }
    }
    at.ok_or(Errno::NOENT)
}

/// Which mount the descriptor's file was reached by (statx(2), since Linux 5.8).
fn mount_id(file: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOSYS);
    }
    Ok(stat.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn steps_decide_as_the_kernel_does() {
        let place = tempfile::tempdir().expect("a directory");
        let place = fs::canonicalize(place.path()).expect("its real path");
        fs::create_dir_all(place.join("a/b")).expect("directories");
        fs::write(place.join("a/file"), "x").expect("a file");
        symlink("a", place.join("link")).expect("a link");
        symlink("b", place.join("a/last")).expect("a link");
        symlink("nowhere", place.join("dangling")).expect("a link");
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        for name in ["a", "a/b", "a/file", "link", "link/b", "a/last", "dangling", "absent", "a/file/x", "."] {
            let path = place.join(name);
            let kernel = open_without_links(&path).map(|file| fstat(file).expect("stat").st_ino);
            let steps = absolute_by_steps(&path, flags).map(|file| fstat(file).expect("stat").st_ino);
            assert_eq!(steps, kernel, "{name}");
        }
        let root = open_without_links(&place).expect("the directory");
        let reading = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mount = mount_id(root.as_fd()).expect("its mount");
        for name in ["", "a", "a/b", "link", "link/b", "a/last", "absent", "a/file", "..", "a/../..", "/etc"] {
            let kernel = open_directory_beneath(root.as_fd(), Path::new(name));
            let path = if name.is_empty() { "." } else { name };
            let steps = by_steps(root.as_fd(), Path::new(path), reading, Some(mount));
            let inode = |opened: rustix::io::Result<OwnedFd>| opened.map(|file| fstat(file).expect("stat").st_ino);
            let (kernel, steps) = (inode(kernel), inode(steps));
            assert_eq!(steps.is_ok(), kernel.is_ok(), "{name}: {steps:?} {kernel:?}");
            assert!(steps.is_err() || steps == kernel, "{name}");
        }
    }

    #[test]
    fn steps_do_not_enter_another_mount() {
        let top = open_without_links(Path::new("/")).expect("/");
        let other = Some(mount_id(top.as_fd()).expect("its mount"));
        let reading = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        assert_eq!(by_steps(top.as_fd(), Path::new("proc"), reading, other).err(), Some(Errno::XDEV));
        by_steps(top.as_fd(), Path::new("proc"), reading, None).expect("a mount that may be entered");
    }
}
