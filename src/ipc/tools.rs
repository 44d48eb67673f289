//! What an agent's model reads about each tool, and with which arguments it is
//! called (JSON Schema 2020-12, as MCP wants it).

use std::sync::Arc;

use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Value, json};

/// Short names that calls may use.
const SHORT: [(&str, &str); 4] =
    [("pause", "pause_task"), ("resume", "resume_task"), ("cancel", "cancel_task"), ("update", "update_task")];

/// What a tool does to the world, for clients that ask before some.
#[derive(Clone, Copy)]
enum Effect {
    /// It tells something.
    Reads,
    /// It adds something.
    Adds,
    /// It changes or removes what is there.
    Changes,
}

/// The name under which a tool is listed.
pub fn full_name(called: &str) -> Option<&'static str> {
    let short = SHORT.iter().find(|(short, _)| *short == called).map(|(_, full)| *full);
    short.or_else(|| TOOLS.iter().map(|(name, ..)| *name).find(|name| *name == called))
}

/// All tools.
pub fn all() -> Vec<Tool> {
    TOOLS.iter().map(|(name, effect, description, arguments)| tool(name, *effect, description, arguments())).collect()
}

type Described = (&'static str, Effect, &'static str, fn() -> (Value, Value));

/// Name, effect, description, and arguments: which there are, and which must be there.
const TOOLS: [Described; 11] = [
    (
        "send_message",
        Effect::Adds,
        "Send a message to a chat now, while you go on working: to tell people about progress or a result. \
         Without `chat` it goes to your group's own chat. Other chats are for the main group only.",
        || {
            let text = text("What to say, at most 64 KiB.");
            (json!({ "text": text, "chat": chat() }), json!(["text"]))
        },
    ),
    (
        "schedule_task",
        Effect::Adds,
        "Schedule a task: at the given times a new run of the agent gets the prompt, and its answer goes to the chat. \
         The prompt must say all that is needed, because the run may know nothing of this conversation. \
         Answers with the task's id and when it is due first. Tasks for other groups are for the main group only.",
        schedule_arguments,
    ),
    (
        "list_tasks",
        Effect::Reads,
        "List your group's scheduled tasks with id, prompt, schedule, status and next time; the main group sees all groups'.",
        || (json!({}), json!([])),
    ),
    ("get_task", Effect::Reads, "Show one scheduled task.", task_id),
    ("pause_task", Effect::Changes, "Pause a task: it is not carried out until it is resumed.", task_id),
    (
        "resume_task",
        Effect::Changes,
        "Resume a paused task. What it missed meanwhile is not made up for; a single time that has passed is due at once.",
        task_id,
    ),
    ("cancel_task", Effect::Changes, "Remove a task and its history for good.", task_id),
    (
        "update_task",
        Effect::Changes,
        "Change a task's prompt, schedule or context; what is left out stays. A new schedule begins now.",
        update_arguments,
    ),
    (
        "list_groups",
        Effect::Reads,
        "List the groups, and the chats with the group that each belongs to, if any. For the main group only.",
        || (json!({}), json!([])),
    ),
    (
        "register_group",
        Effect::Adds,
        "Give a chat a group: from then on its messages wake an agent of that group, with a folder and a memory of its own. \
         For the main group only.",
        group_arguments,
    ),
    (
        "request_access",
        Effect::Adds,
        "Ask a person to let your group reach a host that the policy does not allow, or to give it a secret. \
         Give one of `host` and `secret`. The call waits until the person has decided, up to some minutes, and answers \
         with approved, denied or expired. Use it when a request was refused with `denied_by_policy`; \
         what a rule denies by name stays denied.",
        || {
            let host = text("The host to reach, such as example.org: without scheme, port or path.");
            let secret = text("The name of the secret that you need, such as github.");
            let reason = text("What for, in a sentence: the person reads it and decides by it.");
            (json!({ "host": host, "secret": secret, "reason": reason }), json!(["reason"]))
        },
    ),
];

fn tool(name: &'static str, effect: Effect, description: &'static str, (properties, required): (Value, Value)) -> Tool {
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    let schema = schema.as_object().cloned().unwrap_or_default();
    let hints = match effect {
        Effect::Reads => ToolAnnotations::new().read_only(true),
        Effect::Adds => ToolAnnotations::new().read_only(false).destructive(false),
        Effect::Changes => ToolAnnotations::new().read_only(false).destructive(true),
    };
    Tool::new(name, description, Arc::new(schema)).with_annotations(hints.open_world(false))
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn chat() -> Value {
    text("The chat's id (jid), as list_groups shows it. Leave it out for your group's own chat.")
}

fn task_id() -> (Value, Value) {
    (json!({ "task_id": text("The task's id, as list_tasks shows it.") }), json!(["task_id"]))
}

fn schedule() -> [(&'static str, Value); 4] {
    let kind = json!({
        "type": "string",
        "enum": ["cron", "interval", "once"],
        "description": "cron: at recurring times; interval: again and again after so many milliseconds; once: at one time.",
    });
    let value = text(
        "cron: an expression such as `0 9 * * 1-5`; interval: milliseconds such as `3600000`; \
         once: local time such as `2027-02-01T15:30:00`, without a zone.",
    );
    let context = json!({
        "type": "string",
        "enum": ["group", "isolated"],
        "description": "group: in the group's conversation, which remembers; isolated: in a fresh one.",
    });
    [
        ("schedule_type", kind),
        ("schedule_value", value),
        ("time_zone", text("An IANA zone such as Europe/Berlin; the host's unless given.")),
        ("context_mode", context),
    ]
}

fn schedule_arguments() -> (Value, Value) {
    let mut properties = json!({
        "prompt": text("What the agent is to do then."),
        "target": text("The chat of the group that is to do it, for the main group; your own group unless given."),
        "task_id": text("An id for the task, of letters, digits, -, _ and .; made up unless given."),
    });
    schedule().into_iter().for_each(|(name, value)| properties[name] = value);
    (properties, json!(["prompt", "schedule_type", "schedule_value"]))
}

fn update_arguments() -> (Value, Value) {
    let mut properties = json!({
        "task_id": text("The task's id, as list_tasks shows it."),
        "prompt": text("What the agent is to do from now on."),
    });
    schedule().into_iter().for_each(|(name, value)| properties[name] = value);
    (properties, json!(["task_id"]))
}

fn group_arguments() -> (Value, Value) {
    let properties = json!({
        "jid": text("The chat's id, as list_groups shows it."),
        "name": text("What people call the chat."),
        "folder": text("The group's name: lower-case letters, digits, - and _."),
        "trigger": text("How a message begins that wakes the agent, such as @Andy; the host's usual one unless given."),
        "requires_trigger": json!({
            "type": "boolean",
            "description": "Whether a message must begin so; true unless given.",
        }),
    });
    (properties, json!(["jid", "name", "folder"]))
}
