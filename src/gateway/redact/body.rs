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

use super::{Needles, Redactor, mask_headers};

/// After so long without more, a held end may go on.
const QUIET: Duration = Duration::from_millis(50);
/// And only if it is this short, in bytes.
const SHORT: usize = 4;

/// `B` with every needle masked in its data and in the values of its trailers.
/// Its length is that of `B`.
#[derive(Debug)]
pub struct RedactedBody<B> {
    inner: B,
    needles: Needles,
    redactor: Redactor,
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
        Self { inner, redactor: Redactor::new(needles.clone()), needles, masked, rest: Rest::Unknown, quiet: None }
    }

    /// Nothing comes now: a short end that is held back goes on after a while.
    fn wait_a_while<E>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if self.redactor.held() == 0 {
            return Poll::Pending;
        }
        let quiet = self.quiet.get_or_insert_with(|| Box::pin(tokio::time::sleep(QUIET)));
        ready!(quiet.as_mut().poll(cx));
        match self.data(|redactor| redactor.let_go(SHORT)) {
            Some(frame) => {
                self.quiet = None;
                Poll::Ready(Some(Ok(frame)))
            }
            // Longer than may be let go: the sender has to say more.
            None => Poll::Pending,
        }
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
                Ok(data) => this.data(|redactor| redactor.push(data)),
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
    async fn a_short_end_goes_on_when_nothing_more_comes() {
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
                self.1 = Some(Box::pin(tokio::time::sleep(QUIET * 4)));
                Poll::Ready((!self.0.is_empty()).then(|| Ok(Frame::data(self.0.remove(0)))))
            }
        }
        let chunks = ["yes h", "unter2-canary, hunter2-", "n!"].map(Bytes::from).into();
        let mut body = RedactedBody::new(Slow(chunks, None), needles(), Arc::default());
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(seen, ["yes ", "h", "*************, ", "hunter2-n!"]);
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
        let event = Silent(Some("data: hunter2-canary\n\n".into()));
        let mut body = RedactedBody::new(event, needles(), Arc::default());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: **************\n\n");
    }
}
