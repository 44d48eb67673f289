//! Promise: with OneCLI as the vault its proxy is used, its agent token stays
//! outside, and a run does not start without it.
//!
//! OneCLI itself needs PostgreSQL and a registry that tests do not reach; what
//! answers here is its described interface, over real HTTP and TLS.

mod harness;
mod world;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use harness::{SOON, eventually};
use serde_json::Value;
use world::{World, has, text_of};

const SERVER: &str = include_str!("onecli/onecli.py");
const KEY: &str = "oc_api-key-77aa";
const TOKEN: &str = "aoc_agent-token-55bb";
const API: &str = "http://127.0.0.1:10254";

/// A OneCLI on the world's host.
struct Onecli {
    place: PathBuf,
    server: Child,
}

impl Onecli {
    fn start(world: &World) -> Self {
        let place = world.jar.path("onecli");
        fs::create_dir_all(&place).expect("make a directory");
        fs::write(world.jar.path("onecli.key"), format!("{KEY}\n")).expect("write the API key");
        let text = place.to_string_lossy().into_owned();
        let server = world
            .command("python3")
            .args(["-c", SERVER, &text, "10254", "10255"])
            .stdin(Stdio::null())
            .spawn()
            .expect("start python3");
        let started = Self { place, server };
        eventually("OneCLI answers", SOON * 4, || text_of(&started.place.join("log.jsonl")).contains("ready"));
        started
    }

    fn log(&self) -> Vec<Value> {
        text_of(&self.place.join("log.jsonl")).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn texts(&self, key: &str) -> Vec<String> {
        self.log().iter().filter_map(|line| line[key].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Onecli {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn configure(world: &World, more: &str) {
    let key = world.jar.text("onecli.key");
    world.config(&format!("{more}\n[vault]\nprovider = \"onecli\"\nurl = \"{API}\"\napi_key_file = \"{key}\"\n"));
}

/// A world whose vault is OneCLI.
fn with_onecli() -> Option<(World, Onecli)> {
    if !has("python3") || !has("openssl") {
        return None;
    }
    let world = World::new()?;
    let onecli = Onecli::start(&world);
    configure(&world, "");
    Some((world, onecli))
}

#[test]
fn requests_go_through_its_proxy_and_the_token_stays_outside() {
    let Some((world, onecli)) = with_onecli() else { return };
    let script = "curl -sS https://api.anthropic.com/v1/x >answer; cat answer | sed 's/; token.*//'; echo; env; cat /proc/*/environ | tr '\\0' '\\n'; cat /run/belljar/summary.txt /etc/* 2>/dev/null; true";
    let out = world.sh(script).success().out();
    assert!(out.contains("onecli answers GET /v1/x"), "{out}");
    assert!(out.contains("ANTHROPIC_API_KEY=placeholder"), "{out}");
    assert!(out.contains("HTTPS_PROXY=http://127.0.0.1:3128"), "{out}");
    assert!(!out.contains(TOKEN) && !out.contains(KEY) && !out.contains("10255"), "{out}");
    // The agent is made sure of first, by the API key.
    assert_eq!(onecli.texts("call"), ["POST /v1/agents", "GET /v1/container-config?agent=main"]);
    assert!(onecli.log().iter().any(|line| line["authorized"] == true), "{:?}", onecli.log());
    // The control: without the authorization its proxy lets nobody through.
    let denied = world.outside(
        "curl",
        &["-sS", "-o", "/dev/null", "-w", "%{http_connect}", "-x", "http://127.0.0.1:10255", "https://a.test/"],
    );
    assert_eq!(denied.out(), "407");
}

#[test]
fn a_token_that_comes_back_in_an_opened_answer_is_masked_and_rules_hold() {
    let Some((world, onecli)) = with_onecli() else { return };
    configure(&world, "inspect = \"all\"\n");
    world.policy("[[rule]]\nname = \"no admin\"\nhost = \"a.test\"\npath = \"/admin/*\"\naction = \"deny\"\n");
    let out = world
        .sh("curl -sS https://a.test/fine; echo; curl -sS http://b.test/plain; echo; curl -sS -o /dev/null -w '%{http_code}' https://a.test/admin/x")
        .success()
        .out();
    assert!(out.contains("onecli answers GET /fine"), "{out}");
    assert!(out.contains("onecli answers GET http://b.test/plain"), "plain HTTP goes to the proxy too: {out}");
    assert!(out.ends_with("403"), "{out}");
    assert!(!out.contains(TOKEN) && out.contains(&"*".repeat(TOKEN.len())), "{out}");
    assert!(!onecli.texts("request").iter().any(|request| request.contains("/admin")), "{:?}", onecli.log());
    assert!(
        !onecli
            .texts("request")
            .iter()
            .any(|request| request.starts_with("GET /") && request.to_lowercase().contains("proxy-authorization")),
        "the authorization is for the proxy only"
    );
}

#[test]
fn each_group_has_an_identity_of_its_own() {
    let Some((world, onecli)) = with_onecli() else { return };
    world.groups(&["sales", "Sales", "s_ales"]);
    for group in ["sales", "Sales", "s_ales"] {
        world.run(&["--group", group], &["true"]).success();
    }
    let mut agents: Vec<String> =
        onecli.log().iter().filter_map(|line| line["body"]["identifier"].as_str().map(str::to_owned)).collect();
    assert_eq!(agents[0], "sales");
    agents.sort();
    agents.dedup();
    assert_eq!(agents.len(), 3, "{agents:?}");
}

#[test]
fn a_run_does_not_start_without_it_and_says_so() {
    let Some((world, onecli)) = with_onecli() else { return };
    let refused = |why: &str| {
        let out = world.run(&[], &["touch", "/workspace/group/ran"]);
        assert_eq!(out.code, 125, "{why}: {}", out.err());
        assert!(out.err().contains("OneCLI") && out.err().contains("hint: "), "{why}: {}", out.err());
        assert!(!world.jar.group("main").join("ran").exists(), "{why}: the agent ran");
    };
    fs::write(onecli.place.join("refuse"), "").expect("write a file");
    refused("it refuses");
    fs::remove_file(onecli.place.join("refuse")).expect("remove a file");
    world.run(&[], &["true"]).success();
    drop(onecli);
    refused("it is unreachable");
}

#[test]
fn a_token_that_its_proxy_does_not_take_is_no_407_for_the_agent() {
    let Some((world, onecli)) = with_onecli() else { return };
    configure(&world, "inspect = \"all\"\n");
    fs::write(onecli.place.join("wrong-token"), "").expect("write a file");
    let out = world
        .sh("curl -sS -w '\\n%{http_code}\\n' https://a.test/; curl -sS -w '\\n%{http_code}\\n' http://a.test/")
        .success()
        .out();
    assert_eq!(out.lines().filter(|line| *line == "502").count(), 2, "{out}");
    assert!(!out.contains("407 ") || out.contains("OneCLI"), "{out}");
}

#[test]
fn its_proxy_is_not_asked_for_private_addresses() {
    let Some((world, onecli)) = with_onecli() else { return };
    let targets =
        ["http://127.0.0.1:10254/v1/agents", "http://169.254.169.254/", "https://10.0.0.5/", "https://meta.test/"];
    for target in targets {
        let out = world.sh(&format!("curl -sS -o /dev/null -w '%{{http_code}}' {target}"));
        assert_eq!(out.out(), "403", "{target}: {}", out.err());
    }
    assert!(onecli.texts("proxy").is_empty(), "{:?}", onecli.log());
}
