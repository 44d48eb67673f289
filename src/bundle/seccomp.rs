//! The seccomp profile: data with a reason for each rule, rendered into the OCI
//! form (OCI runtime spec, config-linux, "Seccomp"). The runtime compiles it.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator,
    LinuxSyscallBuilder,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::backend::MaskedEqual;
use crate::error::{Context, Result};
use crate::plan::hex;

const TEXT: &str = include_str!("../../seccomp/default.json");

/// The profile as data.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is for.
    pub about: String,
    default: Action,
    /// The rules; libseccomp knows no order among them.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Why it is there.
    pub reason: String,
    action: Action,
    names: Vec<String>,
    #[serde(default)]
    args: Vec<Condition>,
}

/// A condition: argument number `index`, masked, equals `value`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    index: usize,
    mask: u64,
    value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Allow,
    Eperm,
    Enosys,
}

impl Action {
    fn oci(self) -> (LinuxSeccompAction, Option<u32>) {
        match self {
            Self::Allow => (LinuxSeccompAction::ScmpActAllow, None),
            Self::Eperm => (LinuxSeccompAction::ScmpActErrno, Some(libc::EPERM as u32)),
            Self::Enosys => (LinuxSeccompAction::ScmpActErrno, Some(libc::ENOSYS as u32)),
        }
    }
}

/// The default profile.
pub fn profile() -> Result<Profile> {
    serde_json::from_str(TEXT).step(|| "read the embedded seccomp profile".to_owned())
}

/// SHA-256 of the profile's text.
pub fn digest() -> String {
    hex(&Sha256::digest(TEXT.as_bytes()))
}

impl Profile {
    /// How many calls are allowed at least with some arguments.
    pub fn allowed(&self) -> usize {
        let mut names: Vec<&String> =
            self.rules.iter().filter(|rule| rule.action == Action::Allow).flat_map(|rule| &rule.names).collect();
        names.sort();
        names.dedup();
        names.len()
    }

    /// The OCI form, for a runtime that reads masked comparisons in this way.
    pub fn render(&self, order: MaskedEqual) -> Result<LinuxSeccomp> {
        let (default, errno) = self.default.oci();
        let mut syscalls = Vec::with_capacity(self.rules.len());
        for rule in &self.rules {
            let (action, errno) = rule.action.oci();
            let mut syscall = LinuxSyscallBuilder::default().names(rule.names.clone()).action(action);
            if let Some(errno) = errno {
                syscall = syscall.errno_ret(errno);
            }
            let mut args = Vec::new();
            for condition in &rule.args {
                let (one, two) = match order {
                    MaskedEqual::MaskFirst => (condition.mask, condition.value),
                    MaskedEqual::MaskLast => (condition.value, condition.mask),
                };
                let arg = LinuxSeccompArgBuilder::default()
                    .index(condition.index)
                    .value(one)
                    .value_two(two)
                    .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
                    .build();
                args.push(arg.step(|| "render a seccomp condition".to_owned())?);
            }
            if !args.is_empty() {
                syscall = syscall.args(args);
            }
            syscalls.push(syscall.build().step(|| "render a seccomp rule".to_owned())?);
        }
        let seccomp =
            LinuxSeccompBuilder::default().default_action(default).default_errno_ret(errno.unwrap_or_default());
        seccomp.syscalls(syscalls).build().step(|| "render the seccomp profile".to_owned())
    }
}
