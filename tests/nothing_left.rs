//! Promise: whatever ends a run, within a second nothing of it is left: no
//! process, no mount, no run directory, no stub in the person's tree. What a power
//! loss leaves is cleaned by the next run.

mod harness;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Dice, Jar, Live, SOON, below_podman, descendants, eventually, finish, is_alive, load, names_in, processes_with,
    slowly, tree,
};
use nix::sys::signal::Signal;

/// How often the supervisor is killed, each time at another moment.
const KILLS: u64 = 30;

/// An agent with children in sessions of their own, which ignore what they can.
/// The mark is in every process' arguments.
fn agent(mark: &str) -> Vec<String> {
    let script = format!(
        ": {mark}; trap '' TERM INT HUP; (setsid sleep {mark} &); (nohup sleep {mark} >/dev/null 2>&1 &); \
         touch /workspace/group/began; echo ready; sleep {mark}"
    );
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

fn start(jar: &Jar, options: &[&str], mark: &str) -> Live {
    let agent = agent(mark);
    let agent: Vec<&str> = agent.iter().map(String::as_str).collect();
    jar.start(options, &agent)
}

/// A number that no other test sleeps.
fn mark(number: u64) -> String {
    format!("8{}.{}{number:03}", std::process::id(), Dice::new().below(900) + 100)
}

/// Mounts of the host that a run could have left.
fn mounts(jar: &Jar) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let own = jar.text("");
    table
        .lines()
        .filter(|line| line.contains(own.trim_end_matches('/')) || line.contains("- tmpfs belljar "))
        .map(str::to_owned)
        .collect()
}

/// The whole promise.
fn nothing_is_left(jar: &Jar, mark: &str, project: &[String]) {
    eventually("no process of the run is left", SOON, || processes_with(mark).is_empty());
    eventually("no run directory is left", SOON, || jar.live_runs().is_empty());
    eventually("no run counts as live", SOON, || names_in(&jar.path("belljar/data/live")).is_empty());
    if below_podman() {
        let runs = jar.receipts().iter().map(|receipt| receipt["run"].to_string()).collect::<String>();
        eventually("podman has nothing of the run", SOON, || podman(jar, &runs).is_empty());
    }
    assert_eq!(mounts(jar), Vec::<String>::new(), "a mount was left on the host");
    assert_eq!(tree(&jar.project()), project, "the project's tree was changed");
    assert_eq!(jar.call(&["ps", "--json"]).success().out().trim(), "[]");
}

/// Containers of these runs that podman knows, volumes and networks of belljar's.
fn podman(jar: &Jar, runs: &str) -> Vec<String> {
    let call = |arguments: &[&str]| {
        let mut command = std::process::Command::new("podman");
        command.args(arguments);
        jar.surround(&mut command);
        finish(command, b"").success().out().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut found = call(&["ps", "--all", "--format", "{{.Labels}}", "--filter", "label=belljar.run"]);
    found.retain(|labels| runs.split('"').any(|run| !run.is_empty() && labels.contains(run)));
    for kind in ["volume", "network"] {
        found.extend(call(&[kind, "ls", "--quiet"]).into_iter().filter(|name| name.contains("belljar")));
    }
    found
}

#[test]
fn after_the_agent_has_ended() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    let mark = mark(0);
    let script = format!("(setsid sleep {mark} &); (sleep {mark} &); exit 4");
    jar.sh(&script).exits(4);
    // At once: the exit code is given when all of it is over.
    assert!(processes_with(&mark).is_empty() && jar.live_runs().is_empty());
    nothing_is_left(&jar, &mark, &project);
}

#[test]
fn after_sigterm_and_sigint() {
    for (number, signal) in [(0, Signal::SIGTERM), (1, Signal::SIGINT)] {
        let jar = Jar::new();
        let project = tree(&jar.project());
        let mark = mark(number);
        let live = start(&jar, &[], &mark);
        live.wait_for("ready");
        let family = descendants(live.pid());
        live.signal(signal);
        live.wait().exits(137);
        assert!(!family.iter().any(is_alive), "{signal}: a process outlived the run");
        nothing_is_left(&jar, &mark, &project);
    }
}

#[test]
fn after_the_time_limit() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    let mark = mark(1);
    let agent = agent(&mark);
    let agent: Vec<&str> = agent.iter().map(String::as_str).collect();
    jar.run(&["--timeout", "300ms"], &agent).exits(124);
    nothing_is_left(&jar, &mark, &project);
}

#[test]
fn after_a_refusal() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    jar.run(&["--group", "nobody"], &["true"]).exits(125);
    jar.run(&[], &["no-such-program"]).exits(127);
    nothing_is_left(&jar, "no-such-program", &project);
}

#[test]
fn after_sigkill_of_the_supervisor_at_any_moment() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    let mut dice = Dice::new();
    let mut began = 0;
    // How long a whole run takes here and now: the agent begins within that.
    let measured = Jar::new();
    let begun = Instant::now();
    measured.run(&[], &["true"]).success();
    let window = 2 * begun.elapsed().as_micros() as u64;
    for number in 0..load(KILLS, 4) {
        let mark = mark(number);
        let _ = fs::remove_file(jar.group("main").join("began"));
        let live = start(&jar, &[], &mark);
        // From the first instruction to long after the agent's first one.
        thread::sleep(Duration::from_micros(dice.below(window)));
        let family = descendants(live.pid());
        live.signal(Signal::SIGKILL);
        drop(live);
        eventually("every process of the run is gone", SOON, || !family.iter().any(is_alive));
        nothing_is_left(&jar, &mark, &project);
        began += usize::from(jar.group("main").join("began").exists());
    }
    for receipt in jar.receipts() {
        assert_eq!(receipt["status"], "interrupted", "{}", receipt["cause"]);
    }
    // The moments must not all have been before the agent, or after.
    assert!(began > 0, "no agent had begun when its supervisor was killed");
}

/// Before the agent begins there are helpers that live for a moment only: none of
/// them may be left when its parent is killed while it makes them.
#[test]
fn after_sigkill_in_the_first_milliseconds() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    let mut dice = Dice::new();
    for number in 0..load(5 * KILLS, 10) {
        let mark = mark(number);
        let live = start(&jar, &[], &mark);
        thread::sleep(slowly(Duration::from_micros(dice.below(12_000))));
        live.signal(Signal::SIGKILL);
        // Not by waiting for the end of its output, which a process that is left
        // would hold open.
        drop(live);
        eventually("no process of the run is left", SOON, || processes_with(&mark).is_empty());
        eventually("no run directory is left", SOON, || jar.live_runs().is_empty());
    }
    nothing_is_left(&jar, "no such mark", &project);
}

#[test]
fn after_sigkill_while_the_agent_runs() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    let mark = mark(2);
    let live = start(&jar, &["--name", "killed"], &mark);
    live.wait_for("ready");
    let family = descendants(live.pid());
    assert!(family.len() >= 5, "supervisor, janitor, launcher, runtime and agent: {}", family.len());
    live.signal(Signal::SIGKILL);
    live.wait().exits(137);
    eventually("every process of the run is gone", SOON, || !family.iter().any(is_alive));
    nothing_is_left(&jar, &mark, &project);
    let shown = jar.call(&["show", "killed", "--json"]).success().json();
    assert_eq!(shown["status"], "interrupted");
    jar.run(&[], &["true"]).success();
}

#[test]
fn after_the_launcher_or_the_runtime_was_killed() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    for number in 0..2 {
        let mark = mark(number);
        let live = start(&jar, &[], &mark);
        live.wait_for("ready");
        let family = descendants(live.pid());
        // The runtime is told where its bundle is; its parent is the launcher.
        // podman's conmon takes the runtime's place.
        let runtimes = processes_with(if below_podman() { "conmon" } else { "--bundle" });
        let runtime = family.iter().map(|(pid, _)| *pid).find(|pid| runtimes.contains(pid)).expect("the runtime runs");
        let status = fs::read_to_string(format!("/proc/{runtime}/status")).expect("it is there");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|pid| pid.trim().parse().ok());
        let victim: u32 = if number == 0 { parent.expect("it has a parent") } else { runtime };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim as i32), Signal::SIGKILL).expect("it is there");
        let code = live.wait().code;
        assert!(code != 0, "a killed run counts as a success");
        eventually("every process of the run is gone", SOON, || !family.iter().any(is_alive));
        nothing_is_left(&jar, &mark, &project);
    }
}

/// As on disk after a power loss: the file of a run that nobody holds, and a
/// receipt that says that the run is running.
fn lose_power(jar: &Jar) -> String {
    let receipts = jar.path("belljar/data/receipts");
    let mut receipt = jar.receipts().pop().expect("a receipt");
    let run = receipt["run"].as_str().expect("it names the run").to_owned();
    receipt["status"] = "running".into();
    receipt["ended"] = serde_json::Value::Null;
    fs::write(receipts.join(format!("{run}.json")), receipt.to_string()).expect("write the receipt");
    let state = serde_json::json!({
        "run": run, "name": "before", "group": "main", "pid": 999_999_999, "started": receipt["started"],
        "command": ["true"], "directory": jar.path(&format!("belljar/run/{run}")), "cgroup": null,
    });
    jar.write(&format!("belljar/data/live/{run}.json"), &state.to_string());
    run
}

#[test]
fn what_a_power_loss_leaves_is_cleaned_by_the_next_run() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    jar.run(&["--name", "before"], &["true"]).success();
    let run = lose_power(&jar);
    jar.write(&format!("belljar/run/{run}/lock"), "");
    // And one that was cut off in the middle of being made, and another a moment later.
    fs::create_dir(jar.path("belljar/run/20200101-000000-abcdef")).expect("make a directory");
    fs::create_dir(jar.path("belljar/run/20200101-000001-abcdef")).expect("make a directory");
    jar.write("belljar/data/live/20200101-000001-abcdef.json", "{\"run\": \"2020");
    jar.write("belljar/data/live/20200101-000002-abcdef.json", "");
    assert_eq!(jar.call(&["ps", "--json"]).success().out().trim(), "[]", "dead runs are not listed as live");
    jar.run(&[], &["true"]).success();
    assert!(jar.live_runs().is_empty(), "the next run did not clean up: {:?}", jar.live_runs());
    let shown = jar.call(&["show", "before", "--json"]).success().json();
    assert_eq!(shown["status"], "interrupted");
    nothing_is_left(&jar, "999.999", &project);
}

#[test]
fn a_run_whose_directory_went_with_the_machine_was_interrupted() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    jar.run(&["--name", "before"], &["true"]).success();
    // The run directory was in memory, as /run is.
    lose_power(&jar);
    let shown = jar.call(&["show", "before", "--json"]).success().json();
    assert_eq!(shown["status"], "interrupted", "nobody has run belljar since");
    assert_eq!(shown["cause"], "the machine or the supervisor was stopped");
    nothing_is_left(&jar, "999.999", &project);
}

#[test]
fn a_live_run_is_seen_from_where_its_directory_is_not() {
    let jar = Jar::new();
    let project = tree(&jar.project());
    let mark = mark(7);
    let live = start(&jar, &["--name", "seen"], &mark);
    live.wait_for("ready");
    // As after the runtime directory of the session was removed under it.
    let directory = jar.path("belljar/run").join(&jar.live_runs()[0]);
    let aside = jar.path("belljar/aside");
    fs::rename(&directory, &aside).expect("move the run directory");
    assert!(jar.call(&["ps"]).success().out().contains("seen"));
    let shown = jar.call(&["show", "seen", "--json"]).success().json();
    assert_eq!(shown["status"], "running", "a live run was buried");
    assert!(!processes_with(&mark).is_empty());
    fs::rename(&aside, &directory).expect("move it back");
    live.signal(Signal::SIGKILL);
    live.wait().exits(137);
    nothing_is_left(&jar, &mark, &project);
}

#[test]
fn a_live_run_is_not_cleaned_away_by_the_next() {
    let jar = Jar::new();
    let mark = mark(3);
    let live = start(&jar, &[], &mark);
    live.wait_for("ready");
    jar.run(&[], &["true"]).success();
    assert_eq!(jar.live_runs().len(), 1);
    assert!(!processes_with(&mark).is_empty(), "another run ended this one");
    live.signal(Signal::SIGKILL);
    live.wait().exits(137);
    eventually("every process is gone", SOON, || processes_with(&mark).is_empty());
}
