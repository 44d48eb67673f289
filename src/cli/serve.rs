//! `belljar serve`.

use std::time::Duration;

use clap::Args;

use super::surroundings;
use crate::error::{Error, Result};
use crate::host::{self, Options};
use crate::plan::parse_duration;

/// The host process: takes messages to agents and back, does what agents may ask for and
/// tasks when they are due, and starts runs for those who ask on its Unix socket.
///
/// docs/host.md tells of messages, tasks and agents. It takes over a socket of systemd's, or listens on $XDG_RUNTIME_DIR/belljar.sock;
/// `belljar systemd install` writes units for it. Only its own user and root are
/// answered, in JSON over HTTP:
///
/// GET /status: version, process id, runs. GET /runs: live runs, as `belljar ps
/// --json`. POST /runs with {"group": "sales", "command": ["sh", "-c", "…"],
/// "stdin": "…", "name": "…"}, each of them optional: a run, answered when it has
/// ended with run, exit_code, cause, stdout, stderr (up to 1 MiB each); 422 when it
/// was refused, 429 when too many are going on. Who goes away before ends the run.
/// DELETE /runs/ID: stops a live run. POST /messages with {"group": "sales", "text": "…"} or
/// {"chat": "irc:#ops", "sender": "ann", "text": "…", "id": "…"}: says something in a chat;
/// 202 with group, stored, wakes and after. GET /messages?group=sales&after=N&wait=SECONDS,
/// or ?chat=…: what agents said there after number N.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Runs at once
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    runs: usize,
    /// End when nobody has asked for anything for this long, without channels and tasks; systemd's socket starts it again
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    idle_exit: Option<Duration>,
}

impl Arguments {
    /// Serves until SIGTERM or SIGINT.
    pub fn execute(self) -> Result<u8> {
        if !(1..=1024).contains(&self.runs) {
            return Err(Error::usage(format!("--runs {}: 1 to 1024", self.runs)));
        }
        let (caller, dirs) = surroundings()?;
        host::serve(&caller, &dirs, Options { most_runs: self.runs, idle_exit: self.idle_exit })?;
        Ok(0)
    }
}
