//! An HTTP/1.1 connection of the agent. How long it may take for what: a head,
//! once it has begun, and the time between two requests; hyper has one timeout
//! for both. And interim answers, which hyper's server does not send.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
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

/// Most bytes of interim answers that wait.
const LONGEST_INTERIM: usize = 64 << 10;

/// What the connection is doing.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    /// Another one from request to answer, and to the next request.
    turn: AtomicU64,
    /// Interim answers that are not sent yet, and who sends them.
    interim: Mutex<(Vec<u8>, Option<Waker>)>,
}

impl Phase {
    /// A request has come.
    pub fn busy(&self) {
        self.0.phase.store(BUSY, Ordering::Relaxed);
        self.0.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Which request is served now, as interim answers to it need.
    pub fn turn(&self) -> u64 {
        self.0.turn.load(Ordering::Relaxed)
    }

    /// Sends the head of an interim answer, unless the request has had its last.
    pub fn pass_on(&self, turn: u64, head: Vec<u8>) {
        let mut interim = self.interim();
        if turn == self.turn() && interim.0.len() + head.len() <= LONGEST_INTERIM {
            interim.0.extend(head);
        }
        drop(interim);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.interim().1.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn interim(&self) -> MutexGuard<'_, (Vec<u8>, Option<Waker>)> {
        self.0.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request's answer, whose end is the end of the request, if the
    /// connection stays HTTP after it.
    pub fn until_the_end_of(&self, response: Response<Body>) -> Response<Body> {
        // Now it is too late for interim ones.
        self.0.turn.fetch_add(1, Ordering::Relaxed);
        self.interim().0.clear();
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

    super::length_of!(inner);
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.phase.0.phase.store(IDLE, Ordering::Relaxed);
        // Whoever reads has read for the last time while it was busy.
        self.phase.wake();
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
    /// Nothing was written since all was flushed: between two answers.
    flushed: bool,
    /// The rest of an interim answer that the agent's program has begun to take.
    begun: Vec<u8>,
}

impl<S> Patient<S> {
    /// Around `inner`, which waits for its first head.
    pub fn new(inner: S, phase: Phase, times: &Times) -> Self {
        Self {
            inner,
            phase,
            head: times.header,
            idle: times.idle,
            timer: None,
            unsent: false,
            flushed: true,
            begun: Vec::new(),
        }
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let phase = self.phase.0.phase.load(Ordering::Relaxed);
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // What goes wrong here goes wrong again with the answer.
        let _ = self.poll_interim(context);
        let before = to.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, to);
        if read.is_ready() {
            // What comes while nothing is asked begins the next head.
            if to.filled().len() > before {
                let _ = self.phase.0.phase.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
            }
            return read;
        }
        self.poll_timer(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    /// Sends interim answers where nothing of another one is under way; what is
    /// begun, is sent before anything else.
    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            let mut interim = self.phase.interim();
            if !interim.1.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                interim.1 = Some(context.waker().clone());
            }
            if !self.flushed || interim.0.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.begun = std::mem::take(&mut interim.0);
        }
        while !self.begun.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(context, &self.begun))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => drop(self.begun.drain(..length)),
            }
        }
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn note<T>(&mut self, written: Poll<T>) -> Poll<T> {
        self.unsent = written.is_pending();
        self.flushed = false;
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if !self.begun.is_empty() {
            ready!(self.poll_interim(context))?;
        }
        let written = Pin::new(&mut self.inner).poll_write(context, from);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.begun.is_empty() {
            ready!(self.poll_interim(context))?;
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, from);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(context))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.unsent = flushed.is_pending();
        self.flushed |= flushed.is_ready();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
