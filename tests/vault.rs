//! Promise: a secret's value lies on disk sealed only, opens with an unchanged
//! record only, goes where its record says, and comes from a prompt, stdin or a
//! file. What concerns the master key is in vault_key.rs.

mod harness;
#[path = "vault/steps.rs"]
mod steps;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use belljar::vault::IfMissing;
use harness::{Jar, Live, eventually};
use serde_json::Value;
use steps::*;

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
    thread::sleep(harness::slowly(Duration::from_millis(100)));
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

/// `belljar secret add one` on a terminal, with this typed at the prompt; what
/// the terminal showed, and how it ended.
fn typed(jar: &Jar, input: &str) -> Option<(String, i32)> {
    let Some(setsid) = harness::system_program("setsid") else {
        harness::skip("setsid, to give belljar a terminal");
        return None;
    };
    let pair = nix::pty::openpty(None, None).expect("open a terminal");
    let before = rustix::termios::tcgetattr(&pair.slave).expect("its mode");
    let mut command = Command::new(&setsid);
    command.args(["--ctty", "--wait"]).arg(harness::belljar());
    command.args(["secret", "add", "one", "--host", "a.example", "--bearer"]);
    jar.surround(&mut command);
    command.stdin(Stdio::from(pair.slave.try_clone().expect("duplicate it")));
    let live = Live::start(command);
    let mut terminal = File::from(pair.master);
    let mut seen = Vec::new();
    while !seen.ends_with(b"value: ") {
        let mut byte = [0];
        terminal.read_exact(&mut byte).expect("the prompt");
        seen.push(byte[0]);
    }
    // At once, as a paste or a program does.
    terminal.write_all(input.as_bytes()).expect("type");
    let code = live.wait().code;
    let after = rustix::termios::tcgetattr(&pair.slave).expect("its mode");
    assert_eq!(before.local_modes, after.local_modes, "the terminal is not as it was");
    drop(pair.slave);
    let _ = terminal.read_to_end(&mut seen);
    Some((String::from_utf8_lossy(&seen).into_owned(), code))
}

#[test]
fn a_prompt_does_not_echo() {
    for _ in 0..10 {
        let jar = Jar::new();
        let Some((seen, code)) = typed(&jar, &format!("{VALUE}\n")) else {
            return;
        };
        assert!(code == 0 && !seen.contains("canary"), "{code}: {seen}");
        assert_eq!(open(&jar, "main")[0].1, VALUE);
    }
}

#[test]
fn ctrl_c_at_the_prompt_leaves_nothing() {
    let jar = Jar::new();
    let Some((seen, code)) = typed(&jar, "canary\u{3}") else {
        return;
    };
    assert!(code == 130 && !seen.contains("canary"), "{code}: {seen}");
    assert!(!jar.path(SECRETS).exists());
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
