//! `belljar deny`.

use clap::Args;

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
        let method = printable(&approval.scope.method);
        print_rows(&format!("denied {}: {method} {}\n", approval.id, printable(&approval.url())))?;
        Ok(0)
    }
}
