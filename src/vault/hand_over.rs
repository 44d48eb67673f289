//! Handing the master key to systemd: from a file in clear to an encrypted
//! credential. At any moment there is a key that opens everything.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::credential::{credential_file, encrypt, shred};
use super::document::{Document, write_whole};
use super::file::{parse_key, read_private};
use super::seal::Key;
use super::source::Source;
use super::{Vault, credential};
use crate::config::{Config, Dirs, KeySource, VaultConfig, create_private, read_own};
use crate::error::{Error, Result};

/// What was done.
#[derive(Debug, Default)]
pub struct HandedOver {
    /// The credential, where it was written now.
    pub credential: Option<PathBuf>,
    /// The configuration, where it was changed now.
    pub configuration: Option<PathBuf>,
    /// The key in clear, where it was removed now.
    pub removed: Option<PathBuf>,
}

/// Makes systemd keep the master key; done before it changes nothing.
pub fn hand_over(dirs: &Dirs, config: &VaultConfig) -> Result<HandedOver> {
    let encrypted = credential_file(dirs);
    let clear = match &Source::new(dirs, &VaultConfig { key: KeySource::File, ..config.clone() }) {
        Source::File(path) => path.clone(),
        _ => dirs.config.join("vault.key"),
    };
    if config.key == KeySource::Passphrase {
        return Err(Error::refused("--encrypt-key: the master key is behind a passphrase, not in a file")
            .hint("leave --encrypt-key away; a unit needs [vault] passphrase_file"));
    }
    let next = new_configuration(dirs)?;
    let vault = Vault::new(dirs, config);
    let _lock = vault.lock(nix::fcntl::FlockArg::LockExclusive)?;
    let mut done = HandedOver::default();
    let kept = credential::read(credential::CREDENTIAL, &encrypted)?;
    let in_clear = match clear.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => Some(parse_key(&read_private(&clear)?, &clear)?),
    };
    match (&in_clear, &kept) {
        (Some(key), Some(kept)) if key.id != kept.id => {
            return Err(Error::refused(format!("{} holds another key than {}", encrypted.display(), clear.display()))
                .hint(format!(
                    "move the one away that opens nothing: belljar secret list --check; mv {0} {0}.old",
                    encrypted.display()
                )));
        }
        (_, Some(_)) => {}
        (Some(key), None) => encrypt(key, &encrypted).map(|()| done.credential = Some(encrypted.clone()))?,
        (None, None) => {
            vault.refuse_another(&Document::read(&vault.path())?)?;
            encrypt(&Key::random(), &encrypted)?;
            done.credential = Some(encrypted.clone());
        }
    }
    if let Some((path, text)) = next {
        create_private(&dirs.config)?;
        write_whole(&path, text.as_bytes())?;
        done.configuration = Some(path);
    }
    if in_clear.is_some() {
        shred(&clear)?;
        done.removed = Some(clear);
    }
    Ok(done)
}

/// `config.toml` with `[vault] key = "systemd"`; `None` where it says so.
fn new_configuration(dirs: &Dirs) -> Result<Option<(PathBuf, String)>> {
    let path = dirs.config_file();
    let text = read_own(&path)?.unwrap_or_default();
    if Config::load(&path)?.vault.key == KeySource::Systemd {
        return Ok(None);
    }
    let by_hand = || {
        Error::refused(format!("{} cannot be changed by belljar", path.display()))
            .hint(format!("write key = \"systemd\" below [vault] in {}, then call this again", path.display()))
    };
    if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return Err(by_hand().because("it is a link"));
    }
    let is_key =
        |line: &str| line.trim_start().strip_prefix("key").is_some_and(|rest| rest.trim_start().starts_with('='));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match lines.iter().position(|line| line.trim() == "[vault]") {
        None => {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.extend(["[vault]".to_owned(), "key = \"systemd\"".to_owned()]);
        }
        Some(at) => {
            let end = lines[at + 1..]
                .iter()
                .position(|line| line.trim_start().starts_with('['))
                .map_or(lines.len(), |n| at + 1 + n);
            lines.splice(at + 1..end, {
                let rest: Vec<String> = lines[at + 1..end].iter().filter(|line| !is_key(line)).cloned().collect();
                std::iter::once("key = \"systemd\"".to_owned()).chain(rest).collect::<Vec<_>>()
            });
        }
    }
    let changed = format!("{}\n", lines.join("\n"));
    match toml::from_str::<Config>(&changed) {
        Ok(config) if config.vault.key == KeySource::Systemd => Ok(Some((path, changed))),
        Ok(_) => Err(by_hand()),
        Err(error) => Err(by_hand().because(error.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_keeps_all_else() {
        let place = tempfile::tempdir().expect("a directory");
        let dirs = Dirs { config: place.path().into(), data: place.path().join("d"), run: place.path().join("r") };
        let after = |text: &str| {
            fs::write(dirs.config_file(), text).expect("a configuration");
            new_configuration(&dirs).expect("a change").map(|(_, text)| text)
        };
        assert_eq!(after("").as_deref(), Some("[vault]\nkey = \"systemd\"\n"));
        assert_eq!(
            after("[run]\negress = \"none\" # mine\n").as_deref(),
            Some("[run]\negress = \"none\" # mine\n\n[vault]\nkey = \"systemd\"\n")
        );
        assert_eq!(
            after("[vault]\n# why\nkey = \"file\"\nkey_file = \"/k\"\n\n[run]\n").as_deref(),
            Some("[vault]\nkey = \"systemd\"\n# why\nkey_file = \"/k\"\n\n[run]\n")
        );
        assert_eq!(after("[vault]\nkey = \"systemd\"\n"), None);
        fs::write(dirs.config_file(), "vault = { key = \"file\" }\n").expect("a configuration");
        let refused = new_configuration(&dirs).expect_err("a table in one line");
        assert!(refused.hint.is_some_and(|hint| hint.contains("key = \"systemd\"")));
    }
}
