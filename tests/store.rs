//! Promise: what runs share holds across processes. A rate lets exactly so many
//! pass, one decision wins, a grant covers its scope and nothing else, and a file
//! that is not what it should be is refused.

#[path = "store/child.rs"]
mod child;
mod harness;

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::thread;
use std::time::{Duration, Instant};

use belljar::config::Dirs;
use belljar::store::{Body, State, Store, Taken, Verdict, notify};
use child::{LiveRun, database, dirs, held, in_children, store};
use harness::{Jar, SOON, eventually, slowly};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn five_processes_take_exactly_ten_a_minute() {
    let jar = Jar::new();
    let said = in_children(&jar, "take", 5, |_| {});
    let granted: usize = said.iter().map(|text| text.matches("granted").count()).sum();
    assert_eq!(granted, 10, "{said:?}");
    // Another group and another rule have their own.
    let store = store(&jar);
    assert_eq!(store.take("sales", "ten", 10, MINUTE).expect("take"), Taken::Granted);
    assert_eq!(store.take("main", "other", 1, MINUTE).expect("take"), Taken::Granted);
    let refused = store.take("main", "ten", 10, MINUTE).expect("take");
    assert!(matches!(refused, Taken::Exhausted { retry_after } if retry_after <= MINUTE), "{refused:?}");
    assert!(matches!(store.take("main", "never", 0, MINUTE).expect("take"), Taken::Exhausted { .. }));
}

#[test]
fn no_window_of_that_length_holds_more() {
    let jar = Jar::new();
    let per = Duration::from_millis(400);
    let begun = Instant::now();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let dirs = dirs(&jar);
            thread::spawn(move || {
                let store = Store::open(&dirs).expect("open");
                let mut granted = Vec::new();
                while begun.elapsed() < Duration::from_secs(3) {
                    let before = Instant::now();
                    if store.take("main", "three", 3, per).expect("take") == Taken::Granted {
                        granted.push((before, Instant::now()));
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                granted
            })
        })
        .collect();
    let mut granted: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    granted.sort();
    assert!(granted.len() >= 12, "only {} passed", granted.len());
    for four in granted.windows(4) {
        // Each was granted at some moment of its call, in whatever order.
        let last = four.iter().map(|(_, after)| *after).max().expect("four");
        assert!(last - four[0].0 > per, "four within {:?}", last - four[0].0);
    }
}

#[test]
fn after_retry_after_one_more_passes() {
    let jar = Jar::new();
    let store = store(&jar);
    let per = Duration::from_millis(300);
    for _ in 0..3 {
        while let Taken::Exhausted { retry_after } = store.take("main", "two", 2, per).expect("take") {
            assert!(retry_after <= per + Duration::from_millis(1));
            thread::sleep(retry_after);
        }
    }
    let kept: i64 = database(&jar).query_row("SELECT count(*) FROM take", [], |row| row.get(0)).expect("count");
    assert!(kept <= 2, "{kept} rows are kept");
}

#[test]
fn a_wall_clock_that_was_set_changes_no_rate_within_a_boot() {
    let jar = Jar::new();
    let store = store(&jar);
    let take = || store.take("main", "one", 1, MINUTE).expect("take");
    assert_eq!(take(), Taken::Granted);
    for wall in [0, i64::MAX] {
        database(&jar).execute("UPDATE take SET wall = ?1", [wall]).expect("update");
        assert!(matches!(take(), Taken::Exhausted { .. }));
    }
    // Of another boot, a minute ago at most by both clocks, and an hour ago.
    database(&jar)
        .execute("UPDATE take SET boot = 'other', wall = unixepoch() * 1000, per = per * 1000000", [])
        .expect("update");
    let uptime = fs::read_to_string("/proc/uptime").expect("read");
    let uptime: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    if uptime < 50.0 {
        assert!(matches!(take(), Taken::Exhausted { .. }));
    }
    database(&jar).execute("UPDATE take SET wall = wall - 3600000", []).expect("update");
    assert_eq!(take(), Taken::Granted);
}

#[test]
fn approve_and_deny_at_once_one_wins() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    for _ in 0..8 {
        let id = store.hold(held(&run, "POST", "/send")).expect("hold").id;
        let outcomes: Vec<_> = ["approve", "deny", "approve", "deny"]
            .map(|verb| harness::Live::start(jar.belljar([verb, &id])))
            .into_iter()
            .map(harness::Live::wait)
            .collect();
        let won: Vec<usize> = (0..4).filter(|at| outcomes[*at].code == 0).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        let wanted = if won[0].is_multiple_of(2) { State::Approved } else { State::Denied };
        assert_eq!(store.state(&id).expect("state"), wanted);
        for outcome in outcomes.into_iter().filter(|outcome| outcome.code != 0) {
            outcome.exits(125).says(&["does not wait any more", wanted.name(), "hint: "]);
        }
    }
}

#[test]
fn what_nobody_waits_for_cannot_be_approved() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let id = store.hold(held(&run, "POST", "/cancelled")).expect("hold").id;
    assert_eq!(store.cancel(&id, "the client went away").expect("cancel"), State::Cancelled);
    jar.call(&["approve", &id]).exits(125).says(&["cancelled: the client went away"]);

    let mut short = held(&run, "POST", "/late");
    short.wait = Duration::from_millis(50);
    let id = store.hold(short).expect("hold").id;
    thread::sleep(Duration::from_millis(80));
    jar.call(&["approve", &id, "--for", "1h"]).exits(125).says(&["expired: nobody decided in time"]);
    assert_eq!(store.state(&id).expect("state"), State::Expired);
    assert!(store.permits().expect("list").is_empty(), "a refused approval gave a grant");

    let id = store.hold(held(&run, "POST", "/approved")).expect("hold").id;
    jar.call(&["approve", &id.to_uppercase()]).success();
    assert_eq!(store.cancel(&id, "too late").expect("cancel"), State::Approved, "a decision is kept");
    jar.call(&["deny", &id]).exits(125).says(&["approved by"]);

    let id = store.hold(held(&run, "POST", "/dead")).expect("hold").id;
    assert!(jar.call(&["approvals"]).success().out().contains(&id));
    drop(run);
    assert!(!jar.call(&["approvals"]).success().out().contains(&id));
    jar.call(&["approve", &id]).exits(125).says(&["cancelled: the run has ended"]);
    assert_eq!(store.state(&id).expect("state"), State::Cancelled);
    jar.call(&["approve", "zzzzzz"]).exits(125).says(&["no approval is called `zzzzzz`"]);
}

#[test]
fn a_grant_covers_its_scope_and_nothing_beside_it() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let held = held(&run, "POST", "/v1/send");
    let scope = held.scope.clone();
    let id = store.hold(held).expect("hold").id;
    assert_eq!(store.granted(&scope).expect("ask"), None);
    let said = jar.call(&["approve", &id, "--for", "10m"]).success().out();
    assert!(said.contains("any query and body"), "{said}");
    assert_eq!(store.granted(&scope).expect("ask"), Some(id.clone()));
    let others: [fn(&mut belljar::store::Scope); 7] = [
        |scope| scope.group = "sales".into(),
        |scope| scope.rule = "another".into(),
        |scope| scope.method = "post".into(),
        |scope| scope.scheme = "http".into(),
        |scope| scope.host = "mail.example.".into(),
        |scope| scope.port = 8443,
        |scope| scope.path = "/v1/send/".into(),
    ];
    for change in others {
        let mut other = scope.clone();
        change(&mut other);
        assert_eq!(store.granted(&other).expect("ask"), None, "{other:?}");
    }
    assert!(jar.call(&["approvals", "list"]).success().out().contains(&format!("grant   {id}")));
    jar.call(&["approvals", "revoke", &id]).success();
    assert_eq!(store.granted(&scope).expect("ask"), None);
    jar.call(&["approvals", "revoke", &id]).exits(125).says(&["no grant came with it"]);

    let id = store.hold(child::held(&run, "POST", "/v1/send")).expect("hold").id;
    let brief = Verdict::Approve { more: Some(slowly(Duration::from_millis(80))) };
    store.decide(&id, brief, "test").expect("decide");
    assert!(store.granted(&scope).expect("ask").is_some());
    thread::sleep(slowly(Duration::from_millis(100)));
    assert_eq!(store.granted(&scope).expect("ask"), None, "it has ended");
}

#[test]
fn a_person_sees_all_of_it_or_that_it_is_cut() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let mut whole = held(&run, "POST", "/a");
    whole.query = Some("to=boss&x=1".into());
    whole.body = Body::Whole([b"x".repeat((1 << 20) - 1), b"Z".to_vec()].concat());
    let id = store.hold(whole).expect("hold").id;
    let shown = jar.call(&["approvals", "show", &id]).success().out();
    assert!(shown.contains("https://mail.example/a?to=boss&x=1") && shown.contains("text/plain"), "{}", &shown[..600]);
    assert!(shown.contains("xxZ") && shown.contains("1048576 bytes") && !shown.contains("CUT"));

    let mut cut = held(&run, "POST", "/b");
    cut.body = Body::Cut { beginning: b"abc".to_vec(), size: Some(5_000_000) };
    let id = store.hold(cut).expect("hold").id;
    let shown = jar.call(&["approvals", "show", &id]).success().out();
    assert!(shown.contains("CUT: 3 of 5000000 bytes held"), "{shown}");
    // printf abc | sha256sum
    assert!(shown.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "{shown}");

    let mut binary = held(&run, "POST", "/c");
    binary.body = Body::Whole(b"\x00\xff\x1b[2J".to_vec());
    let id = store.hold(binary).expect("hold").id;
    let shown = jar.call(&["approvals", "show", &id]).success().out();
    assert!(shown.contains("| \\u{0}\\xff\\u{1b}[2J"), "{shown}");
    jar.call(&["deny", &id]).success();
    let left: Option<Vec<u8>> =
        database(&jar).query_row("SELECT body FROM approval WHERE id = ?1", [&id], |row| row.get(0)).expect("read");
    assert_eq!(left, None, "the body is removed when it is decided");
}

#[test]
fn what_an_agent_wrote_cannot_speak_to_the_terminal_or_as_belljar() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let evil = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{2066}\u{61c}\u{200b}\u{2028}\u{e0041}\r\u{8}é";
    let mut held = held(&run, evil, &format!("/{evil}\nzzzzzz  grant all"));
    held.query = Some(evil.into());
    held.content_type = Some(format!("text/{evil}\nno request waits"));
    held.body = Body::Whole(format!("{evil}\nsecret   none\nstate    approved\n").into_bytes());
    let id = store.hold(held).expect("hold").id;
    let mut said = Vec::new();
    for arguments in [
        &["approvals"][..],
        &["approvals", "--json"],
        &["approvals", "show", &id],
        &["approvals", "show", &id, "--json"],
    ] {
        said.push(jar.call(arguments).success().out());
    }
    said.push(jar.call(&["approve", &id]).success().out());
    for text in &said {
        let bad: Vec<char> = text.chars().filter(|c| belljar::error::is_hostile(*c) && *c != '\n').collect();
        assert!(bad.is_empty(), "{bad:?} in {text}");
        assert!(text.contains('é'), "what is harmless stays: {text}");
    }
    assert_eq!(said[0].lines().count(), 2, "{}", said[0]);
    assert_eq!(said[1].lines().count(), 1);
    assert!(said[2].lines().filter(|line| line.starts_with("state ") || line.starts_with("secret ")).count() == 2);
    assert!(said[2].contains("\n| state    approved\n"), "{}", said[2]);
    let json: serde_json::Value = serde_json::from_str(&said[3]).expect("it is JSON");
    assert_eq!(json["query"], evil);
}

#[test]
fn no_row_of_a_terminal_begins_with_what_an_agent_wrote() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let mut held = held(&run, "POST", &format!("/{}", "p".repeat(300)));
    held.body = Body::Whole(format!("{}zzzzzz  9m left\n", " ".repeat(38)).into_bytes());
    let id = store.hold(held).expect("hold").id;
    for (arguments, marks) in [(&["approvals"][..], 1), (&["approvals", "show", &id], 7)] {
        let size = nix::pty::Winsize { ws_row: 24, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = nix::pty::openpty(&size, None).expect("a terminal");
        let mut command = jar.belljar(arguments);
        command.stdout(pair.slave);
        let mut child = command.spawn().expect("start");
        drop(command);
        let mut shown = Vec::new();
        // The terminal ends with EIO when nobody holds its other side.
        let _ = fs::File::from(pair.master).read_to_end(&mut shown);
        assert!(child.wait().expect("wait").success());
        let shown = String::from_utf8_lossy(&shown).replace('\r', "");
        let rows: Vec<&str> = shown.lines().collect();
        assert!(rows.iter().all(|row| row.chars().count() <= 40), "{shown}");
        assert!(rows.iter().filter(|row| row.starts_with("     > ") || row.starts_with("|> ")).count() >= marks);
        assert!(!rows.iter().any(|row| row.starts_with("zzzzzz") || row.starts_with("ppp")), "{shown}");
        assert!(shown.contains("> zzzzzz") || !arguments.contains(&"show"), "{shown}");
    }
}

#[test]
fn watch_tells_of_each_and_what_became_of_it_and_ends_with_its_reader() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let first = store.hold(held(&run, "POST", "/first")).expect("hold").id;
    let mut watch = harness::Live::start(jar.belljar(["approvals", "watch", "--json"]));
    let states = |watch: &mut harness::Live, id: &str| -> Vec<String> {
        let out = watch.so_far();
        let lines = out.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["id"] == id).filter_map(|line| line["state"].as_str().map(str::to_owned)).collect()
    };
    eventually("the first is told", SOON, || states(&mut watch, &first) == ["pending"]);
    let second = store.hold(held(&run, "POST", "/second")).expect("hold").id;
    eventually("the second is told", SOON, || states(&mut watch, &second) == ["pending"]);
    jar.call(&["deny", &second]).success();
    eventually("its end is told", SOON, || states(&mut watch, &second) == ["pending", "denied"]);
    drop(run);
    eventually("the run's end is told", SOON, || states(&mut watch, &first) == ["pending", "cancelled"]);
    drop(watch);

    let begun = Instant::now();
    let mut head = jar.belljar(["approvals", "watch"]);
    let mut child = head.spawn().expect("start");
    drop(child.stdout.take());
    eventually("watch ends when nobody reads", SOON, || child.try_wait().expect("wait").is_some());
    assert!(begun.elapsed() < slowly(SOON));
}

#[test]
fn asking_for_fifty_costs_little() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let ids: Vec<String> =
        (0..50).map(|n| store.hold(held(&run, "POST", &format!("/{n}"))).expect("hold").id).collect();
    let begun = Instant::now();
    for _ in 0..5 {
        for id in &ids {
            assert_eq!(store.state(id).expect("state"), State::Pending);
        }
    }
    // A second's worth of questions.
    assert!(begun.elapsed() < slowly(Duration::from_secs(1)), "{:?}", begun.elapsed());
}

#[test]
fn an_agent_that_asks_in_a_loop_fills_nothing() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let other = LiveRun::new(&jar, "20260101-000000000-bbbbbb");
    let store = store(&jar);
    let with_body = || {
        let mut held = held(&run, "POST", "/");
        held.body = Body::Whole(vec![b'x'; 1 << 20]);
        held
    };
    for _ in 0..64 {
        store.hold(with_body()).expect("hold");
    }
    let refused = store.hold(with_body()).expect_err("64 wait");
    assert!(refused.to_string().contains("wait for a person already"), "{refused}");
    store.hold(held(&other, "POST", "/")).expect("another run is not held up");
    store.cancel_run(&run.id, "the run has ended").expect("cancel");
    store.hold(with_body()).expect("there is room again");
    assert_eq!(store.pending().expect("list").len(), 2);
    drop(store);
    let size = fs::metadata(jar.path("belljar/data/belljar.db")).expect("stat").len();
    assert!(size < 4 << 20, "the file still has {size} bytes");
}

#[test]
fn the_command_gets_the_approval_and_nothing_else() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let store = store(&jar);
    let approval = store.hold(held(&run, "POST", "/$(touch x);`id`")).expect("hold");
    let out = jar.text("told");
    let script =
        jar.script("tell", "#!/bin/sh\n{ cat; echo; ls -l /proc/$$/fd; env; } > \"$1.new\"; mv \"$1.new\" \"$1\"\n");
    // A descriptor that this process forgot to mark.
    let leak = fs::File::open(jar.write("leaked", "")).expect("open");
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("unmark");
    let command = [script.to_string_lossy().into_owned(), out.clone()];
    notify(&command, &approval).expect("start");
    eventually("the command has run", SOON, || fs::metadata(&out).is_ok());
    let told = fs::read_to_string(&out).expect("read");
    let mut lines = told.lines();
    let json: serde_json::Value = serde_json::from_str(lines.next().unwrap_or_default()).expect("JSON first");
    assert_eq!((json["id"].as_str(), json["body"]["text"].as_str()), (Some(approval.id.as_str()), Some("hello")));
    assert!(told.contains("-> /dev/null") && !told.contains("/leaked"), "{told}");
    assert!(told.contains("PATH=") && !told.contains("CARGO"), "{told}");
    let missing = notify(&[jar.text("nothing")], &approval).expect_err("it is not there");
    assert!(missing.to_string().contains("approval_command"), "{missing}");
    notify(&[], &approval).expect("none is configured");
}

#[test]
fn a_process_that_is_killed_while_writing_leaves_a_whole_store() {
    let jar = Jar::new();
    let run = LiveRun::new(&jar, "20260101-000000000-aaaaaa");
    let mut dice = harness::Dice::new();
    for _ in 0..6 {
        in_children(&jar, "write", 2, |children| {
            // Time enough to make the file, which the look below must not.
            thread::sleep(slowly(Duration::from_millis(60 + dice.below(120))));
            children.iter_mut().for_each(|child| child.kill().expect("kill"));
        });
        let ok: String = database(&jar).query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
        assert_eq!(ok, "ok");
        let store = store(&jar);
        let id = store.hold(held(&run, "GET", "/")).expect("hold").id;
        store.decide(&id, Verdict::Deny, "test").expect("decide");
    }
    let written: i64 = database(&jar).query_row("SELECT count(*) FROM approval", [], |row| row.get(0)).expect("count");
    assert!(written > 6, "the children wrote nothing");
}

#[test]
fn the_file_is_private_and_one_that_is_not_is_refused() {
    let jar = Jar::new();
    drop(store(&jar));
    let open = store(&jar);
    open.take("main", "r", 1, MINUTE).expect("take");
    let data = jar.path("belljar/data");
    let mut seen = 0;
    for name in harness::names_in(&data).into_iter().filter(|name| name.starts_with("belljar.db")) {
        let mode = fs::metadata(data.join(&name)).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 3, "the file, its journal and its index");
    drop(open);

    let file = data.join("belljar.db");
    let keep = data.join("kept");
    fs::rename(&file, &keep).expect("rename");
    let refused = |what: &str, said: &str| {
        let begun = Instant::now();
        jar.call(&["approvals"]).exits(125).says(&[said, "hint: "]);
        assert!(begun.elapsed() < slowly(SOON), "{what} held it up");
        let _ = fs::remove_file(&file);
    };
    symlink(&keep, &file).expect("link");
    refused("a symbolic link", "not a plain file");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    refused("a FIFO", "not a plain file");
    fs::hard_link(&keep, &file).expect("link");
    refused("a hard link", "another name");
    let put = |bytes: &[u8], mode: u32| {
        fs::write(&file, bytes).expect("write");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("chmod");
    };
    let good = fs::read(&keep).expect("read");
    put(&good, 0o640);
    refused("a file that others can read", "can be read by others");
    put(&b"no database at all ".repeat(500), 0o600);
    refused("garbage", "damaged");
    let mut damaged = good.clone();
    damaged[100..].fill(0xa5);
    put(&damaged, 0o600);
    refused("a damaged file", "damaged");
    put(&[], 0o600);
    rusqlite::Connection::open(&file).expect("open").execute_batch("CREATE TABLE x (y)").expect("create");
    refused("another program's", "another program's");
    put(&good, 0o600);
    rusqlite::Connection::open(&file).expect("open").pragma_update(None, "user_version", 99).expect("update");
    refused("a newer one", "has version 99");
    put(&good, 0o600);
    jar.call(&["approvals"]).success();

    fs::set_permissions(&data, Permissions::from_mode(0o777)).expect("chmod");
    jar.call(&["approvals"]).exits(125).says(&["others can write"]);
    fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("chmod");
}

#[test]
fn many_open_a_new_file_at_once() {
    let jar = Jar::new();
    let starts: Vec<_> = (0..12).map(|_| harness::Live::start(jar.belljar(["approvals"]))).collect();
    let dirs: Dirs = dirs(&jar);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let dirs = dirs.clone();
            thread::spawn(move || Store::open(&dirs).expect("open").take("main", "r", 3, MINUTE).expect("take"))
        })
        .collect();
    let taken: Vec<Taken> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    assert_eq!(taken.iter().filter(|taken| **taken == Taken::Granted).count(), 3);
    for start in starts {
        start.wait().success();
    }
}
