//! The two ends of the pipes to the host process, for a channel program. Each has a
//! thread, because reading and writing a pipe blocks, and the network must not wait
//! for it.

use std::io::{self, BufReader, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::oneshot;

use super::protocol::{self, FromChannel, NextLine, ToChannel};
use crate::error::{Context, Result, printable};

/// Lines that are read ahead.
const AHEAD: usize = 64;

/// What the host process says, until its end of the pipe is closed.
pub(super) fn from_host() -> Result<Receiver<ToChannel>> {
    let (tell, hear) = channel(AHEAD);
    let read = move || {
        let mut stdin = BufReader::new(io::stdin());
        loop {
            let parsed = match protocol::read_line(&mut stdin) {
                Ok(NextLine::Line(line)) => protocol::parse(&line).map_err(|error| error.to_string()),
                Ok(NextLine::TooLong) => Err("it is longer than 1 MiB".to_owned()),
                Ok(NextLine::End) | Err(_) => return,
            };
            match parsed {
                Ok(said) => {
                    if tell.blocking_send(said).is_err() {
                        return;
                    }
                }
                Err(why) => log(&format!("passed over a line of the host's: {why}")),
            }
        }
    };
    thread::Builder::new().name("from-host".to_owned()).spawn(read).step(|| "start a thread for stdin".to_owned())?;
    Ok(hear)
}

/// What is on its way to the host process. What can be waiting is bounded by those who
/// tell: a message for each that is not stored yet, an answer for each that was sent.
#[derive(Debug)]
pub(super) struct ToHost {
    lines: mpsc::Sender<Vec<u8>>,
    done: mpsc::Receiver<()>,
}

impl ToHost {
    /// With a signal that comes when the host process reads no more.
    pub(super) fn start() -> Result<(Self, oneshot::Receiver<()>)> {
        let (lines, queue) = mpsc::channel::<Vec<u8>>();
        let (finished, done) = mpsc::channel();
        let (gone, hear_gone) = oneshot::channel();
        let write = move || {
            let mut stdout = io::stdout().lock();
            for line in queue {
                if stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
                    // Nobody may be waiting for it any more.
                    let _ = gone.send(());
                    return;
                }
            }
            let _ = finished.send(());
        };
        thread::Builder::new()
            .name("to-host".to_owned())
            .spawn(write)
            .step(|| "start a thread for stdout".to_owned())?;
        Ok((Self { lines, done }, hear_gone))
    }

    /// Says it. When the host process has gone, that is said by the other signal.
    pub(super) fn tell(&self, said: &FromChannel) {
        match protocol::line(said) {
            Ok(line) => drop(self.lines.send(line)),
            Err(error) => log(&format!("a line for the host could not be written: {error}")),
        }
    }

    /// Waits until all has been written, but not for ever.
    pub(super) fn finish(self, patience: Duration) {
        drop(self.lines);
        let _ = self.done.recv_timeout(patience);
    }
}

/// A line on stderr, which is the host's log. What strangers wrote may be in it.
pub(super) fn log(what: &str) {
    // Without a reader there is no log.
    let _ = writeln!(io::stderr(), "{}", printable(what));
}
