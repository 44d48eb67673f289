//! One operation: facts, decision, effect and record, in one transaction.

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::authorise::{Permission, Whose, decide};
use super::refusal::bounded;
use super::session::{HOST, URL};
use super::{Identity, Operation, TaskChange, TaskOrder};
use crate::config::{AgentKind, Config, Dirs, GroupName, Groups, MAIN};
use crate::error::{Error, Result, printable};
use crate::plan::Trust;
use crate::policy::{ACCESS_RULE, Host};
use crate::schedule::{Kind, Schedule};
use crate::store::{
    Binding, Body, Changes, Decision, Fault, Held, NewTask, Pause, Scope, Store, Task, TaskContext, chats, decisions,
    outgoing, tasks,
};

/// Longest text of a message, prompt or script, in bytes.
const LONGEST_TEXT: usize = 64 << 10;
/// Longest name of anything, in bytes.
const LONGEST_NAME: usize = 256;

/// Which way an operation came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By a file in the group's directory; the key says which.
    File {
        /// The same one again is not done twice.
        key: String,
    },
    /// By a tool of the run's own listener.
    Mcp {
        /// The run.
        run: String,
    },
}

impl Way {
    fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Mcp { .. } => "mcp",
        }
    }
}

/// What an agent is told when it was done.
#[derive(Debug, Clone)]
pub struct Answer {
    /// In words.
    pub text: String,
    /// For programs.
    pub value: Value,
}

fn answer(text: impl Into<String>, value: Value) -> Answer {
    Answer { text: text.into(), value }
}

/// Where operations are brought to.
#[derive(Debug, Clone)]
pub struct Desk {
    dirs: Dirs,
    config: Config,
    zone: String,
}

impl Desk {
    /// Of this installation.
    pub fn new(dirs: &Dirs, config: &Config) -> Self {
        let zone = config.host.zone();
        Self { dirs: dirs.clone(), config: config.clone(), zone }
    }

    /// Does what a group's agent asks for, once. An error is a refusal, for the
    /// agent: it says nothing about other groups, nor about the host.
    pub fn perform(&self, store: &Store, identity: &Identity, way: &Way, operation: &Operation) -> Result<Answer> {
        // What is refused is recorded too, though everything else of it is undone.
        let mut refusal = None;
        let done = store.write("do what an agent asked for in", |transaction| {
            if let Way::File { key } = way
                && !decisions::first_time(transaction, key)?
            {
                return Ok(Some(answer("done already", Value::Null)));
            }
            let (facts, unclear) = match self.facts(transaction, identity, operation) {
                Err(Fault::Said(error)) => (Facts::of_nothing(), Some(*error)),
                facts => (facts?, None),
            };
            let (permission, allowed) = decide(identity, operation, facts.whose);
            let record = |allowed: bool, reason: &str| Decision {
                time: String::new(),
                group: identity.group.clone(),
                way: way.name().to_owned(),
                operation: operation.name().to_owned(),
                target: facts.target.clone(),
                permission: permission.name().to_owned(),
                allowed,
                reason: reason.to_owned(),
            };
            if !allowed || unclear.is_some() {
                let error = bounded(unclear.unwrap_or_else(|| facts.not_allowed(identity, operation, permission)));
                decisions::record(transaction, &record(false, &error.with_causes()))?;
                refusal = Some(error);
                return Ok(None);
            }
            transaction.execute_batch("SAVEPOINT effect")?;
            match self.effect(transaction, (identity, way, operation), &facts) {
                Ok(answer) => {
                    decisions::record(transaction, &record(true, ""))?;
                    Ok(Some(answer))
                }
                Err(Fault::Said(error)) => {
                    let error = bounded(*error);
                    transaction.execute_batch("ROLLBACK TO effect")?;
                    decisions::record(transaction, &record(false, &error.with_causes()))?;
                    refusal = Some(error);
                    Ok(None)
                }
                Err(fault) => Err(fault),
            }
        })?;
        store.ring();
        done.ok_or_else(|| refusal.unwrap_or_else(|| Error::failed("nothing was decided")))
    }

    /// Whose it is.
    fn facts(&self, transaction: &Transaction<'_>, identity: &Identity, operation: &Operation) -> Result<Facts, Fault> {
        let own = |target: String| Facts { target, whose: Whose::Own, task: None, owner: Some(identity.group.clone()) };
        let of_chat = |chat: &Option<String>| -> Result<Facts, Fault> {
            let Some(chat) = chat else { return Ok(own(chats::chat_of(transaction, &identity.group)?)) };
            check_name("chat", chat)?;
            // What people call the own chat's group is taken for it.
            let owner = chats::owner_of(transaction, chat)?;
            let whose = Whose::of(identity, owner.as_deref());
            Ok(Facts { target: chat.clone(), whose, task: None, owner })
        };
        match operation {
            Operation::SendMessage { chat, .. } => of_chat(chat),
            Operation::ScheduleTask(order) => of_chat(&order.target),
            Operation::GetTask { task_id }
            | Operation::PauseTask { task_id }
            | Operation::ResumeTask { task_id }
            | Operation::CancelTask { task_id }
            | Operation::UpdateTask(TaskChange { task_id, .. }) => {
                check_name("task", task_id)?;
                let task = match identity.trust() {
                    Trust::Trusted => tasks::find_any(transaction, &identity.group, task_id)?,
                    Trust::Untrusted => tasks::find(transaction, &identity.group, task_id)?,
                };
                let owner = task.as_ref().map(|task| task.group.clone());
                let whose = Whose::of(identity, owner.as_deref());
                Ok(Facts { target: task_id.clone(), whose, task, owner })
            }
            Operation::RegisterGroup { jid, .. } => {
                check_name("chat", jid)?;
                Ok(Facts { target: jid.clone(), whose: Whose::Other, task: None, owner: None })
            }
            Operation::RequestAccess { host, secret, .. } => {
                Ok(own(host.clone().or_else(|| secret.clone()).unwrap_or_default()))
            }
            Operation::ListTasks {} => Ok(own("tasks".to_owned())),
            Operation::ListGroups {} | Operation::RefreshGroups {} => {
                Ok(Facts { target: "groups".to_owned(), whose: Whose::Other, task: None, owner: None })
            }
        }
    }

    fn effect(
        &self,
        transaction: &Transaction<'_>,
        (identity, way, operation): (&Identity, &Way, &Operation),
        facts: &Facts,
    ) -> Result<Answer, Fault> {
        match operation {
            Operation::SendMessage { text, .. } => {
                check_text("text", text)?;
                let Some(shown) = crate::host::for_people(text) else {
                    return Err(Error::refused("the text is internal, and nobody is told")
                        .hint("what people are to read stands outside of <internal>")
                        .into());
                };
                let number = outgoing::queue(transaction, &facts.target, &identity.group, &shown)?;
                // The number tells how much all groups say.
                let number = (identity.trust() == Trust::Trusted).then_some(number);
                Ok(answer("the message is on its way", json!({ "message": number, "chat": facts.target })))
            }
            Operation::ScheduleTask(order) => {
                let new = self.ordered(order, facts)?;
                let id = tasks::add(transaction, &new)?;
                let task = tasks::find(transaction, &new.group, &id)?;
                let next = task.as_ref().and_then(|task| task.next_run.clone()).unwrap_or_default();
                Ok(answer(format!("task {id} is scheduled; it is due at {next}"), json!({ "task": task })))
            }
            Operation::ListTasks {} => {
                let whose = (identity.group != MAIN).then_some(identity.group.as_str());
                let tasks = tasks::list(transaction, whose)?;
                Ok(answer(format!("{} tasks", tasks.len()), json!({ "tasks": tasks })))
            }
            Operation::GetTask { .. } => {
                let task = facts.task()?;
                Ok(answer(format!("task {}", task.id), json!({ "task": task })))
            }
            Operation::PauseTask { .. } => {
                tasks::set_paused(transaction, facts.task()?, Pause::Yes)?;
                Ok(answer(format!("task {} is paused", facts.target), json!({ "task": facts.target })))
            }
            Operation::ResumeTask { .. } => {
                tasks::set_paused(transaction, facts.task()?, Pause::No)?;
                Ok(answer(format!("task {} goes on", facts.target), json!({ "task": facts.target })))
            }
            Operation::CancelTask { .. } => {
                tasks::cancel(transaction, facts.task()?)?;
                Ok(answer(format!("task {} is cancelled", facts.target), json!({ "task": facts.target })))
            }
            Operation::UpdateTask(change) => {
                let task = facts.task()?;
                tasks::update(transaction, task, &self.changes(change, task)?)?;
                let task = tasks::find(transaction, &task.group, &task.id)?;
                Ok(answer(format!("task {} is changed", facts.target), json!({ "task": task })))
            }
            Operation::ListGroups {} => {
                let groups = Groups::new(&self.dirs).list()?;
                let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
                let mut statement = transaction.prepare(
                    "SELECT chat.jid, chat.name, grp FROM chat LEFT JOIN binding ON chat.jid = binding.jid \
                         ORDER BY last_wall DESC LIMIT 500",
                )?;
                let chats: Vec<Value> = statement
                    .query_map([], |row| {
                        let (jid, name): (String, String) = (row.get(0)?, row.get(1)?);
                        let group: Option<String> = row.get(2)?;
                        Ok(json!({ "jid": jid, "name": name, "group": group }))
                    })?
                    .collect::<rusqlite::Result<_>>()?;
                Ok(answer(format!("{} groups", names.len()), json!({ "groups": names, "chats": chats })))
            }
            Operation::RefreshGroups {} => {
                // The host hears the bell, and asks.
                decisions::first_time(transaction, decisions::REFRESH)?;
                Ok(answer("the chats are asked for", Value::Null))
            }
            Operation::RegisterGroup { .. } => self.register(transaction, operation),
            Operation::RequestAccess { host, secret, reason } => {
                let Way::Mcp { run } = way else {
                    let error = Error::refused("request_access is a tool of MCP");
                    return Err(error.hint(format!("{URL}, where the answer is waited for")).into());
                };
                let held = self.asked((identity, run), (host.as_deref(), secret.as_deref()), reason)?;
                let approval = crate::store::hold_in(transaction, held)?;
                Ok(answer(format!("request {} waits for a person", approval.id), json!({ "approval": approval.id })))
            }
        }
    }

    /// The task of an order.
    fn ordered(&self, order: &TaskOrder, facts: &Facts) -> Result<NewTask> {
        check_text("prompt", &order.prompt)?;
        let Some(group) = facts.owner.clone() else {
            return Err(Error::refused(format!("no group has the chat `{}`", printable(&facts.target)))
                .hint("list_groups shows the chats of groups"));
        };
        // `local:NAME` is the chat of a group that there may not be.
        Groups::new(&self.dirs).find(&group)?;
        let zone = order.time_zone.as_deref().unwrap_or(&self.zone);
        Ok(NewTask {
            id: order.task_id.clone(),
            script: self.script(order.script.as_deref(), &group)?,
            group,
            chat: facts.target.clone(),
            prompt: order.prompt.clone(),
            schedule: Schedule::parse(order.schedule_type, &order.schedule_value.text(), zone)?,
            context: order.context_mode.unwrap_or(TaskContext::Group),
        })
    }

    fn changes(&self, change: &TaskChange, task: &Task) -> Result<Changes> {
        if let Some(prompt) = &change.prompt {
            check_text("prompt", prompt)?;
        }
        let new = change.schedule_type.is_some() || change.schedule_value.is_some() || change.time_zone.is_some();
        let schedule = if new {
            let kind = change.schedule_type.or_else(|| Kind::parse(&task.schedule_type)).unwrap_or(Kind::Once);
            let value =
                change.schedule_value.as_ref().map_or_else(|| task.schedule_value.clone(), |value| value.text());
            let zone = change.time_zone.as_deref().unwrap_or(&task.time_zone);
            Some(Schedule::parse(kind, &value, zone)?)
        } else {
            None
        };
        Ok(Changes {
            prompt: change.prompt.clone(),
            script: self.script(change.script.as_deref(), &task.group)?,
            schedule,
            context: change.context_mode,
        })
    }

    /// Only a NanoClaw runner knows what to do with a script; others would leave it
    /// out without a word.
    fn script(&self, script: Option<&str>, group: &str) -> Result<Option<String>> {
        let Some(script) = script.filter(|script| !script.is_empty()) else { return Ok(None) };
        check_text("script", script)?;
        if self.config.for_group(group).agent.unwrap_or_default() != AgentKind::Nanoclaw {
            return Err(Error::refused("the group's agent takes no script with a task")
                .hint("say in the prompt what the agent is to look at first"));
        }
        Ok(Some(script.to_owned()))
    }

    fn register(&self, transaction: &Transaction<'_>, operation: &Operation) -> Result<Answer, Fault> {
        let Operation::RegisterGroup { jid, name, folder, trigger, requires_trigger, container_config, is_main } =
            operation
        else {
            return Err(Error::failed("register a group").into());
        };
        check_name("name", name)?;
        if container_config.as_ref().is_some_and(|given| !given.is_null()) {
            return Err(Error::refused("an agent cannot say what is mounted for a group")
                .hint("leave containerConfig out; a person writes [group.NAME] mounts in config.toml")
                .into());
        }
        let wants_main = is_main.as_ref().is_some_and(|given| !given.is_null() && *given != Value::Bool(false));
        if wants_main || folder.eq_ignore_ascii_case(MAIN) {
            return Err(Error::refused("no agent can make a group main, or give main another chat")
                .hint("a person at the host: belljar group set main --chat JID")
                .into());
        }
        let folder: GroupName = folder.parse()?;
        let mention = trigger.clone().unwrap_or_else(|| self.config.host.trigger());
        check_name("trigger", &mention)?;
        let groups = Groups::new(&self.dirs);
        let known = groups.find(folder.as_str()).is_ok();
        // The chat is free, or this is refused before a group is made.
        chats::bind(
            transaction,
            &Binding {
                group: folder.to_string(),
                chat: jid.clone(),
                name: name.clone(),
                trigger: requires_trigger.unwrap_or(true).then_some(mention),
            },
        )?;
        if !known {
            groups.add(folder.clone())?;
        }
        Ok(answer(format!("group {folder} has the chat {}", printable(jid)), json!({ "group": folder, "chat": jid })))
    }

    /// What a person is shown.
    fn asked(
        &self,
        (identity, run): (&Identity, &str),
        wanted: (Option<&str>, Option<&str>),
        reason: &str,
    ) -> Result<Held> {
        check_text("reason", reason)?;
        let (host, secret) = match wanted {
            (Some(host), None) => (host, None),
            (None, Some(secret)) => (HOST, Some(secret)),
            _ => return Err(Error::refused("request_access takes a host or a secret").hint("one of the two")),
        };
        if let Some(secret) = secret {
            check_name("secret", secret)?;
        }
        let host = Host::parse(host)
            .map_err(|problem| Error::refused("the host is not understood").because(problem.0).hint("example.org"))?;
        if secret.is_none() && host == Host::Name(HOST.to_owned()) {
            return Err(Error::refused(format!("{HOST} can always be reached")).hint(URL));
        }
        Ok(Held {
            run: run.to_owned(),
            scope: access_scope(&identity.group, &host),
            query: None,
            content_type: Some("text/plain".to_owned()),
            secret: secret.map(str::to_owned),
            body: Body::Whole(reason.as_bytes().to_vec()),
            wait: self.config.gateway.approval_timeout.unwrap_or(crate::gateway::APPROVAL_WAIT),
        })
    }
}

/// What a person grants who lets a group reach a host: every request to it.
pub fn access_scope(group: &str, host: &Host) -> Scope {
    Scope {
        group: group.to_owned(),
        rule: ACCESS_RULE.to_owned(),
        method: "ANY".to_owned(),
        scheme: "https".to_owned(),
        host: host.to_string(),
        port: 443,
        path: "/".to_owned(),
    }
}

/// What an operation is about.
struct Facts {
    target: String,
    whose: Whose,
    task: Option<Task>,
    owner: Option<String>,
}

impl Facts {
    fn of_nothing() -> Self {
        Self { target: String::new(), whose: Whose::Other, task: None, owner: None }
    }

    fn task(&self) -> Result<&Task> {
        self.task.as_ref().ok_or_else(|| no_task(&self.target))
    }

    /// In the same words whether there is such a thing or not: what others have is
    /// nobody's business.
    fn not_allowed(&self, identity: &Identity, operation: &Operation, permission: Permission) -> Error {
        let error = match operation {
            Operation::SendMessage { .. } | Operation::ScheduleTask(_) => {
                let what = format!("the chat `{}` is not group {}'s own", printable(&self.target), identity.group);
                Error::refused(what).hint("leave the chat out: the group's own is taken")
            }
            _ if permission == Permission::ManageGroups => {
                Error::refused("only the main group manages groups").hint("ask the person in the main chat")
            }
            _ => no_task(&self.target),
        };
        error.because(format!("`{}` is for the main group", permission.name()))
    }
}

fn no_task(id: &str) -> Error {
    Error::refused(format!("the group has no task `{}`", printable(id))).hint("list_tasks, or current_tasks.json")
}

fn check_text(what: &str, text: &str) -> Result<()> {
    if text.trim().is_empty() {
        return Err(Error::refused(format!("the {what} is empty")).hint("say something"));
    }
    if text.len() > LONGEST_TEXT {
        return Err(Error::refused(format!("the {what} is longer than {} KiB", LONGEST_TEXT >> 10))
            .hint("put it into a file of the group's, and name the file"));
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(Error::refused(format!(
            "the {what} has 1 to {LONGEST_NAME} bytes, none of them a control character"
        ))
        .hint("list_tasks and list_groups show what there is"));
    }
    Ok(())
}
