//! Promise: many runs at once get along: all succeed, and none sees another's
//! session, processes or private files.

mod harness;

use std::collections::BTreeSet;
use std::fs;

use harness::{Jar, Live};

const RUNS: usize = 20;

/// Leaves a trace everywhere that is the run's or the group's own, waits until all
/// are there, then tells what it can see of others.
fn agent(number: usize) -> String {
    format!(
        "me=run-{number}; echo $me > /tmp/$me; echo $me > /home/node/$me; echo $me > /dev/shm/$me; \
         echo $me > /home/node/.claude/$me; echo $me > /workspace/group/$me; sleep 86395.{number} & \
         echo here; read go; \
         ls /tmp /home/node /dev/shm | grep run- ; echo; ls /home/node/.claude /workspace/group | grep run- | sort -u | tr '\\n' ' '; echo; \
         grep -lz 86395 /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
    )
}

/// All at once: each begins before the first may end.
fn together(jar: &Jar, group: impl Fn(usize) -> String) -> Vec<String> {
    let mut live: Vec<Live> = (0..RUNS)
        .map(|number| {
            let mut command = jar.belljar(["run", "-g", &group(number), "--", "sh", "-c", &agent(number)]);
            command.stdin(std::process::Stdio::piped());
            Live::start(command)
        })
        .collect();
    live.iter().for_each(|live| live.wait_for("here"));
    assert_eq!(jar.live_runs().len(), RUNS);
    let listed = jar.call(&["ps", "--json"]).success().json();
    let ids: BTreeSet<&str> = listed.as_array().expect("a list").iter().filter_map(|run| run["run"].as_str()).collect();
    assert_eq!(ids.len(), RUNS, "two runs have the same id");
    live.iter_mut().for_each(|live| live.write(b"go\n"));
    let outs = live.into_iter().map(|live| live.wait().success().out()).collect();
    assert!(jar.live_runs().is_empty());
    assert_eq!(jar.receipts().len(), RUNS);
    outs
}

/// The paragraphs of what an agent told.
fn own_and_shared(out: &str) -> (Vec<&str>, &str) {
    let (own, shared) = out.split_once("\n\n").expect("two paragraphs");
    (own.lines().skip(1).collect(), shared)
}

#[test]
fn twenty_runs_in_one_group_share_the_folder_and_nothing_else() {
    let jar = Jar::new();
    for (number, out) in together(&jar, |_| "main".to_owned()).iter().enumerate() {
        let me = format!("run-{number}");
        let (own, shared) = own_and_shared(out);
        assert_eq!(own, [me.as_str(); 3], "run {number} sees another's private files");
        // The group's session and folder are one for all.
        let names = shared.lines().next().unwrap_or_default();
        assert_eq!(names.split_whitespace().count(), RUNS, "{names}");
    }
}

#[test]
fn twenty_groups_see_nothing_of_each_other() {
    let jar = Jar::new();
    for number in 0..RUNS {
        jar.call(&["group", "add", &format!("g{number}")]).success();
    }
    for (number, out) in together(&jar, |number| format!("g{number}")).iter().enumerate() {
        let me = format!("run-{number}");
        let (own, shared) = own_and_shared(out);
        assert_eq!(own, [me.as_str(); 3], "run {number} sees another's private files");
        let names = shared.lines().next().unwrap_or_default();
        assert_eq!(names.trim(), me, "group {number} sees another's session or folder");
        let mut session = harness::names_in(&jar.path(&format!("belljar/data/sessions/g{number}/.claude")));
        // belljar's own, for Claude Code.
        session.retain(|name| ![".claude.json", "settings.json"].contains(&name.as_str()));
        assert_eq!(session, std::slice::from_ref(&me));
        let text = fs::read_to_string(jar.group(&format!("g{number}")).join(&me)).expect("the agent wrote it");
        assert_eq!(text.trim(), me);
    }
}

#[test]
fn a_run_sees_only_its_own_processes() {
    let jar = Jar::new();
    let mark = "86394.7";
    let other = jar.start(&[], &["sh", "-c", &format!("echo ready; sleep {mark}")]);
    other.wait_for("ready");
    let out = jar.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; kill -9 -1; echo; echo still here").success().out();
    assert!(out.contains("/proc/[0-9]*/cmdline") && out.ends_with("still here\n"), "{out}");
    assert!(!out.contains(mark), "another run's process is seen: {out}");
    assert!(!harness::processes_with(&format!("sleep\0{mark}")).is_empty(), "kill -1 reached another run");
}

#[test]
fn groups_that_are_added_at_once_are_all_there() {
    let jar = Jar::new();
    let live: Vec<Live> =
        (0..RUNS).map(|number| Live::start(jar.belljar(["group", "add", &format!("g{number}")]))).collect();
    for live in live {
        live.wait().success();
    }
    let list = jar.call(&["group", "list"]).success().out();
    for number in 0..RUNS {
        assert!(list.contains(&format!("g{number}")), "{list}");
    }
}
