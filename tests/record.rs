//! Promise: the record of a run says each request, never a query or a body, and
//! shows where it was tampered with.

#[path = "store/child.rs"]
mod child;
mod harness;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use belljar::record::{Entry, Finding, Head, Kind, Log, path, verify};
use belljar::store::State;
use child::{LiveRun, dirs, in_children};
use harness::{Jar, SOON, eventually};

const RUN: &str = "20260101-000000000-aaaaaa";

fn entry(path: &str) -> Entry {
    let mut entry = Entry::new(Kind::Request, SystemTime::now());
    entry.took = Duration::from_millis(12);
    entry.method = Some("GET".into());
    entry.scheme = Some("https".into());
    entry.host = Some("api.example".into());
    entry.port = Some(443);
    entry.path = Some(path.into());
    entry.status = Some(200);
    entry
}

/// A run's receipt, as far as the record needs it.
fn receipt(jar: &Jar, status: &str, head: Option<&Head>) {
    let receipt = serde_json::json!({ "run": RUN, "name": "job", "group": "main", "status": status, "requests": head });
    jar.write(&format!("belljar/data/receipts/{RUN}.json"), &receipt.to_string());
}

/// A finished record of five requests, its lines and its receipt.
fn five(jar: &Jar) -> Vec<String> {
    let log = Log::create(&dirs(jar), RUN, "main", belljar::journal::To::None).expect("create");
    for n in 1..=5 {
        log.append(&entry(&format!("/{n}"))).expect("append");
    }
    receipt(jar, "ended", Some(&log.finish().expect("finish")));
    text(jar).lines().map(str::to_owned).collect()
}

fn text(jar: &Jar) -> String {
    fs::read_to_string(path(&dirs(jar), RUN)).expect("read the record")
}

fn put(jar: &Jar, lines: &[String]) {
    fs::write(path(&dirs(jar), RUN), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("write");
}

fn says(jar: &Jar, code: i32, wanted: &str) {
    let said = jar.call(&["log", RUN, "--verify"]).exits(code).out();
    assert!(said.starts_with(wanted), "{said:?} does not begin with {wanted:?}");
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn each_tampering_is_named_with_its_line() {
    let jar = Jar::new();
    let lines = five(&jar);
    assert_eq!(lines.len(), 6);
    says(&jar, 0, "intact: 5 requests, as the receipt says; chain ");
    let try_it = |wanted: &str, change: &dyn Fn(&mut Vec<String>)| {
        let mut changed = lines.clone();
        change(&mut changed);
        put(&jar, &changed);
        says(&jar, 1, wanted);
    };
    for at in 0..5 {
        let line = at + 1;
        try_it(&format!("broken at line {line}: changed"), &|lines| lines[at] = lines[at].replace("200", "403"));
        try_it(&format!("broken at line {line}: changed"), &|lines| {
            lines[at] = lines[at].replace("\"seq\"", " \"seq\"")
        });
        try_it(&format!("broken at line {line}: changed"), &|lines| lines[at] = "garbage".into());
        try_it(&format!("broken at line {line}: removed: request {line} is missing"), &|lines| {
            lines.remove(at);
        });
        try_it(&format!("broken at line {}: inserted", at + 2), &|lines| lines.insert(at + 1, lines[at].clone()));
        try_it(&format!("broken at line {line}: inserted"), &|lines| lines.insert(at, lines[at].replace("200", "201")));
        try_it(&format!("broken at line {line}: inserted"), &|lines| lines.insert(at, "{}".into()));
        try_it(&format!("broken at line {line}: reordered"), &|lines| lines.swap(at, at + 1));
        try_it(&format!("broken at line {line}: truncated"), &|lines| lines.truncate(at));
    }
    try_it("broken at line 2: removed: request 2 to 4 is missing", &|lines| drop(lines.drain(1..4)));
    try_it("broken at line 2: reordered", &|lines| {
        let moved = lines.remove(1);
        lines.insert(4, moved);
    });
    try_it("broken at line 3: reordered", &|lines| {
        let moved = lines.remove(4);
        lines.insert(2, moved);
    });
    try_it("broken at line 6: truncated", &|lines| lines.truncate(5));
    try_it("broken at line 6: changed", &|lines| lines[5] = lines[5].replace("\"count\":5", "\"count\":4"));
    try_it("broken at line 7: inserted", &|lines| lines.push(lines[0].clone()));
    try_it("broken at line 1: changed", &|lines| *lines = vec![lines.join("")]);

    // Cut in the middle of a line.
    let whole = lines.join("\n") + "\n";
    fs::write(path(&dirs(&jar), RUN), &whole[..whole.len() - 1]).expect("write");
    says(&jar, 1, "broken at line 6: truncated");
    fs::remove_file(path(&dirs(&jar), RUN)).expect("remove");
    says(&jar, 1, "broken at line 1: truncated");
    put(&jar, &lines);
    says(&jar, 0, "intact");
}

#[test]
fn a_new_chain_is_not_the_one_that_the_receipt_names() {
    let (jar, other) = (Jar::new(), Jar::new());
    five(&jar);
    let log = Log::create(&dirs(&other), RUN, "main", belljar::journal::To::None).expect("create");
    for n in 1..=5 {
        log.append(&entry(&format!("/forged{n}"))).expect("append");
    }
    log.finish().expect("finish");
    fs::copy(path(&dirs(&other), RUN), path(&dirs(&jar), RUN)).expect("copy");
    says(&jar, 1, "broken at line 6: replaced");
    // Another run's and another group's record do not begin the same way.
    let bytes = fs::read(path(&dirs(&other), RUN)).expect("read");
    assert!(matches!(verify(&bytes, RUN, "main", None), Finding::Intact(_)));
    for (run, group) in [("other", "main"), (RUN, "sales"), ("", "")] {
        assert!(matches!(verify(&bytes, run, group, None), Finding::Broken { line: 1, .. }));
    }
    // Who runs it again with a longer chain is found by the count.
    let longer = Log::create(&dirs(&other), "longer", "main", belljar::journal::To::None).expect("create");
    longer.append(&entry("/1")).expect("append");
    let head = longer.head();
    longer.append(&entry("/2")).expect("append");
    longer.finish().expect("finish");
    let bytes = fs::read(path(&dirs(&other), "longer")).expect("read");
    assert!(matches!(verify(&bytes, "longer", "main", Some(&head)), Finding::Broken { .. }));
}

#[test]
fn a_record_without_an_end_is_called_so() {
    let jar = Jar::new();
    receipt(&jar, "running", None);
    let said = jar.call(&["log", RUN]).success().out();
    assert_eq!(said, "no requests were recorded\n");
    says(&jar, 0, "no requests were recorded");
    let run = LiveRun::new(&jar, RUN);
    let log = Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect("create");
    log.append(&entry("/1")).expect("append");
    says(&jar, 0, "intact so far: 1 requests; the run is live");
    drop(run);
    says(&jar, 0, "intact as far as it goes: 1 requests; there is no end");
    receipt(&jar, "interrupted", None);
    says(&jar, 0, "intact as far as it goes: 1 requests; there is no end");
    receipt(&jar, "ended", None);
    says(&jar, 1, "broken at line 2: truncated: the run ended, and there is no end line");
    log.finish().expect("finish");
    says(&jar, 1, "broken at line 2: replaced: the run ended, and the receipt does not name");
    receipt(&jar, "interrupted", None);
    says(&jar, 0, "intact: 1 requests, the receipt names no end");
    jar.call(&["log", "nobody"]).exits(125).says(&["no run is called `nobody`", "hint: "]);
}

#[test]
fn people_see_the_requests_and_nothing_speaks_to_the_terminal() {
    let jar = Jar::new();
    let evil = "\u{1b}[2J\u{9b}\u{202e}\u{61c}\u{200b}\u{2028}\n\r\u{e0041}é";
    let log = Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect("create");
    let mut with_all = entry(&format!("/v1/{evil}?token=QUERY"));
    with_all.method = Some(evil.into());
    with_all.rule = Some("mail".into());
    with_all.action = Some("approve".into());
    with_all.secret = Some("github".into());
    with_all.reason = Some(format!("why {evil}"));
    with_all.approval = Some(("abcdef".into(), State::Approved));
    with_all.redacted = 2;
    with_all.port = Some(8443);
    log.append(&with_all).expect("append");
    let mut refused = entry("/no#fragment");
    refused.action = Some("deny".into());
    refused.status = Some(403);
    refused.kind = Kind::Refused;
    log.append(&refused).expect("append");
    receipt(&jar, "ended", Some(&log.finish().expect("finish")));
    says(&jar, 0, "intact: 2 requests");
    let (table, json) = (jar.call(&["log", "job"]).success().out(), jar.call(&["log", RUN, "--json"]).success().out());
    for text in [&table, &json, &self::text(&jar)] {
        let bad: Vec<char> = text.chars().filter(|c| belljar::error::is_hostile(*c) && *c != '\n').collect();
        assert!(bad.is_empty(), "{bad:?} in {text}");
        assert!(!text.contains("QUERY") && !text.contains("fragment"), "{text}");
        assert!(text.contains('é'));
    }
    assert_eq!(json, self::text(&jar), "as recorded");
    assert_eq!((table.lines().count(), json.lines().count()), (4, 3), "{table}");
    for part in ["api.example:8443/v1/", "[masked 2]", "[approval abcdef approved]", "github", "[denied]", "[refused]"]
    {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    let line: serde_json::Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (line["path"].as_str(), line["decision"].as_str()),
        (Some(format!("/v1/{evil}").as_str()), Some("approved"))
    );
    assert_eq!((line["seq"].as_u64(), line["ms"].as_u64(), line["group"].as_str()), (Some(1), Some(12), Some("main")));
    let mode = fs::metadata(path(&dirs(&jar), RUN)).expect("stat").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn follow_goes_on_until_the_run_has_ended() {
    let jar = Jar::new();
    receipt(&jar, "running", None);
    let run = LiveRun::new(&jar, RUN);
    let mut follow = harness::Live::start(jar.belljar(["log", RUN, "--follow"]));
    thread::sleep(Duration::from_millis(300));
    let log = Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect("create");
    log.append(&entry("/first")).expect("append");
    follow.wait_for("/first");
    log.append(&entry("/second")).expect("append");
    follow.wait_for("/second");
    assert!(follow.is_running());
    log.finish().expect("finish");
    drop(run);
    let said = follow.wait().success().out();
    assert!(said.contains("end of the record: 2 requests"), "{said}");

    let run = LiveRun::new(&jar, RUN);
    let mut child = jar.belljar(["log", RUN, "--follow"]).spawn().expect("start");
    drop(child.stdout.take());
    eventually("follow ends when nobody reads", SOON, || child.try_wait().expect("wait").is_some());
    drop(run);
}

#[test]
fn many_threads_write_one_chain() {
    let jar = Jar::new();
    let log = Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect("create");
    thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..100 {
                    log.append(&entry(&format!("/{thread}/{n}"))).expect("append");
                }
            });
        }
    });
    let head = log.finish().expect("finish");
    assert_eq!(head.count, 800);
    assert_eq!(verify(text(&jar).as_bytes(), RUN, "main", Some(&head)), Finding::Intact(head));
    log.append(&entry("/late")).expect_err("it is finished");
    log.finish().expect_err("it is finished");
}

#[test]
fn a_writer_that_is_killed_leaves_an_intact_beginning() {
    let mut dice = harness::Dice::new();
    for _ in 0..6 {
        let jar = Jar::new();
        let said = in_children(&jar, "record", 1, |children| {
            harness::eventually("it has begun", harness::SOON, || path(&dirs(&jar), "killed").exists());
            thread::sleep(Duration::from_millis(dice.below(60)));
            children.iter_mut().for_each(|child| child.kill().expect("kill"));
        });
        let text = fs::read(path(&dirs(&jar), "killed")).expect("read");
        let lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
        let written = said[0].matches("written").count() as u64;
        assert!(lines >= written && lines <= written + 1, "{lines} lines of {written}");
        match verify(&text, "killed", "main", None) {
            Finding::Unfinished(head) => assert_eq!(head.count, lines),
            Finding::Broken { line, how, .. } => {
                assert_eq!((line as u64, how), (lines + 1, belljar::record::Break::Truncated));
            }
            Finding::Intact(_) => panic!("it never finished"),
        }
    }
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_no_half_line() {
    let jar = Jar::new();
    // A file may have 100 KiB; a line has 6.
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$0\" child::is_another_process --exact --nocapture";
    let mut command = Command::new("bash");
    command.args(["-c", limited]).arg(std::env::current_exe().expect("this executable"));
    jar.surround(&mut command);
    command.env("BELLJAR_TEST_CHILD", "record").env("BELLJAR_TEST_HOME", jar.path("belljar"));
    let said = harness::finish(command, b"").success().out();
    assert!(said.contains("write the record") && said.contains("only a part"), "{said}");
    let written = said.matches("written\n").count() as u64;
    assert!(written > 10, "{said}");
    let text = fs::read(path(&dirs(&jar), "killed")).expect("read");
    match verify(&text, "killed", "main", None) {
        Finding::Unfinished(head) => assert_eq!(head.count, written),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_in_the_way_is_not_written_to() {
    let jar = Jar::new();
    receipt(&jar, "running", None);
    let target = jar.write("target", "kept");
    let record = path(&dirs(&jar), RUN);
    symlink(&target, &record).expect("link");
    Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect_err("a symbolic link");
    jar.call(&["log", RUN]).exits(125).says(&["open", "requests.jsonl"]);
    fs::remove_file(&record).expect("remove");
    nix::unistd::mkfifo(&record, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect_err("a FIFO");
    jar.call(&["log", RUN]).exits(125).says(&["not a plain file"]);
    fs::remove_file(&record).expect("remove");
    Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect("create");
    Log::create(&dirs(&jar), RUN, "main", belljar::journal::To::None).expect_err("there is one");
    assert_eq!(fs::read_to_string(target).expect("read"), "kept");
}
