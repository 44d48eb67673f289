//! Tasks: what an agent is to do, and when.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use super::Store;
use super::clock::{rfc3339, wall_now};
use super::file::Fault;
use crate::error::{Error, Result};
use crate::schedule::{Kind, Schedule};

/// Tasks of one group: an agent can ask in a loop.
const MOST: i64 = 200;
/// What the runs of a cancelled task begin with in place of its id, which never has it.
pub(super) const CANCELLED: &str = "/";
/// Completed tasks of a group that are remembered.
const COMPLETED: i64 = 50;
/// Bytes that the prompts and scripts of a group's tasks may have.
const BYTES: i64 = 1 << 20;

/// Which conversation a task's agent is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TaskContext {
    /// The group's.
    Group,
    /// One of its own.
    Isolated,
}

impl TaskContext {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Isolated => "isolated",
        }
    }
}

/// A task that is to be.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// What it is called; made up where nothing is said.
    pub id: Option<String>,
    /// The group whose agent does it.
    pub group: String,
    /// Where its answer goes.
    pub chat: String,
    /// What the agent is told.
    pub prompt: String,
    /// For a NanoClaw runner: a script that decides whether the agent is needed.
    pub script: Option<String>,
    /// When.
    pub schedule: Schedule,
    /// In which conversation.
    pub context: TaskContext,
}

/// A task.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    /// What it is called.
    pub id: String,
    /// The group whose agent does it.
    pub group: String,
    /// Where its answer goes.
    pub chat: String,
    /// What the agent is told.
    pub prompt: String,
    /// For a NanoClaw runner.
    pub script: Option<String>,
    /// `cron`, `interval` or `once`.
    pub schedule_type: String,
    /// As it was written.
    pub schedule_value: String,
    /// The time zone.
    pub time_zone: String,
    /// `group` or `isolated`.
    pub context_mode: String,
    /// `active`, `paused` or `completed`.
    pub status: String,
    /// When it is due next: RFC 3339, UTC.
    pub next_run: Option<String>,
    #[serde(skip)]
    pub(super) next_wall: Option<i64>,
}

/// What is changed of a task; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// What the agent is told.
    pub prompt: Option<String>,
    /// For a NanoClaw runner.
    pub script: Option<String>,
    /// When.
    pub schedule: Option<Schedule>,
    /// In which conversation.
    pub context: Option<TaskContext>,
}

pub(super) fn task(row: &Row<'_>) -> rusqlite::Result<Task> {
    let next: Option<i64> = row.get("next_wall")?;
    Ok(Task {
        id: row.get("id")?,
        group: row.get("grp")?,
        chat: row.get("chat")?,
        prompt: row.get("prompt")?,
        script: row.get("script")?,
        schedule_type: row.get("kind")?,
        schedule_value: row.get("value")?,
        time_zone: row.get("zone")?,
        context_mode: row.get("context")?,
        status: row.get("status")?,
        next_run: next.map(rfc3339),
        next_wall: next,
    })
}

impl Task {
    pub(super) fn schedule(&self) -> Result<Schedule> {
        self.schedule_in(None)
    }

    /// The same times in another zone.
    pub fn schedule_in(&self, zone: Option<&str>) -> Result<Schedule> {
        let kind = Kind::parse(&self.schedule_type)
            .ok_or_else(|| Error::failed(format!("task {}: no such schedule: {}", self.id, self.schedule_type)))?;
        Schedule::parse(kind, &self.schedule_value, zone.unwrap_or(&self.time_zone))
    }
}

/// A group's task of this id. Another group may have one of the same id.
pub(crate) fn find(transaction: &Transaction<'_>, group: &str, id: &str) -> Result<Option<Task>, Fault> {
    let of_group = "SELECT * FROM task WHERE grp = ?1 AND id = ?2";
    Ok(transaction.query_row(of_group, [group, id], task).optional()?)
}

/// The task of this id, for who may see all: the group's own, or the only one that
/// another group has.
pub(crate) fn find_any(transaction: &Transaction<'_>, group: &str, id: &str) -> Result<Option<Task>, Fault> {
    if let Some((group, id)) = id.split_once('/') {
        return find(transaction, group, id);
    }
    if let Some(own) = find(transaction, group, id)? {
        return Ok(Some(own));
    }
    let mut statement = transaction.prepare("SELECT * FROM task WHERE id = ?1")?;
    let mut found: Vec<Task> = statement.query_map([id], task)?.collect::<rusqlite::Result<_>>()?;
    if found.len() > 1 {
        let groups: Vec<&str> = found.iter().map(|task| task.group.as_str()).collect();
        let what = format!("there is a task `{id}` of each of the groups {}", groups.join(", "));
        return Err(Error::refused(what)
            .hint(format!("say which: {}/{id}", groups.first().copied().unwrap_or_default()))
            .into());
    }
    Ok(found.pop())
}

/// Tasks of a group, or all.
pub(crate) fn list(transaction: &Transaction<'_>, group: Option<&str>) -> Result<Vec<Task>, Fault> {
    let mut statement =
        transaction.prepare("SELECT * FROM task WHERE ?1 IS NULL OR grp = ?1 ORDER BY created_wall, id")?;
    Ok(statement.query_map([group], task)?.collect::<rusqlite::Result<_>>()?)
}

/// Adds a task; its id. Refused when there is one of this id, or too many.
pub(crate) fn add(transaction: &Transaction<'_>, new: &NewTask) -> Result<String, Fault> {
    let now = wall_now();
    let count: i64 = transaction.query_row(
        "SELECT count(*) FROM task WHERE grp = ?1 AND status <> 'completed'",
        [&new.group],
        |row| row.get(0),
    )?;
    if count >= MOST {
        let what = format!("group {} has {count} tasks, as many as may be", new.group);
        return Err(Error::refused(what).hint("cancel one first: belljar task cancel ID").into());
    }
    check_room(transaction, &new.group, new.prompt.len() + new.script.as_ref().map_or(0, String::len))?;
    let id = match &new.id {
        Some(id) => {
            check_id(id)?;
            id.clone()
        }
        None => format!("task-{now}-{}", super::decide::random_id()?),
    };
    if find(transaction, &new.group, &id)?.is_some() {
        return Err(Error::refused(format!("there is a task `{id}` already")).hint("choose another id").into());
    }
    let first = new.schedule.first(now)?;
    transaction.execute(
        "DELETE FROM task WHERE grp = ?1 AND id IN (SELECT id FROM task WHERE grp = ?1 AND status = 'completed' \
         AND NOT EXISTS (SELECT 1 FROM task_run WHERE task_run.grp = task.grp AND task_run.task = task.id \
         AND state IN ('waiting', 'running')) ORDER BY created_wall DESC LIMIT -1 OFFSET ?2)",
        params![new.group, COMPLETED],
    )?;
    transaction.execute(
        "INSERT INTO task (id, grp, chat, prompt, script, kind, value, zone, context, status, next_wall, created_wall) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'active', ?10, ?11)",
        params![
            id,
            new.group,
            new.chat,
            new.prompt,
            new.script,
            new.schedule.kind.name(),
            new.schedule.value,
            new.schedule.zone,
            new.context.name(),
            first,
            now
        ],
    )?;
    Ok(id)
}

/// What all of a group's tasks say is read and shown again and again.
fn check_room(transaction: &Transaction<'_>, group: &str, more: usize) -> Result<(), Fault> {
    let all: i64 = transaction.query_row(
        "SELECT coalesce(sum(length(CAST(prompt AS BLOB)) + length(CAST(coalesce(script, '') AS BLOB))), 0) \
         FROM task WHERE grp = ?1",
        [group],
        |row| row.get(0),
    )?;
    if all.saturating_add(i64::try_from(more).unwrap_or(i64::MAX)) > BYTES {
        let what = format!("the tasks of group {group} say more than {} KiB", BYTES >> 10);
        return Err(Error::refused(what).hint("put what is long into a file, and name the file").into());
    }
    Ok(())
}

fn check_id(id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.is_empty() || id.len() > 64 || !id.chars().all(good) {
        return Err(Error::refused("a task's id has 1 to 64 letters, digits, -, _ and .").hint("or leave it out"));
    }
    Ok(())
}

/// Pauses a task, or lets it go on: what it missed meanwhile is left out.
pub(crate) fn set_paused(transaction: &Transaction<'_>, task: &Task, pause: Pause) -> Result<(), Fault> {
    let wanted = match (task.status.as_str(), pause) {
        ("completed", _) => {
            return Err(Error::refused(format!("task `{}` is completed", task.id)).hint("schedule a new one").into());
        }
        (_, Pause::Yes) => "paused",
        (_, Pause::No) => "active",
    };
    let next = match (pause, task.next_wall) {
        (Pause::No, Some(next)) if task.status == "paused" && next < wall_now() => {
            let now = wall_now();
            // A single time that has passed is due now.
            Some(task.schedule()?.after(next, now).unwrap_or(now))
        }
        (_, next) => next,
    };
    transaction.execute(
        "UPDATE task SET status = ?3, next_wall = ?4 WHERE grp = ?1 AND id = ?2",
        params![task.group, task.id, wanted, next],
    )?;
    if pause == Pause::Yes {
        let waiting = "UPDATE task_run SET state = 'skipped' WHERE grp = ?1 AND task = ?2 AND state = 'waiting'";
        transaction.execute(waiting, [&task.group, &task.id])?;
    }
    Ok(())
}

/// Whether a task is to pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It is.
    Yes,
    /// It is to go on.
    No,
}

/// Removes a task and its history; a run that goes on is not stopped.
pub(crate) fn cancel(transaction: &Transaction<'_>, task: &Task) -> Result<(), Fault> {
    let which = params![task.group, task.id];
    transaction.execute("DELETE FROM task WHERE grp = ?1 AND id = ?2", which)?;
    transaction.execute("DELETE FROM task_run WHERE grp = ?1 AND task = ?2 AND state <> 'running'", which)?;
    // Another task can have the id before it ends.
    transaction.execute(
        "UPDATE task_run SET task = ?3 || seq WHERE grp = ?1 AND task = ?2",
        params![task.group, task.id, CANCELLED],
    )?;
    Ok(())
}

/// Changes a task; a new schedule begins now.
pub(crate) fn update(transaction: &Transaction<'_>, task: &Task, changes: &Changes) -> Result<(), Fault> {
    let schedule = match &changes.schedule {
        Some(schedule) => schedule.clone(),
        None => task.schedule()?,
    };
    let more = changes.prompt.iter().chain(&changes.script).map(String::len).sum();
    check_room(transaction, &task.group, more)?;
    let (status, next) = match &changes.schedule {
        Some(schedule) => {
            let status = if task.status == "paused" { "paused" } else { "active" };
            (status, Some(schedule.first(wall_now())?))
        }
        None => (task.status.as_str(), task.next_wall),
    };
    transaction.execute(
        "UPDATE task SET prompt = ?3, script = ?4, kind = ?5, value = ?6, zone = ?7, context = ?8, status = ?9, \
         next_wall = ?10 WHERE grp = ?1 AND id = ?2",
        params![
            task.group,
            task.id,
            changes.prompt.as_ref().unwrap_or(&task.prompt),
            changes.script.as_ref().or(task.script.as_ref()),
            schedule.kind.name(),
            schedule.value,
            schedule.zone,
            changes.context.map_or(task.context_mode.as_str(), |context| context.name()),
            status,
            next
        ],
    )?;
    Ok(())
}

impl Store {
    /// Tasks of a group, or all, in the order in which they were made.
    pub fn tasks(&self, group: Option<&str>) -> Result<Vec<Task>> {
        self.read("list tasks in", |transaction| list(transaction, group))
    }

    /// The task of this id: of a group, or the only one.
    pub fn task(&self, group: Option<&str>, id: &str) -> Result<Option<Task>> {
        self.read("look for a task in", |transaction| match group {
            Some(group) => find(transaction, group, id),
            None => find_any(transaction, crate::config::MAIN, id),
        })
    }
}
