//! What agents are shown of tasks and chats, in NanoClaw's files, filtered by trust.

use serde_json::{Value, json};

use super::Place;
use crate::config::MAIN;
use crate::error::Result;
use crate::store::{Chat, Store, Task, rfc3339, wall_now};

/// Writes `current_tasks.json` and `available_groups.json` for a group's agent:
/// all tasks and chats for main, for others their own tasks and no chat.
pub fn write_snapshots(store: &Store, place: &Place) -> Result<()> {
    let is_main = place.group() == MAIN;
    let tasks = store.tasks((!is_main).then_some(place.group()))?;
    place.put_snapshot("current_tasks.json", &tasks.iter().map(shown_task).collect())?;
    let chats = if is_main { store.chats()? } else { Vec::new() };
    let groups: Vec<Value> = chats.iter().map(shown_chat).collect();
    place.put_snapshot("available_groups.json", &json!({ "groups": groups, "lastSync": rfc3339(wall_now()) }))
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
