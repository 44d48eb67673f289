//! A WebSocket after its handshake, and raw tunnels: bytes both ways. What comes
//! back of a WebSocket is masked in place: frames from a server are not scrambled
//! (RFC 6455, 5.1), and masking keeps lengths.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::exchange::{Direction, Exchange};
use super::frames::Frames;
use super::redact::Needles;
use super::shared::Place;

/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;

/// Passes bytes on until both sides have closed.
pub fn start(
    (agent, place): (OnUpgrade, Place),
    origin: OnUpgrade,
    needles: Option<Needles>,
    exchange: &Arc<Exchange>,
) {
    let exchange = Arc::clone(exchange);
    tokio::spawn(async move {
        let (Ok(agent), Ok(origin)) = tokio::join!(agent, origin) else {
            exchange.broke(Direction::Back, &"the protocol was not changed");
            return;
        };
        both_ways(TokioIo::new(agent), TokioIo::new(origin), needles, &exchange).await;
        drop(place);
    });
}

/// Passes bytes on between any two streams, counted for the record; a side that
/// has ended is passed on as an end, and the other goes on.
pub async fn both_ways<A, B>(agent: A, origin: B, needles: Option<Needles>, exchange: &Exchange)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut agent_reads, mut agent_writes) = split(agent);
    let (mut origin_reads, mut origin_writes) = split(origin);
    let out = one_way(&mut agent_reads, &mut origin_writes, None, (exchange, Direction::Out));
    let back = one_way(&mut origin_reads, &mut agent_writes, needles, (exchange, Direction::Back));
    // An end goes on, and the other direction with it; a break ends both.
    if let Err((direction, error)) = tokio::try_join!(out, back) {
        exchange.broke(direction, &error);
    }
}

async fn one_way<R, W>(
    from: &mut R,
    to: &mut W,
    needles: Option<Needles>,
    (exchange, direction): (&Exchange, Direction),
) -> Result<(), (Direction, std::io::Error)>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let broken = |error| (direction, error);
    let mut frames = needles.map(Frames::new);
    let masked: &AtomicU64 = exchange.redacted();
    let mut counted = 0;
    let mut count = |frames: &Frames| {
        masked.fetch_add(frames.count() - counted, Ordering::Relaxed);
        counted = frames.count();
    };
    let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => {}
            // A TLS peer that closes without a word (RFC 8446, 6.1) has ended too.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(broken(error)),
        }
        let chunk = buffer.split().freeze();
        exchange.passed(direction, chunk.len());
        let chunk = match &mut frames {
            Some(frames) => {
                let chunk = frames.push(chunk).map_err(broken)?;
                count(frames);
                chunk
            }
            None => chunk,
        };
        to.write_all(&chunk).await.map_err(broken)?;
        to.flush().await.map_err(broken)?;
    }
    if let Some(frames) = &mut frames {
        let rest = frames.finish();
        count(frames);
        to.write_all(&rest).await.map_err(broken)?;
    }
    to.shutdown().await.map_err(broken)
}
