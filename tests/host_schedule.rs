//! Promise: a task is done when it is due: by cron in its time zone, at intervals that
//! do not drift, or once. What was missed is made up for once, what would overlap is
//! left out, and what became of each run is told.

mod harness;

use std::time::Duration;

use harness::host::Host;
use harness::{SOON, eventually};
use serde_json::{Value, json};

const ECHO: &str = "[group.main]\nproject = \"$JAR/project\"\ncommand = [\"cat\"]\n\
                    [group.sales]\ncommand = [\"cat\"]\n[group.other]\ncommand = [\"cat\"]\n";

fn start() -> Host {
    Host::start(ECHO, &["sales", "other"])
}

/// `belljar task add -g sales --id ID …`.
fn add(host: &Host, id: &str, arguments: &[&str]) {
    host.jar.call(&[&["task", "add", "-g", "sales", "--id", id], arguments].concat()).success();
}

fn show(host: &Host, id: &str) -> Value {
    host.jar.call(&["task", "show", id, "--json"]).success().json()
}

/// Its runs, the first one first.
fn history(host: &Host, id: &str) -> Vec<Value> {
    let mut runs = show(host, id)["runs"].as_array().cloned().unwrap_or_default();
    runs.reverse();
    runs
}

/// Waits until so many of its runs have ended; those.
fn wait_ended(host: &Host, id: &str, count: usize) -> Vec<Value> {
    let has_ended = |run: &Value| ["ok", "failed", "skipped"].iter().any(|outcome| run["outcome"] == *outcome);
    let ended = || history(host, id).into_iter().filter(has_ended).collect::<Vec<_>>();
    eventually(&format!("{count} runs of {id}; the log: {}", host.log()), 8 * SOON, || ended().len() >= count);
    ended()
}

/// Milliseconds since 1970.
fn milliseconds(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("no time: {time}"));
    text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{text}: {error}")).as_millisecond()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn after(milliseconds: i64) -> String {
    (jiff::Timestamp::now() + Duration::from_millis(milliseconds.unsigned_abs())).to_string()
}

#[test]
fn cron_has_seconds_and_is_due_at_whole_ones() {
    let host = start();
    add(&host, "each", &["--cron", "* * * * * *", "each second"]);
    add(&host, "other", &["--cron", "*/2 * * * * *", "each other"]);
    let runs = [wait_ended(&host, "each", 3), wait_ended(&host, "other", 2)];
    for (runs, step) in runs.iter().zip([1000, 2000]) {
        let due: Vec<i64> = runs.iter().map(|run| milliseconds(&run["due"])).collect();
        assert!(due.iter().all(|due| due % step == 0), "{due:?}");
        assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "each time once: {due:?}");
    }
    let said = host.said("local:sales");
    assert!(said.contains(&"each second".to_owned()) && said.contains(&"each other".to_owned()), "{said:?}");
}

#[test]
fn an_interval_does_not_drift_and_one_run_does_not_overlap_the_next() {
    let slow = "[group.sales]\ncommand = [\"sh\", \"-c\", 'echo x >>begun; sleep 0.7; cat']\n";
    let host = Host::start(slow, &["sales"]);
    add(&host, "often", &["--every", "200ms", "often"]);
    let runs = wait_ended(&host, "often", 12);
    let due: Vec<i64> = runs.iter().map(|run| milliseconds(&run["due"])).collect();
    assert!(due.windows(2).all(|pair| (pair[1] - pair[0]) > 0 && (pair[1] - pair[0]) % 200 == 0), "{due:?}");
    let outcomes: Vec<&str> = runs.iter().filter_map(|run| run["outcome"].as_str()).collect();
    assert!(outcomes.contains(&"ok") && outcomes.contains(&"skipped"), "{outcomes:?}");
    for run in runs.iter().filter(|run| run["outcome"] == "skipped") {
        assert_eq!((&run["started"], &run["duration_ms"]), (&json!(null), &json!(null)), "{run}");
    }
    // Those that were done follow one another.
    let done: Vec<(i64, i64)> = runs
        .iter()
        .filter(|run| run["outcome"] == "ok")
        .map(|run| (milliseconds(&run["started"]), run["duration_ms"].as_i64().expect("a duration")))
        .collect();
    assert!(done.iter().all(|(_, took)| *took >= 700), "{done:?}");
    assert!(done.windows(2).all(|pair| pair[1].0 >= pair[0].0 + pair[0].1), "{done:?}");
}

#[test]
fn once_is_once_not_before_and_at_once_when_it_has_passed() {
    let host = start();
    let at = after(1500);
    add(&host, "soon", &["--at", &at, "soon"]);
    add(&host, "past", &["--at", "2020-01-01T00:00:00Z", "past"]);
    let past = wait_ended(&host, "past", 1);
    assert_eq!((&past[0]["outcome"], &past[0]["result"]), (&json!("ok"), &json!("past")));
    let soon = wait_ended(&host, "soon", 1);
    assert!(milliseconds(&soon[0]["started"]) >= milliseconds(&json!(at)) - 1, "{soon:?} was for {at}");
    host.settle();
    for id in ["soon", "past"] {
        let shown = show(&host, id);
        assert_eq!(
            (&shown["task"]["status"], &shown["task"]["next_run"], shown["runs"].as_array().map(Vec::len)),
            (&json!("completed"), &json!(null), Some(1))
        );
        host.jar.call(&["task", "resume", id]).exits(125).says(&["is completed", "hint: "]);
    }
    assert_eq!(host.said("local:sales").len(), 2);
}

#[test]
fn what_is_paused_is_not_done_and_what_it_missed_is_left_out() {
    let host = start();
    add(&host, "often", &["--every", "300ms", "often"]);
    add(&host, "single", &["--at", &after(1000), "single"]);
    wait_ended(&host, "often", 1);
    for id in ["often", "single"] {
        host.jar.call(&["task", "pause", id]).success();
        assert_eq!(show(&host, id)["task"]["status"], "paused");
    }
    host.settle();
    let before = history(&host, "often");
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(history(&host, "often").len(), before.len(), "nothing is done meanwhile");
    assert!(history(&host, "single").is_empty());
    let resumed = now();
    for id in ["often", "single"] {
        host.jar.call(&["task", "resume", id]).success();
    }
    let runs = wait_ended(&host, "often", before.len() + 2);
    let due: Vec<i64> = runs.iter().map(|run| milliseconds(&run["due"])).collect();
    assert!(due[before.len()] >= resumed, "{due:?}, resumed at {resumed}");
    assert!(due.windows(2).all(|pair| (pair[1] - pair[0]) % 300 == 0), "in step with before: {due:?}");
    // A single time that passed meanwhile is due when it goes on.
    wait_ended(&host, "single", 1);
    assert_eq!(history(&host, "single").len(), 1);
}

#[test]
fn what_is_cancelled_is_gone_and_a_run_that_goes_on_ends_by_itself() {
    let held =
        "[group.sales]\ncommand = [\"sh\", \"-c\", 'echo x >>begun; while [ ! -e go ]; do sleep 0.02; done; cat']\n";
    let host = Host::start(held, &["sales"]);
    add(&host, "often", &["--every", "100ms", "often"]);
    host.wait_file("sales", "begun");
    host.jar.call(&["task", "cancel", "often"]).success();
    for verb in ["show", "pause", "resume", "cancel", "update"] {
        let out = host.jar.call(&["task", verb, "often"]).exits(125);
        out.says(&["there is no task `often`", "hint: belljar task list"]);
    }
    host.jar.write("belljar/data/groups/sales/go", "");
    assert_eq!(host.wait_said("local:sales", 1), ["often"]);
    host.settle();
    assert_eq!(host.wait_file("sales", "begun").lines().count(), 1, "nothing of it begins any more");
    assert_eq!(host.jar.call(&["task", "list"]).success().out(), "");
    // Its name is free.
    add(&host, "often", &["--at", "2020-01-01T00:00:00Z", "anew"]);
    host.wait_said("local:sales", 2);
    assert_eq!(history(&host, "often").len(), 1, "and nothing of the old one's is left");
}

#[test]
fn a_task_is_changed_and_a_new_schedule_begins_now() {
    let host = start();
    add(&host, "t", &["--every", "1h", "first"]);
    let before = show(&host, "t")["task"].clone();
    host.jar.call(&["task", "update", "t", "--prompt", "second"]).success();
    let shown = show(&host, "t")["task"].clone();
    assert_eq!((&shown["prompt"], &shown["next_run"]), (&json!("second"), &before["next_run"]));
    host.jar.call(&["task", "update", "t", "--every", "300ms", "--context", "isolated"]).success();
    let runs = wait_ended(&host, "t", 2);
    assert_eq!(runs[0]["result"], "second");
    host.jar.call(&["task", "update", "t", "--at", "2099-01-01T00:00:00Z"]).success();
    let shown = show(&host, "t")["task"].clone();
    assert_eq!(
        (&shown["schedule_type"], &shown["context_mode"], &shown["next_run"]),
        (&json!("once"), &json!("isolated"), &json!("2099-01-01T00:00:00.000Z"))
    );
    // One that is completed is due again, also at the time for which it was done.
    let mut last = Value::Null;
    for at in ["2020-01-01T00:00:00.000Z", "2020-01-02T00:00:00.000Z", "2020-01-02T00:00:00.000Z"] {
        host.jar.call(&["task", "update", "t", "--at", at]).success();
        let is_done = |run: &Value| run["seq"] != last && run["due"] == at && run["outcome"] == "ok";
        eventually("it is done", 4 * SOON, || history(&host, "t").last().is_some_and(is_done));
        last = history(&host, "t").last().expect("a run")["seq"].clone();
        assert_eq!(show(&host, "t")["task"]["status"], "completed");
    }
}

#[test]
fn what_is_to_be_done_once_is_done_after_a_run_that_goes_on() {
    let held =
        "[group.sales]\ncommand = [\"sh\", \"-c\", 'echo x >>begun; while [ ! -e go ]; do sleep 0.02; done; cat']\n";
    let host = Host::start(held, &["sales"]);
    add(&host, "t", &["--at", "2020-01-01T00:00:00Z", "first"]);
    host.wait_file("sales", "begun");
    // As an agent does that orders its own next time.
    host.jar.call(&["task", "update", "t", "--at", "2020-01-02T00:00:00Z", "--prompt", "second"]).success();
    eventually("it is due", 4 * SOON, || history(&host, "t").len() == 2);
    host.jar.write("belljar/data/groups/sales/go", "");
    assert_eq!(host.wait_said("local:sales", 2), ["first", "second"]);
}

#[test]
fn a_task_that_fails_says_why_and_keeps_nothing_else_from_being_done() {
    let command = "command = [\"sh\", \"-c\", '''in=$(cat); case \"$in\" in *bad*) echo half; echo broken >&2; exit 3;; *) echo \"$in\";; esac''']\n";
    let host = Host::start(&format!("[group.sales]\n{command}[group.other]\n{command}"), &["sales", "other"]);
    add(&host, "bad", &["--every", "500ms", "bad"]);
    let runs = wait_ended(&host, "bad", 2);
    let failed: Vec<&Value> = runs.iter().filter(|run| run["outcome"] == "failed").collect();
    let error = failed.first().and_then(|run| run["error"].as_str()).unwrap_or_default();
    assert!(error.contains("exited with 3") && error.contains("broken"), "{runs:?}");
    assert!(failed[0]["duration_ms"].is_i64() && failed[0]["started"].is_string());
    host.say("local:sales", "hello");
    let said = host.wait_said("local:sales", 1);
    assert!(said[0].contains(">hello<"), "and half of a failed one's answer is not told: {said:?}");
    assert!(host.log().contains("exited with 3"), "{}", host.log());
    let shown = host.jar.call(&["task", "show", "bad"]).success().out();
    assert!(shown.contains("failed") && shown.contains("exited with 3"), "{shown}");
}

#[test]
fn what_was_missed_while_nobody_served_is_made_up_for_once() {
    let mut host = start();
    add(&host, "often", &["--every", "300ms", "often"]);
    add(&host, "cron", &["--cron", "* * * * * *", "cron"]);
    add(&host, "single", &["--at", &after(1500), "single"]);
    wait_ended(&host, "often", 1);
    host.end();
    let ended = now();
    let before = history(&host, "often");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(history(&host, "often").len(), before.len());
    let begun = now();
    host.again();
    wait_ended(&host, "single", 1);
    wait_ended(&host, "often", before.len() + 2);
    for (id, step) in [("often", 300), ("cron", 1000)] {
        let due: Vec<i64> = history(&host, id).iter().map(|run| milliseconds(&run["due"])).collect();
        let missed: Vec<&i64> = due.iter().filter(|due| (ended..begun).contains(due)).collect();
        assert!(missed.len() <= 1, "{id}: {missed:?} of {ended} to {begun}");
        assert!(due.windows(2).all(|pair| (pair[1] - pair[0]) % step == 0), "{id}: {due:?}");
    }
    let missed = |id: &str| {
        history(&host, id)
            .iter()
            .filter(|run| milliseconds(&run["due"]) < begun && milliseconds(&run["started"]) >= begun)
            .count()
    };
    assert_eq!(missed("single"), 1);
    assert_eq!(host.said("local:sales").iter().filter(|said| *said == "single").count(), 1);
}

#[test]
fn lists_and_snapshots_show_what_each_may_see() {
    let host = start();
    let all =
        [("main", "m", "of main\nsecond line"), ("sales", "s", "of sales"), ("other", "o", "of \u{1b}[31m other")];
    for (group, id, prompt) in all {
        let line =
            ["task", "add", "-g", group, "--id", id, "--cron", "0 9 * * 1-5", "--time-zone", "Europe/Berlin", prompt];
        let out = host.jar.call(&line).success().out();
        assert!(out.starts_with(&format!("added task {id} of group {group}; it is due at 20")), "{out}");
    }
    let list = host.jar.call(&["task", "list", "--json"]).success().json();
    assert_eq!(list.as_array().map(Vec::len), Some(3));
    let own = host.jar.call(&["task", "list", "-g", "sales", "--json"]).success().json();
    assert_eq!(
        own.as_array().map(|own| own.iter().map(|task| task["id"].clone()).collect::<Vec<_>>()),
        Some(vec![json!("s")])
    );
    let task = &own[0];
    for (field, value) in [
        ("group", "sales"),
        ("chat", "local:sales"),
        ("prompt", "of sales"),
        ("schedule_type", "cron"),
        ("context_mode", "group"),
        ("schedule_value", "0 9 * * 1-5"),
        ("time_zone", "Europe/Berlin"),
        ("status", "active"),
    ] {
        assert_eq!(task[field], value, "{task}");
    }
    let next = jiff::Timestamp::from_millisecond(milliseconds(&task["next_run"]))
        .expect("a time")
        .in_tz("Europe/Berlin")
        .expect("a zone");
    assert_eq!((next.hour(), next.minute()), (9, 0));
    let text = host.jar.call(&["task", "list"]).success().out();
    assert!(text.lines().count() == 3 && !text.contains('\u{1b}') && !text.contains("second line"), "{text}");
    let text = host.jar.call(&["task", "show", "o"]).success().out();
    assert!(text.contains("cron 0 9 * * 1-5 (Europe/Berlin)") && !text.contains('\u{1b}'), "{text}");

    let snapshot = |group: &str| -> Vec<(String, String)> {
        let path = host.jar.path(&format!("belljar/data/ipc/{group}/current_tasks.json"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let tasks: Value = serde_json::from_str(&text).unwrap_or_default();
        let field = |task: &Value, name: &str| task[name].as_str().unwrap_or_default().to_owned();
        tasks.as_array().into_iter().flatten().map(|task| (field(task, "id"), field(task, "groupFolder"))).collect()
    };
    let pair = |id: &str, group: &str| (id.to_owned(), group.to_owned());
    let wanted = [
        vec![pair("m", "main"), pair("s", "sales"), pair("o", "other")],
        vec![pair("s", "sales")],
        vec![pair("o", "other")],
    ];
    for (group, wanted) in ["main", "sales", "other"].into_iter().zip(wanted) {
        eventually(&format!("{group} sees {wanted:?}, not {:?}", snapshot(group)), 2 * SOON, || {
            snapshot(group) == wanted
        });
    }
    // An agent finds it where NanoClaw has it, before its first instruction.
    host.configure("[group.sales]\ncommand = [\"cat\", \"/workspace/ipc/current_tasks.json\"]\n");
    host.say("local:sales", "x");
    let said: Value = serde_json::from_str(&host.wait_said("local:sales", 1)[0]).expect("JSON");
    assert_eq!(
        (&said[0]["id"], &said[0]["schedule_value"], said.as_array().map(Vec::len)),
        (&json!("s"), &json!("0 9 * * 1-5"), Some(1))
    );
    host.jar.call(&["task", "cancel", "s"]).success();
    eventually("it is gone", 2 * SOON, || snapshot("sales").is_empty() && snapshot("main").len() == 2);
}

#[test]
fn what_is_no_task_is_refused_with_a_hint() {
    let jar = harness::Jar::new();
    jar.call(&["group", "add", "sales"]).success();
    jar.write("belljar/config/config.toml", "[group.sales]\ncommand = [\"cat\"]\nagent = \"script\"\n");
    let refused = |arguments: &[&str], words: &[&str]| {
        let out = jar.call(&[&["task", "add", "-g", "sales"], arguments].concat());
        assert!(out.code != 0, "{arguments:?}: {out:?}");
        assert!(out.err().contains("hint: ") || out.err().contains("Usage"), "{arguments:?}: {}", out.err());
        out.says(words);
    };
    refused(&["x"], &["when is it to be done?", "--cron '0 9 * * *'"]);
    refused(&["--every", "1h", "--at", "2027-01-01T00:00:00", "x"], &["cannot be used with"]);
    refused(&["--cron", "99 * * * *", "x"], &["is not understood"]);
    refused(&["--cron", "0 0 30 2 *", "x"], &["is never due"]);
    refused(&["--every", "1ms", "x"], &["100 to"]);
    refused(&["--every", "soon", "x"], &["it is no time"]);
    refused(&["--at", "tomorrow", "x"], &["is not understood", "2027-02-01T15:30:00"]);
    refused(&["--every", "1h", "--time-zone", "Mars/Base", "x"], &["no time zone `Mars/Base`"]);
    refused(&["--every", "1h", " "], &["the prompt is empty"]);
    refused(&["--every", "1h", "--script", "true", "x"], &["takes no script", "agent = \"nanoclaw\""]);
    for id in ["", "a b", "../x", "a\n", &"x".repeat(65)] {
        refused(&["--every", "1h", "--id", id, "x"], &["a task's id has 1 to 64"]);
    }
    jar.call(&["task", "add", "-g", "nobody", "--every", "1h", "x"]).exits(125).says(&["belljar group add nobody"]);
    jar.call(&["task", "list", "-g", "nobody"]).exits(125).says(&["belljar group add nobody"]);
    assert_eq!(jar.call(&["task", "list", "--json"]).success().json(), json!([]), "nothing of that was kept");
    jar.call(&["task", "add", "-g", "sales", "--id", "t", "--every", "1h", "x"]).success();
    refused(&["--id", "t", "--every", "1h", "x"], &["there is a task `t` already"]);
    jar.call(&["task", "update", "t", "--time-zone", "Asia/Tokyo"]).success();
    assert!(jar.call(&["task", "show", "t"]).out().contains("interval 3600000 (Asia/Tokyo)"));
    jar.call(&["task", "update", "t", "--cron", "x"]).exits(125).says(&["is not understood"]);
}
