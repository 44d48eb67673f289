//! Promise: what an agent writes slowly, writes again and again, or writes in masses holds
//! nobody else up, and what is dropped while the host process is killed is done once.

mod harness;
mod ipc;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use harness::{Dice, SOON, eventually, load, names_in, slowly};
use ipc::outside::world;
use ipc::{Host, KINDS, message};
use rustix::fs::{CWD, RenameFlags, renameat_with};

#[test]
fn a_file_that_is_written_slowly_is_read_when_it_is_finished() {
    let (mut host, _) = world();
    let whole = message("slow words");
    let (first, second) = whole.split_at(20);
    let at = host.inbox("bad", "messages");
    // What lay there when the host process began has been looked at.
    (0..3).for_each(|_| host.serves("bad"));
    // Under its last name, and open all the while.
    let mut file = File::create(at.join("slow.json")).expect("make a file");
    file.write_all(first.as_bytes()).expect("write");
    host.serves("bad");
    thread::sleep(Duration::from_millis(700));
    file.write_all(second.as_bytes()).expect("write");
    drop(file);
    eventually("it is said", SOON, || host.has_said("bad", "slow words"));
    // Closed before it is finished, and taken then; and lying there half when the host
    // process begins. Once more, where this test itself was kept waiting.
    let in_time = (0..20).any(|number| {
        let (text, until) = (format!("closed {number}"), Instant::now() + Duration::from_millis(600));
        let longest = write_in_pieces(&at, &text, || Instant::now() < until);
        longest < Duration::from_millis(200) && {
            eventually("it is said", SOON, || host.has_said("bad", &text));
            true
        }
    });
    assert!(in_time, "no try was in time");
    let in_time = (0..20).any(|number| {
        let text = format!("begun {number}");
        let serves = AtomicBool::new(false);
        host.kill();
        let longest = thread::scope(|scope| {
            let writer = scope.spawn(|| write_in_pieces(&at, &text, || !serves.load(Ordering::Relaxed)));
            host.again();
            host.serves("bad");
            serves.store(true, Ordering::Relaxed);
            writer.join().expect("it does not panic")
        });
        longest < Duration::from_millis(200) && {
            eventually("it is said", SOON, || host.has_said("bad", &text));
            true
        }
    });
    assert!(in_time, "no try was in time");
}

/// Writes a message little by little, under its last name, which is closed once at the
/// beginning; how long the longest pause was.
fn write_in_pieces(directory: &Path, text: &str, mut goes_on: impl FnMut() -> bool) -> Duration {
    let path = directory.join(format!("{text}.json"));
    let whole = message(text);
    let (first, last) = whole.as_bytes().split_at(1);
    let mut file = File::create(&path).expect("make a file");
    let (mut since, mut longest) = (Instant::now(), Duration::ZERO);
    let mut write = |bytes: &[u8]| {
        file.write_all(bytes).expect("write");
        longest = longest.max(since.elapsed());
        since = Instant::now();
    };
    write(first);
    // It can be taken already.
    let _ = File::options().append(true).open(path);
    while goes_on() {
        write(b" ");
        thread::sleep(Duration::from_millis(5));
    }
    write(last);
    longest
}

#[test]
fn what_is_never_finished_is_not_waited_for() {
    let (mut host, _) = world();
    let to_come = SystemTime::now() + Duration::from_secs(50 * 365 * 24 * 3600);
    let count = 300;
    for number in 0..count {
        let at = host.inbox("bad", "messages");
        let file = File::create(at.join("beside")).expect("make a file");
        (&file).write_all(br#"{"type":"message","text":"half"#).expect("write");
        file.set_modified(to_come).expect("set its time");
        fs::rename(at.join("beside"), at.join(format!("{number}.json"))).expect("rename it");
    }
    host.serves("good");
    eventually("nothing of them is kept among what is to be done", 3 * SOON, || host.is_settled("bad"));
    host.kill();
    host.again();
    host.serves("good");
    // And a file whose time is set again and again.
    let at = host.inbox("bad", "messages");
    let file = File::create(at.join("beside")).expect("make a file");
    (&file).write_all(b"{").expect("write");
    fs::rename(at.join("beside"), at.join("young.json")).expect("rename it");
    eventually("it is given up", Duration::from_secs(20), || {
        file.set_modified(SystemTime::now()).expect("set its time");
        host.is_settled("bad")
    });
}

#[test]
fn a_file_that_changes_while_it_is_read_is_one_thing_or_another() {
    let (host, outside) = world();
    let stop = AtomicBool::new(false);
    let at = host.inbox("bad", "messages");
    let (one, other) = (message(&"a".repeat(60_000)), message(&"b".repeat(50_000)));
    thread::scope(|scope| {
        // Content and length, through descriptors that outlive the names.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::write(at.join("one.tmp"), &one).expect("write a file");
                let mut file = File::options().write(true).open(at.join("one.tmp")).expect("open it");
                fs::rename(at.join("one.tmp"), at.join("one.json")).expect("rename it");
                for text in [&other, &one, &other] {
                    file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).expect("empty it");
                    file.write_all(text.as_bytes()).expect("write");
                }
                file.set_len(3 << 20).expect("lengthen it");
            }
        });
        // What the name is: a file, a link, a directory.
        scope.spawn(|| {
            let (file, trap) = (at.join("two.json"), at.join("two.trap"));
            let _ = fs::create_dir(&trap);
            let _ = fs::write(trap.join("inner"), "kept");
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::write(&file, &other);
                for _ in 0..50 {
                    // Both are there, or the host process has taken one.
                    let _ = renameat_with(CWD, &file, CWD, &trap, RenameFlags::EXCHANGE);
                }
                if !trap.is_dir() && !file.is_dir() {
                    let _ = fs::remove_file(&trap);
                    let _ = fs::create_dir(&trap);
                    let _ = fs::write(trap.join("inner"), "kept");
                }
            }
        });
        scope.spawn(|| {
            let (file, link) = (at.join("three.json"), at.join("three.link"));
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::write(&file, &one);
                let _ = symlink(&outside.file, &link);
                for _ in 0..50 {
                    let _ = renameat_with(CWD, &file, CWD, &link, RenameFlags::EXCHANGE);
                }
            }
        });
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            host.serves("good");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let _ = fs::remove_file(at.join("three.link"));
    eventually("nothing is left of it", 5 * SOON, || host.claimed("bad").is_empty());
    host.serves("bad");
    for text in host.rows("SELECT text FROM outgoing WHERE grp = 'bad' AND length(text) > 100") {
        assert!(text.chars().all(|c| "ab".contains(c)), "{}", &text[..200]);
    }
    outside.is_untouched(&host);
}

#[test]
fn a_flood_of_files_holds_nobody_else_up() {
    let (mut host, _) = world();
    let count = load(60_000, 20_000);
    let done = AtomicBool::new(false);
    let mut slowest = Duration::ZERO;
    let mut serve = |host: &Host| {
        let begun = Instant::now();
        host.serves("good");
        slowest = slowest.max(begun.elapsed());
    };
    thread::scope(|scope| {
        let host = &host;
        scope.spawn(|| {
            let directories = KINDS.map(|kind| host.inbox("bad", kind));
            for number in 0..count {
                let (name, text) = match number % 4 {
                    0 => (format!("{number}.json"), message("flood")),
                    1 => (format!("{number}.json"), "{".to_owned()),
                    2 => (format!("{number}.json"), r#"{"type":"pause_task","taskId":"x"}"#.to_owned()),
                    _ => (format!("{number}.other"), String::new()),
                };
                fs::write(directories[usize::from(number % 4 == 2)].join(name), text).expect("write a file");
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            serve(host);
        }
    });
    for _ in 0..10 {
        serve(&host);
    }
    // Those that still lie there are no burden for a start either.
    host.kill();
    host.again();
    for _ in 0..10 {
        serve(&host);
    }
    println!("{count} files; the slowest of the others was served in {slowest:?}");
    let left = |kind| names_in(&host.inbox("bad", kind)).iter().filter(|name| name.ends_with(".json")).count();
    let before = left("messages") + left("tasks");
    eventually("they become less", SOON, || left("messages") + left("tasks") < before.max(1));
    assert!(names_in(&host.data("ipc/.refused/bad")).len() <= 202, "of those not understood only some are kept");
    assert!(names_in(&host.inbox("bad", "input")).len() <= 110, "the refusals have as many places as they have");
}

#[test]
fn files_dropped_while_the_host_is_killed_again_and_again_are_done_once() {
    let mut host = Host::prepared(&["sales"], "");
    host.again();
    let (messages, tasks, kills) = (300, 60, 30);
    let done = AtomicBool::new(false);
    let directories = KINDS.map(|kind| host.inbox("sales", kind));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new();
            for number in 0..messages {
                ipc::put_into(&directories[0], &format!("{number}.json"), message(&format!("number {number}")).as_bytes());
                if number % (messages / tasks) == 0 {
                    let id = number / (messages / tasks);
                    let order = format!(
                        r#"{{"type":"schedule_task","taskId":"t{id}","prompt":"p","schedule_type":"interval","schedule_value":"24h"}}"#
                    );
                    ipc::put_into(&directories[1], &format!("{id}.json"), order.as_bytes());
                }
                thread::sleep(slowly(Duration::from_millis(dice.below(2 * 6000 / messages))));
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut dice = Dice::new();
        let mut count = 0;
        while count < kills || !done.load(Ordering::Relaxed) {
            thread::sleep(slowly(Duration::from_millis(dice.below(250))));
            host.kill();
            count += 1;
            host.begin();
        }
        host.kill();
    });
    host.again();
    eventually("all of them are done", 5 * SOON, || host.is_settled("sales"));
    let mut said = host.said("irc:#sales");
    said.sort();
    let mut wanted: Vec<String> = (0..messages).map(|number| format!("number {number}")).collect();
    wanted.sort();
    assert_eq!(said, wanted, "each was said once");
    let listed = host.jar.call(&["task", "list", "--json"]).success().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(tasks as usize));
    // A second try would have been refused: there is one of that id already.
    assert_eq!(host.rows("SELECT * FROM decision WHERE allowed = 0"), Vec::<String>::new());
    assert_eq!(host.count_decisions("sales"), (messages + tasks) as i64);
    assert!(host.take_refusals("sales").is_empty() && host.reasons("sales").is_empty());
    assert_eq!(host.rows("PRAGMA integrity_check"), ["ok"]);
    let keys = host.rows("SELECT count(*) FROM handled");
    println!("{kills} kills; keys that are left: {keys:?}");
}
