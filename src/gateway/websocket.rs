//! A WebSocket after its handshake: bytes both ways. What comes back is masked
//! in place: frames from a server are not scrambled (RFC 6455, 5.1), and masking
//! keeps lengths.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::exchange::{Direction, Exchange};
use super::redact::{Needles, Redactor};

/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;

/// Passes bytes on until both sides have closed.
pub fn start(agent: OnUpgrade, origin: OnUpgrade, needles: Option<Needles>, exchange: &Arc<Exchange>) {
    let exchange = Arc::clone(exchange);
    tokio::spawn(async move {
        let (Ok(agent), Ok(origin)) = tokio::join!(agent, origin) else {
            exchange.broke(Direction::Back, &"the protocol was not changed");
            return;
        };
        both_ways(TokioIo::new(agent), TokioIo::new(origin), needles, &exchange).await;
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
    let (out, back) = tokio::join!(out, back);
    for (direction, result) in [(Direction::Out, out), (Direction::Back, back)] {
        if let Err(error) = result {
            exchange.broke(direction, &error);
        }
    }
}

async fn one_way<R, W>(
    from: &mut R,
    to: &mut W,
    needles: Option<Needles>,
    (exchange, direction): (&Exchange, Direction),
) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut redactor = needles.map(Redactor::new);
    let masked: &AtomicU64 = exchange.redacted();
    let mut counted = 0;
    let mut count = |redactor: &Redactor| {
        masked.fetch_add(redactor.count() - counted, std::sync::atomic::Ordering::Relaxed);
        counted = redactor.count();
    };
    let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        if from.read_buf(&mut buffer).await? == 0 {
            break;
        }
        let chunk = buffer.split().freeze();
        exchange.passed(direction, chunk.len());
        let chunk = match &mut redactor {
            Some(redactor) => {
                let chunk = redactor.push(chunk);
                count(redactor);
                chunk
            }
            None => chunk,
        };
        to.write_all(&chunk).await?;
        to.flush().await?;
    }
    if let Some(redactor) = &mut redactor {
        let rest = redactor.finish();
        count(redactor);
        to.write_all(&rest).await?;
    }
    to.shutdown().await
}
