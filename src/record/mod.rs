//! The record: one JSON line for each request of a run, in a hash chain.
//!
//! It says what left and who let it, and never what was in it: no query, no
//! body, no secret's value. Each line holds the SHA-256 over the line before and
//! itself, and the receipt holds the last one, so that a line that was changed,
//! taken out or added later shows. Whoever can write here can also write a whole
//! new chain and a new receipt: keep the receipt elsewhere (`--receipt FILE`)
//! where that matters.

mod entry;
mod json;
mod log;
mod verify;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Dirs;

pub use entry::{Entry, Kind};
pub use json::json_line;
pub use log::Log;
pub use verify::{Break, Finding, verify};

/// Where a chain ends, for the receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Lines about requests; the end line is not one.
    pub count: u64,
    /// The last line's value, in hexadecimal.
    pub chain: String,
}

/// The record of a run: beside its receipt.
pub fn path(dirs: &Dirs, run: &str) -> PathBuf {
    dirs.receipts().join(format!("{run}.requests.jsonl"))
}

/// What stands for the line before the first.
fn first(run: &str, group: &str) -> String {
    link(&format!("belljar requests 1 {run} {group}"), "")
}

/// The value of a line without its `chain`, after the value before it.
fn link(previous: &str, line: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(previous.as_bytes());
    hash.update(line.as_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
