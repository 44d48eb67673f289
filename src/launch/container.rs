//! The container, from the runtime's start to its end.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::handshake::{InitSays, Line, Ready, receive_master};
use super::leaf::{self, Leaf};
use super::outcome::Ended;
use super::podman;
use super::protocol::{Channel, FromLauncher, ToLauncher};
use super::replaced::Replaced;
use super::staging::{self, staged};
use super::tasks::TaskCount;
use super::verify;
use crate::backend::Stay;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Limits, Plan, process_limit};

/// How long the runtime may take until the init reports.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a runtime that has not reported is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long `podman start` may outlive a conmon that was killed.
const AFTER_CONMON: Duration = Duration::from_secs(2);
/// How long it may take to pass on what conmon left to it: its own database may
/// have to wait for a slow disk, and for other podmans.
const AFTER_OUTPUT: Duration = Duration::from_secs(60);
/// How long it may outlive the word to kill: nobody may read what it writes.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// How long nothing may happen before the container is looked at again.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Longest piece of the environment in one message to the init, in bytes; below
/// the kernel's default send buffer.
const PIECE: usize = 64 << 10;

/// How everything in the container is ended.
pub enum Below {
    /// The launcher is PID 1 of a process namespace that holds nothing else.
    OwnNamespace,
    /// podman's container has one of its own.
    Podman(Created),
}

/// What podman has created.
pub struct Created {
    /// PID 1 of the container: the runtime's process until the start.
    pub init: Pid,
    /// pidfd of conmon, which holds the agent's stdio.
    pub conmon: OwnedFd,
    /// What that process executed before the start, and what it must execute.
    pub programs: [verify::Stamp; 2],
}

/// Whether the agent's stdout and stderr are one pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// They are.
    One,
    /// Each has its own, or both are a terminal.
    Two,
}

/// A container whose runtime was started.
pub struct Container {
    /// The runtime, or `podman start`.
    pub runtime: Child,
    /// To the init.
    pub line: Line,
    /// How it is ended.
    pub below: Below,
    /// Whether the runtime ends with the container.
    stay: Stay,
    /// The run's cgroup, if any.
    leaf: Option<Leaf>,
    gateway_serves: bool,
    /// What the runtime itself has executed, as far as it was seen.
    programs: verify::Programs,
}

impl Container {
    /// What was started.
    pub fn new(runtime: Child, (stay, leaf): (Stay, Option<Leaf>), line: Line, below: Below) -> Self {
        Self { runtime, line, below, stay, leaf, gateway_serves: false, programs: verify::Programs::new() }
    }

    /// Moves a process of the runtime out of the run's cgroup: its limits are
    /// the agent's.
    pub fn let_out(&mut self, process: Pid) -> Result<()> {
        let moved = self.leaf.as_ref().map_or(Ok(()), |leaf| leaf.let_out(process));
        moved.map_err(|error| self.kill_because(error))
    }

    /// Whether the container's PID 1 is where its limits are.
    pub fn check_cgroup(&mut self, init: Pid) -> Result<()> {
        leaf::check(self.leaf.as_ref(), init).map_err(|error| self.kill_because(error))
    }

    /// Waits for the init's report, and meanwhile for the terminal, the
    /// supervisor's word, and a runtime that fails or starts something else.
    pub fn wait_until_ready(
        &mut self,
        plan: &Plan,
        console: Option<&UnixListener>,
        channel: &Channel,
    ) -> Result<Ready> {
        let begun = Instant::now();
        let mut console = console;
        loop {
            let mut watched = vec![
                PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
                PollFd::new(channel.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(console) = console {
                watched.push(PollFd::new(console.as_fd(), PollFlags::POLLIN));
            }
            poll_for(&mut watched, LOOK)?;
            let woken: Vec<bool> =
                watched.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
            if woken.get(2) == Some(&true)
                && let Some(listener) = console.take()
            {
                let master = receive_master(listener)?;
                channel.send(&FromLauncher::Terminal, &[master.as_fd()])?;
            }
            if woken[1] {
                self.obey_before_start(channel)?;
            }
            if woken[0] && matches!(self.line, Line::Awaited(_)) {
                self.line.accept()?;
                continue;
            }
            if woken[0] {
                match self.line.hear()? {
                    InitSays::Ready(ready) if console.is_none() || !plan.terminal => {
                        return Ok(ready);
                    }
                    InitSays::Ready(_) => {
                        return Err(self.kill_because(Error::failed("verify: the runtime made no terminal")));
                    }
                    _ => return Err(self.failure(plan)),
                }
            }
            if matches!(self.line, Line::Awaited(_)) && matches!(self.runtime.try_wait(), Ok(Some(_))) {
                return Err(self.failure(plan));
            }
            if let Some(difference) = self.stranger_as_pid_1() {
                let error =
                    Error::failed("verify: PID 1 of the container is not belljar's init; the agent did not run");
                return Err(self.kill_because(error.because(difference)));
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(self.kill_because(
                    Error::failed(format!(
                        "start the container: the init did not report within {} s",
                        START_TIMEOUT.as_secs()
                    ))
                    .hint("belljar doctor"),
                ));
            }
        }
    }

    /// A program that is neither the init nor the runtime's own, as PID 1.
    fn stranger_as_pid_1(&mut self) -> Option<String> {
        match &self.below {
            Below::OwnNamespace => verify::stranger_as_pid_1(&mut self.programs),
            Below::Podman(created) => verify::stranger_as(created.init, &created.programs),
        }
    }

    /// Gives the init the word to go on, and one below podman what podman could
    /// not give it.
    pub fn go_on(&self, plan: &Plan, streams: Streams) -> Result<()> {
        let step = || "give the init the word to go on".to_owned();
        let Line::Open { socket, peer } = &self.line else { return Err(Error::failed(step())) };
        let say = |bytes: &[u8]| send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).step(step).map(drop);
        if peer.is_none() {
            return say(b"GO");
        }
        let variables = plan.environment.iter().map(|variable| format!("{}={}\0", variable.name, variable.value));
        let text: String = variables.collect();
        let processes = process_limit(&plan.limits).unwrap_or(0);
        let streams = if streams == Streams::One { "one" } else { "two" };
        say(format!("GO {} {processes} {streams}", text.len()).as_bytes())?;
        text.as_bytes().chunks(PIECE).try_for_each(say)
    }

    /// The gateway serves: its files are put where the agent's programs look.
    fn proceed(&mut self, names: Vec<String>, files: Vec<OwnedFd>) -> Result<()> {
        staging::add_own_files(names, files).map_err(|error| self.kill_because(error))?;
        self.gateway_serves = true;
        Ok(())
    }

    /// Nothing may run before something answers on the listeners.
    pub fn wait_for_gateway(&mut self, channel: &Channel) -> Result<()> {
        while !self.gateway_serves {
            match channel.receive::<ToLauncher>()? {
                Some((ToLauncher::Proceed(names), files)) => self.proceed(names, files)?,
                Some((ToLauncher::Refresh(_), _)) => {}
                _ => return Err(self.kill_because(Error::failed("the run was ended before the agent began"))),
            }
        }
        Ok(())
    }

    fn obey_before_start(&mut self, channel: &Channel) -> Result<()> {
        match channel.receive::<ToLauncher>()? {
            Some((ToLauncher::Refresh(_), _)) => Ok(()),
            Some((ToLauncher::Proceed(names), files)) => self.proceed(names, files),
            _ => Err(self.kill_because(Error::failed("the run was ended before the agent began"))),
        }
    }

    /// Why the runtime ended before the init reported, in its own words.
    fn failure(&mut self, plan: &Plan) -> Error {
        let code = self.wait_runtime_briefly();
        let log = fs::read_to_string(staged("runtime.log")).unwrap_or_default();
        let said: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let mut error = Error::failed(format!("start the container with {}", plan.runtime.path.display()));
        for line in &said {
            error = error.because(line);
        }
        if said.is_empty() {
            let code = code.map_or_else(|| "has not ended".to_owned(), |code| format!("exited with {code}"));
            error = error.because(format!(
                "PID 1 was not belljar's init, or ended without a report; the runtime {code}, and what it said last is on stderr"
            ));
        }
        self.kill_because(error.hint("belljar doctor"))
    }

    fn wait_runtime_briefly(&mut self) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if let Ok(Some(status)) = self.runtime.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Ends the container before the agent's first instruction.
    pub fn kill_because(&mut self, error: Error) -> Error {
        let _ = self.runtime.kill();
        let _ = match &self.below {
            // PID 1 of this process namespace: -1 is everything below, and only that.
            Below::OwnNamespace => kill(Pid::from_raw(-1), Signal::SIGKILL),
            Below::Podman(created) => {
                let killed = kill(created.init, Signal::SIGKILL);
                podman::end_descendants();
                killed
            }
        };
        Error { kind: Kind::Failed, ..error }
    }

    /// Stays until the container has ended.
    pub fn watch(
        &mut self,
        (init, limits): (Pid, &Limits),
        channel: &Channel,
        mut replaced: Replaced,
    ) -> Result<FromLauncher> {
        let stays = self.stay == Stay::UntilTheEnd;
        let watched = if stays { Pid::from_raw(self.runtime.id() as i32) } else { init };
        let runtime = rustix::process::Pid::from_raw(watched.as_raw())
            .ok_or_else(|| Error::failed("there is no process to watch"))
            .and_then(|pid| {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                    .step(|| "watch the container".to_owned())
            })?;
        let mut wait_status = None;
        let mut init_speaks = true;
        let mut conmon = match &self.below {
            Below::OwnNamespace => None,
            Below::Podman(created) => Some(created.conmon.try_clone().step(|| "duplicate a descriptor".to_owned())?),
        };
        let below_podman = conmon.is_some();
        let mut ends_at: Option<Instant> = None;
        // A runtime that stays has set the limit before it made the namespace, so the
        // kernel counts it, and the launcher, too (user_namespaces(7), NPROC).
        let counted = match self.below {
            Below::OwnNamespace if stays => Pid::this(),
            _ => init,
        };
        let mut count = TaskCount::new(counted, self.leaf.is_none().then_some(limits).and_then(process_limit));
        loop {
            let [runtime_at, channel_at, init_at, conmon_at] = [0, 1, 2, 3];
            let init_flags = if init_speaks { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut watched = vec![
                PollFd::new(runtime.as_fd(), PollFlags::POLLIN),
                PollFd::new(channel.as_fd(), PollFlags::POLLIN),
                PollFd::new(if init_speaks { self.line.as_fd() } else { channel.as_fd() }, init_flags),
            ];
            if let Some(conmon) = &conmon {
                watched.push(PollFd::new(conmon.as_fd(), PollFlags::POLLIN));
            }
            let patience = ends_at.map(|end| end.saturating_duration_since(Instant::now()));
            poll_for(&mut watched, patience.unwrap_or(LONGEST_WAIT).min(count.patience()))?;
            let woken: Vec<bool> =
                watched.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
            drop(watched);
            count.look();
            if woken.get(conmon_at) == Some(&true) {
                let patience = match conmon.take() {
                    Some(conmon) if has_exited(&conmon) => AFTER_OUTPUT,
                    // With the agent's stdio it has lost its end too; podman may wait
                    // for ever for what only conmon would have told it.
                    _ => AFTER_CONMON,
                };
                let _ = kill(init, Signal::SIGKILL);
                ends_at = earlier(ends_at, patience);
            }
            if ends_at.is_some_and(|end| Instant::now() >= end) {
                let _ = self.runtime.kill();
                ends_at = None;
            }
            if init_speaks && woken.get(init_at) == Some(&true) {
                match self.line.hear()? {
                    InitSays::NotExecuted(errno) => channel.send(&FromLauncher::NotExecuted(errno), &[])?,
                    InitSays::Exited(status, full) => {
                        wait_status = Some(status);
                        count.note(full);
                    }
                    InitSays::Gone => init_speaks = false,
                    InitSays::Ready(_) => {}
                }
                continue;
            }
            if woken[channel_at] && self.obey(init, channel, &mut replaced)? == Obeyed::Killed && below_podman {
                ends_at = earlier(ends_at, AFTER_KILL);
            }
            if woken[runtime_at] {
                let code =
                    if stays { self.runtime.wait().ok().and_then(|status| status.code()) } else { code_of(init) };
                let mut reached = self.leaf.as_ref().map(Leaf::reached).unwrap_or_default();
                reached.pids |= count.is_reached();
                let usage = self.leaf.as_ref().map(Leaf::usage);
                return Ok(FromLauncher::Ended(Ended { wait_status, runtime_code: code, reached, usage }));
            }
        }
    }

    fn obey(&mut self, init: Pid, channel: &Channel, replaced: &mut Replaced) -> Result<Obeyed> {
        let Some((message, _)) = channel.receive::<ToLauncher>()? else {
            return Err(self.kill_because(Error::failed("the supervisor is gone")));
        };
        match message {
            ToLauncher::Signal(number) => {
                if let Ok(signal) = Signal::try_from(number) {
                    let _ = kill(init, signal);
                }
            }
            ToLauncher::Kill => {
                let _ = kill(init, Signal::SIGKILL);
                return Ok(Obeyed::Killed);
            }
            ToLauncher::Refresh(index) => {
                replaced.uncover(index);
                // A name that could not be refreshed stays as old as it is.
                let _ = staging::refresh(index);
            }
            ToLauncher::Begin | ToLauncher::Mounts(_) | ToLauncher::MountsEnd | ToLauncher::Proceed(_) => {}
        }
        Ok(Obeyed::Other)
    }
}

/// What the supervisor's word was.
#[derive(Debug, PartialEq, Eq)]
enum Obeyed {
    /// To kill the agent.
    Killed,
    Other,
}

/// The end of this patience, where nothing ends it before.
fn earlier(ends_at: Option<Instant>, patience: Duration) -> Option<Instant> {
    let end = Instant::now() + patience;
    Some(ends_at.map_or(end, |at| at.min(end)))
}

/// Whether a process that has ended, and was adopted, did so by itself.
fn has_exited(process: &OwnedFd) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let ended = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    ended.is_ok_and(|status| status.is_some_and(|status| status.exited()))
}

/// Exit code of an adopted process that has ended.
fn code_of(pid: Pid) -> Option<i32> {
    match waitpid(pid, None) {
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
        _ => None,
    }
}

/// poll(2); a signal is no error, and neither is the end of the time.
pub fn poll_for(watched: &mut [PollFd<'_>], timeout: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(watched, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).step(|| "wait for the container".to_owned()),
    }
}
