//! What lies at /run/belljar for the agent's programs to trust.

use rustls::pki_types::CertificateDer;

use super::roots::{Roots, pem};

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
        Self { own: ours.iter().map(|one| pem(one)).collect(), bundle: roots.bundle(ours), truststore: roots.truststore(ours) }
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
