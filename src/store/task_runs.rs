//! Runs of tasks. One is `waiting` from the moment when it is due, then `running`, then
//! `ok` or `failed`; or `skipped`, when the one before still went on. That it is due, and
//! when the next one will be, is written together: a host process that is killed in
//! between neither skips a run nor makes it twice.

use rusqlite::{OptionalExtension as _, Row, params};
use serde::Serialize;

use super::clock::{rfc3339, wall_now};
use super::file::Fault;
use super::tasks::{CANCELLED, find, task};
use super::{Store, Task, chats, outgoing};
use crate::error::Result;

/// Runs of a task that are remembered.
const RUNS: i64 = 200;

/// One run of a task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskRun {
    /// Its number.
    pub seq: i64,
    /// The task.
    pub task: String,
    /// The task's group.
    pub group: String,
    /// When it was due: RFC 3339, UTC.
    pub due: String,
    /// `waiting`, `running`, `ok`, `failed` or `skipped`.
    pub outcome: String,
    /// When it began.
    pub started: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<i64>,
    /// What the agent said, its beginning.
    pub result: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// How a task's run ended.
#[derive(Debug, Clone, Default)]
pub struct TaskEnd {
    /// What the agent said.
    pub replies: Vec<String>,
    /// The group's session from now on.
    pub session: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

fn task_run(row: &Row<'_>) -> rusqlite::Result<TaskRun> {
    let (started, ended): (Option<i64>, Option<i64>) = (row.get("started_wall")?, row.get("ended_wall")?);
    Ok(TaskRun {
        seq: row.get("seq")?,
        task: row.get("task")?,
        group: row.get("grp")?,
        due: rfc3339(row.get("due_wall")?),
        outcome: row.get("state")?,
        started: started.map(rfc3339),
        duration_ms: started.zip(ended).map(|(started, ended)| (ended - started).max(0)),
        result: row.get("result")?,
        error: row.get("error")?,
    })
}

impl Store {
    /// The runs of a task, the last one first.
    pub fn task_history(&self, task: &Task, count: i64) -> Result<Vec<TaskRun>> {
        self.read("list runs of a task in", |transaction| {
            let mut statement = transaction
                .prepare("SELECT * FROM task_run WHERE grp = ?1 AND task = ?2 ORDER BY seq DESC LIMIT ?3")?;
            Ok(statement.query_map(params![task.group, task.id, count], task_run)?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// When the next task is due, in milliseconds since 1970.
    pub fn next_due(&self) -> Result<Option<i64>> {
        self.read("look for the next task in", |transaction| {
            let next = "SELECT min(next_wall) FROM task WHERE status = 'active' AND next_wall IS NOT NULL";
            Ok(transaction.query_row(next, [], |row| row.get(0))?)
        })
    }

    /// Makes a waiting run of each task that is due, and says when each is due next.
    /// A time that passed while nobody served is made up for once, however many
    /// passed.
    pub fn make_due(&self) -> Result<usize> {
        self.write("look for tasks that are due in", |transaction| {
            let now = wall_now();
            let due: Vec<Task> = {
                let mut statement = transaction.prepare(
                    "SELECT * FROM task WHERE status = 'active' AND next_wall <= ?1 ORDER BY next_wall, created_wall, id",
                )?;
                statement.query_map([now], task)?.collect::<rusqlite::Result<_>>()?
            };
            for task in &due {
                let at = task.next_wall.unwrap_or(now);
                let going_on: i64 = transaction.query_row(
                    "SELECT count(*) FROM task_run WHERE grp = ?1 AND task = ?2 AND state IN ('waiting', 'running')",
                    [&task.group, &task.id],
                    |row| row.get(0),
                )?;
                // One whose schedule is no longer understood would be due for ever.
                let next = task.schedule().ok().and_then(|schedule| schedule.after(at, now));
                // There is no other time for what is to be done once.
                let state = if going_on > 0 && next.is_some() { "skipped" } else { "waiting" };
                // A new schedule can name a time for which it was done before.
                transaction.execute(
                    "DELETE FROM task_run WHERE grp = ?1 AND task = ?2 AND due_wall = ?3 \
                     AND state NOT IN ('waiting', 'running')",
                    params![task.group, task.id, at],
                )?;
                transaction.execute(
                    "INSERT INTO task_run (task, grp, due_wall, state) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                    params![task.id, task.group, at, state],
                )?;
                transaction.execute(
                    "DELETE FROM task_run WHERE grp = ?1 AND task = ?2 AND state NOT IN ('waiting', 'running') \
                     AND seq <= (SELECT seq FROM task_run WHERE grp = ?1 AND task = ?2 \
                     ORDER BY seq DESC LIMIT 1 OFFSET ?3)",
                    params![task.group, task.id, RUNS],
                )?;
                let status = if next.is_some() { "active" } else { "completed" };
                transaction.execute(
                    "UPDATE task SET next_wall = ?3, status = ?4 WHERE grp = ?1 AND id = ?2",
                    params![task.group, task.id, next, status],
                )?;
            }
            Ok(due.len())
        })
    }

    /// Groups with tasks whose runs wait, the longest first.
    pub fn groups_with_tasks(&self) -> Result<Vec<String>> {
        self.read("look for tasks in", |transaction| {
            let mut statement = transaction
                .prepare("SELECT grp FROM task_run WHERE state = 'waiting' GROUP BY grp ORDER BY min(seq)")?;
            Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Begins the run of a group's that waits longest.
    pub fn begin_task(&self, group: &str) -> Result<Option<(TaskRun, Task)>> {
        self.write("begin a task in", |transaction| {
            loop {
                let next = "SELECT * FROM task_run WHERE state = 'waiting' AND grp = ?1 ORDER BY seq LIMIT 1";
                let Some(run) = transaction.query_row(next, [group], task_run).optional()? else { return Ok(None) };
                match find(transaction, &run.group, &run.task)? {
                    Some(task) => {
                        transaction.execute(
                            "UPDATE task_run SET state = 'running', started_wall = ?2 WHERE seq = ?1",
                            params![run.seq, wall_now()],
                        )?;
                        return Ok(Some((run, task)));
                    }
                    // It was cancelled.
                    None => transaction.execute("DELETE FROM task_run WHERE seq = ?1", [run.seq])?,
                };
            }
        })
    }

    /// A run has not begun after all: it waits again.
    pub fn postpone_task(&self, run: i64) -> Result<()> {
        self.write("postpone a task in", |transaction| {
            transaction.execute("UPDATE task_run SET state = 'waiting', tries = tries + 1 WHERE seq = ?1", [run])?;
            Ok(())
        })
    }

    /// A run has ended; what it said goes to the task's chat, where that is the group's still.
    pub fn end_task(&self, run: &TaskRun, task: &Task, end: &TaskEnd) -> Result<()> {
        self.write("end a task in", |transaction| {
            let chat = chats::own_chat(transaction, &task.group, &task.chat)?;
            let queue = |reply: &String| outgoing::answer(transaction, &chat, &task.group, reply).map(|_| ());
            let error = match end.replies.iter().try_for_each(queue) {
                Ok(()) => end.error.clone(),
                // Too many are on their way. It is done all the same, and not begun again.
                Err(Fault::Said(refusal)) => Some(refusal.with_causes()),
                Err(fault) => return Err(fault),
            };
            let state = if error.is_none() { "ok" } else { "failed" };
            let shown: String = end.replies.join("\n").chars().take(4096).collect();
            transaction.execute(
                "UPDATE task_run SET state = ?2, ended_wall = ?3, result = ?4, error = ?5 WHERE seq = ?1",
                params![run.seq, state, wall_now(), shown, error],
            )?;
            // Nobody can ask for the history of a task that was cancelled.
            transaction
                .execute("DELETE FROM task_run WHERE seq = ?1 AND task = ?2 || seq", params![run.seq, CANCELLED])?;
            if let Some(session) = &end.session {
                chats::keep_session(transaction, &task.group, session)?;
            }
            Ok(())
        })
    }
}
