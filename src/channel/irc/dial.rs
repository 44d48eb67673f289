//! The way to the server: names, TCP, TLS. Who the server is, is settled here, before
//! the first byte of IRC.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::options::{Options, Tls};
use crate::error::{Context, Error, Result};
use crate::gateway::{cryptography, platform_roots};

/// How long one address may take, and TLS.
const PATIENCE: Duration = Duration::from_secs(20);
/// The usual ports (RFC 7194).
const TLS_PORT: u16 = 6697;
const PLAIN_PORT: u16 = 6667;

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Where the server is, and by what it is known.
pub(super) struct Server {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Whether a password will be said there.
    has_password: bool,
}

impl Server {
    /// Reads the authorities; refuses a password that others on the way could read.
    pub(super) fn prepare(options: &Options) -> Result<Self> {
        let host = options.server.host.clone();
        let has_password = options.password_file.is_some();
        let tls = match &options.tls {
            Tls::Off if has_password && !is_loopback(&host) => {
                return Err(Error::refused(format!("a password for {host} without TLS"))
                    .because("everybody on the way could read it")
                    .hint("leave out --no-tls, or --password-file"));
            }
            Tls::Off => None,
            Tls::Platform | Tls::Authority(_) => {
                let name = ServerName::try_from(host.clone())
                    .refuse(|| format!("--server {host}: a certificate cannot be for such a name"))?;
                Some((TlsConnector::from(Arc::new(client_config(&options.tls)?)), name))
            }
        };
        let port = options.server.port.unwrap_or(if tls.is_some() { TLS_PORT } else { PLAIN_PORT });
        Ok(Self { host, port, tls, has_password })
    }

    /// Where it is, for the log.
    pub(super) fn address(&self) -> String {
        format!("{} port {}", self.host, self.port)
    }

    /// Connects to the first of its addresses that answers.
    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, String> {
        let found = timeout(PATIENCE, lookup_host((self.host.as_str(), self.port)));
        let found = found.await.map_err(|_| "its name was not resolved in time".to_owned())?;
        let mut last = "its name has no address".to_owned();
        for address in found.map_err(|error| format!("its name cannot be resolved: {error}"))? {
            match timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return self.secure(stream).await,
                Ok(Err(error)) => last = format!("{}: {error}", address.ip()),
                Err(_) => last = format!("{}: no answer within {} s", address.ip(), PATIENCE.as_secs()),
            }
        }
        Err(last)
    }

    async fn secure(&self, stream: TcpStream) -> Result<Box<dyn Stream>, String> {
        let Some((connector, name)) = &self.tls else {
            // `localhost` is what the resolver says.
            let peer = stream.peer_addr().map_err(|error| error.to_string())?;
            if self.has_password && !peer.ip().is_loopback() {
                return Err(format!("{} is no loopback address, and the password needs TLS", peer.ip()));
            }
            return Ok(Box::new(stream));
        };
        match timeout(PATIENCE, connector.connect(name.clone(), stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(format!("TLS: {error}")),
            Err(_) => Err(format!("TLS: no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// Whether what is said there stays on this machine.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn client_config(tls: &Tls) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Tls::Authority(file) = tls {
        for certificate in read_authority(file)? {
            roots.add(certificate).refuse(|| format!("use {} as an authority", file.display()))?;
        }
    } else {
        roots.add_parsable_certificates(platform_roots().certs);
        if roots.is_empty() {
            return Err(Error::refused("read the platform's certificate authorities: there are none")
                .hint("install the package ca-certificates, or give --ca FILE"));
        }
    }
    let provider = cryptography();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .step(|| "prepare the verification of the server".to_owned())?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .step(|| "prepare TLS towards the server".to_owned())?
        .with_webpki_verifier(verifier)
        .with_no_client_auth())
}

fn read_authority(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("read the authority {}", file.display());
    let text = fs::read(file).refuse(what)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().refuse(what)?;
    if found.is_empty() {
        return Err(Error::refused(what())
            .because("there is no certificate in it")
            .hint("give a PEM file with -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}
