//! A request that waits for a person: what is shown, and what became of it.

use std::time::Duration;

use base64::Engine as _;
use rusqlite::Row;
use rusqlite::types::Type;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Scope;
use super::clock::{Moment, rfc3339};

/// As much of a body is kept and shown, in bytes.
pub const BODY_LIMIT: usize = 1 << 20;

/// A request that is to wait, as the gateway has it: before any secret is added.
#[derive(Debug, Clone)]
pub struct Held {
    /// The run's id.
    pub run: String,
    /// What a grant for it would cover.
    pub scope: Scope,
    /// The query, without `?`; as it will be sent, but without secrets.
    pub query: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// Name of the secret that will be added.
    pub secret: Option<String>,
    /// The body.
    pub body: Body,
    /// How long it waits.
    pub wait: Duration,
}

/// A body as far as the gateway has read it.
#[derive(Debug, Clone)]
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// Its beginning; the rest is read when it is approved.
    Cut {
        /// What was read.
        beginning: Vec<u8>,
        /// Bytes in all, when the client said so.
        size: Option<u64>,
    },
}

/// What became of a request that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits.
    Pending,
    /// A person said yes.
    Approved,
    /// A person said no.
    Denied,
    /// Nobody said anything in time.
    Expired,
    /// Nobody waits for it any more: the client went away, or the run ended.
    Cancelled,
}

impl State {
    /// As it is stored and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    pub(super) fn parse(name: &str) -> rusqlite::Result<Self> {
        [Self::Pending, Self::Approved, Self::Denied, Self::Expired, Self::Cancelled]
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, format!("no state: {name}").into()))
    }
}

/// What is known of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// What is shown: up to [`BODY_LIMIT`]; none any more once it was decided.
    pub bytes: Option<Vec<u8>>,
    /// Bytes that were held.
    pub held: u64,
    /// Bytes in all; none when it was cut and the client did not say.
    pub size: Option<u64>,
    /// Whether all of it is shown.
    pub whole: bool,
    /// SHA-256 of what was held, in hexadecimal.
    pub sha256: String,
}

impl From<Body> for Preview {
    fn from(body: Body) -> Self {
        let (mut bytes, size, whole) = match body {
            Body::Whole(bytes) => (bytes, None, true),
            Body::Cut { beginning, size } => (beginning, size, false),
        };
        let held = bytes.len() as u64;
        let sha256 = hex(&Sha256::digest(&bytes));
        let shown = whole && bytes.len() <= BODY_LIMIT;
        bytes.truncate(BODY_LIMIT);
        let size = if whole { Some(held) } else { size };
        Self { bytes: Some(bytes), held, size, whole: shown, sha256 }
    }
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request that waits or waited, as it is in the store.
#[derive(Debug, Clone)]
pub struct Approval {
    /// What a person types.
    pub id: String,
    /// What became of it.
    pub state: State,
    /// The run's id.
    pub run: String,
    /// Group, rule and address.
    pub scope: Scope,
    /// The query, without `?`.
    pub query: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// Name of the secret that will be added.
    pub secret: Option<String>,
    /// The body.
    pub body: Preview,
    /// When it began to wait: RFC 3339, UTC.
    pub created: String,
    /// When it ends to wait: RFC 3339, UTC.
    pub expires: String,
    /// How long it will wait still; zero when it does not.
    pub left: Duration,
    /// When it was decided: RFC 3339, UTC.
    pub decided: Option<String>,
    /// Who decided, or why nobody did.
    pub by: Option<String>,
    /// Order of arrival.
    pub(super) seq: i64,
    pub(super) deadline: Moment,
}

/// What an agent asks a person for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'a> {
    /// To reach a host.
    Host(&'a str),
    /// To get a secret of this name.
    Secret(&'a str),
}

pub(super) const COLUMNS: &str = "seq, id, state, run, grp, rule, method, scheme, host, port, path, query, \
     content_type, secret, body, held, size, whole, sha256, boot, created_wall, expires, expires_wall, decided_wall, \
     decided_by";

impl Approval {
    pub(super) fn from_row(row: &Row<'_>, now: &Moment) -> rusqlite::Result<Self> {
        let state = State::parse(&row.get::<_, String>("state")?)?;
        let deadline =
            Moment { boot: row.get("boot")?, since_boot: row.get("expires")?, wall: row.get("expires_wall")? };
        let left = now.left_until(&deadline).filter(|_| state == State::Pending).unwrap_or_default();
        Ok(Self {
            id: row.get("id")?,
            state,
            run: row.get("run")?,
            scope: Scope {
                group: row.get("grp")?,
                rule: row.get("rule")?,
                method: row.get("method")?,
                scheme: row.get("scheme")?,
                host: row.get("host")?,
                port: row.get("port")?,
                path: row.get("path")?,
            },
            query: row.get("query")?,
            content_type: row.get("content_type")?,
            secret: row.get("secret")?,
            body: Preview {
                bytes: row.get("body")?,
                held: row.get::<_, i64>("held")?.unsigned_abs(),
                size: row.get::<_, Option<i64>>("size")?.map(i64::unsigned_abs),
                whole: row.get("whole")?,
                sha256: row.get("sha256")?,
            },
            created: rfc3339(row.get("created_wall")?),
            expires: rfc3339(deadline.wall),
            left,
            decided: row.get::<_, Option<i64>>("decided_wall")?.map(rfc3339),
            by: row.get("decided_by")?,
            seq: row.get("seq")?,
            deadline,
        })
    }

    /// Scheme, host, port where it is not the scheme's own, path and query.
    pub fn url(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", self.scope.url())
    }

    /// What an agent asks for, when it does not wait with a request of its own.
    pub fn access(&self) -> Option<Access<'_>> {
        let secret = self.secret.as_deref().map(Access::Secret);
        self.scope.is_access().then(|| secret.unwrap_or(Access::Host(&self.scope.host)))
    }

    /// For programs. A body that is no UTF-8 is given in base64 instead.
    pub fn to_json(&self) -> Value {
        let bytes = self.body.bytes.as_deref();
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        let base64 = bytes.filter(|_| text.is_none()).map(|bytes| base64::prelude::BASE64_STANDARD.encode(bytes));
        json!({
            "id": self.id,
            "state": self.state,
            "run": self.run,
            "group": self.scope.group,
            "rule": self.scope.rule,
            "method": self.scope.method,
            "url": self.url(),
            "scheme": self.scope.scheme,
            "host": self.scope.host,
            "port": self.scope.port,
            "path": self.scope.path,
            "query": self.query,
            "content_type": self.content_type,
            "secret": self.secret,
            "body": {
                "text": text,
                "base64": base64,
                "held": self.body.held,
                "size": self.body.size,
                "whole": self.body.whole,
                "sha256": self.body.sha256,
            },
            "created": self.created,
            "expires": self.expires,
            "seconds_left": self.left.as_secs(),
            "decided": self.decided,
            "by": self.by,
        })
    }
}
