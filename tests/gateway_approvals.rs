//! Promise: a held request waits for a person, who sees all of it without
//! secrets and without tricks, and whose word holds across processes.

mod harness;
mod world;

use std::time::Duration;

use harness::{Live, SOON, eventually, slowly};
use serde_json::Value;
use world::{TOKEN, World};

const POLICY: &str = "[[rule]]\nname = \"ask\"\nhost = \"a.test\"\nmethods = [\"POST\"]\naction = \"approve\"\n";

fn pending(world: &World) -> Vec<Value> {
    let lists = world.call(&["approvals", "--json"]).success().json();
    lists["pending"].as_array().cloned().expect("a list")
}

/// Waits until one is held that was not before.
fn held(world: &World, known: &[String]) -> Value {
    let mut found = None;
    eventually("a request is held", 2 * SOON, || {
        found = pending(world).into_iter().find(|one| !known.iter().any(|id| one["id"] == **id));
        found.is_some()
    });
    found.expect("one is held")
}

fn id(held: &Value) -> String {
    held["id"].as_str().expect("an id").to_owned()
}

fn post(world: &World, options: &[&str], more: &str) -> Live {
    let script = format!("curl -sS -w '\\n%{{http_code}}' --max-time 40 {more}");
    world.start(options, &["sh", "-c", &script])
}

#[test]
fn it_waits_is_shown_whole_and_goes_on_when_a_person_says_so() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    let live = post(&world, &[], "-d 'hello=world' 'https://a.test/echo?a=1'");
    let one = held(&world, &[]);
    assert_eq!(
        (one["group"].as_str(), one["method"].as_str(), one["rule"].as_str()),
        (Some("main"), Some("POST"), Some("ask"))
    );
    assert!(one["url"].as_str().is_some_and(|url| url.contains("a.test/echo?a=1")), "{one}");
    assert_eq!(
        (one["body"]["text"].as_str(), one["body"]["whole"].as_bool()),
        (Some("hello=world"), Some(true)),
        "{one}"
    );
    assert_eq!(one["secret"], "key");
    assert!(!one.to_string().contains(TOKEN));
    let listed = world.call(&["approvals"]).success().out();
    assert!(listed.contains(&id(&one)) && listed.contains("hello=world") && listed.contains("a.test"), "{listed}");
    assert!(world.requests().is_empty(), "nothing was sent before");
    world.call(&["approve", &id(&one)]).success();
    let out = live.wait().success().out();
    assert!(out.ends_with("\n200") && out.contains("hello=world"), "{out}");
    assert!(pending(&world).is_empty());
    // Once is once, and a word that was given is not given again.
    assert_ne!(world.call(&["deny", &id(&one)]).code, 0);
    assert_eq!(world.requests().len(), 1);
    let record = world.record();
    assert!(
        record.iter().any(|line| line["approval"] == id(&one).as_str() && line["decision"] == "approved"),
        "{record:?}"
    );
}

#[test]
fn it_is_refused_when_denied_when_nobody_answers_and_when_the_client_goes() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    let live = post(&world, &[], "-d x https://a.test/denied");
    let one = id(&held(&world, &[]));
    world.call(&["deny", &one]).success();
    let out = live.wait().success().out();
    assert!(out.ends_with("\n403") && out.contains("ask"), "{out}");
    world.config("approval_timeout = \"2s\"\n");
    let live = post(&world, &[], "-d x https://a.test/late");
    let out = live.wait().success().out();
    assert!(out.ends_with("\n403") && out.contains("belljar approve"), "{out}");
    world.config("");
    for version in ["--http1.1", "--http2"] {
        let script = format!(
            "curl -sS {version} -d x https://a.test/gone & until [ -e leave{version} ]; do sleep 0.1; done; kill $!; \
             until [ -e end{version} ]; do sleep 0.1; done"
        );
        let live = world.start(&[], &["sh", "-c", &script]);
        let gone = id(&held(&world, &[]));
        let tell = |word: &str| {
            std::fs::write(world.jar.group("main").join(format!("{word}{version}")), "").expect("tell the agent");
        };
        tell("leave");
        eventually("the client's going cancels it", SOON, || pending(&world).is_empty());
        assert_ne!(world.call(&["approve", &gone]).code, 0, "there is nothing to approve any more");
        tell("end");
        live.wait().success();
    }
    assert!(world.requests().is_empty(), "{:?}", world.requests());
}

#[test]
fn it_dies_with_its_run_and_does_not_come_back() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    let live = post(&world, &[], "-d x https://a.test/killed");
    let one = id(&held(&world, &[]));
    live.signal(nix::sys::signal::Signal::SIGKILL);
    drop(live);
    eventually("a run that was killed waits for nobody", 2 * SOON, || pending(&world).is_empty());
    assert_ne!(world.call(&["approve", &one]).code, 0);
    assert!(world.requests().is_empty());
}

#[test]
fn a_grant_covers_the_same_group_rule_method_host_and_path_for_its_time_only() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales"]);
    world.policy(&format!("{POLICY}[[rule]]\nname = \"other\"\nhost = \"*.a.test\"\naction = \"approve\"\n"));
    let live = post(&world, &[], "-d one https://a.test/granted");
    let one = id(&held(&world, &[]));
    world.call(&["approve", &one, "--for", "1h"]).success();
    assert!(live.wait().success().out().ends_with("\n200"));
    let quick = "for url in https://a.test/granted 'https://a.test/granted?other=query' https://a.test/x/../granted; do \
        curl -sS -o /dev/null -w '%{http_code} ' --max-time 3 -d two $url; done";
    let quick = quick.replace("--max-time 3", &format!("--max-time {}", slowly(Duration::from_secs(3)).as_secs()));
    assert_eq!(world.run(&[], &["sh", "-c", &quick]).out(), "200 200 200 ");
    let beyond = "for url in https://a.test/granted/x https://a.test/Granted https://api.a.test/granted https://a.test:8443/granted http://a.test/granted; do \
        curl -sS -o /dev/null -w '%{http_code} ' --max-time 1 -d two $url; done";
    let out = world.run(&[], &["sh", "-c", beyond]).out();
    assert_eq!(out, "000 000 000 000 000 ", "each of them is held: {out}");
    let out = world.run(
        &["--group", "sales"],
        &["sh", "-c", "curl -sS -o /dev/null -w '%{http_code}' --max-time 1 -d two https://a.test/granted"],
    );
    assert_eq!(out.out(), "000", "another group is held");
    // One that is over before anybody can use it again.
    let live = post(&world, &[], "-d one https://a.test/brief");
    let one = id(&held(&world, &[]));
    world.call(&["approve", &one, "--for", "1s"]).success();
    assert!(live.wait().success().out().ends_with("\n200"));
    std::thread::sleep(Duration::from_secs(2));
    let out = world.sh("curl -sS -o /dev/null -w '%{http_code}' --max-time 1 -d two https://a.test/brief");
    assert_eq!(out.out(), "000", "the grant is over");
    assert_eq!(world.requests().len(), 5, "{:?}", world.requests());
}

#[test]
fn a_person_cannot_be_fooled_by_what_is_shown() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    // Control and bidirectional characters in path, query, type and body; a body
    // that goes on after what is shown.
    let script = r#"
import urllib.parse
def send(path, body, kind):
    stream = proxied('a.test'); stream.settimeout(20)
    stream.sendall(b'POST ' + path + b' HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Type: ' + kind + b'\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
    tell(path.decode(), str(statuses(rest(stream))))
send(b'/%5b2J%e2%80%ae?x=%1b%5d0;t%07', b'pay 1\x1b[2K\r\xe2\x80\xaepay 1000\x9b31m\n\x00', b'text/plain')
send(b'/long', b'harmless ' * 200000 + b'EVIL-END', b'text/plain')
"#;
    let live = world.start(&[], &["/usr/bin/python3", "-c", &format!("{}\n{script}", world::prelude())]);
    let one = held(&world, &[]);
    for arguments in
        [vec!["approvals"], vec!["approvals", "show", one["id"].as_str().expect("an id")], vec!["approvals", "--json"]]
    {
        let out = world.call(&arguments).success().out();
        for bad in ['\u{1b}', '\u{202e}', '\u{9b}', '\r', '\0', '\u{7}'] {
            assert!(!out.contains(bad), "{arguments:?} printed {bad:?}: {out:?}");
        }
    }
    world.call(&["deny", &id(&one)]).success();
    let long = held(&world, &[id(&one)]);
    assert_eq!(long["body"]["whole"], false, "a cut body is told to be cut");
    assert_eq!(long["body"]["size"], 1_800_008);
    assert!(long["body"]["sha256"].as_str().is_some_and(|sum| sum.len() == 64));
    let shown = world.call(&["approvals"]).success().out();
    assert!(
        shown.contains("1800008") || shown.contains("1,800,008") || shown.contains("cut"),
        "{}",
        &shown[..shown.len().min(600)]
    );
    world.call(&["approve", &id(&long)]).success();
    let out = live.wait().success().out();
    assert!(out.contains("[403]") && out.contains("[200]"), "{out}");
    let request = world.received("/long");
    assert_eq!(world.body_of(&request).map(|body| body["length"].clone()), Some(Value::from(1_800_008)));
}

#[test]
fn a_command_is_told_of_each_new_one_by_json_on_stdin_without_a_shell() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    let told = world.jar.text("told");
    let script = world.jar.script("notify", &format!("#!/bin/sh\n{{ echo \"$#:$1\"; cat; echo; }} >> {told}\n"));
    world.config(&format!("approval_command = [\"{}\", \"$(touch {told}.evil); x\"]\n", script.display()));
    let live = post(&world, &[], "-d 'body' 'https://a.test/told?;$(id)'");
    let one = held(&world, &[]);
    eventually("the command was called", SOON, || world::text_of(&world.jar.path("told")).contains("body"));
    world.call(&["approve", &id(&one)]).success();
    live.wait().success();
    let text = world::text_of(&world.jar.path("told"));
    assert!(text.starts_with("1:$(touch"), "{text}");
    let json: Value =
        serde_json::from_str(text.lines().nth(1).unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(json["id"], one["id"]);
    assert!(!world.jar.path("told.evil").exists());
}

#[test]
fn watch_prints_each_one_as_it_comes() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    let watch = Live::start(world.belljar(["approvals", "watch", "--json"]));
    let live = post(&world, &[], "-d x https://a.test/watched");
    watch.wait_for("/watched");
    let one = id(&held(&world, &[]));
    world.call(&["approve", &one]).success();
    watch.wait_for("approved");
    live.wait().success();
}
