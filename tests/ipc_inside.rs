//! Promise: a hostile agent inside a real run cannot take its directories away from the
//! host process, makes it write nothing outside, and neither keeps an honest group's
//! agent from its answers nor sees anything of it.

mod harness;
mod ipc;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use harness::{SOON, eventually, names_in, skip, system_program};
use ipc::Host;
use serde_json::Value;

const OUTSIDE: &str = "outside-secret-93ab17";
const HOSTILE: &str = include_str!("ipc/hostile.py");

/// A group whose agent is hostile, one whose agent says what it is told, and a file
/// that is nobody's business. `None`, loudly, without Python.
fn world(how: &str) -> Option<Host> {
    if system_program("python3").is_none() {
        skip("python3, for a hostile agent");
        return None;
    }
    let config = "[group.good]\ncommand = [\"cat\"]\n";
    let mut host = Host::prepared(&["bad", "good"], config);
    let outside = host.jar.write("outside/host.json", &format!(r#"{{"type":"message","text":"{OUTSIDE}"}}"#));
    let path = host.jar.path("belljar/config/config.toml");
    let command = ["python3", "/workspace/group/hostile.py", how, &outside.to_string_lossy()];
    let config = fs::read_to_string(&path).expect("read it") + &format!("[group.bad]\ncommand = {command:?}\n");
    fs::write(&path, config).expect("write it");
    fs::write(host.data("groups/bad/hostile.py"), HOSTILE).expect("write the agent");
    fs::write(host.data("groups/bad/mark"), "control-mark-41\n").expect("write a mark");
    for group in ["main", "good"] {
        let at = "2099-01-01T00:00:00Z";
        host.jar.call(&["task", "add", "-g", group, "--id", &format!("of-{group}"), "--at", at, "work"]).success();
    }
    host.again();
    Some(host)
}

/// The file outside is as it was, and nowhere else.
fn outside_is_untouched(host: &Host, before: &fs::Metadata) {
    let path = host.jar.path("outside/host.json");
    let now = fs::symlink_metadata(&path).expect("it is there");
    assert_eq!((now.mtime(), now.mtime_nsec(), now.ino()), (before.mtime(), before.mtime_nsec(), before.ino()));
    assert_eq!(fs::read_to_string(&path).expect("read it"), format!(r#"{{"type":"message","text":"{OUTSIDE}"}}"#));
    assert_eq!(ipc::files_with(&host.jar.path("belljar"), OUTSIDE.as_bytes()), Vec::<std::path::PathBuf>::new());
}

fn answers(text: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Whatever was done to a directory, it was not done.
fn nothing_was_taken_away(answers: &BTreeMap<String, Value>) {
    for name in ["messages", "tasks", "input"] {
        for what in [
            "rename NAME",
            "rename NAME out",
            "replace NAME",
            "link over NAME",
            "exchange NAME",
            "remove NAME",
            "unmount NAME",
        ] {
            let answer = &answers[&what.replace("NAME", name)];
            assert!(answer != "done" && answer.is_string(), "{what}: {name}: {answer}");
        }
        assert_eq!(answers[&format!("rename {name}")], "EBUSY");
        assert_eq!(answers[&format!("exchange {name}")], "EBUSY");
    }
    assert!(answers["rename ipc"] != "done" && answers["unmount ipc"] != "done", "{answers:?}");
    assert_eq!((&answers["control"], &answers["control exchange"]), (&"done".into(), &"done".into()));
}

#[test]
fn an_agent_cannot_take_its_directories_away_or_lead_the_host_elsewhere() {
    let Some(host) = world("once") else { return };
    let before = fs::symlink_metadata(host.jar.path("outside/host.json")).expect("look at it");
    let answer = host.jar.call(&["send", "-g", "bad", "--wait=60s", "go"]).success().out();
    let answers = answers(&answer);
    nothing_was_taken_away(&answers);
    assert_eq!(answers["link current_tasks.json"], "done");
    for name in ["messages", "tasks", "input"] {
        assert!(fs::symlink_metadata(host.data("ipc/bad").join(name)).expect("it is there").is_dir());
    }
    let is_file = |below: &str| fs::symlink_metadata(host.data(below)).is_ok_and(|meta| meta.is_file());
    eventually("the refusal is no link any more", SOON, || is_file("ipc/bad/input/refused-00.json"));
    host.jar.call(&["task", "add", "-g", "bad", "--id", "of-bad", "--every", "24h", "work"]).success();
    eventually("the snapshots are no links any more", SOON, || {
        is_file("ipc/bad/current_tasks.json") && is_file("ipc/bad/available_groups.json")
    });
    host.serves("good");
    host.serves("bad");
    outside_is_untouched(&host, &before);
}

#[test]
fn an_honest_group_beside_a_hostile_one_is_answered_and_not_seen() {
    let Some(host) = world("loop") else { return };
    let before = fs::symlink_metadata(host.jar.path("outside/host.json")).expect("look at it");
    let mark = format!("honest-mark-{}", std::process::id());
    fs::write(host.data("groups/good/notes"), &mark).expect("write a file");
    let of_good = || {
        let query = "SELECT 'task', id, prompt, status FROM task WHERE grp IN ('good', 'main') UNION ALL \
                     SELECT 'binding', grp, jid, mention FROM binding ORDER BY 1, 2";
        host.rows(query)
    };
    let mine = of_good();
    host.jar.call(&["send", "-g", "bad", "go"]).success();
    eventually("the hostile one begins", 5 * SOON, || host.data("groups/bad/begun").exists());
    for number in 0..6 {
        let question = format!("{mark} question {number}");
        let answer = host.jar.call(&["send", "-g", "good", "--wait=60s", &question]).success().out();
        assert!(answer.contains(&question), "{answer}");
        host.put("good", "messages", "said.json", ipc::message(&format!("{mark} said {number}")));
        eventually("the honest one is heard", SOON, || host.has_said("good", &format!("{mark} said {number}")));
    }
    // Told backwards, so that it does not find what it was told.
    fs::write(host.data("groups/bad/stop"), mark.chars().rev().collect::<String>()).expect("stop it");
    eventually("it says what it could do", 10 * SOON, || !host.said("local:bad").is_empty());
    let answers = answers(&host.said("local:bad")[0]);
    assert!(answers["turns"].as_i64().is_some_and(|turns| turns > 0), "{answers:?}");
    nothing_was_taken_away(&answers);
    assert_eq!(answers["found"], Value::Array(Vec::new()));
    let control = answers["control found"].to_string();
    assert!(control.contains("/workspace/group/mark"), "it finds what it can see: {control}");
    eventually("the rest of it is done", 10 * SOON, || host.is_settled("bad"));
    assert_eq!(of_good(), mine);
    assert_eq!(host.rows("SELECT * FROM outgoing WHERE text = 'forged'"), Vec::<String>::new());
    assert_eq!(
        host.rows("SELECT * FROM outgoing WHERE grp = 'bad' AND chat NOT IN ('irc:#bad', 'local:bad')"),
        Vec::<String>::new()
    );
    assert_eq!(host.rows("SELECT id FROM task"), ["of-good", "of-main"]);
    assert!(!names_in(&host.data("groups")).contains(&"bad2".to_owned()));
    outside_is_untouched(&host, &before);
}
