//! The lines between the host process and a channel program (docs/channels.md): one
//! JSON object each, UTF-8, with the member `type`. Both directions can be read and
//! written by both sides, so that each can be tested against the other.

use std::io::{self, BufRead, Read};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest line, in bytes, without its line feed.
pub const LONGEST_LINE: usize = 1 << 20;

/// What a channel program says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FromChannel {
    /// The first line: the program is there.
    Ready {
        /// Whether it never sends a message with an id that it has sent already, also
        /// after it was started again.
        #[serde(default)]
        remembers: bool,
    },
    /// Somebody said something.
    Message(Message),
    /// There is such a chat.
    Chat {
        /// The chat's name in this channel.
        chat: String,
        /// What people call it.
        name: String,
    },
    /// The message with this id has been sent.
    Sent {
        /// The id of [`ToChannel::Send`].
        id: String,
    },
    /// The message with this id has not been sent.
    Failed {
        /// The id of [`ToChannel::Send`].
        id: String,
        /// Why, in words for a person.
        error: String,
        /// Whether it makes sense to try again later.
        #[serde(default)]
        retry: bool,
    },
}

/// What somebody said in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Unique in this channel: the same one again is the same message.
    pub id: String,
    /// The chat's name in this channel.
    pub chat: String,
    /// Who said it, as the network tells people apart.
    pub sender: String,
    /// Who said it, as people call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_name: Option<String>,
    /// Where the sender is, in the network's own form (IRC: user@host).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What people call the chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_name: Option<String>,
    /// What was said.
    pub text: String,
    /// When (RFC 3339); without it, when it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// What the host process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ToChannel {
    /// The message with this id is on disk; the program can forget it.
    Stored {
        /// The id of [`FromChannel::Message`].
        id: String,
    },
    /// Send this.
    Send {
        /// The host's own id for it, which the answer holds.
        id: String,
        /// The chat's name in this channel.
        chat: String,
        /// What to say.
        text: String,
        /// Whether the host does not know if an earlier one with this id was sent.
        #[serde(default)]
        again: bool,
    },
    /// Tell the chats again.
    Refresh,
}

/// Reads a line. An unknown type is an error like any other: both sides pass over
/// what they do not understand.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

/// The line, with its line feed. JSON escapes whatever would end it early.
pub fn line(said: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    Ok(line)
}

/// A line as it was read.
#[derive(Debug, PartialEq, Eq)]
pub enum NextLine {
    /// Without its line feed.
    Line(Vec<u8>),
    /// Longer than [`LONGEST_LINE`]; it was passed over.
    TooLong,
    /// There are no more.
    End,
}

/// Reads the next line, never more of it into memory than is allowed.
pub fn read_line(from: &mut impl BufRead) -> io::Result<NextLine> {
    let mut line = Vec::new();
    let read = from.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(NextLine::Line(line));
    }
    if read <= LONGEST_LINE {
        // The last one may have no line feed.
        return Ok(if read == 0 { NextLine::End } else { NextLine::Line(line) });
    }
    loop {
        line.clear();
        let read = from.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        if read == 0 || line.last() == Some(&b'\n') {
            return Ok(NextLine::TooLong);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_document() {
        let ready = FromChannel::Ready { remembers: true };
        assert_eq!(line(&ready).expect("JSON"), b"{\"type\":\"ready\",\"remembers\":true}\n");
        let send: ToChannel =
            parse(br##"{"type":"send","id":"1","chat":"#a","text":"x","new":[1]}"##).expect("unknown fields pass");
        assert_eq!(send, ToChannel::Send { id: "1".into(), chat: "#a".into(), text: "x".into(), again: false });
        assert_eq!(parse::<ToChannel>(br#"{"type":"refresh"}"#).ok(), Some(ToChannel::Refresh));
        assert!(parse::<ToChannel>(br#"{"type":"dance"}"#).is_err());
        let message: FromChannel =
            parse(br#"{"type":"message","id":"7","chat":"c","sender":"s","text":"a\nb"}"#).expect("short form");
        let written = line(&message).expect("JSON");
        assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(parse::<FromChannel>(&written).ok(), Some(message));
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let mut text = vec![b'x'; LONGEST_LINE];
        text.push(b'\n');
        text.extend(vec![b'y'; 3 * LONGEST_LINE]);
        text.extend(b"\nlast");
        let mut from = text.as_slice();
        assert!(matches!(read_line(&mut from), Ok(NextLine::Line(line)) if line.len() == LONGEST_LINE));
        assert_eq!(read_line(&mut from).ok(), Some(NextLine::TooLong));
        assert_eq!(read_line(&mut from).ok(), Some(NextLine::Line(b"last".to_vec())));
        assert_eq!(read_line(&mut from).ok(), Some(NextLine::End));
    }
}
