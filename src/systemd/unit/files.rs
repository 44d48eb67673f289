//! Writing and removing unit files. What somebody else has written is never
//! written over; what somebody has changed only when that is asked for.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::Scope;
use super::text::{Writer, writer};
use crate::error::{Context, Error, Result, shell_word};

/// What to do with files of ours that somebody has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Refuse.
    No,
    /// Do as if nobody had.
    Yes,
}

/// What is to become of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    New,
    /// It takes the place of an older one of ours.
    Replaced,
    /// It is there as it is to be.
    Same,
}

/// One file that is to be written.
#[derive(Debug)]
pub struct Planned {
    /// Where.
    pub path: PathBuf,
    /// What becomes of it.
    pub change: Change,
    text: String,
}

impl Planned {
    /// Looks at what is there; nothing is written yet.
    pub fn new(directory: &Path, (name, text): (String, String), force: Force) -> Result<Self> {
        let path = directory.join(name);
        let change = match look(&path)? {
            None => Change::New,
            Some(there) if there == text => Change::Same,
            Some(there) => {
                refuse_others(&path, &there, force)?;
                Change::Replaced
            }
        };
        Ok(Self { path, change, text })
    }

    /// Its text, for people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes it, whole or not at all.
    pub fn write(&self) -> Result<()> {
        if self.change == Change::Same {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            let mut file = NamedTempFile::new_in(directory)?;
            file.write_all(self.text.as_bytes())?;
            // systemd gives a unit's text to everybody who asks.
            file.as_file().set_permissions(Permissions::from_mode(0o644))?;
            file.as_file().sync_all()?;
            if self.change == Change::New {
                file.persist_noclobber(&self.path).map_err(|error| error.error)?;
            } else {
                file.persist(&self.path).map_err(|error| error.error)?;
            }
            Ok(())
        };
        let hint = || format!("ls -ld {}", shell_word(&directory.to_string_lossy()));
        write().step(|| format!("write {}", self.path.display())).map_err(|error| error.hint(hint()))
    }
}

/// The names of belljar's own units in `directory`.
pub fn installed(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.step(|| format!("read {}", directory.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.step(|| format!("read {}", directory.display()))?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("belljar")) else { continue };
        let path = directory.join(name);
        let ours = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file())
            && fs::read_to_string(&path).is_ok_and(|text| writer(&text) != Writer::Foreign);
        if ours {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Which of these are there to be removed; refuses those of others.
pub fn plan_removal(directory: &Path, names: &[String], force: Force) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in names.iter().map(|name| directory.join(name)) {
        if let Some(text) = look(&path)? {
            refuse_others(&path, &text, force)?;
            found.push(path);
        }
    }
    Ok(found)
}

/// The text of a unit file, if there is one. What is no file is somebody's.
fn look(path: &Path) -> Result<Option<String>> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta.step(|| format!("look at {}", path.display()))?,
    };
    if !meta.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let what = if meta.is_symlink() { "a link" } else { "not a file" };
        let hint = match fs::read_link(path) {
            Ok(target) if target == Path::new("/dev/null") => {
                format!("it is masked: {} unmask {name}", systemctl_of(path))
            }
            _ => move_away(path),
        };
        return Err(Error::refused(format!("{} is {what}, and was not made by belljar", path.display())).hint(hint));
    }
    let bytes = fs::read(path).step(|| format!("read {}", path.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whose manager reads a unit file that lies there.
fn systemctl_of(path: &Path) -> &'static str {
    let scope = if path.starts_with("/etc/systemd/system") { Scope::System } else { Scope::User };
    scope.systemctl()
}

fn refuse_others(path: &Path, text: &str, force: Force) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match (writer(text), force) {
        (Writer::Belljar, _) | (Writer::Edited, Force::Yes) => Ok(()),
        (Writer::Edited, Force::No) => Err(Error::refused(format!("{} was changed by hand", path.display()))
            .because("the changes would be lost")
            .hint(format!("move them into a drop-in ({} edit {name}), or add --force", systemctl_of(path)))),
        (Writer::Foreign, _) => {
            Err(Error::refused(format!("{} was not written by belljar", path.display())).hint(move_away(path)))
        }
    }
}

fn move_away(path: &Path) -> String {
    let name = path.to_string_lossy();
    format!("mv {} {}", shell_word(&name), shell_word(&format!("{name}.mine")))
}
