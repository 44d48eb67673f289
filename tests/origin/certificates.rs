//! An authority of the tests' own, and leaves: one for each name that is asked
//! for, and some that no client may accept.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What is odd about the TLS of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Good,
    /// Signed by itself.
    SelfSigned,
    /// Not valid any more.
    Expired,
    /// For `somebody-else.test`.
    WrongName,
    /// TLS 1.2 and nothing newer.
    Old,
    /// HTTP/1.1 only, for the verbatim recorder.
    Raw,
}

/// The authority: made by whoever comes first, read by the others.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Authority {
    /// Reads `ca.pem` and `ca.key` of the directory, or makes them.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let (certificate, key) = (directory.join("ca.pem"), directory.join("ca.key"));
        if !certificate.exists() {
            let pair = KeyPair::generate().map_err(other)?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "belljar tests: origins");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.not_after = date_time_ymd(2099, 1, 1);
            let made = params.self_signed(&pair).map_err(other)?;
            fs::write(&key, pair.serialize_pem())?;
            fs::write(&certificate, made.pem())?;
        }
        let pair = KeyPair::from_pem(&fs::read_to_string(&key)?).map_err(other)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "belljar tests: origins");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: Issuer::new(params, pair) })
    }

    fn leaf(&self, name: &str, kind: Kind) -> io::Result<CertifiedKey> {
        let pair = KeyPair::generate().map_err(other)?;
        let name = if kind == Kind::WrongName { "somebody-else.test" } else { name };
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(other)?;
        params.distinguished_name.push(DnType::CommonName, "an origin of the tests");
        params.not_after = if kind == Kind::Expired { date_time_ymd(2001, 1, 1) } else { date_time_ymd(2098, 1, 1) };
        params.not_before = date_time_ymd(2000, 1, 1);
        params.use_authority_key_identifier_extension = kind != Kind::SelfSigned;
        let made = match kind {
            Kind::SelfSigned => params.self_signed(&pair),
            _ => params.signed_by(&pair, &self.issuer),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let signing = rustls::crypto::ring::sign::any_supported_type(&key).map_err(other)?;
        Ok(CertifiedKey::new(vec![CertificateDer::from(made.map_err(other)?.der().to_vec())], signing))
    }

    /// The server's side of TLS on an address.
    pub fn server(self: &Arc<Self>, kind: Kind, fallback: String) -> io::Result<ServerConfig> {
        let versions: &[&rustls::SupportedProtocolVersion] = if kind == Kind::Old {
            &[&rustls::version::TLS12]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let leaves = Leaves { authority: self.clone(), kind, fallback, made: Mutex::default() };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(leaves));
        config.alpn_protocols = match kind {
            Kind::Raw => vec![b"http/1.1".to_vec()],
            _ => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        Ok(config)
    }
}

/// Leaves by name; without a name the one for the address itself.
struct Leaves {
    authority: Arc<Authority>,
    kind: Kind,
    fallback: String,
    made: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Leaves {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "leaves of {}", self.fallback)
    }
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or(&self.fallback).to_owned();
        let mut made = self.made.lock().ok()?;
        if let Some(leaf) = made.get(&name) {
            return Some(leaf.clone());
        }
        let leaf = Arc::new(self.authority.leaf(&name, self.kind).ok()?);
        made.insert(name, leaf.clone());
        Some(leaf)
    }
}
