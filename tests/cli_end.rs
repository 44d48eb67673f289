//! Promise: a run ends when it is told to, when its time is up or its limits
//! are reached; and what happened can be read afterwards.

mod harness;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Dice, Jar, Live, SOON, eventually, load, slowly};
use nix::sys::signal::Signal;

/// Ends by itself on the signals that a person sends.
const OBEDIENT: &str = "trap 'echo got TERM; exit 3' TERM; trap 'echo got INT; exit 4' INT; \
    trap 'echo got USR1' USR1; echo ready; while :; do sleep 0.02; done";
/// Does not.
const STUBBORN: &str = "trap '' TERM INT HUP QUIT; echo ready; while :; do sleep 0.02; done";

#[test]
fn signals_reach_the_agent_and_its_answer_is_the_exit_code() {
    let jar = Jar::new();
    for (signal, said, code) in [(Signal::SIGTERM, "got TERM", 3), (Signal::SIGINT, "got INT", 4)] {
        let live = jar.start(&[], &["sh", "-c", OBEDIENT]);
        live.wait_for("ready");
        live.signal(Signal::SIGUSR1);
        live.wait_for("got USR1");
        live.signal(signal);
        let outcome = live.wait().exits(code);
        assert!(outcome.out().ends_with(&format!("{said}\n")), "{}", outcome.out());
    }
}

#[test]
fn an_agent_without_a_handler_dies_of_the_signal() {
    let jar = Jar::new();
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let live = jar.start(&[], &["sh", "-c", "echo ready; exec sleep 1000"]);
        live.wait_for("ready");
        live.signal(signal);
        live.wait().exits(code);
    }
}

#[test]
fn an_agent_that_ignores_the_signal_is_killed_after_the_grace() {
    let jar = Jar::new();
    let live = jar.start(&[], &["sh", "-c", STUBBORN]);
    live.wait_for("ready");
    let begun = Instant::now();
    live.signal(Signal::SIGTERM);
    live.wait().exits(137);
    // Not before: the agent was promised the time to end.
    assert!(begun.elapsed() >= Duration::from_secs(4), "killed without a grace");
    assert_eq!(jar.receipts()[0]["cause"], "killed after the grace");
}

#[test]
fn a_signal_before_the_agent_began_ends_the_run() {
    let jar = Jar::new();
    // Ended or not yet able to hear: either way the run is over at once.
    let mut dice = Dice::new();
    for _ in 0..load(60, 5) {
        // One signal, at any moment of the start.
        let live = jar.start(&[], &["sleep", "1000"]);
        thread::sleep(slowly(Duration::from_micros(dice.below(50_000))));
        live.signal(Signal::SIGTERM);
        assert_eq!(live.wait().code, 143);
    }
    assert!(jar.receipts().iter().all(|receipt| receipt["cause"] != "killed after the grace"), "a signal was lost");
    eventually("no run is left", SOON, || jar.live_runs().is_empty());
}

#[test]
fn the_time_limit_ends_the_whole_tree_with_124() {
    let jar = Jar::new();
    let mark = "86398.22";
    let script = format!("(setsid sleep {mark} &); nohup sleep {mark} & sleep {mark}");
    let outcome = jar.run(&["--timeout", "500ms"], &["sh", "-c", &script]).exits(124);
    outcome.says(&["time limit"]);
    assert!(harness::processes_with(mark).is_empty(), "a process outlived the time limit");
    assert_eq!(jar.receipts()[0]["cause"], "timeout");
    jar.run(&["--timeout", "500ms"], &["sh", "-c", STUBBORN]).exits(124);
    jar.run(&["--timeout", "1h"], &["true"]).success();
}

#[test]
fn output_that_nobody_reads_does_not_keep_a_run_that_is_to_end() {
    let jar = Jar::new();
    let (unread, full) = nix::unistd::pipe().expect("make a pipe");
    let mut command = jar.belljar(["run", "--timeout", "700ms", "--", "yes"]);
    command.stdin(std::process::Stdio::null()).stdout(full).stderr(std::process::Stdio::null());
    Live::start(command).wait().exits(124);
    assert_eq!(jar.receipts()[0]["cause"], "timeout");
    drop(unread);
}

#[test]
fn the_output_limit_ends_the_run() {
    let jar = Jar::new();
    let outcome = jar.run(&["--output-limit", "64k"], &["yes"]).exits(137);
    assert_eq!(outcome.stdout.len(), 64 << 10, "exactly as much as was allowed");
    outcome.says(&["output limit"]);
    let outcome = jar.run(&["--output-limit", "4k"], &["sh", "-c", "head -c 4096 /dev/zero"]).success();
    assert_eq!(outcome.stdout.len(), 4096, "the limit itself is allowed");
    let both = jar.run(
        &["--output-limit", "4k"],
        &["sh", "-c", "head -c 3000 /dev/zero; head -c 3000 /dev/zero >&2; sleep 1000"],
    );
    both.exits(137);
    assert_eq!(jar.receipts()[0]["cause"], "output limit");
}

#[test]
fn the_process_limit_holds_without_any_cgroup() {
    let jar = Jar::new();
    let script = "i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; echo all";
    let outcome = jar.run(&["--pids", "12"], &["sh", "-c", script]);
    assert!(outcome.err().contains("fork"), "40 processes under a limit of 12: {}", outcome.err());
    // The caller's own processes do not count: the next run has its limit whole.
    jar.run(&["--pids", "60"], &["sh", "-c", script]).success();
}

#[test]
fn a_limit_that_cannot_be_enforced_refuses_the_run() {
    let jar = Jar::new();
    let plan = jar.call(&["explain", "--json", "--memory", "64m"]);
    if plan.code == 0 {
        harness::skip("a host that delegates no memory controller, to see the refusal");
        let script = "head -c 300m /dev/zero | tail -c 290m | wc -c";
        let outcome = jar.run(&["--memory", "64m"], &["sh", "-c", script]);
        assert_ne!(outcome.out().trim(), "304087040", "a memory limit of 64 MiB did not hold");
        return;
    }
    for (option, value) in [("--memory", "64m"), ("--cpus", "0.5")] {
        let outcome = jar.run(&[option, value], &["touch", "/workspace/group/ran"]).exits(125);
        outcome.says(&[option, "cannot be enforced here", "best-effort"]);
    }
    assert!(!jar.group("main").join("ran").exists(), "the agent ran without its limit");
    jar.write("belljar/config/config.toml", "[limits]\nenforce = \"best-effort\"\n");
    let outcome = jar.run(&["--memory", "64m", "--cpus", "0.5"], &["echo", "ran"]).success();
    assert_eq!((outcome.out(), outcome.err()), ("ran\n".to_owned(), String::new()));
    let receipt = jar.receipts().pop().expect("a receipt");
    assert_eq!(receipt["not_in_force"], serde_json::json!(["memory", "cpus"]));
    let explained = jar.call(&["explain", "--memory", "64m"]).success().out();
    assert!(explained.contains("not in force"), "{explained}");
}

#[test]
fn ps_lists_a_run_show_tells_of_it_and_stop_ends_it() {
    let jar = Jar::new();
    let live = jar.start(&["--name", "my-run"], &["sh", "-c", "echo ready; exec sleep 1000"]);
    live.wait_for("ready");
    let listed = jar.call(&["ps", "--json"]).success().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["name"], "my-run");
    assert_eq!(listed[0]["pid"], live.pid().as_raw());
    assert!(jar.call(&["ps"]).success().out().contains("my-run"));
    let run = listed[0]["run"].as_str().expect("an id").to_owned();
    assert!(jar.call(&["show", &run]).success().out().contains("running"));
    jar.call(&["stop", "my-run"]).success();
    live.wait().exits(143);
    assert_eq!(jar.call(&["ps", "--json"]).success().out().trim(), "[]");
    let shown = jar.call(&["show", "my-run", "--json"]).success().json();
    assert_eq!((&shown["status"], &shown["exit_code"]), (&"ended".into(), &143.into()));
    jar.call(&["stop", "my-run"]).exits(125).says(&["no live run"]);
    jar.call(&["show", "other"]).exits(125).says(&["no run is called"]);
}

#[test]
fn the_receipt_tells_what_was_planned_verified_and_done() {
    let jar = Jar::new();
    let file = jar.text("receipt.json");
    jar.run(&["--receipt", &file, "--name", "n"], &["sh", "-c", "exit 9"]).exits(9);
    let text = fs::read_to_string(&file).expect("read the receipt");
    let receipt: serde_json::Value = serde_json::from_str(&text).expect("a receipt is JSON");
    assert_eq!(receipt["exit_code"], 9);
    assert_eq!(receipt["status"], "ended");
    assert_eq!(receipt["cause"], "exited with 9");
    assert!(receipt["verify"]["mounts"].as_u64() > Some(20), "{}", receipt["verify"]);
    let kept = jar.receipts().pop().expect("a receipt among belljar's own");
    for field in ["run", "plan", "plan_sha256", "exit_code", "started", "ended"] {
        assert_eq!(receipt[field], kept[field], "{field}");
        assert!(!receipt[field].is_null(), "{field}");
    }
}

#[test]
fn what_explain_shows_is_what_the_receipt_records() {
    let jar = Jar::new();
    let extra = jar.write("extra/file", "x");
    let extra = extra.parent().expect("it has a parent");
    jar.allow(&[(extra, true)]);
    let mount = format!("{}:notes:rw", extra.display());
    let options = ["-m", &mount, "-e", "A=b", "--timeout", "1m", "--pids", "100"];
    let planned = jar.plan(&options, &["true"]);
    let before = harness::tree(&jar.path("belljar"));
    assert_eq!(jar.plan(&options, &["true"]), planned, "the same request gives the same plan");
    assert_eq!(harness::tree(&jar.path("belljar")), before, "explain had an effect");
    jar.run(&options, &["true"]).success();
    let receipt = jar.receipts().pop().expect("a receipt");
    assert_eq!(receipt["plan"], planned);
}

#[test]
fn explain_gives_a_reason_for_each_mount() {
    let jar = Jar::new();
    let plan = jar.plan(&[], &["true"]);
    let table = jar.call(&["explain"]).success().out();
    for mount in plan["mounts"].as_array().expect("a list") {
        let target = mount["target"].as_str().expect("a target");
        let reason = mount["reason"].as_str().expect("a reason");
        assert!(!reason.is_empty(), "{target}");
        assert!(table.contains(target), "{target} is not in the table");
    }
    assert_eq!(plan["egress"]["mode"], "gateway");
    let means = plan["egress"]["means"].as_str().expect("it says what that means");
    assert!(means.contains("through the gateway") && table.contains(means), "{table}");
    assert!(table.contains("TCP 3128 53 80 443, UDP 53"), "the listeners are not in the table: {table}");
    let sealed = jar.call(&["explain", "--egress", "none"]).success().out();
    assert!(sealed.contains("nothing can leave") && !sealed.contains("listen "), "{sealed}");
}
