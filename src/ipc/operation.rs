//! What an agent can ask for, as it is written in a file or in a tool's arguments:
//! NanoClaw's formats, with the names of MCP tools beside them. Fields that say who
//! asks (`groupFolder`, `isMain`) are not read.

use serde::Deserialize;

use crate::schedule::Kind;
use crate::store::TaskContext;

/// What an agent asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Operation {
    /// A message to a chat; to the group's own where none is named.
    #[serde(alias = "message")]
    SendMessage {
        /// The chat.
        #[serde(default, alias = "chatJid", alias = "chat_jid", alias = "jid")]
        chat: Option<String>,
        /// What is said.
        text: String,
    },
    /// A new task.
    ScheduleTask(TaskOrder),
    /// The tasks that the group may see.
    ListTasks {},
    /// One task.
    GetTask {
        /// Its id.
        #[serde(alias = "taskId", alias = "id")]
        task_id: String,
    },
    /// A task is not done until it is resumed.
    #[serde(alias = "pause")]
    PauseTask {
        /// Its id.
        #[serde(alias = "taskId", alias = "id")]
        task_id: String,
    },
    /// A task goes on.
    #[serde(alias = "resume")]
    ResumeTask {
        /// Its id.
        #[serde(alias = "taskId", alias = "id")]
        task_id: String,
    },
    /// A task is removed.
    #[serde(alias = "cancel")]
    CancelTask {
        /// Its id.
        #[serde(alias = "taskId", alias = "id")]
        task_id: String,
    },
    /// A task is changed.
    #[serde(alias = "update")]
    UpdateTask(TaskChange),
    /// The groups and the chats that could become groups.
    ListGroups {},
    /// The channels are asked for their chats, and snapshots are written anew.
    RefreshGroups {},
    /// A chat gets a group.
    RegisterGroup {
        /// The chat.
        jid: String,
        /// What people call it.
        name: String,
        /// The group's name.
        folder: String,
        /// How a message begins that wakes the agent.
        #[serde(default)]
        trigger: Option<String>,
        /// Whether a message must begin so.
        #[serde(default, alias = "requiresTrigger")]
        requires_trigger: Option<bool>,
        /// Refused: only a person at the host mounts anything.
        #[serde(default, alias = "containerConfig")]
        container_config: Option<serde_json::Value>,
        /// Refused: nothing makes a group main.
        #[serde(default, alias = "isMain")]
        is_main: Option<serde_json::Value>,
    },
    /// A person is asked to let the group reach a host, or use a secret.
    RequestAccess {
        /// The host.
        #[serde(default)]
        host: Option<String>,
        /// The secret's name.
        #[serde(default)]
        secret: Option<String>,
        /// What for.
        #[serde(default)]
        reason: String,
    },
}

/// A task that is ordered.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskOrder {
    /// What the agent is told.
    pub prompt: String,
    /// `cron`, `interval` or `once`.
    pub schedule_type: Kind,
    /// The expression, the milliseconds, or the time.
    pub schedule_value: Written,
    /// The time zone; the host's unless said.
    #[serde(default, alias = "timeZone", alias = "timezone")]
    pub time_zone: Option<String>,
    /// The chat of the group that is to do it; the group's own unless said.
    #[serde(default, alias = "targetJid", alias = "target_jid", alias = "target_group_jid", alias = "chat")]
    pub target: Option<String>,
    /// In which conversation; the group's unless said.
    #[serde(default)]
    pub context_mode: Option<TaskContext>,
    /// For a NanoClaw runner.
    #[serde(default)]
    pub script: Option<String>,
    /// What it is to be called.
    #[serde(default, alias = "taskId", alias = "id")]
    pub task_id: Option<String>,
}

/// What is to be changed of a task.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskChange {
    /// Its id.
    #[serde(alias = "taskId", alias = "id")]
    pub task_id: String,
    /// What the agent is told.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `cron`, `interval` or `once`.
    #[serde(default)]
    pub schedule_type: Option<Kind>,
    /// The expression, the milliseconds, or the time.
    #[serde(default)]
    pub schedule_value: Option<Written>,
    /// The time zone.
    #[serde(default, alias = "timeZone", alias = "timezone")]
    pub time_zone: Option<String>,
    /// In which conversation.
    #[serde(default)]
    pub context_mode: Option<TaskContext>,
    /// For a NanoClaw runner.
    #[serde(default)]
    pub script: Option<String>,
}

/// A text; agents also write the milliseconds of an interval as a number.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Written {
    /// As text.
    Text(String),
    /// As a number.
    Number(i64),
}

impl Written {
    /// The text.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        }
    }
}

impl Operation {
    /// The name of its tool.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SendMessage { .. } => "send_message",
            Self::ScheduleTask(_) => "schedule_task",
            Self::ListTasks {} => "list_tasks",
            Self::GetTask { .. } => "get_task",
            Self::PauseTask { .. } => "pause_task",
            Self::ResumeTask { .. } => "resume_task",
            Self::CancelTask { .. } => "cancel_task",
            Self::UpdateTask(_) => "update_task",
            Self::ListGroups {} => "list_groups",
            Self::RefreshGroups {} => "refresh_groups",
            Self::RegisterGroup { .. } => "register_group",
            Self::RequestAccess { .. } => "request_access",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Operation, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn nanoclaws_files_are_understood() {
        for text in [
            r#"{"type":"message","chatJid":"a@g.us","text":"hi","groupFolder":"main","isMain":true,"timestamp":"x"}"#,
            r#"{"type":"schedule_task","taskId":"t1","prompt":"p","schedule_type":"cron","schedule_value":"0 9 * * *","context_mode":"isolated","targetJid":"a@g.us","createdBy":"main"}"#,
            r#"{"type":"schedule_task","prompt":"p","schedule_type":"interval","schedule_value":60000}"#,
            r#"{"type":"pause_task","taskId":"t1"}"#,
            r#"{"type":"resume_task","taskId":"t1"}"#,
            r#"{"type":"cancel_task","taskId":"t1"}"#,
            r#"{"type":"update_task","taskId":"t1","prompt":"q"}"#,
            r#"{"type":"refresh_groups","groupFolder":"main"}"#,
            r#"{"type":"register_group","jid":"a","name":"A","folder":"a","trigger":"@A"}"#,
        ] {
            parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for text in [
            r#"{"type":"message","text":"a","text":"b"}"#,
            r#"{"type":"message","type":"list_tasks","text":"b"}"#,
            r#"{"type":"message","chatJid":"a","chat":"b","text":"b"}"#,
            r#"{"type":"pause_task","taskId":"a","task_id":"b"}"#,
            r#"{"type":"message"}"#,
            r#"{"type":"make_main"}"#,
            r#"{"text":"a"}"#,
            r#"[]"#,
            r#"{"type":"message","text":"a"} {"type":"message","text":"b"}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let deep = format!(r#"{{"type":"message","text":"a","x":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
        assert!(parse(&deep).is_err());
    }
}
