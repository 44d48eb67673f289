//! Connections to origins: verified, kept, and never shared between different
//! credentials. A run has a gateway of its own, so never between groups.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use super::body::Body;
use super::dial::{DialError, dial, judge_for_another};
use super::greedy::Greedy;
use super::onecli::ParentProxy;
use super::roots::Roots;
use super::times::Times;
use crate::error::Result;
use crate::policy::{Host, Policy};

/// Connections to one origin that are kept without a request.
const IDLE_PER_HOST: usize = 128;
/// Longest response head, in bytes; also the unit in which bodies are read.
const LONGEST_HEAD: usize = 128 << 10;

/// What an origin may send ahead of the agent's reading over HTTP/2, of one
/// answer and of all, and what may wait unsent of one request, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const SEND_BUFFER: usize = 64 << 10;

/// Which versions of HTTP are offered to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Versions {
    /// HTTP/2 and HTTP/1.1.
    Any,
    /// HTTP/1.1 only, for upgrades.
    Http1,
}

/// Any stream that bytes are passed on.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Reaches origins.
pub struct Network {
    policy: Arc<Policy>,
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    times: Times,
    parent: Option<ParentProxy>,
}

impl Network {
    /// Prepares the verification of origins; `ours` is never trusted.
    pub fn new(
        policy: Arc<Policy>,
        roots: &Roots,
        ours: &CertificateDer<'_>,
        times: Times,
        parent: Option<ParentProxy>,
    ) -> Result<Self> {
        let config = |protocols: &[&[u8]]| -> Result<Arc<ClientConfig>> {
            let mut config = roots.client_config(ours)?;
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            config.resumption = rustls::client::Resumption::in_memory_sessions(64);
            Ok(Arc::new(config))
        };
        // OneCLI's proxy speaks HTTP/1.1 only.
        let both: &[&[u8]] = if parent.is_some() { &[b"http/1.1"] } else { &[b"h2", b"http/1.1"] };
        Ok(Self { policy, any: config(both)?, http1: config(&[b"http/1.1"])?, times, parent })
    }

    /// A connection to the host, without TLS.
    pub async fn connect(&self, host: &Host, port: u16) -> Result<Box<dyn Stream>, DialError> {
        match &self.parent {
            Some(parent) => {
                judge_for_another(host, port, &self.policy, self.times.connect).await?;
                parent.tunnel(host, port, self.times.connect).await
            }
            None => Ok(Box::new(dial(host, port, &self.policy, self.times.connect).await?)),
        }
    }

    async fn connect_tls(
        &self,
        host: &Host,
        port: u16,
        versions: Versions,
    ) -> Result<(Box<dyn Stream>, bool), DialError> {
        let stream = self.connect(host, port).await?;
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|_| DialError::Unreachable(format!("{name} is not a name that TLS can verify")))?,
            Host::V4(address) => ServerName::from(std::net::IpAddr::V4(*address)),
            Host::V6(address) => ServerName::from(std::net::IpAddr::V6(*address)),
        };
        let config = match versions {
            Versions::Any => &self.any,
            Versions::Http1 => &self.http1,
        };
        let handshake = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        let stream = match tokio::time::timeout(self.times.tls, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(DialError::Unreachable(format!("TLS with {host}: {error}"))),
            Err(_) => {
                let seconds = self.times.tls.as_secs();
                return Err(DialError::Unreachable(format!("TLS with {host}: not finished within {seconds} s")));
            }
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(Greedy::new(stream)), h2))
    }
}

/// Makes connections for the pool.
#[derive(Clone)]
pub struct Connector {
    network: Arc<Network>,
    versions: Versions,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Origin>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (network, versions) = (Arc::clone(&self.network), self.versions);
        Box::pin(async move {
            // The gateway made the address from a judged host: it parses again.
            let host = Host::parse(uri.host().unwrap_or_default())
                .map_err(|problem| DialError::Unreachable(problem.to_string()))?;
            let tls = uri.scheme_str() == Some("https");
            let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
            let origin = match (&network.parent, tls) {
                (_, true) => {
                    let (stream, h2) = network.connect_tls(&host, port, versions).await?;
                    Origin { stream, h2, proxied: false }
                }
                (None, false) => Origin { stream: network.connect(&host, port).await?, h2: false, proxied: false },
                (Some(parent), false) => {
                    judge_for_another(&host, port, &network.policy, network.times.connect).await?;
                    Origin { stream: Box::new(parent.dial(network.times.connect).await?), h2: false, proxied: true }
                }
            };
            Ok(TokioIo::new(origin))
        })
    }
}

/// One connection to an origin.
pub struct Origin {
    stream: Box<dyn Stream>,
    h2: bool,
    /// Requests go in absolute form, to a proxy.
    proxied: bool,
}

impl Connection for Origin {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.proxied);
        if self.h2 { connected.negotiated_h2() } else { connected }
    }
}

// The pool wants `Connection` of what is inside, which its own wrapper passes on.
impl AsyncRead for Origin {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Origin {
    super::writes_through!(stream);
}

/// A pool of connections.
pub type Pool = Client<Connector, Body>;

/// One pool for each set of credentials and versions.
pub struct Pools {
    network: Arc<Network>,
    idle: Duration,
    pools: Mutex<HashMap<(String, Versions), Pool>>,
}

impl Pools {
    /// No connection yet.
    pub fn new(network: Arc<Network>, idle: Duration) -> Self {
        Self { network, idle, pools: Mutex::default() }
    }

    /// The pool for requests with these credentials: the names of the secrets.
    pub fn get(&self, credentials: &str, versions: Versions) -> Pool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools
            .entry((credentials.to_owned(), versions))
            .or_insert_with(|| {
                Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .timer(TokioTimer::new())
                    .pool_idle_timeout(self.idle)
                    .pool_max_idle_per_host(IDLE_PER_HOST)
                    .http1_max_buf_size(LONGEST_HEAD)
                    .http2_initial_stream_window_size(STREAM_WINDOW)
                    .http2_initial_connection_window_size(CONNECTION_WINDOW)
                    .http2_max_send_buf_size(SEND_BUFFER)
                    .build(Connector { network: Arc::clone(&self.network), versions })
            })
            .clone()
    }
}
