//! Where the parts of an image lie: a directory in OCI image layout, or a tar
//! archive, whose parts are read where they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::compression::Decompressed;
use super::meter::{HEADERS, Meter, Metered};
use crate::error::{Context, Error, Result};

/// Longest JSON document of an image, in bytes (OCI distribution spec: registries
/// limit manifests to 4 MiB).
const LONGEST_DOCUMENT: u64 = 4 << 20;
/// Entries of an archive; each layer is one.
const MOST_PARTS: usize = 100_000;

/// The parts of an image.
pub enum Blobs {
    /// In a directory.
    Directory(OwnedFd, PathBuf),
    /// In an archive.
    Archive {
        /// The archive, not compressed.
        file: Arc<File>,
        /// Where in it each part begins, and how long it is.
        parts: HashMap<PathBuf, (u64, u64)>,
        /// Other names of parts, as some versions of `docker save` write them.
        links: HashMap<PathBuf, PathBuf>,
        /// The archive as it was named.
        path: PathBuf,
    },
}

impl Blobs {
    /// Opens a directory in OCI image layout.
    pub fn directory(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .refuse(|| format!("open {}", path.display()))
            .map_err(|error| error.hint("oci: takes a directory with oci-layout and index.json in it"))?;
        Ok(Self::Directory(directory, path.to_owned()))
    }

    /// Opens a tar archive; a compressed one is written to `scratch` first, of
    /// `most` bytes at most.
    pub fn archive(path: &Path, scratch: &Path, most: u64) -> Result<Self> {
        let step = || format!("read {}", path.display());
        let mut file = File::open(path).refuse(step)?;
        if !file.metadata().refuse(step)?.is_file() {
            return Err(Error::refused(step()).because("it is not a regular file"));
        }
        let plain = matches!(Decompressed::new(&file).refuse(step)?, Decompressed::Plain(_));
        file.rewind().refuse(step)?;
        if !plain {
            let mut whole = tempfile::tempfile_in(scratch).step(|| format!("make a file in {}", scratch.display()))?;
            let mut from = Decompressed::new(&file).refuse(step)?.take(most.saturating_add(1));
            if io::copy(&mut from, &mut whole).refuse(step)? > most {
                return Err(Error::refused(format!("{} has more than {most} bytes in it", path.display()))
                    .hint("belljar image import --max-size SIZE, if you trust it"));
            }
            file = whole;
            file.seek(SeekFrom::Start(0)).step(step)?;
        }
        let (mut parts, mut links) = (HashMap::new(), HashMap::new());
        let meter = Meter::new();
        let mut archive = tar::Archive::new(Metered::new(&file, &meter));
        // What tar says of a broken header is the header, and so the file's content.
        let damaged = |_| {
            Error::refused(step())
                .because("it is no tar archive, plain or compressed with gzip or zstd, or it is damaged")
                .hint("podman save --format oci-archive writes one, or --format docker-archive")
        };
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            meter.allow(HEADERS);
            let Some(name) = normal(&entry.path().refuse(step)?) else { continue };
            match entry.header().entry_type() {
                tar::EntryType::Regular => {
                    parts.insert(name, (entry.raw_file_position(), entry.size()));
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name().refuse(step)?.unwrap_or_default().into_owned();
                    let above = name.parent().unwrap_or(Path::new("")).to_owned();
                    links.extend(beside(&above, &target).map(|target| (name, target)));
                }
                _ => {}
            }
            if parts.len() + links.len() > MOST_PARTS {
                return Err(Error::refused(step()).because(format!("it has more than {MOST_PARTS} parts")));
            }
        }
        Ok(Self::Archive { file: Arc::new(file), parts, links, path: path.to_owned() })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Directory(_, path) | Self::Archive { path, .. } => path,
        }
    }

    /// Opens the part `name`.
    pub fn open(&self, name: &Path) -> Result<Box<dyn Read + Send>> {
        let step = || format!("read {} of {}", name.display(), self.path().display());
        match self {
            Self::Directory(directory, _) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file: File = rustix::fs::openat2(directory, name, flags, Mode::empty(), how).refuse(step)?.into();
                if !file.metadata().refuse(step)?.is_file() {
                    return Err(Error::refused(step()).because("it is not a regular file"));
                }
                Ok(Box::new(file))
            }
            Self::Archive { file, parts, links, .. } => {
                let part = parts.get(name).or_else(|| parts.get(links.get(name)?));
                let (at, length) =
                    *part.ok_or_else(|| Error::refused(step()).because("the archive has no such part"))?;
                Ok(Box::new(Part { file: Arc::clone(file), at, left: length }))
            }
        }
    }

    /// Reads the part `name`, a JSON document.
    pub fn document(&self, name: &Path) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let step = || format!("read {} of {}", name.display(), self.path().display());
        self.open(name)?.take(LONGEST_DOCUMENT + 1).read_to_end(&mut text).refuse(step)?;
        if text.len() as u64 > LONGEST_DOCUMENT {
            return Err(Error::refused(step()).because(format!("it is longer than {LONGEST_DOCUMENT} bytes")));
        }
        Ok(text)
    }
}

/// A part of a file, read without moving the file's own position.
struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A name of an archive without `.`; none with `..`.
fn normal(path: &Path) -> Option<PathBuf> {
    beside(Path::new(""), path)
}

fn beside(above: &Path, path: &Path) -> Option<PathBuf> {
    let mut out = above.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}
