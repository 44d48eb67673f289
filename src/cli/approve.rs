//! `belljar approve`.

use std::time::Duration;

use clap::Args;

use super::approvals::time_left;
use super::rows::print_rows;
use super::{person, surroundings};
use crate::error::{Result, printable};
use crate::plan::parse_duration;
use crate::store::{Store, Verdict};

/// Let a request pass that waits for a person.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Its id, from belljar approvals
    id: String,
    /// Let every request of the same group, rule, method, host and path pass for this time, whatever its query and body
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
}

impl Arguments {
    /// Decides.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let approval = Store::open(&dirs)?.decide(&self.id, Verdict::Approve { more: self.time }, &person())?;
        let scope = &approval.scope;
        print_rows(&format!(
            "approved {}: {} {}\n",
            approval.id,
            printable(&scope.method),
            printable(&approval.url())
        ))?;
        if let Some(time) = self.time {
            print_rows(&format!(
                "for {} more, group {} may {} {} with any query and body; belljar approvals revoke {} ends it\n",
                time_left(time),
                printable(&scope.group),
                printable(&scope.method),
                printable(&scope.url()),
                approval.id
            ))?;
        }
        Ok(0)
    }
}
