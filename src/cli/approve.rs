//! `belljar approve`.

use std::time::Duration;

use clap::Args;

use super::approvals::{time_left, wanted};
use super::rows::print_rows;
use super::{person, surroundings};
use crate::error::{Result, printable};
use crate::plan::parse_duration;
use crate::store::{Access, Approval, Store, Verdict};

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
        let store = Store::open(&dirs)?;
        let approval = store.decide(&self.id, Verdict::Approve { more: self.time }, &person())?;
        let scope = &approval.scope;
        if let Some(access) = approval.access() {
            return tell_access(&store, &approval, access);
        }
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

/// What an agent asked for by itself: what follows, and what is left to do.
fn tell_access(store: &Store, approval: &Approval, access: Access<'_>) -> Result<u8> {
    let group = printable(&approval.scope.group);
    let follows = match (access, store.permit_of(&approval.id)?) {
        (Access::Host(host), Some(permit)) => format!(
            "for {} group {group} may reach {}, except for what a rule of policy.toml denies; \
             belljar approvals revoke {} ends it",
            time_left(permit.left),
            printable(host),
            approval.id
        ),
        (Access::Host(_), None) => "the time is over already".to_owned(),
        (Access::Secret(_), _) => {
            format!("the agent was told yes; the secret is yours to add: belljar secret add NAME --group {group} …")
        }
    };
    print_rows(&format!("approved {}: group {group} asked {}\n{follows}\n", approval.id, wanted(access)))?;
    Ok(0)
}
