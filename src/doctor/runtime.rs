//! OCI runtimes: which are there, which versions, with which known trouble.

use std::process::Command;

use super::{Finding, State};
use crate::backend;
use crate::config::Caller;

/// A version, as major, minor and patch number.
type Version = (u32, u32, u32);

/// Trouble of all versions before one.
struct Trouble {
    before: Version,
    what: &'static str,
    state: State,
}

/// What is known of crun, worst first.
const KNOWN: [Trouble; 2] = [
    Trouble { before: (1, 0, 0), what: "it lacks options that belljar uses", state: State::Missing },
    Trouble {
        before: (1, 8, 2),
        what: "it follows a link at /dev of a root (CVE-2026-47766); belljar generates the root itself, so runs are not affected",
        state: State::Ok,
    },
];

pub fn examine(caller: &Caller) -> Vec<Finding> {
    let install = "apt-get install crun    (dnf, pacman, zypper: the package has the same name)";
    let matters = "it makes the container";
    let missing = |found: String| vec![Finding::new("crun", State::Missing, found, matters, Some(install))];
    let runtime = match backend::find(None, caller) {
        Ok(runtime) => runtime,
        Err(error) => return missing(error.what),
    };
    let path = runtime.path.display();
    let Some((text, version)) = version_of(&runtime.path) else {
        return missing(format!("{path} does not say its version"));
    };
    let trouble = KNOWN.iter().find(|trouble| version < trouble.before);
    let state = trouble.map_or(State::Ok, |trouble| trouble.state);
    let remark = trouble.map(|trouble| format!("; {}", trouble.what)).unwrap_or_default();
    vec![Finding::new("crun", state, format!("{path} {text}{remark}"), matters, Some(install))]
}

/// The version that `PATH --version` says.
fn version_of(path: &std::path::Path) -> Option<(String, Version)> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?.to_owned();
    let mut numbers = word.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next()?, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Some((word, version))
}
