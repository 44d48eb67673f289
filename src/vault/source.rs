//! Where the master key comes from, and how each source changes it so that a
//! loss of power at any moment leaves keys that open everything.
//!
//! A change has three steps: `begin` keeps the key to come beside the old one,
//! the vault seals everything with it, `finish` lets the old one go. Until then
//! a reader gets both, and what is sealed names its key.

use std::fs;
use std::path::{Path, PathBuf};

use super::credential::{self, CREDENTIAL, credential_file};
use super::document::{beside, write_first, write_whole};
use super::file::{key_text, parse_key, read_private};
use super::passphrase::{self, Passphrase, Protected};
use super::seal::Key;
use crate::config::{Dirs, KeySource, VaultConfig, create_private, sync_directory};
use crate::error::{Context, Error, Result};

/// The one that is to follow it.
const NEXT_CREDENTIAL: &str = "belljar.key.new";

/// Where the master key comes from.
pub(super) enum Source {
    /// A file with the key.
    File(PathBuf),
    /// The credentials of the systemd unit, or the encrypted one in this file.
    Systemd(PathBuf),
    /// A passphrase, from a file or a prompt, and the file with the keys that it
    /// protects.
    Passphrase { from: Option<PathBuf>, kept: PathBuf },
}

/// The keys, oldest first: one, or two while the key is being changed.
pub(super) struct Loaded {
    pub(super) keys: Vec<Key>,
    /// What protects them at rest, for a passphrase.
    protected: Option<Protected>,
}

impl Source {
    pub(super) fn new(dirs: &Dirs, config: &VaultConfig) -> Self {
        match config.key {
            KeySource::File => {
                Self::File(config.key_file.as_ref().map_or_else(|| dirs.config.join("vault.key"), PathBuf::from))
            }
            KeySource::Systemd => Self::Systemd(credential_file(dirs)),
            KeySource::Passphrase => Self::Passphrase {
                from: config.passphrase_file.as_ref().map(PathBuf::from),
                kept: dirs.data.join("vault").join("passphrase.json"),
            },
        }
    }

    /// The source's name in an error text.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Systemd(_) => format!("the credential {CREDENTIAL}"),
            Self::Passphrase { kept, .. } => kept.display().to_string(),
        }
    }

    /// The file that a person named in the configuration.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Systemd(_) => None,
            Self::Passphrase { from, .. } => from.as_deref(),
        }
    }

    /// Asks for what only a person knows; to be done before the vault is
    /// locked, because it takes as long as the person does.
    pub(super) fn ask(&self) -> Result<Option<Passphrase>> {
        match self {
            Self::File(_) | Self::Systemd(_) => Ok(None),
            Self::Passphrase { from: Some(file), .. } => passphrase::read(file).map(Some),
            Self::Passphrase { from: None, kept } => {
                if is_there(kept) { passphrase::ask() } else { passphrase::ask_for_new() }.map(Some)
            }
        }
    }

    /// Asks for the passphrase that is to come.
    pub(super) fn ask_next(&self, file: Option<&Path>) -> Result<Option<Passphrase>> {
        match (self, file) {
            (Self::Passphrase { .. }, Some(file)) => passphrase::read(file).map(Some),
            (Self::Passphrase { .. }, None) => passphrase::ask_for_new().map(Some),
            _ => Ok(None),
        }
    }

    /// Whether there is a key.
    pub(super) fn exists(&self) -> bool {
        match self {
            Self::File(path) => is_there(path),
            Self::Systemd(encrypted) => credential::exists(CREDENTIAL, encrypted),
            Self::Passphrase { kept, .. } => is_there(kept),
        }
    }

    pub(super) fn load(&self, given: Option<&Passphrase>) -> Result<Loaded> {
        let from_file = |path: &Path| parse_key(&read_private(path)?, path);
        match self {
            Self::File(path) => {
                let mut keys = vec![from_file(&checked(path)?)?];
                let next = beside(path, ".new");
                if is_there(&next) {
                    keys.push(from_file(&next)?);
                }
                Ok(Loaded { keys, protected: None })
            }
            Self::Systemd(encrypted) => {
                let first = credential::read(CREDENTIAL, encrypted)?.ok_or_else(|| no_credential(encrypted))?;
                let next = credential::read(NEXT_CREDENTIAL, encrypted)?;
                Ok(Loaded { keys: [first].into_iter().chain(next).collect(), protected: None })
            }
            Self::Passphrase { kept, .. } => {
                let (keys, protected) = Protected::read(kept, given.ok_or_else(passphrase::not_given)?)?;
                Ok(Loaded { keys, protected: Some(protected) })
            }
        }
    }

    /// Makes the first key; never in place of one that is there.
    pub(super) fn make(&self, given: Option<&Passphrase>) -> Result<Loaded> {
        match self {
            Self::File(path) => {
                if let Some(directory) = checked(path)?.parent() {
                    create_private(directory)?;
                }
                let key = Key::random();
                write_first(path, &key_text(&key))?;
                Ok(Loaded { keys: vec![key], protected: None })
            }
            Self::Systemd(encrypted) => Err(no_credential(encrypted)),
            Self::Passphrase { kept, .. } => {
                let protected = Protected::new(given.ok_or_else(passphrase::not_given)?)?;
                let key = Key::random();
                write_first(kept, &protected.text(&[&key])?)?;
                Ok(Loaded { keys: vec![key], protected: Some(protected) })
            }
        }
    }

    /// Whether a change was begun and not finished. A second credential is no
    /// such sign: it is there for as long as the unit names it.
    pub(super) fn is_changing(&self, loaded: &Loaded) -> bool {
        !matches!(self, Self::Systemd(_)) && loaded.keys.len() > 1
    }

    /// The key in `file`, when it is one that may have sealed something already.
    pub(super) fn key_in(&self, file: Option<&Path>) -> Result<Option<Key>> {
        match (self, file) {
            (Self::Systemd(_), Some(file)) => parse_key(&read_private(file)?, file).map(Some),
            _ => Ok(None),
        }
    }

    /// Keeps a new key beside the old one, which still opens everything.
    pub(super) fn begin(
        &self,
        loaded: Loaded,
        next: Option<&Passphrase>,
        file: Option<&Path>,
    ) -> Result<(Vec<Key>, Loaded)> {
        match self {
            Self::File(path) => {
                if file.is_some() {
                    return Err(Error::refused("--new-key-file is not for a key that is kept in a file")
                        .because("belljar makes the new key itself")
                        .hint("belljar secret rotate --key"));
                }
                let key = Key::random();
                write_whole(&beside(path, ".new"), &key_text(&key))?;
                Ok((loaded.keys, Loaded { keys: vec![key], protected: None }))
            }
            Self::Systemd(_) => self.begin_with_credential(loaded, file),
            Self::Passphrase { kept, .. } => {
                let protected = Protected::new(next.ok_or_else(passphrase::not_given)?)?;
                let key = Key::random();
                let all: Vec<&Key> = loaded.keys.iter().chain([&key]).collect();
                write_whole(kept, &protected.text(&all)?)?;
                Ok((loaded.keys, Loaded { keys: vec![key], protected: Some(protected) }))
            }
        }
    }

    fn begin_with_credential(&self, mut loaded: Loaded, file: Option<&Path>) -> Result<(Vec<Key>, Loaded)> {
        let old = loaded.keys.remove(0);
        let next = match file {
            Some(file) => parse_key(&read_private(file)?, file)?,
            None if loaded.keys.is_empty() => {
                return Err(Error::refused("the key is a credential of systemd, which belljar cannot change")
                    .hint("belljar secret rotate --key --new-key-file FILE, then make FILE the credential"));
            }
            None => loaded.keys.remove(0),
        };
        if next.id == old.id {
            return Err(Error::refused("the new key is the one that is in use"));
        }
        Ok((vec![old], Loaded { keys: vec![next], protected: None }))
    }

    /// Lets the old key go: `new` is the only one from here on.
    pub(super) fn finish(&self, new: &Loaded) -> Result<()> {
        match self {
            Self::File(path) => {
                let rename = || {
                    fs::rename(beside(path, ".new"), path)?;
                    sync_directory(path)
                };
                rename().step(|| format!("replace {}", path.display()))
            }
            Self::Systemd(_) => Ok(()),
            Self::Passphrase { kept, .. } => {
                let protected = new.protected.as_ref().ok_or_else(passphrase::not_given)?;
                write_whole(kept, &protected.text(&new.keys.iter().collect::<Vec<_>>())?)
            }
        }
    }

    /// The old keys and the new one of a change that was begun before.
    pub(super) fn resume(&self, mut loaded: Loaded) -> (Vec<Key>, Loaded) {
        let new = loaded.keys.split_off(loaded.keys.len() - 1);
        (loaded.keys, Loaded { keys: new, protected: loaded.protected })
    }

    /// Why there is no key, and what to do.
    pub(super) fn missing(&self) -> Error {
        match self {
            Self::Systemd(encrypted) => no_credential(encrypted),
            _ => Error::refused(format!("there is no master key: {} is missing", self.name())),
        }
    }
}

/// Whether something has this name, even a symlink to nothing.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn checked(path: &Path) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Error::refused(format!("the key file {} is not an absolute path", path.display()))
        .hint("write the whole path of key_file in config.toml"))
}

fn no_credential(encrypted: &Path) -> Error {
    Error::refused(format!("there is no credential {CREDENTIAL}"))
        .because(format!(
            "[vault] key is \"systemd\", but neither $CREDENTIALS_DIRECTORY nor {} has the master key",
            encrypted.display()
        ))
        .hint("belljar systemd install --encrypt-key makes it; or LoadCredentialEncrypted=belljar.key in the unit (docs/secrets.md)")
}
