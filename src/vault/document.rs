//! `vault/secrets.json`: reading, writing in one step, and the lock that all
//! changes are made under.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{Flock, FlockArg};
use secrecy::SecretBox;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{Record, Secret};
use super::seal::{KeyId, Master, show};
use crate::config::{create_private, read_own, sync_directory};
use crate::error::{Context, Error, Result};

const VERSION: u64 = 1;
const CHECK_IDENTITY: &[u8] = b"belljar key check 1";
const CHECK: &[u8] = b"this is the right key";

/// Bytes as base64.
pub(super) struct Encoded(pub(super) Vec<u8>);

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Tells a wrong key from a damaged record: a constant, sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyCheck {
    id: String,
    check: Encoded,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) sealed: Encoded,
}

/// The file, as written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    version: u64,
    key: Option<KeyCheck>,
    pub(super) secrets: Vec<Entry>,
}

impl Document {
    /// Reads the file; a missing one holds nothing. Nothing in it is verified
    /// yet.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let refused = || format!("read the secrets in {}", path.display());
        let Some(text) = read_own(path)? else {
            return Ok(Self { version: VERSION, key: None, secrets: Vec::new() });
        };
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let Version { version } = serde_json::from_str(&text).refuse(refused)?;
        if version != VERSION {
            return Err(Error::refused(refused())
                .because(format!("it has version {version}, and this belljar knows version {VERSION}"))
                .hint("use the belljar that wrote it"));
        }
        let document: Self = serde_json::from_str(&text).refuse(refused)?;
        let mut names: Vec<&str> = document.secrets.iter().map(|entry| entry.record.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::refused(refused()).because(format!("two secrets have the name `{}`", pair[0]))),
            None => Ok(document),
        }
    }

    /// Writes the file in one step, with the check of the key that seals.
    pub(super) fn write(&mut self, path: &Path, master: &Master) -> Result<()> {
        let check = Encoded(master.seal(CHECK_IDENTITY, CHECK));
        self.key = Some(KeyCheck { id: show(master.current().id), check });
        self.write_unchanged(path)
    }

    /// Writes the file in one step, for a change that needs no key.
    pub(super) fn write_unchanged(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).step(|| format!("write {}", path.display()))?;
        text.push(b'\n');
        write_whole(path, &text)
    }

    /// The key that the file names; `None` in a new one.
    pub(super) fn key_id(&self) -> Option<KeyId> {
        let id = &self.key.as_ref()?.id;
        let mut bytes = KeyId::default();
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(id.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(bytes)
    }

    /// Refuses when the file was sealed with a key that `master` is not.
    pub(super) fn check_key(&self, path: &Path, master: &Master, source: &str) -> Result<()> {
        let Some(key) = &self.key else {
            return if self.secrets.is_empty() { Ok(()) } else { Err(damaged(path)) };
        };
        let Some(id) = self.key_id() else {
            return Err(damaged(path));
        };
        if !master.knows(id) {
            return Err(Error::refused(format!(
                "the master key is not the one that {} is sealed with",
                path.display()
            ))
            .because(format!("it is sealed with key {}, and {source} holds {}", key.id, master.ids()))
            .hint("bring back the key with that id, or remove the secrets and add them again"));
        }
        match master.unseal(CHECK_IDENTITY, &key.check.0) {
            Ok(check) if *check == CHECK => Ok(()),
            _ => Err(damaged(path)),
        }
    }

    pub(super) fn find(&self, name: &str) -> Result<&Entry> {
        self.secrets.iter().find(|entry| entry.record.name == name).ok_or_else(|| {
            Error::refused(format!("there is no secret `{name}`"))
                .hint("belljar secret list shows those that are there")
        })
    }
}

fn damaged(path: &Path) -> Error {
    Error::refused(format!("{} is damaged", path.display()))
        .because("its key check does not open")
        .hint("bring back a copy of the file, or remove it and add the secrets again")
}

impl Entry {
    pub(super) fn new(record: Record, value: &[u8], master: &Master) -> Self {
        let sealed = Encoded(master.seal(&record.identity(), value));
        Self { record, sealed }
    }

    /// Opens the value, which proves the record too.
    pub(super) fn open(&self, path: &Path, master: &Master) -> Result<Secret> {
        let name = &self.record.name;
        let plain = master.unseal(&self.record.identity(), &self.sealed.0).map_err(|error| {
            let mut told = Error::refused(format!("secret `{name}` in {} does not open", path.display()));
            told.causes = error.causes;
            told.because("a host, group or other part of the record, or its sealed value, is not what was sealed")
                .hint(format!("belljar secret remove {name}, then belljar secret add {name}"))
        })?;
        Ok(Secret { record: self.record.clone(), value: SecretBox::new(plain.as_slice().into()) })
    }
}

/// Held while the vault is read or changed.
pub(super) type Lock = Flock<File>;

/// Takes the vault's lock, and makes its directory when there is none.
pub(super) fn lock(directory: &Path, how: FlockArg) -> Result<Lock> {
    create_private(directory)?;
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .step(|| format!("open {}", path.display()))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno).step(|| format!("lock {}", path.display()))
}

/// Writes a file so that a loss of power leaves the old or the new content,
/// never a part; mode 0600. The caller holds the vault's lock: the name of the
/// draft is a fixed one, so that nothing stays when the writer was killed.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let draft = draft(path, content)?;
        fs::rename(&draft, path)?;
        sync_directory(path)
    };
    write().step(|| format!("write {}", path.display()))
}

/// The same for a file that must not be there yet.
pub(super) fn write_first(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let draft = draft(path, content)?;
        // A link never replaces, where a rename would.
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        linked?;
        sync_directory(path)
    };
    write().step(|| format!("make {}", path.display()))
}

fn draft(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let draft = beside(path, ".draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(draft)
}

/// The path with something after its last name.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
