//! Plain byte streams: what a server sends after a WebSocket handshake. Its
//! frames are not masked (RFC 6455, section 5.1) and keep their lengths.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Redactor;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Copies until the end of `from`, redacted, and then shuts `to` down. What
/// was read goes on at once. `masked` grows with each occurrence, so that it is
/// right whenever the stream breaks. Returns the bytes written.
pub async fn copy_redacted<R, W>(mut from: R, mut to: W, mut redactor: Redactor, masked: &AtomicU64) -> io::Result<u64>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; CHUNK];
    let mut written = 0;
    loop {
        let read = from.read(&mut buffer).await?;
        let before = redactor.count();
        let out = if read == 0 { redactor.finish() } else { redactor.push(Bytes::copy_from_slice(&buffer[..read])) };
        masked.fetch_add(redactor.count() - before, Ordering::Relaxed);
        if !out.is_empty() {
            to.write_all(&out).await?;
            to.flush().await?;
            written += out.len() as u64;
        }
        if read == 0 {
            to.shutdown().await?;
            return Ok(written);
        }
    }
}
