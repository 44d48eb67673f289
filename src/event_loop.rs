//! The event loop that every part has for itself: of one thread.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::runtime::{Builder, Runtime};

/// To be built, with signals, timers, and whatever can be waited for. An error
/// where tokio would panic: without a socket pair it hears of no signal.
pub fn builder() -> io::Result<Builder> {
    UnixStream::pair()?;
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    Ok(builder)
}

/// The same, built.
pub fn start() -> io::Result<Runtime> {
    builder()?.build()
}
