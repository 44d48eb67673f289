//! The programs that connect chat networks: started, spoken with, and started again.
//! docs/channels.md has what is said.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use super::Host;
use super::child::MANAGERS;
use super::lines::{End, read_line};
use super::router::{Said, hear};
use crate::channel::protocol::{FromChannel, LONGEST_LINE, Message, ToChannel, line, parse};
use crate::config::{ChannelConfig, create_private};
use crate::error::{Context, Error, Kind, Result, printable};
use crate::journal::Priority;
use crate::store::{LOCAL, Outgoing, Sent};
use crate::sys;

/// How long a program may take for its first line, and for what is written to it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages that a program has in hand at once.
const IN_HAND: usize = 32;
/// The wait before a program is started again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What runs longer has not failed at once.
const SETTLED: Duration = Duration::from_secs(60);
/// What waits is looked for again after this at the latest.
const LOOK: Duration = Duration::from_secs(30);
/// Lines that are not understood and told to the log, of one program.
const COMPLAINTS: u32 = 5;
/// The wait before what could not be sent is tried again.
const LATER: Duration = Duration::from_secs(5);

/// Keeps a channel going, for ever.
pub async fn supervise(host: Rc<Host>, name: String, config: ChannelConfig) {
    let mut pause = AGAIN.0;
    loop {
        let begun = Instant::now();
        let ended = match Channel::start(&host, &name, &config).await {
            Ok(mut channel) => channel.serve().await,
            Err(error) => Err(error),
        };
        if host.stopping.get() {
            return;
        }
        if begun.elapsed() > SETTLED {
            pause = AGAIN.0;
        }
        let error = ended.err().unwrap_or_else(|| Error::failed(format!("the channel {name} has ended")));
        host.events.tell_error("channel", &error.hint(format!("[channel.{name}] in config.toml; docs/channels.md")));
        sleep(pause).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

struct Channel {
    host: Rc<Host>,
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Numbers and chats of what the program is to send.
    in_hand: HashMap<i64, String>,
    /// Chats that are left alone for a while.
    resting: HashMap<String, Instant>,
    not_understood: u32,
}

impl Channel {
    async fn start(host: &Rc<Host>, name: &str, config: &ChannelConfig) -> Result<Self> {
        let Some((program, arguments)) = config.command.split_first() else {
            return Err(Error::refused(format!("the channel {name} has no command")));
        };
        let state = host.dirs.data.join("channels").join(name);
        create_private(&state)?;
        // Beside its directory, in which everything is the program's own.
        let lock = lock(&state.with_extension("lock")).await?;
        let mut command = match program.as_str() {
            "belljar" => Command::new(&host.program),
            program => Command::new(program),
        };
        command.args(arguments).current_dir("/").env("BELLJAR_CHANNEL", name).env("BELLJAR_CHANNEL_STATE", &state);
        for variable in MANAGERS {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // Who comes after a host process that was killed waits for this one's end.
        sys::pass_as_descriptor_3(command.as_std_mut(), lock.into());
        let step = || format!("start the channel {name}: {program}");
        let mut child = command.kill_on_drop(true).spawn().step(step)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::failed(step()));
        };
        let stdout = BufReader::new(stdout);
        Ok(Self {
            host: Rc::clone(host),
            name: name.to_owned(),
            child,
            stdin,
            stdout,
            in_hand: HashMap::new(),
            resting: HashMap::new(),
            not_understood: 0,
        })
    }

    fn prefix(&self) -> String {
        format!("{}:", self.name)
    }

    async fn serve(&mut self) -> Result<()> {
        let mut text = Vec::new();
        let remembers = match timeout(PATIENCE, next_line(&mut self.stdout, &mut text)).await {
            Ok(Some(line)) => match parse::<FromChannel>(&line) {
                Ok(FromChannel::Ready { remembers }) => remembers,
                _ => return Err(self.failed("its first line is not {\"type\":\"ready\"}")),
            },
            Ok(None) => return Err(self.ended().await),
            Err(_) => return Err(self.failed("it has not said that it is ready")),
        };
        self.host.events.tell("channel", Priority::Info, &format!("the channel {} is ready", self.name), &[]);
        self.settle_handed(remembers).await?;
        let mut rung = self.host.rung.subscribe();
        let mut refresh = self.host.refresh.subscribe();
        text.clear();
        loop {
            self.hand_over().await?;
            let rest = self.resting.values().min().copied();
            let wake = async move {
                match rest {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = next_line(&mut self.stdout, &mut text) => {
                    let Some(line) = line else { return Err(self.ended().await) };
                    self.hears(&line).await?;
                }
                changed = rung.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                Ok(()) = refresh.changed() => self.write(&ToChannel::Refresh).await?,
                // What was rung while nobody listened.
                () = sleep(LOOK) => {}
                () = wake => self.resting.retain(|_, until| *until > Instant::now()),
            }
        }
    }

    fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::failed(format!("the channel {}", self.name)).because(why)
    }

    async fn ended(&mut self) -> Error {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) => self.failed(format!("it has ended: {status}")),
            _ => self.failed("it says nothing more"),
        }
    }

    async fn write(&mut self, said: &ToChannel) -> Result<()> {
        let line = line(said).step(|| "write for a channel".to_owned())?;
        match timeout(PATIENCE, self.stdin.write_all(&line)).await {
            Ok(Ok(())) => Ok(()),
            // How it ended says more than that its pipe is closed.
            Ok(Err(_)) => Err(self.ended().await),
            Err(_) => Err(self.failed("it does not read")),
        }
    }

    /// What an earlier program had in hand: one that remembers is asked again.
    async fn settle_handed(&mut self, remembers: bool) -> Result<()> {
        let prefix = self.prefix();
        let handed = self.host.with_store(move |store| store.handed(&prefix)).await?;
        for one in handed {
            if remembers {
                self.send(one, true).await?;
                continue;
            }
            let why = "the program ended while it sent this; it was not told whether it did".to_owned();
            let text = format!("message {} to {} may have been sent, or not: {why}", one.seq, printable(&one.chat));
            self.host.events.tell("unsure", Priority::Error, &text, &[("GROUP", one.group.into())]);
            self.host.with_store(move |store| store.sent(one.seq, &Sent::Never(why))).await?;
        }
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<()> {
        while self.in_hand.len() < IN_HAND {
            let (prefix, count) = (self.prefix(), IN_HAND - self.in_hand.len());
            let resting: Vec<String> = self.resting.keys().cloned().collect();
            let next = self.host.with_store(move |store| store.hand_over(&prefix, &resting, count)).await?;
            if next.is_empty() {
                return Ok(());
            }
            for one in next {
                self.send(one, false).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, one: Outgoing, again: bool) -> Result<()> {
        let chat = one.chat.strip_prefix(&self.prefix()).unwrap_or(&one.chat).to_owned();
        let said = ToChannel::Send { id: one.seq.to_string(), chat, text: one.text, again };
        if line(&said).is_ok_and(|line| line.len() > LONGEST_LINE) {
            let why = Sent::Never("it is too long for a line".to_owned());
            return self.host.with_store(move |store| store.sent(one.seq, &why)).await;
        }
        self.in_hand.insert(one.seq, one.chat);
        self.write(&said).await
    }

    async fn hears(&mut self, line: &[u8]) -> Result<()> {
        let said = match parse::<FromChannel>(line) {
            Ok(said) => said,
            // A newer program may say more; one that is wrong is to be found.
            Err(error) => {
                if self.not_understood < COMPLAINTS {
                    self.not_understood += 1;
                    let text = format!("the channel {} says what is not understood: {error}", self.name);
                    self.host.events.tell("channel", Priority::Notice, &text, &[]);
                }
                return Ok(());
            }
        };
        match said {
            FromChannel::Ready { .. } => Ok(()),
            // Nobody's, and nothing to be told again.
            FromChannel::Message(message) if !is_name(&message.chat) => {
                self.write(&ToChannel::Stored { id: message.id }).await
            }
            FromChannel::Chat { chat, .. } if !is_name(&chat) => Ok(()),
            FromChannel::Message(message) => {
                let id = message.id.clone();
                match hear(&self.host, said_of(&self.name, message)).await {
                    // Too much waits for its group: the others' channel goes on.
                    Err(error) if error.kind == Kind::Refused => self.host.events.tell_error("messages", &error),
                    heard => drop(heard?),
                }
                self.write(&ToChannel::Stored { id }).await
            }
            FromChannel::Chat { chat, name } => {
                let jid = format!("{}:{chat}", self.name);
                self.host.with_store(move |store| store.heard_of(&jid, Some(&name))).await
            }
            FromChannel::Sent { id } => self.became(&id, Sent::Yes).await,
            FromChannel::Failed { id, error, retry: true } => {
                if let Some(chat) = id.parse().ok().and_then(|seq: i64| self.in_hand.get(&seq)) {
                    self.resting.insert(chat.clone(), Instant::now() + LATER);
                }
                self.became(&id, Sent::Later(error)).await
            }
            FromChannel::Failed { id, error, retry: false } => {
                let text = format!("message {} cannot be sent: {}", printable(&id), printable(&error));
                self.host.events.tell("unsent", Priority::Error, &text, &[]);
                self.became(&id, Sent::Never(error)).await
            }
        }
    }

    async fn became(&mut self, id: &str, outcome: Sent) -> Result<()> {
        // Only of what it has in hand.
        let Some(seq) = id.parse().ok().filter(|seq| self.in_hand.remove(seq).is_some()) else { return Ok(()) };
        self.host.with_store(move |store| store.sent(seq, &outcome)).await
    }
}

/// The name of a chat is the channel's own, so that none speaks for another.
fn said_of(channel: &str, message: Message) -> Said {
    let time = message.time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    Said {
        chat: format!("{channel}:{}", message.chat),
        chat_name: message.chat_name,
        key: message.id,
        sender: message.sender,
        sender_name: message.sender_name,
        text: message.text,
        time: time.map(|time| time.as_millisecond()),
    }
}

/// Waits until an older program of the channel has ended.
async fn lock(path: &std::path::Path) -> Result<File> {
    let step = || format!("lock {}", path.display());
    loop {
        let file = File::options().create(true).append(true).mode(0o600).open(path).step(step)?;
        // The lock is the open file's: it is held until the last who has it is gone.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => sleep(Duration::from_millis(100)).await,
            Err(errno) => return Err(errno).step(step),
        }
    }
}

/// The next line; one that is too long is passed over. Nothing is lost when it is
/// not waited for any more.
async fn next_line(stream: &mut BufReader<ChildStdout>, text: &mut Vec<u8>) -> Option<Vec<u8>> {
    while read_line(stream, text, LONGEST_LINE).await == End::Line {
        let line = std::mem::take(text);
        if line.len() <= LONGEST_LINE {
            return Some(line);
        }
    }
    None
}

/// Whether a name can be a chat's in its channel.
fn is_name(chat: &str) -> bool {
    !chat.is_empty() && chat.len() <= 190 && !chat.chars().any(char::is_control)
}

/// Whether a name can be a channel's: it begins the names of its chats.
pub fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_local = name.eq_ignore_ascii_case(LOCAL.trim_end_matches(':'));
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) || is_local {
        return Err(Error::refused(format!("[channel.{}]: this is no name of a channel", printable(name)))
            .because("a name has 1 to 64 letters, digits, - and _, and is not `local`")
            .hint("rename it in config.toml"));
    }
    Ok(())
}
