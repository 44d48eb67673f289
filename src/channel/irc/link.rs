//! The connection to the server, and the way back to it: lines in, lines out, and a
//! pause that grows while it does not come about. What the lines mean is not known here.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use irc_proto::{Command, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep_until};

use super::dial::{Server, Stream};

/// Longest line without its tags, in bytes, and of the tags (IRCv3, message-tags).
const LONGEST_LINE: usize = 8 << 10;
const LONGEST_TAGS: usize = 8 << 10;
/// What may wait to be written: a server that asks and does not read is none.
const UNWRITTEN: usize = 64 << 10;
/// The pauses between two tries.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After so long a connection was a good one: the next pause is short again.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// What happened to the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It is there.
    Up,
    /// The server said this. Bytes that are no UTF-8 are replaced.
    Line(String),
    /// It is not there any more, or did not come about, and why.
    Down(String),
}

type Dialling = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, String>>>>;

enum State {
    Pause { until: Instant },
    Dialling(Dialling),
    Up(Wire),
}

/// The connection, whatever state it is in.
pub(super) struct Link {
    server: Rc<Server>,
    state: State,
    pause: Duration,
    up_since: Option<Instant>,
}

impl Link {
    /// To this server, from now on.
    pub(super) fn new(server: Server) -> Self {
        let state = State::Pause { until: Instant::now() };
        Self { server: Rc::new(server), state, pause: SHORTEST_PAUSE, up_since: None }
    }

    /// Where the server is, for the log.
    pub(super) fn address(&self) -> String {
        self.server.address()
    }

    /// What happens next. Can be dropped and called again: nothing is lost.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let next = match &mut self.state {
                State::Pause { until } => {
                    sleep_until(*until).await;
                    let server = Rc::clone(&self.server);
                    self.state = State::Dialling(Box::pin(async move { server.dial().await }));
                    continue;
                }
                State::Dialling(dialling) => dialling.await.map(|stream| {
                    self.state = State::Up(Wire::new(stream));
                    self.up_since = Some(Instant::now());
                    Event::Up
                }),
                State::Up(wire) => wire.next().await.map(Event::Line),
            };
            return next.unwrap_or_else(|why| {
                self.leave();
                Event::Down(why)
            });
        }
    }

    /// Writes a command, where there is a connection.
    pub(super) fn say(&mut self, command: Command) {
        if let State::Up(wire) = &mut self.state {
            wire.say(command);
        }
    }

    /// Gives the connection up; a new one comes after a pause.
    pub(super) fn leave(&mut self) {
        if self.up_since.take().is_some_and(|since| since.elapsed() >= GOOD_AFTER) {
            self.pause = SHORTEST_PAUSE;
        }
        self.state = State::Pause { until: Instant::now() + self.pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// The two directions of a connection.
struct Wire {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    /// Whether something is in TLS's own buffers.
    is_unflushed: bool,
}

impl Wire {
    fn new(stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = split(stream);
        Self { reader, writer, input: BytesMut::new(), output: BytesMut::new(), is_unflushed: false }
    }

    /// The next line, while what is to be written is written.
    async fn next(&mut self) -> Result<String, String> {
        loop {
            if let Some(line) = take_line(&mut self.input)? {
                return Ok(line);
            }
            if self.output.len() > UNWRITTEN {
                return Err("the server does not read what it asks for".to_owned());
            }
            self.input.reserve(4096);
            let writes = !self.output.is_empty() || self.is_unflushed;
            tokio::select! {
                read = self.reader.read_buf(&mut self.input) => match read {
                    Ok(0) => return Err("the server closed it".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                },
                written = write(&mut self.writer, &mut self.output, &mut self.is_unflushed), if writes => {
                    written.map_err(|error| error.to_string())?;
                }
            }
        }
    }

    fn say(&mut self, command: Command) {
        let line = Message::from(command).to_string();
        let line = line.strip_suffix("\r\n").unwrap_or(&line);
        // Whoever made the command has seen to it; a second command must not come of a mistake.
        let is_good = |byte: &u8| !matches!(byte, b'\r' | b'\n' | 0);
        self.output.extend(line.bytes().filter(is_good));
        self.output.extend_from_slice(b"\r\n");
    }
}

/// One step of writing; can be dropped at any time.
async fn write(
    writer: &mut WriteHalf<Box<dyn Stream>>,
    output: &mut BytesMut,
    is_unflushed: &mut bool,
) -> std::io::Result<()> {
    if output.is_empty() {
        writer.flush().await?;
        *is_unflushed = false;
    } else {
        writer.write_buf(output).await?;
        *is_unflushed = true;
    }
    Ok(())
}

/// The first line of what has come, without its end; an error when it is too long.
fn take_line(input: &mut BytesMut) -> Result<Option<String>, String> {
    loop {
        let longest = if input.first() == Some(&b'@') { LONGEST_LINE + LONGEST_TAGS } else { LONGEST_LINE };
        let end = input.iter().take(longest).position(|byte| *byte == b'\n');
        let Some(end) = end else {
            return if input.len() < longest {
                Ok(None)
            } else {
                Err("the server sent a line that is too long".to_owned())
            };
        };
        let line = String::from_utf8_lossy(&input[..end]).trim_end_matches('\r').to_owned();
        input.advance(end + 1);
        if !line.is_empty() {
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_whole_and_bounded() {
        let mut input = BytesMut::from("\r\nPING :a\r\nPING b\nPI");
        assert_eq!(take_line(&mut input), Ok(Some("PING :a".to_owned())));
        assert_eq!(take_line(&mut input), Ok(Some("PING b".to_owned())));
        assert_eq!((take_line(&mut input), &input[..]), (Ok(None), &b"PI"[..]));
        assert_eq!(take_line(&mut BytesMut::from(&b"\xff\xfe\n"[..])), Ok(Some("\u{fffd}\u{fffd}".to_owned())));
        let mut long = BytesMut::from("x".repeat(LONGEST_LINE - 1).as_str());
        assert_eq!(take_line(&mut long), Ok(None));
        long.extend_from_slice(b"x");
        assert!(take_line(&mut long).is_err());
        let tagged = format!("@{} PING\n", "t".repeat(LONGEST_LINE));
        assert!(matches!(take_line(&mut BytesMut::from(tagged.as_str())), Ok(Some(_))));
    }
}
