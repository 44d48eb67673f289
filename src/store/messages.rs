//! What people said, on its way to agents. A message is `waiting`, then `given` to
//! a live run, then `answered`: together with the reply, so that a host process
//! that is killed in between neither loses a message nor sends a reply twice.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use super::clock::{rfc3339, wall_now};
use super::file::Fault;
use super::{Store, chats, outgoing};
use crate::error::{Error, Result};

/// Answered messages are remembered so long, in milliseconds: thirty days.
const KEPT: i64 = 30 * 24 * 60 * 60 * 1000;
/// Of messages that wake nobody the latest wait in a chat: so many, and so many bytes.
const UNMEANT: (i64, i64) = (100, 128 << 10);
/// Messages of a group that can wait for its agent.
const MOST: i64 = 10_000;

/// Something that somebody said, as a channel tells it.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The chat.
    pub chat: String,
    /// Unique in the chat: the same one again is not stored twice.
    pub key: String,
    /// The group that the chat belongs to.
    pub group: String,
    /// Who said it, as the network knows them.
    pub sender: String,
    /// Who said it, as people know them.
    pub sender_name: String,
    /// What was said.
    pub text: String,
    /// When, in milliseconds since 1970; now, where the network does not say.
    pub time: Option<i64>,
    /// Whether it wakes the agent.
    pub wakes: Wakes,
}

/// Whether a message wakes the agent, or waits for one that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakes {
    /// It does.
    Yes,
    /// It comes along with the next one that does.
    No,
}

/// A message that waits for an agent.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// Order of arrival.
    pub seq: i64,
    /// The chat.
    pub chat: String,
    /// Who said it, as people know them.
    pub sender: String,
    /// What was said.
    pub text: String,
    /// When: RFC 3339, UTC.
    pub time: String,
}

/// What an agent said to an end of a turn.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// Messages that are answered by it.
    pub answered: Vec<i64>,
    /// The answer and its chat, where there is one.
    pub reply: Option<(String, String)>,
    /// The session that the agent is in now.
    pub session: Option<String>,
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        seq: row.get("seq")?,
        chat: row.get("chat")?,
        sender: row.get("sender_name")?,
        text: row.get("text")?,
        time: rfc3339(row.get("wall")?),
    })
}

fn set(transaction: &Transaction<'_>, messages: &[i64], state: &str) -> Result<(), Fault> {
    // Of what was answered the key is needed only, by which the same one again is known.
    let set = match state {
        "answered" => "UPDATE message SET state = ?2, text = '' WHERE seq = ?1",
        _ => "UPDATE message SET state = ?2 WHERE seq = ?1",
    };
    let mut statement = transaction.prepare(set)?;
    for seq in messages {
        statement.execute(params![seq, state])?;
    }
    Ok(())
}

/// What nobody was meant by, and is not read soon, is left out.
fn leave_out_old(transaction: &Transaction<'_>, chat: &str) -> Result<(), Fault> {
    transaction.execute(
        "UPDATE message SET state = 'answered', text = '' WHERE seq IN (SELECT seq FROM (SELECT seq, \
         row_number() OVER latest AS number, sum(length(CAST(text AS BLOB))) OVER latest AS bytes \
         FROM message WHERE state = 'waiting' AND wakes = 0 AND chat = ?1 \
         WINDOW latest AS (ORDER BY seq DESC)) WHERE number > ?2 OR bytes > ?3)",
        params![chat, UNMEANT.0, UNMEANT.1],
    )?;
    Ok(())
}

impl Store {
    /// Keeps what was said. Whether it is new. Refused when too much waits for the
    /// group's agent: people can write faster than it reads.
    pub fn hear(&self, heard: &Heard) -> Result<bool> {
        self.write("keep a message in", |transaction| {
            // It may have gone to another group since it was asked whose it is.
            if chats::owner_of(transaction, &heard.chat)?.as_deref() != Some(heard.group.as_str()) {
                return Ok(false);
            }
            let waiting: i64 = transaction.query_row(
                "SELECT count(*) FROM message WHERE state = 'waiting' AND grp = ?1",
                [&heard.group],
                |row| row.get(0),
            )?;
            if waiting >= MOST {
                let what = format!("{waiting} messages wait for the agent of group {}", heard.group);
                return Err(Error::refused(what).hint("belljar ps; journalctl --user -u belljar").into());
            }
            let new = transaction.execute(
                "INSERT INTO message (chat, key, grp, sender, sender_name, text, wall, wakes, state) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'waiting') ON CONFLICT DO NOTHING",
                params![
                    heard.chat,
                    heard.key,
                    heard.group,
                    heard.sender,
                    heard.sender_name,
                    heard.text,
                    heard.time.unwrap_or_else(wall_now),
                    heard.wakes == Wakes::Yes,
                ],
            )?;
            chats::remember(transaction, &heard.chat, None)?;
            if heard.wakes == Wakes::No {
                leave_out_old(transaction, &heard.chat)?;
            }
            Ok(new > 0)
        })
    }

    /// Groups whose agents are to be woken.
    pub fn groups_with_messages(&self) -> Result<Vec<String>> {
        self.read("look for messages in", |transaction| {
            let mut statement = transaction.prepare(
                "SELECT grp FROM message WHERE state = 'waiting' AND wakes = 1 GROUP BY grp ORDER BY min(seq)",
            )?;
            Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Whether a task of the group's waits, or a message in a chat other than this.
    pub fn waits_beside(&self, group: &str, chat: &str) -> Result<bool> {
        self.read("look for work in", |transaction| {
            let waits = "SELECT EXISTS (SELECT 1 FROM task_run WHERE state = 'waiting' AND grp = ?1) OR EXISTS \
                         (SELECT 1 FROM message WHERE state = 'waiting' AND wakes = 1 AND grp = ?1 AND chat <> ?2)";
            Ok(transaction.query_row(waits, params![group, chat], |row| row.get(0))?)
        })
    }

    /// Takes the messages of a chat, or of that which waits longest in a group, with
    /// those that wait there for a trigger; none when none wakes. At most `count`
    /// messages and `limit` bytes of text, and more only until one is among them that
    /// wakes.
    pub fn give(&self, group: &str, chat: Option<&str>, (count, limit): (usize, usize)) -> Result<Vec<Message>> {
        self.write("take messages from", |transaction| {
            let longest = "SELECT chat FROM message WHERE state = 'waiting' AND grp = ?1 AND wakes = 1 \
                           AND chat = coalesce(?2, chat) ORDER BY seq LIMIT 1";
            let found: Option<String> =
                transaction.query_row(longest, params![group, chat], |row| row.get(0)).optional()?;
            let Some(chat) = found else { return Ok(Vec::new()) };
            let mut statement = transaction
                .prepare("SELECT * FROM message WHERE state = 'waiting' AND grp = ?1 AND chat = ?2 ORDER BY seq")?;
            let mut rows = statement.query(params![group, chat])?;
            let (mut taken, mut length, mut wakes) = (Vec::new(), 0, false);
            while let Some(row) = rows.next()? {
                let next = message(row)?;
                length += next.text.len() + next.sender.len();
                if wakes && (length > limit || taken.len() >= count) {
                    break;
                }
                wakes |= row.get::<_, bool>("wakes")?;
                taken.push(next);
            }
            drop(rows);
            let numbers: Vec<i64> = taken.iter().map(|message| message.seq).collect();
            set(transaction, &numbers, "given")?;
            Ok(taken)
        })
    }

    /// The end of an agent's turn: messages are answered, and the answer is on its
    /// way, or neither. The number of the answer.
    pub fn settle(&self, group: &str, turn: &Turn) -> Result<Option<i64>> {
        self.write("keep an answer in", |transaction| {
            set(transaction, &turn.answered, "answered")?;
            if let Some(session) = &turn.session {
                chats::keep_session(transaction, group, session)?;
            }
            match &turn.reply {
                Some((chat, text)) => {
                    let chat = chats::own_chat(transaction, group, chat)?;
                    outgoing::answer(transaction, &chat, group, text).map(Some)
                }
                None => Ok(None),
            }
        })
    }

    /// The run has ended without an answer: they wait again.
    pub fn give_back(&self, messages: &[i64]) -> Result<()> {
        self.write("give messages back to", |transaction| set(transaction, messages, "waiting"))
    }

    /// What a host process that was killed had in hand waits again. For the start,
    /// when nobody else serves.
    pub fn recover(&self) -> Result<()> {
        self.write("recover", |transaction| {
            transaction.execute("UPDATE message SET state = 'waiting' WHERE state = 'given'", [])?;
            // One that was being sent when the power went is sent again only by a
            // channel that remembers what it has sent: see docs/channels.md.
            transaction
                .execute("UPDATE task_run SET state = 'waiting', tries = tries + 1 WHERE state = 'running'", [])?;
            let old = wall_now() - KEPT;
            transaction.execute("DELETE FROM message WHERE state = 'answered' AND wall < ?1", [old])?;
            transaction.execute("DELETE FROM outgoing WHERE state IN ('sent', 'failed') AND wall < ?1", [old])?;
            transaction
                .execute("DELETE FROM task_run WHERE state IN ('ok', 'failed', 'skipped') AND due_wall < ?1", [old])?;
            Ok(())
        })
    }

    /// Whether anything waits for an agent, or for a channel.
    pub fn has_waiting(&self) -> Result<bool> {
        self.read("look for what waits in", |transaction| {
            let waits = "SELECT EXISTS (SELECT 1 FROM message WHERE state IN ('waiting', 'given') AND wakes = 1) \
                         OR EXISTS (SELECT 1 FROM task_run WHERE state IN ('waiting', 'running'))";
            Ok(transaction.query_row(waits, [], |row| row.get(0))?)
        })
    }
}
