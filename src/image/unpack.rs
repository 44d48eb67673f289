//! Layers → a directory (OCI image spec, "Image Layer Filesystem Changeset").
//! Every name is resolved by the kernel as if the directory were the root
//! (openat2(2), RESOLVE_IN_ROOT), so that no link of a layer leads out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use tar::{Entry, EntryType};

use super::meter::{HEADERS, Meter, Metered};
use super::remove;
use crate::error::{Error, Result, printable};

/// What one image may cost at most.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Entries of all layers together.
    pub entries: u64,
}

impl Default for UnpackLimits {
    /// Several times what images of whole desktops have.
    fn default() -> Self {
        Self { bytes: 32 << 30, entries: 1_000_000 }
    }
}

/// How often the bytes of a layer may be its compressed bytes; ten times what
/// real layers come to. Small ones may be more.
const MOST_RATIO: u64 = 200;
/// A layer below this size, in bytes, is not looked at for its ratio.
const SMALL: u64 = 256 << 20;
/// Components of a path; the kernel takes 4,096 bytes (PATH_MAX).
const MOST_COMPONENTS: usize = 256;
const LONGEST_PATH: usize = 4096;
/// Bytes of the names of all entries, which are kept while an image is unpacked.
const MOST_NAMES: usize = 256 << 20;
/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;
/// What is left out is named up to this many times.
const MOST_NAMED: usize = 20;

/// What was unpacked.
#[derive(Debug, Default, Clone)]
pub struct Unpacked {
    /// Entries of all layers.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Devices, FIFOs and others that a root does not get: how many.
    pub left_out: u64,
    /// The first of them.
    pub left_out_names: Vec<String>,
}

/// Unpacks layer after layer, the lowest first.
pub struct Unpacker {
    root: OwnedFd,
    limits: UnpackLimits,
    is_root: bool,
    done: Unpacked,
    /// Modes and owners of directories, set at the end: one that cannot be written
    /// could not be filled.
    directories: BTreeMap<PathBuf, (u32, Option<(Uid, Gid)>)>,
    /// What the layer that is being unpacked has made.
    made: BTreeSet<PathBuf>,
    /// Bytes of layers, decompressed, that may still be read.
    unread: u64,
    /// Bytes of names that may still be kept.
    names: usize,
    /// The directory of the last entry: most entries follow each other.
    last: Option<(PathBuf, OwnedFd)>,
}

/// How much a layer may grow when it is unpacked.
struct Growth<'a> {
    /// Bytes of the layers before.
    before: u64,
    /// Bytes of the image that have been read for this one.
    compressed: &'a dyn Fn() -> u64,
}

impl Growth<'_> {
    fn check(&self, done: u64) -> Result<()> {
        let (bytes, compressed) = (done - self.before, (self.compressed)());
        if bytes <= SMALL || bytes / MOST_RATIO <= compressed {
            return Ok(());
        }
        Err(Error::refused("a layer grows too much when it is unpacked")
            .because(format!("{bytes} bytes out of {compressed}, more than {MOST_RATIO} times as much"))
            .hint("if you trust it: podman save --uncompressed --format oci-archive -o FILE NAME, and import oci-archive:FILE"))
    }
}

fn refuse(name: &Path, why: impl std::fmt::Display) -> Error {
    Error::refused(format!("the image's entry {}", printable(&name.to_string_lossy())))
        .because(why)
        .hint("build the image again; belljar unpacks no part of one that it refuses")
}

impl Unpacker {
    /// Into `root`, an empty directory that nobody else can reach.
    pub fn new(root: OwnedFd, limits: UnpackLimits) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self {
            root,
            limits,
            is_root,
            done: Unpacked::default(),
            directories: BTreeMap::new(),
            made: BTreeSet::new(),
            unread: limits.bytes.saturating_add(limits.entries.saturating_mul(512)),
            names: MOST_NAMES,
            last: None,
        }
    }

    /// One layer, decompressed; `compressed` tells how many bytes of the image
    /// have been read for it so far.
    pub fn layer(&mut self, layer: impl Read, compressed: impl Fn() -> u64) -> Result<()> {
        self.made.clear();
        let before = self.done.bytes;
        let meter = Meter::new();
        let mut archive = tar::Archive::new(Metered::new(layer, &meter));
        let mut entries = archive.entries().map_err(|error| Error::failed("read a layer").because(error))?;
        loop {
            meter.allow(HEADERS);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(|error| match meter.left() {
                0 => Error::refused("an entry of a layer has headers of more than 1 MiB")
                    .hint("build the image again; no tool writes such headers"),
                _ => Error::refused("a layer is no tar archive").because(error),
            })?;
            meter.allow(self.unread);
            self.done.entries += 1;
            if self.done.entries > self.limits.entries {
                return Err(Error::refused(format!("the image has more than {} entries", self.limits.entries))
                    .hint("belljar image import --max-files NUMBER, if you trust it"));
            }
            self.entry(&mut entry, &Growth { before, compressed: &compressed })?;
            // Also of what has no file: nothing of it is left for the next headers.
            io::copy(&mut entry, &mut io::sink()).map_err(|error| Error::refused("read a layer").because(error))?;
            self.unread = meter.left();
        }
        Ok(())
    }

    /// Sets what had to wait, and tells what was done.
    pub fn finish(mut self) -> Result<Unpacked> {
        self.last = None;
        for (path, (mode, owner)) in std::mem::take(&mut self.directories).into_iter().rev() {
            // One that a later layer took away, or replaced by a link, has no mode any more.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(directory) = self.open(&path, flags) {
                let owner = owner.map_or(Ok(()), |(uid, gid)| rustix::fs::fchown(&directory, Some(uid), Some(gid)));
                owner
                    .and_then(|()| rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode)))
                    .map_err(|errno| refuse(&path, errno))?;
            }
        }
        Ok(self.done)
    }

    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, growth: &Growth<'_>) -> Result<()> {
        let typed = PathBuf::from(std::ffi::OsString::from(OsText(&entry.path_bytes())));
        let path = normal(&typed)?;
        self.names = self.names.checked_sub(path.as_os_str().len()).ok_or_else(|| {
            Error::refused(format!("the names in the image have more than {} MiB together", MOST_NAMES >> 20))
                .hint("build the image with fewer or shorter names")
        })?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(name) = path.file_name().map(std::ffi::OsStr::to_owned) else {
            // The root itself: its mode is the generated root's.
            return Ok(());
        };
        let above = path.parent().map(Path::to_owned).unwrap_or_default();
        if let Some(hidden) = remove::whiteout(&name) {
            return self.whiteout(&above, hidden).map_err(|why| refuse(&path, why));
        }
        let mode = entry.header().mode().unwrap_or(0o644);
        match kind {
            EntryType::Directory => self.directory(&path, mode, self.owner(entry)),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&path, mode, entry, growth),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
                self.fresh(&path)
                    .and_then(|at| Ok(rustix::fs::symlinkat(target, at, &name)?))
                    .map_err(|e| refuse(&path, e))
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
                let target = PathBuf::from(std::ffi::OsString::from(OsText(&target)));
                let target = normal(&target).map_err(|error| refuse(&path, format!("hard link: {}", error.what)))?;
                self.hard_link(&path, &target)
            }
            _ => {
                // What lower layers have there is replaced all the same.
                self.fresh(&path).map_err(|error| refuse(&path, error))?;
                self.done.left_out += 1;
                if self.done.left_out_names.len() < MOST_NAMED {
                    self.done.left_out_names.push(printable(&path.to_string_lossy()));
                }
                Ok(())
            }
        }
        .inspect(|()| {
            self.made.insert(path.clone());
        })
    }

    /// The directory `path`, made with its parents where it is not there.
    fn parents(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = match self.open(path, flags) {
                Err(rustix::io::Errno::NOENT) => {
                    let above = path.parent().unwrap_or(Path::new("")).to_owned();
                    let name = path.file_name().unwrap_or_default().to_owned();
                    let at = self.parents(&above)?;
                    rustix::fs::mkdirat(at, &name, Mode::from_raw_mode(0o755)).map_err(|errno| match errno {
                        rustix::io::Errno::EXIST => io::Error::other("a link on its way leads nowhere"),
                        errno => errno.into(),
                    })?;
                    self.open(path, flags)?
                }
                opened => opened?,
            };
            self.last = Some((path.to_owned(), directory));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory),
            None => Err(io::Error::other("the directory was not opened")),
        }
    }

    /// The directory of `path`, in which nothing is called so any more.
    fn fresh(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        let (above, name) = split(path);
        let at = self.parents(above)?;
        if remove::entry(at.as_fd(), name)? == remove::Removed::Directory {
            // What is kept open could be in it.
            let at = at.try_clone()?;
            self.last = Some((above.to_owned(), at));
        }
        self.parents(above)
    }

    /// The owner on disk; an ordinary user can only be that itself.
    fn owner(&self, entry: &Entry<'_, impl Read>) -> Option<(Uid, Gid)> {
        let header = entry.header();
        self.is_root.then(|| owner_of(header.uid().unwrap_or(0), header.gid().unwrap_or(0)))
    }

    fn directory(&mut self, path: &Path, mode: u32, owner: Option<(Uid, Gid)>) -> Result<()> {
        let (above, name) = split(path);
        let make = |this: &mut Self| -> io::Result<()> {
            let at = this.parents(above)?;
            let there = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()) {
                return Ok(());
            }
            let at = this.fresh(path)?;
            rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))?;
            Ok(())
        };
        make(self).map_err(|error| refuse(path, error))?;
        // The caller must be able to fill and to remove it; set-id bits mean nothing.
        self.directories.insert(path.to_owned(), (mode & 0o1777 | 0o700, owner));
        Ok(())
    }

    fn file(&mut self, path: &Path, mode: u32, entry: &mut Entry<'_, impl Read>, growth: &Growth<'_>) -> Result<()> {
        let done = self.done.bytes;
        let left = self.limits.bytes.saturating_sub(self.done.bytes);
        let header = entry.header();
        let owner = self.owner(entry);
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let (_, name) = split(path);
        let mut write = |this: &mut Self| -> io::Result<u64> {
            let at = this.fresh(path)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o600))?);
            let goes_on = |count| growth.check(done + count).is_ok();
            let count = copy(&mut entry.take(left.saturating_add(1)), &mut file, goes_on)?;
            if let Some((uid, gid)) = owner {
                rustix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            // Readable to whoever has the cache; set-id bits are dropped.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777 | 0o400))?;
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
            Ok(count)
        };
        let count = write(self).map_err(|error| refuse(path, error))?;
        if count > left {
            return Err(Error::refused(format!("the image has more than {} bytes", self.limits.bytes))
                .hint("belljar image import --max-size SIZE, if you trust it"));
        }
        self.done.bytes += count;
        growth.check(self.done.bytes)
    }

    /// A second name of a file that is there; never of one outside, which the
    /// resolution in the root rules out, nor of anything but a regular file.
    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let (_, name) = split(path);
        let link = |this: &mut Self| -> io::Result<()> {
            let (target_above, target_name) = split(target);
            let from = this.open(target_above, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
            let stat = rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
            if !kind.is_file() && !kind.is_symlink() {
                return Err(io::Error::other("a hard link to what is not a file"));
            }
            if path == target {
                return Ok(());
            }
            let at = this.fresh(path)?;
            Ok(rustix::fs::linkat(&from, target_name, at, name, AtFlags::empty())?)
        };
        link(self)
            .map_err(|error| refuse(path, format!("hard link to {}: {error}", printable(&target.to_string_lossy()))))
    }

    /// Takes away what lower layers have, not what this one has made.
    fn whiteout(&mut self, above: &Path, hidden: remove::Whiteout) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match self.open(above, flags) {
            // There is nothing to take away.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            opened => opened?,
        };
        self.last = None;
        match hidden {
            remove::Whiteout::Invalid => Err(io::Error::other("a whiteout of no name")),
            remove::Whiteout::Meta => Ok(()),
            remove::Whiteout::Name(name) => remove::not_made(directory.as_fd(), &name, &above.join(&name), &self.made),
            remove::Whiteout::Opaque => remove::all_not_made(directory.as_fd(), above, &self.made),
        }
    }
}

/// Like io::copy, in pieces that are large enough for a layer.
fn copy(from: &mut impl Read, to: &mut File, goes_on: impl Fn(u64) -> bool) -> io::Result<u64> {
    let mut buffer = vec![0u8; PIECE];
    let mut all = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 || !goes_on(all) {
            return Ok(all);
        }
        io::Write::write_all(to, &buffer[..count])?;
        all += count as u64;
    }
}

/// Files of uid 1000 are the agent's, and all others the system's. So that no
/// other id of the image means a person of this host.
fn owner_of(uid: u64, gid: u64) -> (Uid, Gid) {
    let keep = |id: u64| if id == u64::from(crate::plan::AGENT_ID) { crate::plan::AGENT_ID } else { 0 };
    (Uid::from_raw(keep(uid)), Gid::from_raw(keep(gid)))
}

fn split(path: &Path) -> (&Path, &std::ffi::OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

/// Bytes of a tar header as a name.
struct OsText<'a>(&'a [u8]);

impl From<OsText<'_>> for std::ffi::OsString {
    fn from(text: OsText<'_>) -> Self {
        std::os::unix::ffi::OsStringExt::from_vec(text.0.to_vec())
    }
}

/// Relative to the root, without `.`; `..` is refused, because tools disagree
/// about what it means.
fn normal(path: &Path) -> Result<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(refuse(path, "its name has `..` in it")),
        }
    }
    let length = out.as_os_str().len();
    if length >= LONGEST_PATH || out.components().count() > MOST_COMPONENTS {
        return Err(refuse(Path::new("…"), format!("its name is too long: {length} bytes")));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(refuse(path, "its name has a NUL in it"));
    }
    Ok(out)
}
