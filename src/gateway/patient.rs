//! How long an HTTP/1.1 connection of the agent may take for what: a head, once
//! it has begun, and the time between two requests. hyper has one timeout for
//! both.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::{Body, BodyError};
use super::times::Times;

/// A head is awaited: the first one of the connection, or one that has begun.
const HEAD: u8 = 0;
/// A request is served, or the connection is no longer HTTP.
const BUSY: u8 = 1;
/// Nothing is asked.
const IDLE: u8 = 2;

/// What the connection is doing.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<AtomicU8>);

impl Phase {
    /// A request has come.
    pub fn busy(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// The request's answer, whose end is the end of the request, if the
    /// connection stays HTTP after it.
    pub fn until_the_end_of(&self, response: Response<Body>) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        response.map(|inner| Body::new(Answer { inner, phase: self.clone() }))
    }
}

/// The body of an answer.
struct Answer {
    inner: Body,
    phase: Phase,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.phase.0.store(IDLE, Ordering::Relaxed);
    }
}

/// A stream whose reads end when the connection takes too long.
pub struct Patient<S> {
    inner: S,
    phase: Phase,
    head: Duration,
    idle: Duration,
    /// Runs while something is awaited, and for which phase.
    timer: Option<(u8, Pin<Box<Sleep>>)>,
    /// The agent's program has not taken all of the last answer.
    unsent: bool,
}

impl<S> Patient<S> {
    /// Around `inner`, which waits for its first head.
    pub fn new(inner: S, phase: Phase, times: &Times) -> Self {
        Self { inner, phase, head: times.header, idle: times.idle, timer: None, unsent: false }
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let phase = self.phase.0.load(Ordering::Relaxed);
        let patience = match phase {
            HEAD => self.head,
            IDLE if !self.unsent => self.idle,
            _ => {
                self.timer = None;
                return Poll::Pending;
            }
        };
        if self.timer.as_ref().is_none_or(|(of, _)| *of != phase) {
            self.timer = Some((phase, Box::pin(sleep_until(Instant::now() + patience))));
        }
        self.timer.as_mut().map_or(Poll::Pending, |(_, timer)| timer.as_mut().poll(context))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, to);
        if read.is_ready() {
            // What comes while nothing is asked begins the next head.
            if to.filled().len() > before {
                let _ = self.phase.0.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
            }
            return read;
        }
        self.poll_timer(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S> Patient<S> {
    fn note<T>(&mut self, written: Poll<T>) -> Poll<T> {
        self.unsent = written.is_pending();
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, from);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, from);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
