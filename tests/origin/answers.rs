//! Which path does what. Every name of the world has all of them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, StatusCode};

use crate::body::{Answer, Received, pieces, whole};
use crate::sockets::World;
use crate::{anthropic, echo, git, packages, websocket};

/// The parameters of a query, decoded.
pub fn query(parts: &Parts) -> BTreeMap<String, String> {
    let text = parts.uri.query().unwrap_or_default();
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (first, digits.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The answer's parts, as text.
pub fn plain(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Response<Answer> {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    set(answer.headers_mut(), "content-type", kind);
    answer
}

/// Sets a header; a value that no header may hold is left out.
pub fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.append(name, value);
    }
}

fn number(query: &BTreeMap<String, String>, name: &str, default: u64) -> u64 {
    query.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Answers a request.
pub async fn answer(parts: Parts, body: Received, world: &Arc<World>) -> io::Result<Response<Answer>> {
    let path = parts.uri.path().to_owned();
    let query = query(&parts);
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["echo", ..] => Ok(echo::plain(parts, body).await),
        [kind, ..] if kind.starts_with("echo-") => echo::dressed(kind, parts, body, query).await,
        ["ws", ..] => websocket::answer(parts),
        ["sse", ..] => Ok(events(number(&query, "n", 5), number(&query, "ms", 100))),
        ["big", ..] => Ok(big(number(&query, "size", 1 << 20), query.contains_key("chunked"))),
        ["chunks", ..] => Ok(chunks(number(&query, "n", 1000))),
        ["slow", ..] => {
            tokio::time::sleep(Duration::from_millis(number(&query, "ms", 1000))).await;
            Ok(plain(StatusCode::OK, "text/plain", "slow\n"))
        }
        ["hang", ..] => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(plain(StatusCode::OK, "text/plain", "late\n"))
        }
        ["trailers", ..] => Ok(trailers(body).await),
        [service, _] if service.starts_with("grpc") => Ok(grpc(body)),
        ["redirect", ..] => {
            let code = number(&query, "code", 302) as u16;
            let mut answer =
                plain(StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND), "text/plain", "elsewhere\n");
            set(answer.headers_mut(), "location", query.get("to").map_or("/", String::as_str));
            Ok(answer)
        }
        ["status", code, ..] => {
            body.count().await;
            let status = code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
            Ok(plain(status.unwrap_or(StatusCode::BAD_REQUEST), "text/plain", "status\n"))
        }
        ["count", ..] => {
            let (length, chunks) = body.count().await;
            let text = format!("{{\"length\":{length},\"chunks\":{chunks}}}\n");
            Ok(plain(StatusCode::OK, "application/json", text))
        }
        ["v1" | "api", ..] => anthropic::answer(parts, body).await,
        [name, ..] if name.ends_with(".git") => git::answer(parts, body, world).await,
        [_, name, ..] if name.ends_with(".git") => git::answer(parts, body, world).await,
        ["simple" | "packages" | "tiny-package", ..] => packages::answer(&parts),
        _ => {
            body.count().await;
            let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
            let host = parts.uri.authority().map_or(host, |authority| authority.as_str());
            Ok(plain(StatusCode::OK, "text/plain", format!("origin {host} {path}\n")))
        }
    }
}

/// Server-sent events, one every `pause` milliseconds.
fn events(count: u64, pause: u64) -> Response<Answer> {
    let (sender, body) = pieces();
    tokio::spawn(async move {
        for event in 0..count {
            if event > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            if !sender.send(format!("id: {event}\ndata: event {event}\n\n")).await {
                return;
            }
        }
    });
    let mut answer = Response::new(body);
    set(answer.headers_mut(), "content-type", "text/event-stream");
    set(answer.headers_mut(), "cache-control", "no-cache");
    answer
}

/// As many bytes as asked for, a known pattern.
fn big(size: u64, chunked: bool) -> Response<Answer> {
    let (sender, body) = pieces();
    tokio::spawn(async move {
        let piece = Bytes::from((0..64u32 << 10).map(|index| (index % 251) as u8).collect::<Vec<u8>>());
        let mut left = size;
        while left > 0 {
            let now = left.min(piece.len() as u64);
            if !sender.send(piece.slice(..now as usize)).await {
                return;
            }
            left -= now;
        }
    });
    let mut answer = Response::new(body);
    if !chunked {
        set(answer.headers_mut(), "content-length", &size.to_string());
    }
    answer
}

/// Many chunks of one byte.
fn chunks(count: u64) -> Response<Answer> {
    let (sender, body) = pieces();
    tokio::spawn(async move {
        for _ in 0..count {
            if !sender.send(Bytes::from_static(b"x")).await {
                return;
            }
        }
    });
    Response::new(body)
}

async fn trailers(body: Received) -> Response<Answer> {
    body.count().await;
    let (sender, body) = pieces();
    tokio::spawn(async move {
        sender.send("a body with trailers\n").await;
        let mut trailers = HeaderMap::new();
        set(&mut trailers, "x-sum", "42");
        sender.trailers(trailers).await;
    });
    let mut answer = Response::new(body);
    set(answer.headers_mut(), "trailer", "x-sum");
    answer
}

/// What a gRPC server does with frames: gives each back as it comes, and ends
/// with its status in the trailers.
fn grpc(mut body: Received) -> Response<Answer> {
    let (sender, out) = pieces();
    tokio::spawn(async move {
        while let Some(piece) = body.next().await {
            if !sender.send(piece).await {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        set(&mut trailers, "grpc-status", "0");
        set(&mut trailers, "grpc-message", "fine");
        sender.trailers(trailers).await;
    });
    let mut answer = Response::new(out);
    set(answer.headers_mut(), "content-type", "application/grpc");
    answer
}
