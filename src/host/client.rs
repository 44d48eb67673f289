//! Asking the host process, over HTTP on its Unix socket.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::error::{Context, Error, Result};

/// Longest answer, in bytes.
const LONGEST: usize = 64 << 20;

/// Asks once; an answer that says no is an error, in its own words.
pub fn ask(socket: &Path, method: &str, target: &str, body: Option<&Value>, patience: Duration) -> Result<Value> {
    let runtime = crate::event_loop::start().step(|| "start the event loop".to_owned())?;
    let asked = runtime.block_on(async { timeout(patience, exchange(socket, method, target, body)).await });
    asked
        .unwrap_or_else(|_| Err(Error::failed(format!("no answer within {} s", patience.as_secs())).hint("belljar ps")))
}

async fn exchange(socket: &Path, method: &str, target: &str, body: Option<&Value>) -> Result<Value> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        Error::failed(format!("no host process serves on {}", socket.display()))
            .because(error)
            .hint("belljar serve, or for good: belljar systemd install")
    })?;
    let step = || format!("speak with the host process on {}", socket.display());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.step(step)?;
    // It ends with the answer.
    let connection = tokio::spawn(connection);
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(hyper::header::HOST, "belljar")
        .body(Full::new(Bytes::from(body)))
        .step(step)?;
    let response = sender.send_request(request).await.step(step)?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), LONGEST)
        .collect()
        .await
        .map_err(|error| Error::failed(step()).because(error))?;
    connection.abort();
    let value: Value = serde_json::from_slice(&bytes.to_bytes()).step(step)?;
    if status.is_success() {
        return Ok(value);
    }
    let error = Error::refused(value["error"]["message"].as_str().unwrap_or("the host process refuses"));
    Err(match value["error"]["hint"].as_str() {
        Some(hint) => error.hint(hint),
        None => error,
    })
}
