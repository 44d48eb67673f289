//! The master key behind a passphrase: `vault/passphrase.json` holds the key,
//! sealed with one that argon2id (RFC 9106) makes of the passphrase.

use std::fs;
use std::path::Path;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::document::Encoded;
use super::file::read_private;
use super::prompt::hidden;
use super::seal::{KEY, Key, sealed_with};
use crate::error::{Context, Error, Result};

/// A passphrase; overwritten when dropped.
pub(super) type Passphrase = Zeroizing<Vec<u8>>;

const SHORTEST: usize = 8;
const SALT: usize = 16;
/// RFC 9106, section 4, the second recommended choice, with one lane.
const COST: Cost = Cost { memory_kib: 64 << 10, passes: 3, lanes: 1 };
const IDENTITY: &[u8] = b"belljar master key behind a passphrase";

/// What argon2id costs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u64,
    cost: Cost,
    salt: Encoded,
    keys: Vec<Encoded>,
}

/// The key that a passphrase makes, and how it made it.
pub(super) struct Protected {
    key: Key,
    cost: Cost,
    salt: Vec<u8>,
}

impl Protected {
    /// With a salt of its own.
    pub(super) fn new(passphrase: &Passphrase) -> Result<Self> {
        if passphrase.len() < SHORTEST {
            return Err(Error::refused(format!("the passphrase is shorter than {SHORTEST} bytes"))
                .because("whoever gets the file can guess as often as they like"));
        }
        let mut salt = vec![0; SALT];
        OsRng.fill_bytes(&mut salt);
        Self::derive(passphrase, COST, salt)
    }

    fn derive(passphrase: &Passphrase, cost: Cost, salt: Vec<u8>) -> Result<Self> {
        let unfit = |error: argon2::Error| Error::refused("make a key of the passphrase").because(error);
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY)).map_err(unfit)?;
        let mut memory = Zeroizing::new(vec![Block::new(); params.block_count()]);
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut derived = Zeroizing::new([0; KEY]);
        argon
            .hash_password_into_with_memory(passphrase, &salt, derived.as_mut_slice(), memory.as_mut_slice())
            .map_err(unfit)?;
        let key = Key::from_bytes(|bytes| bytes.copy_from_slice(derived.as_slice()));
        Ok(Self { key, cost, salt })
    }

    /// The file's text, with these keys sealed in it.
    pub(super) fn text(&self, keys: &[&Key]) -> Result<Vec<u8>> {
        let keys = keys.iter().map(|key| Encoded(self.key.seal(IDENTITY, key.expose()))).collect();
        let kept = Kept { version: 1, cost: self.cost, salt: Encoded(self.salt.clone()), keys };
        serde_json::to_vec_pretty(&kept).step(|| "write the sealed master key".to_owned())
    }

    /// Reads the file and opens the keys in it.
    pub(super) fn read(path: &Path, passphrase: &Passphrase) -> Result<(Vec<Key>, Self)> {
        let refused = || format!("read the master key in {}", path.display());
        let text = fs::read_to_string(path).refuse(refused)?;
        let kept: Kept = serde_json::from_str(&text).refuse(refused)?;
        let Cost { memory_kib, passes, lanes } = kept.cost;
        // A changed file must not make belljar take all memory or an hour.
        if kept.version != 1 || memory_kib > 4 << 20 || passes > 64 || lanes > 64 || kept.keys.is_empty() {
            return Err(damaged(path));
        }
        let protected = Self::derive(passphrase, kept.cost, kept.salt.0)?;
        let mut keys = Vec::new();
        for Encoded(sealed) in &kept.keys {
            let id = sealed_with(sealed).ok_or_else(|| damaged(path))?;
            if id != protected.key.id {
                return Err(Error::refused("the passphrase is not the right one")
                    .because(format!("it does not open {}", path.display())));
            }
            let plain = protected.key.unseal(IDENTITY, sealed).filter(|plain| plain.len() == KEY);
            let plain = plain.ok_or_else(|| damaged(path))?;
            keys.push(Key::from_bytes(|bytes| bytes.copy_from_slice(&plain)));
        }
        Ok((keys, protected))
    }
}

fn damaged(path: &Path) -> Error {
    Error::refused(format!("{} is damaged", path.display())).hint("bring back a copy of the file")
}

/// The passphrase in a file; one line feed at the end is not part of it.
pub(super) fn read(file: &Path) -> Result<Passphrase> {
    let mut passphrase = read_private(file)?;
    if passphrase.last() == Some(&b'\n') {
        passphrase.pop();
    }
    Ok(passphrase)
}

/// Asks on the terminal.
pub(super) fn ask() -> Result<Passphrase> {
    prompt("belljar passphrase: ")
}

/// Asks on the terminal, twice.
pub(super) fn ask_for_new() -> Result<Passphrase> {
    let first = prompt("new belljar passphrase: ")?;
    if *first == *prompt("the same again: ")? {
        return Ok(first);
    }
    Err(Error::refused("the two passphrases differ").hint("try again"))
}

fn prompt(text: &str) -> Result<Passphrase> {
    hidden(text)
        .refuse(|| "ask for the passphrase on the terminal".to_owned())
        .map_err(|error| error.hint("name a file of mode 0600 with passphrase_file in [vault] of config.toml"))
}

/// A source that needs a passphrase was not given one; a mistake in belljar.
pub(super) fn not_given() -> Error {
    Error::failed("a passphrase was needed and not asked for")
}
