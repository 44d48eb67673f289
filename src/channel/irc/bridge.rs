//! Between the host process and the server: who said what is told to the one, answers
//! go to the other, and the journal is written before either can matter.

use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::link::{Event, Link};
use super::options::Identity;
use super::outbox::Outbox;
use super::session::{Heard, Said, Session};
use crate::channel::journal::Journal;
use crate::channel::pipe::{ToHost, log};
use crate::channel::protocol::{FromChannel, Message, ToChannel};
use crate::error::{Context, Result};

/// How long what was read may take to be sent when the program is to end.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How long the server may take to say farewell, and the host process to read the last lines.
const FAREWELL: Duration = Duration::from_secs(2);

/// Both sides, and what is known of each.
pub(super) struct Bridge {
    identity: Rc<Identity>,
    link: Link,
    /// None while there is no connection.
    session: Option<Session>,
    outbox: Outbox,
    journal: Journal,
    to_host: ToHost,
    /// Counts messages that came in.
    count: u64,
    /// When the program ends, whatever is left to do.
    end_at: Option<Instant>,
}

impl Bridge {
    /// Nothing is said to anybody yet.
    pub(super) fn new(identity: Rc<Identity>, link: Link, journal: Journal, to_host: ToHost) -> Self {
        let outbox = Outbox::new(Instant::now());
        Self { identity, link, session: None, outbox, journal, to_host, count: 0, end_at: None }
    }

    /// Goes on until the host process says no more, or has gone, or a signal comes.
    pub(super) async fn run(
        mut self,
        mut host: Receiver<ToChannel>,
        mut host_gone: oneshot::Receiver<()>,
    ) -> Result<()> {
        let on = |kind| signal(kind).step(|| "listen for signals".to_owned());
        let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        self.to_host.tell(&FromChannel::Ready { remembers: true });
        for message in self.journal.not_stored() {
            self.to_host.tell(&FromChannel::Message(message.clone()));
        }
        while !self.is_done() {
            let wake = self.next_work();
            tokio::select! {
                said = host.recv(), if self.end_at.is_none() => match said {
                    Some(said) => self.hear_host(said),
                    None => self.end_at = Some(Instant::now() + END_WITHIN),
                },
                event = self.link.next() => self.hear_link(event),
                () = async { match wake { Some(at) => sleep_until(at).await, None => pending().await } } => {}
                // What has been read already still comes, and then the end of it.
                _ = terminate.recv() => host.close(),
                _ = interrupt.recv() => host.close(),
                gone = &mut host_gone => {
                    if gone.is_ok() {
                        log("the host process reads no more");
                    }
                    break;
                }
            }
            self.work();
        }
        self.finish().await;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.end_at.is_some_and(|at| self.outbox.is_empty() || Instant::now() >= at)
    }

    fn hear_host(&mut self, said: ToChannel) {
        match said {
            ToChannel::Stored { id } => {
                if let Err(error) = self.journal.stored(&id) {
                    log(&format!("that a message is stored cannot be remembered: {error}"));
                }
            }
            // What this program has begun it knows, whether the host process does or not.
            ToChannel::Send { id, chat, text, again: _ } => {
                let answer = self.outbox.take(id, chat, text, &self.journal);
                self.tell(answer);
            }
            ToChannel::Refresh => {
                let joined: Vec<String> = self.session.iter().flat_map(Session::joined).map(str::to_owned).collect();
                joined.iter().for_each(|name| self.tell_chat(name));
            }
        }
    }

    fn hear_link(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Up => self.session = Some(Session::new(Rc::clone(&self.identity), now)),
            Event::Line(line) => {
                let heard = self.session.as_mut().map(|session| session.hear(&line, now));
                match heard {
                    Some(Ok(Some(heard))) => self.heard(heard),
                    Some(Err(why)) => self.leave(&why),
                    Some(Ok(None)) | None => {}
                }
            }
            Event::Down(why) => self.lost(&why),
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Registered(nick) => log(&format!("connected to {} as {nick}", self.link.address())),
            Heard::Joined(name) => self.tell_chat(&name),
            Heard::NotIn { channel, why } => log(&format!("not in {channel}: {why}")),
            Heard::Said(said) => self.take_in(said),
            Heard::Arrived(mark) => {
                let answers = self.outbox.arrived(mark, &mut self.journal);
                self.tell(answers);
            }
            Heard::NotTaken { target, why } => {
                let cases = self.session.as_ref().map(Session::cases).unwrap_or_default();
                self.outbox.not_taken(&target, why, cases);
            }
        }
    }

    /// Does what the time and the last events ask for.
    fn work(&mut self) {
        let now = Instant::now();
        if let Some(Err(why)) = self.session.as_mut().map(|session| session.tick(now)) {
            self.leave(&why);
        }
        let Some(session) = &mut self.session else { return };
        let answers = self.outbox.pump(session, &mut self.journal, now);
        session.take_commands().into_iter().for_each(|command| self.link.say(command));
        self.tell(answers);
    }

    fn next_work(&self) -> Option<Instant> {
        let session = self.session.as_ref();
        let pump = session.and_then(|session| self.outbox.next_pump(session));
        [session.map(Session::next_tick), pump, self.end_at].into_iter().flatten().min()
    }

    fn take_in(&mut self, said: Said) {
        self.count += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let message = Message {
            id: format!("{}-{}", since.as_nanos(), self.count),
            chat: said.chat,
            sender: said.nick,
            sender_name: Some(said.nick_name),
            address: said.address,
            chat_name: Some(said.chat_name),
            text: said.text,
            time: Some(jiff::Timestamp::now().to_string()),
        };
        if self.journal.is_full() {
            // Whoever floods a host process that is not there must not fill memory and disk.
            log("a message is lost: too many are not stored yet");
            return;
        }
        if let Err(error) = self.journal.came(&message) {
            log(&format!("a message is told, but would be lost with the host process: {error}"));
        }
        self.to_host.tell(&FromChannel::Message(message));
    }

    fn tell(&self, answers: impl IntoIterator<Item = FromChannel>) {
        answers.into_iter().for_each(|answer| self.to_host.tell(&answer));
    }

    fn tell_chat(&self, name: &str) {
        let cases = self.session.as_ref().map(Session::cases).unwrap_or_default();
        self.to_host.tell(&FromChannel::Chat { chat: cases.lower(name), name: name.to_owned() });
    }

    /// Gives the connection up.
    fn leave(&mut self, why: &str) {
        self.link.leave();
        self.lost(why);
    }

    fn lost(&mut self, why: &str) {
        log(&format!("no connection to {}: {why}", self.link.address()));
        self.session = None;
        let answers = self.outbox.link_lost(&mut self.journal);
        self.tell(answers);
    }

    /// Says farewell to both sides.
    async fn finish(mut self) {
        let answers = self.outbox.link_lost(&mut self.journal);
        self.tell(answers);
        let answers = self.outbox.give_up();
        self.tell(answers);
        if let Some(session) = &mut self.session {
            session.quit();
            session.take_commands().into_iter().for_each(|command| self.link.say(command));
            let closed = async { while !matches!(self.link.next().await, Event::Down(_)) {} };
            // It has been told; whether it answers is its business.
            let _ = timeout(FAREWELL, closed).await;
        }
        self.to_host.finish(FAREWELL);
    }
}
