//! What is on its way to people: `queued`, `handed` to its channel, then `sent` or
//! `failed`. Its number is the key by which a channel knows whether it has sent it.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use super::Store;
use super::chats::LOCAL;
use super::clock::{rfc3339, wall_now};
use super::file::Fault;
use crate::error::{Error, Result};

/// Messages of one group that can be on their way at once: an agent can say more
/// than a network takes.
const QUEUE: i64 = 1000;
/// The same with answers, which people have asked for.
const ANSWERS: i64 = 10_000;
/// What was sent is kept while not so many came after it.
const KEPT: i64 = 20_000;
/// Messages of a local chat that are kept to be read.
const LOCAL_KEPT: i64 = 1000;

/// A message for people.
#[derive(Debug, Clone, Serialize)]
pub struct Outgoing {
    /// Its number.
    pub seq: i64,
    /// Where it goes.
    pub chat: String,
    /// The group that says it.
    pub group: String,
    /// What is said.
    pub text: String,
    /// Since when: RFC 3339, UTC.
    pub time: String,
    /// `queued`, `handed`, `sent` or `failed`.
    pub state: String,
}

fn outgoing(row: &Row<'_>) -> rusqlite::Result<Outgoing> {
    Ok(Outgoing {
        seq: row.get("seq")?,
        chat: row.get("chat")?,
        group: row.get("grp")?,
        text: row.get("text")?,
        time: rfc3339(row.get("wall")?),
        state: row.get("state")?,
    })
}

/// Puts what an agent says by itself on its way; its number. Refused when too many of
/// the group's are.
pub(crate) fn queue(transaction: &Transaction<'_>, chat: &str, group: &str, text: &str) -> Result<i64, Fault> {
    put(transaction, (chat, group), text, QUEUE)
}

/// Puts an answer on its way; its number.
pub(crate) fn answer(transaction: &Transaction<'_>, chat: &str, group: &str, text: &str) -> Result<i64, Fault> {
    put(transaction, (chat, group), text, ANSWERS)
}

/// Text for people's terminals and chats: lines and tabs, and no other control character.
fn without_controls(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

fn put(transaction: &Transaction<'_>, (chat, group): (&str, &str), text: &str, most: i64) -> Result<i64, Fault> {
    let text = without_controls(text);
    // Chats without a channel are read from here.
    let state = if chat.starts_with(LOCAL) { "sent" } else { "queued" };
    let waiting: i64 = transaction.query_row(
        "SELECT count(*) FROM outgoing WHERE state IN ('queued', 'handed') AND grp = ?1",
        [group],
        |row| row.get(0),
    )?;
    if state == "queued" && waiting >= most {
        let what = format!("{waiting} messages of group {group} have not been sent yet");
        return Err(Error::refused(what).hint("wait until the chat network has taken them").into());
    }
    transaction.execute(
        "INSERT INTO outgoing (chat, grp, text, wall, state) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![chat, group, text, wall_now(), state],
    )?;
    let number = transaction.last_insert_rowid();
    if state == "sent" {
        transaction.execute(
            "DELETE FROM outgoing WHERE chat = ?1 AND seq <= \
             (SELECT seq FROM outgoing WHERE chat = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            params![chat, LOCAL_KEPT],
        )?;
    }
    Ok(number)
}

impl Store {
    /// The oldest messages that wait for a channel, whose chats begin with
    /// `prefix`, but of no chat that rests; they are `handed` from now on.
    pub fn hand_over(&self, prefix: &str, resting: &[String], count: usize) -> Result<Vec<Outgoing>> {
        let resting = serde_json::to_string(resting).unwrap_or_else(|_| "[]".to_owned());
        self.write("take outgoing messages from", |transaction| {
            let mut statement = transaction.prepare(
                "SELECT * FROM outgoing WHERE state = 'queued' AND substr(chat, 1, length(?1)) = ?1 \
                 AND chat NOT IN (SELECT value FROM json_each(?3)) ORDER BY seq LIMIT ?2",
            )?;
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let taken: Vec<Outgoing> =
                statement.query_map(params![prefix, count, resting], outgoing)?.collect::<rusqlite::Result<_>>()?;
            let mut update =
                transaction.prepare("UPDATE outgoing SET state = 'handed', tries = tries + 1 WHERE seq = ?1")?;
            for one in &taken {
                update.execute([one.seq])?;
            }
            Ok(taken)
        })
    }

    /// Those that were handed to a channel that has not said what became of them.
    pub fn handed(&self, prefix: &str) -> Result<Vec<Outgoing>> {
        self.read("look for outgoing messages in", |transaction| {
            let mut statement = transaction.prepare(
                "SELECT * FROM outgoing WHERE state = 'handed' AND substr(chat, 1, length(?1)) = ?1 ORDER BY seq",
            )?;
            Ok(statement.query_map([prefix], outgoing)?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// What became of one that was handed over.
    pub fn sent(&self, seq: i64, outcome: &Sent) -> Result<()> {
        let (state, error) = match outcome {
            Sent::Yes => ("sent", None),
            Sent::Later(error) => ("queued", Some(error)),
            Sent::Never(error) => ("failed", Some(error)),
        };
        self.write("note what became of a message in", |transaction| {
            transaction.execute(
                "UPDATE outgoing SET state = ?2, error = ?3 WHERE seq = ?1 AND state IN ('queued', 'handed')",
                params![seq, state, error],
            )?;
            transaction.execute(
                "DELETE FROM outgoing WHERE state IN ('sent', 'failed') AND chat = (SELECT chat FROM outgoing \
                 WHERE seq = ?1) AND seq <= ?1 - ?2",
                params![seq, KEPT],
            )?;
            Ok(())
        })
    }

    /// What was said in a chat after a number, oldest first.
    pub fn said(&self, chat: &str, after: i64, count: i64) -> Result<Vec<Outgoing>> {
        self.read("read what was said in", |transaction| {
            let mut statement =
                transaction.prepare("SELECT * FROM outgoing WHERE chat = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")?;
            Ok(statement.query_map(params![chat, after, count], outgoing)?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The number of the last message that was put on its way.
    pub fn last_said(&self) -> Result<i64> {
        self.read("look for the last message in", |transaction| {
            let last = transaction.query_row("SELECT max(seq) FROM outgoing", [], |row| row.get(0)).optional()?;
            Ok(last.flatten().unwrap_or(0))
        })
    }
}

/// What became of a message that a channel was to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It was sent.
    Yes,
    /// It was not, and is to be tried again.
    Later(String),
    /// It was not, and cannot be.
    Never(String),
}
