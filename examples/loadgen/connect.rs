//! One connection to the origin: TCP, through an HTTP proxy where one is
//! given, TLS, HTTP/1.1.

use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Failure;

/// Where to, and how.
#[derive(Clone, clap::Args)]
pub struct Way {
    /// The origin's host; its port is 443.
    #[arg(long)]
    host: String,
    /// An HTTP proxy, HOST:PORT; without it the client connects by itself.
    #[arg(long)]
    proxy: Option<String>,
    /// PEM file of the authorities that are trusted; without it the one that
    /// the variable SSL_CERT_FILE names.
    #[arg(long)]
    roots: Option<PathBuf>,
}

/// Makes connections, each with a full handshake.
#[derive(Clone)]
pub struct Connector {
    way: Way,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// A connection that takes one request after the other.
pub struct Connection {
    send: SendRequest<Empty<Bytes>>,
    host: String,
}

impl Connector {
    pub fn new(way: Way) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        let named = way.roots.clone().or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
        for certificate in CertificateDer::pem_file_iter(named.ok_or("neither --roots nor SSL_CERT_FILE")?)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(way.host.clone())?;
        Ok(Self { way, name, tls: TlsConnector::from(Arc::new(config)) })
    }

    pub async fn connect(&self) -> Result<Connection, Failure> {
        let stream = match &self.way.proxy {
            None => TcpStream::connect((self.way.host.as_str(), 443)).await?,
            Some(proxy) => self.tunnel(TcpStream::connect(proxy.as_str()).await?).await?,
        };
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its end shows in the next request.
        tokio::spawn(connection);
        Ok(Connection { send, host: self.way.host.clone() })
    }

    async fn tunnel(&self, mut stream: TcpStream) -> Result<TcpStream, Failure> {
        stream.set_nodelay(true)?;
        let host = &self.way.host;
        stream.write_all(format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n").as_bytes()).await?;
        // The origin speaks after the client, so nothing follows the head yet.
        let mut head = Vec::with_capacity(512);
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Err("the proxy closed the connection after CONNECT".into());
            }
        }
        if head.get(8..12) != Some(b" 200") {
            return Err(
                format!("CONNECT: {}", String::from_utf8_lossy(&head).lines().next().unwrap_or_default()).into()
            );
        }
        Ok(stream)
    }
}

impl Connection {
    /// Sends a GET; the body is still to be read.
    pub async fn get(&mut self, path: &str) -> Result<Response<Incoming>, Failure> {
        self.send.ready().await?;
        let request = Request::get(path).header(HOST, &self.host).body(Empty::new())?;
        let response = self.send.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("{path}: {}", response.status()).into());
        }
        Ok(response)
    }
}
