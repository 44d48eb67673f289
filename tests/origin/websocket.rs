//! A WebSocket (RFC 6455) that gives every frame back. It agrees to
//! permessage-deflate when that is offered, without using it; a text frame
//! `headers` is answered with the headers of the handshake.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::answers::{plain, set};
use crate::body::{Answer, pairs, whole};

const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The handshake.
pub fn answer(parts: Parts) -> io::Result<Response<Answer>> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !header("upgrade").eq_ignore_ascii_case("websocket") {
        return Ok(plain(StatusCode::UPGRADE_REQUIRED, "text/plain", "a WebSocket\n"));
    }
    let key = format!("{}{MAGIC}", header("sec-websocket-key"));
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
    let deflate = header("sec-websocket-extensions").contains("permessage-deflate");
    let headers = json!(pairs(&parts.headers)).to_string();
    let upgrade = hyper::upgrade::on(Request::from_parts(parts, ()));
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let _ = frames(TokioIo::new(upgraded), &headers).await;
        }
    });
    let mut answer = Response::new(whole(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set(answer.headers_mut(), "upgrade", "websocket");
    set(answer.headers_mut(), "connection", "Upgrade");
    set(answer.headers_mut(), "sec-websocket-accept", &STANDARD.encode(digest));
    if deflate {
        set(answer.headers_mut(), "sec-websocket-extensions", "permessage-deflate");
    }
    Ok(answer)
}

async fn frames(mut stream: TokioIo<hyper::upgrade::Upgraded>, headers: &str) -> io::Result<()> {
    loop {
        let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut mask = [0u8; 4];
        if second & 0x80 != 0 {
            stream.read_exact(&mut mask).await?;
        }
        let mut payload = vec![0u8; length.min(64 << 20) as usize];
        stream.read_exact(&mut payload).await?;
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[index % 4];
        }
        if payload == b"headers" {
            payload = headers.as_bytes().to_vec();
        }
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(short as u8),
            middle @ 126..65536 => {
                frame.push(126);
                frame.extend((middle as u16).to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        stream.write_all(&frame).await?;
        stream.flush().await?;
        if first & 0x0f == 8 {
            return Ok(());
        }
    }
}
