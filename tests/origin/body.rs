//! Bodies: the one that came, counted while it is read, and those that go out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::records::{Records, hex};

/// What the origin answers with.
pub type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// A body in one piece.
pub fn whole(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).boxed_unsync()
}

/// The sender's end of a body that is made while it goes out.
pub struct Pieces(mpsc::Sender<Frame<Bytes>>);

impl Pieces {
    /// Sends a piece; `false` when nobody wants any more.
    pub async fn send(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Frame::data(bytes.into())).await.is_ok()
    }

    /// Ends with trailers.
    pub async fn trailers(self, trailers: HeaderMap) {
        let _ = self.0.send(Frame::trailers(trailers)).await;
    }
}

/// A body that is made while it goes out.
pub fn pieces() -> (Pieces, Answer) {
    let (sender, receiver) = mpsc::channel(2);
    (Pieces(sender), Channel(receiver).boxed_unsync())
}

struct Channel(mpsc::Receiver<Frame<Bytes>>);

impl Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

/// The body of a request: written down when it has ended, however it did.
pub struct Received {
    inner: Incoming,
    records: Arc<Records>,
    request: u64,
    length: u64,
    chunks: u64,
    digest: Sha256,
    trailers: Vec<(String, String)>,
    end: &'static str,
}

impl Received {
    /// The body of the request with this number.
    pub fn new(inner: Incoming, records: Arc<Records>, request: u64) -> Self {
        Self {
            inner,
            records,
            request,
            length: 0,
            chunks: 0,
            digest: Sha256::new(),
            trailers: Vec::new(),
            end: "dropped",
        }
    }

    /// The next piece, trailers left out.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(data);
                    }
                }
                _ => return None,
            }
        }
    }

    /// All of it.
    pub async fn all(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    /// Reads to the end and keeps nothing; length and number of pieces.
    pub async fn count(mut self) -> (u64, u64) {
        while self.next().await.is_some() {}
        (self.length, self.chunks)
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.length += data.len() as u64;
                    self.chunks += 1;
                    self.digest.update(data);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = pairs(trailers);
                }
            }
            Poll::Ready(Some(Err(_))) => self.end = "broken",
            Poll::Ready(None) => self.end = "complete",
            Poll::Pending => {}
        }
        frame
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.inner.is_end_stream() && self.end == "dropped" {
            self.end = "complete";
        }
        let digest = std::mem::take(&mut self.digest).finalize();
        let line = json!({
            "id": self.request, "end": self.end, "length": self.length, "chunks": self.chunks,
            "sha256": hex(&digest), "trailers": self.trailers,
        });
        self.records.request("body", line);
    }
}

/// Fields in the order in which they came, doubled ones twice; bytes that are no
/// text as Latin-1.
pub fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().iter().map(|byte| char::from(*byte)).collect()))
        .collect()
}
