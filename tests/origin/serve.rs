//! HTTP on a connection: each request is written down, then answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::answers;
use crate::body::{Answer, Received, pairs, whole};
use crate::sockets::World;

/// What is known of a connection.
#[derive(Clone)]
pub struct Facts {
    /// Its number.
    pub connection: u64,
    /// The address that was dialled.
    pub dialled: SocketAddr,
    /// The name in the TLS hello.
    pub sni: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// Whether it is TLS.
    pub secure: bool,
}

/// Serves HTTP/1.1 or HTTP/2 until the client goes.
pub async fn http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, facts: Facts, world: Arc<World>) {
    let service = service_fn(move |request| one(request, facts.clone(), world.clone()));
    let mut builder = Builder::new(TokioExecutor::new());
    // Half of a connection may be closed early: `nc` and raw clients do that.
    builder.http1().half_close(true).max_buf_size(1 << 20);
    builder.http2().max_header_list_size(1 << 20);
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn one(request: Request<Incoming>, facts: Facts, world: Arc<World>) -> Result<Response<Answer>, Infallible> {
    let number = world.records.number();
    let line = json!({
        "id": number, "connection": facts.connection, "dialled": facts.dialled.ip(), "port": facts.dialled.port(),
        "secure": facts.secure, "sni": facts.sni, "alpn": facts.alpn, "version": format!("{:?}", request.version()),
        "method": request.method().as_str(), "target": request.uri().to_string(),
        "path": request.uri().path_and_query().map(|path| path.as_str()),
        "authority": request.uri().authority().map(|authority| authority.as_str()),
        "host": request.headers().get("host").and_then(|host| host.to_str().ok()),
        "headers": pairs(request.headers()),
    });
    world.records.request("request", line);
    let records = world.records.clone();
    let (mut parts, incoming) = request.into_parts();
    parts.extensions.insert(facts);
    let received = Received::new(incoming, records, number);
    let head = parts.method == Method::HEAD;
    let answer = answers::answer(parts, received, &world).await;
    let answer = answer.map(|answer| if head { without_body(answer) } else { answer });
    Ok(answer.unwrap_or_else(|error| {
        let mut failed = Response::new(whole(format!("the origin failed: {error}\n")));
        *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        failed
    }))
}

/// What HEAD is answered with: hyper leaves that to the service in HTTP/2.
fn without_body(mut answer: Response<Answer>) -> Response<Answer> {
    let length = answer.body().size_hint().exact();
    *answer.body_mut() = whole("");
    if let Some(length) = length.filter(|_| !answer.headers().contains_key("content-length")) {
        answers::set(answer.headers_mut(), "content-length", &length.to_string());
    }
    answer
}
