//! The caller's terminal: raw while the agent has one, restored on every way
//! out.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::sync::mpsc::UnboundedSender;

use super::relay::{Budget, carry, join, pass_on};
use super::supervise::Event;
use crate::error::{Context, Result};

/// Whether the caller has a terminal: stdin and stdout both are one.
pub fn caller_has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The caller's window size: rows and columns.
pub fn window_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Raw mode of the caller's terminal; the mode before comes back on drop, so
/// also when the supervisor panics.
pub struct RawMode(Option<Termios>);

impl RawMode {
    /// Sets it, when stdin is a terminal.
    pub fn enter() -> Self {
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        // A terminal that refuses raw mode is used as it is.
        match tcsetattr(&stdin, OptionalActions::Now, &raw) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }

    fn restore(&mut self, when: OptionalActions) {
        if let Some(before) = self.0.take() {
            // Nothing more can be done when the terminal is gone.
            let _ = tcsetattr(io::stdin(), when, &before);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.restore(OptionalActions::Drain);
    }
}

/// The agent's terminal, as the supervisor holds it.
pub struct AgentTerminal {
    master: OwnedFd,
    output: JoinHandle<()>,
    raw: RawMode,
}

impl AgentTerminal {
    /// Takes over the master side, and begins to carry, as much as `budget` lets.
    pub fn start(master: OwnedFd, budget: Option<Arc<Budget>>, events: UnboundedSender<Event>) -> Result<Self> {
        let file = || master.try_clone().map(File::from).step(|| "duplicate the terminal".to_owned());
        let raw = RawMode::enter();
        let mut stdin =
            io::stdin().as_fd().try_clone_to_owned().map(File::from).step(|| "duplicate stdin".to_owned())?;
        let stdout =
            io::stdout().as_fd().try_clone_to_owned().map(File::from).step(|| "duplicate stdout".to_owned())?;
        let (mut to, from) = (file()?, file()?);
        thread::spawn(move || pass_on(&mut stdin, &mut to));
        // The master gives EIO when the last process has closed the other side (pty(7)).
        let output = thread::spawn(move || carry(from, Box::new(stdout), budget.as_deref(), &events));
        let terminal = Self { master, output, raw };
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the agent's terminal the caller's window size.
    pub fn resize(&self) {
        if let Some((rows, columns)) = window_size() {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // Without a size the agent draws as on 80 by 24.
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Waits until the agent's last output is shown, or until then, and restores the
    /// mode.
    pub fn finish(mut self, until: Option<Instant>) {
        if !join(self.output, until) {
            self.raw.restore(OptionalActions::Now);
        }
    }
}
