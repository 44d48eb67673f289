//! Promise: whatever an agent plants among its files, the host process follows nothing,
//! reads and writes nothing outside, keeps what it did not understand with the reason,
//! loses nothing, and serves the other groups within a second.

mod harness;
mod ipc;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use harness::{SOON, eventually, is_root, names_in};
use ipc::outside::{OUTSIDE, Outside, world};
use ipc::{Host, KINDS, message};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::mkfifo;

/// Plants something in both directories of a group, while the host process serves and
/// while it does not; it is refused with these words, and the other group is served.
fn planted(plant: impl Fn(&Host, &Outside, &Path), words: &str) {
    let (mut host, outside) = world();
    for alive in [true, false] {
        for kind in KINDS {
            let directory = host.inbox("bad", kind);
            if alive {
                // It comes as finished files come.
                plant(&host, &outside, &directory.join("trap.tmp"));
                fs::rename(directory.join("trap.tmp"), directory.join("trap.json")).expect("rename it");
            } else {
                host.kill();
                plant(&host, &outside, &directory.join("trap.json"));
                host.again();
            }
            host.serves("good");
            eventually("it is gone", SOON, || fs::symlink_metadata(directory.join("trap.json")).is_err());
            let mut read = Vec::new();
            eventually("the agent reads why", SOON, || {
                read.extend(host.take_refusals("bad"));
                !read.is_empty()
            });
            let refusal = read[0].to_string();
            assert!(refusal.contains("trap.json") && refusal.contains(words), "{words}: {refusal}");
            let reasons = host.reasons("bad");
            assert!(reasons.last().is_some_and(|reason| reason.contains(words)), "{words}: {reasons:?}");
            // The group goes on.
            host.serves("bad");
            eventually("nothing of it is left", SOON, || host.is_settled("bad"));
        }
    }
    assert_eq!(host.reasons("bad").len(), 4, "{:?}", host.reasons("bad"));
    outside.is_untouched(&host);
}

#[test]
fn a_symbolic_link_to_a_file_of_the_host_is_not_followed() {
    let plant = |_: &Host, outside: &Outside, at: &Path| {
        symlink(&outside.file, at).expect("a link");
        // Who reads it as it is reads what is outside.
        assert_eq!(fs::read_to_string(at).expect("read it"), message(OUTSIDE));
    };
    planted(plant, "not a plain file, but a symbolic link");
}

#[test]
fn a_symbolic_link_to_a_fifo_is_not_followed() {
    let plant = |host: &Host, _: &Outside, at: &Path| {
        let fifo = host.jar.path("outside/fifo");
        let _ = mkfifo(&fifo, Mode::S_IRWXU);
        symlink(fifo, at).expect("a link");
    };
    planted(plant, "not a plain file, but a symbolic link");
}

#[test]
fn a_symbolic_link_to_a_directory_is_not_followed() {
    planted(
        |_, outside, at| symlink(outside.file.parent().expect("it has one"), at).expect("a link"),
        "not a plain file, but a symbolic link",
    );
}

#[test]
fn a_symbolic_link_to_nothing_or_to_a_device_is_not_followed() {
    planted(|_, _, at| symlink("/nothing/of/this/name", at).expect("a link"), "not a plain file, but a symbolic link");
    planted(|_, _, at| symlink("/dev/zero", at).expect("a link"), "not a plain file, but a symbolic link");
}

#[test]
fn a_fifo_is_not_waited_for() {
    planted(|_, _, at| mkfifo(at, Mode::S_IRWXU).expect("a FIFO"), "but a FIFO");
}

#[test]
fn a_socket_is_not_spoken_with() {
    planted(|_, _, at| drop(UnixListener::bind(at).expect("a socket")), "but a socket");
}

#[test]
fn a_device_is_not_read() {
    if !is_root() {
        // An ordinary user can make none; nor can an agent.
        return;
    }
    for device in [nix::sys::stat::makedev(1, 5), nix::sys::stat::makedev(5, 0)] {
        planted(
            |_, _, at| nix::sys::stat::mknod(at, SFlag::S_IFCHR, Mode::S_IRWXU, device).expect("a device"),
            "but a device",
        );
    }
}

#[test]
fn a_hard_link_to_another_groups_file_is_not_read() {
    let plant = |host: &Host, _: &Outside, at: &Path| {
        let private = host.data("groups/good/private.json");
        if !private.exists() {
            fs::write(&private, message("private words of good")).expect("write a file");
        }
        fs::hard_link(private, at).expect("a link");
    };
    planted(plant, "hard link");
    let (host, _) = world();
    let private = Outside::new(host.data("groups/good/private.json"));
    let at = host.inbox("bad", "messages");
    fs::hard_link(&private.file, at.join("x.tmp")).expect("a link");
    fs::rename(at.join("x.tmp"), at.join("x.json")).expect("rename it");
    eventually("it is refused", SOON, || host.reasons("bad").len() == 1);
    private.is_untouched(&host);
}

#[test]
fn a_file_of_ten_gigabytes_is_not_read() {
    let plant = |_: &Host, _: &Outside, at: &Path| {
        File::create(at).and_then(|file| file.set_len(10 << 30)).expect("a sparse file");
    };
    planted(plant, "10737418240 bytes, more than 1048576");
}

#[test]
fn a_file_of_another_owner_is_not_read() {
    if !is_root() {
        // An ordinary user can give nothing away.
        return;
    }
    let plant = |_: &Host, _: &Outside, at: &Path| {
        fs::write(at, message("of another")).expect("write a file");
        std::os::unix::fs::chown(at, Some(65534), Some(65534)).expect("give it away");
    };
    planted(plant, "it belongs to uid 65534");
}

#[test]
fn a_directory_is_no_file() {
    let plant = |_: &Host, outside: &Outside, at: &Path| {
        fs::create_dir(at).expect("make a directory");
        fs::write(at.join("inner.json"), message("inner")).expect("write a file");
        symlink(&outside.file, at.join("link.json")).expect("a link");
    };
    planted(plant, "it is a directory");
    planted(|_, _, at| fs::create_dir(at).expect("make a directory"), "it is a directory");
}

#[test]
fn what_is_no_operation_is_kept_with_the_reason() {
    let (host, _) = world();
    let deep = format!(r#"{{"type":"message","text":"a","x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let long = |length: usize| {
        let text = r#"{"type":"message","text":"exactly","pad":""}"#;
        text.replace("\"\"}", &format!("\"{}\"}}", "x".repeat(length - text.len()))).into_bytes()
    };
    let digits = "9".repeat(400);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (deep.into(), "recursion limit"),
        (br#"{"type":"message","text":"a","text":"b"}"#.to_vec(), "duplicate field `text`"),
        (br#"{"type":"message","type":"list_tasks","text":"b"}"#.to_vec(), "duplicate field `type`"),
        (br#"{"type":"message","chatJid":"a","chat":"b","text":"c"}"#.to_vec(), "duplicate field"),
        (br#"{"type":"message","text":"a","x":1e999}"#.to_vec(), "number out of range"),
        (format!(r#"{{"type":"message","text":{digits}}}"#).into(), "number out of range"),
        (b"{\"type\":\"message\",\"text\":\"a\0b\"}".to_vec(), "control character"),
        (b"\xef\xbb\xbf{\"type\":\"message\",\"text\":\"a\"}".to_vec(), "expected value"),
        (b"\xff\xfe{\0}\0".to_vec(), "expected value"),
        (b"{\"type\":\"message\",\"text\":\"a\xff\"}".to_vec(), "invalid unicode"),
        (br#"{"type":"message","text":"\ud800"}"#.to_vec(), "hex escape"),
        (br#"{"type":"message","text":"a"}{"type":"message","text":"b"}"#.to_vec(), "trailing characters"),
        (br#"[{"type":"message","text":"a"}]"#.to_vec(), "invalid type"),
        (br#"{"type":"make_me_main","text":"a"}"#.to_vec(), "unknown variant"),
        (format!(r#"{{"type":"{}"}}"#, "\\u001b[2J".repeat(60_000)).into(), "unknown variant"),
        (br#"{"type":"message"}"#.to_vec(), "missing field `text`"),
        (br#"{"type":"list_tasks"}"#.to_vec(), "does not belong into messages/"),
        (b"".to_vec(), "EOF"),
        (br#"{"type":"message","text":"half"#.to_vec(), "EOF"),
        (long((1 << 20) + 1), "1048577 bytes, more than 1048576"),
    ];
    for (bytes, words) in &cases {
        let before = host.reasons("bad").len();
        host.put("bad", "messages", "x.json", bytes);
        host.serves("good");
        let mut reason = String::new();
        eventually(&format!("{words}: it is set aside"), SOON, || {
            reason = host.reasons("bad").into_iter().nth(before).unwrap_or_default();
            reason.ends_with('\n')
        });
        assert!(reason.contains(words) && reason.len() < 4096, "{words}: {reason}");
        let aside = host.data("ipc/.refused/bad");
        let kept = || names_in(&aside).into_iter().rfind(|name| name.ends_with(".json"));
        eventually(&format!("{words}: it is kept"), SOON, || {
            bytes.len() > 1 << 20
                || kept().is_some_and(|name| fs::read(aside.join(name)).is_ok_and(|kept| kept == *bytes))
        });
        let mut read = Vec::new();
        eventually("the agent reads why", SOON, || {
            read.extend(host.take_refusals("bad"));
            !read.is_empty()
        });
        let reason = read[0]["refused"]["reason"].as_str().expect("a reason");
        assert!(reason.contains(words) && reason.len() < 4096 && !reason.contains('\u{1b}'), "{words}: {reason}");
    }
    host.put("bad", "tasks", "y.json", message("in the wrong place"));
    eventually("it is set aside", SOON, || {
        host.reasons("bad").last().is_some_and(|reason| reason.contains("into tasks/"))
    });
    assert_eq!(host.rows("SELECT * FROM outgoing WHERE grp = 'bad'").len(), 0);
    assert_eq!(host.count_decisions("bad"), 0);
    // One byte less is read.
    host.put("bad", "messages", "x.json", long(1 << 20));
    eventually("the longest file is read", SOON, || host.has_said("bad", "exactly"));
    assert!(!host.log().contains('\u{1b}') && host.log().lines().all(|line| line.len() < 8192), "{}", host.log());
}

#[test]
fn names_are_only_names() {
    let (mut host, _) = world();
    let long = "x".repeat(250) + ".json";
    let names: [&[u8]; 8] = [
        b"a\nb.json",
        b"\xff\xfe\x80.json",
        long.as_bytes(),
        b".json",
        b" .json",
        b"-rf.json",
        b"%2e%2e.json",
        b"\x1b[2J.json",
    ];
    for alive in [true, false] {
        if !alive {
            host.kill();
        }
        for (number, name) in names.iter().enumerate() {
            let at = host.inbox("bad", "messages");
            for (text, name) in [
                (message(&format!("{alive} {number}")), name.to_vec()),
                ("{}".to_owned(), [b"0", &name[..name.len().min(250)]].concat()),
            ] {
                let name = if name.ends_with(b".json") { name } else { [&name[..240], b".json"].concat() };
                fs::write(at.join("beside"), text).expect("write a file");
                fs::rename(at.join("beside"), at.join(OsStr::from_bytes(&name))).expect("rename it");
            }
        }
        if !alive {
            host.again();
        }
        host.serves("good");
        for number in 0..names.len() {
            eventually("it is said", SOON, || host.has_said("bad", &format!("{alive} {number}")));
        }
        eventually("nothing is left", SOON, || host.is_settled("bad"));
    }
    assert_eq!(host.reasons("bad").len(), 2 * names.len());
    assert!(
        !host.log().contains('\u{1b}') && host.log().lines().all(|line| line.starts_with("belljar: ")),
        "{}",
        host.log()
    );
    // What has another name is not taken.
    for name in ["x.json.tmp", "x.JSON", "x", "json"] {
        fs::write(host.inbox("bad", "messages").join(name), message("unfinished")).expect("write a file");
    }
    host.serves("bad");
    assert!(!host.has_said("bad", "unfinished"));
}

/// Names that the host process writes to, as links to a file outside.
fn plant_links(host: &Host, outside: &Outside) {
    let top = host.data("ipc/bad");
    let input = host.inbox("bad", "input");
    for number in 0..100 {
        symlink(&outside.file, input.join(format!("refused-{number:02}.json"))).expect("a link");
    }
    symlink(&outside.file, input.join("_close")).expect("a link");
    for name in ["current_tasks.json", "available_groups.json"] {
        let _ = fs::remove_file(top.join(name));
        symlink(&outside.file, top.join(name)).expect("a link");
    }
}

#[test]
fn what_the_host_writes_goes_through_no_link() {
    let (host, outside) = world();
    plant_links(&host, &outside);
    host.put("bad", "messages", "x.json", "{}");
    let first = host.inbox("bad", "input").join("refused-00.json");
    eventually("the refusal is there", SOON, || fs::symlink_metadata(&first).is_ok_and(|meta| meta.is_file()));
    let snapshot = host.data("ipc/bad/current_tasks.json");
    let add = |id: &str| host.jar.call(&["task", "add", "-g", "bad", "--id", id, "--every", "24h", "work"]).success();
    let holds = |id: &str| {
        fs::symlink_metadata(&snapshot).is_ok_and(|meta| meta.is_file())
            && fs::read_to_string(&snapshot).is_ok_and(|text| text.contains(id))
    };
    add("first-task");
    eventually("the snapshot is there", SOON, || holds("first-task"));
    outside.is_untouched(&host);
    // A FIFO is replaced, and a directory is in nobody's way but the agent's.
    fs::remove_file(&snapshot).expect("remove it");
    mkfifo(&snapshot, Mode::S_IRWXU).expect("a FIFO");
    add("second-task");
    eventually("the snapshot is there", SOON, || holds("second-task"));
    fs::remove_file(&snapshot).expect("remove it");
    fs::create_dir_all(snapshot.join("inner")).expect("make a directory");
    add("third-task");
    host.serves("good");
    host.serves("bad");
    let of_good = host.data("ipc/good/current_tasks.json");
    host.jar.call(&["task", "add", "-g", "good", "--id", "of-good", "--every", "24h", "work"]).success();
    eventually("others get theirs", SOON, || fs::read_to_string(&of_good).is_ok_and(|text| text.contains("of-good")));
    fs::remove_dir_all(&snapshot).expect("remove it");
    add("fourth-task");
    eventually("the snapshot is there", SOON, || holds("fourth-task"));
    outside.is_untouched(&host);
    let temporary = |name: &String| name.contains(".tmp");
    assert!(!names_in(&host.data("ipc/bad")).iter().any(temporary), "nothing half-written is left");
}

#[test]
fn directories_that_are_renamed_on_the_host_are_served_and_not_followed() {
    let (mut host, outside) = world();
    let top = host.data("ipc/bad");
    for name in ["messages", "tasks", "input"] {
        fs::rename(top.join(name), top.join(format!("{name}-away"))).expect("on the host it can be done");
        symlink(host.jar.path("outside"), top.join(name)).expect("a link");
    }
    let before = names_in(&host.jar.path("outside"));
    ipc::put_into(&top.join("messages-away"), "x.json", message("from away").as_bytes());
    eventually("the directory is served, whatever it is called", SOON, || host.has_said("bad", "from away"));
    ipc::put_into(&top.join("messages-away"), "y.json", b"{}");
    eventually("so is its input", SOON, || names_in(&top.join("input-away")).contains(&"refused-00.json".to_owned()));
    host.serves("good");
    // A host process that begins then does without the group, and serves the others.
    host.kill();
    host.again();
    host.serves("good");
    eventually("it says so", SOON, || host.log().contains("ipc/bad"));
    assert_eq!(names_in(&host.jar.path("outside")), before);
    outside.is_untouched(&host);
}
