//! What agents ask the host for, by files or by MCP: both ways end in one
//! [`Operation`], which one table allows or refuses. Identity comes from the way an
//! operation came in, and is never a field of it.

mod access;
pub mod authorise;
mod claim;
mod files;
pub mod mcp;
mod operation;
mod perform;
mod place;
mod refusal;
mod session;
mod snapshot;
mod spool;
#[cfg(test)]
mod tests;
mod tools;

pub use operation::{Operation, TaskChange, TaskOrder};
pub use perform::{Answer, Desk, Way, access_scope};
pub use place::Place;
pub use session::{HOST, URL, offer_mcp};
pub use snapshot::Snapshot;
pub use spool::{Done, Spool};

use crate::config::MAIN;
use crate::plan::Trust;

/// Whose agent asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The group.
    pub group: String,
}

impl Identity {
    /// Of a group's agent.
    pub fn of(group: &str) -> Self {
        Self { group: group.to_owned() }
    }

    /// Only `main` is trusted.
    pub fn trust(&self) -> Trust {
        if self.group == MAIN { Trust::Trusted } else { Trust::Untrusted }
    }
}
