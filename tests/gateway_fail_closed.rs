//! Promise: without a working gateway there is no run, and when it dies the
//! container has no way out.

mod harness;
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::{Live, SOON, descendants, eventually, finish, is_alive, is_root};
use nix::sys::signal::Signal;
use world::{TOKEN, World};

#[test]
fn what_the_gateway_needs_and_has_not_refuses_the_run() {
    let Some(world) = World::new() else { return };
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    world.run(&[], &["true"]).success();
    let marker = world.jar.group("main").join("ran");
    let refused = |what: &str, said: &str| {
        let out = world.run(&[], &["sh", "-c", "touch ran"]).exits(125);
        assert!(out.err().contains("hint:") || out.err().contains("because:"), "{what}: {}", out.err());
        assert!(out.err().contains(said), "{what}: {}", out.err());
        assert!(!out.err().contains(TOKEN), "{what}");
        assert!(!marker.exists(), "{what}: the agent began");
    };
    // An extra root that is not there, or is none.
    let good = fs::read_to_string(world.jar.path("belljar/config/config.toml")).expect("config.toml");
    world.jar.write("belljar/config/config.toml", "[gateway]\nextra_roots = [\"/nowhere/ca.pem\"]\n");
    refused("a missing extra root", "/nowhere/ca.pem");
    let junk = world.jar.write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    world.jar.write("belljar/config/config.toml", &format!("[gateway]\nextra_roots = [\"{}\"]\n", junk.display()));
    refused("an extra root that is no certificate", "junk.pem");
    world.jar.write("belljar/config/config.toml", &good);
    // The vault: a key that is another's, a record that was changed.
    let vault = world.jar.path("belljar/data/vault");
    for path in [vault.clone(), world.jar.path("belljar/data/ca")] {
        for entry in fs::read_dir(&path).expect("a directory").flatten() {
            let file = entry.path();
            if !file.is_file() {
                continue;
            }
            let bytes = fs::read(&file).expect("read a file");
            if bytes.is_empty() {
                continue;
            }
            let mut changed = bytes.clone();
            let at = changed.len() / 2;
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            fs::write(&file, &changed).expect("write a file");
            let out = world.run(&[], &["sh", "-c", "touch ran"]);
            // A public certificate may be made again; what is sealed may not be guessed.
            assert!(out.code == 125 || out.code == 0, "{}: {}", file.display(), out.err());
            assert!(out.code == 125 || !marker.exists() || !file.starts_with(&vault), "{} was changed", file.display());
            let _ = fs::remove_file(&marker);
            fs::write(&file, &bytes).expect("write it back");
        }
    }
    world.run(&[], &["true"]).success();
    // A store that is none.
    let store = world.jar.path("belljar/data/belljar.db");
    let bytes = fs::read(&store).unwrap_or_default();
    fs::write(&store, "this is no database, but it is long enough to be looked at as one".repeat(50)).expect("write");
    world.policy("[[rule]]\nname = \"r\"\nhost = \"a.test\"\naction = \"allow\"\nrate = \"1/hour\"\n");
    let out = world.run(&[], &["sh", "-c", "curl -sS -o /dev/null -w '%{http_code}' https://a.test/x"]);
    assert!(out.code == 125 || !out.out().contains("200"), "{} {}", out.out(), out.err());
    fs::write(&store, bytes).expect("write it back");
    // A key file that others can read is no secret.
    if let Some(key) = fs::read_dir(world.jar.path("belljar")).ok().and_then(|_| key_file(&world)) {
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
        let out = world.run(&[], &["sh", "-c", "touch ran"]);
        assert_eq!(out.code, 125, "{}: {}", key.display(), out.err());
        fs::remove_file(&key).expect("delete it");
        let out = world.run(&[], &["sh", "-c", "touch ran"]);
        assert_eq!(out.code, 125, "without its key the vault is shut: {}", out.err());
    }
}

fn key_file(world: &World) -> Option<std::path::PathBuf> {
    let mut queue = vec![world.jar.path("belljar")];
    while let Some(directory) = queue.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                queue.push(entry.path());
            } else if entry.file_name() == "vault.key" {
                return Some(entry.path());
            }
        }
    }
    None
}

#[test]
fn when_the_gateway_dies_nothing_leaves_and_nothing_goes_on() {
    let Some(world) = World::new() else { return };
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    let script = "curl -sS -o /dev/null https://a.test/before; echo began; \
        while :; do curl -sS -o /dev/null --max-time 1 https://a.test/after; curl -sS --noproxy '*' -o /dev/null --max-time 1 http://b.test/after; sleep 0.05; done";
    let live = world.start(&[], &["sh", "-c", script]);
    live.wait_for("began");
    eventually("requests come", SOON, || world.requests_to("/after").len() > 2);
    let family = descendants(live.pid());
    assert!(family.len() > 1, "{family:?}");
    live.signal(Signal::SIGKILL);
    eventually("the container goes with its gateway", 3 * SOON, || {
        !family.iter().any(|known| known.0 != live.pid().as_raw() as u32 && is_alive(known))
    });
    let count = world.requests().len();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(world.requests().len(), count, "nothing leaves any more");
}

#[test]
fn onecli_that_does_not_answer_or_refuses_starts_no_run() {
    let Some(world) = World::with_host_origin() else { return };
    world.jar.write("api-key", "oc_test_key\n");
    fs::set_permissions(world.jar.path("api-key"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let config = |url: &str| {
        let text = format!(
            "[vault]\nprovider = \"onecli\"\nurl = \"{url}\"\napi_key_file = \"{}\"\n",
            world.jar.text("api-key")
        );
        world.jar.write("belljar/config/config.toml", &text);
    };
    // Nobody there; somebody who refuses; somebody who is no OneCLI.
    for url in ["http://127.0.0.1:10254", "http://127.0.0.1:80", "http://127.0.0.1:22"] {
        config(url);
        let out = world.run(&[], &["sh", "-c", "touch ran"]).exits(125);
        assert!(out.err().contains("127.0.0.1") && out.err().contains("hint:"), "{url}: {}", out.err());
        assert!(!out.err().contains("oc_test_key"), "{}", out.err());
        assert!(!world.jar.group("main").join("ran").exists());
    }
}

#[test]
fn explain_says_what_would_be_refused_and_does_nothing() {
    let Some(world) = World::new() else { return };
    world.policy("nonsense");
    let out = finish(world.belljar(["explain", "--", "true"]), b"");
    assert_eq!(out.code, 125, "{}", out.out());
    assert!(out.err().contains("policy.toml:1"), "{}", out.err());
    world.policy("");
    let out = finish(world.belljar(["explain", "--", "true"]), b"").success();
    assert!(out.out().contains("gateway") && out.out().contains("3128"), "{}", out.out());
    assert!(world.everything().is_empty(), "nothing was asked of anybody");
}

#[test]
fn one_run_that_ends_leaves_the_others_alone() {
    let Some(world) = World::new() else { return };
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    let script = "curl -sS -o /dev/null https://a.test/one; echo began; read line; curl -sS -o /dev/null -w '%{http_code}' https://a.test/two";
    let mut command = world.run_command(&[], &["sh", "-c", script]);
    command.stdin(std::process::Stdio::piped());
    let mut stays = Live::start(command);
    stays.wait_for("began");
    for _ in 0..2 {
        let dies = world.start(&[], &["sh", "-c", "curl -sS -o /dev/null https://a.test/x; echo began; sleep 60"]);
        dies.wait_for("began");
        dies.signal(Signal::SIGKILL);
    }
    stays.write(b"on\n");
    assert!(stays.wait().success().out().ends_with("200"));
}

#[test]
fn root_or_not_the_gateway_serves_the_caller_alone() {
    let Some(world) = World::new() else { return };
    // The run's own sockets and files lie where nobody else may look.
    let live = world.start(&[], &["sh", "-c", "echo began; sleep 20"]);
    live.wait_for("began");
    for name in world.jar.live_runs() {
        let meta = fs::metadata(world.jar.path("belljar/run").join(name)).expect("it is there");
        assert_eq!(meta.permissions().mode() & 0o077, 0);
    }
    assert!(is_root() || !world.jar.live_runs().is_empty());
}
