//! Asking on the terminal, without echo.

use std::fs::File;
use std::io::{self, Write};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The terminal as it was, which comes back when this value goes.
struct Quiet {
    terminal: File,
    before: Termios,
    mask: SigSet,
}

impl Quiet {
    fn new() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        // rpassword answers Ctrl-C with the signal before it has put the terminal
        // right; held back until that is done, it ends the process as it should.
        let mut interrupt = SigSet::empty();
        interrupt.add(Signal::SIGINT);
        let mask = interrupt.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let quiet = Self { before: tcgetattr(&terminal)?, terminal, mask };
        let mut mode = quiet.before.clone();
        mode.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        mode.special_codes[SpecialCodeIndex::VMIN] = 1;
        mode.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&quiet.terminal, OptionalActions::Now, &mode)?;
        Ok(quiet)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that has gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        let _ = self.mask.thread_set_mask();
    }
}

/// Asks on the terminal; what is typed is not shown. The echo goes off before
/// the question is there: rpassword turns it off after, and what is pasted in
/// between would be seen.
pub fn hidden(question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut quiet = Quiet::new()?;
    quiet.terminal.write_all(question.as_bytes())?;
    rpassword::read_password().map(|typed| Zeroizing::new(typed.into_bytes()))
}
