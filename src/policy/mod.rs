//! What may leave: hosts, paths, and the rules of `policy.toml`. This room
//! judges; it opens no socket and holds no secret.

mod check;
mod decide;
mod file;
mod host;
mod hosts;
mod path;
mod pattern;
mod rule;
mod target;

use std::fmt;

pub use check::{Finding, Severity, check};
pub use decide::{Decision, Query};
pub use file::Policy;
pub use host::{Authority, Host};
pub use hosts::HostPattern;
pub use path::{NormalPath, Reading};
pub use pattern::{Coverage, PathPattern};
pub use rule::{
    ACCESS_RULE, Action, AllowPrivate, DefaultAction, GroupSet, Method, Rate, Rule, TcpRule, Window, check_method,
};
pub use target::{Scheme, Target};

/// Why a text is not what it should be, in words that can be shown to the one
/// who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(pub String);

impl Problem {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}
