//! Sealing: XChaCha20-Poly1305 with a random nonce, and what the sealed bytes
//! belong to as associated data.

use chacha20poly1305::aead::rand_core::RngCore;
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Length of a key, in bytes.
pub(super) const KEY: usize = 32;
const ID: usize = 8;
const NONCE: usize = 24;
const FORMAT: u8 = 1;

/// Names a key without telling anything of it: the beginning of a hash of 32
/// random bytes.
pub(super) type KeyId = [u8; ID];

/// One key, overwritten when dropped.
pub(super) struct Key {
    pub(super) id: KeyId,
    bytes: SecretBox<[u8; KEY]>,
}

impl Key {
    pub(super) fn random() -> Self {
        Self::from_bytes(|bytes| OsRng.fill_bytes(bytes))
    }

    /// A key that `fill` writes in place, so that no copy stays behind.
    pub(super) fn from_bytes(fill: impl FnOnce(&mut [u8; KEY])) -> Self {
        let bytes = SecretBox::init_with_mut(fill);
        let hash = Sha256::new().chain_update(b"belljar key id\0").chain_update(bytes.expose_secret()).finalize();
        let mut id = KeyId::default();
        id.copy_from_slice(&hash[..ID]);
        Self { id, bytes }
    }

    pub(super) fn expose(&self) -> &[u8; KEY] {
        self.bytes.expose_secret()
    }

    pub(super) fn copy(&self) -> Self {
        Self::from_bytes(|bytes| bytes.copy_from_slice(self.expose()))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.expose().into())
    }

    pub(super) fn seal(&self, identity: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let sealed = self
            .cipher()
            .encrypt(&nonce, Payload { msg: plain, aad: &associated(self.id, identity) })
            .expect("what is sealed is shorter than the cipher's limit of 256 GB");
        [&[FORMAT], self.id.as_slice(), nonce.as_slice(), &sealed].concat()
    }

    /// `None` when the bytes are not what this key sealed for this identity.
    pub(super) fn unseal(&self, identity: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if sealed_with(sealed)? != self.id {
            return None;
        }
        let (nonce, sealed) = sealed[1 + ID..].split_at(NONCE);
        let aad = associated(self.id, identity);
        let plain = self.cipher().decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &aad });
        plain.ok().map(Zeroizing::new)
    }
}

/// What is authenticated beside the sealed bytes: format, key, and owner.
fn associated(id: KeyId, identity: &[u8]) -> Vec<u8> {
    [b"belljar seal\0".as_slice(), &[FORMAT], &id, identity].concat()
}

/// The key that these bytes name; `None` when they were never sealed bytes.
pub(super) fn sealed_with(sealed: &[u8]) -> Option<KeyId> {
    if sealed.len() < 1 + ID + NONCE || sealed[0] != FORMAT {
        return None;
    }
    sealed[1..1 + ID].try_into().ok()
}

/// A key's id as people see it.
pub(super) fn show(id: KeyId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The master key. While it is being changed there are two, and either opens
/// what it has sealed. Without Debug and without a way to get at the bytes.
pub struct Master {
    keys: Vec<Key>,
    current: usize,
}

impl Master {
    /// Keys, oldest first; `current` seals, or the first when it is not there.
    pub(super) fn new(keys: Vec<Key>, current: Option<KeyId>) -> Self {
        let current = keys.iter().position(|key| Some(key.id) == current).unwrap_or(0);
        Self { keys, current }
    }

    /// The same keys and one more, which seals from now on.
    pub(super) fn with(mut self, key: &Key) -> Self {
        self.keys.retain(|kept| kept.id != key.id);
        self.keys.push(key.copy());
        self.current = self.keys.len() - 1;
        self
    }

    pub(super) fn current(&self) -> &Key {
        &self.keys[self.current]
    }

    pub(super) fn knows(&self, id: KeyId) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// The ids, for an error text.
    pub(super) fn ids(&self) -> String {
        self.keys.iter().map(|key| show(key.id)).collect::<Vec<_>>().join(" and ")
    }

    /// Seals `plain`; it opens only with the same `identity`, which is
    /// authenticated and not kept.
    pub fn seal(&self, identity: &[u8], plain: &[u8]) -> Vec<u8> {
        self.current().seal(identity, plain)
    }

    /// Opens what was sealed for `identity`. A wrong key and damaged bytes are
    /// different errors; neither quotes anything.
    pub fn unseal(&self, identity: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let damaged = || Error::refused("sealed bytes do not open").because("they were changed, or belong elsewhere");
        let id = sealed_with(sealed).ok_or_else(damaged)?;
        let key = self.keys.iter().find(|key| key.id == id).ok_or_else(|| {
            Error::refused("sealed bytes do not open").because(format!(
                "they are sealed with key {}, and the master key is {}",
                show(id),
                self.ids()
            ))
        })?;
        key.unseal(identity, sealed).ok_or_else(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_identity_open() {
        let master = Master::new(vec![Key::random()], None);
        let sealed = master.seal(b"one", b"value");
        assert_eq!(master.unseal(b"one", &sealed).map(|plain| plain.to_vec()).ok(), Some(b"value".to_vec()));
        assert!(master.unseal(b"two", &sealed).is_err());
        assert!(master.unseal(b"", &sealed).is_err());
        assert!(Master::new(vec![Key::random()], None).unseal(b"one", &sealed).is_err());
        assert_ne!(sealed, master.seal(b"one", b"value"), "each has a nonce of its own");
    }

    #[test]
    fn each_changed_or_missing_byte_is_seen() {
        let master = Master::new(vec![Key::random()], None);
        let sealed = master.seal(b"one", b"value");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(master.unseal(b"one", &changed).is_err(), "byte {at}");
            assert!(master.unseal(b"one", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn two_keys_open_and_the_newer_seals() {
        let old = Key::random();
        let sealed = old.seal(b"one", b"old");
        let new = Key::random();
        let master = Master::new(vec![old], None).with(&new);
        assert!(master.unseal(b"one", &sealed).is_ok());
        assert_eq!(sealed_with(&master.seal(b"one", b"x")), Some(new.id));
    }
}
