//! Whether a message wakes the agent: how it begins, and who said it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::config::{Dirs, read_own};
use crate::error::{Error, Result};

/// Whether a message begins with a trigger such as `@Name`: whatever the case, and
/// not as a part of a longer word.
pub fn is_meant(text: &str, trigger: &str) -> bool {
    let mut rest = text.trim_start().chars();
    for wanted in trigger.chars() {
        let Some(c) = rest.next() else { return false };
        if c != wanted && !c.to_lowercase().eq(wanted.to_lowercase()) {
            return false;
        }
    }
    rest.next().is_none_or(|next| !next.is_alphanumeric() && next != '_')
}

/// `sender-allowlist.json`, in NanoClaw's format: by chat, and by group too.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Senders {
    #[serde(default)]
    default: Entry,
    #[serde(default)]
    chats: BTreeMap<String, Entry>,
    #[serde(default)]
    groups: BTreeMap<String, Entry>,
    #[serde(default, rename = "logDenied")]
    _log_denied: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    allow: Allowed,
    #[serde(default)]
    mode: Mode,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Allowed {
    All(Star),
    These(Vec<String>),
}

#[derive(Debug, Clone, Deserialize)]
enum Star {
    #[serde(rename = "*")]
    Star,
}

impl Default for Allowed {
    fn default() -> Self {
        Self::All(Star::Star)
    }
}

/// What becomes of messages of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// They are read with the next message of one who is allowed.
    #[default]
    Trigger,
    /// They are not kept.
    Drop,
}

/// What a sender may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Wake the agent.
    Allowed,
    /// Be read when somebody else wakes it.
    ReadOnly,
    /// Nothing.
    Dropped,
}

impl Senders {
    /// Reads the file; without one everybody is allowed. One that cannot be read or
    /// understood is an error, and then nobody is.
    pub fn load(dirs: &Dirs) -> Result<Self> {
        let path = dirs.config.join("sender-allowlist.json");
        let text = read_own(&path)?.unwrap_or_else(|| "{}".to_owned());
        Self::parse(&text).map_err(|error| {
            Error::refused(format!("{}:{}: {error}", path.display(), error.line()))
                .hint(r#"for example {"groups": {"sales": {"allow": ["alice"], "mode": "trigger"}}}"#)
        })
    }

    fn parse(text: &str) -> serde_json::Result<Self> {
        let senders = serde_json::from_str(text)?;
        // serde also takes the members in an array, and none of them for the defaults:
        // `[]` would allow everybody.
        let value: Value = serde_json::from_str(text)?;
        let entries = ["chats", "groups"].into_iter().filter_map(|name| value[name].as_object());
        let mut entries = entries.flat_map(|entries| entries.values()).chain(value.get("default"));
        if value.is_object() && entries.all(Value::is_object) {
            return Ok(senders);
        }
        Err(serde::de::Error::custom("an array where an object belongs"))
    }

    /// What a sender may in a chat of a group: the chat's entry, the group's, or the default.
    pub fn of(&self, chat: &str, group: &str, sender: &str) -> Sender {
        let entry = self.chats.get(chat).or_else(|| self.groups.get(group)).unwrap_or(&self.default);
        let allowed = match &entry.allow {
            Allowed::All(Star::Star) => true,
            Allowed::These(these) => these.iter().any(|one| one == sender),
        };
        match (allowed, entry.mode) {
            (true, _) => Sender::Allowed,
            (false, Mode::Trigger) => Sender::ReadOnly,
            (false, Mode::Drop) => Sender::Dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_a_whole_word_at_the_beginning() {
        for text in ["@Andy hi", "  @andy, hi", "@ANDY", "@Andy: x", "@Andy\nhi"] {
            assert!(is_meant(text, "@Andy"), "{text}");
        }
        for text in ["@Andys hi", "hi @Andy", "@And", "Andy", "@Andy_x", "", "@Andyä"] {
            assert!(!is_meant(text, "@Andy"), "{text}");
        }
        assert!(is_meant("@ÄNNE hi", "@Änne"));
    }

    #[test]
    fn senders_are_allowed_by_chat_by_group_or_by_default() {
        let text = r#"{"default": {"allow": "*"}, "chats": {"irc:#a": {"allow": ["x"], "mode": "drop"}},
            "groups": {"sales": {"allow": ["y"]}, "none": {"allow": []}}, "logDenied": true}"#;
        let senders = Senders::parse(text).expect("a list");
        assert_eq!(senders.of("irc:#a", "sales", "x"), Sender::Allowed);
        assert_eq!(senders.of("irc:#a", "sales", "y"), Sender::Dropped);
        assert_eq!(senders.of("irc:#b", "sales", "y"), Sender::Allowed);
        assert_eq!(senders.of("irc:#b", "sales", "x"), Sender::ReadOnly);
        assert_eq!(senders.of("irc:#b", "none", "*"), Sender::ReadOnly);
        assert_eq!(senders.of("irc:#c", "other", "anybody"), Sender::Allowed);
        for bad in [
            r#"{"default": {"allow": "x"}}"#,
            r#"{"defaults": {}}"#,
            r#"{"chats": {"a": {"mode": "x"}}}"#,
            r#"{"chats": {"a": []}}"#,
            r#"{"default": []}"#,
            "[]",
        ] {
            assert!(Senders::parse(bad).is_err(), "{bad}");
        }
    }
}
