//! A group's IPC directory, by held descriptors: whatever the agent does with the
//! names in it, the host reads and writes these directories.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, open, statat};
use serde_json::{Value, json};

use super::files;
use crate::config::{Dirs, Group, create_private, open_again};
use crate::error::{Context, Error, Result};

/// Refusals that wait to be read at once; then the oldest place is used again.
const REFUSALS: u32 = 100;
/// Names in `input/` that are looked at.
const LOOKED_AT: usize = 4096;

/// A group's IPC directory.
#[derive(Debug)]
pub struct Place {
    group: String,
    top: OwnedFd,
    pub(super) messages: OwnedFd,
    pub(super) tasks: OwnedFd,
    input: OwnedFd,
    /// Whose files are read: on disk the agent's are the directory's owner's.
    pub(super) owner: u32,
    refused: std::cell::Cell<u32>,
}

impl Place {
    /// Opens it; what is missing is made.
    pub fn open(dirs: &Dirs, group: &Group) -> Result<Self> {
        open_again(&dirs.data.join("ipc").join(group.name.as_str()))?;
        for directory in group.directories(&dirs.data) {
            open_again(&directory)?;
            create_private(&directory)?;
        }
        let name = group.name.as_str();
        let shown = dirs.data.join("ipc").join(name);
        let step = || format!("open the IPC directory {}", shown.display());
        let hint = |error: Error| error.hint(format!("ls -la {}", shown.display()));
        let opened = || -> io::Result<Self> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let ipc = open(dirs.data.join("ipc"), flags, Mode::empty())?;
            let top = files::directory(ipc.as_fd(), name)?;
            let below = |name: &str| files::directory(top.as_fd(), name);
            let (messages, tasks, input) = (below("messages")?, below("tasks")?, below("input")?);
            let owner = fstat(&top)?.st_uid;
            Ok(Self { group: name.to_owned(), top, messages, tasks, input, owner, refused: std::cell::Cell::new(0) })
        };
        opened().step(step).map_err(hint)
    }

    /// Whether these directories are there still: a person may have removed them.
    pub fn is_there(&self) -> bool {
        [&self.top, &self.messages, &self.tasks, &self.input]
            .into_iter()
            .all(|held| fstat(held).is_ok_and(|stat| stat.st_nlink > 0))
    }

    /// Takes back what a run that was killed has not read of the host's: it comes anew.
    pub fn take_back_messages(&self) {
        let Ok(directory) = Dir::read_from(&self.input) else { return };
        let ours = |name: &[u8]| {
            let digits = |part: &[u8], count: usize| part.len() == count && part.iter().all(u8::is_ascii_digit);
            name.len() == 31
                && digits(&name[..15], 15)
                && name[15] == b'-'
                && digits(&name[16..26], 10)
                && name.ends_with(b".json")
        };
        // An agent can have put a million others there.
        let names = directory.take(LOOKED_AT).flatten().map(|entry| entry.file_name().to_owned());
        for name in names.filter(|name| ours(name.to_bytes())).collect::<Vec<_>>() {
            let _ = rustix::fs::unlinkat(self.input.as_fd(), name, AtFlags::empty());
        }
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// A file that the agent is to read in `input/`: `{"type": "message", …}`.
    pub fn say(&self, name: &str, text: &str) -> Result<()> {
        self.put(self.input.as_fd(), name, &json!({ "type": "message", "text": text }))
    }

    /// Tells the agent that something was refused, and why.
    pub fn say_refused(&self, what: (&str, &str), error: &Error) -> Result<()> {
        let (file, operation) = what;
        let slot = self.refused.get();
        self.refused.set((slot + 1) % REFUSALS);
        let hint = error.hint.as_deref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        let text = format!("belljar refused {operation} ({file}): {}{hint}", error.with_causes());
        let value = json!({
            "type": "message",
            "text": text,
            "refused": { "file": file, "operation": operation, "reason": error.with_causes(), "hint": error.hint },
        });
        self.put(self.input.as_fd(), &format!("refused-{slot:02}.json"), &value)
    }

    /// Tells a NanoClaw runner that nothing more comes.
    pub fn say_close(&self) -> Result<()> {
        files::write(self.input.as_fd(), "_close", b"").step(|| format!("write input/_close of {}", self.group))
    }

    /// Takes back what the last run has not read.
    pub fn take_back_close(&self) {
        // It is most often not there.
        let _ = rustix::fs::unlinkat(self.input.as_fd(), "_close", AtFlags::empty());
    }

    /// Whether a file in `input/` is still there.
    pub fn is_unread(&self, name: &str) -> bool {
        statat(&self.input, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Takes a file out of `input/` that was not read.
    pub fn take_back(&self, name: &str) {
        let _ = rustix::fs::unlinkat(self.input.as_fd(), name, AtFlags::empty());
    }

    /// A file beside the three directories.
    pub fn put_snapshot(&self, name: &str, value: &Value) -> Result<()> {
        self.put(self.top.as_fd(), name, value)
    }

    fn put(&self, at: BorrowedFd<'_>, name: &str, value: &Value) -> Result<()> {
        let text = value.to_string() + "\n";
        files::write(at, name, text.as_bytes()).map_err(|error| {
            Error::failed(format!("write {name} for the agent of {}", self.group))
                .because(error)
                .hint(format!("ls -la the ipc directory of {}; belljar group show {}", self.group, self.group))
        })
    }
}
