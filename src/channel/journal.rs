//! What a channel program remembers when it is started again: ids of messages that
//! it has begun to send, so that none is sent twice, and messages that came in and
//! that the host process has not stored, so that none is lost.
//!
//! A file of JSON lines that is only added to, written anew at the start and when it
//! has grown. An id is on the disk before the first byte of its message goes out:
//! after a crash a message may be missing, but is not there twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::pipe::log;
use super::protocol::Message;
use crate::config::sync_directory;
use crate::error::{Context, Error, Result};

/// Ids of sent messages that are kept.
const IDS: usize = 10_000;
/// Messages that wait for the host process to store them, at most.
const NOT_STORED: usize = 10_000;
/// The file is written anew when it has grown by this, in bytes.
const GROWTH: u64 = 32 << 20;
/// How long an older process of the same channel may take to end.
const LOCK_WITHIN: Duration = Duration::from_secs(30);

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first bytes of this message may be on their way.
    Begun(String),
    /// The network did not take it.
    Refused { id: String, error: String },
    /// It came in.
    Came(Message),
    /// The host process has it.
    Stored(String),
}

/// What became of a message whose id is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was sent, as far as anybody knows.
    Sent,
    /// It was not, and why.
    Refused(String),
}

/// The open journal; nobody else has it open.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    rewrite_at: u64,
    fates: HashMap<String, Fate>,
    /// Their ids, oldest first.
    order: VecDeque<String>,
    /// By the order in which they came.
    not_stored: BTreeMap<u64, Message>,
    came: u64,
    _lock: Flock<File>,
}

impl Journal {
    /// Opens the journal in this directory; waits for an older process to end.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let lock = lock(&directory.join("lock"))?;
        let path = directory.join("journal");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.step(|| format!("read {}", path.display()))?,
        };
        let file = create(&path.with_extension("new")).step(|| format!("write beside {}", path.display()))?;
        let mut journal = Self {
            path,
            file,
            length: 0,
            rewrite_at: 0,
            fates: HashMap::new(),
            order: VecDeque::new(),
            not_stored: BTreeMap::new(),
            came: 0,
            _lock: lock,
        };
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(line) => journal.apply(line),
                // A process that was killed, or a full disk, leaves half of one.
                Err(error) => log(&format!("passed over a line of {}: {error}", journal.path.display())),
            }
        }
        journal.rewrite().step(|| format!("write {}", journal.path.display()))?;
        Ok(journal)
    }

    /// What is known of a message with this id; none, when it has never been begun.
    pub(super) fn fate(&self, id: &str) -> Option<&Fate> {
        self.fates.get(id)
    }

    /// Notes that this message is about to be sent. It must not be when this fails.
    pub(super) fn begin(&mut self, id: &str) -> io::Result<()> {
        let noted = self.note(Line::Begun(id.to_owned())).and_then(|()| self.file.sync_data());
        noted.inspect_err(|_| {
            // It will not be sent, and may be tried again.
            self.fates.remove(id);
            self.order.retain(|known| known != id);
        })
    }

    /// Notes that the network did not take a message.
    pub(super) fn refused(&mut self, id: &str, error: &str) -> io::Result<()> {
        self.note(Line::Refused { id: id.to_owned(), error: error.to_owned() })
    }

    /// Whether the host process has so much to store that no more should be taken in.
    pub(super) fn is_full(&self) -> bool {
        self.not_stored.len() >= NOT_STORED
    }

    /// Notes a message that came in. Not forced to the disk: a power failure that takes
    /// it away could as well have come before the message did.
    pub(super) fn came(&mut self, message: &Message) -> io::Result<()> {
        self.note(Line::Came(message.clone()))
    }

    /// Notes that the host process has stored a message.
    pub(super) fn stored(&mut self, id: &str) -> io::Result<()> {
        self.note(Line::Stored(id.to_owned()))
    }

    /// The messages that the host process has not stored, oldest first.
    pub(super) fn not_stored(&self) -> impl Iterator<Item = &Message> {
        self.not_stored.values()
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Begun(id) => self.remember(id, Fate::Sent),
            Line::Refused { id, error } => self.remember(id, Fate::Refused(error)),
            Line::Came(message) => {
                self.came += 1;
                self.not_stored.insert(self.came, message);
            }
            Line::Stored(id) => {
                // Nearly always the first.
                let found = self.not_stored.iter().find(|(_, message)| message.id == id).map(|(at, _)| *at);
                found.map(|at| self.not_stored.remove(&at));
            }
        }
    }

    fn remember(&mut self, id: String, fate: Fate) {
        if self.fates.insert(id.clone(), fate).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > IDS {
            self.order.pop_front().map(|oldest| self.fates.remove(&oldest));
        }
    }

    fn note(&mut self, line: Line) -> io::Result<()> {
        let text = text(&line)?;
        if let Err(error) = self.file.write_all(&text) {
            // Half a line would spoil the next one.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += text.len() as u64;
        self.apply(line);
        if self.length > self.rewrite_at
            && let Err(error) = self.rewrite()
        {
            // The old one goes on growing; nothing of it is lost.
            log(&format!("{} could not be written anew: {error}", self.path.display()));
            self.rewrite_at = self.length + GROWTH;
        }
        Ok(())
    }

    /// Writes what is still of interest into a new file, which takes the old one's place.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut kept = Vec::new();
        for id in &self.order {
            kept.extend(text(&Line::Begun(id.clone()))?);
            if let Some(Fate::Refused(error)) = self.fates.get(id) {
                kept.extend(text(&Line::Refused { id: id.clone(), error: error.clone() })?);
            }
        }
        for message in self.not_stored.values() {
            kept.extend(text(&Line::Came(message.clone()))?);
        }
        let beside = self.path.with_extension("new");
        let mut file = create(&beside)?;
        file.write_all(&kept)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.file = file;
        self.length = kept.len() as u64;
        self.rewrite_at = self.length + GROWTH;
        sync_directory(&self.path)
    }
}

fn text(line: &Line) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}

/// A new, empty file, for its owner alone. Appending, so that what follows a line that was
/// taken away again (set_len) comes to its place.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().append(true).create_new(true).mode(0o600).open(path)
}

/// Takes the lock; the kernel gives it back when this process ends, however it does.
fn lock(path: &Path) -> Result<Flock<File>> {
    let what = || format!("lock {}", path.display());
    let mut file = File::options().append(true).create(true).mode(0o600).open(path).step(what)?;
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((returned, nix::errno::Errno::EWOULDBLOCK)) if begun.elapsed() < LOCK_WITHIN => file = returned,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(Error::failed(what())
                    .because(format!(
                        "another process of this channel has not ended within {} s",
                        LOCK_WITHIN.as_secs()
                    ))
                    .hint(format!("fuser -v {}", path.display())));
            }
            Err((_, errno)) => return Err(errno).step(what),
        }
        sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str) -> Message {
        Message {
            id: id.to_owned(),
            chat: "c".to_owned(),
            sender: "s".to_owned(),
            sender_name: None,
            address: None,
            chat_name: None,
            text: "x\ny".to_owned(),
            time: None,
        }
    }

    #[test]
    fn what_was_noted_is_there_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(directory.path()).expect("a new one");
        journal.begin("a").expect("noted");
        journal.begin("b\n").expect("noted");
        journal.refused("b\n", "no").expect("noted");
        for id in ["1", "2", "3"] {
            journal.came(&message(id)).expect("noted");
        }
        journal.stored("2").expect("noted");
        journal.stored("never came").expect("noted");
        drop(journal);
        let path = directory.path().join("journal");
        let mut torn = fs::read(&path).expect("it is there");
        torn.extend(b"{\"came\":{\"id\":\"4");
        fs::write(&path, torn).expect("written");
        for _ in 0..2 {
            let journal = Journal::open(directory.path()).expect("the same");
            assert_eq!(journal.fate("a"), Some(&Fate::Sent));
            assert_eq!(journal.fate("b\n"), Some(&Fate::Refused("no".to_owned())));
            assert_eq!(journal.fate("c"), None);
            assert_eq!(journal.not_stored().map(|message| message.id.as_str()).collect::<Vec<_>>(), ["1", "3"]);
        }
    }

    #[test]
    fn the_oldest_ids_are_forgotten_and_the_file_does_not_grow() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(directory.path()).expect("a new one");
        for id in 0..IDS + 5 {
            journal.note(Line::Begun(id.to_string())).expect("noted");
        }
        assert_eq!((journal.fate("4"), journal.fate("5")), (None, Some(&Fate::Sent)));
        let before = journal.length;
        journal.rewrite_at = before;
        journal.note(Line::Stored("x".to_owned())).expect("noted");
        assert!(journal.length < before);
        let length = fs::metadata(directory.path().join("journal")).expect("it is there").len();
        assert_eq!(length, journal.length);
        journal.begin("new").expect("noted");
        drop(journal);
        assert_eq!(Journal::open(directory.path()).expect("again").fate("new"), Some(&Fate::Sent));
    }
}
