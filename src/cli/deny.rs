//! `belljar deny`.

use clap::Args;

use super::approvals::wanted;
use super::rows::print_rows;
use super::{person, surroundings};
use crate::error::{Result, printable};
use crate::store::{Store, Verdict};

/// Refuse a request that waits for a person.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Its id, from belljar approvals
    id: String,
}

impl Arguments {
    /// Decides.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let approval = Store::open(&dirs)?.decide(&self.id, Verdict::Deny, &person())?;
        let what = match approval.access() {
            Some(access) => format!("group {} asked {}", printable(&approval.scope.group), wanted(access)),
            None => format!("{} {}", printable(&approval.scope.method), printable(&approval.url())),
        };
        print_rows(&format!("denied {}: {what}\n", approval.id))?;
        Ok(0)
    }
}
