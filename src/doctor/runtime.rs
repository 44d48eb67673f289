//! OCI runtimes: which are there, which versions, with which known trouble.

use std::process::Command;

use super::{Finding, State};
use crate::backend;
use crate::config::Caller;

/// Trouble of versions, as seen in practice: first bad, first good, what.
const KNOWN: [((u32, u32, u32), (u32, u32, u32), &str); 1] =
    [((0, 0, 0), (1, 0, 0), "crun before 1.0 lacks the options that belljar uses")];

pub fn examine(caller: &Caller) -> Vec<Finding> {
    let install = "apt-get install crun    (dnf, pacman, zypper: the package has the same name)";
    let found = match backend::find(None, caller) {
        Ok(runtime) => match version_of(&runtime.path) {
            Some((text, version)) => {
                let trouble = KNOWN.iter().find(|(from, to, _)| version >= *from && version < *to);
                match trouble {
                    Some((_, _, what)) => Finding::new("crun", State::Missing, format!("{} {text}", runtime.path.display()), what, Some(install)),
                    None => Finding::new("crun", State::Ok, format!("{} {text}", runtime.path.display()), "", None),
                }
            }
            None => Finding::new("crun", State::Missing, format!("{} does not say its version", runtime.path.display()), "it makes the container", Some(install)),
        },
        Err(error) => Finding::new("crun", State::Missing, error.what, "it makes the container", Some(install)),
    };
    vec![found]
}

/// The version that `PATH --version` says.
fn version_of(path: &std::path::Path) -> Option<(String, (u32, u32, u32))> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?.to_owned();
    let mut numbers = word.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next()?, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Some((word, version))
}
