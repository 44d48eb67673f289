//! A process that outlives a killed supervisor for a moment: it removes the run
//! directory and the cgroup, and closes the receipt. Everything else vanishes
//! with the launcher's namespaces by itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process;
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, getpid, pipe2, setsid};

use super::null;
use crate::config::Dirs;
use crate::error::{Context, Result};
use crate::runs;
use crate::sys;

/// How often, and how long apart, a run that still looks live is looked at.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(40);

/// The supervisor's hold on the janitor.
#[derive(Debug)]
pub struct Janitor {
    line: File,
    pid: Pid,
}

impl Janitor {
    /// Starts it. The caller must have one thread.
    pub fn start(dirs: &Dirs) -> Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).step(|| "make a pipe".to_owned())?;
        let supervisor = getpid();
        match sys::fork().step(|| "start the janitor".to_owned())? {
            ForkResult::Parent { child } => Ok(Self { line: write.into(), pid: child }),
            ForkResult::Child => {
                drop(write);
                // Nothing of the caller's stays open, and no signal of its terminal comes.
                if let Ok(null) = null() {
                    let _ = dup2_stdin(&null);
                    let _ = dup2_stdout(&null);
                    let _ = dup2_stderr(&null);
                }
                sys::close_all_but(&[read.as_fd()]);
                let _ = setsid();
                let _ = chdir("/");
                wait_and_clean(read.into(), dirs, supervisor);
                process::exit(0)
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The run has ended and cleaned up after itself.
    pub fn dismiss(mut self) -> Result<()> {
        let step = || "dismiss the janitor".to_owned();
        self.line.write_all(b"k").step(step)?;
        waitpid(self.pid, None).step(step)?;
        Ok(())
    }
}

fn wait_and_clean(mut line: File, dirs: &Dirs, supervisor: Pid) {
    let mut word = [0u8];
    if matches!(line.read(&mut word), Ok(1)) {
        return;
    }
    // The supervisor is dying: its lock may go a moment after the line. Nobody is
    // left to tell of an error; the next run cleans up what stays.
    for _ in 0..TRIES {
        let _ = runs::bury_dead(dirs, "the supervisor was killed");
        if !runs::is_run_of(dirs, supervisor) {
            return;
        }
        thread::sleep(BETWEEN);
    }
}
