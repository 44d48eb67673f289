//! The guard of `--disk`: measures by how much a run fills what is mounted
//! read-write, and what is left of the file systems behind it. It is no quota: an
//! agent can write past the limit for as long as one look takes.

mod walk;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use nix::unistd::Pid;
use rustix::fs::fstatvfs;
use tokio::sync::mpsc::UnboundedSender;

use self::walk::{DEEPEST, Tally, Walk};
use super::supervise::Event;
use crate::error::{Context, Error, Result, shell_word};
use crate::plan::{Plan, floor_of, open_without_links, source_of};

/// How often the file systems are asked what is free.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often everything is measured, whatever they say: what somebody else frees
/// hides what the agent writes.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// Of its time the guard measures at most one part in this many.
const SHARE: u32 = 4;
/// While a disk has lost less than this during the run, and the agent has written
/// less, a full disk is nothing that ends the run, in bytes.
const LITTLE: u64 = 1 << 20;

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
                .hint("remove what cannot be measured, or run without --disk")
        })?;
        if guard.before.deep {
            eprintln!(
                "belljar: some directories lie more than {DEEPEST} levels deep and cannot be measured; for this run \
                 whatever the file system loses counts (--disk)\nhint: {}",
                guard.find_deep()
            );
        }
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
                // Others may have freed meanwhile what the agent wrote: the last look is a measure.
                if !(last || due && measured.elapsed() >= took * SHARE) {
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
        if now.deep && !self.before.deep {
            return Err(format!(
                "a directory is too deep to be measured (more than {DEEPEST} levels; --disk); {} names it",
                self.find_deep()
            ));
        }
        let seen = now.bytes.saturating_sub(self.before.bytes);
        // Nobody can look into a directory or a process that the agent has closed:
        // then the file system's word counts, whoever wrote.
        let closed = now.closed > self.before.closed || self.before.deep;
        let unseen = if closed { self.free_before.saturating_sub(self.free()) } else { 0 };
        Ok(seen.max(unseen))
    }

    /// A command that names a directory which is too deep.
    fn find_deep(&self) -> String {
        let places: Vec<_> = self.places.iter().map(|place| shell_word(&place.path.to_string_lossy())).collect();
        format!("find {} -mindepth {DEEPEST} -type d -print -quit", places.join(" "))
    }

    /// Everything in the places, and what processes below `launcher` have open of
    /// it that has no name any more.
    fn measure(&self, launcher: Option<Pid>) -> std::result::Result<Tally, String> {
        let mut walk = Walk::default();
        for place in &self.places {
            walk.place(&place.root).map_err(|errno| format!("{}: {}", place.path.display(), errno.desc()))?;
        }
        if let Some(launcher) = launcher {
            walk.processes(launcher)?;
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
