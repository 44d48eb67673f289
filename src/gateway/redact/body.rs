//! An HTTP body that is redacted as it passes.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::HeaderMap;
use tokio::time::Sleep;

use super::envelope::Envelopes;
use super::{Needles, Redactor, mask_headers};

/// After so long without more, what waits goes on: lines, and a word that may
/// be cut. Whatever it is: else an agent would see what may begin a secret.
const QUIET_LINE: Duration = Duration::from_millis(50);
const QUIET_WORD: Duration = Duration::from_secs(1);

/// `B` with every needle masked in its data and in the values of its trailers.
/// Its length is that of `B`.
#[derive(Debug)]
pub struct RedactedBody<B> {
    inner: B,
    needles: Needles,
    redactor: Redactor,
    envelopes: Option<Envelopes>,
    masked: Arc<AtomicU64>,
    rest: Rest,
    /// Runs while something is held back and nothing comes.
    quiet: Option<Pin<Box<Sleep>>>,
}

/// What comes after the next frame of the inner body.
#[derive(Debug)]
enum Rest {
    Unknown,
    Trailers(HeaderMap),
    Nothing,
}

impl<B> RedactedBody<B> {
    /// `masked` grows with each occurrence, so that it is right whenever the
    /// body is dropped.
    pub fn new(inner: B, needles: Needles, masked: Arc<AtomicU64>) -> Self {
        let redactor = Redactor::new(needles.clone());
        Self { inner, redactor, envelopes: None, needles, masked, rest: Rest::Unknown, quiet: None }
    }

    /// For the body of an answer with this head: the end of a message, where it
    /// has messages, goes on at once.
    pub fn after(self, head: &HeaderMap) -> Self {
        Self { envelopes: Envelopes::of(head), ..self }
    }

    /// Nothing comes now: the end that is held back goes on after a while.
    fn wait_a_while<E>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if self.redactor.held() == 0 {
            return Poll::Pending;
        }
        let patience = if self.redactor.waits_after_a_line() { QUIET_LINE } else { QUIET_WORD };
        let quiet = self.quiet.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(quiet.as_mut().poll(cx));
        self.quiet = None;
        Poll::Ready(self.data(Redactor::let_go).map(Ok))
    }

    /// The next bytes, and what may go on with them.
    fn pass(&mut self, bytes: Bytes) -> Option<Frame<Bytes>> {
        let ends = self.envelopes.as_mut().is_some_and(|envelopes| envelopes.end_with(&bytes));
        self.data(|redactor| {
            let first = redactor.push(bytes);
            if ends { [first, redactor.finish()].concat().into() } else { first }
        })
    }

    fn data(&mut self, take: impl FnOnce(&mut Redactor) -> Bytes) -> Option<Frame<Bytes>> {
        let before = self.redactor.count();
        let data = take(&mut self.redactor);
        self.masked.fetch_add(self.redactor.count() - before, Ordering::Relaxed);
        (!data.is_empty()).then(|| Frame::data(data))
    }
}

impl<B> Body for RedactedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        while matches!(this.rest, Rest::Unknown) {
            let polled = Pin::new(&mut this.inner).poll_frame(cx);
            if polled.is_pending() {
                return this.wait_a_while(cx);
            }
            this.quiet = None;
            let frame = match ready!(polled) {
                Some(frame) => frame.map_err(Into::into)?,
                None => {
                    this.rest = Rest::Nothing;
                    break;
                }
            };
            let data = match frame.into_data() {
                Ok(data) => this.pass(data),
                Err(frame) => {
                    if let Ok(mut trailers) = frame.into_trailers() {
                        this.masked.fetch_add(mask_headers(&mut trailers, &this.needles), Ordering::Relaxed);
                        this.rest = Rest::Trailers(trailers);
                    }
                    continue;
                }
            };
            if data.is_some() {
                return Poll::Ready(data.map(Ok));
            }
        }
        if let Some(held) = this.data(Redactor::finish) {
            return Poll::Ready(Some(Ok(held)));
        }
        Poll::Ready(match std::mem::replace(&mut this.rest, Rest::Nothing) {
            Rest::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Rest::Unknown | Rest::Nothing => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        let ended = match self.rest {
            Rest::Unknown => self.inner.is_end_stream(),
            Rest::Trailers(_) => false,
            Rest::Nothing => true,
        };
        ended && self.redactor.held() == 0
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        let held = self.redactor.held() as u64;
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint.set_lower(inner.lower().saturating_add(held));
        hint
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};

    use super::*;

    fn needles() -> Needles {
        Needles::new([&b"hunter2-canary"[..]].into_iter())
    }

    /// A body of these frames; what comes after them is not known before.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    #[tokio::test]
    async fn data_and_trailers_are_masked_and_the_held_end_comes_before_the_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checked", "hunter2-canary".parse().unwrap());
        let frames = [Frame::data("a hunter2-c".into()), Frame::data("anary, hunt".into()), Frame::trailers(trailers)];
        let masked = Arc::new(AtomicU64::new(0));
        let body = RedactedBody::new(Frames(frames.into()), needles(), masked.clone());
        let all = body.collect().await.unwrap();
        assert_eq!(all.trailers().unwrap()["x-checked"], "**************");
        assert_eq!(all.to_bytes(), "a **************, hunt");
        assert_eq!(masked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn the_length_is_that_of_the_inner_body_at_every_moment() {
        let text = "some hunter2-canary text that ends in hunter2-";
        let mut body = RedactedBody::new(Full::<Bytes>::from(text), needles(), Arc::default());
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        assert!(!body.is_end_stream());
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(body.size_hint().exact(), Some((text.len() - first.len()) as u64));
        assert!(!body.is_end_stream(), "the held end is still to come");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hunter2-");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        let empty = RedactedBody::new(Full::<Bytes>::default(), needles(), Arc::default());
        assert!(empty.is_end_stream());
    }

    #[tokio::test]
    async fn the_end_goes_on_when_nothing_more_comes() {
        struct Slow(Vec<Bytes>, Option<Pin<Box<Sleep>>>);
        impl Body for Slow {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                if let Some(sleep) = &mut self.1 {
                    ready!(sleep.as_mut().poll(cx));
                }
                self.1 = Some(Box::pin(tokio::time::sleep(QUIET_WORD * 2)));
                Poll::Ready((!self.0.is_empty()).then(|| Ok(Frame::data(self.0.remove(0)))))
            }
        }
        let chunks = ["yes h", "unter2-canary, hunter2-", "n!\n", "no hunter2-canary"].map(Bytes::from).into();
        let mut body = RedactedBody::new(Slow(chunks, None), needles(), Arc::default());
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(seen, ["yes ", "h", "*************, ", "hunter2-", "n!\n", "no ", "**************"]);
    }

    #[tokio::test]
    async fn what_has_come_goes_on_while_the_far_side_waits() {
        /// One frame, then silence.
        struct Silent(Option<Bytes>);
        impl Body for Silent {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
            }
        }
        let event = Silent(Some("data: {\"a\": \"hunter2-canary\"}\n\n".into()));
        let mut body = RedactedBody::new(event, needles(), Arc::default());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: {\"a\": \"**************\"}\n\n");
        // What could be base64 in lines waits a little.
        let word = Silent(Some("data: hunter2-canary\n\n".into()));
        let mut body = RedactedBody::new(word, needles(), Arc::default());
        for part in ["data: ", "**************\n\n"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), part);
        }
    }

    #[tokio::test]
    async fn a_whole_message_does_not_wait() {
        let head = HeaderMap::from_iter([(hyper::header::CONTENT_TYPE, "application/grpc".parse().unwrap())]);
        let message = |text: &str| [&[0, 0, 0, 0, text.len() as u8], text.as_bytes()].concat();
        let (first, second) = (message("hunter2-canary"), message("hunter2-cana"));
        let pieces: Vec<_> = [&first[..9], &first[9..], &second].map(Bytes::copy_from_slice).into();
        let frames = Frames(pieces.into_iter().map(Frame::data).collect());
        let masked = Arc::new(AtomicU64::new(0));
        let mut body = RedactedBody::new(frames, needles(), masked.clone()).after(&head);
        let mut seen = Vec::new();
        for length in [first.len(), first.len() + second.len()] {
            while seen.len() < length {
                seen.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
                assert!(seen.len() <= length, "the next message came with it");
            }
        }
        assert_eq!(seen, [message("**************"), second].concat());
        assert_eq!(masked.load(Ordering::Relaxed), 1);
    }
}
