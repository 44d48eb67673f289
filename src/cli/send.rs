//! `belljar send`.

use std::io::Read;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::{person, print, surroundings};
use crate::config::MAIN;
use crate::error::{Context, Error, Result, printable};
use crate::host::{client, socket_path};
use crate::plan::parse_duration;
use crate::store::LOCAL;

/// How long the host process may take for an answer of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// One look for an answer, in seconds.
const LOOK: u64 = 30;

/// Say something to a group's agent, by the host process (`belljar serve`).
///
/// With -g it is said in the group's own chat, `local:GROUP`, which only the owner of
/// the host process reaches, and wakes the agent. With --chat it is said in any chat,
/// as if a channel had told it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The group
    #[arg(short, long, default_value = MAIN)]
    group: String,
    /// A chat instead, such as irc:#ops
    #[arg(long, value_name = "JID", conflicts_with = "group")]
    chat: Option<String>,
    /// Who says it; you, unless said
    #[arg(long, value_name = "NAME")]
    sender: Option<String>,
    /// The same one again is not stored twice
    #[arg(long, value_name = "KEY")]
    id: Option<String>,
    /// Wait for an answer, at most so long, and print it
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, default_missing_value = "10m", require_equals = true,
          value_parser = parse_duration)]
    wait: Option<Duration>,
    /// What is said; read from stdin when it is absent
    text: Option<String>,
}

impl Arguments {
    /// Says it, and waits where that was asked for.
    pub fn execute(self) -> Result<u8> {
        let (caller, dirs) = surroundings()?;
        let text = match self.text {
            Some(text) => text,
            None => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).step(|| "read the message from stdin".to_owned())?;
                text
            }
        };
        if text.trim().is_empty() {
            return Err(Error::usage("there is nothing to say").hint("belljar send -g GROUP 'TEXT'"));
        }
        let chat = self.chat.unwrap_or_else(|| format!("{LOCAL}{}", self.group));
        let socket = socket_path(&caller, &dirs);
        let sender = self.sender.unwrap_or_else(person);
        let mut message = json!({ "chat": chat, "text": text, "sender": sender });
        if let Some(id) = self.id {
            message["id"] = id.into();
        }
        let told = client::ask(&socket, "POST", "/messages", Some(&message), PATIENCE)?;
        if told["group"].is_null() {
            return Err(Error::refused(format!("the chat {} belongs to no group", printable(&chat)))
                .hint(format!("belljar group set GROUP --chat '{}'", printable(&chat))));
        }
        let Some(wait) = self.wait else { return Ok(0) };
        if told["stored"] != Value::Bool(true) {
            return Err(Error::refused("it is not kept: it was said already, or its sender is not heard")
                .hint("another --id; sender-allowlist.json"));
        }
        if told["wakes"] != Value::Bool(true) {
            return Err(Error::refused("this wakes no agent: it comes along with the next message that does")
                .hint("begin it with the group's trigger: belljar group show GROUP"));
        }
        let group = told["group"].as_str().unwrap_or_default().to_owned();
        let mut said_before = String::new();
        let until = Instant::now() + wait;
        let after = told["after"].as_i64().unwrap_or_default();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::failed(format!("no answer within {} s", wait.as_secs()))
                    .hint("belljar ps shows whether the agent runs; the log of belljar serve says more"));
            }
            let query: String = form_urlencoded::Serializer::new(String::new())
                .append_pair("chat", &chat)
                .append_pair("after", &after.to_string())
                .append_pair("wait", &left.as_secs().clamp(1, LOOK).to_string())
                .finish();
            let said =
                client::ask(&socket, "GET", &format!("/messages?{query}"), None, PATIENCE + Duration::from_secs(LOOK))?;
            let said: Vec<&str> =
                said.as_array().into_iter().flatten().filter_map(|one| one["text"].as_str()).collect();
            if !said.is_empty() {
                print(&(said.join("\n") + "\n"))?;
                return Ok(0);
            }
            let status = client::ask(&socket, "GET", "/status", None, PATIENCE)?;
            let failing = &status["failing"][&group];
            let Some(message) = failing["message"].as_str() else { continue };
            let error = Error::failed(message);
            let error = match failing["hint"].as_str() {
                Some(hint) => error.hint(hint),
                None => error.hint("the log of belljar serve says more"),
            };
            if failing["again"] != Value::Bool(true) {
                return Err(error);
            }
            if said_before != message {
                eprintln!("belljar: it has failed, and is tried again: {}", printable(message));
                message.clone_into(&mut said_before);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
