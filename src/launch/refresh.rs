//! Watches the directories below merged mounts, and has the launcher drop the
//! names that the overlay has cached, so that what the host saves is seen by
//! the agent within a second. The shadows do not depend on this.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::protocol::{Channel, ToLauncher};

/// A run that is over by then needs no watches; what it would have missed until
/// then, the first refresh makes up for. Closing an inotify instance takes the
/// kernel 10 to 20 ms.
const PATIENCE: Duration = Duration::from_millis(300);
/// A save is several events; they are answered together.
const SETTLE: Duration = Duration::from_millis(40);
/// Refreshing costs the more the more names are cached; not more often than this.
const PAUSE: Duration = Duration::from_millis(100);
/// A name that the agent holds at that moment stays as it was, so names are
/// dropped more than once after a change.
const AGAIN: u32 = 4;
/// And after these, for one that is always held when it is looked at.
const LATER: [Duration; 3] = [Duration::from_millis(400), Duration::from_secs(1), Duration::from_secs(3)];
/// Without watches (limits of inotify(7)) names are dropped this often.
const BLIND: Duration = Duration::from_millis(500);

/// One merged mount: its place in the plan, and its source.
pub struct Watched {
    /// Place in the plan.
    pub index: usize,
    /// The pinned source.
    pub source: OwnedFd,
}

/// Watches until the supervisor ends.
pub fn start(watched: Vec<Watched>, channel: Arc<Channel>) {
    if watched.is_empty() {
        return;
    }
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        watch(&watched, &channel);
    });
}

fn watch(watched: &[Watched], channel: &Channel) {
    match Watcher::new(watched) {
        Ok(mut watcher) => watcher.run(watched, channel),
        Err(_) => refresh_blindly(watched, channel),
    }
}

fn refresh_blindly(watched: &[Watched], channel: &Channel) {
    while refresh(watched.iter().map(|mount| mount.index), channel) {
        thread::sleep(BLIND);
    }
}

fn refresh(places: impl Iterator<Item = usize>, channel: &Channel) -> bool {
    places.into_iter().all(|index| channel.send(&ToLauncher::Refresh(index), &[]).is_ok())
}

struct Watcher {
    inotify: Inotify,
    /// Which directory of which mount (its place in the list) a watch is of.
    of: HashMap<WatchDescriptor, (usize, PathBuf)>,
}

impl Watcher {
    fn new(watched: &[Watched]) -> nix::Result<Self> {
        let mut watcher =
            Self { inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?, of: HashMap::new() };
        for (list, mount) in watched.iter().enumerate() {
            // As it is now, not as the plan saw it: what came since counts too.
            let device = nix::sys::stat::fstat(&mount.source)?.st_dev;
            watcher.add_tree(watched, list, PathBuf::new(), device)?;
        }
        Ok(watcher)
    }

    fn add(&mut self, watched: &[Watched], list: usize, directory: PathBuf) -> nix::Result<()> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        match self.inotify.add_watch(&through(&watched[list].source, &directory), flags) {
            Ok(watch) => {
                self.of.insert(watch, (list, directory));
                Ok(())
            }
            // Gone again, replaced by something else, or not the caller's to read.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn run(&mut self, watched: &[Watched], channel: &Channel) {
        // What changed between the plan and the first watch may be anywhere; mostly nothing did.
        let mut changed: BTreeSet<usize> = watched.iter().map(|mount| mount.index).collect();
        let mut times = 1;
        loop {
            match self.answer(times, &mut changed, watched, channel) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return refresh_blindly(watched, channel),
            }
            let mut later = LATER.iter();
            loop {
                let pause = later.next().and_then(|pause| PollTimeout::try_from(*pause).ok());
                if pause.is_none() {
                    changed.clear();
                }
                let mut wait = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
                match poll(&mut wait, pause.unwrap_or(PollTimeout::NONE)) {
                    Ok(0) if refresh(changed.iter().copied(), channel) => {}
                    Ok(0) => return,
                    Ok(_) | Err(Errno::EINTR) => break,
                    Err(_) => return refresh_blindly(watched, channel),
                }
            }
            thread::sleep(SETTLE);
            times = AGAIN;
        }
    }

    /// Drops the names of what changed, so many times; whether there is a launcher.
    fn answer(
        &mut self,
        times: u32,
        changed: &mut BTreeSet<usize>,
        watched: &[Watched],
        channel: &Channel,
    ) -> nix::Result<bool> {
        for _ in 0..times {
            changed.extend(self.drain(watched)?);
            if !refresh(changed.iter().copied(), channel) {
                return Ok(false);
            }
            thread::sleep(PAUSE);
        }
        Ok(true)
    }

    /// The places of the mounts in which something changed; new directories are
    /// watched from now on.
    fn drain(&mut self, watched: &[Watched]) -> nix::Result<BTreeSet<usize>> {
        let mut changed = BTreeSet::new();
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(errno) => return Err(errno),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    changed.extend(watched.iter().map(|mount| mount.index));
                    continue;
                }
                let Some((list, directory)) = self.of.get(&event.wd).cloned() else {
                    continue;
                };
                changed.insert(watched[list].index);
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.of.remove(&event.wd);
                }
                let is_new = event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
                if let (true, true, Some(name)) = (is_new, event.mask.contains(AddWatchFlags::IN_ISDIR), event.name) {
                    let device = nix::sys::stat::fstat(&watched[list].source)?.st_dev;
                    self.add_tree(watched, list, directory.join(name), device)?;
                }
            }
        }
    }

    /// Watches a directory, then looks for those in it, so that none is missed.
    /// Other file systems mounted below are not part of the run.
    fn add_tree(&mut self, watched: &[Watched], list: usize, directory: PathBuf, device: u64) -> nix::Result<()> {
        self.add(watched, list, directory.clone())?;
        let Ok(entries) = fs::read_dir(through(&watched[list].source, &directory)) else { return Ok(()) };
        for entry in entries.flatten() {
            let is_below = entry.file_type().is_ok_and(|kind| kind.is_dir())
                && entry.metadata().is_ok_and(|meta| meta.dev() == device);
            if is_below {
                self.add_tree(watched, list, directory.join(entry.file_name()), device)?;
            }
        }
        Ok(())
    }
}

fn through(source: &OwnedFd, directory: &Path) -> PathBuf {
    Path::new("/proc/self/fd").join(source.as_raw_fd().to_string()).join(directory)
}
