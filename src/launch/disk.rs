//! The guard of `--disk`: measures by how much a run fills what is mounted
//! read-write, and what is left of the file systems behind it. It is no quota: an
//! agent can write past the limit for as long as one look takes.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::Pid;
use rustix::fs::fstatvfs;
use tokio::sync::mpsc::UnboundedSender;

use super::supervise::Event;
use super::tasks::each_below;
use crate::error::{Context, Error, Result};
use crate::plan::{Plan, floor_of, open_without_links, source_of};

/// How often the file systems are asked what is free.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often everything is measured, whatever they say: what somebody else frees
/// hides what the agent writes.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// Of its time the guard measures at most one part in this many.
const SHARE: u32 = 4;
/// A tree deeper than this is not measured, and ends the run: its descriptors
/// would run out.
const DEEPEST: usize = 256;
/// Unit of `st_blocks` in bytes (inode(7)).
const BLOCK: u64 = 512;
/// While a disk has lost less than this during the run, and the agent has written
/// less, a full disk is nothing that ends the run, in bytes.
const LITTLE: u64 = 1 << 20;
/// Open files that are looked at in one measure: looking at more would keep the
/// guard from its work for seconds.
const MOST_OPEN: usize = 100_000;

/// What is watched.
#[derive(Debug)]
pub struct Guard {
    limit: u64,
    places: Vec<Place>,
    /// As it was before the run.
    before: Tally,
    free_before: u64,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    root: OwnedFd,
}

/// What lies in the places.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    bytes: u64,
    /// Directories that the caller may not read, because the agent said so.
    closed: u64,
}

impl Guard {
    /// Measures what is there before the run; `None` when the plan has no limit.
    pub fn begin(plan: &Plan) -> Result<Option<Self>> {
        let Some(limit) = &plan.limits.disk_bytes else {
            return Ok(None);
        };
        let mut paths: Vec<_> = plan.mounts.iter().filter(|mount| !mount.readonly).filter_map(source_of).collect();
        paths.sort();
        // What lies in another is measured with it.
        paths.dedup_by(|path, before| path.starts_with(before));
        let step = |path: &PathBuf| format!("--disk: measure {}", path.display());
        let mut places = Vec::new();
        for path in paths {
            let path = path.to_owned();
            let root = open_without_links(&path).step(|| step(&path))?;
            places.push(Place { path, root });
        }
        let mut guard = Self { limit: limit.value, places, before: Tally::default(), free_before: 0 };
        guard.before = guard.measure(None).map_err(|reason| {
            Error::failed("--disk: measure what is mounted read-write")
                .because(reason)
                .hint("remove what cannot be measured; what is too deep: find THAT-PATH -mindepth 250 -maxdepth 250")
        })?;
        guard.free_before = guard.free();
        Ok(Some(guard))
    }

    /// Looks on in a thread of its own, and says when the limit is reached.
    pub fn watch(self, launcher: Pid, sender: UnboundedSender<Event>) -> Watch {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let mut known = 0;
            let mut free = self.free_before;
            let (mut measured, mut took) = (Instant::now(), Duration::ZERO);
            loop {
                let last = match stopped.recv_timeout(LOOK_EVERY) {
                    Err(RecvTimeoutError::Timeout) => false,
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
                };
                let (now, scarce) = (self.free(), self.scarce());
                let fallen = free.saturating_sub(now);
                let due = scarce.is_some()
                    || fallen >= self.limit.saturating_sub(known) / 2
                    || measured.elapsed() >= MEASURE_EVERY;
                if !(due && measured.elapsed() >= took * SHARE || last && fallen > 0) {
                    if last {
                        return None;
                    }
                    continue;
                }
                let begun = Instant::now();
                let growth = match self.growth(launcher) {
                    Ok(growth) => growth,
                    Err(reason) => {
                        let _ = sender.send(Event::Disk(reason.clone()));
                        return Some(reason);
                    }
                };
                (known, free, measured, took) = (growth, now, Instant::now(), begun.elapsed());
                let reason = if growth > self.limit {
                    format!("the disk limit is reached: {growth} bytes more than before, of {} (--disk)", self.limit)
                } else if let Some(path) = scarce.filter(|_| growth.max(self.free_before.saturating_sub(now)) > LITTLE)
                {
                    format!("the disk is nearly full: the file system of {} must keep some room", path.display())
                } else if last {
                    return None;
                } else {
                    continue;
                };
                let _ = sender.send(Event::Disk(reason.clone()));
                return Some(reason);
            }
        });
        Watch { stop, thread }
    }

    /// Bytes that the run has added.
    fn growth(&self, launcher: Pid) -> std::result::Result<u64, String> {
        let now = self.measure(Some(launcher))?;
        let seen = now.bytes.saturating_sub(self.before.bytes);
        // Nobody can look into a directory that the agent has closed: then the
        // file system's word counts, whoever wrote.
        let closed = now.closed > self.before.closed;
        let unseen = if closed { self.free_before.saturating_sub(self.free()) } else { 0 };
        Ok(seen.max(unseen))
    }

    /// Everything in the places, and what processes below `launcher` have open of
    /// it that has no name any more.
    fn measure(&self, launcher: Option<Pid>) -> std::result::Result<Tally, String> {
        let mut walk = Walk { tally: Tally::default(), seen: HashSet::new() };
        let mut devices = HashSet::new();
        for place in &self.places {
            let failed = |errno: Errno| format!("{}: {}", place.path.display(), errno.desc());
            let stat = fstat(&place.root).map_err(failed)?;
            devices.insert(stat.st_dev);
            walk.add(&stat);
            if is_directory(&stat) {
                walk.directory(&place.root, c".", (stat.st_dev, 0)).map_err(|errno| match errno {
                    Errno::EMFILE | Errno::ENFILE | Errno::ENAMETOOLONG => {
                        format!("{} is too deep to be measured (more than {DEEPEST} levels)", place.path.display())
                    }
                    errno => failed(errno),
                })?;
            }
        }
        if let Some(launcher) = launcher {
            let mut looked = 0;
            each_below(launcher, |process, _| {
                // Threads may have tables of their own (clone(2), CLONE_FILES), and the first one may be gone.
                let threads = entries(format!("/proc/{process}/task"));
                let open = threads.flat_map(|thread| entries(thread.join("fd")));
                for path in open.chain([PathBuf::from(format!("/proc/{process}/exe"))]) {
                    looked += 1;
                    if looked > MOST_OPEN {
                        return false;
                    }
                    let Ok(meta) = fs::metadata(path) else { continue };
                    if meta.nlink() == 0 && devices.contains(&meta.dev()) && walk.seen.insert((meta.dev(), meta.ino()))
                    {
                        walk.tally.bytes += meta.blocks() * BLOCK;
                    }
                }
                true
            });
            if looked > MOST_OPEN {
                return Err(format!(
                    "the run has more than {MOST_OPEN} open files: what they hold cannot be measured (--disk)"
                ));
            }
        }
        Ok(walk.tally)
    }

    /// Free bytes of all file systems behind the places.
    fn free(&self) -> u64 {
        let mut devices = HashSet::new();
        let once = |place: &&Place| fstat(&place.root).is_ok_and(|stat| devices.insert(stat.st_dev));
        self.places
            .iter()
            .filter(once)
            .filter_map(|place| fstatvfs(&place.root).ok())
            .map(|its| its.f_bfree * its.f_frsize)
            .sum()
    }

    /// A place whose file system has less left than it must keep.
    fn scarce(&self) -> Option<&PathBuf> {
        let is_scarce = |place: &&Place| {
            fstatvfs(&place.root).is_ok_and(|its| its.f_bavail * its.f_frsize < floor_of(its.f_blocks * its.f_frsize))
        };
        self.places.iter().find(is_scarce).map(|place| &place.path)
    }
}

/// The guard at work.
#[derive(Debug)]
pub struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Option<String>>,
}

impl Watch {
    /// Looks once more, and ends; why the limit was reached, if it was.
    pub fn end(self) -> Option<String> {
        let _ = self.stop.send(());
        self.thread.join().ok().flatten()
    }
}

struct Walk {
    tally: Tally,
    /// Files with several names, or none, that were counted.
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    fn add(&mut self, stat: &FileStat) {
        if is_directory(stat) || stat.st_nlink < 2 || self.seen.insert((stat.st_dev, stat.st_ino)) {
            self.tally.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
        }
    }

    /// What is in the directory `name` of `parent`, on the same file system. No
    /// link is followed: the agent may change everything meanwhile.
    fn directory(
        &mut self,
        parent: &impl AsFd,
        name: &std::ffi::CStr,
        (device, depth): (u64, usize),
    ) -> nix::Result<()> {
        if depth > DEEPEST {
            return Err(Errno::ENAMETOOLONG);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut directory = match Dir::openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::EACCES | Errno::EPERM) => {
                self.tally.closed += 1;
                return Ok(());
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let names: Vec<_> = directory.iter().filter_map(|entry| Some(entry.ok()?.file_name().to_owned())).collect();
        for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            let Ok(stat) = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_dev != device {
                continue;
            }
            self.add(&stat);
            if is_directory(&stat) {
                self.directory(&directory, name, (device, depth + 1))?;
            }
        }
        Ok(())
    }
}

/// What a directory of /proc holds; nothing when it is gone.
fn entries(path: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}
