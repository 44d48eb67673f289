//! What lies at /run/belljar for the agent's programs to trust.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;

use super::authority::Files;
use super::roots::{Roots, pem};
use crate::config::Dirs;
use crate::error::Result;

/// The files, with their content.
#[derive(Debug, Clone)]
pub struct Trust {
    /// `ca.pem`: belljar's own authority, and OneCLI's when it is the vault.
    pub own: String,
    /// `ca-bundle.pem`: the platform's, the configured ones, and ours.
    pub bundle: String,
    /// `truststore.jks`: the same for Java.
    pub truststore: Vec<u8>,
}

impl Trust {
    /// Renders the files.
    pub fn new(roots: &Roots, ours: &[CertificateDer<'static>]) -> Self {
        Self {
            own: ours.iter().map(|one| pem(one)).collect(),
            bundle: roots.bundle(ours),
            truststore: roots.truststore(ours),
        }
    }

    /// The files as far as they can be made without making an authority.
    pub fn as_it_is(extra: &[PathBuf], dirs: &Dirs) -> Result<Self> {
        let ours = Files::new(dirs).read()?;
        Ok(Self::new(&Roots::load(extra)?, ours.as_slice()))
    }

    /// Name and content of each file.
    pub fn files(&self) -> [(&'static str, &[u8]); 3] {
        [
            ("ca.pem", self.own.as_bytes()),
            ("ca-bundle.pem", self.bundle.as_bytes()),
            ("truststore.jks", self.truststore.as_slice()),
        ]
    }
}
