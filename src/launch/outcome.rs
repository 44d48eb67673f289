//! How a run ended, in words, as an exit code, and for the receipt.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::leaf::{Reached, Usage};
use super::protocol::Report;
use crate::error::{EXIT_REFUSED, EXIT_TIMEOUT, Error};
use crate::plan::Plan;
use crate::record::Head;

/// Exit code of a run that was killed: 128 + SIGKILL.
const EXIT_KILLED: u8 = 137;

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The agent ended by itself.
    Exited(i32),
    /// A signal ended the agent.
    Signalled(i32),
    /// The agent could not start as many processes as it wanted to, and failed
    /// with this code.
    Pids(u8),
    /// The memory was used up, and the kernel ended the agent.
    OutOfMemory,
    /// The disk was filled as far as the run may.
    Disk,
    /// The time was up.
    Timeout,
    /// The output was too much.
    OutputLimit,
    /// A signal to belljar, and the agent did not end within the grace.
    Killed,
    /// The command could not be executed.
    NotExecuted(i32),
}

impl Cause {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Exited(code) => format!("exited with {code}"),
            Self::Signalled(number) => match Signal::try_from(*number) {
                Ok(signal) => format!("ended by {signal}"),
                Err(_) => format!("ended by signal {number}"),
            },
            Self::Pids(code) => format!("process limit (pids) reached, and failed with {code}"),
            Self::OutOfMemory => "out of memory".to_owned(),
            Self::Disk => "disk limit".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::OutputLimit => "output limit".to_owned(),
            Self::Killed => "killed after the grace".to_owned(),
            Self::NotExecuted(errno) => format!("not executed: {}", std::io::Error::from_raw_os_error(*errno)),
        }
    }

    /// The limit that it is about, by the name of its option.
    fn limit(&self) -> Option<&'static str> {
        match self {
            Self::OutOfMemory => Some("memory"),
            Self::Pids(_) => Some("pids"),
            Self::Disk => Some("disk"),
            Self::Timeout => Some("timeout"),
            Self::OutputLimit => Some("output"),
            Self::Exited(_) | Self::Signalled(_) | Self::Killed | Self::NotExecuted(_) => None,
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Code for the caller.
    pub exit_code: u8,
    /// Why.
    pub cause: Cause,
    /// Limits that were reached, by the names of their options.
    pub reached: Vec<&'static str>,
    /// What was used up, where it was counted.
    pub usage: Option<Usage>,
    /// What verify compared.
    pub report: Option<Report>,
    /// Count and end of the record of requests.
    pub requests: Option<Head>,
}

/// The end of the container, as the launcher saw it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ended {
    /// The agent's wait status, as the init saw it; `None` when the init was
    /// killed with the rest.
    pub wait_status: Option<i32>,
    /// The runtime's exit code.
    pub runtime_code: Option<i32>,
    /// Which limits were reached.
    pub reached: Reached,
    /// What was used up, where the run had a cgroup.
    pub usage: Option<Usage>,
}

/// All that is known about the end.
pub struct End {
    /// Why the supervisor ended the run, if it did.
    pub ending: Option<Cause>,
    /// Why the agent could not be executed.
    pub not_executed: Option<i32>,
    /// What the launcher said.
    pub ended: Ended,
}

impl End {
    /// Draws the conclusion, and tells the caller what is not the agent's own end.
    pub fn conclude(self, plan: &Plan, report: Option<Report>) -> Outcome {
        let reached = self.ended.reached;
        let usage = self.ended.usage;
        let (cause, exit_code) = self.cause(plan);
        if let Some(said) = said(&cause, plan) {
            eprintln!("belljar: {said}");
        }
        let mut names: Vec<&'static str> = cause.limit().into_iter().collect();
        for (name, was) in [("memory", reached.memory), ("pids", reached.pids)] {
            if was && !names.contains(&name) {
                names.push(name);
            }
        }
        Outcome { exit_code, cause, reached: names, usage, report, requests: None }
    }

    fn cause(self, plan: &Plan) -> (Cause, u8) {
        if let Some(errno) = self.not_executed {
            eprintln!("{}", not_executed(errno, plan));
            return (Cause::NotExecuted(errno), if errno == libc::ENOENT { 127 } else { 126 });
        }
        match self.ending {
            Some(Cause::Timeout) => return (Cause::Timeout, EXIT_TIMEOUT),
            // The agent had ended by then, and its container took longer.
            Some(Cause::Killed) if self.ended.wait_status.is_some() => {}
            Some(cause) => return (cause, EXIT_KILLED),
            None => {}
        }
        let Ended { wait_status, runtime_code, reached, .. } = self.ended;
        if reached.memory {
            return (Cause::OutOfMemory, EXIT_KILLED);
        }
        let byte = |code: i32| u8::try_from(code & 0xff).unwrap_or(EXIT_REFUSED);
        let (cause, exit_code) = match wait_status {
            Some(status) if status & 0x7f != 0 => (Cause::Signalled(status & 0x7f), byte(128 + (status & 0x7f))),
            Some(status) => (Cause::Exited((status >> 8) & 0xff), byte(status >> 8)),
            // The init was killed with the rest, so by something on the host.
            None => (Cause::Signalled(libc::SIGKILL), byte(runtime_code.unwrap_or(i32::from(EXIT_KILLED)))),
        };
        match reached.pids && exit_code != 0 {
            true => (Cause::Pids(exit_code), exit_code),
            false => (cause, exit_code),
        }
    }
}

/// What belljar says on stderr of its own.
fn said(cause: &Cause, plan: &Plan) -> Option<String> {
    let limits = &plan.limits;
    Some(match cause {
        Cause::Timeout => "the time limit is up; the run was ended".to_owned(),
        Cause::OutputLimit => "the output limit is reached; the run was ended".to_owned(),
        Cause::OutOfMemory => match &limits.memory_bytes {
            Some(limit) => format!("out of memory: the run needed more than {} bytes (--memory)", limit.value),
            None => "out of memory: the kernel ended the agent".to_owned(),
        },
        Cause::Pids(_) => {
            let most = limits.pids.as_ref().map_or(0, |limit| limit.value);
            format!("the agent could not start more than {most} processes and threads (--pids)")
        }
        _ => return None,
    })
}

fn not_executed(errno: i32, plan: &Plan) -> Error {
    let path = plan.environment.iter().find(|variable| variable.name == "PATH");
    let hint = match errno {
        libc::ENOEXEC => "a program for this machine is needed, or a script that begins with #!".to_owned(),
        _ => format!(
            "inside, PATH is searched in {}; belljar explain shows the mounts",
            path.map_or("", |variable| &variable.value)
        ),
    };
    Error::failed(format!("execute {}", plan.command[0])).because(std::io::Error::from_raw_os_error(errno)).hint(hint)
}
