//! A Java truststore in the JKS form, which every Java reads: a list of trusted
//! certificates and a checksum. No library writes it alone.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use rustls::pki_types::CertificateDer;

/// The password that the checksum is made with, as everywhere.
pub const PASSWORD: &str = "changeit";
const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// The tag of an entry that is a certificate.
const TRUSTED: u32 = 2;

/// The truststore with these certificates (sun.security.provider.JavaKeyStore:
/// magic, version, count, entries, and SHA-1 of password, a fixed phrase, and
/// all that went before).
pub fn jks(certificates: &[&CertificateDer<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(certificates.iter().map(|one| one.len() + 64).sum::<usize>() + 64);
    let number = |out: &mut Vec<u8>, number: usize| out.extend(u32::try_from(number).unwrap_or_default().to_be_bytes());
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(MAGIC.to_be_bytes());
    out.extend(VERSION.to_be_bytes());
    number(&mut out, certificates.len());
    for (index, certificate) in certificates.iter().enumerate() {
        out.extend(TRUSTED.to_be_bytes());
        text(&mut out, &format!("authority-{index}"));
        // When it was added: at no time.
        out.extend(0u64.to_be_bytes());
        text(&mut out, "X.509");
        number(&mut out, certificate.len());
        out.extend(certificate.as_ref());
    }
    let mut checksum = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    checksum.update(&password);
    checksum.update(b"Mighty Aphrodite");
    checksum.update(&out);
    out.extend(checksum.finish().as_ref());
    out
}
