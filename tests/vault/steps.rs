//! What the tests of the vault do, and what they see.

// Two test executables compile this module, and each uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use belljar::config::{Dirs, VaultConfig};
use belljar::vault::{IfMissing, Vault};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::harness::{Jar, Outcome, finish};

pub const VALUE: &str = "canary-value-81c2f7-of-the-vault";
pub const OTHER: &str = "another-value-5e0b19-of-the-vault";
pub const KEY: &str = "belljar/config/vault.key";
pub const SECRETS: &str = "belljar/data/vault/secrets.json";

/// `belljar secret ARGUMENTS…` with this on stdin.
pub fn secret(jar: &Jar, arguments: &[&str], input: &str) -> Outcome {
    finish(jar.belljar([&["secret"], arguments].concat()), input.as_bytes())
}

pub fn add(jar: &Jar, name: &str, arguments: &[&str]) -> Outcome {
    let host = format!("{}.example", name.to_ascii_lowercase());
    secret(jar, &[&["add", name, "--host", &host, "--bearer"], arguments].concat(), VALUE)
}

/// Each secret opens.
pub fn all_open(jar: &Jar, names: &[&str]) {
    let told = secret(jar, &["list", "--check"], "").success().out();
    for name in names {
        assert!(told.lines().any(|line| line.split_whitespace().eq(["ok", *name])), "{name} is not ok in:\n{told}");
    }
    assert_eq!(told.lines().count(), names.len(), "{told}");
}

pub fn refused(outcome: Outcome, says: &[&str]) {
    let outcome = outcome.exits(125).says(&["belljar: error: "]).says(says);
    for value in [VALUE, OTHER] {
        assert!(!outcome.err().contains(value) && !outcome.out().contains(value), "the value is told");
    }
}

pub fn document(jar: &Jar) -> Value {
    serde_json::from_slice(&fs::read(jar.path(SECRETS)).expect("the secrets")).expect("they are JSON")
}

pub fn rewrite(jar: &Jar, change: impl FnOnce(&mut Value)) {
    let mut changed = document(jar);
    change(&mut changed);
    jar.write(SECRETS, &changed.to_string());
}

pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// The value and what would give it away: hexadecimal digits, and base64 at each
/// of the three places that it can have in a longer text.
pub fn forms(value: &str) -> Vec<String> {
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![value.to_owned(), hex.to_ascii_uppercase(), hex];
    for before in 0..3 {
        let encoded = STANDARD_NO_PAD.encode(["x".repeat(before).as_bytes(), value.as_bytes()].concat());
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    forms
}

pub fn is_in_clear(directory: &Path, value: &str) -> Option<PathBuf> {
    let forms = forms(value);
    files_below(directory).into_iter().find(|file| {
        let content = fs::read(file).expect("read a file");
        forms.iter().any(|form| content.windows(form.len()).any(|part| part == form.as_bytes()))
    })
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

/// The vault as the gateway sees it.
pub fn library(jar: &Jar) -> Vault {
    let home = jar.path("belljar");
    let dirs = Dirs { config: home.join("config"), data: home.join("data"), run: home.join("run") };
    Vault::new(&dirs, &VaultConfig::default())
}

pub fn open(jar: &Jar, group: &str) -> Vec<(String, String)> {
    let vault = library(jar);
    let master = vault.master(IfMissing::Refuse).expect("the key");
    let secrets = vault.open(&master, group).unwrap_or_else(|error| panic!("{error}"));
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    secrets.iter().map(|secret| (secret.record.name.clone(), text(secret.value.expose_secret()))).collect()
}
