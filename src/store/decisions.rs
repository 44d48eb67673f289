//! What agents asked the host for, and what they were told: one line each.

use rusqlite::{OptionalExtension as _, Transaction, params};
use serde::Serialize;

use super::Store;
use super::clock::{rfc3339, wall_now};
use super::file::Fault;
use crate::error::Result;

/// So many lines are kept of a group: an agent can ask in a loop. What is beyond is
/// taken out now and then.
const KEPT: i64 = 10_000;
const NOW_AND_THEN: i64 = 100;

/// The key that says that channels are to be asked for their chats.
pub(crate) const REFRESH: &str = "refresh";

/// One thing that an agent asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Decision {
    /// When: RFC 3339, UTC.
    pub time: String,
    /// Whose agent.
    pub group: String,
    /// `file` or `mcp`.
    pub way: String,
    /// What it asked for.
    pub operation: String,
    /// What it was about.
    pub target: String,
    /// The row of the table that decided.
    pub permission: String,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Why not.
    pub reason: String,
}

/// Keeps one; its time is now.
pub(crate) fn record(transaction: &Transaction<'_>, decision: &Decision) -> Result<(), Fault> {
    transaction.execute(
        "INSERT INTO decision (wall, grp, way, operation, target, permission, allowed, reason) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            wall_now(),
            decision.group,
            decision.way,
            decision.operation,
            decision.target,
            decision.permission,
            decision.allowed,
            decision.reason
        ],
    )?;
    if transaction.last_insert_rowid() % NOW_AND_THEN == 0 {
        let oldest = "SELECT seq FROM decision WHERE grp = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2";
        let beyond = format!("DELETE FROM decision WHERE grp = ?1 AND seq <= ({oldest})");
        transaction.execute(&beyond, params![decision.group, KEPT])?;
    }
    Ok(())
}

/// Notes that something with this key was done; false when it was done already.
pub(crate) fn first_time(transaction: &Transaction<'_>, key: &str) -> Result<bool, Fault> {
    Ok(transaction.execute("INSERT INTO handled (key) VALUES (?1) ON CONFLICT DO NOTHING", [key])? > 0)
}

impl Store {
    /// Keeps a decision that nothing else comes with.
    pub fn record_decision(&self, decision: &Decision) -> Result<()> {
        self.write("record a decision in", |transaction| record(transaction, decision))
    }

    /// Whether something with this key was done.
    pub fn is_handled(&self, key: &str) -> Result<bool> {
        self.read("look for a key in", |transaction| {
            let found = transaction.query_row("SELECT 1 FROM handled WHERE key = ?1", [key], |_| Ok(())).optional()?;
            Ok(found.is_some())
        })
    }

    /// Whether channels are to be asked for their chats; once.
    pub fn take_refresh(&self) -> Result<bool> {
        if !self.is_handled(REFRESH)? {
            return Ok(false);
        }
        self.forget_handled(&[REFRESH.to_owned()])?;
        Ok(true)
    }

    /// What the keys stood for is gone: they are needed no more.
    pub fn forget_handled(&self, keys: &[String]) -> Result<()> {
        self.write("forget keys in", |transaction| {
            let mut statement = transaction.prepare("DELETE FROM handled WHERE key = ?1")?;
            for key in keys {
                statement.execute([key])?;
            }
            Ok(())
        })
    }

    /// The latest decisions, of a group or of all, the last one first.
    pub fn decisions(&self, group: Option<&str>, count: i64) -> Result<Vec<Decision>> {
        self.read("list decisions in", |transaction| {
            let mut statement = transaction
                .prepare("SELECT * FROM decision WHERE ?1 IS NULL OR grp = ?1 ORDER BY seq DESC LIMIT ?2")?;
            let decisions = statement.query_map(params![group, count], |row| {
                Ok(Decision {
                    time: rfc3339(row.get("wall")?),
                    group: row.get("grp")?,
                    way: row.get("way")?,
                    operation: row.get("operation")?,
                    target: row.get("target")?,
                    permission: row.get("permission")?,
                    allowed: row.get("allowed")?,
                    reason: row.get("reason")?,
                })
            })?;
            Ok(decisions.collect::<rusqlite::Result<_>>()?)
        })
    }
}
