//! The origin: HTTP/1.1 and HTTP/2 over TLS.
//!
//! /cl       1 KiB with Content-Length
//! /chunked  1 KiB in four chunks, each sent on its own
//! /sse      an event at once, then one a second, without end
//! /big      `?bytes=N` bytes with Content-Length
//! /auth     200 when the expected bearer token came, else 401

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Interval, interval_at};
use tokio_rustls::TlsAcceptor;

use crate::{Failure, keys};

const SMALL: usize = 1024;
const CHUNKS: usize = 4;
const SECOND: Duration = Duration::from_secs(1);
/// Bytes of the big body given to hyper at once.
const PIECE: usize = 64 * 1024;

#[derive(clap::Args)]
pub struct Options {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:443")]
    listen: SocketAddr,
    /// The name of the certificate.
    #[arg(long)]
    name: String,
    /// The file that the authority's certificate is written to.
    #[arg(long)]
    authority: PathBuf,
    /// The protocols it offers, the best first.
    #[arg(long, value_delimiter = ',', default_value = "h2,http/1.1")]
    protocols: Vec<String>,
    /// The bearer token that /auth expects.
    #[arg(long)]
    expect: Option<String>,
}

pub async fn serve(options: Options) -> Result<(), Failure> {
    let listener = TcpListener::bind(options.listen).await?;
    let mut tls = keys::make(&options.name, &options.authority)?;
    tls.alpn_protocols = options.protocols.into_iter().map(String::into_bytes).collect();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let expected = options.expect.map(|token| Arc::from(format!("Bearer {token}")));
    let piece = piece();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream, acceptor.clone(), piece.clone(), expected.clone()));
    }
}

/// A client that goes away is no failure of the origin's.
async fn connection(stream: TcpStream, acceptor: TlsAcceptor, piece: Bytes, expected: Option<Arc<str>>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| {
        let response = answer(&request, &piece, expected.as_deref());
        async { Ok::<_, Infallible>(response) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, piece: &Bytes, expected: Option<&str>) -> Response<Answer> {
    let text = Response::builder().header(CONTENT_TYPE, "text/plain");
    let built = match request.uri().path() {
        "/cl" => text.body(Answer::Sized { piece: piece.clone(), left: SMALL as u64 }),
        "/chunked" => {
            let chunks = (0..CHUNKS).map(|_| piece.slice(..SMALL / CHUNKS)).collect();
            text.body(Answer::Chunks { chunks, sent: false })
        }
        "/sse" => Response::builder().header(CONTENT_TYPE, "text/event-stream").body(Answer::Events(None)),
        "/big" => {
            let bytes = request.uri().query().and_then(|query| query.strip_prefix("bytes=")?.parse().ok());
            text.body(Answer::Sized { piece: piece.clone(), left: bytes.unwrap_or_default() })
        }
        "/auth" => {
            let came = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let status = if came == expected { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            text.status(status).body(Answer::Sized { piece: piece.clone(), left: 0 })
        }
        _ => text.status(StatusCode::NOT_FOUND).body(Answer::Sized { piece: piece.clone(), left: 0 }),
    };
    built.expect("the head is made of constants")
}

/// Text that does not repeat within a piece: words in no order.
fn piece() -> Bytes {
    let mut number = 0x9e37_79b9_u32;
    let letters = std::iter::repeat_with(move || {
        number ^= number << 13;
        number ^= number >> 17;
        number ^= number << 5;
        b"etaoin shrdlu cmfwyp vbgkqj xz 0123456789 {\":,}"[number as usize % 47]
    });
    letters.take(PIECE).collect()
}

enum Answer {
    Sized {
        piece: Bytes,
        left: u64,
    },
    Chunks {
        chunks: VecDeque<Bytes>,
        sent: bool,
    },
    /// With the clock of all but the first.
    Events(Option<Interval>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Sized { left: 0, .. } => None,
            Self::Sized { piece, left } => {
                let length = (piece.len() as u64).min(*left);
                *left -= length;
                Some(piece.slice(..length as usize))
            }
            Self::Chunks { chunks, sent } => {
                // Pending once after each, so that hyper sends it before the next.
                *sent = !*sent;
                if !*sent && !chunks.is_empty() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                chunks.pop_front()
            }
            Self::Events(clock) => {
                match clock {
                    Some(clock) => _ = std::task::ready!(clock.poll_tick(cx)),
                    None => *clock = Some(interval_at(Instant::now() + SECOND, SECOND)),
                }
                Some(Bytes::from_static(b"data: {\"delta\":\"some words\"}\n\n"))
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Sized { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Sized { left, .. } => SizeHint::with_exact(*left),
            Self::Chunks { .. } | Self::Events(_) => SizeHint::default(),
        }
    }
}
