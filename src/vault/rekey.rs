//! Changing the master key: everything is sealed again, and whatever moment the
//! power goes at, the keys that are left open everything that is left.

use std::fs;
use std::io;
use std::path::Path;

use nix::fcntl::FlockArg;
use zeroize::Zeroizing;

use super::document::{Document, Entry, write_whole};
use super::passphrase::Passphrase;
use super::seal::{Key, Master};
use super::source::Loaded;
use super::{AUTHORITY, Vault};
use crate::error::{Context, Error, Result};
use secrecy::ExposeSecret;

/// What a change of the master key did.
#[derive(Debug)]
pub struct Changed {
    /// How many secrets were sealed again.
    pub secrets: usize,
    /// Whether the certificate authority's key was.
    pub authority: bool,
}

/// All that the master key seals, open.
struct Everything {
    secrets: Vec<super::Secret>,
    authority: Option<Zeroizing<Vec<u8>>>,
}

impl Vault {
    /// Makes a new master key and seals everything with it. `file` has the new
    /// key for systemd, or the new passphrase.
    pub fn change_key(&self, file: Option<&Path>) -> Result<Changed> {
        if !self.source.exists() {
            self.refuse_another(&Document::read(&self.path())?)?;
            return Err(self.source.missing().hint("belljar secret add makes the first one"));
        }
        let given = self.source.ask()?;
        let next = self.source.ask_next(file)?;
        let _lock = self.lock(FlockArg::LockExclusive)?;
        self.finish_change(given.as_ref())?;
        let loaded = self.source.load(given.as_ref())?;
        // Whatever does not open ends this before the first effect.
        self.everything(&self.known(&loaded.keys, file)?)?;
        let (old, new) = self.source.begin(loaded, next.as_ref(), file)?;
        self.reseal(old, &new)
    }

    /// Finishes a change that was interrupted. The caller holds the lock.
    pub(super) fn finish_change(&self, given: Option<&Passphrase>) -> Result<()> {
        let loaded = self.source.load(given)?;
        if !self.source.is_changing(&loaded) {
            return Ok(());
        }
        let (old, new) = self.source.resume(loaded);
        self.reseal(old, &new).map(drop)
    }

    /// The keys that may have sealed what is there: with systemd a change that
    /// was interrupted leaves some of it sealed with the key in the file.
    fn known(&self, keys: &[Key], file: Option<&Path>) -> Result<Master> {
        let document = Document::read(&self.path())?;
        let copies = keys.iter().map(Key::copy).chain(self.source.key_in(file)?).collect();
        Ok(Master::new(copies, document.key_id()))
    }

    fn everything(&self, master: &Master) -> Result<Everything> {
        let path = self.path();
        let document = Document::read(&path)?;
        document.check_key(&path, master, &self.source.name())?;
        let secrets = document.secrets.iter().map(|entry| entry.open(&path, master)).collect::<Result<_>>()?;
        let path = self.authority_path();
        let authority = match fs::read(&path) {
            Ok(sealed) => {
                Some(master.unseal(AUTHORITY, &sealed).map_err(|error| Self::authority_damaged(&path, error))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).step(|| format!("read {}", path.display())),
        };
        Ok(Everything { secrets, authority })
    }

    /// Seals everything with the new key, one file after the other, then lets
    /// the old key go.
    fn reseal(&self, old: Vec<Key>, new: &Loaded) -> Result<Changed> {
        let key = new.keys.last().ok_or_else(|| Error::failed("change the master key: there is no new one"))?;
        let master = Master::new(old, None).with(key);
        let Everything { secrets, authority } = self.everything(&master)?;
        let mut document = Document::read(&self.path())?;
        document.secrets = secrets
            .iter()
            .map(|secret| Entry::new(secret.record.clone(), secret.value.expose_secret(), &master))
            .collect();
        document.write(&self.path(), &master)?;
        if let Some(authority) = &authority {
            write_whole(&self.authority_path(), &master.seal(AUTHORITY, authority))?;
        }
        self.source.finish(new)?;
        Ok(Changed { secrets: secrets.len(), authority: authority.is_some() })
    }
}
