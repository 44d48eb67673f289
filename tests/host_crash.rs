//! Promise: the host process can be killed at any moment. No message is lost, no answer
//! reaches people twice, no task is skipped or done twice, and the database is whole.

mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::host::{Channel, Host};
use harness::{Dice, SOON, eventually, load};

/// The numbers that a text holds after a mark.
fn numbers(text: &str, mark: &str) -> Vec<u64> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    text.split(mark).skip(1).filter_map(|rest| digits(rest).parse().ok()).collect()
}

#[test]
fn killed_again_and_again_it_loses_nothing_and_says_nothing_twice() {
    let groups = ["g0", "g1", "g2", "g3"];
    let (kills, messages, tasks) = (load(200, 30), load(1000, 200), load(100, 40));
    let mut host = Host::prepare(&[], &groups);
    let irc = Channel::new(&host.jar, "irc");
    let agents: String =
        groups.iter().map(|group| format!("[group.{group}]\ncommand = [\"sh\", \"-c\", \"cat\"]\n")).collect();
    host.configure(&format!("[host]\nretry = \"50ms\"\n{}{agents}", Channel::section("irc", "remembers")));
    for group in groups {
        host.jar.call(&["group", "set", group, "--chat", &format!("irc:{group}"), "--no-trigger"]).success();
    }
    let mut dice = Dice::new();
    // How long a run takes here, with all of them at work.
    host.again();
    let measured = Instant::now();
    for group in groups {
        host.say(&format!("local:{group}"), "hello");
    }
    for group in groups {
        host.wait_said(&format!("local:{group}"), 1);
    }
    let turn = (measured.elapsed().as_millis() as u64).clamp(50, 250);
    host.end();
    let (mut told, mut added) = (0, 0);
    let (mut before_it_listened, mut with_runs) = (0, 0);
    let begun = Instant::now();
    for kill in 1..=kills {
        host.begin();
        // Messages and tasks are spread over the kills; nobody waits for the host.
        while told < messages * kill / kills {
            irc.hears(
                &format!("id-{told}"),
                groups[told as usize % groups.len()],
                ("ann", &format!("message-{told}.")),
            );
            told += 1;
        }
        while added < tasks * kill / kills {
            let at = (jiff::Timestamp::now() + Duration::from_millis(dice.below(3000))).to_string();
            let (group, id) = (groups[dice.below(groups.len() as u64) as usize], format!("t{added}"));
            let prompt = format!("task-{added}.");
            host.jar.call(&["task", "add", "-g", group, "--id", &id, "--at", &at, &prompt]).success();
            added += 1;
        }
        // From the first instruction on, up to some runs later.
        let alive = if dice.below(10) < 6 { dice.below(turn) } else { turn + dice.below(3 * turn) };
        std::thread::sleep(Duration::from_millis(alive));
        before_it_listened += u64::from(!host.log().contains("belljar serves on") && !host.log().contains("serving"));
        with_runs += u64::from(!host.jar.live_runs().is_empty());
        host.kill();
    }
    let killing = begun.elapsed();
    host.again();
    let open = "SELECT (SELECT count(*) FROM message WHERE state <> 'answered') \
                + (SELECT count(*) FROM outgoing WHERE state IN ('queued', 'handed')) \
                + (SELECT count(*) FROM task WHERE status = 'active') \
                + (SELECT count(*) FROM task_run WHERE state IN ('waiting', 'running'))";
    eventually(&format!("all is done; {}", host.count(open)), 30 * SOON, || {
        irc.log("stored").len() as u64 >= messages && host.count(open) == 0
    });
    println!(
        "{kills} kills in {killing:?}, {before_it_listened} of them before it said that it serves, {with_runs} with live runs; \
         all was done after {:?}; {} runs, {} starts of the channel, {} asked, {} sent",
        begun.elapsed(),
        host.jar.receipts().len(),
        irc.log("begun").len(),
        irc.log("asked").len(),
        irc.sent().len()
    );

    // Each message is in one answer, each answer reached the network once.
    let (mut answered, mut done, mut ids) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for sent in irc.sent() {
        let text = sent["text"].as_str().expect("text");
        *ids.entry(sent["id"].to_string()).or_insert(0) += 1;
        for number in numbers(text, ">message-") {
            assert_eq!(sent["chat"], groups[number as usize % groups.len()], "in its own chat");
            *answered.entry(number).or_insert(0) += 1;
        }
        for number in numbers(text, "task-") {
            *done.entry(number).or_insert(0) += 1;
        }
    }
    let wrong = |counts: &BTreeMap<u64, i32>, all: u64| -> Vec<(u64, i32)> {
        let count = |number| (number, counts.get(&number).copied().unwrap_or(0));
        (0..all).map(count).filter(|(_, count)| *count != 1).collect()
    };
    assert!(ids.values().all(|count| *count == 1), "sent twice: {ids:?}");
    assert_eq!(wrong(&answered, messages), [], "lost, or answered twice");
    assert_eq!(wrong(&done, tasks), [], "skipped, or done twice");
    assert_eq!(host.count("SELECT count(*) FROM task_run") as u64, tasks, "each was due once");
    assert_eq!(host.count("SELECT count(*) FROM message") as u64, messages + 4, "each was stored once");
    // It was killed at work, not beside it.
    assert!(with_runs > kills / 10, "{with_runs} of {kills} kills met a run");

    let pragma = |host: &Host| {
        let database = rusqlite::Connection::open(host.jar.path("belljar/data/belljar.db")).expect("open it");
        database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).expect("look at it")
    };
    assert_eq!(pragma(&host), "ok");
    host.end();
    assert_eq!(pragma(&host), "ok");
    assert!(host.jar.live_runs().is_empty(), "no run is left");
    eventually("no process is left", SOON, || harness::processes_with(&host.jar.text("belljar")).is_empty());
}
