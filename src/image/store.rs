//! The cache: `images/<id>/{rootfs,image.json}`, and `names.json`. An image is
//! unpacked beside and renamed, so that what a killed import leaves never counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::manifest::{self, Image};
use super::unpack::{UnpackLimits, Unpacked};
use super::{Blobs, Digest, Progress, Reference, fetch, layers};
use crate::config::{Dirs, create_private};
use crate::error::{Context, Error, Result};
use crate::runs;

const DESCRIPTION: &str = "image.json";
const NAMES: &str = "names.json";
const LOCK: &str = "lock";
/// Begins the names of what is not finished.
const UNFINISHED: &str = ".new-";

/// The cache of images.
#[derive(Debug)]
pub struct Images {
    directory: PathBuf,
    dirs: Dirs,
}

/// An image of the cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cached {
    /// Digest of its configuration: its id, as podman shows it too.
    pub id: Digest,
    /// When it was unpacked; RFC 3339, UTC.
    pub imported: String,
    /// Entries of its layers.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Devices and the like that were left out.
    pub left_out: u64,
    /// What the image says of how it is to be run.
    pub config: RunConfig,
    /// By which names it was imported.
    #[serde(default)]
    pub names: Vec<String>,
    /// Where its root is.
    #[serde(skip)]
    pub root: PathBuf,
}

/// What an image says of how it is to be run, as far as belljar looks at it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunConfig {
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    /// The program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program.
    pub command: Vec<String>,
}

/// What a name meant when it was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    id: Digest,
    /// Of a file: inode, size and time, by which a change is seen.
    stamp: Option<(u64, u64, i64, i64)>,
}

/// Where an import may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// On this machine.
    Here,
    /// On this machine, then at the registry.
    Anywhere,
    /// At the registry, also for what is here.
    Registry,
}

impl Images {
    /// The cache in belljar's own data directory.
    pub fn new(dirs: &Dirs) -> Self {
        Self { directory: dirs.data.join("images"), dirs: dirs.clone() }
    }

    /// The image of the cache that is meant; nothing is changed.
    pub fn find(&self, reference: &Reference) -> Result<Option<Cached>> {
        match reference {
            Reference::Id(digits) => {
                let mut found: Vec<Cached> =
                    self.list()?.into_iter().filter(|image| image.id.digits().starts_with(digits)).collect();
                match (found.pop(), found.is_empty()) {
                    (Some(_), false) => Err(Error::refused(format!("`{digits}` begins the ids of several images"))
                        .hint("belljar image list")),
                    (one, _) => Ok(one),
                }
            }
            named => {
                let names = self.names()?;
                match names.get(&named.to_string()) {
                    Some(meant) if meant.stamp == stamp_of(named) => self.load(meant.id.digits()).map(Some),
                    _ => Ok(None),
                }
            }
        }
    }

    /// All images, by id.
    pub fn list(&self) -> Result<Vec<Cached>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).step(|| format!("read {}", self.directory.display())),
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| Digest::parse(&format!("sha256:{name}")).is_ok());
        names.sort();
        let known = self.names()?;
        let mut images = names.iter().map(|name| self.load(name)).collect::<Result<Vec<_>>>()?;
        for image in &mut images {
            image.names =
                known.iter().filter(|(_, named)| named.id == image.id).map(|(name, _)| name.clone()).collect();
        }
        Ok(images)
    }

    /// Whether it is in the cache.
    pub fn has(&self, id: &Digest) -> bool {
        self.directory.join(id.digits()).join(DESCRIPTION).exists()
    }

    fn load(&self, digits: &str) -> Result<Cached> {
        let directory = self.directory.join(digits);
        let file = directory.join(DESCRIPTION);
        let step = || format!("read {}", file.display());
        let text = fs::read_to_string(&file)
            .step(step)
            .map_err(|error| error.hint("belljar image remove and import it again"))?;
        let image: Cached = serde_json::from_str(&text).step(step)?;
        Ok(Cached { root: directory.join("rootfs"), ..image })
    }

    fn names(&self) -> Result<BTreeMap<String, Named>> {
        let file = self.directory.join(NAMES);
        match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).step(|| format!("read {}", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error).step(|| format!("read {}", file.display())),
        }
    }

    fn write_names(&self, names: &BTreeMap<String, Named>) -> Result<()> {
        let file = self.directory.join(NAMES);
        let step = || format!("write {}", file.display());
        let text = serde_json::to_string_pretty(names).step(step)?;
        let fresh = self.directory.join(format!("{UNFINISHED}names"));
        fs::write(&fresh, text + "\n").and_then(|()| fs::rename(&fresh, &file)).step(step)
    }

    /// Makes the image be there, and the reference name it.
    pub fn import(
        &self,
        reference: &Reference,
        from: From,
        limits: UnpackLimits,
        progress: &Progress,
    ) -> Result<Cached> {
        create_private(&self.dirs.data)?;
        create_private(&self.directory)?;
        let _lock = self.lock()?;
        self.clean();
        // Before it is read: what changes meanwhile is read again by the next run.
        let stamp = stamp_of(reference);
        let (image, blobs) = self.open(reference, from, limits, progress)?;
        if !self.has(&image.id) {
            self.unpack(&image, &blobs, limits, progress)?;
        }
        let mut names = self.names()?;
        if !matches!(reference, Reference::Id(_)) {
            names.insert(reference.to_string(), Named { id: image.id.clone(), stamp });
            self.write_names(&names)?;
        }
        self.load(image.id.digits())
    }

    fn open(
        &self,
        reference: &Reference,
        from: From,
        limits: UnpackLimits,
        progress: &Progress,
    ) -> Result<(Image, Blobs)> {
        let archive = |path: &Path| Blobs::archive(path, &self.directory, limits.bytes);
        match reference {
            Reference::Layout(path, tag) => {
                let blobs = Blobs::directory(path)?;
                Ok((manifest::of_layout(&blobs, tag.as_deref())?, blobs))
            }
            Reference::OciArchive(path, tag) => {
                let blobs = archive(path)?;
                Ok((manifest::of_layout(&blobs, tag.as_deref())?, blobs))
            }
            Reference::DockerArchive(path, tag) => {
                let blobs = archive(path)?;
                Ok((manifest::of_docker_archive(&blobs, tag.as_deref())?, blobs))
            }
            Reference::Name(name) | Reference::Id(name) => {
                let scratch = tempfile::Builder::new()
                    .prefix(UNFINISHED)
                    .tempdir_in(&self.directory)
                    .step(|| format!("make a directory in {}", self.directory.display()))?;
                let file = scratch.path().join("image.tar");
                fetch::save(name, from, &file, progress)?;
                // Open files stay when the directory goes.
                let blobs = archive(&file)?;
                Ok((manifest::of_layout(&blobs, None)?, blobs))
            }
        }
    }

    fn unpack(&self, image: &Image, blobs: &Blobs, limits: UnpackLimits, progress: &Progress) -> Result<()> {
        let fresh = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.directory)
            .step(|| format!("make a directory in {}", self.directory.display()))?;
        let root = fresh.path().join("rootfs");
        fs::create_dir(&root).step(|| format!("make directory {}", root.display()))?;
        let unpacked = match layers::unpack(image, blobs, &root, limits, progress) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                let _ = fresh.close();
                return Err(error);
            }
        };
        let described = described(image, &unpacked);
        let file = fresh.path().join(DESCRIPTION);
        let text = serde_json::to_string_pretty(&described).step(|| "describe the image".to_owned())?;
        fs::write(&file, text + "\n").step(|| format!("write {}", file.display()))?;
        let directory = self.directory.join(image.id.digits());
        // One without a description was never finished.
        let _ = fs::remove_dir_all(&directory);
        let step = || format!("put the image at {}", directory.display());
        fs::rename(fresh.keep(), &directory).step(step)
    }

    /// Removes the image with all its names; one that a live run has is kept.
    pub fn remove(&self, reference: &Reference) -> Result<Cached> {
        let named = Error::refused(format!("the cache has no image {reference}")).hint("belljar image list");
        let image = match self.find(reference)? {
            Some(image) => image,
            // The file that it came from may have changed since.
            None => match self.names()?.get(&reference.to_string()) {
                Some(named) => self.load(named.id.digits())?,
                None => return Err(named),
            },
        };
        let _lock = self.lock()?;
        let _no_run_begins = runs::hold(&self.dirs)?;
        if let Some(run) = runs::live(&self.dirs)?.into_iter().find(|run| run.image.as_ref() == Some(&image.id)) {
            return Err(Error::refused(format!("the live run {} has the image {}", run.run, image.id))
                .hint(format!("belljar stop {}", run.run)));
        }
        let mut names = self.names()?;
        names.retain(|_, named| named.id != image.id);
        self.write_names(&names)?;
        let directory = self.directory.join(image.id.digits());
        let dead = self.directory.join(format!("{UNFINISHED}{}", image.id.digits()));
        let step = || format!("remove {}", directory.display());
        fs::rename(&directory, &dead).step(step)?;
        fs::remove_dir_all(&dead).step(step)?;
        Ok(image)
    }

    fn lock(&self) -> Result<Flock<File>> {
        let path = self.directory.join(LOCK);
        let step = || format!("lock {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path).step(step)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).step(step)
    }

    /// Removes what was not finished; nobody is at it while the lock is held.
    fn clean(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                // What cannot be removed now is met again by the next import.
                let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
            }
        }
    }
}

fn stamp_of(reference: &Reference) -> Option<(u64, u64, i64, i64)> {
    let meta = fs::metadata(reference.file()?).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

fn described(image: &Image, unpacked: &Unpacked) -> Cached {
    let config = image.config.config().as_ref();
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    Cached {
        id: image.id.clone(),
        imported: runs::now(),
        entries: unpacked.entries,
        bytes: unpacked.bytes,
        left_out: unpacked.left_out,
        config: RunConfig {
            environment: list(config.and_then(|config| config.env().as_ref())),
            entrypoint: list(config.and_then(|config| config.entrypoint().as_ref())),
            command: list(config.and_then(|config| config.cmd().as_ref())),
        },
        names: Vec::new(),
        root: PathBuf::new(),
    }
}
