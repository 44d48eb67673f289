//! One file of an agent's: taken away by rename, so that nobody changes its name
//! meanwhile, read once, done once, and then removed. What was taken when the host
//! process was killed is done at the next start, or was done: its name is the key.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, renameat, statat, unlinkat};

use super::files::{self, Unreadable};
use super::perform::{Desk, Way};
use super::refusal::bounded;
use super::{Identity, Operation, Place};
use crate::config::{Dirs, create_private};
use crate::error::{Context, Error, Result, printable};
use crate::store::Store;

/// Longest file, in bytes.
const LONGEST: u64 = 1 << 20;
/// How long a file that ends too early may still be written: not all that write
/// here rename a finished file into its place.
const UNFINISHED: Duration = Duration::from_millis(300);
/// How long it may be written at all: times of files are their owner's to set.
const PATIENCE: Duration = Duration::from_secs(10);
/// Files that are kept of a group because they were not understood.
const SET_ASIDE: usize = 100;

/// Which directory it lay in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `messages/`.
    Messages,
    /// `tasks/`.
    Tasks,
}

impl Kind {
    /// The directory's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Tasks => "tasks",
        }
    }

    /// The directory.
    pub fn of(self, place: &Place) -> BorrowedFd<'_> {
        match self {
            Self::Messages => place.messages.as_fd(),
            Self::Tasks => place.tasks.as_fd(),
        }
    }

    /// Whether such an operation belongs there.
    fn takes(self, operation: &Operation) -> bool {
        (self == Self::Messages) == matches!(operation, Operation::SendMessage { .. })
    }
}

/// A file that was taken away from the agent.
#[derive(Debug)]
pub struct Claim {
    /// Among those that were taken; its key too.
    name: String,
    kind: Kind,
    /// As the agent called it, for people.
    shown: String,
    since: Instant,
    /// Its length when it was last read.
    read: Cell<Option<u64>>,
}

/// What came of a file.
#[derive(Debug)]
pub enum Finished {
    /// It was done.
    Done,
    /// It was not, and the agent knows why; this is for the log.
    Refused(String),
    /// It is still being written: to be looked at again.
    NotYet(Claim),
}

/// Where a group's files are taken to: no agent sees it.
pub struct Claims {
    at: OwnedFd,
    path: PathBuf,
    aside: PathBuf,
    count: Cell<u64>,
}

/// What a file needs to be done.
type Bench<'a> = (&'a Store, &'a Desk, &'a Place);

impl Claims {
    /// Of a group.
    pub fn open(dirs: &Dirs, place: &Place) -> Result<Self> {
        // In the same file system as what is taken: a rename does not leave it.
        let path = dirs.data.join("ipc/.claimed").join(place.group());
        let aside = dirs.data.join("ipc/.refused").join(place.group());
        create_private(&path)?;
        create_private(&aside)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let at = open(&path, flags, Mode::empty()).step(|| format!("open {}", path.display()))?;
        Ok(Self { at, path, aside, count: Cell::new(0) })
    }

    /// Those that were taken and not finished, oldest first.
    pub fn left(&self) -> VecDeque<Claim> {
        let names = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let kind = |name: &str| match name.rsplit_once('.')?.1 {
            "messages" => Some(Kind::Messages),
            "tasks" => Some(Kind::Tasks),
            _ => None,
        };
        let (since, read) = (Instant::now(), Cell::new(None));
        let claim =
            |name: String| Some(Claim { kind: kind(&name)?, shown: name.clone(), name, since, read: read.clone() });
        names.into_iter().filter_map(claim).collect()
    }

    /// A name that none has had.
    fn next(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.count.set(self.count.get() + 1);
        format!("{:020}-{:08}", now.as_nanos(), self.count.get())
    }

    /// Takes a file and does what it says. `None` when it is gone.
    pub fn take(&self, bench: Bench<'_>, (kind, name): (Kind, &OsStr)) -> Option<Finished> {
        let (_, _, place) = bench;
        let shown = printable(&name.to_string_lossy());
        let stat = statat(kind.of(place), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let claim = Claim {
            name: format!("{}.{}", self.next(), kind.name()),
            kind,
            shown,
            since: Instant::now(),
            read: Cell::new(None),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Some(self.refuse_directory(place, name, &claim));
        }
        match renameat(kind.of(place), name, &self.at, &claim.name) {
            Ok(()) => Some(self.finish(bench, claim)),
            Err(rustix::io::Errno::NOENT) => None,
            Err(errno) => Some(Finished::Refused(format!("{}: cannot be taken: {errno}", claim.shown))),
        }
    }

    /// Does what a taken file says, and removes it.
    pub fn finish(&self, (store, desk, place): Bench<'_>, claim: Claim) -> Finished {
        let key = format!("{}/{}", place.group(), claim.name);
        let settle = || {
            self.remove(place, &claim);
            // Left, it costs a line in a table.
            let _ = store.forget_handled(std::slice::from_ref(&key));
        };
        if store.is_handled(&key).unwrap_or(false) {
            settle();
            return Finished::Done;
        }
        let operation = match self.understand(place, &claim) {
            Ok(operation) => operation,
            Err(NotUnderstood::Yet) => return Finished::NotYet(claim),
            Err(NotUnderstood::Ever(error, bytes)) => {
                self.remove(place, &claim);
                return self.refuse(place, &claim, (error, bytes));
            }
        };
        let identity = Identity::of(place.group());
        match desk.perform(store, &identity, &Way::File { key: key.clone() }, &operation) {
            Ok(_) => {
                settle();
                Finished::Done
            }
            Err(error) => {
                // What the store could not take is tried again.
                if !store.is_handled(&key).unwrap_or(false) {
                    return Finished::NotYet(claim);
                }
                settle();
                let told = place.say_refused((&claim.shown, operation.name()), &error);
                Finished::Refused(complaint(&claim.shown, operation.name(), &error, told))
            }
        }
    }

    fn understand(&self, place: &Place, claim: &Claim) -> Result<Operation, NotUnderstood> {
        let refused = |why: String| {
            Error::refused("the file is not understood")
                .because(why)
                .hint(r#"for example {"type": "message", "chatJid": "…", "text": "…"}, at most 1 MiB"#)
        };
        let unreadable = |fault: Unreadable| match fault {
            Unreadable::Not(why) => NotUnderstood::Ever(refused(why), None),
            Unreadable::System(error) => NotUnderstood::Ever(refused(error.to_string()), None),
        };
        let limits = (place.owner, LONGEST);
        let mut file = files::plain(self.at.as_fd(), OsStr::new(&claim.name), limits).map_err(unreadable)?;
        // Many long ones are not read again and again while nothing is added.
        let grown = claim.read.get().is_none_or(|read| file.metadata().is_ok_and(|meta| meta.len() != read));
        if !grown && is_fresh(&file) && claim.since.elapsed() < PATIENCE {
            return Err(NotUnderstood::Yet);
        }
        let bytes = files::read(&mut file, LONGEST).map_err(unreadable)?;
        match serde_json::from_slice::<Operation>(&bytes) {
            Ok(operation) if claim.kind.takes(&operation) => Ok(operation),
            Ok(operation) => {
                let why = format!("{} does not belong into {}/", operation.name(), claim.kind.name());
                Err(NotUnderstood::Ever(refused(why), Some(bytes)))
            }
            Err(error) if error.is_eof() && is_fresh(&file) && claim.since.elapsed() < PATIENCE => {
                claim.read.set(Some(bytes.len() as u64));
                Err(NotUnderstood::Yet)
            }
            Err(error) => Err(NotUnderstood::Ever(refused(error.to_string()), Some(bytes))),
        }
    }

    /// Keeps what was not understood, with the reason, for a person to look at.
    fn set_aside(&self, claim: &Claim, error: &Error, bytes: Option<&[u8]>) {
        let keep = || -> io::Result<()> {
            let reason = format!("{}: {}\n", claim.shown, error.with_causes());
            fs::write(self.aside.join(format!("{}.reason", claim.name)), reason)?;
            if let Some(bytes) = bytes {
                fs::write(self.aside.join(format!("{}.json", claim.name)), bytes)?;
            }
            let mut names: Vec<OsString> =
                fs::read_dir(&self.aside)?.flatten().map(|entry| entry.file_name()).collect();
            if names.len() > 2 * SET_ASIDE {
                names.sort();
                let surplus = names.len() - 2 * SET_ASIDE;
                names.iter().take(surplus).try_for_each(|name| fs::remove_file(self.aside.join(name)))?;
            }
            Ok(())
        };
        // It is told to the agent and to the log, too.
        let _ = keep();
    }

    fn remove(&self, place: &Place, claim: &Claim) {
        // Left, it would be found done at the next start.
        if unlinkat(&self.at, &claim.name, AtFlags::empty()) == Err(rustix::io::Errno::ISDIR) {
            // The agent was quicker than the look at what it is: it gets that back.
            let _ = renameat(&self.at, &claim.name, claim.kind.of(place), format!(".refused-{}", self.next()));
        }
    }

    /// Says no, and why, to all who should know.
    fn refuse(&self, place: &Place, claim: &Claim, (error, bytes): (Error, Option<Vec<u8>>)) -> Finished {
        let error = bounded(error);
        self.set_aside(claim, &error, bytes.as_deref());
        let told = place.say_refused((&claim.shown, "what is not understood"), &error);
        Finished::Refused(complaint(&claim.shown, "not understood", &error, told))
    }

    /// Does not wait for the end of a file.
    pub fn give_up(&self, place: &Place, claim: &Claim) -> Finished {
        self.remove(place, claim);
        let error = Error::refused("the file is not understood")
            .because("it is not finished, and too many others are not either")
            .hint("write NAME.tmp, and rename it to NAME.json when it is finished");
        self.refuse(place, claim, (error, None))
    }

    /// A directory is not taken: what lies in it counts as the agent's.
    fn refuse_directory(&self, place: &Place, name: &OsStr, claim: &Claim) -> Finished {
        let from = claim.kind.of(place);
        if unlinkat(from, name, AtFlags::REMOVEDIR).is_err() {
            let _ = renameat(from, name, from, format!(".refused-{}", self.next()));
        }
        let error = Error::refused("the file is not understood").because("it is a directory").hint("write a file");
        self.refuse(place, claim, (error, None))
    }
}

enum NotUnderstood {
    /// Somebody may still be writing it.
    Yet,
    /// Why, and what was read.
    Ever(Error, Option<Vec<u8>>),
}

/// Whether somebody may still be writing it; a time to come is none of writing.
fn is_fresh(file: &File) -> bool {
    let written = file.metadata().and_then(|meta| meta.modified()).ok();
    written.and_then(|at| at.elapsed().ok()).is_some_and(|age| age < UNFINISHED)
}

fn complaint(shown: &str, what: &str, error: &Error, told: Result<()>) -> String {
    let not_told = told.err().map(|error| format!("; the agent could not be told: {}", error.with_causes()));
    format!("{shown}: {what}: {}{}", error.with_causes(), not_told.unwrap_or_default())
}
