//! Which group's agent runs next: one run for each group, and so many in all; tasks
//! before messages, and among them who waits longest. What failed is tried again
//! after a while that doubles.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until};

use super::Host;
use super::conversation::{AT_ONCE, Conversation, RUN_NAME, Scene};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::runs;
use crate::store::{TaskEnd, wall_now};

/// The wait after a first failure.
const RETRY: Duration = Duration::from_secs(5);
/// After so many failures only a new message wakes the agent again.
const TRIES: u32 = 6;
/// The clock may be set: due times are looked at again after this at the latest.
const LOOK: Duration = Duration::from_secs(30);
/// How long runs of a host process that was killed may take to end.
const OLD_RUNS: Duration = Duration::from_secs(15);

/// Who runs, and who waits after a failure.
#[derive(Default)]
pub struct Queue {
    live: RefCell<HashMap<String, Rc<Notify>>>,
    failed: RefCell<HashMap<String, Failed>>,
    wake: Notify,
    /// Somebody waits for a place.
    crowded: Cell<bool>,
}

struct Failed {
    times: u32,
    again: Option<Instant>,
    error: Error,
}

/// What somebody is told who waits for an answer.
#[derive(Debug, Serialize)]
pub struct Failing {
    /// In belljar's words.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
    /// Whether it is tried again by itself.
    pub again: bool,
}

impl Queue {
    /// There may be work.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Somebody says something to the group: it is tried again.
    pub fn forgive(&self, group: &str) {
        self.failed.borrow_mut().retain(|name, failed| name != group || failed.times < TRIES);
    }

    /// Groups whose agents fail.
    pub fn failing(&self) -> BTreeMap<String, Failing> {
        let failed = self.failed.borrow();
        let shown = |failed: &Failed| Failing {
            message: failed.error.with_causes(),
            hint: failed.error.hint.clone(),
            again: failed.again.is_some(),
        };
        failed.iter().map(|(group, failed)| (group.clone(), shown(failed))).collect()
    }

    fn rests_until(&self, group: &str) -> Option<Option<Instant>> {
        let failed = self.failed.borrow();
        let failed = failed.get(group)?;
        match failed.again {
            Some(again) if again <= Instant::now() => None,
            again => Some(again),
        }
    }
}

/// Whether something waits that an idle run of the group's, about that chat, is in the
/// way of: its tasks and other chats, or another group while all places are taken.
pub async fn is_waited_for(host: &Rc<Host>, group: &str, chat: &str) -> bool {
    let (group, chat) = (group.to_owned(), chat.to_owned());
    host.queue.crowded.get() || host.with_store(move |store| store.waits_beside(&group, &chat)).await.unwrap_or(false)
}

/// Starts runs as there is work, for ever.
pub async fn work(host: Rc<Host>) {
    end_old_runs(&host).await;
    loop {
        let next = look(&host).await.unwrap_or_else(|error| {
            host.events.tell_error("queue", &error);
            Some(Instant::now() + LOOK)
        });
        let latest = Instant::now() + LOOK;
        tokio::select! {
            () = host.queue.wake.notified() => {}
            () = sleep_until(next.map_or(latest, |next| next.min(latest))) => {}
        }
    }
}

/// One run for each group, also when the process that began it is gone.
async fn end_old_runs(host: &Rc<Host>) {
    let begun = Instant::now();
    loop {
        let live = runs::live(&host.dirs).unwrap_or_default();
        let old: Vec<i32> =
            live.into_iter().filter(|run| run.name.as_deref() == Some(RUN_NAME)).map(|run| run.pid).collect();
        if old.is_empty() || begun.elapsed() > OLD_RUNS {
            return;
        }
        for pid in old {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Starts what can be started; when to look again.
async fn look(host: &Rc<Host>) -> Result<Option<Instant>> {
    if host.stopping.get() {
        return Ok(None);
    }
    let (tasks, messages, due) = host
        .with_store(|store| {
            if store.next_due()?.is_some_and(|due| due <= wall_now()) {
                store.make_due()?;
            }
            Ok((store.groups_with_tasks()?, store.groups_with_messages()?, store.next_due()?))
        })
        .await?;
    let in_ms = |at: i64| Instant::now() + Duration::from_millis((at - wall_now()).max(0).unsigned_abs());
    let mut next = due.map(in_ms);
    let mut crowded = false;
    let mut seen = HashSet::new();
    let with_tasks: HashSet<String> = tasks.iter().cloned().collect();
    for group in tasks.into_iter().chain(messages) {
        if !seen.insert(group.clone()) {
            continue;
        }
        if let Some(nudge) = host.queue.live.borrow().get(&group) {
            nudge.notify_one();
            continue;
        }
        // A task is not kept waiting by messages that failed.
        if !with_tasks.contains(&group)
            && let Some(rest) = host.queue.rests_until(&group)
        {
            next = next.into_iter().chain(rest).min();
            continue;
        }
        // Who waits for a place waits; the live ones behind it are nudged all the same.
        match host.places.clone().try_acquire_owned() {
            Ok(place) => start(host, group, place),
            Err(_) => crowded = true,
        }
    }
    host.queue.crowded.set(crowded);
    if crowded {
        // An agent that only waits for more makes room.
        host.queue.live.borrow().values().for_each(|nudge| nudge.notify_one());
    }
    Ok(next)
}

fn start(host: &Rc<Host>, group: String, place: OwnedSemaphorePermit) {
    let nudge = Rc::new(Notify::new());
    host.queue.live.borrow_mut().insert(group.clone(), Rc::clone(&nudge));
    let host = Rc::clone(host);
    tokio::task::spawn_local(async move {
        let result = one(&host, &group, nudge).await;
        drop(place);
        host.queue.live.borrow_mut().remove(&group);
        match result {
            // That a task was done says nothing of messages that failed.
            Ok(Done::Task) => {}
            Ok(Done::Messages) => drop(host.queue.failed.borrow_mut().remove(&group)),
            Err(error) => note_failure(&host, &group, &error),
        }
        host.queue.wake();
    });
}

/// What a run was for.
enum Done {
    Task,
    Messages,
}

/// One run of the group's: a task, or messages.
async fn one(host: &Rc<Host>, group: &str, nudge: Rc<Notify>) -> Result<Done> {
    let name = group.to_owned();
    let task = host.with_store(move |store| store.begin_task(&name)).await?;
    let scene = Scene { host, nudge, group };
    if let Some((run, task)) = task {
        let ended = async { Conversation::work(scene, &task).await?.go_on().await }.await;
        if ended.is_err() && host.stopping.get() {
            // It was stopped, and is done when the host process is back.
            return host.with_store(move |store| store.postpone_task(run.seq)).await.map(|()| Done::Task);
        }
        let end = ended.unwrap_or_else(|error| {
            host.events.tell_error("task", &error);
            TaskEnd { error: Some(error.with_causes()), ..TaskEnd::default() }
        });
        let ended = host.with_store(move |store| {
            store.end_task(&run, &task, &end).or_else(|error| {
                // Its answer does not go out, and it has ended all the same: one that went
                // on for ever would keep the next times from being done.
                let end = TaskEnd { error: Some(error.with_causes()), ..TaskEnd::default() };
                store.end_task(&run, &task, &end).and(Err(error))
            })
        });
        if let Err(error) = ended.await {
            host.events.tell_error("task", &error);
        }
        host.ring();
        return Ok(Done::Task);
    }
    let name = group.to_owned();
    let messages = host.with_store(move |store| store.give(&name, None, AT_ONCE)).await?;
    if messages.is_empty() {
        return Ok(Done::Messages);
    }
    match Conversation::answer(scene, &messages).await {
        Ok(conversation) => conversation.go_on().await.map(|_| Done::Messages),
        Err(error) => {
            let numbers: Vec<i64> = messages.iter().map(|message| message.seq).collect();
            host.with_store(move |store| store.give_back(&numbers)).await?;
            Err(error)
        }
    }
}

fn note_failure(host: &Rc<Host>, group: &str, error: &Error) {
    if host.stopping.get() {
        return;
    }
    let first = Config::load(&host.dirs.config_file()).ok().and_then(|config| config.host.retry).unwrap_or(RETRY);
    let mut failed = host.queue.failed.borrow_mut();
    let entry =
        failed.entry(group.to_owned()).or_insert_with(|| Failed { times: 0, again: None, error: error.clone() });
    entry.times += 1;
    entry.error = error.clone();
    entry.again = (entry.times < TRIES).then(|| Instant::now() + first * 2u32.pow(entry.times - 1));
    // A session that cannot be gone on with would fail for ever.
    if entry.times == 2 {
        let (host, group) = (Rc::clone(host), group.to_owned());
        tokio::task::spawn_local(async move {
            let _ = host.with_store(move |store| store.forget_session(&group)).await;
        });
    }
    let what = match entry.again {
        Some(_) => format!("{}; it is tried again", error.with_causes()),
        None => format!("{}; nothing more is tried until somebody writes again", error.with_causes()),
    };
    let told = Error { what, causes: Vec::new(), ..error.clone() };
    host.events.tell_error("failed", &told);
    drop(failed);
    // Somebody may wait for an answer.
    host.ring();
}
