//! What the agent is told when a request may not go on: JSON with the rule, the
//! reason, and what a person could do.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, StatusCode};
use serde_json::json;

use super::body::Body;
use crate::error::printable;

/// Why a request does not go on.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// 400 for what cannot be understood, 403 for what is not allowed, 429 for
    /// too much, 502 and 504 for origins that fail. Never 407: there is nothing
    /// that an agent could authenticate with.
    pub status: StatusCode,
    /// One word for programs.
    pub code: &'static str,
    /// The rule that decided, where one did.
    pub rule: Option<String>,
    /// In words.
    pub reason: String,
    /// What a person could do.
    pub hint: Option<String>,
    /// When it may be tried again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The request is not allowed.
    pub fn denied(code: &'static str, reason: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, code, rule: None, reason: reason.into(), hint: None, retry_after: None }
    }

    /// The request has more than one reading, or none.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, ..Self::denied("malformed_request", reason) }
    }

    /// The origin cannot be reached, or does not behave.
    pub fn upstream(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, ..Self::denied("upstream_failed", reason) }
    }

    /// Adds what a person could do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The answer for the agent to a request with this method.
    pub fn response(&self, run: &str, method: &Method) -> Response<Body> {
        let seconds = self.retry_after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0));
        let error = json!({
            "type": "belljar_refused",
            "code": self.code,
            "message": format!("belljar: {}", printable(&self.reason)),
            "rule": self.rule,
            "hint": self.hint.as_deref().map(printable_lines),
            "retry_after_seconds": seconds,
            "run": run,
        });
        let text = format!("{}\n", json!({ "type": "error", "error": error }));
        let length = text.len();
        // An answer to HEAD has no body (RFC 9110, 9.3.2), which HTTP/2 insists on.
        let text = if method == Method::HEAD { Bytes::new() } else { Bytes::from(text) };
        let mut response = Response::new(Body::new(Full::new(text).map_err(|never| match never {})));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(HeaderName::from_static("x-belljar-refused"), HeaderValue::from_static(self.code));
        if let Some(seconds) = seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        } else {
            // Clients of model APIs repeat requests unless told not to.
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        response
    }
}

/// Text of several lines, such as a rule to add, with each line printable.
fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
