//! The agent's output, where belljar's own goes to the journal: line by line,
//! with the fields of the run. The stream that systemd gives a unit has no room
//! for fields.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::wire::{Entry, Socket};

/// Longest line, in bytes; the rest of a longer one is an entry of its own, as
/// in the journal's streams (journald.conf(5), LineMax=).
const LINE_MAX: usize = 48 << 10;
/// How long a line may wait for a journal that does not read. The agent waits
/// with it, as at any full pipe.
const LINE_WITHIN: Duration = Duration::from_secs(10);

/// Whether the descriptor is the journal's stream (systemd.exec(5), $JOURNAL_STREAM).
pub fn stream(file: impl AsFd) -> bool {
    let Ok(given) = env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(file).is_ok_and(|stat| given == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Writes to the journal; where that fails, to the stream.
pub struct Output {
    socket: Socket,
    stream: File,
    run: String,
    group: String,
    name: &'static str,
    held: Vec<u8>,
    given_up: bool,
}

impl Output {
    /// For `stdout` or `stderr` of a run; `stream` is what it would go to.
    pub fn new(stream: File, name: &'static str, run: &str, group: &str) -> Result<Self, File> {
        match Socket::open(LINE_WITHIN) {
            Ok(socket) => {
                let (run, group) = (run.into(), group.into());
                Ok(Self { socket, stream, run, group, name, held: Vec::new(), given_up: false })
            }
            Err(_) => Err(stream),
        }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let mut entry = Entry::new("6", line);
        let fields = [("RUN", self.run.as_str()), ("GROUP", &self.group), ("EVENT", "output"), ("STREAM", self.name)];
        fields.into_iter().for_each(|(name, value)| entry.add(name, value.as_bytes()));
        if !self.given_up {
            // One that did not read for so long, or is gone, is not waited for again.
            self.given_up = self.socket.send(&entry).is_err();
        }
        if self.given_up {
            self.stream.write_all(line)?;
            self.stream.write_all(b"\n")?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        loop {
            let end = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n');
            match end {
                Some(end) => {
                    self.line(&rest[..end])?;
                    rest = &rest[end + 1..];
                }
                None if rest.len() >= LINE_MAX => {
                    self.line(&rest[..LINE_MAX])?;
                    rest = &rest[LINE_MAX..];
                }
                None => break,
            }
        }
        self.held = rest.to_vec();
        Ok(bytes.len())
    }

    /// What was no whole line is one at the end.
    fn flush(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { Ok(()) } else { self.line(&held) }
    }
}
