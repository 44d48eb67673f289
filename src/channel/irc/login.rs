//! Saying who we are: the server's password, or an account by SASL PLAIN (IRCv3,
//! sasl-3.1; RFC 4616). Who asks for an account does not go on without it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use irc_proto::{CapSubCommand, Command};
use zeroize::Zeroizing;

use super::options::Login;

/// Longest argument of AUTHENTICATE, in bytes; one of this length is followed by another.
const CHUNK: usize = 400;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing is to be done.
    Free,
    /// The server was asked for SASL.
    Asked,
    /// It has SASL, and was told which.
    Chosen,
    /// It has been told the password.
    Told,
    /// It knows us.
    Known,
}

/// What comes before the nickname.
pub(super) fn begin(login: &Login, commands: &mut Vec<Command>) -> State {
    match login {
        Login::None => State::Free,
        Login::Server(password) => {
            commands.push(Command::PASS(password.to_string()));
            State::Free
        }
        Login::Account { .. } => {
            commands.push(Command::CAP(None, CapSubCommand::REQ, None, Some("sasl".to_owned())));
            State::Asked
        }
    }
}

impl State {
    /// The server has SASL.
    pub(super) fn accepted(&mut self, commands: &mut Vec<Command>) {
        if *self == Self::Asked {
            commands.push(Command::AUTHENTICATE("PLAIN".to_owned()));
            *self = Self::Chosen;
        }
    }

    /// The server wants to know the password.
    pub(super) fn challenged(&mut self, login: &Login, commands: &mut Vec<Command>) {
        let (Self::Chosen, Login::Account { user, password }) = (*self, login) else { return };
        let plain = Zeroizing::new(format!("\0{user}\0{}", password.as_str()));
        let encoded = Zeroizing::new(STANDARD.encode(plain.as_bytes()));
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at(rest.len().min(CHUNK));
            commands.push(Command::AUTHENTICATE(chunk.to_owned()));
            rest = more;
        }
        if encoded.len().is_multiple_of(CHUNK) {
            commands.push(Command::AUTHENTICATE("+".to_owned()));
        }
        *self = Self::Told;
    }

    /// The server knows us.
    pub(super) fn succeeded(&mut self, commands: &mut Vec<Command>) {
        if *self == Self::Told {
            commands.push(Command::CAP(None, CapSubCommand::END, None, None));
            *self = Self::Known;
        }
    }

    /// The server let us in; an error when it does not know us.
    pub(super) fn welcomed(self) -> Result<(), String> {
        match self {
            Self::Free | Self::Known => Ok(()),
            _ => Err("the server let us in without the account of --sasl-user".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_password_is_said_in_parts() {
        // 3 bytes are 4 characters: exactly one chunk, and more than one.
        for (length, parts) in [(10, 1), (298, 2), (300, 2)] {
            let login = Login::Account { user: String::new(), password: Zeroizing::new("x".repeat(length)) };
            let mut commands = Vec::new();
            let mut state = begin(&login, &mut commands);
            state.accepted(&mut commands);
            commands.clear();
            state.challenged(&login, &mut commands);
            assert_eq!((commands.len(), state), (parts, State::Told), "{length}");
            assert!(state.welcomed().is_err());
            state.succeeded(&mut commands);
            assert_eq!(state.welcomed(), Ok(()));
        }
    }
}
