//! systemctl(1) and systemd-analyze(1), called as a person would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Manual, Scope};
use crate::config::Caller;
use crate::error::{Context, Error, Result, shell_word};

/// systemctl of one manager.
#[derive(Debug)]
pub struct Control {
    scope: Scope,
    /// $XDG_RUNTIME_DIR, which `su -` and cron do not set.
    runtime: Option<PathBuf>,
}

impl Control {
    /// For the manager of this scope; it may not be running.
    pub fn new(scope: Scope, caller: &Caller) -> Self {
        let usual = PathBuf::from(format!("/run/user/{}", caller.uid));
        let unset = std::env::var_os("XDG_RUNTIME_DIR").is_none();
        Self { scope, runtime: (unset && usual.is_dir()).then_some(usual) }
    }

    /// Whether the manager answers.
    pub fn answers(&self) -> bool {
        self.output(&["show", "--property=Version"]).is_ok_and(|output| output.status.success())
    }

    /// Calls systemctl with these arguments.
    pub fn call(&self, arguments: &[&str]) -> Result<()> {
        let shown = format!("systemctl {} {}", self.scope.option(), arguments.join(" "));
        let output = self.output(arguments).step(|| shown.clone())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::failed(shown.clone()).because(said.trim()).hint(shown))
    }

    /// Whether a unit is active, or about to be.
    pub fn is_active(&self, unit: &str) -> bool {
        let state = self.output(&["show", "--property=ActiveState", "--value", unit]);
        state.is_ok_and(|output| matches!(output.stdout.trim_ascii(), b"active" | b"activating" | b"reloading"))
    }

    fn output(&self, arguments: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("systemctl");
        command.arg(self.scope.option()).args(["--no-pager", "--no-ask-password"]).args(arguments).stdin(Stdio::null());
        if let Some(runtime) = &self.runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        command.output()
    }
}

/// Refuses what systemd.time(7) does not read as a calendar event, and what never comes.
pub fn check_calendar(calendar: &str) -> Result<()> {
    let what = || format!("--on-calendar {calendar}");
    let output = Command::new("systemd-analyze")
        .args(["calendar", "--", calendar])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .refuse(|| format!("{}: systemd-analyze, which knows what it means, cannot be started", what()))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let try_it = format!("systemd-analyze calendar {}", shell_word(calendar));
    if output.status.success() && !calendar.contains(['\n', '\0']) {
        // The program speaks English where it is told to.
        if answer.lines().any(|line| line.trim() == "Next elapse: never") {
            return Err(Error::refused(format!("{}: this time never comes", what())).hint(try_it));
        }
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut error = Error::refused(format!("{}: systemd does not know such a time", what()));
    if let Some(line) = said.lines().next() {
        error = error.because(line);
    }
    Err(error.hint(format!("for example --on-calendar '*-*-* 03:00:00'; {try_it}")))
}

/// Whether units of this user run while nobody is logged in
/// (loginctl(1), enable-linger).
pub fn lingers(user: &str) -> bool {
    Path::new("/var/lib/systemd/linger").join(user).exists()
}

/// The version of systemd on this host (systemctl(1), --version).
pub fn version() -> Option<u32> {
    let output = Command::new("systemctl").arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(1)?.parse().ok()
}

/// Whether man(1) knows belljar's pages.
pub fn find_manual() -> Manual {
    let mut man = Command::new("man");
    man.args(["-w", "belljar-systemd"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if man.status().is_ok_and(|status| status.success()) { Manual::Pages } else { Manual::Web }
}
