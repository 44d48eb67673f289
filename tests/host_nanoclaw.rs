//! Promise: an agent runner that knows only NanoClaw's formats works unchanged:
//! its JSON on stdin, its results between markers, its files of IPC.

mod harness;

use harness::host::Host;
use harness::{SOON, eventually};
use serde_json::{Value, json};

const RUNNER: &str = include_str!("host/runner.py");

/// A host whose groups have such a runner. `idle` is how long it waits for more.
fn start(idle: &str) -> Host {
    start_with(&[], idle)
}

fn start_with(options: &[&str], idle: &str) -> Host {
    let mut host = Host::prepare(options, &["sales", "other"]);
    let sections: String = ["main", "sales", "other"]
        .iter()
        .map(|group| {
            let project = if *group == "main" { "project = \"$JAR/project\"\n" } else { "" };
            let command = "command = [\"python3\", \"/workspace/group/runner.py\"]\nagent = \"nanoclaw\"\n";
            format!("[group.{group}]\n{project}{command}")
        })
        .collect();
    for group in ["main", "sales", "other"] {
        host.jar.write(&format!("belljar/data/groups/{group}/runner.py"), RUNNER);
    }
    host.configure(&format!("[host]\nidle_close = \"{idle}\"\nretry = \"100ms\"\nassistant = \"Andy\"\n{sections}"));
    host.again();
    host
}

/// What the runner noted.
fn notes(host: &Host, group: &str, name: &str) -> Vec<Value> {
    let text = host.file(group, name).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn wait_notes(host: &Host, group: &str, name: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines in {name} of {group}; the log: {}", host.log()), 8 * SOON, || {
        notes(host, group, name).len() >= count
    });
    notes(host, group, name)
}

#[test]
fn it_is_told_what_it_expects_and_its_session_goes_on_over_runs() {
    let host = start("100ms");
    host.say("local:sales", "first");
    let said = host.wait_said("local:sales", 1);
    assert!(said[0].starts_with("turn: <context timezone=") && said[0].contains(">first</message>"), "{said:?}");
    assert!(!said[0].contains("internal") && !said[0].contains("thinking"), "{said:?}");
    host.settle();
    host.say("local:sales", "second");
    host.wait_said("local:sales", 2);
    host.settle();
    let inputs = notes(&host, "sales", "inputs");
    assert_eq!(inputs.len(), 2, "two runs");
    let first = &inputs[0];
    assert_eq!(
        (&first["groupFolder"], &first["chatJid"], &first["isMain"], &first["assistantName"]),
        (&json!("sales"), &json!("local:sales"), &json!(false), &json!("Andy"))
    );
    assert_eq!((first.get("sessionId"), first.get("isScheduledTask")), (None, None));
    let turns = notes(&host, "sales", "turns");
    assert_eq!(inputs[1]["sessionId"], turns[0]["session"], "the session of the first");
    // It is each group's own, and it outlives the host process.
    host.say("local:main", "third");
    host.wait_said("local:main", 1);
    let input = &notes(&host, "main", "inputs")[0];
    assert_eq!((&input["isMain"], input.get("sessionId")), (&json!(true), None));
    let mut host = host;
    host.kill();
    host.again();
    host.say("local:sales", "fourth");
    host.wait_said("local:sales", 3);
    assert_eq!(notes(&host, "sales", "inputs")[2]["sessionId"], turns[0]["session"]);
}

#[test]
fn what_comes_while_it_lives_goes_into_the_same_run_until_it_is_idle() {
    let host = start("4s");
    host.say("local:sales", "first do:wait=go");
    wait_notes(&host, "sales", "turns", 1);
    // One while it is busy, and one when it has answered.
    host.say("local:sales", "second <b>");
    host.jar.write("belljar/data/groups/sales/go", "");
    let said = host.wait_said("local:sales", 2);
    assert!(said[0].contains(">first do:wait") && said[1].contains(">second &lt;b&gt;</message>"), "{said:?}");
    host.say("local:sales", "third");
    let said = host.wait_said("local:sales", 3);
    assert!(said[2].contains(">third</message>") && !said[2].contains("second"), "{said:?}");
    let turns = notes(&host, "sales", "turns");
    assert_eq!((notes(&host, "sales", "inputs").len(), turns.len()), (1, 3));
    assert!(turns.iter().all(|turn| turn["pid"] == turns[0]["pid"]));
    // One that it has nothing to say to is done with, too.
    host.say("local:sales", "do:null");
    eventually("it is answered by nothing", 4 * SOON, || {
        host.count("SELECT count(*) FROM message WHERE state = 'answered'") == 4
    });
    // Nothing is said any more: it is told to close, and ends well.
    wait_notes(&host, "sales", "closed", 1);
    host.settle();
    assert_eq!(host.jar.receipts().last().expect("a receipt")["exit_code"], 0);
    assert_eq!(host.said("local:sales").len(), 3, "each answer once");
    let input = harness::names_in(&host.jar.path("belljar/data/ipc/sales/input"));
    assert!(input.is_empty(), "nothing is left there: {input:?}");
    assert_eq!(notes(&host, "sales", "inputs").len(), 1);
}

#[test]
fn what_it_has_not_read_is_not_answered_by_the_second_result_of_another_turn() {
    let host = start("1s");
    host.say("local:sales", "first do:wait=go do:many=2 do:die");
    wait_notes(&host, "sales", "turns", 1);
    host.say("local:sales", "second");
    let input = host.jar.path("belljar/data/ipc/sales/input");
    eventually("it is given", 4 * SOON, || harness::names_in(&input).len() == 1);
    host.jar.write("belljar/data/groups/sales/go", "");
    let said = host.wait_said("local:sales", 4);
    assert_eq!(said[..3], ["part 0", "part 1", "said before the end"]);
    assert!(said[3].contains(">second<") && !said[3].contains("first"), "{said:?}");
    host.settle();
    assert_eq!((notes(&host, "sales", "inputs").len(), harness::names_in(&input).len()), (2, 0));
}

#[test]
fn several_results_are_several_answers_and_none_is_none() {
    let host = start("100ms");
    host.say("local:sales", "do:many=3");
    let said = host.wait_said("local:sales", 3);
    assert_eq!(said, ["part 0", "part 1", "part 2"]);
    host.settle();
    host.say("local:sales", "do:null");
    eventually("it is answered by nothing", 8 * SOON, || {
        host.count("SELECT count(*) FROM message WHERE state = 'answered'") == 2
    });
    host.settle();
    assert_eq!(host.said("local:sales").len(), 3);
    assert_eq!(notes(&host, "sales", "inputs").len(), 2, "and is not asked again");
}

#[test]
fn an_error_is_tried_again_and_what_was_answered_before_the_end_is_not() {
    let host = start("100ms");
    host.say("local:sales", "do:once-error");
    let said = host.wait_said("local:sales", 1);
    assert!(said[0].contains("once-error"), "{said:?}");
    host.settle();
    assert_eq!(notes(&host, "sales", "inputs").len(), 2);
    assert!(host.log().contains("the model is away; it is tried again"), "{}", host.log());
    // It has answered, and then fails: nothing is answered twice.
    host.say("local:other", "do:die");
    assert_eq!(host.wait_said("local:other", 1), ["said before the end"]);
    host.settle();
    host.say("local:other", "next");
    let said = host.wait_said("local:other", 2);
    assert!(said[1].contains(">next<") && !said[1].contains("do:die"), "{said:?}");
    assert_eq!(notes(&host, "other", "inputs").len(), 2);
    // What is no JSON between the markers is an error too.
    host.say("local:other", "do:broken");
    eventually("it is noted", 8 * SOON, || host.log().contains("the output is not understood"));
    assert_eq!(host.said("local:other").len(), 2);
}

#[test]
fn its_files_are_done_and_a_refusal_is_a_message_that_it_reads() {
    let host = start("3s");
    host.say("local:sales", "do:message= do:task= do:snapshots");
    let said = host.wait_said("local:sales", 2);
    assert!(said.contains(&"by IPC".to_owned()), "{said:?}");
    let task = host.jar.call(&["task", "show", "asked", "--json"]).success().json();
    assert_eq!(
        (&task["task"]["group"], &task["task"]["context_mode"], &task["task"]["chat"]),
        (&json!("sales"), &json!("isolated"), &json!("local:sales"))
    );
    assert_eq!(wait_notes(&host, "sales", "available_groups", 1)[0]["groups"], json!([]), "main is shown chats");
    // What is not allowed comes back as a message, in the same run.
    host.say("local:sales", "do:message=local:other do:task=local:main");
    let turns = wait_notes(&host, "sales", "turns", 3);
    eventually("both refusals are read", 8 * SOON, || {
        let all: String = notes(&host, "sales", "turns").iter().map(Value::to_string).collect();
        all.contains("belljar refused send_message") && all.contains("belljar refused schedule_task")
    });
    assert!(turns.iter().all(|turn| turn["pid"] == turns[0]["pid"]));
    assert!(host.said("local:other").is_empty());
    assert_eq!(host.jar.call(&["task", "list", "--json"]).json().as_array().map(Vec::len), Some(1));
    // The others' messages are answered as before.
    host.say("local:other", "hello");
    host.wait_said("local:other", 1);
    host.say("local:sales", "do:snapshots");
    let tasks = wait_notes(&host, "sales", "current_tasks", 2);
    assert_eq!((&tasks[0], &tasks[1][0]["id"]), (&json!([]), &json!("asked")), "what it asked for");
}

#[test]
fn a_task_says_so_and_ends_after_its_result() {
    let host = start("60s");
    let add = |arguments: &[&str]| {
        host.jar.call(&[&["task", "add", "-g", "sales", "--at", "2020-01-01T00:00:00Z"], arguments].concat()).success();
    };
    add(&["--id", "t1", "--context", "isolated", "--script", "echo hello", "look at the mail"]);
    let said = host.wait_said("local:sales", 1);
    assert_eq!(said, ["turn: [SCHEDULED TASK]\n\nlook at the mail"], "and no more is in the prompt");
    // It is not left waiting for a message of a person's.
    wait_notes(&host, "sales", "closed", 1);
    host.settle();
    let input = &notes(&host, "sales", "inputs")[0];
    assert_eq!(
        (&input["isScheduledTask"], &input["script"], input.get("sessionId")),
        (&json!(true), &json!("echo hello"), None)
    );
    // An isolated one leaves the group's session as it is; one of the group's goes on with it.
    host.say("local:sales", "hello do:slow=0.1");
    host.wait_said("local:sales", 2);
    add(&["--id", "t2", "--context", "isolated", "alone"]);
    host.wait_said("local:sales", 3);
    add(&["--id", "t3", "--context", "group", "together"]);
    host.wait_said("local:sales", 4);
    let inputs = notes(&host, "sales", "inputs");
    let turns = notes(&host, "sales", "turns");
    assert_eq!((inputs[1].get("sessionId"), inputs[2].get("sessionId")), (None, None), "{inputs:?}");
    assert_eq!(inputs[3]["sessionId"], turns[1]["session"], "{inputs:?}");
    eventually("all are done", 4 * SOON, || {
        ["t1", "t2", "t3"].iter().all(|id| {
            let shown = host.jar.call(&["task", "show", id, "--json"]).success().json();
            shown["runs"][0]["outcome"] == "ok" && shown["task"]["status"] == "completed"
        })
    });
}

#[test]
fn an_idle_one_makes_room_for_another_group_and_a_task_of_its_own() {
    let host = start_with(&["--runs", "1"], "10m");
    host.say("local:sales", "hello");
    host.wait_said("local:sales", 1);
    host.say("local:other", "hello");
    host.wait_said("local:other", 1);
    host.jar.call(&["task", "add", "-g", "other", "--at", "2020-01-01T00:00:00Z", "a task"]).success();
    let said = host.wait_said("local:other", 2);
    assert!(said[1].contains("a task"), "{said:?}");
    for group in ["sales", "other"] {
        assert!(!notes(&host, group, "closed").is_empty(), "{group}: it was told, and not killed");
    }
}
