//! The registry of groups. `main` exists from the start and is the only trusted
//! one; nothing can make another group trusted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Dirs, create_private, open_again};
use crate::error::{Context, Error, Result};
use crate::plan::Trust;

/// The trusted group.
pub const MAIN: &str = "main";
/// Reserved for the directory that all groups read.
const GLOBAL: &str = "global";
const LONGEST: usize = 64;

/// A valid group name: `^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`, not `global`. Such a
/// name is a safe path component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

impl GroupName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for GroupName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let good = name.len() <= LONGEST
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if !good {
            return Err(Error::refused(format!("`{name}` is not a group name"))
                .because("a name has 1 to 64 letters, digits, _ and -, and begins with a letter or digit")
                .hint("belljar group list shows those that are there"));
        }
        if name.eq_ignore_ascii_case(GLOBAL) {
            return Err(Error::refused("`global` is not a group name")
                .because("it is the directory that all groups read")
                .hint("belljar group list shows those that are there"));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for GroupName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<GroupName> for String {
    fn from(name: GroupName) -> Self {
        name.0
    }
}

/// A group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Its place in the range of host ids, for runs by root; `main` has 0.
    pub number: u32,
}

impl Group {
    /// Only `main` is trusted.
    pub fn trust(&self) -> Trust {
        if self.name.as_str() == MAIN { Trust::Trusted } else { Trust::Untrusted }
    }

    /// The group's own directories on the host, which are made when they are
    /// first needed: its folder, its session and its IPC.
    pub fn directories(&self, data: &Path) -> [PathBuf; 5] {
        let name = self.name.as_str();
        let ipc = data.join("ipc").join(name);
        [
            data.join("groups").join(name),
            data.join("sessions").join(name).join(".claude"),
            ipc.join("messages"),
            ipc.join("tasks"),
            ipc.join("input"),
        ]
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    groups: BTreeMap<GroupName, u32>,
}

/// The registry of groups, in `groups.json`.
#[derive(Debug)]
pub struct Groups<'a> {
    dirs: &'a Dirs,
}

impl<'a> Groups<'a> {
    /// The registry below these directories.
    pub fn new(dirs: &'a Dirs) -> Self {
        Self { dirs }
    }

    fn file(&self) -> PathBuf {
        self.dirs.data.join("groups.json")
    }

    fn read(&self) -> Result<Registry> {
        let path = self.file();
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).refuse(|| format!("read the groups in {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Registry::default()),
            Err(error) => Err(error).refuse(|| format!("read the groups in {}", path.display())),
        }
    }

    /// All groups, `main` first.
    pub fn list(&self) -> Result<Vec<Group>> {
        let main = Group { name: GroupName(MAIN.to_owned()), number: 0 };
        let others = self.read()?.groups.into_iter().map(|(name, number)| Group { name, number });
        Ok(std::iter::once(main).chain(others).collect())
    }

    /// The group of this name; refused when there is none.
    pub fn find(&self, name: &str) -> Result<Group> {
        let name: GroupName = name.parse()?;
        if name.as_str() == MAIN {
            return Ok(Group { name, number: 0 });
        }
        match self.read()?.groups.get(&name) {
            Some(&number) => Ok(Group { name, number }),
            None => Err(Error::refused(format!("there is no group `{name}`"))
                .hint(format!("belljar group add {name}, or see belljar group list"))),
        }
    }

    /// Adds an untrusted group and makes its directories.
    pub fn add(&self, name: GroupName) -> Result<Group> {
        if name.as_str() == MAIN {
            return Err(Error::refused("the group `main` exists from the start"));
        }
        self.change(|registry| {
            if registry.groups.contains_key(&name) {
                return Err(Error::refused(format!("there is a group `{name}` already"))
                    .hint(format!("belljar group show {name}")));
            }
            let number = (1..).find(|number| registry.groups.values().all(|used| used != number)).unwrap_or(1);
            registry.groups.insert(name.clone(), number);
            let group = Group { name: name.clone(), number };
            open_again(&self.dirs.data.join("ipc").join(group.name.as_str()))?;
            for directory in group.directories(&self.dirs.data) {
                open_again(&directory)?;
                create_private(&directory)?;
            }
            Ok(group)
        })
    }

    /// Takes a group out of the registry; its data stay.
    pub fn remove(&self, name: &GroupName) -> Result<()> {
        if name.as_str() == MAIN {
            return Err(Error::refused("the group `main` cannot be removed"));
        }
        self.change(|registry| match registry.groups.remove(name) {
            Some(_) => Ok(()),
            None => Err(Error::refused(format!("there is no group `{name}`")).hint("belljar group list")),
        })
    }

    /// Reads, changes and writes the registry under a lock, atomically.
    fn change<T>(&self, change: impl FnOnce(&mut Registry) -> Result<T>) -> Result<T> {
        let data = &self.dirs.data;
        create_private(data)?;
        let lock_path = data.join("groups.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .step(|| format!("open {}", lock_path.display()))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .step(|| format!("lock {}", lock_path.display()))?;
        let mut registry = self.read()?;
        let result = change(&mut registry)?;
        let path = self.file();
        let write = || -> io::Result<()> {
            let mut file = NamedTempFile::new_in(data)?;
            file.write_all(&serde_json::to_vec_pretty(&registry)?)?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().step(|| format!("write {}", path.display()))?;
        Ok(result)
    }
}
