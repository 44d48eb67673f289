//! Promise: an agent that speaks Claude Code's streams of JSON answers messages and
//! follow-ups in one run, goes on with its session in the next, and is told to end.
//! (That the real one speaks them is for the tests with a real agent.)

mod harness;

use harness::host::Host;
use harness::{SOON, eventually};
use serde_json::{Value, json};

const CLAUDE: &str = include_str!("host/claude.py");

fn start(idle: &str) -> Host {
    let mut host = Host::prepare(&[], &["sales"]);
    host.jar.write("belljar/data/groups/sales/claude.py", CLAUDE);
    let agent = "command = [\"python3\", \"/workspace/group/claude.py\", \"-p\"]\nagent = \"claude\"\n";
    host.configure(&format!("[host]\nidle_close = \"{idle}\"\nretry = \"50ms\"\n[group.sales]\n{agent}"));
    host.again();
    host
}

fn begun(host: &Host) -> Vec<Value> {
    let text = host.file("sales", "begun").unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn follow_ups_go_into_the_live_run_and_the_session_goes_on_in_the_next() {
    let host = start("2s");
    host.say("local:sales", "first");
    let said = host.wait_said("local:sales", 1);
    assert!(said[0].starts_with("turn: <context") && said[0].contains(">first<"), "{said:?}");
    host.say("local:sales", "second \" \\ \u{2028} line");
    let said = host.wait_said("local:sales", 2);
    assert!(said[1].contains(">second &quot; \\ \u{2028} line<"), "{said:?}");
    assert_eq!(begun(&host).len(), 1, "one run for both");
    eventually("its stdin ends, and it does", 4 * SOON, || host.file("sales", "closed").is_some());
    host.settle();
    host.say("local:sales", "third");
    host.wait_said("local:sales", 3);
    let runs = begun(&host);
    let streams = ["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"];
    assert_eq!(runs[0]["arguments"], json!(streams));
    let session = runs[0]["session"].as_str().expect("a session");
    assert_eq!(runs[1]["arguments"], json!([&streams[..], &["--resume", session]].concat()));
    // A task of the group's goes on with it too, and an isolated one does not.
    for context in ["group", "isolated"] {
        host.settle();
        let line = ["task", "add", "-g", "sales", "--at", "2020-01-01T00:00:00Z", "--context", context, context];
        host.jar.call(&line).success();
        let asked = format!("A scheduled task, sent by the host and by nobody in the chat.]\n\n{context}");
        eventually(context, 8 * SOON, || host.said("local:sales").iter().any(|said| said.contains(&asked)));
    }
    let sessions: Vec<bool> = begun(&host).iter().skip(2).map(|run| run["session"] == session).collect();
    assert_eq!(sessions, [true, false]);
}

#[test]
fn an_error_is_no_answer_and_an_answer_before_the_end_is_one() {
    let host = start("50ms");
    host.say("local:sales", "do:error");
    let said = host.wait_said("local:sales", 1);
    assert!(said[0].contains("do:error") && !said[0].contains("529"), "{said:?}");
    assert!(host.log().contains("API Error: 529; it is tried again"), "{}", host.log());
    host.settle();
    host.say("local:sales", "do:die");
    host.wait_said("local:sales", 2);
    host.settle();
    host.say("local:sales", "next");
    let said = host.wait_said("local:sales", 3);
    assert!(said[2].contains(">next<") && !said[2].contains("do:die"), "{said:?}");
    assert_eq!(begun(&host).len(), 4);
}

#[test]
fn a_session_that_cannot_be_gone_on_with_is_left() {
    let host = start("50ms");
    host.say("local:sales", "first");
    host.wait_said("local:sales", 1);
    host.settle();
    host.jar.write("belljar/data/groups/sales/no-such-session", "");
    host.say("local:sales", "second");
    let said = host.wait_said("local:sales", 2);
    assert!(said[1].contains(">second<"), "{said:?}");
    let resumed: Vec<bool> = begun(&host).iter().map(|run| run["arguments"].to_string().contains("--resume")).collect();
    assert_eq!(resumed, [false, true, true, false]);
}
