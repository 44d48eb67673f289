//! Chats that were heard of, and which group a chat belongs to.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use super::Store;
use super::clock::{rfc3339, wall_now};
use super::file::Fault;
use crate::error::{Error, Result};

/// What chats that people reach by `belljar send` begin with. `local:NAME` belongs
/// to the group of that name, always.
pub const LOCAL: &str = "local:";
/// So many chats are remembered; those that were quiet longest are forgotten.
const REMEMBERED: i64 = 5000;

/// A chat that belongs to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// The group.
    pub group: String,
    /// The chat.
    pub chat: String,
    /// What people call it.
    pub name: String,
    /// How a message must begin to wake the agent; none: each does.
    pub trigger: Option<String>,
}

/// A chat that was heard of.
#[derive(Debug, Clone, Serialize)]
pub struct Chat {
    /// The chat.
    pub jid: String,
    /// What people call it.
    pub name: String,
    /// When somebody last said something there: RFC 3339, UTC.
    pub last_activity: String,
    /// The group that it belongs to.
    pub group: Option<String>,
}

fn binding(row: &Row<'_>) -> rusqlite::Result<Binding> {
    Ok(Binding { group: row.get("grp")?, chat: row.get("jid")?, name: row.get("name")?, trigger: row.get("mention")? })
}

/// The group that a chat belongs to.
pub(crate) fn owner_of(transaction: &Transaction<'_>, chat: &str) -> Result<Option<String>, Fault> {
    if let Some(group) = chat.strip_prefix(LOCAL) {
        return Ok(Some(group.to_owned()));
    }
    Ok(transaction.query_row("SELECT grp FROM binding WHERE jid = ?1", [chat], |row| row.get(0)).optional()?)
}

/// The chat that a group's answers go to when none is named.
pub(crate) fn chat_of(transaction: &Transaction<'_>, group: &str) -> Result<String, Fault> {
    let bound =
        transaction.query_row("SELECT jid FROM binding WHERE grp = ?1", [group], |row| row.get(0)).optional()?;
    Ok(bound.unwrap_or_else(|| format!("{LOCAL}{group}")))
}

/// The chat, while it is the group's; or else the one that the group has now: what was
/// its own when it was asked there or when a task was made can be another's by the time
/// of the answer.
pub(crate) fn own_chat(transaction: &Transaction<'_>, group: &str, chat: &str) -> Result<String, Fault> {
    match owner_of(transaction, chat)? {
        Some(owner) if owner == group => Ok(chat.to_owned()),
        _ => chat_of(transaction, group),
    }
}

/// What waits for a group's agent from chats that are no longer the group's goes.
fn drop_strays(transaction: &Transaction<'_>, group: &str) -> Result<(), Fault> {
    let strays = "DELETE FROM message WHERE grp = ?1 AND state = 'waiting' AND chat <> ?2 \
                  AND chat NOT IN (SELECT jid FROM binding WHERE grp = ?1)";
    transaction.execute(strays, params![group, format!("{LOCAL}{group}")])?;
    if group == crate::config::MAIN {
        return Ok(());
    }
    // What it has not said there yet would be said in another group's chat.
    let unsaid = "UPDATE outgoing SET state = 'failed', error = 'the chat is no longer the group''s' \
                  WHERE grp = ?1 AND state = 'queued' AND chat NOT IN (SELECT jid FROM binding WHERE grp = ?1)";
    transaction.execute(unsaid, [group])?;
    Ok(())
}

/// Binds a chat to a group, in place of the one that it had.
pub(crate) fn bind(transaction: &Transaction<'_>, new: &Binding) -> Result<(), Fault> {
    let shown = crate::error::printable(&new.chat);
    if new.chat.starts_with(LOCAL) {
        let what = format!("`{shown}` belongs to the group of that name, and cannot be bound");
        return Err(Error::refused(what).hint("belljar send -g GROUP reaches it").into());
    }
    if let Some(other) = owner_of(transaction, &new.chat)?.filter(|other| *other != new.group) {
        let what = format!("the chat `{shown}` belongs to group {other} already");
        return Err(Error::refused(what).hint(format!("belljar group set {other} --no-chat")).into());
    }
    transaction.execute(
        "INSERT INTO binding (grp, jid, name, mention) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (grp) DO UPDATE SET jid = ?2, name = ?3, mention = ?4",
        params![new.group, new.chat, new.name, new.trigger],
    )?;
    drop_strays(transaction, &new.group)?;
    // What was said there before it belonged to anybody is nobody's business.
    remember(transaction, &new.chat, Some(&new.name))
}

/// Remembers that there is such a chat, and its name where one is told.
pub(super) fn remember(transaction: &Transaction<'_>, chat: &str, name: Option<&str>) -> Result<(), Fault> {
    transaction.execute(
        "INSERT INTO chat (jid, name, last_wall) VALUES (?1, coalesce(?2, ?1), ?3) \
         ON CONFLICT (jid) DO UPDATE SET name = coalesce(?2, name), last_wall = ?3",
        params![chat, name.filter(|name| !name.is_empty()), wall_now()],
    )?;
    let forgotten = "DELETE FROM chat WHERE (SELECT count(*) FROM chat) > ?1 AND jid IN \
                     (SELECT jid FROM chat ORDER BY last_wall LIMIT max(0, (SELECT count(*) FROM chat) - ?1))";
    transaction.execute(forgotten, [REMEMBERED])?;
    Ok(())
}

impl Store {
    /// All bindings, by group.
    pub fn bindings(&self) -> Result<Vec<Binding>> {
        self.read("list the chats of groups in", |transaction| {
            let mut statement = transaction.prepare("SELECT * FROM binding ORDER BY grp")?;
            Ok(statement.query_map([], binding)?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The chat of a group.
    pub fn binding_of(&self, group: &str) -> Result<Option<Binding>> {
        self.read("look for a group's chat in", |transaction| {
            Ok(transaction.query_row("SELECT * FROM binding WHERE grp = ?1", [group], binding).optional()?)
        })
    }

    /// The group that a chat is bound to.
    pub fn binding_for(&self, chat: &str) -> Result<Option<Binding>> {
        self.read("look for a chat's group in", |transaction| {
            Ok(transaction.query_row("SELECT * FROM binding WHERE jid = ?1", [chat], binding).optional()?)
        })
    }

    /// Binds a chat to a group; refused when another group has it.
    pub fn bind(&self, new: &Binding) -> Result<()> {
        self.write("bind a chat in", |transaction| bind(transaction, new))
    }

    /// Takes a group's chat away.
    pub fn unbind(&self, group: &str) -> Result<bool> {
        self.write("unbind a chat in", |transaction| {
            let had = transaction.execute("DELETE FROM binding WHERE grp = ?1", [group])? > 0;
            drop_strays(transaction, group)?;
            Ok(had)
        })
    }

    /// Everything of a group that was removed: its chat, what waits, its session and tasks.
    pub fn forget_group(&self, group: &str) -> Result<()> {
        self.write("forget a group in", |transaction| {
            for table in ["binding", "message", "session", "task_run", "task"] {
                transaction.execute(&format!("DELETE FROM {table} WHERE grp = ?1"), [group])?;
            }
            transaction.execute("DELETE FROM outgoing WHERE grp = ?1 AND state = 'queued'", [group])?;
            Ok(())
        })
    }

    /// A channel tells of a chat.
    pub fn heard_of(&self, chat: &str, name: Option<&str>) -> Result<()> {
        self.write("remember a chat in", |transaction| remember(transaction, chat, name))
    }

    /// The chats that were heard of, the latest first.
    pub fn chats(&self) -> Result<Vec<Chat>> {
        self.read("list chats in", |transaction| {
            let mut statement = transaction.prepare(
                "SELECT chat.jid, chat.name, last_wall, grp FROM chat LEFT JOIN binding ON chat.jid = binding.jid \
                 ORDER BY last_wall DESC",
            )?;
            let chats = statement.query_map([], |row| {
                Ok(Chat {
                    jid: row.get(0)?,
                    name: row.get(1)?,
                    last_activity: rfc3339(row.get(2)?),
                    group: row.get(3)?,
                })
            })?;
            Ok(chats.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The session that a group's agent goes on with.
    pub fn session(&self, group: &str) -> Result<Option<String>> {
        self.read("look for a session in", |transaction| {
            Ok(transaction.query_row("SELECT id FROM session WHERE grp = ?1", [group], |row| row.get(0)).optional()?)
        })
    }

    /// The group's agent begins anew next time.
    pub fn forget_session(&self, group: &str) -> Result<()> {
        self.write("forget a session in", |transaction| {
            transaction.execute("DELETE FROM session WHERE grp = ?1", [group])?;
            Ok(())
        })
    }
}

pub(super) fn keep_session(transaction: &Transaction<'_>, group: &str, id: &str) -> Result<(), Fault> {
    transaction.execute(
        "INSERT INTO session (grp, id) VALUES (?1, ?2) ON CONFLICT (grp) DO UPDATE SET id = ?2",
        params![group, id],
    )?;
    Ok(())
}
