//! One connection of the agent: by the proxy's CONNECT or by its address, with
//! TLS or without, to HTTP or to bytes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::Body;
use super::exchange::Exchange;
use super::forward::{self, Scheme, Scope};
use super::greedy::Greedy;
use super::internal::is_own;
use super::patient::{Patient, Phase};
use super::refusal::Refusal;
use super::shared::{Inspection, Place, Shared};
use super::sniff::{Opening, Replayed};
use super::websocket::both_ways;
use crate::policy::{Authority, Host};
use crate::record::{Entry, Kind};

/// Longest request head, in bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection; those that wait cost memory too.
const STREAMS: u32 = 32;
/// What may wait unread of one HTTP/2 stream and of one connection, in bytes
/// (RFC 9113, 6.9): together with the number of connections it bounds memory.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
/// What may wait unsent of one answer, in bytes.
const SEND_BUFFER: usize = 32 << 10;

/// How long the first byte may take on a port that is not usual for HTTP.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Where a connection leads before it has said anything.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The name or address that it was made for.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// How the host is known.
    pub known_by: KnownBy,
}

/// How the host of a connection is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    /// The agent named it: by CONNECT, or by a stand-in address.
    Name,
    /// The agent dialled an address that no name was given for; TLS or HTTP may
    /// say a name, which is then resolved anew.
    Address,
}

impl Destination {
    /// Of a connection to an address.
    pub fn of_address(address: IpAddr, port: u16, shared: &Shared) -> Self {
        match shared.host_at(address) {
            Some(host) => Self { host, port, known_by: KnownBy::Name },
            None => {
                let host = match address.to_canonical() {
                    IpAddr::V4(address) => Host::V4(address),
                    IpAddr::V6(address) => Host::V6(address),
                };
                Self { host, port, known_by: KnownBy::Address }
            }
        }
    }
}

/// Any stream of the agent's.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Serves a connection to the proxy.
pub async fn proxy(stream: impl Stream, shared: Arc<Shared>, place: Place) {
    let (phase, patient) = patient(stream, &shared);
    let on_request = service_fn(move |mut request: Request<Incoming>| {
        phase.busy();
        request.extensions_mut().insert(phase.clone());
        let tunnel = request.method() == Method::CONNECT;
        let answer = proxied(request, Arc::clone(&shared), Arc::clone(&place));
        let phase = phase.clone();
        // After CONNECT the connection is the tunnel's, if it was opened.
        async move {
            answer.await.map(|answer| {
                if tunnel && answer.status().is_success() { answer } else { phase.until_the_end_of(answer) }
            })
        }
    });
    // What a client does wrong ends its connection, and nothing else.
    let _ = http1_server().serve_connection(patient, on_request).with_upgrades().await;
}

/// One request to the proxy: CONNECT, or http in absolute form.
async fn proxied(request: Request<Incoming>, shared: Arc<Shared>, place: Place) -> Result<Response<Body>, Infallible> {
    let refused = |refusal: Refusal| {
        let entry = Entry {
            method: Some(forward::shown(request.method())),
            action: Some(refusal.code.to_owned()),
            reason: Some(shared.secrets.needles().mask_text(&refusal.reason).0),
            status: Some(refusal.status.as_u16()),
            ..Entry::new(Kind::Refused, SystemTime::now())
        };
        shared.record(entry);
        Ok(refusal.response(&shared.run, request.method()))
    };
    if request.method() == Method::CONNECT {
        return match connect_target(&request) {
            Ok(destination) => {
                let upgrade = hyper::upgrade::on(request);
                tokio::spawn(async move {
                    if let Ok(stream) = upgrade.await {
                        connection(TokioIo::new(stream), destination, shared, place).await;
                    }
                });
                Ok(Response::new(Body::default()))
            }
            Err(refusal) => refused(refusal),
        };
    }
    match absolute_target(&request) {
        Ok((host, port)) => {
            let scope = Scope { scheme: Scheme::Http, host: Some(host), port, place };
            forward::answer(request, Arc::new(scope), shared).await
        }
        Err(refusal) => refused(refusal),
    }
}

/// The target of CONNECT (RFC 9110, 9.3.6): one host and port, said once.
fn connect_target(request: &Request<Incoming>) -> Result<Destination, Refusal> {
    let headers = request.headers();
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::malformed("CONNECT has no body"));
    }
    let parse = |text: &str| {
        Authority::parse(text).map_err(|problem| Refusal::malformed(format!("the target of CONNECT: {problem}")))
    };
    let target = parse(request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default())?;
    let Some(port) = target.port else {
        return Err(Refusal::malformed("the target of CONNECT has no port"));
    };
    let mut hosts = headers.get_all(HOST).iter();
    if let Some(host) = hosts.next() {
        let named = parse(host.to_str().unwrap_or_default())?;
        if hosts.next().is_some() || named.host != target.host || named.port.is_some_and(|named| named != port) {
            return Err(Refusal::denied("names_disagree", "CONNECT and its Host header name different hosts"));
        }
    }
    Ok(Destination { host: target.host, port, known_by: KnownBy::Name })
}

/// The origin of a request in absolute form (RFC 9112, 3.2.2).
fn absolute_target(request: &Request<Incoming>) -> Result<(Host, u16), Refusal> {
    let uri = request.uri();
    let Some(authority) = uri.authority() else {
        return Err(Refusal::malformed("this is belljar's proxy: send CONNECT, or http:// in absolute form"));
    };
    if uri.scheme_str() != Some("http") {
        return Err(Refusal::malformed("the proxy takes http:// in absolute form; for https send CONNECT"));
    }
    let authority = Authority::parse(authority.as_str())
        .map_err(|problem| Refusal::malformed(format!("the request's target: {problem}")))?;
    Ok((authority.host, authority.port.unwrap_or(80)))
}

/// Serves a connection that leads to a destination.
pub async fn connection(stream: impl Stream, destination: Destination, shared: Arc<Shared>, place: Place) {
    let Destination { host, port, .. } = &destination;
    // The gateway's own host is nowhere that a tunnel could lead to.
    if !is_own(host) && shared.policy.decide_tcp(&shared.group, host, *port) {
        return tunnel(stream, &destination, Kind::Tcp, &shared).await.unwrap_or_default();
    }
    // Where HTTP is not usual, a program that says nothing most likely waits for
    // the server to speak first (ssh, SMTP, MySQL).
    let usual = matches!(port, 80 | 443);
    let patience = if usual { shared.times.header } else { shared.times.header.min(FIRST_BYTE) };
    let (opening, stream) = match timeout(patience, Replayed::open(stream)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(_)) => return,
        Err(_) if usual => return,
        Err(_) => {
            let why = format!(
                "the program waited for {host} to speak first, which is neither TLS nor HTTP; a person can open \
                 port {port} in policy.toml: [[tcp]] host = \"{host}\", port = {port}"
            );
            return record_refusal(&destination, "raw_connection", &why, &shared);
        }
    };
    match opening {
        Opening::Nothing => {}
        Opening::Tls(name) => match agree(&destination, name.as_deref()) {
            Ok(destination) => tls(stream, destination, shared, place).await,
            Err(refusal) => {
                let shown = name.and_then(|name| Host::parse(&name).ok()).unwrap_or(destination.host.clone());
                refuse_tls(stream, &shown, &destination, refusal, shared).await;
            }
        },
        Opening::BadTls(why) => record_refusal(&destination, "malformed_tls", &why, &shared),
        Opening::Other => {
            let host = match destination.known_by {
                KnownBy::Name => Some(destination.host),
                KnownBy::Address => None,
            };
            let scope = Scope { scheme: Scheme::Http, host, port: destination.port, place };
            http(stream, scope, shared).await;
        }
    }
}

/// The name that the connection was made for, and the one that TLS asks for.
fn agree(destination: &Destination, asked: Option<&str>) -> Result<Destination, Refusal> {
    let disagree = |asked: &str| {
        Refusal::denied(
            "names_disagree",
            format!("the connection is for {}, and TLS asks for {asked}", destination.host),
        )
        .hint("open a connection of its own to each host")
    };
    match asked {
        None if matches!(destination.host, Host::Name(_)) => Err(disagree("no name (server_name is missing)")),
        None => Ok(destination.clone()),
        Some(asked) => match (Host::parse(asked), destination.known_by) {
            (Ok(asked), _) if asked == destination.host => Ok(destination.clone()),
            // To a bare address: the name decides, and is resolved anew.
            (Ok(asked), KnownBy::Address) => Ok(Destination { host: asked, ..destination.clone() }),
            _ => Err(disagree(asked)),
        },
    }
}

async fn tls(stream: impl Stream, destination: Destination, shared: Arc<Shared>, place: Place) {
    if shared.inspection == Inspection::None && !is_own(&destination.host) {
        // A host that cannot be reached is explained over TLS of our own.
        if let Err((stream, refusal)) = tunnel_or_back(stream, &destination, &shared).await {
            refuse_tls(stream, &destination.host.clone(), &destination, refusal, shared).await;
        }
        return;
    }
    let Some((stream, h2)) = accept(stream, &destination.host, &shared).await else {
        record_refusal(&destination, "tls_failed", "the agent's program did not accept belljar's certificate", &shared);
        return;
    };
    let scope = Scope { scheme: Scheme::Https, host: Some(destination.host), port: destination.port, place };
    if h2 { http_2(stream, scope, shared).await } else { http(stream, scope, shared).await }
}

/// TLS with the agent, as the host.
async fn accept<S: Stream>(stream: S, host: &Host, shared: &Shared) -> Option<(Greedy<TlsStream<S>>, bool)> {
    let config = shared.authority.server_config(host).ok()?;
    let stream = timeout(shared.times.tls, TlsAcceptor::from(config).accept(stream)).await.ok()?.ok()?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Some((Greedy::new(stream), h2))
}

/// Answers each request of the connection with the refusal.
async fn refuse_tls(stream: impl Stream, host: &Host, to: &Destination, refusal: Refusal, shared: Arc<Shared>) {
    record_refusal(to, refusal.code, &refusal.reason, &shared);
    let Some((stream, h2)) = accept(stream, host, &shared).await else {
        return;
    };
    let run = shared.run.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let response = refusal.response(&run, request.method());
        async move { Ok::<_, Infallible>(response) }
    });
    let _ = if h2 {
        http2_server().serve_connection(TokioIo::new(stream), service).await
    } else {
        let (_, patient) = patient(stream, &shared);
        http1_server().keep_alive(false).serve_connection(patient, service).await
    };
}

async fn http(stream: impl Stream, scope: Scope, shared: Arc<Shared>) {
    let scope = Arc::new(scope);
    let (phase, patient) = patient(stream, &shared);
    let service = service_fn(move |mut request: Request<Incoming>| {
        phase.busy();
        request.extensions_mut().insert(phase.clone());
        let answer = forward::answer(request, Arc::clone(&scope), Arc::clone(&shared));
        let phase = phase.clone();
        async move { answer.await.map(|answer| phase.until_the_end_of(answer)) }
    });
    let _ = http1_server().serve_connection(patient, service).with_upgrades().await;
}

async fn http_2(stream: impl Stream, scope: Scope, shared: Arc<Shared>) {
    let scope = Arc::new(scope);
    let service = service_fn(move |request| forward::answer(request, Arc::clone(&scope), Arc::clone(&shared)));
    let _ = http2_server().serve_connection(TokioIo::new(stream), service).await;
}

fn http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    // `Patient` watches the time.
    server.header_read_timeout(None).max_buf_size(LONGEST_HEAD);
    server
}

fn patient<S: Stream>(stream: S, shared: &Shared) -> (Phase, TokioIo<Patient<S>>) {
    let phase = Phase::default();
    (phase.clone(), TokioIo::new(Patient::new(stream, phase, &shared.times)))
}

fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(LONGEST_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    server
}

/// Bytes both ways, once the origin is reached.
async fn tunnel(stream: impl Stream, to: &Destination, kind: Kind, shared: &Arc<Shared>) -> Option<()> {
    let entry = entry_of(to, kind);
    let exchange = Exchange::begin(shared, entry, None);
    match shared.network.connect(&to.host, to.port).await {
        Ok(origin) => {
            exchange.note(|entry| entry.action = Some("allow".to_owned()));
            both_ways(stream, origin, None, &exchange).await;
            Some(())
        }
        Err(error) => {
            exchange.note(|entry| {
                entry.action = Some("unreachable".to_owned());
                entry.reason = Some(error.to_string());
            });
            None
        }
    }
}

/// The same for TLS that is not opened; gives the stream back when the origin
/// cannot be reached.
async fn tunnel_or_back<S: Stream>(stream: S, to: &Destination, shared: &Arc<Shared>) -> Result<(), (S, Refusal)> {
    use super::dial::DialError;
    let origin = match shared.network.connect(&to.host, to.port).await {
        Ok(origin) => origin,
        Err(DialError::NotPublic(why)) => {
            let refusal = Refusal::denied("address_not_public", why)
                .hint("a person can allow it in policy.toml: [[allow_private]] with its host and port");
            return Err((stream, refusal));
        }
        Err(DialError::Unreachable(why)) => return Err((stream, Refusal::upstream(why))),
    };
    let exchange = Exchange::begin(shared, entry_of(to, Kind::Tunnel), None);
    exchange.note(|entry| entry.action = Some("allow".to_owned()));
    both_ways(stream, origin, None, &exchange).await;
    Ok(())
}

fn entry_of(to: &Destination, kind: Kind) -> Entry {
    Entry { host: Some(to.host.to_string()), port: Some(to.port), ..Entry::new(kind, SystemTime::now()) }
}

/// A line of the record for a connection that led nowhere.
fn record_refusal(to: &Destination, code: &str, why: &str, shared: &Shared) {
    let entry = entry_of(to, Kind::Refused);
    shared.record(Entry { action: Some(code.to_owned()), reason: Some(why.to_owned()), ..entry });
}
