//! The launcher's side of the run's cgroup: the way in, the way out, and what was
//! used up. The files were opened by the supervisor, whose rights and view count
//! for what is written to them (Linux 5.16).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::plan::own_cgroup;
use crate::sys;

/// Longest text of a cgroup's file that is read, in bytes; `cgroup.procs` is the
/// longest.
const LONGEST: usize = 1 << 20;

/// The cgroup that holds the agent and nothing of belljar but the init.
#[derive(Debug)]
pub struct Leaf {
    /// Its directory.
    pub directory: OwnedFd,
    /// Its `cgroup.procs`, to write to.
    pub enter: OwnedFd,
    /// The launcher's own, to write to.
    pub leave: OwnedFd,
}

/// What a run has used up, as far as its cgroup counted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Most bytes of memory at one time (cgroup-v2, memory.peak; Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// Seconds of CPU time (cgroup-v2, cpu.stat).
    pub cpu_seconds: Option<f64>,
    /// Most processes and threads at one time (cgroup-v2, pids.peak; Linux 6.6).
    pub pids_peak: Option<u64>,
}

/// Limits that the kernel says were reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Processes were killed for want of memory (cgroup-v2, memory.events).
    pub memory: bool,
    /// A process could not be started (cgroup-v2, pids.events).
    pub pids: bool,
}

impl Leaf {
    /// As the supervisor sends it.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.directory.as_fd(), self.enter.as_fd(), self.leave.as_fd()]
    }

    /// As the launcher receives it; none without a cgroup.
    pub fn received(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [directory, enter, leave] = <[OwnedFd; 3]>::try_from(descriptors).ok()?;
        Some(Self { directory, enter, leave })
    }

    /// Has the command enter before it is executed.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let enter = self.enter.try_clone().step(|| "duplicate a descriptor".to_owned())?;
        sys::enter_cgroup(command, enter);
        Ok(())
    }

    /// Moves a process out again, one that is not the agent's.
    pub fn let_out(&self, process: Pid) -> Result<()> {
        nix::unistd::write(&self.leave, process.to_string().as_bytes())
            .step(|| format!("move process {process} out of the run's cgroup"))
            .map(drop)
    }

    /// Whether the process is in it.
    pub fn holds(&self, process: Pid) -> Result<bool> {
        let list = self.read("cgroup.procs").step(|| "read the run's cgroup.procs".to_owned())?;
        Ok(list.lines().any(|line| line == process.to_string()))
    }

    /// What was used up so far.
    pub fn usage(&self) -> Usage {
        let number = |file: &str| self.read(file).ok().and_then(|text| text.trim().parse().ok());
        let microseconds = self.value("cpu.stat", "usage_usec");
        Usage {
            memory_peak_bytes: number("memory.peak"),
            cpu_seconds: microseconds.map(|count| count as f64 / 1e6),
            pids_peak: number("pids.peak"),
        }
    }

    /// Which limits were reached.
    pub fn reached(&self) -> Reached {
        let any = |file, name| self.value(file, name).is_some_and(|count| count > 0);
        Reached { memory: any("memory.events", "oom_kill"), pids: any("pids.events", "max") }
    }

    /// The number after a name, in a file of such lines.
    fn value(&self, file: &str, name: &str) -> Option<u64> {
        let text = self.read(file).ok()?;
        let mut words = text.lines().map(|line| line.split_whitespace());
        words.find_map(|mut words| words.next().filter(|its| *its == name).and_then(|_| words.next()?.parse().ok()))
    }

    fn read(&self, name: &str) -> rustix::io::Result<String> {
        let file = openat(&self.directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = Vec::new();
        let mut chunk = [0u8; 4096];
        loop {
            match rustix::io::read(&file, &mut chunk)? {
                0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
                count if text.len() + count > LONGEST => return Err(rustix::io::Errno::TOOBIG),
                count => text.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

/// The kernel refuses a process that is in another.
pub fn check(leaf: Option<&Leaf>, init: Pid) -> Result<()> {
    match leaf {
        Some(leaf) if !leaf.holds(init)? => {
            let its = own_cgroup(init).map(|cgroup| cgroup.display().to_string());
            Err(Error::failed("verify: the container's PID 1 is not in the run's cgroup, so no limit would hold")
                .because(format!("the kernel has it in {}", its.unwrap_or_else(|error| error.what))))
        }
        _ => Ok(()),
    }
}
