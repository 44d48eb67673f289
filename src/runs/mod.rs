//! Runs, live and past: the run directories, the files that say which are live,
//! and the receipts.
//!
//! A run is live while its supervisor holds the lock on its file. What a power
//! loss leaves behind is buried by the next run.

mod live;
mod receipt;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use crate::config::{Dirs, create_private};
use crate::error::{Context, Error, Result};
use crate::image::Images;
use crate::plan::Plan;

pub use live::{LiveRun, find_live, live};
pub use receipt::{Receipt, Status, find_receipt};

/// Why a run ended that nobody was left to close.
pub const STOPPED: &str = "the machine or the supervisor was stopped";

const LOCK: &str = "lock";
const RUNS_LOCK: &str = "runs.lock";
/// How long what the launcher of a killed run has called may take to die.
const AFTER_LAUNCHER: Duration = Duration::from_millis(100);

/// The directory of this process's run.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    id: String,
    hold: live::Hold,
    _lock: Flock<File>,
}

impl RunDirectory {
    /// Makes the directory of a new run, after burying what dead ones left.
    pub fn create(dirs: &Dirs, plan: &Plan, name: Option<&str>) -> Result<Self> {
        create_private(&dirs.run)?;
        create_private(&dirs.receipts())?;
        // Between making the directory and taking its lock it looks dead.
        let _guard = lock(&dirs.data.join(RUNS_LOCK), FlockArg::LockExclusive)?;
        bury_those_not_live(dirs, STOPPED)?;
        if let Some(image) = plan.root.image().filter(|image| !Images::new(dirs).has(image)) {
            return Err(Error::refused(format!("the image {image} was removed while the run was planned"))
                .hint("belljar image list"));
        }
        let (id, path) = make_directory(dirs)?;
        let lock = lock(&path.join(LOCK), FlockArg::LockExclusiveNonblock)?;
        let state = LiveRun {
            run: id.clone(),
            name: name.map(str::to_owned),
            group: plan.group.clone(),
            pid: nix::unistd::getpid().as_raw(),
            started: now(),
            command: plan.command.clone(),
            directory: path.clone(),
            cgroup: plan
                .limits
                .cgroup
                .as_ref()
                .and_then(|place| Some(place.parent()?.join(crate::launch::cgroup_name(&id)))),
            image: plan.root.image().cloned(),
            podman: plan.runtime.podman.clone(),
        };
        let hold = live::Hold::begin(dirs, &state)?;
        // What podman makes stays when the power goes.
        if state.podman.is_some() {
            hold.sync()?;
        }
        Ok(Self { path, id, hold, _lock: lock })
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until it is on the disk that there is such a run.
    pub fn sync(&self) -> Result<()> {
        self.hold.sync()
    }

    /// Removes it; the run is live no more.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).step(|| format!("remove {}", self.path.display()))?;
        self.hold.end()
    }
}

/// The time now, RFC 3339, UTC.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// An id that sorts by time, to the millisecond: `20261122-181435123-1a2b3c`.
fn make_directory(dirs: &Dirs) -> Result<(String, PathBuf)> {
    let time: String = now().chars().filter(|c| c.is_ascii_digit() || *c == 'T').take(18).collect();
    let time = time.replace('T', "-");
    let prefix = format!("{time}-");
    let made = tempfile::Builder::new()
        .prefix(&prefix)
        .rand_bytes(6)
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir_in(&dirs.run)
        .step(|| format!("make a run directory in {}", dirs.run.display()))?;
    let path = made.keep();
    let id = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((id, path))
}

fn lock(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .step(|| format!("open {}", path.display()))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno).step(|| format!("lock {}", path.display()))
}

/// While it is held no run begins and none is buried.
pub fn hold(dirs: &Dirs) -> Result<impl Drop> {
    lock(&dirs.data.join(RUNS_LOCK), FlockArg::LockExclusive)
}

fn directories(dirs: &Dirs) -> Result<Vec<PathBuf>> {
    match fs::read_dir(&dirs.run) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).step(|| format!("read {}", dirs.run.display())),
    }
}

/// Removes what dead runs left, and closes their receipts.
pub fn bury_dead(dirs: &Dirs, why: &str) -> Result<()> {
    if !live::any(dirs)? && directories(dirs)?.is_empty() {
        return Ok(());
    }
    let _guard = lock(&dirs.data.join(RUNS_LOCK), FlockArg::LockExclusive)?;
    bury_those_not_live(dirs, why)
}

/// Whether something of a run of this supervisor is left, or of one that does
/// not say whose it is.
pub fn is_run_of(dirs: &Dirs, supervisor: nix::unistd::Pid) -> bool {
    let unnamed = |path: &PathBuf| path.file_name().is_some_and(|id| !live::has(dirs, &id.to_string_lossy()));
    live::is_run_of(dirs, supervisor) || directories(dirs).unwrap_or_default().iter().any(unnamed)
}

fn bury_those_not_live(dirs: &Dirs, why: &str) -> Result<()> {
    live::dead(dirs)?.into_iter().try_for_each(|dead| bury(dirs, dead, why))?;
    // Those that were cut off before they had a file. One that is locked may be
    // a run of other data.
    directories(dirs)?.iter().filter(|path| !live::is_locked(&path.join(LOCK))).try_for_each(|path| remove(path))
}

fn bury(dirs: &Dirs, dead: live::Dead, why: &str) -> Result<()> {
    if let Some(state) = &dead.state {
        if let Some(podman) = &state.podman {
            // A podman that the launcher had called dies a moment after it.
            std::thread::sleep(AFTER_LAUNCHER);
            crate::launch::remove_container(podman, &state.run)?;
        }
        if let Some(cgroup) = &state.cgroup {
            crate::launch::remove_cgroup(cgroup)?;
        }
        remove(&state.directory)?;
    }
    receipt::interrupt(dirs, &dead.run, why)?;
    dead.forget()
}

fn remove(directory: &Path) -> Result<()> {
    crate::launch::end_pasta(directory);
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).step(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
