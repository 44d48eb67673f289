//! `belljar channel`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::channel::irc::{self, Address, Options, Tls};
use crate::error::Result;

/// The built-in channels: programs that connect `belljar serve` with chat networks.
///
/// `belljar serve` starts them, as `[channel.NAME]` of config.toml says, and speaks with
/// them on their stdin and stdout (docs/channels.md).
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Irc(Irc),
}

/// Connect with an IRC server: with channels, and with people who write to the nickname.
///
/// It says what it hears as lines of JSON on stdout, sends what it reads on stdin, and
/// ends at the end of stdin or by SIGTERM, when what it has read is sent, or 10 s later.
/// Lost connections come back. What it has to remember is in the directory that
/// $BELLJAR_CHANNEL_STATE names.
///
/// On IRC a nickname belongs to whoever holds it at the moment.
#[derive(Debug, Args)]
struct Irc {
    /// The server; the port is 6697 when it is not given, or 6667 without TLS
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Address,
    /// The nickname; when it is in use, `_` is appended
    #[arg(long, value_name = "NICK")]
    nick: String,
    /// Speak without TLS: everybody on the way can read and change what is said
    #[arg(long)]
    no_tls: bool,
    /// Believe the certificate authorities in this PEM file, instead of the platform's
    #[arg(long, value_name = "FILE", conflicts_with = "no_tls")]
    ca: Option<PathBuf>,
    /// The file (mode 0600) with the server's password, or with that of --sasl-user
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Log in to this account, by SASL PLAIN
    #[arg(long, value_name = "NAME", requires = "password_file")]
    sasl_user: Option<String>,
    /// A channel to be in; can be given again
    #[arg(long, value_name = "#CHANNEL")]
    join: Vec<String>,
}

impl Arguments {
    /// Connects until the host process has enough.
    pub fn execute(self) -> Result<u8> {
        match self.command {
            Command::Irc(arguments) => irc::run(&arguments.options()).map(|()| 0),
        }
    }
}

impl Irc {
    fn options(self) -> Options {
        let tls = match (self.no_tls, self.ca) {
            (true, _) => Tls::Off,
            (false, Some(file)) => Tls::Authority(file),
            (false, None) => Tls::Platform,
        };
        Options {
            server: self.server,
            tls,
            nick: self.nick,
            join: self.join,
            password_file: self.password_file,
            sasl_user: self.sasl_user,
        }
    }
}
