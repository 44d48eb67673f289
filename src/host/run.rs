//! One run that was asked for: a `belljar run` below this process.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::rc::Rc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::Host;
use crate::config::MAIN;
use crate::error::{Context, EXIT_REFUSED, Error, Result};
use crate::journal::{Priority, give_log};
use crate::sys;

/// Of each stream so many bytes are kept; what follows is read and dropped.
const KEPT: usize = 1 << 20;
/// What is between this process and its manager only.
const MANAGERS: [&str; 7] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM"];

/// The body of `POST /runs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Whose agent it is; main unless said.
    group: Option<String>,
    /// Program and arguments; those of the group in config.toml unless said.
    #[serde(default)]
    command: Vec<String>,
    /// What the agent reads.
    stdin: Option<String>,
    /// The run's name.
    name: Option<String>,
}

impl Asked {
    fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(MAIN)
    }
}

/// How it ended.
#[derive(Debug, Serialize)]
pub struct Ended {
    run: Value,
    exit_code: Value,
    cause: Value,
    limits_reached: Value,
    stdout: String,
    stderr: String,
    /// Whether one of them was longer.
    truncated: bool,
}

/// What came of it.
pub enum Told {
    /// The agent began, and ended.
    Ended(Box<Ended>),
    /// belljar refused.
    Refused {
        /// In belljar's words.
        message: String,
        /// What can be done.
        hint: Option<String>,
    },
    /// It could not be started.
    Failed(Error),
}

/// The supervisor of a run: it is told to stop when whoever asked has gone, and
/// waited for all the same.
struct Running {
    host: Rc<Host>,
    pid: i32,
    /// `None` when it has ended.
    child: Option<Child>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let (host, pid) = (Rc::clone(&self.host), self.pid);
        let forget = move || {
            host.children.borrow_mut().remove(&pid);
            host.changed.notify_one();
        };
        match self.child.take() {
            None => forget(),
            Some(mut child) => {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
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

/// Runs it to its end.
pub async fn carry_out(host: &Rc<Host>, asked: Asked) -> Told {
    let told = begin(host, &asked).await.unwrap_or_else(Told::Failed);
    // What became of a run that was started, the run itself tells.
    if let Told::Failed(error) = &told {
        host.events.tell("failed", Priority::Error, &error.what, &[("GROUP", asked.group().into())]);
    }
    told
}

async fn begin(host: &Rc<Host>, asked: &Asked) -> Result<Told> {
    if asked.command.iter().chain(&asked.group).chain(&asked.name).any(|word| word.contains('\0')) {
        let message = "a NUL byte in the command, group or name".to_owned();
        return Ok(Told::Refused { message, hint: Some("leave \\u0000 out of the body".to_owned()) });
    }
    // In memory: what is on disk would stay when this process is killed.
    let step = || "make a place for the receipt".to_owned();
    let mut receipt = File::from(memfd_create("receipt", MemfdFlags::CLOEXEC).step(step)?);
    let mut command = Command::new(&host.program);
    command.args(["run", "--no-tty"]);
    command.arg(format!("--group={}", asked.group()));
    command.arg(format!("--receipt=/proc/{}/fd/{}", std::process::id(), receipt.as_raw_fd()));
    if let Some(name) = &asked.name {
        command.arg(format!("--name={name}"));
    }
    if !asked.command.is_empty() {
        command.arg("--").args(&asked.command);
    }
    for variable in MANAGERS {
        command.env_remove(variable);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    give_log(command.as_std_mut()).step(|| "give the run this process's log".to_owned())?;
    // The runs of a host process that was killed end with it, as they do in its unit.
    sys::end_with_parent(command.as_std_mut(), Signal::SIGTERM);
    let mut child = command.spawn().step(|| "start belljar run".to_owned())?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| Error::failed("start belljar run"))?;
    host.children.borrow_mut().insert(pid);
    host.changed.notify_one();
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut running = Running { host: Rc::clone(host), pid, child: Some(child) };
    let (stdout, stderr) = converse(pipes, asked.stdin.as_deref().unwrap_or_default()).await;
    let wait = async { running.child.as_mut()?.wait().await.ok() };
    let status = wait.await.ok_or_else(|| Error::failed("wait for belljar run"))?;
    running.child = None;
    drop(running);
    let mut text = String::new();
    // What is no receipt is seen below.
    let _ = receipt.rewind().and_then(|()| receipt.read_to_string(&mut text));
    let (stdout, stderr) = (Kept::text(stdout), Kept::text(stderr));
    let Ok(receipt) = serde_json::from_str::<Value>(&text) else {
        return Ok(refused(&stderr.0));
    };
    let failed = receipt.get("error").is_some_and(|error| !error.is_null());
    if failed && status.code() == Some(i32::from(EXIT_REFUSED)) {
        return Ok(refused(&stderr.0));
    }
    let field = |name: &str| receipt.get(name).cloned().unwrap_or_default();
    Ok(Told::Ended(Box::new(Ended {
        run: field("run"),
        exit_code: field("exit_code"),
        cause: field("cause"),
        limits_reached: field("limits_reached"),
        truncated: stdout.1 || stderr.1,
        stdout: stdout.0,
        stderr: stderr.0,
    })))
}

/// What `belljar run` printed instead of running.
fn refused(stderr: &str) -> Told {
    match Error::read_back(stderr) {
        Some(error) => Told::Refused { message: error.with_causes(), hint: error.hint },
        None => Told::Refused { message: stderr.trim().to_owned(), hint: None },
    }
}

/// The beginning of a stream.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    more: bool,
}

impl Kept {
    async fn read(stream: Option<impl AsyncRead + Unpin>) -> Self {
        let mut kept = Self::default();
        let Some(mut stream) = stream else { return kept };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            let room = (KEPT - kept.bytes.len()).min(length);
            kept.bytes.extend_from_slice(&buffer[..room]);
            kept.more |= room < length;
        }
        kept
    }

    fn text(self) -> (String, bool) {
        (String::from_utf8_lossy(&self.bytes).into_owned(), self.more)
    }
}

/// Gives the agent what it is to read, and takes what it writes, side by side.
async fn converse(
    (to, out, err): (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>),
    stdin: &str,
) -> (Kept, Kept) {
    let write = async move {
        if let Some(mut to) = to {
            // An agent that does not read is not waited for.
            let _ = to.write_all(stdin.as_bytes()).await;
        }
    };
    let read = async { tokio::join!(Kept::read(out), Kept::read(err)) };
    tokio::pin!(write);
    tokio::pin!(read);
    let mut written = false;
    loop {
        tokio::select! {
            () = &mut write, if !written => written = true,
            both = &mut read => return both,
        }
    }
}
