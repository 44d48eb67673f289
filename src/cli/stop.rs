//! `belljar stop`.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::surroundings;
use crate::error::{Context, Error, Result};
use crate::runs;

/// Longer than the grace of a run.
const PATIENCE: Duration = Duration::from_secs(10);

/// End a live run: SIGTERM, then SIGKILL after a grace of 5 s.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Id of the run, the beginning of one, or its name
    run: String,
}

impl Arguments {
    /// Stops the run and waits until it is gone.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let run = runs::find_live(&dirs, &self.run)?;
        kill(Pid::from_raw(run.pid), Signal::SIGTERM).step(|| format!("signal the supervisor of {}", run.run))?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if runs::live(&dirs)?.iter().all(|live| live.run != run.run) {
                return Ok(0);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Error::failed(format!("run {} has not ended within {} s", run.run, PATIENCE.as_secs()))
            .hint(format!("kill -9 {}", run.pid)))
    }
}
