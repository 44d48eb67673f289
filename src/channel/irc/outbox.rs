//! What is to be said, one message after the other, not faster than servers allow. A
//! message has been sent when the server has answered a PING that came after it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::names::CaseMapping;
use super::session::{Session, Way};
use super::text::lines;
use crate::channel::journal::{Fate, Journal};
use crate::channel::pipe::log;
use crate::channel::protocol::FromChannel;

/// Messages that may wait, for a connection or for their turn.
const MOST: usize = 1000;
/// Lines that may go out at once, after a rest,
const BURST: u32 = 5;
/// and the time between two of them else.
const PACE: Duration = Duration::from_millis(500);

/// A message that nothing has been sent of.
struct Letter {
    id: String,
    chat: String,
    text: String,
}

/// A message that lines have been sent of, or are about to be.
struct Begun {
    id: String,
    chat: String,
    lines: VecDeque<String>,
    /// The PING after it, once all lines are out.
    mark: Option<u64>,
    refused: Option<String>,
}

/// The messages on their way.
pub(super) struct Outbox {
    waiting: VecDeque<Letter>,
    /// Oldest first; only the last one can have lines left.
    begun: VecDeque<Begun>,
    /// Lines that may go out now.
    allowed: u32,
    /// Since when that number is right.
    counted: Instant,
    marks: u64,
}

impl Outbox {
    /// Empty.
    pub(super) fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), begun: VecDeque::new(), allowed: BURST, counted: now, marks: 0 }
    }

    /// Takes a message. An answer, where it is known at once.
    pub(super) fn take(&mut self, id: String, chat: String, text: String, journal: &Journal) -> Option<FromChannel> {
        let ids = self.waiting.iter().map(|letter| &letter.id).chain(self.begun.iter().map(|begun| &begun.id));
        if ids.into_iter().any(|known| *known == id) {
            // The answer to the first one is the answer to this one.
            return None;
        }
        match journal.fate(&id) {
            Some(Fate::Sent) => return Some(FromChannel::Sent { id }),
            Some(Fate::Refused(error)) => return Some(never(id, error.clone())),
            None => {}
        }
        if self.waiting.len() >= MOST {
            return Some(later(id, format!("{MOST} messages are waiting already")));
        }
        self.waiting.push_back(Letter { id, chat, text });
        None
    }

    /// Sends what can be sent now.
    pub(super) fn pump(&mut self, session: &mut Session, journal: &mut Journal, now: Instant) -> Vec<FromChannel> {
        self.count(now);
        let mut answers = self.sort_out(session);
        while self.allowed > 0 && self.has_work(session) && session.is_fresh(now) {
            let Some(begun) = self.begun.back_mut().filter(|begun| begun.mark.is_none()) else {
                answers.extend(self.begin(session, journal));
                continue;
            };
            if let Some(line) = begun.lines.pop_front() {
                session.say(&begun.chat, line);
                self.allowed -= 1;
            }
            self.mark_when_out(session);
        }
        answers
    }

    /// When more can be sent, if there is more.
    pub(super) fn next_pump(&self, session: &Session) -> Option<Instant> {
        (self.allowed == 0 && self.has_work(session)).then(|| self.counted + PACE)
    }

    /// The server has everything before this mark.
    pub(super) fn arrived(&mut self, mark: u64, journal: &mut Journal) -> Vec<FromChannel> {
        let mut answers = Vec::new();
        while self.begun.front().and_then(|begun| begun.mark).is_some_and(|own| own <= mark) {
            let Some(begun) = self.begun.pop_front() else { break };
            answers.push(match begun.refused {
                None => FromChannel::Sent { id: begun.id },
                Some(why) => lost(begun.id, why, journal),
            });
        }
        answers
    }

    /// The server did not take something for this target: the oldest on the way there.
    pub(super) fn not_taken(&mut self, target: &str, why: String, cases: CaseMapping) {
        let found = self.begun.iter_mut().find(|begun| begun.refused.is_none() && cases.is_same(&begun.chat, target));
        if let Some(begun) = found {
            begun.lines.clear();
            begun.refused = Some(why);
        }
    }

    /// The connection is gone, and with it the knowledge of what has arrived.
    pub(super) fn link_lost(&mut self, journal: &mut Journal) -> Vec<FromChannel> {
        let unknown = "the connection was lost before the server confirmed it: nobody knows whether it was said";
        let begun = std::mem::take(&mut self.begun);
        begun.into_iter().map(|begun| lost(begun.id, begun.refused.unwrap_or(unknown.to_owned()), journal)).collect()
    }

    /// Nothing more will be sent.
    pub(super) fn give_up(&mut self) -> Vec<FromChannel> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|letter| later(letter.id, "the channel program ended before".to_owned())).collect()
    }

    /// Whether everything has been sent and answered.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.begun.is_empty()
    }

    fn count(&mut self, now: Instant) {
        while self.allowed < BURST && now >= self.counted + PACE {
            self.allowed += 1;
            self.counted += PACE;
        }
        if self.allowed == BURST {
            self.counted = now;
        }
    }

    /// Whether a line would go out, if one were allowed.
    fn has_work(&self, session: &Session) -> bool {
        self.begun.back().is_some_and(|begun| begun.mark.is_none())
            || self.waiting.iter().any(|letter| session.way_to(&letter.chat) == Way::Open)
    }

    /// Takes out what cannot be said.
    fn sort_out(&mut self, session: &Session) -> Vec<FromChannel> {
        let mut answers = Vec::new();
        self.waiting.retain(|letter| {
            let answer = match session.way_to(&letter.chat) {
                Way::Open | Way::NotYet => return true,
                Way::Closed(why) => later(letter.id.clone(), why),
                Way::None(why) => never(letter.id.clone(), format!("{}: {why}", letter.chat)),
            };
            answers.push(answer);
            false
        });
        answers
    }

    /// Begins the first message that can be said: from here on it is in the journal.
    fn begin(&mut self, session: &Session, journal: &mut Journal) -> Option<FromChannel> {
        let at = self.waiting.iter().position(|letter| session.way_to(&letter.chat) == Way::Open)?;
        let Letter { id, chat, text } = self.waiting.remove(at)?;
        let lines = VecDeque::from(lines(&text, session.room(&chat)));
        if lines.is_empty() {
            return Some(never(id, "there is nothing to be said in it".to_owned()));
        }
        if let Err(error) = journal.begin(&id) {
            return Some(later(id, format!("it cannot be remembered: {error}")));
        }
        self.begun.push_back(Begun { id, chat, lines, mark: None, refused: None });
        None
    }

    fn mark_when_out(&mut self, session: &mut Session) {
        if let Some(begun) = self.begun.back_mut().filter(|begun| begun.lines.is_empty() && begun.mark.is_none()) {
            self.marks += 1;
            begun.mark = Some(self.marks);
            session.mark(self.marks);
        }
    }
}

fn later(id: String, error: String) -> FromChannel {
    FromChannel::Failed { id, error, retry: true }
}

fn never(id: String, error: String) -> FromChannel {
    FromChannel::Failed { id, error, retry: false }
}

/// It was begun and did not arrive, as far as is known; the same is answered to the same id.
fn lost(id: String, why: String, journal: &mut Journal) -> FromChannel {
    if let Err(error) = journal.refused(&id, &why) {
        log(&format!("what became of a message cannot be remembered: {error}"));
    }
    never(id, why)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::options::{Identity, Login};
    use super::*;

    struct Desk {
        outbox: Outbox,
        session: Session,
        journal: Journal,
        now: Instant,
        _directory: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let journal = Journal::open(directory.path()).expect("a journal");
            let now = Instant::now();
            let identity = Identity { nick: "jar".to_owned(), channels: vec!["#ops".to_owned()], login: Login::None };
            let mut session = Session::new(Rc::new(identity), now);
            for line in [":s 001 jar :hi", ":jar!j@h JOIN #ops"] {
                session.hear(line, now).expect("it goes on");
            }
            session.take_commands();
            Self { outbox: Outbox::new(now), session, journal, now, _directory: directory }
        }

        fn take(&mut self, id: &str, chat: &str, text: &str) -> Option<FromChannel> {
            self.outbox.take(id.to_owned(), chat.to_owned(), text.to_owned(), &self.journal)
        }

        /// The answers, and how many commands there were.
        fn pump(&mut self) -> (Vec<FromChannel>, usize) {
            let answers = self.outbox.pump(&mut self.session, &mut self.journal, self.now);
            (answers, self.session.take_commands().len())
        }

        fn later(&mut self, time: Duration) {
            self.now += time;
            self.session.hear("PING x", self.now).expect("it goes on");
            self.session.take_commands();
        }
    }

    fn sent(id: &str) -> FromChannel {
        FromChannel::Sent { id: id.to_owned() }
    }

    #[test]
    fn lines_go_out_at_the_pace_that_servers_bear() {
        let mut desk = Desk::new();
        assert_eq!(desk.take("1", "#ops", &"x\n".repeat(7)), None);
        assert_eq!(desk.pump(), (vec![], 5));
        assert_eq!(desk.outbox.next_pump(&desk.session), Some(desk.now + PACE));
        assert_eq!(desk.pump(), (vec![], 0));
        desk.later(PACE);
        assert_eq!(desk.pump(), (vec![], 1));
        desk.later(PACE);
        assert_eq!(desk.pump(), (vec![], 2), "the last line, and the PING after it");
        assert_eq!(desk.outbox.arrived(1, &mut desk.journal), [sent("1")]);
        assert!(desk.outbox.is_empty());
        assert_eq!(desk.take("1", "#ops", "again"), Some(sent("1")));
        desk.later(10 * PACE);
        desk.take("2", "#ops", &"x\n".repeat(9));
        assert_eq!(desk.pump(), (vec![], 5), "a long rest allows no more than a short one");
    }

    #[test]
    fn what_nobody_knows_has_failed_for_good_and_what_was_not_begun_waits() {
        let mut desk = Desk::new();
        desk.take("1", "#ops", "one");
        assert_eq!(desk.pump(), (vec![], 2));
        desk.take("2", "#ops", "two");
        let answers = desk.outbox.link_lost(&mut desk.journal);
        let [FromChannel::Failed { id, retry: false, .. }] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(id, "1");
        assert_eq!(desk.take("1", "#ops", "one").as_ref(), answers.first(), "and the same is said again");
        assert_eq!(desk.pump(), (vec![], 2), "the other one goes out");
        assert_eq!(desk.take("2", "#ops", "two"), None, "it is on its way");
    }

    #[test]
    fn nothing_goes_out_while_the_server_may_be_gone() {
        let mut desk = Desk::new();
        desk.now += Duration::from_secs(30);
        desk.take("1", "#ops", "one");
        assert_eq!(desk.pump(), (vec![], 1), "it is asked whether it is there");
        assert_eq!((desk.pump(), desk.journal.fate("1")), ((vec![], 0), None));
        desk.later(Duration::ZERO);
        assert_eq!(desk.pump(), (vec![], 2));
    }

    #[test]
    fn there_is_an_end_to_waiting() {
        let mut desk = Desk::new();
        for id in 0..MOST {
            assert_eq!(desk.take(&id.to_string(), "#ops", "x"), None);
        }
        assert!(matches!(desk.take("more", "#ops", "x"), Some(FromChannel::Failed { retry: true, .. })));
        assert_eq!(desk.outbox.give_up().len(), MOST);
    }

    #[test]
    fn what_the_server_did_not_take_is_not_sent() {
        let mut desk = Desk::new();
        desk.take("1", "al", &"x\n".repeat(9));
        desk.take("2", "#ops", "two");
        assert_eq!(desk.pump(), (vec![], 5));
        desk.outbox.not_taken("AL", "no such nick".to_owned(), desk.session.cases());
        desk.later(PACE);
        assert_eq!(desk.pump(), (vec![], 3), "its PING, and the other one with its own");
        assert_eq!(desk.outbox.arrived(1, &mut desk.journal), [never("1".to_owned(), "no such nick".to_owned())]);
    }
}
