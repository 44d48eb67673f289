//! Whom the gateway and the agent trust: the platform's authorities, the
//! configured ones, and, inside only, belljar's own.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

use crate::error::{Context, Error, Result};

/// The authorities beside our own, in the order platform, configured.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads the platform's authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR`, or
    /// where the distribution keeps them) and the configured PEM files.
    pub fn load(extra: &[PathBuf]) -> Result<Self> {
        let platform = platform();
        if platform.certs.is_empty() {
            let mut error = Error::refused("read the platform's certificate authorities: there are none");
            for cause in platform.errors.iter().take(3) {
                error = error.because(cause);
            }
            return Err(error.hint("install the package ca-certificates"));
        }
        let mut seen = BTreeSet::new();
        let mut certificates = Vec::new();
        let configured = extra.iter().map(|path| read_pem(path)).collect::<Result<Vec<_>>>()?;
        for certificate in platform.certs.into_iter().chain(configured.into_iter().flatten()) {
            if seen.insert(certificate.as_ref().to_vec()) {
                certificates.push(certificate);
            }
        }
        Ok(Self { certificates })
    }

    /// Refuses configured files that cannot be read.
    pub fn check(extra: &[PathBuf]) -> Result<()> {
        extra.iter().try_for_each(|path| read_pem(path).map(drop))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.certificates.len()
    }

    /// Trusts one more.
    pub fn add(&mut self, certificate: CertificateDer<'static>) {
        self.certificates.push(certificate);
    }

    /// What the gateway trusts an origin by: never our own authority, also when
    /// somebody has added it to the platform's.
    pub fn client_config(&self, ours: &CertificateDer<'_>) -> Result<ClientConfig> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.certificates.iter().filter(|root| *root != ours).cloned());
        let provider = provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .step(|| "prepare the verification of origins".to_owned())?;
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .step(|| "prepare TLS towards origins".to_owned())?
            .with_webpki_verifier(verifier)
            .with_no_client_auth())
    }

    /// The bundle that the agent gets: all of them and ours, as PEM.
    pub fn bundle(&self, ours: &[CertificateDer<'static>]) -> String {
        self.certificates.iter().chain(ours).map(|certificate| pem(certificate)).collect()
    }

    /// The same as a Java truststore.
    pub fn truststore(&self, ours: &[CertificateDer<'static>]) -> Vec<u8> {
        let all: Vec<&CertificateDer<'static>> = self.certificates.iter().chain(ours).collect();
        super::truststore::jks(&all)
    }
}

/// The platform's authorities: those that the environment names, or the
/// distribution's bundle, or its directory where there is no bundle.
///
/// A directory beside a bundle is left alone. It holds the same certificates once
/// or twice more, and such as are no authority: Debian's ssl-cert puts the host's
/// own there, whose key others can read.
pub(crate) fn platform() -> CertificateResult {
    let is_named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().any(|name| env::var_os(name).is_some());
    let bundle = openssl_probe::probe().cert_file.filter(|_| !is_named);
    let found = bundle.map(|bundle| load_certs_from_paths(Some(&bundle), None));
    found.filter(|found| !found.certs.is_empty()).unwrap_or_else(load_native_certs)
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of a PEM file.
fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("read {}, one of [gateway] extra_roots", path.display());
    let text = fs::read(path).refuse(what)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().refuse(what)?;
    if found.is_empty() {
        return Err(Error::refused(what())
            .because("there is no certificate in it")
            .hint("give a PEM file with -----BEGIN CERTIFICATE-----"));
    }
    let mut store = RootCertStore::empty();
    for certificate in &found {
        store.add(certificate.clone()).refuse(what)?;
    }
    Ok(found)
}

/// One certificate as PEM (RFC 7468).
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let mut out = String::with_capacity(certificate.len() * 3 / 2 + 64);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    // 64 characters a line are 48 bytes.
    for line in certificate.chunks(48) {
        base64::engine::general_purpose::STANDARD.encode_string(line, &mut out);
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
