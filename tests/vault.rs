//! Promise: a secret's value lies on disk sealed only, opens with the right key
//! and an unchanged record only, and comes from a prompt, stdin or a file.

mod harness;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use belljar::config::{Dirs, VaultConfig};
use belljar::vault::{IfMissing, Vault};
use harness::{Dice, Jar, Live, Outcome, eventually, finish};
use nix::sys::signal::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;
use zeroize::Zeroizing;

const VALUE: &str = "canary-value-81c2f7-of-the-vault";
const OTHER: &str = "another-value-5e0b19-of-the-vault";
const KEY: &str = "belljar/config/vault.key";
const SECRETS: &str = "belljar/data/vault/secrets.json";

/// `belljar secret ARGUMENTS…` with this on stdin.
fn secret(jar: &Jar, arguments: &[&str], input: &str) -> Outcome {
    finish(jar.belljar([&["secret"], arguments].concat()), input.as_bytes())
}

fn add(jar: &Jar, name: &str, arguments: &[&str]) -> Outcome {
    let host = format!("{}.example", name.to_ascii_lowercase());
    secret(jar, &[&["add", name, "--host", &host, "--bearer"], arguments].concat(), VALUE)
}

/// Each secret opens.
fn all_open(jar: &Jar, names: &[&str]) {
    let told = secret(jar, &["list", "--check"], "").success().out();
    for name in names {
        assert!(told.lines().any(|line| line.split_whitespace().eq(["ok", *name])), "{name} is not ok in:\n{told}");
    }
    assert_eq!(told.lines().count(), names.len(), "{told}");
}

fn refused(outcome: Outcome, says: &[&str]) {
    let outcome = outcome.exits(125).says(&["belljar: error: "]).says(says);
    for value in [VALUE, OTHER] {
        assert!(!outcome.err().contains(value) && !outcome.out().contains(value), "the value is told");
    }
}

fn document(jar: &Jar) -> Value {
    serde_json::from_slice(&fs::read(jar.path(SECRETS)).expect("the secrets")).expect("they are JSON")
}

fn rewrite(jar: &Jar, change: impl FnOnce(&mut Value)) {
    let mut changed = document(jar);
    change(&mut changed);
    jar.write(SECRETS, &changed.to_string());
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
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
fn forms(value: &str) -> Vec<String> {
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![value.to_owned(), hex.to_ascii_uppercase(), hex];
    for before in 0..3 {
        let encoded = STANDARD_NO_PAD.encode(["x".repeat(before).as_bytes(), value.as_bytes()].concat());
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    forms
}

fn is_in_clear(directory: &Path, value: &str) -> Option<PathBuf> {
    let forms = forms(value);
    files_below(directory).into_iter().find(|file| {
        let content = fs::read(file).expect("read a file");
        forms.iter().any(|form| content.windows(form.len()).any(|part| part == form.as_bytes()))
    })
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

/// The vault as the gateway sees it.
fn library(jar: &Jar) -> Vault {
    let home = jar.path("belljar");
    let dirs = Dirs { config: home.join("config"), data: home.join("data"), run: home.join("run") };
    Vault::new(&dirs, &VaultConfig::default())
}

fn open(jar: &Jar, group: &str) -> Vec<(String, String)> {
    let vault = library(jar);
    let master = vault.master(IfMissing::Refuse).expect("the key");
    let secrets = vault.open(&master, group).unwrap_or_else(|error| panic!("{error}"));
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    secrets.iter().map(|secret| (secret.record.name.clone(), text(secret.value.expose_secret()))).collect()
}

#[test]
fn the_value_lies_nowhere_in_clear() {
    let jar = Jar::new();
    assert!(!jar.path(KEY).exists());
    let told = add(&jar, "one", &["--env", "ONE_KEY"]).success().out();
    assert_eq!(told.lines().count(), 1);
    assert!(told.contains("ONE_KEY=belljar-placeholder") && told.contains("one.example/*"), "{told}");
    // The search finds what is there.
    jar.write("belljar/data/control", &format!("x{VALUE}x"));
    assert!(is_in_clear(&jar.path("belljar"), VALUE).is_some());
    fs::remove_file(jar.path("belljar/data/control")).expect("remove it");
    assert_eq!(is_in_clear(&jar.path(""), VALUE), None);
    secret(&jar, &["rotate", "one"], OTHER).success();
    secret(&jar, &["rotate", "--key"], "").success();
    for value in [VALUE, OTHER] {
        assert_eq!(is_in_clear(&jar.path(""), value), None);
    }
    assert_eq!(open(&jar, "main"), [("one".to_owned(), OTHER.to_owned())]);
    for file in [KEY, SECRETS] {
        assert_eq!(mode(&jar.path(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&jar.path("belljar/data/vault")), 0o700);
}

#[test]
fn list_shows_all_but_the_value() {
    let jar = Jar::new();
    secret(&jar, &["list"], "").success();
    secret(&jar, &["add", "claude", "--preset", "anthropic"], &format!("{VALUE}\n")).success();
    let text = secret(&jar, &["list"], "").success().out();
    for part in ["claude", "main", "anthropic", "api.anthropic.com/*", "x-api-key", "ANTHROPIC_API_KEY", "denied"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let listed = secret(&jar, &["list", "--json"], "").success();
    let record = &listed.json()[0];
    assert_eq!(record["bindings"][0]["strip"], serde_json::json!(["authorization"]));
    assert!(record["denied"].as_array().is_some_and(|list| !list.is_empty()));
    let sealed = document(&jar)["secrets"][0]["sealed"].as_str().expect("sealed bytes").to_owned();
    for text in [text, listed.out()] {
        assert!(forms(VALUE).iter().all(|form| !text.contains(form.as_str())) && !text.contains(&sealed));
    }
    // One line feed at the end is not part of a value.
    assert_eq!(open(&jar, "main")[0].1, VALUE);
}

#[test]
fn a_changed_record_does_not_open() {
    let jar = Jar::new();
    add(&jar, "one", &["--env", "ONE"]).success();
    add(&jar, "two", &[]).success();
    jar.call(&["group", "add", "sales"]).success();
    let good = fs::read_to_string(jar.path(SECRETS)).expect("the secrets");
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 10] = [
        ("host", |record| record["bindings"][0]["host"] = "evil.example".into()),
        ("wider host", |record| record["bindings"][0]["host"] = "*.example".into()),
        ("port", |record| record["bindings"][0]["port"] = 8443.into()),
        ("path", |record| record["bindings"][0]["path"] = "/x".into()),
        ("injection", |record| record["bindings"][0]["injection"] = serde_json::json!({"query": {"name": "q"}})),
        ("strip", |record| record["bindings"][0]["strip"] = serde_json::json!(["x"])),
        ("group", |record| record["groups"] = serde_json::json!(["main", "sales"])),
        ("variable", |record| record["variables"] = serde_json::json!([["PATH", "x"]])),
        ("name", |record| record["name"] = "three".into()),
        ("time", |record| record["created"] = "2020-01-01T00:00:00Z".into()),
    ];
    for (what, change) in changes {
        rewrite(&jar, |document| change(&mut document["secrets"][0]["record"]));
        let name = if what == "name" { "`three`" } else { "`one`" };
        refused(secret(&jar, &["list", "--check"], ""), &[name, "does not open", "hint: "]);
        let vault = library(&jar);
        let master = vault.master(IfMissing::Refuse).expect("the key");
        assert!(vault.open(&master, "main").is_err(), "{what}");
        // Nothing seals such a record again as if it were right.
        refused(secret(&jar, &["rotate", "--key"], ""), &[name]);
        refused(secret(&jar, &["rotate", name.trim_matches('`')], OTHER), &[name]);
        assert!(!jar.path("belljar/config/vault.key.new").exists(), "{what}: a change was begun");
        jar.write(SECRETS, &good);
    }
    rewrite(&jar, |document| {
        let first = document["secrets"][0]["sealed"].take();
        document["secrets"][0]["sealed"] = document["secrets"][1]["sealed"].take();
        document["secrets"][1]["sealed"] = first;
    });
    refused(secret(&jar, &["list", "--check"], ""), &["`one`", "`two`"]);
    jar.write(SECRETS, &good);
    for (key, value) in [("unknown", Value::from(1)), ("version", Value::from(2))] {
        rewrite(&jar, |document| document[key] = value);
        refused(secret(&jar, &["list"], ""), &[key]);
        jar.write(SECRETS, &good);
    }
    all_open(&jar, &["one", "two"]);
    // A damaged one can be removed, and the others stay.
    rewrite(&jar, |document| document["secrets"][0]["record"]["name"] = "three".into());
    secret(&jar, &["remove", "three"], "").success();
    all_open(&jar, &["two"]);
}

#[test]
fn another_groups_records_stay_sealed() {
    let jar = Jar::new();
    refused(add(&jar, "one", &["--group", "sales"]), &["no group `sales`", "belljar group add sales"]);
    jar.call(&["group", "add", "sales"]).success();
    add(&jar, "one", &["--group", "sales"]).success();
    add(&jar, "two", &[]).success();
    add(&jar, "both", &["-g", "sales", "-g", "main"]).success();
    let names = |group| open(&jar, group).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names("sales"), ["one", "both"]);
    assert_eq!(names("main"), ["two", "both"]);
    assert!(names("nobody").is_empty());
    // A record of sales that is damaged is not even looked at for main.
    rewrite(&jar, |document| document["secrets"][0]["sealed"] = "AAAA".into());
    assert_eq!(names("main"), ["two", "both"]);
}

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
fn adding_at_once_loses_nothing() {
    let jar = Jar::new();
    let names: Vec<String> = (0..16).map(|number| format!("s{number}")).collect();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| add(&jar, name, &[]).success());
        }
        scope.spawn(|| {
            for _ in 0..5 {
                // Before the first secret there is no key to change.
                let _ = secret(&jar, &["rotate", "--key"], "");
            }
        });
    });
    let told = secret(&jar, &["list", "--check"], "").success().out();
    assert_eq!(told.lines().filter(|line| line.starts_with("ok ")).count(), names.len(), "{told}");
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
    for round in 0..60 {
        let live = Live::start(jar.belljar(["secret", "rotate", "--key"]));
        thread::sleep(Duration::from_micros(dice.below(12_000)));
        live.signal(Signal::SIGKILL);
        let _ = live.wait();
        unfinished += usize::from(jar.path("belljar/config/vault.key.new").exists());
        all_open(&jar, &["one", "two", "three"]);
        assert_eq!(authority(&jar), AUTHORITY, "round {round}");
    }
    println!("{unfinished} of 60 were killed between begin and finish");
    secret(&jar, &["rotate", "--key"], "").success();
    all_open(&jar, &["one", "two", "three"]);
    let left = harness::names_in(&jar.path("belljar/config"));
    assert_eq!(left, ["vault.key"], "drafts of keys stay");
}

#[test]
fn the_value_is_no_argument() {
    let jar = Jar::new();
    for line in [
        vec!["add", "one", VALUE, "--host", "a.example", "--bearer"],
        vec!["add", "one", "--value", VALUE, "--host", "a.example", "--bearer"],
        vec!["rotate", "one", VALUE],
    ] {
        secret(&jar, &line, "").exits(2);
    }
    assert!(!jar.path(SECRETS).exists());
    let mut command = jar.belljar(["secret", "add", "one", "--host", "a.example", "--bearer"]);
    command.stdin(Stdio::piped());
    let mut live = Live::start(command);
    live.write(VALUE.as_bytes());
    let of = |name: &str| fs::read(format!("/proc/{}/{name}", live.pid()));
    // It waits for the end of its input, with the value in memory.
    eventually("it has begun", harness::SOON, || {
        of("cmdline").is_ok_and(|line| line.windows(9).any(|part| part == b"a.example"))
    });
    thread::sleep(Duration::from_millis(100));
    let line = of("cmdline").expect("its command line");
    assert!(!line.windows(VALUE.len()).any(|part| part == VALUE.as_bytes()));
    assert_eq!(harness::processes_with(VALUE), Vec::<u32>::new());
    match of("environ") {
        Ok(environ) => assert!(!environ.windows(VALUE.len()).any(|part| part == VALUE.as_bytes())),
        // No process of the same user may look into it.
        Err(error) => assert_eq!(error.raw_os_error(), Some(13)),
    }
    if !harness::is_root() {
        assert!(of("environ").is_err() && File::open(format!("/proc/{}/mem", live.pid())).is_err());
    }
    drop(live.stdin.take());
    live.wait().success();
    all_open(&jar, &["one"]);
}

#[test]
fn a_prompt_does_not_echo() {
    let Some(setsid) = harness::system_program("setsid") else {
        harness::skip("setsid, to give belljar a terminal");
        return;
    };
    let jar = Jar::new();
    let pair = nix::pty::openpty(None, None).expect("open a terminal");
    let stdio = || Stdio::from(pair.slave.try_clone().expect("duplicate it"));
    let mut command = Command::new(&setsid);
    command.arg("--ctty").arg(harness::belljar());
    command.args(["secret", "add", "one", "--host", "a.example", "--bearer"]);
    jar.surround(&mut command);
    command.stdin(stdio());
    let live = Live::start(command);
    let mut terminal = File::from(pair.master);
    let mut seen = Vec::new();
    while !seen.ends_with(b"value: ") {
        let mut byte = [0];
        terminal.read_exact(&mut byte).expect("the prompt");
        seen.push(byte[0]);
    }
    terminal.write_all(format!("{VALUE}\n").as_bytes()).expect("type");
    live.wait().success();
    drop(pair.slave);
    let _ = terminal.read_to_end(&mut seen);
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(!seen.contains(VALUE) && !seen.contains("canary"), "{seen}");
    assert_eq!(open(&jar, "main")[0].1, VALUE);
}

#[test]
fn values_that_cannot_stand_in_a_header_are_refused() {
    let jar = Jar::new();
    let long = "x".repeat(8193);
    for (value, why) in [
        ("\n", "empty"),
        ("canary-value\n\n", "line feed"),
        ("canary\r\nvalue", "line feed"),
        ("canary-value\r\n", "line feed"),
        ("canary\0value", "NUL"),
        ("canary\u{1b}value", "control"),
        ("short", "shorter than 8"),
        (&long, "longer than 8192"),
        (" canary-value", "blank"),
        ("canary value", "blank"),
        ("belljar-placeholder", "placeholder"),
    ] {
        refused(secret(&jar, &["add", "one", "--host", "a.example", "--bearer"], value), &[why]);
        let file = jar.write("value", value);
        let path = file.to_string_lossy();
        refused(secret(&jar, &["add", "one", "--preset", "openai", "--value-file", &path], ""), &[why]);
    }
    refused(secret(&jar, &["add", "one", "--preset", "openai"], ""), &["empty"]);
    assert!(!jar.path(SECRETS).exists() && !jar.path(KEY).exists());
    let file = jar.write("value", &format!("{VALUE}\n"));
    let path = file.to_string_lossy();
    secret(&jar, &["add", "one", "--preset", "openai", "--value-file", &path], "").success();
    assert_eq!(open(&jar, "main")[0].1, VALUE);
    refused(secret(&jar, &["rotate", "one"], "short"), &["shorter"]);
    assert_eq!(open(&jar, "main")[0].1, VALUE);
}

#[test]
fn bindings_that_make_no_sense_are_refused() {
    let jar = Jar::new();
    let try_one = |arguments: &[&str]| secret(&jar, &[&["add"], arguments].concat(), VALUE);
    for (name, says) in [("-x", ""), ("a/b", "not a name"), ("", "not a name"), (&"a".repeat(65), "not a name")] {
        let outcome = try_one(&["--host", "a.example", "--bearer", "--", name]);
        assert!(outcome.code == 125, "{name}: {}", outcome.err());
        outcome.says(&[says]);
    }
    for host in ["https://a.example", "a.example/x", "a.example:443", "u@a.example", "*", "*.com", "a..b", "0x7f.1"] {
        refused(try_one(&["one", "--host", host, "--bearer"]), &["not a host"]);
    }
    for path in ["x", "/a/../b", "/a//b", "/a?b", "/%2e", "/a*b"] {
        refused(try_one(&["one", "--host", "a.example", "--bearer", "--path", path]), &["not a path"]);
    }
    for header in ["Host: {value}", "content-length: {value}", "Proxy-X: {value}", "TE: {value}", "a b: {value}"] {
        refused(try_one(&["one", "--host", "a.example", "--header", header]), &["cannot be used"]);
    }
    for header in ["X-Key: none", "X-Key: {value}{value}", "X-Key: {value}\r\nX: y"] {
        refused(try_one(&["one", "--host", "a.example", "--header", header]), &["cannot be used"]);
    }
    for variable in ["1A", "A B", "A=B", "", "PATH", "LD_PRELOAD", "https_proxy"] {
        let env = format!("--env={variable}");
        refused(try_one(&["one", "--host", "a.example", "--bearer", &env]), &["variable"]);
    }
    refused(try_one(&["one", "--preset", "nobody"]), &["no preset `nobody`", "anthropic"]);
    refused(try_one(&["one", "--host", "a.example", "--basic", "a:b"]), &["colon"]);
    for line in [
        vec!["one"],
        vec!["one", "--host", "a.example"],
        vec!["one", "--preset", "generic"],
        vec!["one", "--preset", "openai", "--bearer"],
        vec!["one", "--preset", "openai", "--path", "/x"],
        vec!["one", "--host", "a.example", "--bearer", "--query", "k"],
        vec!["one", "--host", "a.example", "--header", "no colon"],
    ] {
        try_one(&line).exits(2);
    }
    assert!(!jar.path(SECRETS).exists());
    secret(&jar, &["add", "one", "--preset", "generic", "--host", "A.example"], VALUE).success();
    assert_eq!(document(&jar)["secrets"][0]["record"]["bindings"][0]["host"], "a.example");
}

#[test]
fn two_secrets_do_not_get_into_each_others_way() {
    let jar = Jar::new();
    jar.call(&["group", "add", "sales"]).success();
    secret(&jar, &["add", "key", "--preset", "anthropic"], VALUE).success();
    refused(secret(&jar, &["add", "key", "--preset", "openai"], VALUE), &["already", "rotate key", "remove key"]);
    refused(secret(&jar, &["add", "again", "--preset", "anthropic"], VALUE), &["ANTHROPIC_API_KEY", "`key`"]);
    let token = "sk-ant-oat01-canary-value";
    // Its Authorization header would be taken out for the other's sake.
    refused(secret(&jar, &["add", "token", "--preset", "anthropic"], token), &["same part"]);
    secret(&jar, &["add", "token", "--preset", "anthropic", "-g", "sales"], token).success();
    refused(secret(&jar, &["rotate", "key"], token), &["another kind"]);
    let explicit = |name: &str, more: &[&str]| secret(&jar, &[&["add", name], more].concat(), VALUE);
    explicit("a", &["--host", "x.corp.example", "--header", "X-A: {value}"]).success();
    explicit("b", &["--host", "x.corp.example", "--header", "X-B: {value}"]).success();
    explicit("c", &["--host", "x.corp.example", "--bearer", "--path", "/c/*"]).success();
    explicit("d", &["--host", "x.corp.example", "--bearer", "--path", "/d/*"]).success();
    explicit("e", &["--host", "x.corp.example", "--bearer", "--path", "/c/*", "--port", "8443"]).success();
    refused(explicit("f", &["--host", "*.corp.example", "--basic", "u"]), &["same part"]);
    refused(explicit("g", &["--host", "x.corp.example", "--header", "x-a: k {value}"]), &["same part", "`a`"]);
    refused(explicit("h", &["--host", "y.corp.example", "--bearer", "--env", "ANTHROPIC_API_KEY"]), &["variable"]);
    explicit("i", &["--host", "*.corp.example", "--basic", "u", "--group", "sales"]).success();
}

#[test]
fn a_preset_at_another_host() {
    let jar = Jar::new();
    secret(&jar, &["add", "gh", "--preset", "github"], VALUE).success();
    secret(&jar, &["add", "ghe", "--preset", "github", "--host", "git.corp.example"], VALUE).success();
    let listed = secret(&jar, &["list", "--json"], "").success().json();
    let hosts = |at: usize, what: &str| -> Vec<String> {
        let list = listed[at][what].as_array().expect("a list");
        list.iter().map(|item| item["host"].as_str().expect("a host").to_owned()).collect()
    };
    assert!(hosts(0, "bindings").contains(&"api.github.com".to_owned()));
    for what in ["bindings", "denied"] {
        assert!(hosts(1, what).iter().all(|host| host == "git.corp.example"));
    }
    assert!(listed[0]["variables"].to_string().contains("GH_TOKEN"));
    assert!(listed[1]["variables"].to_string().contains("GH_ENTERPRISE_TOKEN"));
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
        live.signal(Signal::SIGKILL);
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
