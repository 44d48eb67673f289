//! Bodies that stream through: counted, and tied to the record of their request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Frame};

use super::exchange::{Direction, Exchange};

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Any body that the gateway passes on.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body whose bytes are counted for the record. The record is written when
/// the request's and the response's body are both gone.
pub struct Counted<B> {
    inner: B,
    exchange: Arc<Exchange>,
    direction: Direction,
}

impl<B> Counted<B> {
    /// Counts what passes of `inner`.
    pub fn new(inner: B, exchange: Arc<Exchange>, direction: Direction) -> Self {
        Self { inner, exchange, direction }
    }
}

impl<B> HttpBody for Counted<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.passed(self.direction, data.len());
                }
                if let (Direction::Out, Some(trailers)) = (self.direction, frame.trailers_mut()) {
                    self.exchange.strip_trailers(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = error.into();
                self.exchange.broke(self.direction, &error);
                Some(Err(error))
            }
            None => None,
        })
    }

    super::length_of!(inner);
}
