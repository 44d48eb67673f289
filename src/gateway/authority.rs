//! The installation's certificate authority, and the leaves that it signs for
//! the hosts that the agent talks to.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::roots::{pem, provider};
use crate::config::{Dirs, create_private};
use crate::error::{Context, Result};
use crate::plan::hex;
use crate::policy::Host;
use crate::vault::{CA_KEY_IDENTITY, Master};

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

    fn key(&self) -> PathBuf {
        self.directory.join("key.sealed")
    }

    /// The certificate, when there is one.
    pub fn read(&self) -> Result<Option<CertificateDer<'static>>> {
        let path = self.certificate();
        match fs::read(&path) {
            Ok(text) => CertificateDer::from_pem_slice(&text)
                .refuse(|| format!("read {}", path.display()))
                .map_err(|error| {
                    error.hint(format!("rm -r {}: the next run makes another authority", self.directory.display()))
                })
                .map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).refuse(|| format!("read {}", path.display())),
        }
    }

    /// The certificate; the first caller makes the authority.
    pub fn ensure(&self, master: impl FnOnce() -> Result<Master>) -> Result<CertificateDer<'static>> {
        if let Some(found) = self.read()? {
            return Ok(found);
        }
        create_private(&self.directory)?;
        let lock = self.directory.join("lock");
        let file = fs::File::create(&lock).step(|| format!("open {}", lock.display()))?;
        let _guard = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .step(|| format!("lock {}", lock.display()))?;
        if let Some(found) = self.read()? {
            return Ok(found);
        }
        let key = KeyPair::generate().step(|| "make the key of the certificate authority".to_owned())?;
        let certificate =
            parameters(&key).self_signed(&key).step(|| "make the certificate authority".to_owned())?.der().clone();
        let sealed = master()?.seal(CA_KEY_IDENTITY, &Zeroizing::new(key.serialize_der()));
        write_whole(&self.key(), &sealed)?;
        // Last: with it the authority is there.
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
    pub fn open(files: &Files, master: &Master) -> Result<Self> {
        let certificate =
            files.read()?.ok_or_else(|| crate::error::Error::failed("the certificate authority is gone"))?;
        let path = files.key();
        let what = || format!("open the certificate authority's key, {}", path.display());
        let again = |error: crate::error::Error| {
            error.hint(format!("rm -r {}: the next run makes another authority", files.directory.display()))
        };
        let sealed = fs::read(&path).refuse(what).map_err(again)?;
        let key = master.unseal(CA_KEY_IDENTITY, &sealed)?;
        let key = KeyPair::try_from(key.as_slice()).refuse(what).map_err(again)?;
        let issuer = Issuer::new(parameters(&key), key);
        let leaf_key = KeyPair::generate().step(|| "make the key of this run's certificates".to_owned())?;
        Ok(Self { issuer, certificate, leaf_key, ready: Mutex::default() })
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
        let leaf = parameters.signed_by(&self.leaf_key, &self.issuer).step(step)?;
        let key = PrivateKeyDer::try_from(self.leaf_key.serialize_der()).map_err(crate::error::Error::failed)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .step(step)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
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
