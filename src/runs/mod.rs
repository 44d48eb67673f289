//! Runs, live and past: the run directories and the receipts.
//!
//! A run directory is live while its supervisor holds the lock in it. What a
//! power loss leaves behind is buried by the next run.

mod receipt;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::{Dirs, create_private};
use crate::error::{Context, Error, Result};
use crate::image::Images;
use crate::plan::Plan;

pub use receipt::{Receipt, Status};

const LOCK: &str = "lock";
const STATE: &str = "state.json";
const RUNS_LOCK: &str = "runs.lock";
/// How long what the launcher of a killed run has called may take to die.
const AFTER_LAUNCHER: Duration = Duration::from_millis(100);

/// A live run, as its directory says.
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
    /// The cgroup of its own, if any.
    pub cgroup: Option<PathBuf>,
    /// The image of its root, if any.
    #[serde(default)]
    pub image: Option<crate::image::Digest>,
    /// The podman that has its container, if any.
    #[serde(default)]
    pub podman: Option<PathBuf>,
}

/// The directory of this process's run.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    id: String,
    _lock: Flock<File>,
}

impl RunDirectory {
    /// Makes the directory of a new run, after burying what dead ones left.
    pub fn create(dirs: &Dirs, plan: &Plan, name: Option<&str>) -> Result<Self> {
        create_private(&dirs.run)?;
        create_private(&dirs.receipts())?;
        // Between making the directory and taking its lock it looks dead.
        let _guard = lock(&dirs.data.join(RUNS_LOCK), FlockArg::LockExclusive)?;
        bury_those_not_live(dirs, "the machine or the supervisor was stopped")?;
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
            cgroup: plan
                .limits
                .cgroup
                .as_ref()
                .and_then(|place| Some(place.parent()?.join(crate::launch::cgroup_name(&id)))),
            image: plan.root.image().cloned(),
            podman: plan.runtime.podman.clone(),
        };
        let file = path.join(STATE);
        let text = serde_json::to_string(&state).step(|| "render the run's state".to_owned())?;
        fs::write(&file, text).step(|| format!("write {}", file.display()))?;
        Ok(Self { path, id, _lock: lock })
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).step(|| format!("remove {}", self.path.display()))
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

fn is_live(path: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(path.join(LOCK)) else {
        return false;
    };
    matches!(Flock::lock(file, FlockArg::LockExclusiveNonblock), Err((_, nix::errno::Errno::EWOULDBLOCK)))
}

fn directories(dirs: &Dirs) -> Result<Vec<PathBuf>> {
    match fs::read_dir(&dirs.run) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).step(|| format!("read {}", dirs.run.display())),
    }
}

/// Whether a run directory of this supervisor is left, or one that does not say
/// whose it is.
pub fn is_run_of(dirs: &Dirs, supervisor: nix::unistd::Pid) -> bool {
    let state = |path: &Path| serde_json::from_str::<LiveRun>(&fs::read_to_string(path.join(STATE)).ok()?).ok();
    directories(dirs)
        .unwrap_or_default()
        .iter()
        .any(|path| state(path).is_none_or(|state| state.pid == supervisor.as_raw()))
}

/// Removes what dead runs left, and closes their receipts.
pub fn bury_dead(dirs: &Dirs, why: &str) -> Result<()> {
    if directories(dirs)?.is_empty() {
        return Ok(());
    }
    let _guard = lock(&dirs.data.join(RUNS_LOCK), FlockArg::LockExclusive)?;
    bury_those_not_live(dirs, why)
}

fn bury_those_not_live(dirs: &Dirs, why: &str) -> Result<()> {
    directories(dirs)?.iter().filter(|path| !is_live(path)).try_for_each(|path| bury(dirs, path, why))
}

fn bury(dirs: &Dirs, path: &Path, why: &str) -> Result<()> {
    let state = fs::read_to_string(path.join(STATE)).ok().and_then(|text| serde_json::from_str::<LiveRun>(&text).ok());
    if let Some(state) = state {
        if let Some(podman) = &state.podman {
            // A podman that the launcher had called dies a moment after it.
            std::thread::sleep(AFTER_LAUNCHER);
            crate::launch::remove_container(podman, &state.run)?;
        }
        if let Some(cgroup) = &state.cgroup {
            crate::launch::remove_cgroup(cgroup)?;
        }
        if let Ok(mut receipt) = receipt::Stored::load(dirs, &state.run) {
            receipt.interrupt(why);
            receipt.write(dirs, &state.run)?;
        }
        receipt::remove_unfinished(dirs, &state.run);
    }
    crate::launch::end_pasta(path);
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).step(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The live runs, oldest first.
pub fn live(dirs: &Dirs) -> Result<Vec<LiveRun>> {
    let mut runs: Vec<LiveRun> = directories(dirs)?
        .into_iter()
        .filter(|path| is_live(path))
        .filter_map(|path| serde_json::from_str(&fs::read_to_string(path.join(STATE)).ok()?).ok())
        .collect();
    runs.sort_by(|one, other| one.run.cmp(&other.run));
    Ok(runs)
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

/// The receipt that `text` names: an id, the beginning of one, or a name (then
/// the newest).
pub fn find_receipt(dirs: &Dirs, text: &str) -> Result<serde_json::Value> {
    let hint = format!("ls {}", dirs.receipts().display());
    let mut ids: Vec<String> = fs::read_dir(dirs.receipts())
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    ids.retain(|id| id.ends_with(".json"));
    ids.sort();
    let by_id: Vec<&String> = ids.iter().filter(|id| !text.is_empty() && id.starts_with(text)).collect();
    let load = |id: &str| receipt::Stored::load(dirs, id.trim_end_matches(".json")).map(receipt::Stored::into_value);
    match by_id.as_slice() {
        [one] => return load(one),
        [_, _, ..] => return Err(Error::refused(format!("`{text}` names several runs")).hint(hint)),
        [] => {}
    }
    for id in ids.iter().rev() {
        let value = load(id)?;
        if value.get("name").and_then(serde_json::Value::as_str) == Some(text) {
            return Ok(value);
        }
    }
    Err(Error::refused(format!("no run is called `{text}`")).hint(hint))
}
