//! The first bytes of a connection, looked at and put back: TLS with the name
//! that it asks for, or something else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A ClientHello is at most one handshake message (RFC 8446, 4): 64 KiB.
const LONGEST_HELLO: usize = 72 << 10;
/// The record type of a handshake, and the major version of every TLS.
const HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// What a connection begins with.
#[derive(Debug)]
pub enum Opening {
    /// TLS; the name of its server_name extension (RFC 6066, 3), if any.
    Tls(Option<String>),
    /// TLS that cannot be understood.
    BadTls(String),
    /// Not TLS.
    Other,
    /// Nothing: the other side has closed.
    Nothing,
}

/// A stream with the bytes that were read of it before put back.
#[derive(Debug)]
pub struct Replayed<S> {
    first: BytesMut,
    inner: S,
}

impl<S: AsyncRead + Unpin> Replayed<S> {
    /// Reads as much as the opening takes; nothing of it is lost.
    pub async fn open(mut inner: S) -> io::Result<(Opening, Self)> {
        let mut first = BytesMut::with_capacity(2048);
        while first.len() < HANDSHAKE.len() {
            if inner.read_buf(&mut first).await? == 0 {
                let opening = if first.is_empty() { Opening::Nothing } else { Opening::Other };
                return Ok((opening, Self { first, inner }));
            }
            if !HANDSHAKE.starts_with(&first[..first.len().min(HANDSHAKE.len())]) {
                return Ok((Opening::Other, Self { first, inner }));
            }
        }
        let mut acceptor = Acceptor::default();
        let mut fed = 0;
        let opening = loop {
            let mut rest = &first[fed..];
            while !rest.is_empty() {
                if acceptor.read_tls(&mut rest)? == 0 {
                    break;
                }
            }
            fed = first.len();
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    break Opening::Tls(accepted.client_hello().server_name().map(str::to_owned));
                }
                Ok(None) if fed > LONGEST_HELLO => break Opening::BadTls("the ClientHello has no end".to_owned()),
                Ok(None) => {}
                Err((error, _)) => break Opening::BadTls(error.to_string()),
            }
            if inner.read_buf(&mut first).await? == 0 {
                break Opening::BadTls("the ClientHello was cut short".to_owned());
            }
        };
        Ok((opening, Self { first, inner }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, to);
        }
        let length = self.first.len().min(to.remaining());
        to.put_slice(&self.first[..length]);
        self.first.advance(length);
        if self.first.is_empty() {
            self.first = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
    super::writes_through!(inner);
}
