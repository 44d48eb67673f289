//! The whole environment of the agent. Nothing of the caller's passes unless it
//! is named.

use std::collections::HashSet;
use std::env;

use super::command::SYSTEM_PATH;
use super::{HOME, Variable};
use crate::error::{Error, Result};

/// Builds the environment; `asked` is `KEY=VALUE` or `KEY`, and wins.
pub fn resolve(
    asked: &[String],
    (program_directories, of_image): (&[String], &[String]),
    of_egress: Vec<Variable>,
    terminal: bool,
) -> Result<Vec<Variable>> {
    let mut path: Vec<&str> = program_directories.iter().map(String::as_str).collect();
    path.extend(path_of(of_image));
    path.extend(SYSTEM_PATH);
    let mut seen = HashSet::new();
    path.retain(|directory| seen.insert(*directory));
    let of_path = match of_image {
        [] => "the program's package, and the system's own programs",
        _ => "the program's package, what the image says, and the system's own programs",
    };
    let mut variables = vec![
        variable("HOME", HOME, "the private home"),
        variable("LANG", "C.UTF-8", "UTF-8 without any locale files"),
        variable("LOGNAME", "node", "the agent's user"),
        variable("PATH", &path.join(":"), of_path),
        variable("SHELL", "/bin/sh", "every root has one"),
        variable("TMPDIR", "/tmp", "the private tmpfs"),
        variable("USER", "node", "the agent's user"),
        // Otherwise it is split: .claude.json, with servers and settings, lies in the
        // home then, which does not last.
        variable("CLAUDE_CONFIG_DIR", "/home/node/.claude", "all of Claude Code's state is the group's session"),
        // The index records the caller's uid, the agent sees 1000: without this
        // git reads every file again on each `status` of a read-only project.
        variable("GIT_CONFIG_COUNT", "1", "one git setting follows"),
        variable("GIT_CONFIG_KEY_0", "core.checkStat", "git must not compare owners"),
        variable("GIT_CONFIG_VALUE_0", "minimal", "git must not compare owners"),
    ];
    variables.extend(of_egress);
    if terminal {
        let term = env::var("TERM").ok().filter(|term| {
            !term.is_empty() && term.len() < 64 && term.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.".contains(c))
        });
        variables.push(variable("TERM", term.as_deref().unwrap_or("xterm-256color"), "the caller's kind of terminal"));
    }
    for text in asked {
        let added = one(text)?;
        match variables.iter_mut().find(|have| have.name == added.name) {
            Some(have) => *have = added,
            None => variables.push(added),
        }
    }
    Ok(variables)
}

/// Directories of an image's own PATH: absolute ones.
fn path_of(of_image: &[String]) -> impl Iterator<Item = &str> {
    let path = of_image.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':').filter(|directory| directory.starts_with('/') && !directory.chars().any(char::is_control))
}

/// Adds what an image sets and belljar does not: as it is written there, without
/// any value of the host. Proxies are belljar's alone to name.
pub fn add_of_image(variables: &mut Vec<Variable>, of_image: &[String]) {
    for text in of_image {
        let Some((name, value)) = text.split_once('=') else { continue };
        let ours = variables.iter().any(|have| have.name == name) || name.to_ascii_lowercase().ends_with("_proxy");
        if is_name(name) && !ours && !value.contains('\0') {
            variables.push(variable(name, value, "the image's"));
        }
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A variable of the plan.
pub fn variable(name: &str, value: &str, reason: &str) -> Variable {
    Variable { name: name.to_owned(), value: value.to_owned(), reason: reason.to_owned() }
}

fn one(text: &str) -> Result<Variable> {
    let name = text.split('=').next().unwrap_or_default();
    if !is_name(name) {
        return Err(Error::refused(format!("--env {text}: `{name}` is not a variable's name"))
            .hint("KEY=VALUE, or KEY for the caller's value"));
    }
    match text.split_once('=') {
        Some((name, value)) => Ok(variable(name, value, "asked for by --env")),
        None => match env::var(name) {
            Ok(value) => Ok(variable(name, &value, "the caller's, asked for by --env")),
            Err(reason) => Err(Error::refused(format!("--env {name}: the caller's environment does not have it"))
                .because(reason)
                .hint(format!("--env {name}=VALUE"))),
        },
    }
}
