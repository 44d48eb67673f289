//! `belljar run`.

use std::path::PathBuf;

use clap::Args;

use super::image::plan_with_image;
use super::options::PlanOptions;
use super::surroundings;
use crate::config::{Caller, Config, Dirs};
use crate::error::{Error, Result};
use crate::journal::Events;
use crate::launch::{self, RunOptions};
use crate::plan::Resolved;

/// Run one agent; stdin, stdout, stderr and exit code are the agent's.
///
/// Exit codes: the agent's own; 128+n when signal n ended it; 124 timeout; 125
/// belljar refused or failed before the agent began; 126 the command cannot be
/// executed; 127 it was not found.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    options: PlanOptions,
    /// Name of the run, for ps, stop and show
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write the receipt to this file too
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Say on stderr what belljar does
    #[arg(short, long)]
    verbose: bool,
}

impl Arguments {
    /// Runs the agent.
    pub fn execute(self) -> Result<u8> {
        let (resolved, caller, dirs) = self.resolve().inspect_err(|error| self.tell_refusal(error))?;
        let options = RunOptions { name: self.name, receipt: self.receipt, verbose: self.verbose };
        launch::run(resolved, &caller, &dirs, &options)
    }

    fn resolve(&self) -> Result<(Resolved, Caller, Dirs)> {
        if let Some(name) = &self.name {
            let good = !name.is_empty()
                && name.len() <= 64
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !good {
                return Err(Error::usage(format!("--name {name}: 1 to 64 letters, digits, `-`, `_` and `.`"))
                    .hint("for example --name nightly-2"));
            }
        }
        let request = self.options.clone().request()?;
        let (caller, dirs) = surroundings()?;
        Ok((plan_with_image(&request, &caller, &dirs)?, caller, dirs))
    }

    /// Also what is wrong with the configuration is told where it says, as far as it can be read.
    fn tell_refusal(&self, error: &Error) {
        let config = surroundings().and_then(|(_, dirs)| Config::load(&dirs.config_file()));
        let to = config.map(|config| config.log.to).unwrap_or_default();
        Events::new(to, None, Some(self.options.group())).tell_error("refused", error);
    }
}
