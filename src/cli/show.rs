//! `belljar show`.

use clap::Args;
use serde_json::Value;

use super::{print, surroundings};
use crate::error::{Context, Result, printable};
use crate::runs;

/// Show the receipt of a run, live or past.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Id of the run, the beginning of one, or its name
    run: String,
    /// As JSON, with the whole plan
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Prints the receipt.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        // One that the power was taken from says that it is running.
        if let Err(error) = runs::bury_dead(&dirs, runs::STOPPED) {
            eprintln!("{error}");
        }
        let receipt = runs::find_receipt(&dirs, &self.run)?;
        if self.json {
            let text = serde_json::to_string_pretty(&receipt).step(|| "render the receipt".to_owned())?;
            print(&format!("{text}\n"))?;
            return Ok(0);
        }
        for field in [
            "run",
            "name",
            "group",
            "status",
            "cause",
            "exit_code",
            "started",
            "ended",
            "not_in_force",
            "error",
            "plan_sha256",
        ] {
            let shown = match &receipt[field] {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Array(items) if items.is_empty() => continue,
                other => other.to_string(),
            };
            print(&format!("{field:<14} {}\n", printable(&shown)))?;
        }
        let list = |value: &Value| {
            value
                .as_array()
                .map(|items| items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
                .unwrap_or_default()
        };
        print(&format!("{:<14} {}\n", "command", printable(&list(&receipt["plan"]["command"]))))?;
        if let Some(mounts) = receipt["verify"]["mounts"].as_u64() {
            print(&format!(
                "{:<14} {mounts} mounts and {} facts compared with the kernel's view\n",
                "verify", receipt["verify"]["facts"]
            ))?;
        }
        Ok(0)
    }
}
