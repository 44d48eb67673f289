//! Echoes: everything that a request held comes back, in many dresses. What
//! a careless or hostile server could tell an agent about its credentials.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, StatusCode};
use serde_json::json;

use crate::answers::{plain as text, set};
use crate::body::{Answer, Received, pairs, pieces};

/// Method, target, headers and body as JSON.
async fn everything(parts: &Parts, body: Received) -> Vec<u8> {
    let body = body.all().await;
    let value = json!({
        "method": parts.method.as_str(), "target": parts.uri.to_string(), "headers": pairs(&parts.headers),
        "body": String::from_utf8_lossy(&body),
    });
    format!("{value}\n").into_bytes()
}

/// The echo itself.
pub async fn plain(parts: Parts, body: Received) -> Response<Answer> {
    text(StatusCode::OK, "application/json", everything(&parts, body).await)
}

/// The first credential of the request, as it came.
fn credential(parts: &Parts) -> String {
    ["authorization", "x-api-key", "x-key", "private-token"]
        .iter()
        .find_map(|name| parts.headers.get(*name))
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

/// The credential without its scheme; what Basic holds, decoded, is the part
/// after the colon.
fn bare(credential: &str) -> String {
    let last = credential.rsplit(' ').next().unwrap_or_default();
    if credential.starts_with("Basic ") {
        let decoded = STANDARD.decode(last).unwrap_or_default();
        let decoded = String::from_utf8_lossy(&decoded).into_owned();
        return decoded.split_once(':').map(|(_, password)| password.to_owned()).unwrap_or(decoded);
    }
    last.to_owned()
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// `/echo-KIND`.
pub async fn dressed(
    kind: &str,
    parts: Parts,
    body: Received,
    query: BTreeMap<String, String>,
) -> io::Result<Response<Answer>> {
    let credential = credential(&parts);
    let secret = bare(&credential);
    let ok = StatusCode::OK;
    Ok(match kind {
        "echo-secret" => text(ok, "text/plain", secret),
        "echo-b64" => text(ok, "text/plain", STANDARD.encode(&secret)),
        // In the middle of something longer, at each of the three alignments.
        "echo-b64-shifted" => {
            let shifts: Vec<String> =
                ["x", "xy", "xyz"].iter().map(|before| STANDARD.encode(format!("{before}{secret}tail"))).collect();
            text(ok, "text/plain", shifts.join("\n"))
        }
        "echo-b64-url" => text(ok, "text/plain", URL_SAFE_NO_PAD.encode(&secret)),
        "echo-url" => text(ok, "text/plain", percent(&secret)),
        "echo-url-lower" => text(ok, "text/plain", percent(&secret).to_lowercase()),
        "echo-json" => text(ok, "application/json", json!({"secret": secret}).to_string()),
        "echo-json-escaped" => {
            let escape = |one: char| match one {
                'a'..='z' | 'A'..='Z' | '0'..='9' => one.to_string(),
                _ => format!("\\u{:04X}", one as u32),
            };
            let escaped: String = secret.chars().map(escape).collect();
            text(ok, "application/json", format!("{{\"secret\":\"{escaped}\"}}"))
        }
        "echo-json-slash" => {
            let quoted = json!(secret).to_string().replace('/', "\\/");
            text(ok, "application/json", format!("{{\"secret\":{quoted}}}"))
        }
        "echo-header" => {
            let mut answer = text(ok, "text/plain", "in a header\n");
            set(answer.headers_mut(), "x-echo", &credential);
            set(answer.headers_mut(), "set-cookie", &format!("token={}", percent(&secret)));
            set(answer.headers_mut(), "www-authenticate", &format!("Bearer realm=\"{secret}\""));
            set(answer.headers_mut(), "location", &format!("/next?token={secret}"));
            answer
        }
        "echo-reason" => {
            let mut answer = text(StatusCode::BAD_REQUEST, "text/plain", format!("bad credential {credential}\n"));
            if let Ok(reason) = ReasonPhrase::try_from(secret.clone().into_bytes()) {
                answer.extensions_mut().insert(reason);
            }
            answer
        }
        "echo-error" => text(StatusCode::UNAUTHORIZED, "text/plain", format!("bad credential {credential}\n")),
        "echo-trailer" => {
            let (sender, out) = pieces();
            tokio::spawn(async move {
                sender.send("in a trailer\n").await;
                let mut trailers = HeaderMap::new();
                set(&mut trailers, "x-echo", &credential);
                sender.trailers(trailers).await;
            });
            let mut answer = Response::new(out);
            set(answer.headers_mut(), "trailer", "x-echo");
            answer
        }
        "echo-split" => {
            let size = query.get("size").and_then(|size| size.parse().ok()).unwrap_or(1usize).max(1);
            let all = everything(&parts, body).await;
            let (sender, out) = pieces();
            tokio::spawn(async move {
                for piece in all.chunks(size) {
                    if !sender.send(Bytes::copy_from_slice(piece)).await {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            });
            Response::new(out)
        }
        "echo-gzip" | "echo-deflate" => {
            let all = everything(&parts, body).await;
            let level = flate2::Compression::default();
            let (name, packed) = if kind == "echo-gzip" {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&all)?;
                ("gzip", encoder.finish()?)
            } else {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(&all)?;
                ("deflate", encoder.finish()?)
            };
            let mut answer = text(ok, "application/json", packed);
            set(answer.headers_mut(), "content-encoding", name);
            answer
        }
        // Says that it is compressed with something that nobody can open.
        "echo-unknown-coding" => {
            let mut answer = text(ok, "text/plain", everything(&parts, body).await);
            set(answer.headers_mut(), "content-encoding", "belljar-unknown");
            answer
        }
        "echo-sse" => {
            let (sender, out) = pieces();
            tokio::spawn(async move {
                for part in [credential.as_str(), "done"] {
                    sender.send(format!("data: {part}\n\n")).await;
                }
            });
            let mut answer = Response::new(out);
            set(answer.headers_mut(), "content-type", "text/event-stream");
            answer
        }
        // As a range of the echo, as an agent would fetch a secret in pieces.
        "echo-range" => {
            let all = everything(&parts, body).await;
            let range = parts.headers.get("range").and_then(|range| range.to_str().ok());
            let bounds = range
                .and_then(|range| range.strip_prefix("bytes="))
                .and_then(|range| range.split_once('-'))
                .and_then(|(from, to)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?)));
            match bounds {
                Some((from, to)) if from <= to && to < all.len() => {
                    let mut answer = text(StatusCode::PARTIAL_CONTENT, "text/plain", all[from..=to].to_vec());
                    set(answer.headers_mut(), "content-range", &format!("bytes {from}-{to}/{}", all.len()));
                    answer
                }
                _ => text(ok, "text/plain", all),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "text/plain", "no such echo\n"),
    })
}
