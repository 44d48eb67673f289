//! What a person who waits for an image sees, on stderr.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line that says what is done, and how much was read.
pub struct Progress {
    bar: ProgressBar,
    /// Whether bytes are counted already.
    counts: Cell<bool>,
}

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
        Self { bar, counts: Cell::new(false) }
    }

    /// What is being done now, by others: how much of it, nobody knows.
    pub fn say(&self, what: &str) {
        self.show(what, "belljar: {msg} {spinner}");
    }

    /// What is being done now, with the bytes that are read.
    pub fn count(&self, what: &str) {
        if !self.counts.replace(true) {
            self.bar.reset_elapsed();
        }
        self.show(what, "belljar: {msg}, {bytes} read, {bytes_per_sec} {spinner}");
    }

    fn show(&self, what: &str, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_message(what.to_owned());
        if self.is_shown() {
            self.bar.enable_steady_tick(Duration::from_millis(100));
        }
    }

    /// Bytes that were read.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Whether it is shown.
    pub fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
