//! `belljar doctor`.

use clap::Args;

use super::{print, surroundings};
use crate::doctor::{self, State};
use crate::error::{Context, Result};

/// Say what this host can do, what is missing, and how to mend it.
///
/// What is harmless is tried; last a real run is made, in a home of its own.
/// Exits with 0 when runs are possible, 1 when something that every run needs
/// is missing.
#[derive(Debug, Args)]
pub struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Prints a line for each check.
    pub fn execute(self) -> Result<u8> {
        let (caller, dirs) = surroundings()?;
        let findings = doctor::examine(&caller, &dirs);
        let broken = findings.iter().any(|finding| finding.state == State::Missing);
        if self.json {
            let text = serde_json::to_string_pretty(&findings).step(|| "render the findings".to_owned())?;
            print(&format!("{text}\n"))?;
        } else {
            for finding in &findings {
                let state = match finding.state {
                    State::Ok => "ok",
                    State::Limited => "limited",
                    State::Missing => "MISSING",
                };
                print(&format!("{state:<8} {:<22} {}\n", finding.name, finding.found))?;
                if finding.state != State::Ok {
                    print(&format!("{:<8} {:<22} why it matters: {}\n", "", "", finding.matters))?;
                    if let Some(mend) = &finding.mend {
                        print(&format!("{:<8} {:<22} to mend it: {mend}\n", "", ""))?;
                    }
                }
            }
            print(if broken { "\nruns are not possible here yet\n" } else { "\nruns are possible here\n" })?;
        }
        Ok(u8::from(broken))
    }
}
