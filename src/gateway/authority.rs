//! The installation's certificate authority, and the leaves that it signs for
//! the hosts that the agent talks to.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::roots::{pem, provider};
use crate::config::Dirs;
use crate::error::{Context, Error, Result};
use crate::plan::hex;
use crate::policy::Host;
use crate::vault::{IfMissing, Master, Vault};

/// Configurations of leaves that are kept.
const CACHED: usize = 256;
/// Days that a leaf is valid, from a day before its making.
const LEAF_DAYS: i64 = 30;
/// Days that the authority is valid.
const AUTHORITY_DAYS: i64 = 3650;

/// Where the authority lies.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// In the data directory: `ca/ca.pem`, and `ca/key.sealed`.
    pub fn new(dirs: &Dirs) -> Self {
        Self { directory: dirs.data.join("ca") }
    }

    fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The certificate, when there is one.
    pub fn read(&self) -> Result<Option<CertificateDer<'static>>> {
        let path = self.certificate();
        match fs::read(&path) {
            Ok(text) => CertificateDer::from_pem_slice(&text)
                .refuse(|| format!("read {}", path.display()))
                .map_err(|error| error.hint(format!("rm {}: the next run makes it again", path.display())))
                .map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).refuse(|| format!("read {}", path.display())),
        }
    }

    /// The certificate; the first caller makes the authority, and the master
    /// key when there is none yet.
    pub fn ensure(&self, vault: &Vault) -> Result<CertificateDer<'static>> {
        if let (Some(found), true) = (self.read()?, vault.authority_path().exists()) {
            return Ok(found);
        }
        let master = vault.master(IfMissing::Make)?;
        let step = || "make the certificate authority".to_owned();
        let key = vault
            .open_or_make(&master, || KeyPair::generate().map(|key| Zeroizing::new(key.serialize_der())).step(step))?;
        let key = KeyPair::try_from(key.as_slice()).step(step)?;
        // Two that come here at once make it from the same key.
        let certificate = parameters(&key).self_signed(&key).step(step)?.der().clone();
        write_whole(&self.certificate(), pem(&certificate).as_bytes())?;
        Ok(certificate)
    }
}

/// Writes a private file beside its place, then puts it there.
fn write_whole(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let step = || format!("write {}", path.display());
    let directory = path.parent().unwrap_or(path);
    let mut file = tempfile::NamedTempFile::new_in(directory).step(step)?;
    file.write_all(bytes).step(step)?;
    file.as_file().sync_all().step(step)?;
    file.persist(path).step(step)?;
    Ok(())
}

/// The authority's certificate follows from its key, but for the dates.
fn parameters(key: &KeyPair) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let name = hex(&Sha256::digest(key.public_key_raw())[..6]);
    parameters.distinguished_name.push(DnType::CommonName, format!("belljar on this machine, {name}"));
    parameters.distinguished_name.push(DnType::OrganizationName, "belljar");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (parameters.not_before, parameters.not_after) = validity(AUTHORITY_DAYS);
    parameters
}

fn validity(days: i64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::now_utc();
    (now - time::Duration::days(1), now + time::Duration::days(days))
}

/// Signs leaves, and keeps the configuration of TLS for each host.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    leaf_key: KeyPair,
    ready: Mutex<HashMap<Host, Arc<ServerConfig>>>,
}

impl Authority {
    /// Opens the sealed key. The leaves of this run share a key of their own.
    pub fn open(files: &Files, vault: &Vault, master: &Master) -> Result<Self> {
        let gone = || Error::failed("the certificate authority is gone");
        let certificate = files.read()?.ok_or_else(gone)?;
        let key = vault.open_or_make(master, || Err(gone()))?;
        let key = KeyPair::try_from(key.as_slice()).step(|| "open the certificate authority's key".to_owned())?;
        let public = key.public_key_raw();
        if !certificate.windows(public.len()).any(|part| part == public) {
            let path = files.certificate();
            return Err(Error::refused(format!("{} is not the certificate of the authority's key", path.display()))
                .hint(format!("rm {}: the next run makes it again", path.display())));
        }
        let issuer = Issuer::new(parameters(&key), key);
        let leaf_key = KeyPair::generate().step(|| "make the key of this run's certificates".to_owned())?;
        let authority = Self { issuer, certificate, leaf_key, ready: Mutex::default() };
        authority.try_out().map_err(|error| {
            let path = files.certificate();
            error.hint(format!("rm {}: the next run makes it again", path.display()))
        })?;
        Ok(authority)
    }

    /// Looks at a leaf as the agent's programs will: a damaged certificate of
    /// the authority would only show there.
    fn try_out(&self) -> Result<()> {
        let step = || "use the certificate authority".to_owned();
        let name = "belljar.invalid";
        let leaf = self.leaf(&Host::Name(name.to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).refuse(step)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().refuse(step)?;
        let name = ServerName::try_from(name).refuse(step)?;
        verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).refuse(step).map(drop)
    }

    /// A certificate for the host.
    fn leaf(&self, host: &Host) -> Result<CertificateDer<'static>> {
        let step = || format!("make a certificate for {host}");
        let name = match host {
            Host::V6(address) => address.to_string(),
            other => other.to_string(),
        };
        let mut parameters = CertificateParams::new(vec![name]).step(step)?;
        // At most 64 characters fit (RFC 5280, ub-common-name); names are read
        // from the alternative name.
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "belljar");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        (parameters.not_before, parameters.not_after) = validity(LEAF_DAYS);
        Ok(parameters.signed_by(&self.leaf_key, &self.issuer).step(step)?.der().clone())
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// TLS as the host, HTTP/2 and HTTP/1.1.
    pub fn server_config(&self, host: &Host) -> Result<Arc<ServerConfig>> {
        let lock = || self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(host) {
            return Ok(Arc::clone(found));
        }
        let step = || format!("make a certificate for {host}");
        let leaf = self.leaf(host)?;
        let key = PrivateKeyDer::try_from(self.leaf_key.serialize_der()).step(step)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .step(step)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .step(step)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(64);
        let config = Arc::new(config);
        let mut ready = lock();
        if ready.len() >= CACHED {
            ready.clear();
        }
        ready.insert(host.clone(), Arc::clone(&config));
        Ok(config)
    }
}
