//! What agents are shown of tasks and chats, in NanoClaw's files, filtered by trust.

use serde_json::{Value, json};

use crate::config::MAIN;
use crate::store::{Chat, Task};

/// What a group's agent is shown: all tasks and chats to main, to others their own
/// tasks and no chat.
pub struct Snapshot {
    /// `current_tasks.json`.
    pub tasks: Value,
    /// `groups` of `available_groups.json`.
    pub groups: Value,
}

impl Snapshot {
    /// For a group.
    pub fn of(group: &str, tasks: &[Task], chats: &[Chat]) -> Self {
        let is_main = group == MAIN;
        let tasks = tasks.iter().filter(|task| is_main || task.group == group);
        let chats = chats.iter().filter(|_| is_main);
        Self { tasks: tasks.map(shown_task).collect(), groups: chats.map(shown_chat).collect() }
    }

    /// `available_groups.json`, written at this time.
    pub fn available(&self, time: &str) -> Value {
        json!({ "groups": self.groups, "lastSync": time })
    }
}

fn shown_task(task: &Task) -> Value {
    json!({
        "id": task.id,
        "groupFolder": task.group,
        "prompt": task.prompt,
        "script": task.script,
        "schedule_type": task.schedule_type,
        "schedule_value": task.schedule_value,
        "time_zone": task.time_zone,
        "context_mode": task.context_mode,
        "status": task.status,
        "next_run": task.next_run,
    })
}

fn shown_chat(chat: &Chat) -> Value {
    json!({
        "jid": chat.jid,
        "name": chat.name,
        "lastActivity": chat.last_activity,
        "isRegistered": chat.group.is_some(),
    })
}
