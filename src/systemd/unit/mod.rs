//! Unit files: what stands in them and why, where they lie, and who may write
//! over them. Text only; nothing here runs anything but systemd's own tools.

mod control;
mod files;
mod hardening;
mod kinds;
mod text;

pub use control::{Control, check_calendar, find_manual, lingers, version};
pub use files::{Change, Force, Planned, installed, plan_removal};
pub use hardening::Needs;
pub use kinds::{HOST, SOCKET, Schedule, TEMPLATE, host, job, job_name, names_of, template, timer};

use std::path::{Path, PathBuf};

use crate::config::Caller;
use crate::error::{Error, Result};

/// Whose service manager keeps the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The caller's (user@.service(5)).
    User,
    /// The host's.
    System,
}

impl Scope {
    /// Where its unit files lie (systemd.unit(5), "Unit File Load Path"): the
    /// places for what an administrator or a user has written.
    pub fn directory(self, caller: &Caller) -> PathBuf {
        match self {
            Self::System => PathBuf::from("/etc/systemd/system"),
            Self::User => {
                let given = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
                given.unwrap_or_else(|| caller.home.join(".config")).join("systemd/user")
            }
        }
    }

    /// systemctl(1) for it, as a person types it.
    pub fn systemctl(self) -> &'static str {
        match self {
            Self::User => "systemctl --user",
            Self::System => "sudo systemctl",
        }
    }

    /// As an option of systemctl(1) and of `belljar systemd`.
    pub fn option(self) -> &'static str {
        match self {
            Self::User => "--user",
            Self::System => "--system",
        }
    }
}

/// What all of belljar's units have in common.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Whose manager.
    pub scope: Scope,
    /// The user that a unit of the host's manager runs as; root without one.
    pub user: Option<String>,
    /// The program that is executed.
    pub program: PathBuf,
    /// Variables of the unit.
    pub environment: Vec<(String, String)>,
    /// What the hardening must leave open.
    pub needs: Needs,
    /// belljar's own directories; none where the unit is for anybody.
    pub places: Vec<PathBuf>,
    /// What Documentation= names.
    pub manual: Manual,
    /// The encrypted credential with the vault's master key.
    pub credential: Option<PathBuf>,
}

/// Where the manual is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manual {
    /// On this host, by man(1).
    Pages,
    /// On the web: the program was installed without its pages, and a unit that
    /// names one that is not there does not pass `systemd-analyze verify`.
    Web,
}

impl Setting {
    /// Refuses what no unit could hold.
    pub fn check(&self) -> Result<()> {
        self.places.iter().chain(&self.needs.writes).try_for_each(|path| check_listed(path))?;
        match self.environment.iter().find(|(_, value)| value.contains('\n')) {
            Some((name, _)) => Err(not_held(name, "has a line break")),
            None => Ok(()),
        }
    }

    fn documentation(&self, pages: &[&str]) -> String {
        match self.manual {
            Manual::Pages => pages.iter().map(|page| format!("man:{page}(1)")).collect::<Vec<_>>().join(" "),
            Manual::Web => "https://docs.rs/crate/belljar/latest".to_owned(),
        }
    }
}

/// Refuses what cannot be part of a unit's name, or would be read as something
/// else there (systemd.unit(5): `@`, `-` and escapes).
pub fn check_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if good {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--name {name}: 1 to 64 letters, digits, `-`, `_` and `.`, of which the first is a letter or digit"
    ))
    .hint("for example --name nightly-2"))
}

/// The refusal of a variable that a unit cannot hold.
pub fn not_held(name: &str, why: &str) -> Error {
    let hint = match name {
        "PATH" => "PATH=/usr/local/bin:/usr/bin:/bin belljar systemd install    (or unit, or timer)".to_owned(),
        _ => format!("unset {name}, or give the directory another name"),
    };
    Error::refused(format!("{name} {why}, which a unit cannot hold")).hint(hint)
}

/// Refuses a path that systemd could not read back from a list of paths.
fn check_listed(path: &Path) -> Result<()> {
    if path.to_str().is_some_and(|text| !text.contains(['\n', '"', '\\'])) {
        return Ok(());
    }
    Err(Error::refused(format!("{path:?} cannot stand in a unit"))
        .because(
            "it has a quotation mark, a backslash, a line break or what is not UTF-8, and ReadWritePaths= needs it",
        )
        .hint("give the directory another name"))
}

/// A path as it stands in a list of paths of a unit.
fn listed(path: &Path) -> String {
    text::quoted(&path.to_string_lossy())
}

/// The units of the package, by their place below contrib/systemd: for anybody,
/// so that they know nobody's configuration.
pub fn packaged() -> Vec<(String, String)> {
    let scopes = [("user", Scope::User), ("system", Scope::System)];
    let units = scopes.into_iter().flat_map(|(place, scope)| {
        let setting = Setting {
            scope,
            user: None,
            program: PathBuf::from("/usr/bin/belljar"),
            environment: Vec::new(),
            needs: Needs::default(),
            places: Vec::new(),
            manual: Manual::Pages,
            credential: None,
        };
        let [service, socket] = host(&setting);
        [service, socket, template(&setting)].map(|(name, text)| (format!("{place}/{name}"), text))
    });
    units.collect()
}
