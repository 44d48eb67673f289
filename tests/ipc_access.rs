//! Promise: what an agent asks a person for by `request_access` is the person's to
//! give: for one group, one host and a time; and a secret is the person's to add.

mod harness;
mod mcp;
mod world;

use std::fs;

use harness::{SOON, eventually};
use mcp::{CLIENT, done, lines, of, python, refused, start, text};
use serde_json::{Value, json};
use world::{World, text_of};

fn pending(world: &World) -> Vec<Value> {
    let lists = world.call(&["approvals", "--json"]).success().json();
    lists["pending"].as_array().cloned().expect("a list")
}

fn held(world: &World) -> String {
    let mut found = None;
    eventually("a person is asked", 2 * SOON, || {
        found = pending(world).first().and_then(|one| one["id"].as_str().map(str::to_owned));
        found.is_some()
    });
    found.expect("one waits")
}

const ASK: &str = "
def reach(url):
    try:
        return urllib.request.urlopen(url, timeout=20).status
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]
tell(name='before', answer=reach('https://a.test/before'))
tell(name='asked', answer=call('request_access', {'host': 'A.test', 'reason': 'to read the\\x1b[2J news'}))
for url in ('https://a.test/after', 'http://a.test/after', 'https://a.test/admin', 'https://a.test/ADMIN',
        'https://a.test:8443/after', 'https://api.a.test/after', 'https://b.test/after'):
    tell(name=url, answer=reach(url))
";

#[test]
fn a_person_lets_one_group_reach_one_host() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales"]);
    world.policy(
        "default = \"deny\"\n[[rule]]\nname = \"no admin\"\nhost = \"a.test\"\npath = \"/admin*\"\naction = \"deny\"\n",
    );
    let live = start(&world, &["--group=sales"], ASK);
    let id = held(&world);
    let listed = world.call(&["approvals"]).success().out();
    assert!(listed.contains("group sales") && listed.contains("asks to reach a.test"), "{listed}");
    assert!(listed.contains("to read the") && !listed.contains('\u{1b}'), "{listed}");
    let shown = world.call(&["approvals", "show", &id]).success().out();
    assert!(shown.contains("to reach a.test") && shown.contains("not what a rule denies"), "{shown}");
    let said = world.call(&["approve", &id]).success().out();
    assert!(said.contains("group sales may reach a.test") && said.contains("revoke"), "{said}");
    let answers = lines(&live.wait().success());
    let before = of(&answers, "before");
    assert!(before[0] == 403 && before[1].as_str().is_some_and(|text| text.contains("request_access")), "{before}");
    let asked = of(&answers, "asked");
    done(asked);
    assert!(text(asked).contains("approved") && asked["structuredContent"]["until"].is_string(), "{asked}");
    for (url, status) in [
        ("https://a.test/after", json!(200)),
        ("http://a.test/after", json!(200)),
        ("https://a.test/admin", json!(403)),
        ("https://a.test/ADMIN", json!(403)),
        ("https://a.test:8443/after", json!(403)),
        ("https://api.a.test/after", json!(403)),
        ("https://b.test/after", json!(403)),
    ] {
        let got = of(&answers, url);
        assert_eq!(got.get(0).unwrap_or(got), &status, "{url}: {got}");
    }
    let record = world.record();
    assert!(
        record.iter().any(|line| line["path"] == "/mcp" && line["approval"] == id && line["decision"] == "approved")
    );
    assert!(record.iter().any(|line| line["path"] == "/after" && line["rule"] == "request_access"), "{record:?}");
    let status = "curl -sS -o /dev/null -w '%{http_code}' https://a.test/other";
    let sales = || world.run(&["--group=sales"], &["sh", "-c", status]).out();
    // For that group in its next run too, and for no other, not even main.
    assert_eq!(sales(), "200");
    assert_eq!(world.sh(status).out(), "403");
    let granted = world.call(&["approvals"]).success().out();
    assert!(granted.contains("sales may reach a.test"), "{granted}");
    world.call(&["approvals", "revoke", &id]).success();
    assert_eq!(sales(), "403");
}

#[test]
fn what_a_person_denies_or_does_not_answer_stays_refused() {
    let Some(world) = World::new() else { return };
    world.policy("default = \"deny\"\n");
    let live = start(&world, &[], ASK);
    let said = world.call(&["deny", &held(&world)]).success().out();
    assert!(said.contains("to reach a.test"), "{said}");
    let answers = lines(&live.wait().success());
    refused(of(&answers, "asked"), "denied");
    assert_eq!(of(&answers, "https://a.test/after")[0], 403);
    world.config("approval_timeout = \"1s\"\n");
    let answers = python(&world, &[], ASK);
    refused(of(&answers, "asked"), "expired");
    assert_eq!(of(&answers, "https://a.test/after")[0], 403);
    // Who goes away is waited for no more; and all that wait leave room for others.
    world.config("");
    let script = "
import subprocess, time
body = json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': 'tools/call', 'params': {'name': 'request_access',
    'arguments': {'host': 'a.test', 'reason': 'x'}, **({'_meta': {'progressToken': 1}} if len(sys.argv) > 1 else {})}})
asks = [subprocess.Popen(['curl', '-sSN', '-H', 'content-type: application/json', '-H',
    'accept: application/json, text/event-stream', '-d', body, URL], stdout=subprocess.PIPE) for _ in range(4)]
time.sleep(3)
tell(name='fifth', answer=call('request_access', {'host': 'b.test', 'reason': 'x'}))
tell(name='other', answer=call('send_message', {'text': 'x'}))
while not os.path.exists('leave'): time.sleep(0.1)
for one in asks: one.kill()
while not os.path.exists('end'): time.sleep(0.1)
tell(name='words', answer=asks[0].stdout.read().decode())";
    for progress in [&[][..], &["progress"]] {
        let script = format!("{CLIENT}\n{script}");
        let words = [&["/usr/bin/python3", "-c", &script][..], progress].concat();
        let live = world.start(&[], &words);
        eventually("four wait", 3 * SOON, || pending(&world).len() == 4);
        live.wait_for("\"other\"");
        let tell = |word: &str| fs::write(world.jar.group("main").join(word), "").expect("tell the agent");
        tell("leave");
        eventually("nobody waits any more", 2 * SOON, || pending(&world).is_empty());
        tell("end");
        let answers = lines(&live.wait().success());
        refused(of(&answers, "fifth"), "too many");
        done(of(&answers, "other"));
        let said = of(&answers, "words").to_string();
        assert_eq!(said.contains("waits for a person"), !progress.is_empty(), "progress where it is wanted: {said}");
        ["leave", "end"].iter().for_each(|word| fs::remove_file(world.jar.group("main").join(word)).expect("remove"));
    }
    assert!(world.requests().is_empty(), "{:?}", world.requests());
}

#[test]
fn a_secret_is_asked_for_by_name_and_is_the_persons_to_add() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales"]);
    let told = world.jar.text("told");
    let script = world.jar.script("notify", &format!("#!/bin/sh\ncat >> {told}\n"));
    world.config(&format!("approval_command = [\"{}\"]\n", script.display()));
    let script = "tell(answer=call('request_access', {'secret': 'git\\x7fhub', 'reason': 'x'}))
tell(answer=call('request_access', {'secret': 'github', 'reason': 'to push'}))";
    let live = start(&world, &["--group=sales"], script);
    let id = held(&world);
    let listed = world.call(&["approvals"]).success().out();
    assert!(listed.contains("asks for the secret `github`") && listed.contains("to push"), "{listed}");
    eventually("the command is told", SOON, || text_of(&world.jar.path("told")).contains("github"));
    let said = world.call(&["approve", &id]).success().out();
    assert!(said.contains("belljar secret add"), "{said}");
    let answers = lines(&live.wait().success());
    refused(&answers[0]["answer"], "control character");
    done(&answers[1]["answer"]);
    assert!(text(&answers[1]["answer"]).contains("--group sales"), "{answers:?}");
    let grants = world.call(&["approvals", "--json"]).success().json();
    assert_eq!(grants["grants"], json!([]), "nothing is granted by it");
}
