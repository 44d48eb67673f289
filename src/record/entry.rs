//! One request, as it is recorded.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::journal::{Events, Priority};
use crate::store::State;

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A request that the gateway read.
    Request,
    /// A tunnel whose TLS was not opened.
    Tunnel,
    /// A raw connection of a `[[tcp]]` rule.
    Tcp,
    /// What was turned away before it was a request.
    Refused,
    /// A look-up of a name.
    Dns,
}

/// One request. What is unknown stays `None`.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When it came.
    pub began: SystemTime,
    /// How long it took, to the last byte.
    pub took: Duration,
    /// What it was.
    pub kind: Kind,
    /// HTTP method.
    pub method: Option<String>,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host, as it was judged.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The path, normalised. A query is cut off, should there be one.
    pub path: Option<String>,
    /// The rule that decided; none for the default.
    pub rule: Option<String>,
    /// What was decided: `allow`, `deny`, `approve`, …
    pub action: Option<String>,
    /// Name of the secret that was added. Never its value.
    pub secret: Option<String>,
    /// The status that the agent was answered with.
    pub status: Option<u16>,
    /// Bytes of the answer's body, from the origin.
    pub bytes_in: u64,
    /// Bytes of the request's body, to the origin.
    pub bytes_out: u64,
    /// Times that a secret was masked in the answer.
    pub redacted: u64,
    /// Why it was refused, or what failed.
    pub reason: Option<String>,
    /// The approval that it waited for, or whose grant covered it, and what
    /// became of it.
    pub approval: Option<(String, State)>,
}

impl Entry {
    /// One that came at a moment, of which nothing else is known yet.
    pub fn new(kind: Kind, began: SystemTime) -> Self {
        Self {
            began,
            took: Duration::ZERO,
            kind,
            method: None,
            scheme: None,
            host: None,
            port: None,
            path: None,
            rule: None,
            action: None,
            secret: None,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            redacted: 0,
            reason: None,
            approval: None,
        }
    }
}

/// The line of an [`Entry`], in the order in which it is written.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    seq: u64,
    time: String,
    run: &'a str,
    group: &'a str,
    kind: Kind,
    method: Option<&'a str>,
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<u16>,
    path: Option<&'a str>,
    rule: Option<&'a str>,
    action: Option<&'a str>,
    secret: Option<&'a str>,
    status: Option<u16>,
    bytes_in: u64,
    bytes_out: u64,
    ms: u64,
    redacted: u64,
    reason: Option<&'a str>,
    approval: Option<&'a str>,
    decision: Option<State>,
}

impl<'a> Line<'a> {
    /// The `seq`-th line of a run.
    pub fn new(seq: u64, run: &'a str, group: &'a str, entry: &'a Entry) -> Self {
        // What follows these is never recorded, whoever calls.
        let path = entry.path.as_deref().and_then(|path| path.split(['?', '#']).next());
        Self {
            seq,
            time: time(entry.began),
            run,
            group,
            kind: entry.kind,
            method: entry.method.as_deref(),
            scheme: entry.scheme.as_deref(),
            host: entry.host.as_deref(),
            port: entry.port,
            path,
            rule: entry.rule.as_deref(),
            action: entry.action.as_deref(),
            secret: entry.secret.as_deref(),
            status: entry.status,
            bytes_in: entry.bytes_in,
            bytes_out: entry.bytes_out,
            ms: u64::try_from(entry.took.as_millis()).unwrap_or(u64::MAX),
            redacted: entry.redacted,
            reason: entry.reason.as_deref(),
            approval: entry.approval.as_ref().map(|(id, _)| id.as_str()),
            decision: entry.approval.as_ref().map(|(_, state)| *state),
        }
    }
}

impl Line<'_> {
    /// Tells the host's log of it, with every field that is known.
    pub fn tell(&self, events: &Events) {
        let refused = self.reason.is_some() || self.action.is_some_and(|action| action == "deny");
        let (event, priority) = match self.kind {
            Kind::Dns => ("dns", Priority::Debug),
            Kind::Refused => ("request", Priority::Notice),
            Kind::Request => ("request", if refused { Priority::Notice } else { Priority::Info }),
            Kind::Tunnel | Kind::Tcp => ("connection", if refused { Priority::Notice } else { Priority::Info }),
        };
        let text = |part: Option<&str>, before: &str| part.map_or(String::new(), |part| format!("{before}{part}"));
        let message = format!(
            "{}{}{}{}{}{}{}",
            text(self.action, ""),
            text(self.method, " "),
            text(self.host, " "),
            self.port.map_or(String::new(), |port| format!(":{port}")),
            text(self.path, ""),
            self.status.map_or(String::new(), |status| format!(" {status}")),
            text(self.reason, ", because: "),
        );
        let value = serde_json::to_value(self).unwrap_or_default();
        let fields = value.as_object().into_iter().flatten();
        let more: Vec<(String, String)> = fields
            .filter(|(name, value)| !value.is_null() && !["run", "group", "time"].contains(&name.as_str()))
            .map(|(name, value)| (name.to_uppercase(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        let more: Vec<_> = more.iter().map(|(name, value)| (name.as_str(), value.as_str().into())).collect();
        let message = match message.trim_start() {
            "" => event,
            message => message,
        };
        events.tell(event, priority, message, &more);
    }
}

/// The line that says that there are no more.
#[derive(Serialize)]
pub(super) struct EndLine<'a> {
    pub seq: u64,
    pub time: String,
    pub run: &'a str,
    pub group: &'a str,
    pub kind: &'a str,
    pub count: u64,
}

/// RFC 3339 with milliseconds, UTC.
pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
