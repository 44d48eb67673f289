//! From held to decided. Each step is one transaction, so one decision wins.

use std::collections::BTreeSet;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::approval::COLUMNS;
use super::clock::{self, Moment};
use super::file::Fault;
use super::{Approval, Held, Preview, State, Store, permit, unknown};
use crate::error::{Error, Result};
use crate::runs;

/// Without characters that are taken for another: i, l, o, u, 0, 1.
const ALPHABET: &[u8; 30] = b"abcdefghjkmnpqrstvwxyz23456789";
const ID_LENGTH: usize = 6;
/// What was decided is kept so long, in milliseconds: a day.
const KEPT: i64 = 24 * 60 * 60 * 1000;
/// And as many of them at most: an agent can ask and go away in a loop.
const KEPT_COUNT: i64 = 2000;
/// Requests of one run that can wait at once: a person cannot look at more.
const WAITING_LIMIT: i64 = 64;

/// What a person says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Approve {
        /// And so may what is of the same scope, for this time.
        more: Option<Duration>,
    },
    /// It may not.
    Deny,
}

impl Store {
    /// Keeps a request until it is decided; returns the approval. Refused when 64
    /// of the run wait already.
    pub fn hold(&self, held: Held) -> Result<Approval> {
        self.write("hold a request in", |transaction| hold_in(transaction, held))
    }

    /// What became of it so far. Cheap while it waits: for a gateway to ask five
    /// times a second for each of fifty.
    ///
    /// Once this says [`State::Expired`] nobody can approve it any more.
    pub fn state(&self, id: &str) -> Result<State> {
        let now = Moment::now(&self.boot)?;
        let (state, deadline) = self.read("look at an approval in", |transaction| {
            let found = transaction
                .prepare("SELECT state, boot, expires, expires_wall FROM approval WHERE id = ?1")?
                .query_row([id], |row| {
                    let deadline = Moment { boot: row.get(1)?, since_boot: row.get(2)?, wall: row.get(3)? };
                    Ok((State::parse(&row.get::<_, String>(0)?)?, deadline))
                })
                .optional()?;
            found.ok_or_else(|| unknown(id).into())
        })?;
        if state != State::Pending || now.left_until(&deadline).is_some() {
            return Ok(state);
        }
        // Somebody may be approving it at this moment: who writes first wins.
        self.end(id, State::Expired, "nobody decided in time")
    }

    /// Nobody waits for it any more. What became of it: it may have been decided
    /// at the last moment.
    pub fn cancel(&self, id: &str, why: &str) -> Result<State> {
        self.end(id, State::Cancelled, why)
    }

    /// Nobody waits for any of a run's requests any more.
    pub fn cancel_run(&self, run: &str, why: &str) -> Result<()> {
        self.write("cancel approvals in", |transaction| {
            let now = Moment::now(&self.boot)?;
            transaction.execute(
                "UPDATE approval SET state = 'cancelled', decided_wall = ?2, decided_by = ?3, body = NULL \
                 WHERE run = ?1 AND state = 'pending'",
                params![run, now.wall, why],
            )?;
            Ok(())
        })
    }

    fn end(&self, id: &str, state: State, why: &str) -> Result<State> {
        self.write("end an approval in", |transaction| {
            let now = Moment::now(&self.boot)?;
            settle(transaction, id, state, (&now, why))?;
            let state = one(transaction, id, &now)?.map(|approval| approval.state);
            state.ok_or_else(|| unknown(id).into())
        })
    }

    /// Decides, as a person. Refused when it does not wait any more: too late,
    /// the client or the run has gone, or somebody else decided.
    pub fn decide(&self, id: &str, verdict: Verdict, by: &str) -> Result<Approval> {
        let id = id.to_lowercase();
        // The error goes out in the value, so that what was noticed is kept.
        self.write("decide in", |transaction| {
            let now = Moment::now(&self.boot)?;
            let Some(found) = one(transaction, &id, &now)? else { return Ok(Err(unknown(&id))) };
            let gone = self.is_gone(&found, &now)?;
            if let Some((state, why)) = gone {
                settle(transaction, &id, state, (&now, why))?;
            }
            let state = match verdict {
                Verdict::Approve { .. } => State::Approved,
                Verdict::Deny => State::Denied,
            };
            if found.state == State::Pending && gone.is_none() {
                settle(transaction, &id, state, (&now, by))?;
                if let Verdict::Approve { more } = verdict
                    && let Some(time) = permit::time_of(&found, more)
                {
                    permit::give(transaction, &id, &found.scope, (&now, time), by)?;
                }
            }
            let after = one(transaction, &id, &now)?.ok_or_else(|| Fault::from(unknown(&id)))?;
            if found.state == State::Pending && gone.is_none() { Ok(Ok(after)) } else { Ok(Err(too_late(&after))) }
        })?
    }

    /// The requests that wait, oldest first. Ends those that nobody waits for.
    pub fn pending(&self) -> Result<Vec<Approval>> {
        let now = Moment::now(&self.boot)?;
        let waiting = self.waiting()?;
        let mut found = self.select("WHERE state = 'pending' ORDER BY seq", [], &now)?;
        found.retain(|approval| waiting.contains(&approval.id));
        Ok(found)
    }

    /// Their ids alone, which is cheaper.
    pub fn waiting(&self) -> Result<BTreeSet<String>> {
        let now = Moment::now(&self.boot)?;
        let mut found: Vec<(String, String, Moment)> = self.read("list the approvals in", |transaction| {
            let found = transaction
                .prepare("SELECT id, run, boot, expires, expires_wall FROM approval WHERE state = 'pending'")?
                .query_map([], |row| {
                    let deadline = Moment { boot: row.get(2)?, since_boot: row.get(3)?, wall: row.get(4)? };
                    Ok((row.get(0)?, row.get(1)?, deadline))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(found)
        })?;
        if found.is_empty() {
            return Ok(BTreeSet::new());
        }
        let live: BTreeSet<String> = runs::live(&self.dirs)?.into_iter().map(|run| run.run).collect();
        let gone = |run: &str, deadline: &Moment| over(deadline, live.contains(run), &now);
        for (id, run, deadline) in &found {
            if let Some((state, why)) = gone(run, deadline) {
                self.end(id, state, why)?;
            }
        }
        found.retain(|(_, run, deadline)| gone(run, deadline).is_none());
        Ok(found.into_iter().map(|(id, ..)| id).collect())
    }

    /// The one of that id, in whatever state.
    pub fn approval(&self, id: &str) -> Result<Approval> {
        let now = Moment::now(&self.boot)?;
        let id = id.to_lowercase();
        let found = self.select("WHERE id = ?1", [&id], &now)?.pop().ok_or_else(|| unknown(&id))?;
        let Some((state, why)) = self.is_gone(&found, &now)? else { return Ok(found) };
        self.end(&id, state, why)?;
        self.select("WHERE id = ?1", [&id], &now)?.pop().ok_or_else(|| unknown(&id))
    }

    /// Those that came after another one, whatever became of them, oldest first;
    /// all that are kept, when there is no other one.
    pub fn after(&self, last: Option<&Approval>) -> Result<Vec<Approval>> {
        let now = Moment::now(&self.boot)?;
        self.select("WHERE seq > ?1 ORDER BY seq", [last.map_or(0, |approval| approval.seq)], &now)
    }

    fn select(&self, which: &str, parameters: impl rusqlite::Params, now: &Moment) -> Result<Vec<Approval>> {
        self.read("list the approvals in", |transaction| {
            let found = transaction
                .prepare(&format!("SELECT {COLUMNS} FROM approval {which}"))?
                .query_map(parameters, |row| Approval::from_row(row, now))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(found)
        })
    }

    fn is_gone(&self, approval: &Approval, now: &Moment) -> Result<Option<(State, &'static str)>> {
        if approval.state != State::Pending {
            return Ok(None);
        }
        let live = runs::live(&self.dirs)?.iter().any(|run| run.run == approval.run);
        Ok(over(&approval.deadline, live, now))
    }
}

/// What has become of one that is marked as waiting, if it does not.
fn over(deadline: &Moment, live: bool, now: &Moment) -> Option<(State, &'static str)> {
    if !live {
        return Some((State::Cancelled, "the run has ended"));
    }
    now.left_until(deadline).is_none().then_some((State::Expired, "nobody decided in time"))
}

/// Forgets what was decided long ago, and all but the latest.
fn forget(transaction: &Transaction<'_>, now: &Moment) -> rusqlite::Result<()> {
    transaction.execute(
        "DELETE FROM approval WHERE state <> 'pending' AND (decided_wall NOT BETWEEN ?1 - ?2 AND ?1 + ?2 \
         OR seq <= (SELECT max(seq) FROM approval) - ?3)",
        params![now.wall, KEPT, KEPT_COUNT],
    )?;
    Ok(())
}

/// Numbers above 2^63 do not fit; nobody has that many bytes.
fn stored(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn one(transaction: &Transaction<'_>, id: &str, now: &Moment) -> rusqlite::Result<Option<Approval>> {
    transaction
        .prepare(&format!("SELECT {COLUMNS} FROM approval WHERE id = ?1"))?
        .query_row([id], |row| Approval::from_row(row, now))
        .optional()
}

/// Ends one that waits; one that does not stays as it is.
fn settle(transaction: &Transaction<'_>, id: &str, state: State, (now, by): (&Moment, &str)) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE approval SET state = ?2, decided_wall = ?3, decided_by = ?4, body = NULL \
         WHERE id = ?1 AND state = 'pending'",
        params![id, state.name(), now.wall, by],
    )?;
    Ok(())
}

/// Keeps a request until it is decided: as [`Store::hold`], in a transaction of the caller's.
pub(crate) fn hold_in(transaction: &Transaction<'_>, held: Held) -> Result<Approval, Fault> {
    let body = Preview::from(held.body);
    let now = Moment::now(&clock::boot()?)?;
    forget(transaction, &now)?;
    let waiting: i64 = transaction.query_row(
        "SELECT count(*) FROM approval WHERE state = 'pending' AND run = ?1",
        [&held.run],
        |row| row.get(0),
    )?;
    if waiting >= WAITING_LIMIT {
        let what = format!("{waiting} requests of run {} wait for a person already", held.run);
        return Err(Error::refused(what).hint("belljar approvals").into());
    }
    let deadline = now.plus(held.wait);
    let id = free_id(transaction)?;
    let scope = &held.scope;
    transaction.execute(
        "INSERT INTO approval (id, state, run, grp, rule, method, scheme, host, port, path, query, \
         content_type, secret, body, held, size, whole, sha256, boot, created, created_wall, expires, \
         expires_wall) VALUES (?1, 'pending', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
         ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
        params![
            id,
            held.run,
            scope.group,
            scope.rule,
            scope.method,
            scope.scheme,
            scope.host,
            scope.port,
            scope.path,
            held.query,
            held.content_type,
            held.secret,
            body.bytes,
            stored(body.held),
            body.size.map(stored),
            body.whole,
            body.sha256,
            now.boot,
            now.since_boot,
            now.wall,
            deadline.since_boot,
            deadline.wall
        ],
    )?;
    one(transaction, &id, &now)?.ok_or_else(|| unknown(&id).into())
}

fn free_id(transaction: &Transaction<'_>) -> Result<String, Fault> {
    loop {
        let id = random_id()?;
        let taken: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM approval WHERE id = ?1) OR EXISTS (SELECT 1 FROM permit WHERE approval = ?1)",
            [&id],
            |row| row.get(0),
        )?;
        if !taken {
            return Ok(id);
        }
    }
}

pub(super) fn random_id() -> Result<String> {
    let random = SystemRandom::new();
    let mut id = String::with_capacity(ID_LENGTH);
    while id.len() < ID_LENGTH {
        let mut byte = [0u8; 1];
        random.fill(&mut byte).map_err(|_| Error::failed("get random bytes"))?;
        // 240 is the largest multiple of 30 in a byte: each letter is as likely.
        if byte[0] < 240 {
            id.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(id)
}

fn too_late(approval: &Approval) -> Error {
    let by = approval.by.as_deref().unwrap_or_default();
    let said = match approval.state {
        State::Approved | State::Denied => format!("{} by {by}", approval.state.name()),
        state => format!("{}: {by}", state.name()),
    };
    Error::refused(format!("approval {} does not wait any more", approval.id))
        .because(format!("{} at {}", said, approval.decided.as_deref().unwrap_or_default()))
        .hint("belljar approvals")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_unambiguous() {
        for _ in 0..2000 {
            let id = random_id().expect("random bytes");
            assert_eq!(id.len(), ID_LENGTH);
            assert!(id.bytes().all(|byte| ALPHABET.contains(&byte)), "{id}");
        }
    }
}
