//! Reads as much as is there. TLS gives one record, at most 16 KiB, for each
//! read; passed on one by one, each would cost a wake-up of two tasks and a
//! system call for writing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose reads fill the buffer as far as they can without waiting.
pub struct Greedy<S> {
    inner: S,
    /// Came after bytes that had to be given out first.
    broken: Option<io::Error>,
}

impl<S> Greedy<S> {
    /// Around `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, broken: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greedy<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let before = to.filled().len();
        loop {
            let had = to.filled().len();
            let got = Pin::new(&mut self.inner).poll_read(context, to);
            let some = to.filled().len() > before;
            match got {
                // Whoever reads again after these bytes is woken: the stream has
                // kept the waker.
                Poll::Pending if some => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) if some => {
                    self.broken = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) if to.filled().len() > had && to.remaining() > 0 => {}
                other => return other,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greedy<S> {
    super::writes_through!(inner);
}
