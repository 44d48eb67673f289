//! `belljar task`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{print, surroundings};
use crate::config::{AgentKind, Config, Groups, MAIN};
use crate::error::{Error, Result, printable};
use crate::schedule::{Kind, Schedule};
use crate::store::{Changes, LOCAL, NewTask, Pause, Store, Task, TaskContext, tasks};

/// Runs of a task that are shown.
const SHOWN: i64 = 20;

/// Manage scheduled tasks, which the host process (`belljar serve`) does when they are due.
///
/// What was due while nobody served is made up for once when it serves again, however
/// often it was missed. What is due again while the run before still goes on is left out,
/// unless there is no other time for it. A run that was interrupted with the host process
/// begins again with it.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a task
    Add(Add),
    /// List tasks
    List {
        /// Of this group only
        #[arg(short, long)]
        group: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a task and its last runs
    Show {
        /// The task
        id: String,
        /// Of this group, where several have a task of this id
        #[arg(short, long)]
        group: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Do not do a task until it is resumed
    Pause {
        /// The task
        id: String,
        /// Of this group, where several have a task of this id
        #[arg(short, long)]
        group: Option<String>,
    },
    /// Go on with a task that was paused; what it missed is left out
    Resume {
        /// The task
        id: String,
        /// Of this group, where several have a task of this id
        #[arg(short, long)]
        group: Option<String>,
    },
    /// Remove a task
    Cancel {
        /// The task
        id: String,
        /// Of this group, where several have a task of this id
        #[arg(short, long)]
        group: Option<String>,
    },
    /// Change a task; a new schedule begins now
    Update {
        /// The task
        id: String,
        /// Of this group, where several have a task of this id
        #[arg(short, long)]
        group: Option<String>,
        /// What the agent is told
        #[arg(long)]
        prompt: Option<String>,
        #[command(flatten)]
        when: When,
        /// In which conversation
        #[arg(long)]
        context: Option<TaskContext>,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// The group whose agent does it
    #[arg(short, long, default_value = MAIN)]
    group: String,
    #[command(flatten)]
    when: When,
    /// In which conversation: the group's, or one of its own
    #[arg(long, default_value = "group")]
    context: TaskContext,
    /// What the task is called; made up unless said
    #[arg(long)]
    id: Option<String>,
    /// For a NanoClaw runner: a script that says whether the agent is needed
    #[arg(long)]
    script: Option<String>,
    /// What the agent is told
    prompt: String,
}

#[derive(Debug, Args)]
struct When {
    /// Five fields, or six with seconds first: `0 9 * * 1-5`
    #[arg(long, value_name = "EXPRESSION", group = "when")]
    cron: Option<String>,
    /// So long after the time before: `10m`
    #[arg(long, value_name = "TIME", group = "when")]
    every: Option<String>,
    /// Once: `2027-01-31T08:30:00`, local unless it says otherwise
    #[arg(long, value_name = "TIME", group = "when")]
    at: Option<String>,
    /// The time zone: `Europe/Berlin`; the host's unless said
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

impl When {
    /// In the zone that was said, or else in this one.
    fn schedule(&self, zone: &str) -> Result<Option<Schedule>> {
        let zone = self.time_zone.as_deref().unwrap_or(zone);
        let (kind, value) = match (&self.cron, &self.every, &self.at) {
            (Some(cron), ..) => (Kind::Cron, cron),
            (_, Some(every), _) => (Kind::Interval, every),
            (.., Some(at)) => (Kind::Once, at),
            _ => return Ok(None),
        };
        Schedule::parse(kind, value, zone).map(Some)
    }
}

impl Arguments {
    /// Does what was asked.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let store = Store::open(&dirs)?;
        let config = Config::load(&dirs.config_file())?;
        let find = |group: Option<&str>, id: &str| {
            store.task(group, id)?.ok_or_else(|| {
                Error::refused(format!("there is no task `{}`", printable(id))).hint("belljar task list")
            })
        };
        match self.action {
            Action::Add(add) => {
                let group = Groups::new(&dirs).find(&add.group)?;
                let zone = config.host.zone();
                let schedule = add.when.schedule(&zone)?.ok_or_else(|| {
                    Error::usage("when is it to be done?")
                        .hint("--cron '0 9 * * *', --every 1h or --at 2027-01-31T08:30:00")
                })?;
                let kind = config.for_group(group.name.as_str()).agent.unwrap_or_default();
                if add.script.is_some() && kind != AgentKind::Nanoclaw {
                    return Err(Error::refused(format!("the agent of group {} takes no script", group.name))
                        .hint(format!("[group.{}] agent = \"nanoclaw\" in config.toml", group.name)));
                }
                if add.prompt.trim().is_empty() {
                    return Err(
                        Error::usage("the prompt is empty").hint("belljar task add --every 1h 'Look at the mail.'")
                    );
                }
                let name = group.name.as_str();
                let chat = store.binding_of(name)?.map_or_else(|| format!("{LOCAL}{name}"), |bound| bound.chat);
                let new = NewTask {
                    id: add.id,
                    group: name.to_owned(),
                    chat,
                    prompt: add.prompt,
                    script: add.script,
                    schedule,
                    context: add.context,
                };
                let id = store.write("add a task to", |transaction| tasks::add(transaction, &new))?;
                store.ring();
                let next = store.task(Some(name), &id)?.and_then(|task| task.next_run).unwrap_or_default();
                print(&format!("added task {id} of group {name}; it is due at {next}\n"))?;
            }
            Action::List { group, json } => {
                let group = group.map(|name| Groups::new(&dirs).find(&name)).transpose()?;
                let tasks = store.tasks(group.as_ref().map(|group| group.name.as_str()))?;
                let text = if json { json!(tasks).to_string() + "\n" } else { tasks.iter().map(row).collect() };
                print(&text)?;
            }
            Action::Show { id, group, json } => show(&store, &find(group.as_deref(), &id)?, json)?,
            Action::Pause { id, group } => {
                let task = find(group.as_deref(), &id)?;
                store.write("pause a task in", |transaction| tasks::set_paused(transaction, &task, Pause::Yes))?;
                store.ring();
            }
            Action::Resume { id, group } => {
                let task = find(group.as_deref(), &id)?;
                store.write("resume a task in", |transaction| tasks::set_paused(transaction, &task, Pause::No))?;
                store.ring();
            }
            Action::Cancel { id, group } => {
                let task = find(group.as_deref(), &id)?;
                store.write("cancel a task in", |transaction| tasks::cancel(transaction, &task))?;
                store.ring();
            }
            Action::Update { id, group, prompt, when, context } => {
                let task = find(group.as_deref(), &id)?;
                // What is left out stays.
                let schedule = match when.schedule(&task.time_zone)? {
                    None if when.time_zone.is_some() => Some(task.schedule_in(when.time_zone.as_deref())?),
                    schedule => schedule,
                };
                let changes = Changes { prompt, script: None, schedule, context };
                store.write("update a task in", |transaction| tasks::update(transaction, &task, &changes))?;
                store.ring();
            }
        }
        Ok(0)
    }
}

fn row(task: &Task) -> String {
    let first = task.prompt.lines().next().unwrap_or_default();
    format!(
        "{:<24} {:<12} {:<9} {:<25} {} {}  {}\n",
        printable(&task.id),
        task.group,
        task.status,
        task.next_run.as_deref().unwrap_or("-"),
        task.schedule_type,
        task.schedule_value,
        printable(first)
    )
}

fn show(store: &Store, task: &Task, json: bool) -> Result<()> {
    let history = store.task_history(task, SHOWN)?;
    if json {
        return print(&(json!({ "task": task, "runs": history }).to_string() + "\n"));
    }
    let mut text = format!(
        "task       {}\ngroup      {}\nchat       {}\nstatus     {}\nschedule   {} {} ({})\nnext       {}\ncontext    {}\n\
         prompt     {}\n",
        printable(&task.id),
        task.group,
        printable(&task.chat),
        task.status,
        task.schedule_type,
        task.schedule_value,
        task.time_zone,
        task.next_run.as_deref().unwrap_or("-"),
        task.context_mode,
        printable(&task.prompt)
    );
    for run in history {
        let took = run.duration_ms.map_or_else(|| "-".to_owned(), |took| format!("{took} ms"));
        let said = run.error.or(run.result).unwrap_or_default();
        let first = said.lines().next().unwrap_or_default();
        text.push_str(&format!("{}  {:<8} {took:>10}  {}\n", run.due, run.outcome, printable(first)));
    }
    print(&text)
}
