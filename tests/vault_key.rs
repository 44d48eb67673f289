//! Promise: secrets open with their master key only, the key is the caller's
//! alone, and it can be changed without losing anything, at whatever moment the
//! change is cut off.

mod harness;
#[path = "vault/steps.rs"]
mod steps;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::thread;
use std::time::Duration;

use belljar::vault::IfMissing;
use harness::{Dice, Jar, Live, finish, load, slowly};
use nix::sys::signal::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;
use steps::*;
use zeroize::Zeroizing;

#[test]
fn the_key_file_is_the_callers_alone() {
    let jar = Jar::new();
    add(&jar, "one", &[]).success();
    let key = jar.path(KEY);
    for wrong in [0o644, 0o640, 0o604, 0o660, 0o700, 0o4600] {
        fs::set_permissions(&key, Permissions::from_mode(wrong)).expect("chmod");
        refused(secret(&jar, &["list", "--check"], ""), &["mode", "hint: chmod 600 "]);
        refused(add(&jar, "two", &[]), &["hint: chmod 600 "]);
    }
    fs::set_permissions(&key, Permissions::from_mode(0o400)).expect("chmod");
    all_open(&jar, &["one"]);
    let elsewhere = jar.path("elsewhere.key");
    fs::rename(&key, &elsewhere).expect("move it");
    refused(secret(&jar, &["list", "--check"], ""), &["no master key"]);
    // A new key would make what is there unreadable.
    refused(add(&jar, "two", &[]), &["no master key", "sealed", "hint: "]);
    assert!(!key.exists());
    symlink(&elsewhere, &key).expect("a symlink");
    refused(secret(&jar, &["list", "--check"], ""), &["symlink"]);
    fs::remove_file(&key).expect("remove it");
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRUSR).expect("a FIFO");
    refused(secret(&jar, &["list", "--check"], ""), &["not a regular file"]);
    fs::remove_file(&key).expect("remove it");
    // A wrong key is not a damaged record.
    jar.write(KEY, &"ab".repeat(32));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("chmod");
    refused(secret(&jar, &["list", "--check"], ""), &["the master key is not the one", "hint: "]);
    refused(add(&jar, "two", &[]), &["the master key is not the one"]);
    for wrong in ["", "short", &"xy".repeat(32)] {
        fs::write(&key, wrong).expect("write it");
        refused(secret(&jar, &["list", "--check"], ""), &["does not hold a key"]);
    }
    fs::rename(&elsewhere, &key).expect("move it back");
    all_open(&jar, &["one"]);
}

#[test]
fn a_link_in_the_keys_place_is_not_written_through() {
    let jar = Jar::new();
    symlink(jar.path("target"), jar.path(KEY)).expect("a symlink");
    refused(add(&jar, "one", &[]), &["symlink"]);
    assert!(!jar.path("target").exists());
}

#[test]
fn readers_during_changes_of_the_key_see_everything() {
    let jar = Jar::new();
    add(&jar, "one", &[]).success();
    thread::scope(|scope| {
        let changing = scope.spawn(|| (0..30).for_each(|_| drop(secret(&jar, &["rotate", "--key"], "").success())));
        let vault = library(&jar);
        while !changing.is_finished() {
            let master = vault.master(IfMissing::Refuse).unwrap_or_else(|error| panic!("{error}"));
            thread::sleep(Duration::from_millis(3));
            let secrets = vault.open(&master, "main").unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(secrets[0].value.expose_secret(), VALUE.as_bytes());
        }
    });
}

const AUTHORITY: &[u8] = b"the key of an authority, for this test";

fn authority(jar: &Jar) -> Vec<u8> {
    let vault = library(jar);
    let master = vault.master(IfMissing::Refuse).expect("the key");
    let made = vault.open_or_make(&master, || Ok(Zeroizing::new(AUTHORITY.to_vec())));
    made.unwrap_or_else(|error| panic!("{error}")).to_vec()
}

#[test]
fn both_rotations() {
    let jar = Jar::new();
    refused(secret(&jar, &["rotate", "--key"], ""), &["no master key"]);
    refused(secret(&jar, &["rotate", "one"], VALUE), &["no secret `one`"]);
    assert!(!jar.path(KEY).exists(), "a key was made for nothing");
    add(&jar, "one", &[]).success();
    add(&jar, "two", &[]).success();
    assert_eq!(authority(&jar), AUTHORITY);
    let sealed = fs::read(jar.path("belljar/data/ca/key.sealed")).expect("the sealed key");
    let (key, before) = (fs::read(jar.path(KEY)).expect("the key"), document(&jar));
    secret(&jar, &["rotate", "one"], OTHER).success();
    let after = document(&jar);
    assert_eq!(before["secrets"][1], after["secrets"][0], "the other secret stays as it is");
    let rotated = after["secrets"][1]["record"]["rotated"].as_str().map(str::to_owned);
    assert!(rotated.is_some() && before["secrets"][0]["record"]["rotated"].is_null());
    secret(&jar, &["rotate", "--key"], "").success();
    assert_ne!(fs::read(jar.path(KEY)).expect("the key"), key);
    assert_ne!(fs::read(jar.path("belljar/data/ca/key.sealed")).expect("the sealed key"), sealed);
    assert!(!jar.path("belljar/config/vault.key.new").exists());
    assert_eq!(open(&jar, "main"), [("two".to_owned(), VALUE.to_owned()), ("one".to_owned(), OTHER.to_owned())]);
    assert_eq!(authority(&jar), AUTHORITY);
    // The old key is of no use any more.
    fs::write(jar.path(KEY), key).expect("write it");
    refused(secret(&jar, &["list", "--check"], ""), &["the master key is not the one"]);
}

#[test]
fn each_state_that_a_loss_of_power_can_leave_opens() {
    let jar = Jar::new();
    add(&jar, "one", &[]).success();
    assert_eq!(authority(&jar), AUTHORITY);
    let read = |name: &str| fs::read(jar.path(name)).expect("read a file");
    let put = |name: &str, content: &[u8]| {
        fs::write(jar.path(name), content).expect("write a file");
        fs::set_permissions(jar.path(name), Permissions::from_mode(0o600)).expect("chmod");
    };
    const CA: &str = "belljar/data/ca/key.sealed";
    const NEXT: &str = "belljar/config/vault.key.new";
    let old = [KEY, SECRETS, CA].map(read);
    secret(&jar, &["rotate", "--key"], "").success();
    let new = [KEY, SECRETS, CA].map(read);
    // (the secrets are the new ones, the authority's key is)
    for (secrets, ca) in [(false, false), (true, false), (true, true)] {
        for then in ["list", "add", "rotate", "rotate --key"] {
            put(KEY, &old[0]);
            put(NEXT, &new[0]);
            put(SECRETS, if secrets { &new[1] } else { &old[1] });
            put(CA, if ca { &new[2] } else { &old[2] });
            // What a draft that was cut off leaves.
            put("belljar/config/vault.key.new.draft", b"abc");
            put("belljar/data/vault/secrets.json.draft", b"{");
            all_open(&jar, &["one"]);
            assert_eq!(authority(&jar), AUTHORITY);
            match then {
                "add" => drop(add(&jar, "two", &[]).success()),
                "rotate" => drop(secret(&jar, &["rotate", "one"], OTHER).success()),
                "rotate --key" => drop(secret(&jar, &["rotate", "--key"], "").success()),
                _ => continue,
            }
            assert!(!jar.path(NEXT).exists(), "{then} left the change unfinished");
            secret(&jar, &["list", "--check"], "").success();
            assert_eq!(authority(&jar), AUTHORITY);
            assert_ne!(read(KEY), old[0]);
        }
    }
}

#[test]
fn killed_at_any_moment_of_a_change_everything_opens() {
    let jar = Jar::new();
    for name in ["one", "two", "three"] {
        add(&jar, name, &[]).success();
    }
    assert_eq!(authority(&jar), AUTHORITY);
    let mut dice = Dice::new();
    let mut unfinished = 0;
    for round in 0..load(60, 10) {
        let live = Live::start(jar.belljar(["secret", "rotate", "--key"]));
        thread::sleep(slowly(Duration::from_micros(dice.below(12_000))));
        live.signal(Signal::SIGKILL);
        let _ = live.wait();
        unfinished += usize::from(jar.path("belljar/config/vault.key.new").exists());
        all_open(&jar, &["one", "two", "three"]);
        assert_eq!(authority(&jar), AUTHORITY, "round {round}");
    }
    println!("{unfinished} were killed between begin and finish");
    secret(&jar, &["rotate", "--key"], "").success();
    all_open(&jar, &["one", "two", "three"]);
    let left = harness::names_in(&jar.path("belljar/config"));
    assert_eq!(left, ["vault.key"], "drafts of keys stay");
}

fn private(jar: &Jar, name: &str, text: &str) -> String {
    let path = jar.write(name, text);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    jar.text(name)
}

#[test]
fn a_passphrase_instead_of_a_key_file() {
    let jar = Jar::new();
    let file = private(&jar, "passphrase", "correct horse battery\n");
    let config = |file: &str| format!("[vault]\nkey = \"passphrase\"\npassphrase_file = \"{file}\"\n");
    jar.write("belljar/config/config.toml", &config(&file));
    add(&jar, "one", &[]).success();
    all_open(&jar, &["one"]);
    assert!(!jar.path(KEY).exists());
    assert_eq!(is_in_clear(&jar.path("belljar"), "correct horse battery"), None);
    assert_eq!(is_in_clear(&jar.path("belljar"), VALUE), None);
    let wrong = private(&jar, "wrong", "correct horse batteru\n");
    jar.write("belljar/config/config.toml", &config(&wrong));
    refused(secret(&jar, &["list", "--check"], ""), &["the passphrase is not the right one"]);
    refused(add(&jar, "two", &[]), &["the passphrase is not the right one"]);
    jar.write("belljar/config/config.toml", &config(&file));
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("chmod");
    refused(secret(&jar, &["list", "--check"], ""), &["hint: chmod 600 "]);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
    let next = private(&jar, "next", "another horse\n");
    secret(&jar, &["rotate", "--key", "--new-key-file", &next], "").success();
    refused(secret(&jar, &["list", "--check"], ""), &["the passphrase is not the right one"]);
    jar.write("belljar/config/config.toml", &config(&next));
    all_open(&jar, &["one"]);
    let short = private(&jar, "short", "short\n");
    refused(secret(&jar, &["rotate", "--key", "--new-key-file", &short], ""), &["shorter"]);
    all_open(&jar, &["one"]);
    // Without a terminal nobody can be asked.
    jar.write("belljar/config/config.toml", "[vault]\nkey = \"passphrase\"\n");
    let Some(setsid) = harness::system_program("setsid") else {
        return harness::skip("setsid, to have no terminal");
    };
    let mut command = Command::new(setsid);
    command.arg("--wait").arg(harness::belljar()).args(["secret", "list", "--check"]);
    jar.surround(&mut command);
    refused(finish(command, b""), &["terminal", "passphrase_file"]);
}

#[test]
fn killed_while_the_passphrase_changes_one_of_the_two_opens() {
    let jar = Jar::new();
    let files = [private(&jar, "first", "the first passphrase"), private(&jar, "second", "the second passphrase")];
    let configure = |file: &str| {
        let text = format!("[vault]\nkey = \"passphrase\"\npassphrase_file = \"{file}\"\n");
        jar.write("belljar/config/config.toml", &text)
    };
    configure(&files[0]);
    add(&jar, "one", &[]).success();
    let kept = jar.path("belljar/data/vault/passphrase.json");
    // Each passphrase has a salt; finishing an interrupted change keeps it.
    let salt = || -> Value {
        let kept: Value = serde_json::from_slice(&fs::read(&kept).expect("the sealed key")).expect("JSON");
        kept["salt"].clone()
    };
    let mut now = 0;
    for _ in 0..6 {
        let before = salt();
        let mut live = Live::start(jar.belljar(["secret", "rotate", "--key", "--new-key-file", &files[1 - now]]));
        while live.is_running() && salt() == before {}
        // It may have ended in this moment.
        let _ = nix::sys::signal::kill(live.pid(), Signal::SIGKILL);
        let _ = live.wait();
        assert_ne!(salt(), before, "it ended before the passphrase was changed");
        now = 1 - now;
        configure(&files[now]);
        all_open(&jar, &["one"]);
    }
    add(&jar, "two", &[]).success();
    all_open(&jar, &["one", "two"]);
    let kept: Value = serde_json::from_slice(&fs::read(kept).expect("the sealed key")).expect("JSON");
    assert_eq!(kept["keys"].as_array().map(Vec::len), Some(1), "the change was not finished");
}

#[test]
fn a_key_from_systemd() {
    let jar = Jar::new();
    jar.write("belljar/config/config.toml", "[vault]\nkey = \"systemd\"\n");
    refused(add(&jar, "one", &[]), &["no credential belljar.key", "LoadCredentialEncrypted"]);
    let raw: Vec<u8> = (100..132).collect();
    fs::create_dir(jar.path("credentials")).expect("make a directory");
    fs::write(jar.path("credentials/belljar.key"), &raw).expect("write the key");
    fs::set_permissions(jar.path("credentials/belljar.key"), Permissions::from_mode(0o400)).expect("chmod");
    let unit = |arguments: &[&str], input: &str| {
        let mut command = jar.belljar([&["secret"], arguments].concat());
        command.env("CREDENTIALS_DIRECTORY", jar.path("credentials"));
        finish(command, input.as_bytes())
    };
    unit(&["add", "one", "--host", "a.example", "--bearer"], VALUE).success();
    unit(&["list", "--check"], "").success();
    assert!(!jar.path(KEY).exists());
    refused(unit(&["rotate", "--key"], ""), &["--new-key-file"]);
    let next = private(&jar, "next.key", &"5a".repeat(32));
    unit(&["rotate", "--key", "--new-key-file", &next], "").success();
    refused(unit(&["list", "--check"], ""), &["the master key is not the one"]);
    // Interrupted or not, the same again is no harm.
    unit(&["rotate", "--key", "--new-key-file", &next], "").success();
    // Both credentials: nothing is closed while the unit is changed.
    fs::copy(&next, jar.path("credentials/belljar.key.new")).expect("copy it");
    unit(&["list", "--check"], "").success();
    fs::rename(jar.path("credentials/belljar.key.new"), jar.path("credentials/belljar.key")).expect("move it");
    unit(&["list", "--check"], "").success();
    refused(unit(&["rotate", "--key", "--new-key-file", &next], ""), &["in use"]);
}
