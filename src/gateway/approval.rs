//! A request that waits for a person.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::body::BodyError;
use super::exchange::Exchange;
use super::forward::{Judged, unavailable};
use super::refusal::Refusal;
use super::shared::Shared;
use crate::store::{self, Held, Scope, State, Store};

/// As much of a body as a person is shown, in bytes.
const SHOWN: usize = 1 << 20;
/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// What was read of a body before it goes on.
pub struct Read {
    frames: std::collections::VecDeque<Frame<Bytes>>,
    length: usize,
    ended: bool,
}

/// The whole body again: what was read, and the rest.
pub struct Whole {
    read: Read,
    rest: Incoming,
}

impl Read {
    /// Puts the rest after what was read.
    pub fn followed_by(self, rest: Incoming) -> Whole {
        Whole { read: self, rest }
    }
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.read.frames.pop_front() {
            self.read.length -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.read.ended {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.rest).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.read.frames.is_empty() && (self.read.ended || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.length as u64;
        if self.read.ended {
            return SizeHint::with_exact(read);
        }
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + read);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read);
        }
        hint
    }
}

/// Takes the held request back when the agent's side goes away.
struct Withdraw {
    store: Arc<Store>,
    id: String,
    armed: bool,
    exchange: Arc<Exchange>,
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        if self.armed {
            // One short write; the event loop can bear it.
            let _ = self.store.cancel(&self.id, "the agent went away");
            let id = self.id.clone();
            self.exchange.note(|entry| {
                if let Some((_, State::Pending)) = entry.approval {
                    entry.approval = Some((id, State::Cancelled));
                }
            });
        }
    }
}

/// Holds the request until a person has decided, or the time is up.
pub async fn hold(
    request: &mut Request<Incoming>,
    judged: &Judged,
    (rule, secrets): (&str, &str),
    shared: &Arc<Shared>,
    exchange: &Arc<Exchange>,
) -> Result<Read, Refusal> {
    let refused = |code, reason: String| Refusal { rule: Some(rule.to_owned()), ..Refusal::denied(code, reason) };
    let broken = |error: crate::error::Error| unavailable("list of approvals", &error);
    let scope = Scope {
        group: shared.group.clone(),
        rule: rule.to_owned(),
        method: judged.method.to_string(),
        scheme: judged.scheme.name().to_owned(),
        host: judged.host.to_string(),
        port: judged.port,
        path: judged.path.to_string(),
    };
    let granted = {
        let (store, scope) = (Arc::clone(&shared.store), scope.clone());
        tokio::task::spawn_blocking(move || store.granted(&scope)).await
    };
    match granted {
        Ok(Ok(Some(id))) => {
            exchange.note(|entry| entry.approval = Some((id, State::Approved)));
            return Ok(Read { frames: Default::default(), length: 0, ended: false });
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => return Err(broken(error)),
        Err(error) => return Err(unavailable("list of approvals", &error)),
    }
    let Ok(_place) = Arc::clone(&shared.held).try_acquire_owned() else {
        return Err(Refusal {
            status: hyper::StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(10)),
            ..refused("too_many_held", "too many requests of this run wait for a person".to_owned())
        });
    };
    let read = read(request).await?;
    let text = |name| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let needles = shared.secrets.needles();
    let masked = |text: Option<String>| text.map(|text| needles.mask_text(&text).0);
    let mut bytes = read.frames.iter().filter_map(Frame::data_ref).fold(Vec::new(), |mut all, data| {
        all.extend_from_slice(data);
        all
    });
    // What a person reads, and a command may send on, never shows a secret, also
    // when the agent has come by it elsewhere.
    needles.mask_bytes(&mut bytes);
    let size = text(CONTENT_LENGTH).and_then(|text| text.parse().ok());
    let held = Held {
        run: shared.run.clone(),
        scope,
        query: masked(judged.query.clone()),
        content_type: masked(text(CONTENT_TYPE)),
        secret: (!secrets.is_empty()).then(|| secrets.to_owned()),
        body: if read.ended { store::Body::Whole(bytes) } else { store::Body::Cut { beginning: bytes, size } },
        wait: shared.times.approval,
    };
    let approval = {
        let store = Arc::clone(&shared.store);
        tokio::task::spawn_blocking(move || store.hold(held)).await
    };
    let approval = match approval {
        Ok(Ok(approval)) => approval,
        Ok(Err(error)) => return Err(broken(error)),
        Err(error) => return Err(unavailable("list of approvals", &error)),
    };
    let id = approval.id.clone();
    let mut withdraw =
        Withdraw { store: Arc::clone(&shared.store), id: id.clone(), armed: true, exchange: Arc::clone(exchange) };
    exchange.note(|entry| entry.approval = Some((id.clone(), State::Pending)));
    if !shared.approval_command.is_empty() {
        // The request waits also when nobody could be told.
        if let Err(error) = store::notify(&shared.approval_command, &approval) {
            eprintln!("{error}");
        }
    }
    // With its copy of the body.
    drop(approval);
    // The store keeps the deadline: its word is also the one that the person gets.
    let state = loop {
        let (store, asked) = (Arc::clone(&shared.store), id.clone());
        match tokio::task::spawn_blocking(move || store.state(&asked)).await {
            Ok(Ok(State::Pending)) => tokio::time::sleep(LOOK).await,
            Ok(Ok(state)) => break state,
            Ok(Err(error)) => return Err(broken(error)),
            Err(error) => return Err(unavailable("list of approvals", &error)),
        }
    };
    exchange.note(|entry| entry.approval = Some((id.clone(), state)));
    match state {
        State::Approved => {
            withdraw.armed = false;
            Ok(read)
        }
        State::Denied => {
            withdraw.armed = false;
            Err(refused("denied_by_person", format!("a person has denied request {id}")))
        }
        _ => Err(refused(
            "approval_timeout",
            format!(
                "rule `{rule}` needs a person, and nobody decided on request {id} within {} s",
                shared.times.approval.as_secs()
            ),
        )
        .hint(format!(
            "a person can answer the next one in time: belljar approvals, belljar approve ID (this one was {id})"
        ))),
    }
}

/// Reads as much of the body as is shown.
async fn read(request: &mut Request<Incoming>) -> Result<Read, Refusal> {
    let mut read = Read { frames: Default::default(), length: 0, ended: false };
    let body = request.body_mut();
    while read.length <= SHOWN {
        match body.frame().await {
            Some(Ok(frame)) => {
                read.length += frame.data_ref().map_or(0, Bytes::len);
                read.frames.push_back(frame);
            }
            Some(Err(error)) => return Err(Refusal::malformed(format!("the request's body broke off: {error}"))),
            None => {
                read.ended = true;
                break;
            }
        }
    }
    Ok(read)
}
