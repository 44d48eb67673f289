//! Content digests (OCI image spec, "Digests"), and readers that check them.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::plan::hex;

/// A SHA-256 digest. Other algorithms are refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "sha256:";
/// How many hexadecimal digits it has.
pub const DIGITS: usize = 64;

/// Whether these are hexadecimal digits as a digest has them, in lower case.
pub fn are_digits(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What is said of a text that is none.
pub fn no_digest(text: &str) -> Error {
    Error::refused(format!("`{}` is no sha256 digest", crate::error::printable(text)))
        .hint("sha256: and 64 hexadecimal digits in lower case; of an image in the cache the first 12 do")
}

impl Digest {
    /// Reads `sha256:` and 64 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.strip_prefix(PREFIX).unwrap_or_default();
        if digits.len() != DIGITS || !are_digits(digits) {
            return Err(no_digest(text));
        }
        Ok(Self(digits.to_owned()))
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)))
    }

    /// The digits alone.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text).map_err(|error| error.what)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Passes on what it reads, and hashes and counts it.
pub struct Verified<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Verified<R> {
    /// Around `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// How many bytes have passed.
    pub fn passed(&self) -> u64 {
        self.bytes
    }

    /// The reader below.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Reads what is left, and compares; `what` names it in the error.
    pub fn finish(mut self, what: &str, digest: &Digest) -> Result<R> {
        let drained = io::copy(&mut self, &mut io::sink());
        drained.map_err(|error| Error::failed(format!("read {what}")).because(error))?;
        let found = Digest(hex(&self.hash.finalize()));
        if found != *digest {
            return Err(Error::refused(format!("{what} is not what its digest says"))
                .because(format!("{digest} is expected, {found} was read"))
                .hint("the image is damaged, or somebody changed it: fetch it again"));
        }
        Ok(self.inner)
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_digest_is_refused() {
        let good = Digest::of(b"abc").to_string();
        assert_eq!(good, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(Digest::parse(&good).is_ok());
        for bad in ["", "sha256:", "sha512:00", &good.to_uppercase(), &good[..70], &format!("{good}0"), "sha256:../x"] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_content_is_seen_at_the_end() {
        let read = |bytes: &'static [u8]| {
            let mut reader = Verified::new(bytes);
            let mut first = [0u8; 2];
            reader.read_exact(&mut first).expect("two bytes");
            reader.finish("a test", &Digest::of(b"abcdef")).is_ok()
        };
        assert!(read(b"abcdef") && !read(b"abcdeg") && !read(b"abcde"));
    }
}
