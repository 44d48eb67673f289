//! Interim answers (1xx, RFC 9110, 15.2) over HTTP/1.1: 100 lets a body go that
//! the agent's program holds back (RFC 9110, 10.1.1), and the others are passed
//! on. Over HTTP/2 the library shows none of the origin's, and none is missed:
//! bodies are not held back there.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use hyper::header::{EXPECT, HeaderMap};
use hyper::{Request, StatusCode};
use tokio::time::Sleep;

use super::body::{Body, BodyError};
use super::headers::strip_hop_by_hop;
use super::patient::Phase;
use super::redact::{Needles, mask_headers};

/// How long a body is held back for an origin that says nothing: many do not
/// know the expectation.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest head of an interim answer that is passed on, in bytes.
const LONGEST: usize = 16 << 10;

/// Whether the agent's program holds the body back.
pub fn is_expected(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Opens when the origin wants the body.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<(bool, Option<Waker>)>>);

impl Gate {
    fn open(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    fn is_open(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = Some(context.waker().clone());
        state.0
    }
}

/// Passes the interim answers to `request` on to the agent's connection, masked;
/// where its body is held back, until the origin wants it.
pub fn watch(request: &mut Request<Body>, phase: Phase, needles: Needles) {
    let gate = is_expected(request.headers()).then(Gate::default);
    if let Some(gate) = gate.clone() {
        let inner = std::mem::take(request.body_mut());
        *request.body_mut() =
            Body::new(HeldBack { inner, gate: Some(gate), patience: Box::pin(tokio::time::sleep(PATIENCE)) });
    }
    let turn = phase.turn();
    hyper::ext::on_informational(request, move |answer| match (answer.status(), &gate) {
        // The agent's program gets its own 100 when its body is asked for.
        (StatusCode::CONTINUE, gate) => gate.iter().for_each(Gate::open),
        (status, _) if status != StatusCode::SWITCHING_PROTOCOLS => {
            let mut headers = answer.headers().clone();
            strip_hop_by_hop(&mut headers);
            mask_headers(&mut headers, &needles);
            phase.pass_on(turn, head(status, &headers));
        }
        _ => {}
    });
}

/// The head of an interim answer (RFC 9112, 4); nothing when it is too long.
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut text =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    if text.len() > LONGEST { Vec::new() } else { text }
}

/// A body that is not asked for before the origin wants it.
struct HeldBack {
    inner: Body,
    gate: Option<Gate>,
    patience: Pin<Box<Sleep>>,
}

impl HttpBody for HeldBack {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &self.gate
            && !gate.is_open(context)
        {
            std::task::ready!(self.patience.as_mut().poll(context));
        }
        self.gate = None;
        Pin::new(&mut self.inner).poll_frame(context)
    }

    super::length_of!(inner);
}
