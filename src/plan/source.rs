//! Mount sources, opened once and held: what was validated is what is mounted.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::fstat;
use serde::Serialize;

use super::beneath::open_without_links;
use crate::error::{Context, Error, Result};

/// Which file it is, whatever its name: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// A mount source: its real path and the file itself, held open.
#[derive(Debug)]
pub struct Source {
    /// Absolute, without symbolic links, `.` and `..`.
    pub path: PathBuf,
    /// O_PATH descriptor, which keeps the inode from being used again.
    pub file: OwnedFd,
    /// Which file it is.
    pub id: FileId,
    /// A directory (a regular file otherwise).
    pub directory: bool,
    /// Owner on disk.
    pub uid: u32,
    /// Group on disk.
    pub gid: u32,
}

impl Source {
    /// Opens `path`, which must be absolute, following no symbolic link: one
    /// that is swapped in later could lead anywhere. Links in `/` itself, which
    /// only root can make, are resolved first.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let path = resolve_top_level(path);
        let file = open_without_links(&path).map_err(|error| {
            let refused = Error::refused(format!("mount {shown}"));
            if error == rustix::io::Errno::LOOP {
                let real = fs::canonicalize(&path).unwrap_or_default();
                return refused
                    .because("a symbolic link lies on the way; it could be pointed elsewhere between check and use")
                    .hint(format!("give the real path: {}", real.display()));
            }
            refused.because(error).hint(format!("ls -ld '{shown}'"))
        })?;
        let stat = fstat(&file).step(|| format!("stat {shown}"))?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let directory = match kind {
            rustix::fs::FileType::Directory => true,
            rustix::fs::FileType::RegularFile => false,
            other => {
                return Err(Error::refused(format!("mount {shown}")).because(format!(
                    "it is a {other:?}, not a directory or regular file: the agent could speak through it with the host"
                )));
            }
        };
        let id = FileId { device: stat.st_dev, inode: stat.st_ino };
        Ok(Self { path, file, id, directory, uid: stat.st_uid, gid: stat.st_gid })
    }
}

/// Which file the descriptor is of.
pub fn identify(file: impl AsFd) -> rustix::io::Result<FileId> {
    let stat = fstat(file)?;
    Ok(FileId { device: stat.st_dev, inode: stat.st_ino })
}

fn resolve_top_level(path: &Path) -> PathBuf {
    let mut components = path.components();
    let (Some(Component::RootDir), Some(Component::Normal(first))) = (components.next(), components.next()) else {
        return path.to_owned();
    };
    let top = Path::new("/").join(first);
    match fs::symlink_metadata(&top) {
        Ok(meta) if meta.is_symlink() => fs::canonicalize(&top).unwrap_or(top).join(components.as_path()),
        _ => path.to_owned(),
    }
}

/// `text` as an absolute path without `.` and `..`; `~` is `home`, and a
/// relative path is below `base`, or refused without one.
pub fn absolute(text: &str, home: &Path, base: Option<&Path>) -> Result<PathBuf> {
    check_characters(text)?;
    let path = match text.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        Some(_) => {
            return Err(Error::refused(format!("path {text}: only ~ and ~/ are known, not another user's home")));
        }
        None => PathBuf::from(text),
    };
    let path = match base {
        _ if path.is_absolute() => path,
        Some(base) => base.join(path),
        None => {
            return Err(Error::refused(format!("path {text} is relative"))
                .hint("give an absolute path, or one that begins with ~/"));
        }
    };
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    check_characters(&out.to_string_lossy())?;
    match out.to_str() {
        Some(_) => Ok(out),
        None => Err(Error::refused(format!("path {} is not UTF-8", out.display()))
            .hint("rename it, or mount a directory whose path is UTF-8")),
    }
}

/// Refuses characters that mean something to mount(2), overlayfs or a terminal.
pub fn check_characters(path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(Error::refused("a path is empty"));
    }
    match path.chars().find(|c| c.is_control() || matches!(c, ':' | ',' | '\\')) {
        Some(c) => Err(Error::refused(format!("path {path} holds the character {c:?}"))
            .because("it has a meaning of its own in mount options")
            .hint("rename the directory, or mount one without it")),
        None => Ok(()),
    }
}
