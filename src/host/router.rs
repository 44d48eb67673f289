//! A message of a person's, from whatever it came by: whose chat it is, whether it
//! wakes the agent, and then into the store.

use std::rc::Rc;

use serde::Serialize;

use super::Host;
use super::agent::beginning;
use super::trigger::{Sender, Senders, is_meant};
use crate::config::Groups;
use crate::error::Result;
use crate::journal::Priority;
use crate::store::{Heard, LOCAL, Wakes};

/// Longest text of a message, in bytes; what is longer is cut.
const LONGEST: usize = 64 << 10;
/// Longest name of a person or chat, in bytes.
const LONGEST_NAME: usize = 256;

/// Something that somebody said.
#[derive(Debug, Clone)]
pub struct Said {
    /// The chat.
    pub chat: String,
    /// What people call the chat.
    pub chat_name: Option<String>,
    /// Unique in the chat.
    pub key: String,
    /// Who said it, as the network knows them.
    pub sender: String,
    /// Who said it, as people know them.
    pub sender_name: Option<String>,
    /// What was said.
    pub text: String,
    /// When, in milliseconds since 1970.
    pub time: Option<i64>,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Routed {
    /// The group whose chat it is; none: nobody's.
    pub group: Option<String>,
    /// Whether it was kept: it is new, and its sender is not dropped.
    pub stored: bool,
    /// Whether it wakes the agent.
    pub wakes: bool,
}

/// Keeps it, and wakes the agent where it is to be woken.
pub async fn hear(host: &Rc<Host>, said: Said) -> Result<Routed> {
    let nobodys = Routed { group: None, stored: false, wakes: false };
    let chat = said.chat.clone();
    let (group, trigger, is_local) = match chat.strip_prefix(LOCAL) {
        // The person at the host speaks: no other reaches it.
        Some(group) => match Groups::new(&host.dirs).find(group) {
            Ok(group) => (group.name.to_string(), None, true),
            Err(error) => return Err(error),
        },
        None => {
            let jid = chat.clone();
            let name = said.chat_name.clone();
            let bound = host
                .with_store(move |store| {
                    let bound = store.binding_for(&jid)?;
                    // What is kept below says that there is such a chat, too.
                    if bound.is_none() || name.is_some() {
                        store.heard_of(&jid, name.as_deref())?;
                    }
                    Ok(bound)
                })
                .await?;
            match bound {
                Some(bound) => (bound.group, bound.trigger, false),
                None => return Ok(nobodys),
            }
        }
    };
    let sender = if is_local { Sender::Allowed } else { allowed(host, &said, &group) };
    if sender == Sender::Dropped {
        return Ok(Routed { group: Some(group), ..nobodys });
    }
    let meant = trigger.as_deref().is_none_or(|trigger| is_meant(&said.text, trigger));
    let wakes = sender == Sender::Allowed && meant;
    let heard = Heard {
        chat: said.chat,
        key: said.key,
        group: group.clone(),
        sender_name: cut(said.sender_name.unwrap_or_else(|| said.sender.clone()), LONGEST_NAME),
        sender: cut(said.sender, LONGEST_NAME),
        text: cut(said.text, LONGEST),
        time: said.time,
        wakes: if wakes { Wakes::Yes } else { Wakes::No },
    };
    let stored = host.with_store(move |store| store.hear(&heard)).await?;
    if stored && wakes {
        host.queue.forgive(&group);
        host.queue.wake();
    }
    Ok(Routed { group: Some(group), stored, wakes: stored && wakes })
}

/// A list that cannot be read allows nobody.
fn allowed(host: &Rc<Host>, said: &Said, group: &str) -> Sender {
    let senders = match Senders::load(&host.dirs) {
        Ok(senders) => senders,
        Err(error) => {
            host.events.tell_error("senders", &error);
            return Sender::Dropped;
        }
    };
    let verdict = senders.of(&said.chat, group, &said.sender);
    if verdict != Sender::Allowed {
        let more =
            [("GROUP", group.into()), ("CHAT", said.chat.as_str().into()), ("SENDER", said.sender.as_str().into())];
        host.events.tell("sender", Priority::Debug, "a sender who is not allowed has said something", &more);
    }
    verdict
}

fn cut(text: String, longest: usize) -> String {
    if text.len() <= longest {
        return text;
    }
    format!("{}… (cut)", beginning(&text, longest))
}
