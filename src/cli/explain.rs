//! `belljar explain`.

use clap::Args;

use super::options::PlanOptions;
use super::{print, surroundings};
use crate::error::{Context, Result};
use crate::plan;

/// Show the plan of a run, each line with its reason; nothing is done.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    options: PlanOptions,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// As in a unit of the host's manager with Delegate=yes
    #[arg(long)]
    in_unit: bool,
}

impl Arguments {
    /// Prints the plan.
    pub fn execute(self) -> Result<u8> {
        let mut request = self.options.request()?;
        request.example = vec!["true".to_owned()];
        request.of_unit = self.in_unit;
        let (caller, dirs) = surroundings()?;
        let plan = plan::build(&request, &caller, &dirs)?.plan;
        if self.json {
            let text = serde_json::to_string_pretty(&plan).step(|| "render the plan".to_owned())?;
            print(&format!("{text}\n"))?;
        } else {
            print(&plan.explain())?;
        }
        Ok(0)
    }
}
