//! The agent's stdin, stdout and stderr as pipes of its own. The caller's own
//! descriptors never go in: through /proc/self/fd an agent could open the file
//! behind one again, and read or truncate the log that it may only append to.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::sync::mpsc::UnboundedSender;

use super::null;
use super::supervise::Event;
use crate::error::{Context, Result};
use crate::journal::{self, Output};

/// Device number of /dev/null: major 1, minor 3 (Linux allocated devices).
const NULL_DEVICE: u64 = libc::makedev(1, 3);
const CHUNK: usize = 64 << 10;
/// How often a thread is looked at that may never end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Both sides of the agent's stdio.
pub struct Stdio {
    /// What the agent gets.
    pub agent: [OwnedFd; 3],
    /// What the supervisor keeps.
    pub own: OwnSide,
}

/// The supervisor's side.
pub struct OwnSide {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Makes the pipes.
    pub fn open() -> Result<Self> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).step(|| "make a pipe for the agent's stdio".to_owned());
        let duplicate = |fd: &OwnedFd| fd.try_clone().step(|| "duplicate a pipe".to_owned());
        let (agent_in, own_in) = match kind_of_stdin() {
            Stdin::Nothing => (null()?, None),
            Stdin::Pipe(pipe) => (pipe, None),
            Stdin::Other => {
                let (read, write) = pipe()?;
                (read, Some(write))
            }
        };
        let (own_out, agent_out) = pipe()?;
        // Where both go to the same place, one pipe keeps their order.
        let (own_err, agent_err) = if is_same_file(io::stdout(), io::stderr()) {
            (None, duplicate(&agent_out)?)
        } else {
            let (own, agent) = pipe()?;
            (Some(own), agent)
        };
        Ok(Self {
            agent: [agent_in, agent_out, agent_err],
            own: OwnSide { stdin: own_in, stdout: own_out, stderr: own_err },
        })
    }
}

/// What the caller's stdin is.
enum Stdin {
    /// /dev/null, or closed.
    Nothing,
    /// A pipe: there is no file behind it, so it can go in as it is, and what the
    /// agent does not read stays in it for others.
    Pipe(OwnedFd),
    /// Everything else is carried.
    Other,
}

fn kind_of_stdin() -> Stdin {
    let Ok(file) = io::stdin().as_fd().try_clone_to_owned().map(File::from) else { return Stdin::Nothing };
    match file.metadata() {
        Ok(meta) if meta.file_type().is_char_device() && meta.rdev() == NULL_DEVICE => Stdin::Nothing,
        Ok(meta) if meta.file_type().is_fifo() => Stdin::Pipe(file.into()),
        _ => Stdin::Other,
    }
}

fn is_same_file(one: impl AsFd, other: impl AsFd) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// How much output is left.
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Budget {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Takes up to `wanted` bytes; how many were left to take.
    fn take(&self, wanted: usize) -> usize {
        let before = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(wanted as u64)))
            .unwrap_or(0);
        wanted.min(usize::try_from(before).unwrap_or(usize::MAX))
    }
}

/// The threads that carry the agent's output.
pub struct Relays {
    threads: Vec<JoinHandle<()>>,
}

impl Relays {
    /// Waits until everything that the agent wrote has been passed on, or until then.
    pub fn finish(self, until: Option<Instant>) {
        for thread in self.threads {
            join(thread, until);
        }
    }
}

/// Waits for a thread that carries output, for a run that was ended no longer than
/// until then: nobody may read what it writes. Whether it has ended.
pub fn join(thread: JoinHandle<()>, until: Option<Instant>) -> bool {
    while let Some(until) = until.filter(|_| !thread.is_finished()) {
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    // One that panicked has nothing more to pass on.
    let _ = thread.join();
    true
}

/// Starts to carry. The thread for stdin is not waited for: it may sit in a read
/// of the caller's terminal when the run has long ended.
pub fn start(
    own: OwnSide,
    budget: Option<Arc<Budget>>,
    (run, group): (&str, &str),
    events: &UnboundedSender<Event>,
) -> Result<Relays> {
    let duplicate = |fd: &dyn AsFd| {
        fd.as_fd().try_clone_to_owned().map(File::from).step(|| "duplicate the caller's stdio".to_owned())
    };
    if let Some(stdin) = own.stdin {
        let mut from = duplicate(&io::stdin())?;
        thread::spawn(move || {
            let mut to = File::from(stdin);
            // An agent that reads no more closes the pipe; that is its choice.
            pass_on(&mut from, &mut to);
        });
    }
    let mut threads = Vec::new();
    let outputs =
        [(Some(own.stdout), duplicate(&io::stdout())?, "stdout"), (own.stderr, duplicate(&io::stderr())?, "stderr")];
    for (from, to, name) in outputs {
        let Some(from) = from else { continue };
        let (budget, events) = (budget.clone(), events.clone());
        let to: Box<dyn Write + Send> = if journal::stream(&to) {
            Output::new(to, name, run, group)
                .map_or_else(|stream| Box::new(stream) as _, |output| Box::new(output) as _)
        } else {
            Box::new(to)
        };
        threads.push(thread::spawn(move || carry(from.into(), to, budget.as_deref(), &events)));
    }
    Ok(Relays { threads })
}

/// Passes on until either side is gone. Not by splice(2), which holds a pipe while
/// it waits for data, and the end of a run with it.
pub fn pass_on(from: &mut File, to: &mut File) {
    let mut buffer = [0u8; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Carries until the agent's end is closed, or until nobody reads: then the
/// pipe goes, and the agent gets SIGPIPE as it would without belljar.
///
/// By read and write, not by splice(2): that one takes the file's offset before
/// it waits for data, and overwrites what others have written to it meanwhile.
pub fn carry(mut from: File, mut to: Box<dyn Write + Send>, budget: Option<&Budget>, events: &UnboundedSender<Event>) {
    let mut buffer = vec![0u8; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let allowed = budget.map_or(length, |budget| budget.take(length));
        if to.write_all(&buffer[..allowed]).is_err() {
            return;
        }
        if allowed < length {
            // The supervisor is gone only when the process ends.
            let _ = events.send(Event::OutputLimit);
            break;
        }
    }
    // Nobody is left who could be told.
    let _ = to.flush();
}
