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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::duplex;

    use super::super::Needles;
    use super::*;

    #[tokio::test]
    async fn a_stream_is_redacted_across_reads_and_not_held_up() {
        let needles = Needles::new([&b"hunter2-canary"[..]].into_iter());
        let (mut server, from) = duplex(64);
        let (to, mut client) = duplex(64);
        let masked = AtomicU64::new(0);
        let copy = copy_redacted(from, to, Redactor::new(needles), &masked);
        let talk = async {
            let mut buffer = [0; 64];
            server.write_all(b"\x81\x06hello!").await.unwrap();
            assert_eq!(client.read(&mut buffer).await.unwrap(), 8, "it came while the server waits");
            server.write_all(b"\x81\x0ehunter2-").await.unwrap();
            tokio::task::yield_now().await;
            server.write_all(b"canary").await.unwrap();
            drop(server);
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"\x81\x0e**************");
        };
        assert_eq!(tokio::join!(copy, talk).0.unwrap(), 24);
        assert_eq!(masked.into_inner(), 1);
    }
}
