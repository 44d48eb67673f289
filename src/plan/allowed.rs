//! The allowlist of extra mounts, in NanoClaw's format and meaning. It lies
//! outside every mount; a missing file allows nothing, an invalid one stops
//! every run.

use std::fs;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Trust;
use super::blocked::Blocked;
use super::request::Access;
use super::source::absolute;
use crate::config::read_own;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    allowed_roots: Vec<Root>,
    #[serde(default)]
    blocked_patterns: Vec<String>,
    #[serde(default = "yes")]
    non_main_read_only: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Root {
    path: String,
    #[serde(default)]
    allow_read_write: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

fn yes() -> bool {
    true
}

/// Whether there is an allowlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowlistState {
    /// No file: no extra mounts.
    Missing,
    /// A valid file.
    Present,
}

/// The allowlist, resolved.
#[derive(Debug, Clone)]
pub struct Allowlist {
    /// Its file.
    pub path: PathBuf,
    /// Whether there is one.
    pub state: AllowlistState,
    /// The roots in order.
    pub roots: Vec<AllowedRoot>,
    /// The person's own blocked patterns.
    pub blocked_patterns: Vec<String>,
    /// Groups other than main get everything read-only.
    pub non_main_read_only: bool,
}

/// One allowed root.
#[derive(Debug, Clone)]
pub struct AllowedRoot {
    /// As written.
    pub written: String,
    /// The real path; `None` when it does not exist.
    pub real: Option<PathBuf>,
    /// Read-write mounts are allowed below.
    pub read_write: bool,
    /// What the person noted.
    pub description: Option<String>,
}

/// What the allowlist says of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The access that it gives.
    pub access: Access,
    /// Which rule decided, and why.
    pub reason: String,
}

impl Allowlist {
    /// Reads the file. Refused when it is invalid, with line and reason.
    pub fn load(path: &Path, home: &Path) -> Result<Self> {
        let missing = Self {
            path: path.to_owned(),
            state: AllowlistState::Missing,
            roots: Vec::new(),
            blocked_patterns: Vec::new(),
            non_main_read_only: true,
        };
        let Some(text) = read_own(path)? else {
            return Ok(missing);
        };
        let invalid = |line: usize, reason: String| {
            Error::refused(format!("{}:{line}: {reason}", path.display()))
                .hint("mend that line; belljar mounts list shows what is in force")
        };
        let file: File =
            serde_json::from_str(&text).map_err(|error| invalid(error.line().max(1), error.to_string()))?;
        let line_of = |value: &str| {
            let literal = serde_json::to_string(value).unwrap_or_default();
            text.find(&literal).map_or(1, |at| text[..at].matches('\n').count() + 1)
        };
        let mut roots = Vec::new();
        for root in file.allowed_roots {
            let expanded =
                absolute(&root.path, home, None).map_err(|error| invalid(line_of(&root.path), error.what))?;
            let real = fs::canonicalize(expanded).ok();
            roots.push(AllowedRoot {
                written: root.path,
                real,
                read_write: root.allow_read_write,
                description: root.description,
            });
        }
        for pattern in &file.blocked_patterns {
            if pattern.trim().is_empty() {
                return Err(invalid(line_of(pattern), "an empty blocked pattern would block everything".to_owned()));
            }
            Blocked::new(std::slice::from_ref(pattern))
                .map_err(|error| invalid(line_of(pattern), format!("{}: {}", error.what, error.causes.join(": "))))?;
        }
        Ok(Self {
            state: AllowlistState::Present,
            roots,
            blocked_patterns: file.blocked_patterns,
            non_main_read_only: file.non_main_read_only,
            ..missing
        })
    }

    /// Judges a mount of `path`, which is real: the first root that contains it
    /// decides.
    pub fn judge(&self, path: &Path, asked: Access, trust: Trust) -> Result<Verdict> {
        let file = self.path.display();
        if self.state == AllowlistState::Missing {
            return Err(Error::refused(format!("mount {}: there is no allowlist, so no extra mounts", path.display()))
                .hint(format!("belljar mounts init, then add the directory to {file}")));
        }
        let containing = self.roots.iter().find(|root| root.real.as_deref().is_some_and(|real| path.starts_with(real)));
        let Some(root) = containing else {
            return Err(Error::refused(format!("mount {}: no allowed root contains it", path.display()))
                .hint(format!("add it to allowedRoots in {file}")));
        };
        let by = format!("allowed by root {}", root.written);
        Ok(match asked {
            Access::ReadOnly => Verdict { access: Access::ReadOnly, reason: by },
            Access::ReadWrite if !root.read_write => Verdict {
                access: Access::ReadOnly,
                reason: format!(
                    "{by}; read-only although read-write was asked for: the root does not have allowReadWrite"
                ),
            },
            Access::ReadWrite if trust == Trust::Untrusted && self.non_main_read_only => Verdict {
                access: Access::ReadOnly,
                reason: format!(
                    "{by}; read-only although read-write was asked for: nonMainReadOnly holds for every group but main"
                ),
            },
            Access::ReadWrite => Verdict { access: Access::ReadWrite, reason: format!("{by} with allowReadWrite") },
        })
    }
}
