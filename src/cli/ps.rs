//! `belljar ps`.

use clap::Args;

use super::{print, surroundings};
use crate::error::{Context, Result, printable};
use crate::runs;

/// List live runs.
#[derive(Debug, Args)]
pub struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Prints the live runs, oldest first.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let live = runs::live(&dirs)?;
        if self.json {
            let text = serde_json::to_string_pretty(&live).step(|| "render the runs".to_owned())?;
            print(&format!("{text}\n"))?;
            return Ok(0);
        }
        let mut text = format!("{:<24} {:<16} {:<16} {:<8} {:<24} COMMAND\n", "RUN", "NAME", "GROUP", "PID", "STARTED");
        for run in live {
            let name = run.name.as_deref().unwrap_or("-");
            let command = printable(&run.command.join(" ")).replace('\n', "\\n");
            text.push_str(&format!(
                "{:<24} {name:<16} {:<16} {:<8} {:<24} {command}\n",
                run.run, run.group, run.pid, run.started
            ));
        }
        print(&text)?;
        Ok(0)
    }
}
