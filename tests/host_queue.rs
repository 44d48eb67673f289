//! Promise: one run for each group and so many in all, tasks before messages, and who
//! waits longest first. What fails is tried again, ever later, and nothing is said twice.

mod harness;

use std::fs;
use std::time::{Duration, Instant};

use harness::host::Host;
use harness::{SOON, eventually, finish, slowly};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// An agent that waits for `go` in its folder, and then answers with its prompt.
const HELD: &str = "command = [\"sh\", \"-c\", 'echo begin >>log; while [ ! -e go ]; do sleep 0.02; done; rm go; echo end >>log; cat']\n";

fn config(groups: &[&str], command: &str) -> String {
    groups.iter().map(|group| format!("[group.{group}]\n{command}")).collect()
}

/// How many runs of the group have begun, and how many have ended.
fn runs(host: &Host, group: &str) -> (usize, usize) {
    let log = host.file(group, "log").unwrap_or_default();
    (log.matches("begin").count(), log.matches("end").count())
}

fn release(host: &Host, group: &str) {
    host.jar.write(&format!("belljar/data/groups/{group}/go"), "");
}

#[test]
fn a_group_has_one_run_and_no_more_than_so_many_groups_do() {
    let groups = ["g1", "g2", "g3", "g4", "g5"];
    let host = Host::start_with(&["--runs", "2"], &config(&groups, HELD), &groups);
    for text in ["one", "two"] {
        for group in groups {
            host.say(&format!("local:{group}"), text);
        }
    }
    let going_on = || -> Vec<&str> {
        let all: Vec<&str> = groups
            .into_iter()
            .filter(|group| {
                let (begun, ended) = runs(&host, group);
                assert!(begun <= ended + 1, "{group} has {} runs", begun - ended);
                begun > ended
            })
            .collect();
        assert!(all.len() <= 2, "{all:?}");
        all
    };
    // In the order in which they were written to; and nobody is left out.
    for next in 0..groups.len() - 1 {
        eventually("two go on", 8 * SOON, || going_on().len() == 2);
        // A third one would begin about now.
        let until = Instant::now() + slowly(Duration::from_millis(300));
        while Instant::now() < until {
            going_on();
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(going_on(), groups[next..next + 2]);
        release(&host, groups[next]);
        eventually("it answers", 8 * SOON, || {
            going_on().first() != Some(&groups[next]) && !host.said(&format!("local:{}", groups[next])).is_empty()
        });
    }
    // What came while the first ran is for the next run of each.
    let all_answered = || host.count("SELECT count(*) FROM message WHERE state <> 'answered'") == 0;
    eventually("all are answered", 16 * SOON, || {
        for group in going_on() {
            release(&host, group);
        }
        all_answered()
    });
    for group in groups {
        let said = host.said(&format!("local:{group}")).concat();
        assert_eq!((said.matches(">one<").count(), said.matches(">two<").count()), (1, 1), "{group}: {said}");
    }
}

#[test]
fn tasks_come_before_messages() {
    let groups = ["a", "b", "c"];
    let host = Host::start_with(&["--runs", "1"], &config(&groups, HELD), &groups);
    host.say("local:a", "first");
    eventually("it goes on", 4 * SOON, || runs(&host, "a") == (1, 0));
    host.say("local:b", "a message");
    host.say("local:a", "another");
    for group in ["c", "a"] {
        let line = ["task", "add", "-g", group, "--at", "2020-01-01T00:00:00Z", "--id", group, "a task"];
        host.jar.call(&line).success();
    }
    let due = "SELECT count(*) FROM task_run WHERE state = 'waiting'";
    eventually("both are due", 4 * SOON, || host.count(due) == 2);
    let mut order = Vec::new();
    for _ in 0..5 {
        let mut begun = None;
        eventually("one goes on", 8 * SOON, || {
            begun = groups.into_iter().find(|group| runs(&host, group).0 > runs(&host, group).1);
            begun.is_some()
        });
        let group = begun.expect("one");
        order.push(group);
        let ended = runs(&host, group).1;
        release(&host, group);
        eventually("it ends", 8 * SOON, || runs(&host, group).1 > ended);
    }
    host.settle();
    // The first of a; the tasks, in their order; then the messages, in theirs.
    assert_eq!(order, ["a", "c", "a", "b", "a"]);
    let said = host.wait_said("local:a", 3);
    assert!(said[0].contains(">first<") && said[1] == "a task" && said[2].contains(">another<"), "{said:?}");
}

#[test]
fn what_fails_is_tried_again_later_and_later_and_answered_once() {
    let command = "command = [\"sh\", \"-c\", '''cat >prompt; date +%s%N >>tries; echo an answer; test $(wc -l <tries) -ge 4''']\n";
    let host = Host::start(&format!("[host]\nretry = \"200ms\"\n{}", config(&["sales"], command)), &["sales"]);
    host.say("local:sales", "hello");
    let said = host.wait_said("local:sales", 1);
    assert_eq!(said, ["an answer"]);
    host.settle();
    let times: Vec<u64> = host.wait_file("sales", "tries").lines().filter_map(|line| line.parse().ok()).collect();
    let waits: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    assert_eq!(waits.len(), 3, "{waits:?}");
    for (wait, least) in waits.iter().zip([200, 400, 800]) {
        assert!(*wait >= least, "{waits:?}");
    }
    assert_eq!(host.said("local:sales").len(), 1);
    assert!(host.log().contains("has not answered") && host.log().contains("it is tried again"), "{}", host.log());
}

#[test]
fn what_fails_for_long_is_left_until_somebody_writes_and_nobody_else_waits() {
    let command = "command = [\"sh\", \"-c\", 'echo x >>tries; cat; test -e mended']\n";
    let host =
        Host::start(&format!("[host]\nretry = \"1ms\"\n{}", config(&["sales", "other"], command)), &["sales", "other"]);
    host.jar.write("belljar/data/groups/other/mended", "");
    host.say("local:sales", "first");
    eventually("it is given up", 16 * SOON, || {
        host.log().contains("nothing more is tried until somebody writes again")
    });
    let tries = host.wait_file("sales", "tries").lines().count();
    host.say("local:other", "hello");
    host.wait_said("local:other", 1);
    assert_eq!(host.wait_file("sales", "tries").lines().count(), tries, "nothing more is tried");
    host.jar.write("belljar/data/groups/sales/mended", "");
    host.say("local:sales", "second");
    let said = host.wait_said("local:sales", 1);
    assert!(said[0].contains(">first<") && said[0].contains(">second<"), "nothing is lost: {said:?}");
    host.settle();
    assert_eq!(host.said("local:sales").len(), 1);
}

#[test]
fn a_configuration_that_cannot_be_read_and_a_refused_run_lose_nothing() {
    let host =
        Host::start(&format!("[host]\nretry = \"100ms\"\n{}", config(&["sales"], "command = [\"cat\"]\n")), &["sales"]);
    host.configure("[group.sales\n");
    host.say("local:sales", "first");
    eventually("it is told", 4 * SOON, || host.log().contains("config.toml:1"));
    let refused = "[host]\nretry = \"100ms\"\n[group.sales]\ncommand = [\"cat\"]\nrootfs = \"/nowhere\"\n";
    host.configure(refused);
    eventually("it is told", 8 * SOON, || host.log().contains("/nowhere"));
    host.configure("[group.sales]\ncommand = [\"cat\"]\n");
    host.say("local:sales", "second");
    let said = host.wait_said("local:sales", 1).concat();
    assert!(said.contains(">first<"), "{said}");
}

#[test]
fn what_an_agent_was_at_when_the_host_is_stopped_is_done_when_it_is_back() {
    let mut host = Host::start(&config(&["sales", "other"], HELD), &["sales", "other"]);
    host.say("local:sales", "hello");
    host.jar.call(&["task", "add", "-g", "other", "--at", "2020-01-01T00:00:00Z", "--id", "t", "a task"]).success();
    eventually("both go on", 4 * SOON, || runs(&host, "sales").0 == 1 && runs(&host, "other").0 == 1);
    host.end();
    assert!(host.jar.live_runs().is_empty());
    host.again();
    eventually("both go on", 8 * SOON, || runs(&host, "sales").0 == 2 && runs(&host, "other").0 == 2);
    for group in ["sales", "other"] {
        release(&host, group);
    }
    assert!(host.wait_said("local:sales", 1)[0].contains(">hello<"));
    assert_eq!(host.wait_said("local:other", 1), ["a task"]);
    host.settle();
    let shown = host.jar.call(&["task", "show", "t", "--json"]).success().json();
    assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!((host.said("local:sales").len(), host.said("local:other").len()), (1, 1));
}

#[test]
fn send_says_something_waits_for_the_answer_and_says_what_is_wrong() {
    let echo = "command = [\"cat\"]\n";
    let main = "[group.main]\nproject = \"$JAR/project\"\ncommand = [\"cat\"]\n";
    let mut host = Host::start(&(main.to_owned() + &config(&["sales"], echo)), &["sales"]);
    host.jar.call(&["group", "set", "sales", "--chat", "irc:#sales"]).success();
    let send = |arguments: &[&str]| host.jar.call(&[&["send"], arguments].concat());
    // To main, where nothing is said.
    assert!(send(&["--wait", "hello"]).success().out().contains(">hello<"));
    assert_eq!(host.said("local:main").len(), 1);
    let out = send(&["-g", "sales", "--wait=30s", "--sender", "<me>", "hi"]).success().out();
    assert!(out.contains("sender=\"&lt;me&gt;\"") && out.contains(">hi<"), "{out}");
    // As if the channel had told it.
    let out = send(&["--chat", "irc:#sales", "--wait", "@belljar hi"]).success().out();
    assert!(out.contains(">@belljar hi<"), "{out}");
    send(&["--chat", "irc:#sales", "--wait", "hi"]).exits(125).says(&["wakes no agent", "hint: ", "trigger"]);
    // From stdin.
    let command = host.jar.belljar(["send", "-g", "sales", "--wait"]);
    assert!(finish(command, b"two\nlines\n").success().out().contains("two\nlines"));
    // The same one again is stored once.
    let before = host.count("SELECT count(*) FROM message");
    for _ in 0..2 {
        assert_eq!(send(&["-g", "sales", "--id", "key-1", "once"]).success().out(), "");
    }
    assert_eq!(host.count("SELECT count(*) FROM message"), before + 1);
    send(&["-g", "sales", "--id", "key-1", "--wait", "once"]).exits(125).says(&["it was said already", "hint: "]);
    send(&["-g", "nobody", "x"]).exits(125).says(&["nobody", "hint: belljar group add nobody"]);
    send(&["--chat", "irc:#nobody", "x"])
        .exits(125)
        .says(&["belongs to no group", "hint: belljar group set GROUP --chat 'irc:#nobody'"]);
    send(&["--chat", "local:nobody", "x"]).exits(125).says(&["belljar group add nobody"]);
    for empty in ["", " \n"] {
        assert_ne!(send(&["-g", "sales", empty]).says(&["nothing to say"]).code, 0);
    }
    assert_ne!(send(&["-g", "sales", "--chat", "irc:#sales", "x"]).code, 0);
    host.settle();
    host.kill();
    host.jar.call(&["send", "x"]).says(&["no host process serves", "hint: belljar serve"]);
}

#[test]
fn send_stops_waiting_when_there_is_no_answer() {
    let host = Host::start(&config(&["sales"], HELD), &["sales"]);
    host.jar.call(&["send", "-g", "sales", "--wait=1s", "x"]).says(&["no answer within 1 s", "hint: "]);
    release(&host, "sales");
    // It comes all the same.
    host.wait_said("local:sales", 1);
    // One that waits over HTTP hears of the host's end.
    host.settle();
    let begun = Instant::now();
    let pid = host.pid();
    let end = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        nix::sys::signal::kill(pid, Signal::SIGTERM).expect("end it");
    });
    let (status, _) = host.ask("GET", "/messages?chat=local:sales&after=1000&wait=300", &Value::Null);
    end.join().expect("it was ended");
    assert!(matches!(status, 0 | 200) && begun.elapsed() < slowly(Duration::from_secs(30)), "{status}");
}

#[test]
fn what_is_not_understood_at_the_socket_is_refused_in_words() {
    let host = Host::start("", &["sales"]);
    let refused = |body: &Value, wanted: u16, words: &str| {
        let (status, answer) = host.ask("POST", "/messages", body);
        assert!(status == wanted && answer["error"].to_string().contains(words), "{status}: {answer}");
    };
    refused(&json!({"text": "x", "chat": "a", "group": "b"}), 400, "a chat and a group");
    refused(&json!({"text": ""}), 400, "a message has a text");
    refused(&json!({"text": "x", "chat": "a\u{0}b"}), 400, "control characters");
    refused(&json!({"text": "x", "time": "yesterday"}), 400, "time is not understood");
    refused(&json!({"text": "x", "grp": "a"}), 400, "unknown field");
    refused(&json!({"text": "x", "group": "../x"}), 422, "not a group name");
    refused(&json!({"text": "x".repeat(2 << 20)}), 413, "1 MiB");
    for query in ["x=1", "after=a", "wait=-1"] {
        assert_eq!(host.ask("GET", &format!("/messages?{query}"), &Value::Null).0, 400, "{query}");
    }
    assert_eq!(host.ask("GET", "/messages?group=nobody", &Value::Null), (200, json!([])));
    assert_eq!(host.ask("DELETE", "/messages", &Value::Null).0, 405);
    assert_eq!(
        fs::metadata(host.socket())
            .map(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777)
            .ok(),
        Some(0o600)
    );
}
