//! Messages by the Unix socket: the owner says something in a group's chat, and reads
//! what agents say.

use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::Host;
use super::api::{Answer, body, refusal, reply};
use super::router::{Said, hear};
use crate::error::{Error, printable};
use crate::store::{LOCAL, wall_now};

/// Messages that are told at once.
const AT_ONCE: i64 = 200;
/// Longest wait for a message, in seconds.
const LONGEST_WAIT: u64 = 600;

/// The body of `POST /messages`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    /// The chat; or else a group, whose own local chat is meant.
    chat: Option<String>,
    group: Option<String>,
    text: String,
    sender: Option<String>,
    sender_name: Option<String>,
    chat_name: Option<String>,
    /// The same one again is not stored twice.
    id: Option<String>,
    time: Option<String>,
}

/// Takes a message.
pub async fn take(host: &Rc<Host>, request: Request<Incoming>) -> Answer {
    let message: Message = match body(request, r#"{"group": "main", "text": "…"}"#).await {
        Ok(message) => message,
        Err(answer) => return answer,
    };
    let chat = match (message.chat, message.group) {
        (Some(chat), None) => chat,
        (None, Some(group)) => format!("{LOCAL}{group}"),
        (None, None) => format!("{LOCAL}{}", crate::config::MAIN),
        (Some(_), Some(_)) => {
            return refusal(StatusCode::BAD_REQUEST, "a chat and a group", Some("say one of the two"));
        }
    };
    if chat.len() > 256 || chat.chars().any(char::is_control) || message.text.trim().is_empty() {
        let why = "a chat has at most 256 bytes without control characters, and a message has a text";
        return refusal(StatusCode::BAD_REQUEST, why, None);
    }
    let time = match message.time.map(|time| time.parse::<jiff::Timestamp>()) {
        None => None,
        Some(Ok(time)) => Some(time.as_millisecond()),
        Some(Err(error)) => {
            let message = format!("the time is not understood: {error}");
            return refusal(StatusCode::BAD_REQUEST, &message, Some("2027-01-31T08:30:00Z"));
        }
    };
    // What is said from now on may be the answer.
    let after = match host.with_store(|store| store.last_said()).await {
        Ok(after) => after,
        Err(error) => return failed(&error),
    };
    let sender = message.sender.unwrap_or_else(|| "owner".to_owned());
    let said = Said {
        chat: chat.clone(),
        chat_name: message.chat_name,
        key: message.id.unwrap_or_else(own_key),
        sender_name: message.sender_name,
        sender,
        text: message.text,
        time,
    };
    match hear(host, said).await {
        Ok(routed) => reply(
            StatusCode::ACCEPTED,
            &json!({
                "chat": chat, "group": routed.group, "stored": routed.stored, "wakes": routed.wakes, "after": after,
            }),
        ),
        Err(error) => failed(&error),
    }
}

fn own_key() -> String {
    let mut random = [0u8; 8];
    // Without it, the time alone tells them apart.
    let _ = SystemRandom::new().fill(&mut random);
    format!("api-{}-{:016x}", wall_now(), u64::from_ne_bytes(random))
}

fn failed(error: &Error) -> Answer {
    let status = match error.kind {
        crate::error::Kind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, &error.with_causes(), error.hint.as_deref())
}

/// Tells what was said in a chat: `?chat=…&after=N&wait=SECONDS`.
pub async fn tell(host: &Rc<Host>, request: &Request<Incoming>) -> Answer {
    let (mut chat, mut after, mut wait) = (None, 0, 0);
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        let understood = match name.as_ref() {
            "chat" => {
                chat = Some(value.into_owned());
                true
            }
            "group" => {
                chat = Some(format!("{LOCAL}{value}"));
                true
            }
            "after" => value.parse().map(|number| after = number).is_ok(),
            "wait" => value.parse().map(|seconds: u64| wait = seconds.min(LONGEST_WAIT)).is_ok(),
            _ => false,
        };
        if !understood {
            let message = format!("`{}` is not understood", printable(&name));
            return refusal(StatusCode::BAD_REQUEST, &message, Some("GET /messages?group=main&after=0&wait=30"));
        }
    }
    let chat = chat.unwrap_or_else(|| format!("{LOCAL}{}", crate::config::MAIN));
    let until = Instant::now() + Duration::from_secs(wait);
    let mut rung = host.rung.subscribe();
    loop {
        let name = chat.clone();
        let said = match host.with_store(move |store| store.said(&name, after, AT_ONCE)).await {
            Ok(said) => said,
            Err(error) => return failed(&error),
        };
        // Who waits is told of a failure by `GET /status`.
        let failing = chat_group(host, &chat).await.is_some_and(|group| host.queue.failing().contains_key(&group));
        let waits = said.is_empty() && !host.stopping.get() && !failing;
        if !waits || timeout_at(until, rung.changed()).await.is_err() {
            return reply(StatusCode::OK, &said);
        }
    }
}

/// The group of a chat.
async fn chat_group(host: &Rc<Host>, chat: &str) -> Option<String> {
    if let Some(group) = chat.strip_prefix(LOCAL) {
        return Some(group.to_owned());
    }
    let chat = chat.to_owned();
    host.with_store(move |store| store.binding_for(&chat)).await.ok().flatten().map(|bound| bound.group)
}
