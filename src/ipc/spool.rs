//! The files that agents put into `messages/` and `tasks/`. inotify(7) says when;
//! a thread of its own takes some of each group's in turn, so that one that plants a
//! million cannot hold the others up.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use tokio::sync::mpsc::UnboundedSender;

use super::Place;
use super::claim::{Claim, Claims, Finished, Kind};
use super::perform::Desk;
use crate::config::{Dirs, Groups};
use crate::error::{Context, Result};
use crate::store::{Store, bell::bell};

/// Files of one directory that are taken in its turn, and for how long at most.
const TURN: usize = 16;
const TURN_TIME: Duration = Duration::from_millis(30);
/// Names that are remembered of a directory; beyond that it is read.
const REMEMBERED: usize = 1024;
/// Reads of events before files are taken.
const EVENTS: u32 = 64;
/// Files of a group that are looked at again, because they may still be written.
const UNFINISHED: usize = 16;
/// In milliseconds, how long after.
const AGAIN: u8 = 20;
/// What is no file, or was linked, is never closed after writing: it is taken when it
/// has been there for so long, a file when nothing was written for longer.
const RIPE: Duration = Duration::from_millis(300);
const RIPE_FILE: Duration = Duration::from_secs(5);

/// What the spool tells the host process.
#[derive(Debug)]
pub enum Done {
    /// Something was changed: by an agent, by a run's listener, or by a person.
    Rung,
    /// A file was refused, for the log.
    Refused {
        /// Whose agent.
        group: String,
        /// What it asked for, and why not.
        message: String,
    },
    /// The spool cannot go on with a group, or at all.
    Failed {
        /// Whose agent.
        group: Option<String>,
        /// Why.
        error: crate::error::Error,
    },
}

/// The thread that reads what agents ask for.
#[derive(Debug)]
pub struct Spool {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Spool {
    /// Begins; what was there before is read first.
    pub fn start(dirs: &Dirs, desk: Desk, tell: UnboundedSender<Done>) -> Result<Self> {
        let stop = Arc::new(
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .step(|| "make an event descriptor".to_owned())?,
        );
        let mut reader = Reader::open(dirs, desk, tell.clone())?;
        let stopped = Arc::clone(&stop);
        let work = move || {
            if let Err(error) = reader.work(&stopped) {
                let _ = tell.send(Done::Failed { group: None, error });
            }
        };
        let thread = std::thread::Builder::new()
            .name("ipc".to_owned())
            .spawn(work)
            .step(|| "start the IPC thread".to_owned())?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Counting to one cannot fail.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One of a group's directories.
struct Inbox {
    watch: WatchDescriptor,
    kind: Kind,
    names: VecDeque<OsString>,
    known: HashSet<OsString>,
    /// What has come in and was not closed or renamed yet.
    created: VecDeque<(OsString, Instant)>,
    /// The whole directory is to be read, and how far that is.
    scan: Scan,
}

enum Scan {
    No,
    Wanted,
    At(Box<Dir>),
}

struct GroupSpool {
    place: Place,
    inboxes: [Inbox; 2],
    claims: Claims,
    /// What was claimed before the host process was killed.
    left: VecDeque<Claim>,
    unfinished: Vec<Claim>,
}

struct Reader {
    dirs: Dirs,
    desk: Desk,
    store: Store,
    tell: UnboundedSender<Done>,
    inotify: Inotify,
    bell: WatchDescriptor,
    groups: BTreeMap<String, GroupSpool>,
}

impl Reader {
    fn open(dirs: &Dirs, desk: Desk, tell: UnboundedSender<Done>) -> Result<Self> {
        let store = Store::open(dirs)?;
        store.ring();
        let step = || "watch with inotify".to_owned();
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).step(step)?;
        let bell = inotify.add_watch(&bell(dirs), AddWatchFlags::IN_CLOSE_WRITE).step(step)?;
        let mut reader = Self { dirs: dirs.clone(), desk, store, tell, inotify, bell, groups: BTreeMap::new() };
        reader.look_at_groups()?;
        Ok(reader)
    }

    /// Opens the directories of groups that are new, and leaves those that are gone.
    fn look_at_groups(&mut self) -> Result<()> {
        let groups = Groups::new(&self.dirs).list()?;
        let is_there = |name: &str| groups.iter().any(|group| group.name.as_str() == name);
        let is_gone = |(name, spool): &(&String, &GroupSpool)| !is_there(name) || !spool.place.is_there();
        let gone: Vec<String> = self.groups.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            if let Some(left) = self.groups.remove(&name) {
                for inbox in left.inboxes {
                    // It may have been removed with its directory.
                    let _ = self.inotify.rm_watch(inbox.watch);
                }
            }
        }
        for group in groups {
            if self.groups.contains_key(group.name.as_str()) {
                continue;
            }
            let opened = Place::open(&self.dirs, &group).and_then(|place| self.watch(place));
            match opened {
                Ok(spool) => drop(self.groups.insert(group.name.to_string(), spool)),
                Err(error) => self.say(Done::Failed { group: Some(group.name.to_string()), error }),
            }
        }
        Ok(())
    }

    fn watch(&self, place: Place) -> Result<GroupSpool> {
        let inbox = |kind: Kind, at: BorrowedFd<'_>| -> Result<Inbox> {
            // The directory itself, whatever its name is meanwhile.
            let path = format!("/proc/self/fd/{}", at.as_raw_fd());
            let what = AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_ONLYDIR;
            let watch = self
                .inotify
                .add_watch(Path::new(&path), what)
                .step(|| format!("watch {} of {}", kind.name(), place.group()))
                .map_err(|error| error.hint("sysctl fs.inotify.max_user_watches"))?;
            Ok(Inbox {
                watch,
                kind,
                names: VecDeque::new(),
                known: HashSet::new(),
                created: VecDeque::new(),
                scan: Scan::Wanted,
            })
        };
        let inboxes = [inbox(Kind::Messages, place.messages.as_fd())?, inbox(Kind::Tasks, place.tasks.as_fd())?];
        let claims = Claims::open(&self.dirs, &place)?;
        let left = claims.left();
        Ok(GroupSpool { place, inboxes, claims, left, unfinished: Vec::new() })
    }

    fn say(&self, done: Done) {
        // A host process that is being stopped listens no more.
        let _ = self.tell.send(done);
    }

    fn work(&mut self, stop: &EventFd) -> Result<()> {
        loop {
            let wait = if self.has_work() {
                PollTimeout::ZERO
            } else if self.groups.values().any(|spool| !spool.unfinished.is_empty()) {
                PollTimeout::from(AGAIN)
            } else if self.groups.values().flat_map(|spool| &spool.inboxes).any(|inbox| !inbox.created.is_empty()) {
                PollTimeout::from(10 * u16::from(AGAIN))
            } else {
                PollTimeout::NONE
            };
            let mut ready =
                [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).step(|| "wait for files of agents".to_owned()),
            }
            if ready[1].any() == Some(true) {
                return Ok(());
            }
            if ready[0].any() == Some(true) {
                self.hear()?;
            }
            self.take_turns();
        }
    }

    fn has_work(&self) -> bool {
        let waits = |inbox: &Inbox| !inbox.names.is_empty() || !matches!(inbox.scan, Scan::No);
        self.groups.values().any(|spool| !spool.left.is_empty() || spool.inboxes.iter().any(waits))
    }

    fn hear(&mut self) -> Result<()> {
        let mut rung = false;
        // The rest at the next poll: an agent can make events faster than they are read.
        for _ in 0..EVENTS {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => break,
                Err(errno) => return Err(errno).step(|| "read from inotify".to_owned()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    rung = true;
                    let inboxes = self.groups.values_mut().flat_map(|spool| &mut spool.inboxes);
                    inboxes.for_each(Inbox::scan);
                    continue;
                }
                rung |= event.wd == self.bell;
                let mut inboxes = self.groups.values_mut().flat_map(|spool| &mut spool.inboxes);
                if let (Some(inbox), Some(name)) = (inboxes.find(|inbox| inbox.watch == event.wd), event.name) {
                    match event.mask.contains(AddWatchFlags::IN_CREATE) {
                        true => inbox.note_created(name),
                        false => inbox.note(name),
                    }
                }
            }
        }
        if rung {
            if let Err(error) = self.look_at_groups() {
                self.say(Done::Failed { group: None, error });
            }
            self.say(Done::Rung);
        }
        Ok(())
    }

    /// Some files of each group.
    fn take_turns(&mut self) {
        let Self { groups, store, desk, tell, .. } = self;
        for spool in groups.values_mut() {
            let left = spool.left.len().min(TURN);
            let again = std::mem::take(&mut spool.unfinished).into_iter();
            for claim in again.chain(spool.left.drain(..left).collect::<Vec<_>>()) {
                let finished = spool.claims.finish((store, desk, &spool.place), claim);
                spool.note(finished, tell);
            }
            if !spool.left.is_empty() {
                continue;
            }
            for index in 0..spool.inboxes.len() {
                let begun = Instant::now();
                for _ in 0..TURN {
                    let GroupSpool { place, inboxes, claims, .. } = &mut *spool;
                    let inbox = &mut inboxes[index];
                    inbox.ripen(inbox.kind.of(place));
                    let Some(name) = inbox.next(inbox.kind.of(place)) else { break };
                    if let Some(finished) = claims.take((store, desk, place), (inbox.kind, &name)) {
                        spool.note(finished, tell);
                    }
                    if begun.elapsed() > TURN_TIME {
                        break;
                    }
                }
            }
        }
    }
}

impl GroupSpool {
    fn note(&mut self, finished: Finished, tell: &UnboundedSender<Done>) {
        let group = self.place.group().to_owned();
        match finished {
            Finished::Done => {}
            Finished::NotYet(claim) if self.unfinished.len() < UNFINISHED => self.unfinished.push(claim),
            Finished::NotYet(claim) => {
                if let Finished::Refused(message) = self.claims.give_up(&self.place, &claim) {
                    let _ = tell.send(Done::Refused { group, message });
                }
            }
            Finished::Refused(message) => drop(tell.send(Done::Refused { group, message })),
        }
    }
}

impl Inbox {
    fn scan(&mut self) {
        self.names.clear();
        self.known.clear();
        self.created.clear();
        self.scan = Scan::Wanted;
    }

    fn note(&mut self, name: OsString) {
        // Half-written ones have other names (NanoClaw: NAME.tmp).
        if !name.as_bytes().ends_with(b".json") || self.known.contains(&name) {
            return;
        }
        if self.names.len() >= REMEMBERED {
            self.scan();
            return;
        }
        self.known.insert(name.clone());
        self.names.push_back(name);
    }

    fn note_created(&mut self, name: OsString) {
        if !name.as_bytes().ends_with(b".json") {
            return;
        }
        if self.created.len() >= REMEMBERED {
            self.scan();
            return;
        }
        self.created.push_back((name, Instant::now()));
    }

    /// Notes what has been there for long enough; what is gone was taken.
    fn ripen(&mut self, at: BorrowedFd<'_>) {
        if self.created.front().is_none_or(|(_, since)| since.elapsed() < RIPE) {
            return;
        }
        for (name, since) in std::mem::take(&mut self.created) {
            let Ok(stat) = statat(at, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if since.elapsed() < if is_file { RIPE_FILE } else { RIPE } {
                self.created.push_back((name, since));
            } else {
                self.note(name);
            }
        }
    }

    /// The next name that waits; the directory is read a few entries at a time.
    fn next(&mut self, at: BorrowedFd<'_>) -> Option<OsString> {
        if let Some(name) = self.names.pop_front() {
            self.known.remove(&name);
            return Some(name);
        }
        if matches!(self.scan, Scan::Wanted) {
            // A descriptor of its own: the position in the directory is not shared.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened: Option<OwnedFd> = openat(at, ".", flags, Mode::empty()).ok();
            let directory = opened.and_then(|fd| Dir::new(fd).ok());
            self.scan = directory.map_or(Scan::No, |directory| Scan::At(Box::new(directory)));
        }
        let Scan::At(directory) = &mut self.scan else { return None };
        // Names that are not ours do not count, but they take time.
        for _ in 0..REMEMBERED {
            match directory.next() {
                Some(Ok(entry)) if entry.file_name().to_bytes().ends_with(b".json") => {
                    return Some(OsString::from_vec(entry.file_name().to_bytes().to_vec()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.scan = Scan::No;
                    return None;
                }
            }
        }
        None
    }
}
