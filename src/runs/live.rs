//! The live runs: a file for each among the data, which its supervisor holds
//! locked. It is on the disk before anything is made for the run that a loss of
//! power would leave behind; the run directory may vanish with the machine, or
//! with its user's session.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::{Dirs, create_private, sync_directory};
use crate::error::{Context, Error, Result};

/// A live run, as its file says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveRun {
    /// Its id.
    pub run: String,
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Its group.
    pub group: String,
    /// Process id of its supervisor.
    pub pid: i32,
    /// RFC 3339, UTC.
    pub started: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The directory that holds its sockets.
    pub directory: PathBuf,
    /// The cgroup of its own, if any.
    pub cgroup: Option<PathBuf>,
    /// The image of its root, if any.
    #[serde(default)]
    pub image: Option<crate::image::Digest>,
    /// The podman that has its container, if any.
    #[serde(default)]
    pub podman: Option<PathBuf>,
}

/// The supervisor's hold on the file: the run is live until it goes.
#[derive(Debug)]
pub struct Hold {
    path: PathBuf,
    file: Flock<File>,
}

impl Hold {
    /// Says that the run is live. The caller holds the lock on all runs: until
    /// this has its own lock it looks dead.
    pub fn begin(dirs: &Dirs, state: &LiveRun) -> Result<Self> {
        create_private(&dirs.live())?;
        let path = path(dirs, &state.run);
        let step = || format!("write {}", path.display());
        let text = serde_json::to_string(state).step(|| "render the run's state".to_owned())?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path).step(step)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).step(step)?;
        file.write_all(text.as_bytes()).step(step)?;
        Ok(Self { path, file })
    }

    /// Waits until it is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().and_then(|()| sync_directory(&self.path)).step(|| format!("write {}", self.path.display()))
    }

    /// The run has ended.
    pub fn end(self) -> Result<()> {
        fs::remove_file(&self.path).step(|| format!("remove {}", self.path.display()))
    }
}

/// One that is live no more. Its file may be empty, or half written.
#[derive(Debug)]
pub struct Dead {
    /// The id.
    pub run: String,
    /// What the file says.
    pub state: Option<LiveRun>,
    path: PathBuf,
}

impl Dead {
    /// Nothing of it is left.
    pub fn forget(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).step(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

fn path(dirs: &Dirs, run: &str) -> PathBuf {
    dirs.live().join(format!("{run}.json"))
}

fn read(path: &Path) -> Option<LiveRun> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn files(dirs: &Dirs) -> Result<Vec<PathBuf>> {
    let directory = dirs.live();
    match fs::read_dir(&directory) {
        Ok(entries) => Ok(entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).step(|| format!("read {}", directory.display())),
    }
}

/// Whether somebody holds the lock on the file.
pub fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(path) else {
        return false;
    };
    matches!(Flock::lock(file, FlockArg::LockExclusiveNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// The live runs, oldest first.
pub fn live(dirs: &Dirs) -> Result<Vec<LiveRun>> {
    let mut runs: Vec<LiveRun> =
        files(dirs)?.iter().filter(|path| is_locked(path)).filter_map(|path| read(path)).collect();
    runs.sort_by(|one, other| one.run.cmp(&other.run));
    Ok(runs)
}

/// Those that ended without cleaning up. The caller holds the lock on all runs.
pub fn dead(dirs: &Dirs) -> Result<Vec<Dead>> {
    let dead = files(dirs)?.into_iter().filter(|path| !is_locked(path));
    Ok(dead
        .map(|path| {
            let run = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            Dead { run, state: read(&path), path }
        })
        .collect())
}

/// Whether a run may need to be cleaned up after.
pub fn any(dirs: &Dirs) -> Result<bool> {
    Ok(!files(dirs)?.is_empty())
}

/// Whether the run has a file.
pub fn has(dirs: &Dirs, run: &str) -> bool {
    path(dirs, run).exists()
}

/// Whether a run of this supervisor is left, or one that does not say whose it is.
pub fn is_run_of(dirs: &Dirs, supervisor: nix::unistd::Pid) -> bool {
    let mut states = files(dirs).unwrap_or_default().into_iter().map(|path| read(&path));
    states.any(|state| state.is_none_or(|state| state.pid == supervisor.as_raw()))
}

/// The live run that `text` names: an id, the beginning of one, or a name.
pub fn find_live(dirs: &Dirs, text: &str) -> Result<LiveRun> {
    let mut found: Vec<LiveRun> =
        live(dirs)?.into_iter().filter(|run| run.run.starts_with(text) || run.name.as_deref() == Some(text)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(run), true) => Ok(run),
        (Some(_), false) => Err(Error::refused(format!("`{text}` names several live runs")).hint("belljar ps")),
        (None, _) => Err(Error::refused(format!("no live run is called `{text}`")).hint("belljar ps")),
    }
}
