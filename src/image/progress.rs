//! What a person who waits for an image sees, on stderr.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line that says what is done, and how much was read.
pub struct Progress(ProgressBar);

/// Whether there is somebody to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// When stderr is a terminal.
    OnTerminal,
    /// Never.
    Never,
}

impl Progress {
    /// Begins.
    pub fn new(show: Show) -> Self {
        let bar = ProgressBar::no_length();
        let shown = show == Show::OnTerminal && std::io::stderr().is_terminal();
        bar.set_draw_target(if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        if let Ok(style) = ProgressStyle::with_template("belljar: {msg}, {bytes} read, {bytes_per_sec} {spinner}") {
            bar.set_style(style);
        }
        if shown {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self(bar)
    }

    /// What is being done now.
    pub fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// Bytes that were read.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Whether it is shown.
    pub fn is_shown(&self) -> bool {
        !self.0.is_hidden()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
