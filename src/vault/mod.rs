//! Secrets at rest: the records, the master key that seals them, and the
//! certificate authority's key.
//!
//! Values leave this room only through [`Vault::open`], for one group. What is
//! not sealed here: that a record was removed, or that the whole file is an
//! older one.

mod credential;
mod document;
mod file;
mod hand_over;
mod passphrase;
pub mod presets;
mod prompt;
mod record;
mod rekey;
mod seal;
mod source;
mod validity;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::FlockArg;
use secrecy::{ExposeSecret, SecretBox};
use zeroize::Zeroizing;

use crate::config::{Dirs, Groups, VaultConfig, create_private};
use crate::error::{Context, Error, Result};
use document::{Document, Entry, Lock, lock, write_whole};
use passphrase::Passphrase;
use source::Source;

pub use credential::credential_file;
pub use file::read_bounded;
pub(crate) use file::read_private;
pub use hand_over::{HandedOver, hand_over};
pub use prompt::hidden;
pub use record::{Binding, Endpoint, Injection, PLACEHOLDER, Record, Secret, Target};
pub use rekey::Changed;
pub use seal::Master;
pub use validity::{LONGEST, check_value};

/// What the certificate authority's key is sealed for.
pub const AUTHORITY: &[u8] = b"belljar certificate authority key";

/// No core dump and no debugger of the same user gets at this process from here
/// on (prctl(2), PR_SET_DUMPABLE; setrlimit(2), RLIMIT_CORE): it is to hold
/// secrets.
pub fn keep_out_of_dumps() -> Result<()> {
    nix::sys::prctl::set_dumpable(false).step(|| "keep this process out of core dumps".to_owned())?;
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
        .step(|| "limit this process's core dumps".to_owned())
}

/// What happens when there is no master key yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// It is made.
    Make,
    /// The call is refused.
    Refuse,
}

/// The secrets of one installation.
pub struct Vault {
    dirs: Dirs,
    source: Source,
}

impl Vault {
    /// The vault in these directories; nothing is read or made yet.
    pub fn new(dirs: &Dirs, config: &VaultConfig) -> Self {
        Self { dirs: dirs.clone(), source: Source::new(dirs, config) }
    }

    fn directory(&self) -> PathBuf {
        self.dirs.data.join("vault")
    }

    fn path(&self) -> PathBuf {
        self.directory().join("secrets.json")
    }

    /// Where the certificate authority's key lies, sealed for [`AUTHORITY`].
    pub fn authority_path(&self) -> PathBuf {
        self.dirs.data.join("ca").join("key.sealed")
    }

    /// A file with the key or the passphrase that the configuration names, for
    /// checks that no mount holds it.
    pub fn key_file(&self) -> Option<&Path> {
        self.source.file()
    }

    /// The public parts of all secrets. They are as the file says, not verified:
    /// for people to look at. Needs no key.
    pub fn records(&self) -> Result<Vec<Record>> {
        Ok(Document::read(&self.path())?.secrets.into_iter().map(|entry| entry.record).collect())
    }

    /// The master key, asked for on the terminal where it is behind a
    /// passphrase and no file has that.
    pub fn master(&self, missing: IfMissing) -> Result<Master> {
        if !self.source.exists() {
            let document = Document::read(&self.path())?;
            self.refuse_another(&document)?;
            if missing == IfMissing::Refuse {
                return Err(self.source.missing().hint("belljar secret add makes the first one"));
            }
        }
        let given = self.source.ask()?;
        let _lock = match missing {
            IfMissing::Make => self.lock(FlockArg::LockExclusive)?,
            IfMissing::Refuse => self.lock(FlockArg::LockShared)?,
        };
        self.load(given.as_ref(), missing, &Document::read(&self.path())?)
    }

    fn lock(&self, how: FlockArg) -> Result<Lock> {
        lock(&self.directory(), how)
    }

    /// A new key would open nothing of what is there.
    fn refuse_another(&self, document: &Document) -> Result<()> {
        let authority = self.authority_path();
        let secrets = document.key_id().is_some().then(|| self.path()).filter(|path| path.exists());
        let Some(sealed) = secrets.or_else(|| Some(authority).filter(|path| path.exists())) else {
            return Ok(());
        };
        // Another process may have made both meanwhile, the key first.
        if self.source.exists() {
            return Ok(());
        }
        Err(self.source.missing().because(format!("{} is sealed with one", sealed.display())).hint(format!(
            "bring the key back, or put [vault] key and key_file of config.toml back as they were; \
             without the key what {} holds is lost: remove it, and start over",
            sealed.display()
        )))
    }

    /// The master key; the caller holds the lock.
    fn load(&self, given: Option<&Passphrase>, missing: IfMissing, document: &Document) -> Result<Master> {
        if !self.source.exists() {
            self.refuse_another(document)?;
            if missing == IfMissing::Refuse {
                return Err(self.source.missing());
            }
            return Ok(Master::new(self.source.make(given)?.keys, None));
        }
        Ok(Master::new(self.source.load(given)?.keys, document.key_id()))
    }

    /// The secrets of this group, opened and verified. Records of other groups
    /// stay sealed.
    pub fn open(&self, master: &Master, group: &str) -> Result<Vec<Secret>> {
        let opened = self.opened(master, |record| record.groups.iter().any(|of| of == group))?;
        opened.into_iter().map(|(_, secret)| secret).collect()
    }

    /// Opens each secret and tells which do: the name, and why not.
    pub fn check(&self, master: &Master) -> Result<Vec<(String, Result<()>)>> {
        let opened = self.opened(master, |_| true)?;
        Ok(opened.into_iter().map(|(name, secret)| (name, secret.map(drop))).collect())
    }

    fn opened(&self, master: &Master, wanted: impl Fn(&Record) -> bool) -> Result<Vec<(String, Result<Secret>)>> {
        let path = self.path();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let held = self.lock(FlockArg::LockShared)?;
        let document = Document::read(&path)?;
        drop(held);
        let fresh;
        let mut master = master;
        if document.key_id().is_some_and(|id| !master.knows(id)) {
            // The key was changed since the caller got it.
            fresh = self.master(IfMissing::Refuse)?;
            master = &fresh;
        }
        document.check_key(&path, master, &self.source.name())?;
        let wanted = document.secrets.iter().filter(|entry| wanted(&entry.record));
        Ok(wanted.map(|entry| (entry.record.name.clone(), entry.open(&path, master))).collect())
    }

    /// Seals a new secret. The first one makes the master key.
    pub fn add(&self, record: Record, value: &SecretBox<[u8]>) -> Result<Record> {
        validity::check_record(&record)?;
        for binding in &record.bindings {
            check_value(value.expose_secret(), &binding.injection)?;
        }
        let groups = Groups::new(&self.dirs);
        for group in &record.groups {
            groups.find(group).map_err(|error| error.hint(format!("belljar group add {group}")))?;
        }
        self.change(IfMissing::Make, |document, master| {
            if document.secrets.iter().any(|entry| entry.record.name == record.name) {
                return Err(Error::refused(format!("there is a secret `{}` already", record.name)).hint(format!(
                    "belljar secret rotate {0} replaces its value, belljar secret remove {0} takes it away",
                    record.name
                )));
            }
            for entry in &document.secrets {
                validity::check_pair(&record, &entry.record)?;
            }
            document.secrets.push(Entry::new(record.clone(), value.expose_secret(), master));
            Ok(record)
        })
    }

    /// Replaces the value of a secret; the rest of it stays.
    pub fn replace(&self, name: &str, value: &SecretBox<[u8]>) -> Result<Record> {
        Document::read(&self.path())?.find(name)?;
        let path = self.path();
        self.change(IfMissing::Refuse, |document, master| {
            // The old value must open: a record that was tampered with is not
            // sealed anew as if it were right.
            let mut record = document.find(name)?.open(&path, master)?.record;
            for binding in &record.bindings {
                check_value(value.expose_secret(), &binding.injection)?;
            }
            presets::check_kind(&record, value.expose_secret())?;
            record.rotated = Some(Timestamp::now());
            let entry = Entry::new(record.clone(), value.expose_secret(), master);
            document.secrets.retain(|entry| entry.record.name != name);
            document.secrets.push(entry);
            Ok(record)
        })
    }

    /// Takes a secret away. Needs no key, so that a damaged one can go too.
    pub fn remove(&self, name: &str) -> Result<Record> {
        Document::read(&self.path())?.find(name)?;
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let mut document = Document::read(&self.path())?;
        let record = document.find(name)?.record.clone();
        document.secrets.retain(|entry| entry.record.name != name);
        document.write_unchanged(&self.path())?;
        Ok(record)
    }

    /// Reads, changes and writes under the lock; finishes a change of the key
    /// that was interrupted.
    fn change<T>(&self, missing: IfMissing, change: impl FnOnce(&mut Document, &Master) -> Result<T>) -> Result<T> {
        let path = self.path();
        let given = self.source.ask()?;
        let _lock = self.lock(FlockArg::LockExclusive)?;
        if self.source.exists() {
            self.finish_change(given.as_ref())?;
        }
        let mut document = Document::read(&path)?;
        let master = self.load(given.as_ref(), missing, &document)?;
        document.check_key(&path, &master, &self.source.name())?;
        let result = change(&mut document, &master)?;
        document.write(&path, &master)?;
        Ok(result)
    }

    /// A sealed file beside the secrets, such as the certificate authority's
    /// key: opened, or made once, under the vault's lock, so that two runs at
    /// once and a change of the master key agree on it.
    pub fn open_or_make(
        &self,
        master: &Master,
        make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let path = self.authority_path();
        if let Some(directory) = path.parent() {
            create_private(directory)?;
        }
        let _lock = self.lock(FlockArg::LockExclusive)?;
        match fs::read(&path) {
            Ok(sealed) => master.unseal(AUTHORITY, &sealed).map_err(|error| Self::authority_damaged(&path, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let document = Document::read(&self.path())?;
                document.check_key(&self.path(), master, &self.source.name())?;
                let plain = make()?;
                write_whole(&path, &master.seal(AUTHORITY, &plain))?;
                Ok(plain)
            }
            Err(error) => Err(error).step(|| format!("read {}", path.display())),
        }
    }

    fn authority_damaged(path: &Path, error: Error) -> Error {
        let mut told = Error::refused(format!("{} does not open", path.display()));
        told.causes = error.causes;
        told.hint(format!("bring it back, or remove {} for a new authority", path.display()))
    }
}
