//! What the command line asks for, checked before anything is done.

use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::names::{check_channel, check_nick};
use crate::error::{Error, Result};
use crate::vault::read_private;

/// Longest password, in bytes: more is not in one line of IRC.
const LONGEST: usize = 400;

/// A server's name or address, and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port; none for the usual one, with TLS or without.
    pub port: Option<u16>,
}

impl FromStr for Address {
    type Err = String;

    /// `HOST`, `HOST:PORT`, or an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("after ] comes :PORT")?)),
            // More than one colon is an IPv6 address without brackets.
            None if text.matches(':').count() == 1 => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
            None => (text, None),
        };
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            return Err("HOST or HOST:PORT is wanted".to_owned());
        }
        let port =
            port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or("the port is a number up to 65535"));
        Ok(Self { host: host.to_owned(), port: port.transpose()? })
    }
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Those of the platform's authorities.
    Platform,
    /// Those of the authorities in this PEM file, and no others.
    Authority(PathBuf),
    /// There is no TLS.
    Off,
}

/// What `belljar channel irc` asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server.
    pub server: Address,
    /// Who the server has to be.
    pub tls: Tls,
    /// The nickname to have.
    pub nick: String,
    /// The channels to be in.
    pub join: Vec<String>,
    /// Where the password is.
    pub password_file: Option<PathBuf>,
    /// The account that the password is for (SASL); without it, it is the server's.
    pub sasl_user: Option<String>,
}

/// How the program says who it is. The passwords are overwritten when dropped.
pub(super) enum Login {
    /// Not at all.
    None,
    /// By the server's password (RFC 2812, PASS).
    Server(Zeroizing<String>),
    /// By an account (IRCv3, SASL PLAIN).
    Account {
        /// Its name.
        user: String,
        /// Its password.
        password: Zeroizing<String>,
    },
}

/// Who the program is, and where it wants to be: the same for each connection.
pub(super) struct Identity {
    pub(super) nick: String,
    pub(super) channels: Vec<String>,
    pub(super) login: Login,
}

impl Identity {
    /// Checks the names, and reads the password.
    pub(super) fn read(options: &Options) -> Result<Self> {
        let wrong = |option: &str, value: &str, why: &str| Error::usage(format!("{option} {value}: {why}"));
        check_nick(&options.nick).map_err(|why| wrong("--nick", &options.nick, why))?;
        for channel in &options.join {
            check_channel(channel).map_err(|why| wrong("--join", channel, why))?;
        }
        let login = match (&options.sasl_user, &options.password_file) {
            (None, None) => Login::None,
            (None, Some(file)) => Login::Server(read_password(file)?),
            (Some(user), _) if user.is_empty() || user.chars().any(char::is_control) => {
                return Err(wrong("--sasl-user", user, "that is no name"));
            }
            (Some(user), Some(file)) => Login::Account { user: user.clone(), password: read_password(file)? },
            (Some(user), None) => return Err(wrong("--sasl-user", user, "--password-file is missing")),
        };
        Ok(Self { nick: options.nick.clone(), channels: options.join.clone(), login })
    }
}

/// A password: the file's text without the line feed at its end.
fn read_password(file: &std::path::Path) -> Result<Zeroizing<String>> {
    let what = || format!("read the password file {}", file.display());
    let bytes = read_private(file).map_err(|error| Error { what: what(), ..error })?;
    let refused = |why: &str| Error::refused(what()).because(why);
    let text = std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(refused("it is empty"));
    }
    if text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(refused("a password is one line of at most 400 bytes without control characters"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_with_and_without_a_port() {
        let read = |text: &str| text.parse::<Address>().ok().map(|address| (address.host, address.port));
        let wanted = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(read("irc.example.org"), wanted("irc.example.org", None));
        assert_eq!(read("irc.example.org:7000"), wanted("irc.example.org", Some(7000)));
        assert_eq!(read("[::1]:6667"), wanted("::1", Some(6667)));
        assert_eq!(read("[::1]"), wanted("::1", None));
        assert_eq!(read("::1"), wanted("::1", None));
        for wrong in ["", ":1", "a:0", "a:70000", "a:b", "[::1]x", "a b", "irc://a"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
