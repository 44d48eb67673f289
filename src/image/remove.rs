//! Taking away what a later layer hides or replaces, always by the descriptor of
//! a directory of the root, never through a link.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// A whiteout (OCI image spec, "Whiteouts").
#[derive(Debug, PartialEq, Eq)]
pub enum Whiteout {
    /// Everything of lower layers in the directory.
    Opaque,
    /// This name of lower layers.
    Name(OsString),
    /// Of the tools' own: nothing of the root.
    Meta,
    /// Of no name that could be there.
    Invalid,
}

/// What a file's name says, when it is a whiteout's.
pub fn whiteout(name: &OsStr) -> Option<Whiteout> {
    let hidden = name.as_bytes().strip_prefix(b".wh.")?;
    Some(match hidden {
        b".wh..opq" => Whiteout::Opaque,
        b"" | b"." | b".." => Whiteout::Invalid,
        hidden if hidden.starts_with(b".wh.") => Whiteout::Meta,
        hidden => Whiteout::Name(OsStr::from_bytes(hidden).to_owned()),
    })
}

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// There was nothing.
    Nothing,
    /// A file, link or the like.
    File,
    /// A directory with all in it.
    Directory,
}

/// Takes `name` away.
pub fn entry(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Removed> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) => Ok(Removed::File),
        Err(Errno::NOENT) => Ok(Removed::Nothing),
        Err(Errno::ISDIR | Errno::PERM) => {
            let directory = open(at, name)?;
            for inside in names(&directory)? {
                entry(std::os::fd::AsFd::as_fd(&directory), &inside)?;
            }
            rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?;
            Ok(Removed::Directory)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Takes `name`, which is `path`, away, but for what is in `made`.
pub fn not_made(at: BorrowedFd<'_>, name: &OsStr, path: &Path, made: &BTreeSet<PathBuf>) -> io::Result<()> {
    // Sorted by component: what lies below a path follows it.
    let keeps = made.range(path.to_owned()..).next().is_some_and(|made| made.starts_with(path));
    if !keeps {
        return entry(at, name).map(drop);
    }
    match open(at, name) {
        Ok(directory) => all_not_made(std::os::fd::AsFd::as_fd(&directory), path, made),
        // A file or link of this layer.
        Err(_) => Ok(()),
    }
}

/// Takes everything in the directory `path` away, but for what is in `made`.
pub fn all_not_made(directory: BorrowedFd<'_>, path: &Path, made: &BTreeSet<PathBuf>) -> io::Result<()> {
    for name in names(directory)? {
        not_made(directory, &name, &path.join(&name), made)?;
    }
    Ok(())
}

fn open(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn names(directory: impl std::os::fd::AsFd) -> io::Result<Vec<OsString>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}
