//! `--writable-root`: what is written into the root goes into a layer of the
//! run's own, in memory, and is gone with it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::environment::variable;
use super::mounts::{Mounts, Options};
use super::{Mount, MountKind, Variable};

/// Size of everything that one run writes into its root, in bytes; the same as
/// that of the private home.
const SIZE: u64 = 4096 << 20;
/// Files and directories that one run makes in its root.
const INODES: u64 = 1_048_576;
/// Where npm and pip install for the agent, in its private home.
const PREFIX: &str = "/home/node/.local";

/// Whether the agent may write into the root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RootAccess {
    /// Not at all.
    #[default]
    ReadOnly,
    /// Into a layer that is thrown away.
    Writable,
}

/// The layer of a root that can be written: a tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WritableRoot {
    /// Size limit in bytes.
    pub size: u64,
    /// Limit of files and directories.
    pub inodes: u64,
}

impl RootAccess {
    /// What was asked for: typed, then the group's, then of `[run]`.
    pub fn resolve(typed: bool, group: Option<bool>, all: Option<bool>) -> Self {
        if typed || group.or(all).unwrap_or_default() { Self::Writable } else { Self::ReadOnly }
    }

    /// The layer, where there is one.
    pub fn layer(self) -> Option<WritableRoot> {
        (self == Self::Writable).then_some(WritableRoot { size: SIZE, inodes: INODES })
    }

    /// Variables by which npm and pip install into the private home.
    pub fn variables(self) -> Vec<Variable> {
        match self {
            Self::ReadOnly => Vec::new(),
            Self::Writable => vec![
                variable("NPM_CONFIG_PREFIX", PREFIX, "npm install -g goes into the private home"),
                variable(
                    "PYTHONUSERBASE",
                    PREFIX,
                    "pip install goes into the private home where it cannot go into the root",
                ),
                variable(
                    "PIP_BREAK_SYSTEM_PACKAGES",
                    "1",
                    "nothing of the system's can break: it is gone after the run",
                ),
            ],
        }
    }

    /// Directories for the agent's PATH in which npm and pip put programs.
    pub fn program_directories(self) -> Vec<String> {
        match self {
            Self::ReadOnly => Vec::new(),
            Self::Writable => vec![format!("{PREFIX}/bin")],
        }
    }
}

impl Mounts {
    /// Where the root can be written: makes each of its own directories that
    /// mounts lie in a mount too. Otherwise the agent could rename it, and put
    /// something else where a mount was. Only /etc, which holds nothing of a
    /// person's, can be written.
    pub fn add_holders(&mut self) {
        let top = |mount: &Mount| mount.target.split('/').nth(1).map(|name| format!("/{name}"));
        let holders: BTreeSet<String> = self
            .list
            .iter()
            .filter_map(top)
            .filter(|top| !self.list.iter().any(|mount| mount.target == *top))
            .collect();
        for (index, target) in holders.into_iter().enumerate() {
            let (options, reason) = match target.as_str() {
                "/etc" => (Options::RW, "the run's own, gone after it; a mount, so that it cannot be renamed"),
                _ => (Options::RO, "so that the mounts in it cannot be renamed away"),
            };
            self.insert(index, &target, MountKind::Holder, options, reason);
        }
    }
}

impl WritableRoot {
    /// For people.
    pub fn describe(self) -> String {
        format!("writable in memory: {} MiB, {} files; gone after the run", self.size >> 20, self.inodes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::HOME;

    #[test]
    fn the_prefix_lies_in_the_home() {
        assert!(Path::new(PREFIX).starts_with(HOME));
    }
}
