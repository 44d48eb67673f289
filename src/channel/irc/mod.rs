//! The channel to IRC: a server on one side, the host process on the other.
//!
//! `options` is what was asked for, `dial` and `link` bring lines, `session` knows what
//! they mean, `outbox` what is still to be said, and `bridge` stands between them and
//! the host process. Nothing that came from one side is passed to the other as it was:
//! people's texts lose control characters, agents' texts become lines (`text`).

mod bridge;
mod dial;
mod link;
mod login;
mod names;
mod options;
mod outbox;
mod session;
mod text;

pub use options::{Address, Options, Tls};

use std::env;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::journal::Journal;
use super::pipe::{ToHost, from_host};
use crate::error::{Context, Error, Result};
use bridge::Bridge;
use dial::Server;
use link::Link;
use options::Identity;

/// Where a channel program keeps what it remembers: the host process says it.
const STATE: &str = "BELLJAR_CHANNEL_STATE";

/// Connects the host process with the server until its end of stdin is closed, or a
/// signal ends it.
pub fn run(options: &Options) -> Result<()> {
    let identity = Identity::read(options)?;
    let server = Server::prepare(options)?;
    let journal = Journal::open(&state()?)?;
    let host = from_host()?;
    let (to_host, host_gone) = ToHost::start()?;
    let runtime = crate::event_loop::start().step(|| "start the event loop".to_owned())?;
    let bridge = Bridge::new(Rc::new(identity), Link::new(server), journal, to_host);
    runtime.block_on(bridge.run(host, host_gone))
}

fn state() -> Result<PathBuf> {
    let given = env::var_os(STATE).map(PathBuf::from);
    given.filter(|path| path.is_absolute() && Path::is_dir(path)).ok_or_else(|| {
        Error::refused(format!("{STATE} names no directory"))
            .because("belljar serve sets it for the channels that it starts")
            .hint(format!("mkdir -m 700 /tmp/channel; {STATE}=/tmp/channel belljar channel irc …"))
    })
}
