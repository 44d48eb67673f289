//! The table of the security model, and which of its rows an operation needs.
//! Both ways in go through [`decide`], which knows nothing but whose agent asks and
//! whose chat or task it is about.

use super::{Identity, Operation};
use crate::plan::Trust;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Send a message to the own chat.
    MessageOwnChat,
    /// Send a message to other chats.
    MessageOtherChats,
    /// Schedule a task for oneself, and change it.
    ScheduleForSelf,
    /// Schedule a task for others, and change it.
    ScheduleForOthers,
    /// View all tasks.
    ViewAllTasks,
    /// Manage other groups.
    ManageGroups,
}

/// A cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Allowed.
    Yes,
    /// Refused.
    No,
    /// Allowed for what is the group's own.
    OwnOnly,
}

/// Row, main group, non-main groups: the six rows of the model.
pub const TABLE: [(Permission, Cell, Cell); 6] = [
    (Permission::MessageOwnChat, Cell::Yes, Cell::Yes),
    (Permission::MessageOtherChats, Cell::Yes, Cell::No),
    (Permission::ScheduleForSelf, Cell::Yes, Cell::Yes),
    (Permission::ScheduleForOthers, Cell::Yes, Cell::No),
    (Permission::ViewAllTasks, Cell::Yes, Cell::OwnOnly),
    (Permission::ManageGroups, Cell::Yes, Cell::No),
];

impl Permission {
    /// For the record, and for the agent.
    pub fn name(self) -> &'static str {
        match self {
            Self::MessageOwnChat => "send message to own chat",
            Self::MessageOtherChats => "send message to other chats",
            Self::ScheduleForSelf => "schedule task for self",
            Self::ScheduleForOthers => "schedule task for others",
            Self::ViewAllTasks => "view all tasks",
            Self::ManageGroups => "manage other groups",
        }
    }

    /// What the table says for a group of this trust.
    pub fn cell(self, trust: Trust) -> Cell {
        let row = TABLE.iter().find(|(permission, ..)| *permission == self);
        match (row, trust) {
            (Some((_, main, _)), Trust::Trusted) => *main,
            (Some((_, _, other)), Trust::Untrusted) => *other,
            (None, _) => Cell::No,
        }
    }
}

/// Whose chat or task an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The group's own.
    Own,
    /// Another group's, or nobody's.
    Other,
}

impl Whose {
    /// Of what belongs to `owner`.
    pub fn of(identity: &Identity, owner: Option<&str>) -> Self {
        if owner == Some(identity.group.as_str()) { Self::Own } else { Self::Other }
    }
}

/// The row that an operation needs.
pub fn permission_for(operation: &Operation, whose: Whose) -> Permission {
    match (operation, whose) {
        // A person is asked on behalf of the group itself: as its own message.
        (Operation::SendMessage { .. }, Whose::Own) | (Operation::RequestAccess { .. }, _) => {
            Permission::MessageOwnChat
        }
        (Operation::SendMessage { .. }, Whose::Other) => Permission::MessageOtherChats,
        (Operation::ListTasks {} | Operation::GetTask { .. }, _) => Permission::ViewAllTasks,
        (
            Operation::ScheduleTask(_)
            | Operation::PauseTask { .. }
            | Operation::ResumeTask { .. }
            | Operation::CancelTask { .. }
            | Operation::UpdateTask(_),
            whose,
        ) => match whose {
            Whose::Own => Permission::ScheduleForSelf,
            Whose::Other => Permission::ScheduleForOthers,
        },
        (Operation::ListGroups {} | Operation::RefreshGroups {} | Operation::RegisterGroup { .. }, _) => {
            Permission::ManageGroups
        }
    }
}

/// Whether the group's agent may do it, and by which row.
pub fn decide(identity: &Identity, operation: &Operation, whose: Whose) -> (Permission, bool) {
    let permission = permission_for(operation, whose);
    let allowed = match permission.cell(identity.trust()) {
        Cell::Yes => true,
        Cell::No => false,
        Cell::OwnOnly => whose == Whose::Own,
    };
    (permission, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(text: &str) -> Operation {
        serde_json::from_str(text).expect(text)
    }

    /// Every operation, as it is written.
    const ALL: [&str; 12] = [
        r#"{"type":"send_message","text":"x"}"#,
        r#"{"type":"schedule_task","prompt":"x","schedule_type":"once","schedule_value":"2027-01-01T00:00:00"}"#,
        r#"{"type":"list_tasks"}"#,
        r#"{"type":"get_task","task_id":"x"}"#,
        r#"{"type":"pause_task","task_id":"x"}"#,
        r#"{"type":"resume_task","task_id":"x"}"#,
        r#"{"type":"cancel_task","task_id":"x"}"#,
        r#"{"type":"update_task","task_id":"x"}"#,
        r#"{"type":"list_groups"}"#,
        r#"{"type":"refresh_groups"}"#,
        r#"{"type":"register_group","jid":"x","name":"x","folder":"x"}"#,
        r#"{"type":"request_access","host":"x"}"#,
    ];

    #[test]
    fn main_may_do_everything() {
        for text in ALL {
            for whose in [Whose::Own, Whose::Other] {
                assert!(decide(&Identity::of("main"), &operation(text), whose).1, "{text}");
            }
        }
    }

    #[test]
    fn others_may_do_what_is_their_own_and_nothing_else() {
        let managing = ["list_groups", "refresh_groups", "register_group"];
        for text in ALL {
            let operation = operation(text);
            let own = decide(&Identity::of("sales"), &operation, Whose::Own);
            let other = decide(&Identity::of("sales"), &operation, Whose::Other);
            assert_eq!(own.1, !managing.contains(&operation.name()), "{text}: {own:?}");
            // Nobody else's is touched by asking a person.
            assert_eq!(other.1, operation.name() == "request_access", "{text}: {other:?}");
        }
    }

    #[test]
    fn no_name_but_mains_is_trusted() {
        for name in ["Main", "main ", "MAIN", "main2", "", "global"] {
            assert_eq!(Identity::of(name).trust(), Trust::Untrusted, "{name}");
        }
    }
}
