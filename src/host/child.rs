//! A `belljar run` below this process: its streams, its receipt, its end.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::rc::Rc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::Host;
use crate::error::{Context, EXIT_REFUSED, Error, Result};
use crate::journal::give_log;
use crate::sys;

/// What is between this process and its manager only.
pub const MANAGERS: [&str; 7] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM"];

/// What is to be run.
#[derive(Debug, Default)]
pub struct Order<'a> {
    /// Whose agent.
    pub group: &'a str,
    /// The run's name.
    pub name: Option<&'a str>,
    /// Variables of the agent's: `KEY=VALUE`.
    pub environment: Vec<String>,
    /// Program and arguments; what is configured, where it is empty.
    pub command: &'a [String],
}

/// A run: it is told to stop when nobody waits for it any more, and waited for all the same.
pub struct Run {
    host: Rc<Host>,
    pid: i32,
    receipt: File,
    /// `None` when it has ended.
    child: Option<Child>,
}

/// Its streams, each taken once.
pub struct Streams {
    /// What it reads.
    pub stdin: Option<ChildStdin>,
    /// What the agent says.
    pub stdout: Option<ChildStdout>,
    /// And beside that.
    pub stderr: Option<ChildStderr>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// The agent began; this is the receipt.
    Ran(Value),
    /// belljar said no before: what it printed, and nothing ran.
    Refused,
}

impl Run {
    /// Starts it.
    pub fn start(host: &Rc<Host>, order: &Order<'_>) -> Result<(Self, Streams)> {
        // In memory: what is on disk would stay when this process is killed.
        let step = || "make a place for the receipt".to_owned();
        let receipt = File::from(memfd_create("receipt", MemfdFlags::CLOEXEC).step(step)?);
        let mut command = Command::new(&host.program);
        command.args(["run", "--no-tty"]);
        command.arg(format!("--group={}", order.group));
        command.arg(format!("--receipt=/proc/{}/fd/{}", std::process::id(), receipt.as_raw_fd()));
        if let Some(name) = order.name {
            command.arg(format!("--name={name}"));
        }
        command.args(order.environment.iter().map(|variable| format!("--env={variable}")));
        if !order.command.is_empty() {
            command.arg("--").args(order.command);
        }
        for variable in MANAGERS {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        give_log(command.as_std_mut()).step(|| "give the run this process's log".to_owned())?;
        // The runs of a host process that was killed end with it, as they do in its unit.
        sys::end_with_parent(command.as_std_mut(), Signal::SIGTERM);
        let mut child = command.spawn().step(|| "start belljar run".to_owned())?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| Error::failed("start belljar run"))?;
        host.children.borrow_mut().insert(pid);
        host.changed.notify_one();
        let streams = Streams { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
        Ok((Self { host: Rc::clone(host), pid, receipt, child: Some(child) }, streams))
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
    }

    /// Waits for its end, and reads its receipt.
    pub async fn end(&mut self) -> Result<Ended> {
        let wait = async { self.child.as_mut()?.wait().await.ok() };
        let status = wait.await.ok_or_else(|| Error::failed("wait for belljar run"))?;
        self.child = None;
        let mut text = String::new();
        // What is no receipt is seen below.
        let _ = self.receipt.rewind().and_then(|()| self.receipt.read_to_string(&mut text));
        let Ok(receipt) = serde_json::from_str::<Value>(&text) else { return Ok(Ended::Refused) };
        let failed = receipt.get("error").is_some_and(|error| !error.is_null());
        let refused = failed && status.code() == Some(i32::from(EXIT_REFUSED));
        Ok(if refused { Ended::Refused } else { Ended::Ran(receipt) })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let (host, pid) = (Rc::clone(&self.host), self.pid);
        let forget = move || {
            host.children.borrow_mut().remove(&pid);
            host.changed.notify_one();
        };
        match self.child.take() {
            None => forget(),
            Some(mut child) => {
                self.terminate();
                tokio::task::spawn_local(async move {
                    // Nobody asks any more how it ended.
                    let _ = tokio::join!(drain(child.stdout.take()), drain(child.stderr.take()), child.wait());
                    forget();
                });
            }
        }
    }
}

async fn drain(stream: Option<impl AsyncRead + Unpin>) {
    let mut buffer = vec![0; 16 << 10];
    if let Some(mut stream) = stream {
        while let Ok(1..) = stream.read(&mut buffer).await {}
    }
}

/// What `belljar run` printed instead of running.
pub fn refusal(stderr: &str) -> Error {
    Error::read_back(stderr).unwrap_or_else(|| Error::refused(stderr.trim()))
}

/// The beginning of a stream; what follows is read and dropped.
#[derive(Debug, Default)]
pub struct Kept {
    bytes: Vec<u8>,
    more: bool,
}

impl Kept {
    /// Reads it to its end.
    pub async fn read(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> Self {
        let mut kept = Self::default();
        let Some(mut stream) = stream else { return kept };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            let room = (limit - kept.bytes.len()).min(length);
            kept.bytes.extend_from_slice(&buffer[..room]);
            kept.more |= room < length;
        }
        kept
    }

    /// The text, and whether there was more.
    pub fn text(self) -> (String, bool) {
        (String::from_utf8_lossy(&self.bytes).into_owned(), self.more)
    }
}
