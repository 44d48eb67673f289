//! The whole environment of the agent. Nothing of the caller's passes unless it
//! is named.

use std::env;

use super::command::SYSTEM_PATH;
use super::{HOME, Variable};
use crate::error::{Error, Result};

/// Builds the environment; `asked` is `KEY=VALUE` or `KEY`, and wins.
pub fn resolve(
    asked: &[String],
    program_directories: &[String],
    of_egress: Vec<Variable>,
    terminal: bool,
) -> Result<Vec<Variable>> {
    let mut path: Vec<&str> = program_directories.iter().map(String::as_str).collect();
    path.extend(SYSTEM_PATH);
    path.dedup();
    let mut variables = vec![
        variable("HOME", HOME, "the private home"),
        variable("LANG", "C.UTF-8", "UTF-8 without any locale files"),
        variable("LOGNAME", "node", "the agent's user"),
        variable("PATH", &path.join(":"), "the host's own programs and the program's package"),
        variable("SHELL", "/bin/sh", "every root has one"),
        variable("TMPDIR", "/tmp", "the private tmpfs"),
        variable("USER", "node", "the agent's user"),
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

/// A variable of the plan.
pub fn variable(name: &str, value: &str, reason: &str) -> Variable {
    Variable { name: name.to_owned(), value: value.to_owned(), reason: reason.to_owned() }
}

fn one(text: &str) -> Result<Variable> {
    let name = text.split('=').next().unwrap_or_default();
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good {
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
