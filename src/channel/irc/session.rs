//! One connection's conversation with the server, from the first line to the last:
//! who we are there, which channels we are in, whether the server is still there. It
//! reads no socket and no clock: lines and times come in, commands come out.

use std::rc::Rc;
use std::time::Duration;

use irc_proto::{CapSubCommand, Command, Message, Prefix};
use tokio::time::Instant;

use super::login;
use super::names::{CaseMapping, check_nick, is_channel};
use super::options::Identity;
use super::text::{plain, room, said};

/// How long the server may take until we are somebody.
const REGISTER_WITHIN: Duration = Duration::from_secs(60);
/// It is asked so often whether it is there,
const PING_EVERY: Duration = Duration::from_secs(60);
/// and believed to be gone after so long without a word.
const DEAD_AFTER: Duration = Duration::from_secs(120);
/// A connection that has said something since is there: what is sent will arrive.
const FRESH: Duration = Duration::from_secs(10);
/// A channel that we could not be in, or were thrown out of, is tried again after this.
const JOIN_AGAIN: Duration = Duration::from_secs(30);
/// So many `_` may be appended to the nickname.
const MOST_APPENDED: usize = 8;
/// What the answer to our own PING holds.
const ALIVE: &str = "alive";

/// What a line of the server's was about, where it is about something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// We are somebody now, by this nickname.
    Registered(String),
    /// We are in this channel now.
    Joined(String),
    /// We are not in this channel, and why.
    NotIn { channel: String, why: String },
    /// Somebody said something.
    Said(Said),
    /// All that was sent before [`Session::mark`] with this number has arrived.
    Arrived(u64),
    /// What was sent to this nickname or channel was not taken.
    NotTaken { target: String, why: String },
}

/// What somebody said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The channel, or the nickname of whoever said it to us; in lower case.
    pub(super) chat: String,
    /// The same as people write it.
    pub(super) chat_name: String,
    /// In lower case.
    pub(super) nick: String,
    /// As its owner writes it.
    pub(super) nick_name: String,
    /// user@host.
    pub(super) address: Option<String>,
    pub(super) text: String,
}

/// Whether something can be said in a chat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Now.
    Open,
    /// In a moment it will be known.
    NotYet,
    /// Not now, perhaps later.
    Closed(String),
    /// Never.
    None(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Being {
    Asked,
    In,
    Out { why: String, again: Instant },
}

struct Channel {
    /// As it was configured.
    name: String,
    /// None before registration.
    being: Option<Being>,
}

/// The conversation.
pub(super) struct Session {
    identity: Rc<Identity>,
    nick: String,
    /// nick!user@host, as the server tells it to others.
    source: Option<String>,
    login: login::State,
    is_registered: bool,
    cases: CaseMapping,
    channels: Vec<Channel>,
    begun: Instant,
    heard: Instant,
    asked: Instant,
    commands: Vec<Command>,
}

impl Session {
    /// Begins it.
    pub(super) fn new(identity: Rc<Identity>, now: Instant) -> Self {
        let nick = identity.nick.clone();
        let mut commands = Vec::new();
        let login = login::begin(&identity.login, &mut commands);
        commands.push(Command::NICK(nick.clone()));
        commands.push(Command::USER(user_name(&nick), "0".to_owned(), "belljar".to_owned()));
        let channels = identity.channels.iter().map(|name| Channel { name: name.clone(), being: None }).collect();
        Self {
            identity,
            nick,
            source: None,
            login,
            is_registered: false,
            cases: CaseMapping::default(),
            channels,
            begun: now,
            heard: now,
            asked: now,
            commands,
        }
    }

    /// The commands that are to be sent.
    pub(super) fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// Takes a line of the server's. An error ends the connection.
    pub(super) fn hear(&mut self, line: &str, now: Instant) -> Result<Option<Heard>, String> {
        self.heard = now;
        // What is no message of IRC's is passed over, as unknown commands are.
        let Ok(message) = line.parse::<Message>() else { return Ok(None) };
        if let Some((code, arguments)) = numeric(&message.command) {
            return self.hear_numeric(code, arguments, now);
        }
        match (message.command, message.prefix) {
            (Command::PING(token, _), _) => {
                self.commands.push(Command::PONG(token, None));
                Ok(None)
            }
            (Command::PONG(server, token), _) => Ok(token.unwrap_or(server).parse().ok().map(Heard::Arrived)),
            (Command::ERROR(why), _) => Err(format!("the server says: {}", plain(&why))),
            (Command::CAP(_, CapSubCommand::NAK, _, _), _) if !self.is_registered => {
                Err("the server has no SASL, which --sasl-user wants".to_owned())
            }
            (Command::CAP(_, CapSubCommand::ACK, _, _), _) => {
                self.login.accepted(&mut self.commands);
                Ok(None)
            }
            (Command::AUTHENTICATE(_), _) => {
                self.login.challenged(&self.identity.login, &mut self.commands);
                Ok(None)
            }
            (command, Some(Prefix::Nickname(nick, user, host))) => {
                let source = Source { nick, user, host };
                Ok(if self.is_registered { self.hear_from(source, command, now) } else { None })
            }
            _ => Ok(None),
        }
    }

    /// Does what the time asks for. An error ends the connection.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), String> {
        if !self.is_registered {
            let is_late = now >= self.begun + REGISTER_WITHIN;
            return if is_late { Err("the server did not let us in in time".to_owned()) } else { Ok(()) };
        }
        if now >= self.heard + DEAD_AFTER {
            return Err(format!("the server has not answered for {} s", DEAD_AFTER.as_secs()));
        }
        if now >= self.asked + PING_EVERY {
            self.ask(now);
            // Whoever had our nickname may have gone.
            if !self.cases.is_same(&self.nick, &self.identity.nick) {
                self.commands.push(Command::NICK(self.identity.nick.clone()));
            }
        }
        for channel in &mut self.channels {
            if matches!(channel.being, Some(Being::Out { again, .. }) if now >= again) {
                channel.being = Some(Being::Asked);
                self.commands.push(Command::JOIN(channel.name.clone(), None, None));
            }
        }
        Ok(())
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_tick(&self) -> Instant {
        if !self.is_registered {
            return self.begun + REGISTER_WITHIN;
        }
        let again = self.channels.iter().filter_map(|channel| match channel.being {
            Some(Being::Out { again, .. }) => Some(again),
            _ => None,
        });
        again.chain([self.heard + DEAD_AFTER, self.asked + PING_EVERY]).min().unwrap_or(self.heard)
    }

    /// Whether something can be said in this chat.
    pub(super) fn way_to(&self, chat: &str) -> Way {
        if !is_channel(chat) {
            return match check_nick(chat) {
                Err(why) => Way::None(why.to_owned()),
                Ok(()) if self.cases.is_same(chat, &self.nick) => Way::None("that is this program itself".to_owned()),
                Ok(()) if self.is_registered => Way::Open,
                Ok(()) => Way::NotYet,
            };
        }
        let found = self.channels.iter().find(|channel| self.cases.is_same(&channel.name, chat));
        match found.map(|channel| &channel.being) {
            None => Way::None("it is none of the channels of --join".to_owned()),
            Some(Some(Being::In)) => Way::Open,
            Some(Some(Being::Out { why, .. })) => Way::Closed(why.clone()),
            Some(Some(Being::Asked) | None) => Way::NotYet,
        }
    }

    /// Whether what is sent now will arrive, as far as can be known. When it is not
    /// known, the server is asked, and its answer tells.
    pub(super) fn is_fresh(&mut self, now: Instant) -> bool {
        let fresh = now < self.heard + FRESH;
        if !fresh && self.asked <= self.heard {
            self.ask(now);
        }
        fresh
    }

    /// The longest text of a line to this chat, in bytes.
    pub(super) fn room(&self, chat: &str) -> usize {
        room(self.source.as_deref(), &self.nick, chat)
    }

    /// Says a line in a chat.
    pub(super) fn say(&mut self, chat: &str, line: String) {
        self.commands.push(Command::PRIVMSG(chat.to_owned(), line));
    }

    /// Asks the server to say when all before this has arrived.
    pub(super) fn mark(&mut self, number: u64) {
        self.commands.push(Command::PING(number.to_string(), None));
    }

    /// Leaves.
    pub(super) fn quit(&mut self) {
        self.commands.push(Command::QUIT(Some("the channel ends".to_owned())));
    }

    /// The channels that we are in, as people write them.
    pub(super) fn joined(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().filter(|channel| channel.being == Some(Being::In)).map(|channel| channel.name.as_str())
    }

    /// What the server takes for the same.
    pub(super) fn cases(&self) -> CaseMapping {
        self.cases
    }

    fn ask(&mut self, now: Instant) {
        self.asked = now;
        self.commands.push(Command::PING(ALIVE.to_owned(), None));
    }

    fn channel(&mut self, name: &str) -> Option<&mut Channel> {
        let cases = self.cases;
        self.channels.iter_mut().find(|channel| cases.is_same(&channel.name, name))
    }

    fn hear_numeric(&mut self, code: u16, arguments: &[String], now: Instant) -> Result<Option<Heard>, String> {
        let why = plain(arguments.last().map_or("", String::as_str));
        match (code, arguments) {
            (1, [nick, ..]) if !self.is_registered => {
                self.login.welcomed()?;
                self.is_registered = true;
                self.nick.clone_from(nick);
                for channel in &mut self.channels {
                    channel.being = Some(Being::Asked);
                    self.commands.push(Command::JOIN(channel.name.clone(), None, None));
                }
                Ok(Some(Heard::Registered(plain(nick))))
            }
            (5, _) => {
                let named = arguments.iter().find_map(|argument| argument.strip_prefix("CASEMAPPING="));
                self.cases = named.and_then(CaseMapping::from_name).unwrap_or(self.cases);
                Ok(None)
            }
            // In use, collides, not available for a while.
            (433 | 436 | 437, _) if !self.is_registered => {
                self.nick.push('_');
                if self.nick.len() > self.identity.nick.len() + MOST_APPENDED {
                    return Err(format!("the nickname {} and those like it are taken", self.identity.nick));
                }
                self.commands.push(Command::NICK(self.nick.clone()));
                Ok(None)
            }
            (902 | 904 | 905 | 906 | 908, _) => Err(format!("the server refuses the account: {why}")),
            (903, _) => {
                self.login.succeeded(&mut self.commands);
                Ok(None)
            }
            // Not a good nickname; a wrong password; banned.
            (432 | 464 | 465, _) if !self.is_registered => Err(format!("the server refuses us: {why}")),
            (400..=599, [_, target, _, ..]) if self.is_registered => {
                let target = target.clone();
                let why = format!("the server says: {why} ({code})");
                Ok(match self.channel(&target) {
                    Some(channel) if channel.being == Some(Being::Asked) => {
                        channel.being = Some(Being::Out { why: why.clone(), again: now + JOIN_AGAIN });
                        Some(Heard::NotIn { channel: plain(&target), why })
                    }
                    // The nickname that we would like to have, and not one that was spoken to.
                    _ if (430..=439).contains(&code) => None,
                    _ => Some(Heard::NotTaken { target, why }),
                })
            }
            _ => Ok(None),
        }
    }

    fn hear_from(&mut self, source: Source, command: Command, now: Instant) -> Option<Heard> {
        let is_self = self.cases.is_same(&source.nick, &self.nick);
        match command {
            Command::NICK(nick) if is_self => {
                self.nick = nick;
                self.source = None;
                None
            }
            Command::JOIN(name, ..) if is_self => {
                self.source = source.address().map(|address| format!("{}!{address}", source.nick));
                let channel = self.channel(&name)?;
                channel.being = Some(Being::In);
                Some(Heard::Joined(channel.name.clone()))
            }
            Command::PART(name, _) if is_self => self.out_of(&name, "we were made to leave".to_owned(), now),
            Command::KICK(name, nick, why) if self.cases.is_same(&nick, &self.nick) => {
                let why = plain(why.as_deref().unwrap_or("no reason was given"));
                self.out_of(&name, format!("{} threw us out: {why}", plain(&source.nick)), now)
            }
            Command::PRIVMSG(target, raw) if !is_self => self.said(&source, &target, &raw).map(Heard::Said),
            _ => None,
        }
    }

    fn out_of(&mut self, name: &str, why: String, now: Instant) -> Option<Heard> {
        let channel = self.channel(name)?;
        channel.being = Some(Being::Out { why: why.clone(), again: now + JOIN_AGAIN });
        Some(Heard::NotIn { channel: channel.name.clone(), why })
    }

    /// What was said in one of our channels, or to us; what is for a part of a channel
    /// (`@#ops`) is for neither.
    fn said(&self, source: &Source, target: &str, raw: &str) -> Option<Said> {
        let nick_name = plain(&source.nick);
        let chat_name = if self.cases.is_same(target, &self.nick) {
            nick_name.clone()
        } else {
            self.joined().find(|name| self.cases.is_same(name, target))?.to_owned()
        };
        let text = said(&nick_name, raw)?;
        if nick_name.is_empty() {
            return None;
        }
        Some(Said {
            chat: self.cases.lower(&chat_name),
            chat_name,
            nick: self.cases.lower(&nick_name),
            nick_name,
            address: source.address().map(|address| plain(&address)),
            text,
        })
    }
}

/// Whom a line came from.
struct Source {
    nick: String,
    user: String,
    host: String,
}

impl Source {
    fn address(&self) -> Option<String> {
        (!self.host.is_empty()).then(|| format!("{}@{}", self.user, self.host))
    }
}

/// The code and the arguments of a numeric reply, known to the parser or not.
fn numeric(command: &Command) -> Option<(u16, &[String])> {
    match command {
        Command::Response(response, arguments) => Some((*response as u16, arguments)),
        Command::Raw(code, arguments) if code.len() == 3 => Some((code.parse().ok()?, arguments)),
        _ => None,
    }
}

/// A user name that every server takes: what is shown before the address.
fn user_name(nick: &str) -> String {
    let name: String = nick.chars().filter(char::is_ascii_alphanumeric).take(9).collect();
    if name.is_empty() { "belljar".to_owned() } else { name }
}

#[cfg(test)]
mod tests;
