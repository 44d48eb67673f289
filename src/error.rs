//! The one error type: what failed, the causes, and a hint that can be typed.
//!
//! Everything that can end a run before the agent's first instruction is an
//! [`Error`]; `main` prints it in one form and turns it into an exit code in
//! one table. It is serialisable because the launcher, another process, sends
//! its errors to the supervisor.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// Exit code when belljar refused or failed before the agent began.
pub const EXIT_REFUSED: u8 = 125;
/// Exit code when the time limit ended the run.
pub const EXIT_TIMEOUT: u8 = 124;
/// Exit code for a command line that cannot be understood (clap's).
pub const EXIT_USAGE: u8 = 2;

/// How an error begins where it is printed, each of its causes, and its hint.
const PRINTED: &str = "belljar: error: ";
const PRINTED_CAUSE: &str = "  because: ";
const PRINTED_HINT: &str = "hint: ";

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an [`Error`] is; it decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The request, configuration or host does not allow it: nothing was done.
    Refused,
    /// The same, until the image that was asked for is in the cache.
    NoImage,
    /// A step failed that should have worked: what was done is undone.
    Failed,
    /// The command line is off.
    Usage,
}

/// What failed, why, and what a person can do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Whose fault it is.
    pub kind: Kind,
    /// The step and the path, host or value that it was about.
    pub what: String,
    /// From the nearest cause to the first one.
    pub causes: Vec<String>,
    /// Something to type or to change.
    pub hint: Option<String>,
}

impl Error {
    /// The request cannot be granted; nothing was done.
    pub fn refused(what: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, what: what.into(), causes: Vec::new(), hint: None }
    }

    /// A step failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, ..Self::refused(what) }
    }

    /// The command line is off.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::refused(what) }
    }

    /// Adds the cause of what was said so far.
    #[must_use]
    pub fn because(mut self, cause: impl Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// What another belljar printed, as it was there ([`Display`]); none where it printed no error.
    pub fn read_back(printed: &str) -> Option<Self> {
        let mut lines = printed.lines().skip_while(|line| !line.starts_with(PRINTED));
        let mut error = Self::refused(lines.next()?.strip_prefix(PRINTED)?);
        for line in lines {
            if let Some(cause) = line.strip_prefix(PRINTED_CAUSE) {
                error = error.because(cause);
            } else if let Some(hint) = line.strip_prefix(PRINTED_HINT) {
                return Some(error.hint(hint));
            }
        }
        Some(error)
    }

    /// Adds what a person can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What failed and the causes, in one line.
    pub fn with_causes(&self) -> String {
        let causes = self.causes.iter().map(|cause| format!("; because: {cause}"));
        std::iter::once(self.what.clone()).chain(causes).collect()
    }

    /// The code that the process exits with (DESIGN: exit codes).
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Refused | Kind::NoImage | Kind::Failed => EXIT_REFUSED,
            Kind::Usage => EXIT_USAGE,
        }
    }
}

impl Display for Error {
    /// `belljar: error: …`, the causes, then the hint; control characters of
    /// whatever was quoted are escaped, because a terminal obeys them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PRINTED}{}", printable(&self.what))?;
        for cause in &self.causes {
            write!(out, "\n{PRINTED_CAUSE}{}", printable(cause))?;
        }
        if let Some(hint) = &self.hint {
            write!(out, "\n{PRINTED_HINT}{}", printable(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Adds the step to the error of a call.
pub trait Context<T> {
    /// The step failed, because of the error.
    fn step(self, what: impl FnOnce() -> String) -> Result<T>;
    /// The request cannot be granted, because of the error.
    fn refuse(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::failed(what()).because(cause))
    }

    fn refuse(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::refused(what()).because(cause))
    }
}

/// Whether a terminal would obey a character instead of showing it: controls,
/// line and paragraph separators, bidirectional controls, and what has no width
/// or looks like nothing (Unicode: Cc, Zl, Zp, Cf, fillers and selectors), with
/// which two texts look the same that are not.
pub fn is_hostile(c: char) -> bool {
    // Nearly all that is asked for, many times for each line of a record.
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}

/// `text` with every hostile character escaped ([`is_hostile`]):
/// names and paths made by others must not move the cursor or reorder a line.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_hostile(c) {
            out.extend(c.escape_unicode())
        } else {
            out.push(c)
        }
        out
    })
}

/// A word as a person can type it into a shell (POSIX, "Quoting").
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
