//! Writing the record.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::entry::{EndLine, Line, time};
use super::{Entry, Head, first, json_line, link};
use crate::config::{Dirs, create_private};
use crate::error::{Context, Error, Result};
use crate::journal::{Events, To};

/// The record of a run while it is written. For many threads.
#[derive(Debug)]
pub struct Log {
    run: String,
    group: String,
    path: PathBuf,
    end: Mutex<End>,
    events: Events,
}

#[derive(Debug)]
struct End {
    file: File,
    /// Bytes of whole lines.
    length: u64,
    head: Head,
    state: Writing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    Finished,
    /// Half a line is at the end and could not be taken away.
    Broken,
}

impl Log {
    /// Begins the record of a run. A file that is there already is an error.
    pub fn create(dirs: &Dirs, run: &str, group: &str, to: To) -> Result<Self> {
        create_private(&dirs.receipts())?;
        let path = super::path(dirs, run);
        // create_new follows no symbolic link (open(2), O_EXCL).
        let file = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .step(|| format!("make the record {}", path.display()))?;
        let head = Head { count: 0, chain: first(run, group) };
        let end = Mutex::new(End { file, length: 0, head, state: Writing::Open });
        let events = Events::new(to, Some(run), Some(group));
        Ok(Self { run: run.to_owned(), group: group.to_owned(), path, end, events })
    }

    /// Adds a line. What cannot be recorded must not pass: an error is for the
    /// gateway to fail closed.
    pub fn append(&self, entry: &Entry) -> Result<()> {
        let mut end = self.end();
        let line = Line::new(end.head.count + 1, &self.run, &self.group, entry);
        self.write(&mut end, &line)?;
        end.head.count += 1;
        drop(end);
        line.tell(&self.events);
        Ok(())
    }

    /// How many there are, and the chain's last value.
    pub fn head(&self) -> Head {
        self.end().head.clone()
    }

    /// Writes the line that says that there are no more, waits until all is on
    /// the disk, and says what the receipt is to hold.
    pub fn finish(&self) -> Result<Head> {
        let mut end = self.end();
        let count = end.head.count;
        let line = EndLine {
            seq: count + 1,
            time: time(SystemTime::now()),
            run: &self.run,
            group: &self.group,
            kind: "end",
            count,
        };
        self.write(&mut end, &line)?;
        end.state = Writing::Finished;
        end.file.sync_all().step(|| format!("write the record {}", self.path.display()))?;
        Ok(end.head.clone())
    }

    fn end(&self) -> MutexGuard<'_, End> {
        // Nothing in it changes before the line is written.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, end: &mut End, line: &impl Serialize) -> Result<()> {
        let refused = |why: &str| Err(Error::failed(format!("write the record {}", self.path.display())).because(why));
        match end.state {
            Writing::Open => {}
            Writing::Finished => return refused("it is finished"),
            Writing::Broken => return refused("an earlier line could not be written, nor taken away"),
        }
        let text = json_line(line)?;
        let chain = link(&end.head.chain, &text);
        let text = with_chain(&text, &chain);
        // One write(2): a reader sees a line or none, and a kill leaves no half
        // of one, but in the middle of that call.
        let written = match end.file.write(text.as_bytes()) {
            Ok(length) if length == text.len() => Ok(()),
            Ok(_) => Err("only a part could be written: is the disk full?".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = written {
            if end.file.set_len(end.length).is_err() {
                end.state = Writing::Broken;
            }
            return refused(&why);
        }
        end.length += text.len() as u64;
        end.head.chain = chain;
        Ok(())
    }
}

/// `{…}` with `"chain"` as its last member, and a newline.
fn with_chain(line: &str, chain: &str) -> String {
    let open = line.strip_suffix('}').unwrap_or(line);
    format!("{open},\"chain\":\"{chain}\"}}\n")
}
