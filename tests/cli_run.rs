//! Promise: stdin, stdout, stderr and the exit code of a run are the agent's,
//! and belljar adds nothing of its own.

mod harness;

use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;

use harness::{Jar, Live, finish, load, slowly};

#[test]
fn the_agent_is_1000_and_nothing_else_is_printed() {
    let outcome = Jar::new().run(&[], &["id", "-u"]).success();
    assert_eq!(outcome.out(), "1000\n");
    assert_eq!(outcome.err(), "");
}

#[test]
fn the_exit_code_is_the_agents() {
    let jar = Jar::new();
    for code in [0, 1, 7, 124, 125, 255] {
        let outcome = jar.sh(&format!("exit {code}")).exits(code);
        assert_eq!(outcome.err(), "");
    }
}

#[test]
fn an_agent_that_a_signal_ends_gives_128_and_its_number() {
    let jar = Jar::new();
    for (signal, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("INT", 2)] {
        jar.sh(&format!("kill -{signal} $$")).exits(128 + number);
    }
    let causes: Vec<_> = jar.receipts().iter().map(|receipt| receipt["cause"].clone()).collect();
    assert_eq!(causes, ["ended by SIGTERM", "ended by SIGKILL", "ended by SIGSEGV", "ended by SIGINT"]);
}

#[test]
fn a_command_that_is_not_there_gives_127_and_one_that_cannot_run_126() {
    let jar = Jar::new();
    jar.run(&[], &["no-such-program"]).exits(127).says(&["belljar: error: ", "no-such-program", "hint: "]);
    jar.run(&[], &["/no/such/program"]).exits(127);
    jar.run(&[], &["/etc/passwd"]).exits(126).says(&["Permission denied"]);
    jar.run(&[], &["/usr"]).exits(126);
    fs::write(jar.group("main").join("script"), "echo hi").expect("write a file");
    jar.run(&[], &["./script"]).exits(126);
}

#[test]
fn a_refusal_gives_125_and_a_wrong_line_2() {
    let jar = Jar::new();
    jar.run(&["--group", "nobody"], &["true"]).exits(125).says(&["belljar: error: ", "hint: "]);
    jar.run(&["--no-such-option"], &["true"]).exits(2);
    jar.call(&["run"]).exits(2).says(&["no command to run"]);
}

#[test]
fn stdin_reaches_the_agent_and_its_stdout_the_caller() {
    let jar = Jar::new();
    let outcome = finish(jar.belljar(["run", "--", "cat"]), b"hi\n").success();
    assert_eq!((outcome.out(), outcome.err()), ("hi\n".to_owned(), String::new()));
    let outcome = jar.sh("echo to stdout; echo to stderr >&2").success();
    assert_eq!((outcome.out(), outcome.err()), ("to stdout\n".to_owned(), "to stderr\n".to_owned()));
}

#[test]
fn the_end_of_stdin_is_seen_and_a_closed_stdin_is_no_hang() {
    let jar = Jar::new();
    let mut command = jar.belljar(["run", "--", "sh", "-c", "cat; echo done"]);
    command.stdin(Stdio::piped());
    let mut live = Live::start(command);
    live.write(b"one\n");
    live.wait_for("one\n");
    live.write(b"two\n");
    live.wait_for("two\n");
    assert_eq!(live.wait().success().out(), "one\ntwo\ndone\n");
    // An agent that never reads ends all the same, with input still waiting.
    finish(jar.belljar(["run", "--", "true"]), &vec![b'x'; 1 << 20]).success();
    let mut closed = std::process::Command::new("sh");
    let line = format!("exec {} run -- cat <&-", harness::belljar().display());
    closed.args(["-c", &line]);
    jar.surround(&mut closed);
    assert_eq!(finish(closed, b"").success().out(), "");
}

#[test]
fn a_hundred_megabytes_arrive_whole() {
    let jar = Jar::new();
    let size = load(100 << 20, 4 << 20) as usize;
    let outcome = jar.sh(&format!("head -c {size} /dev/zero | tr '\\0' x; echo end >&2")).success();
    assert_eq!(outcome.stdout.len(), size);
    assert!(outcome.stdout.iter().all(|byte| *byte == b'x'));
    assert_eq!(outcome.err(), "end\n");
    let outcome = finish(jar.belljar(["run", "--", "cksum"]), &vec![b'x'; size]).success();
    assert!(outcome.out().ends_with(&format!(" {size}\n")), "{}", outcome.out());
}

#[test]
fn both_streams_in_one_appended_file_lose_nothing() {
    let jar = Jar::new();
    let path = jar.write("log", "before\n");
    let append = || File::options().append(true).open(&path).expect("open the log");
    let script = "i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let mut command = jar.belljar(["run", "--", "sh", "-c", script]);
    command.stdout(append()).stderr(append());
    let live = Live::start(command);
    // Somebody else writes to the same log meanwhile.
    let mut own = append();
    for number in 0..100 {
        writeln!(own, "own {number}").expect("append to the log");
    }
    live.wait().success();
    let text = fs::read_to_string(&path).expect("read the log");
    for (stream, count) in [("out", 2000), ("err", 2000), ("own", 100)] {
        let numbers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(stream)).collect();
        let wanted: Vec<String> = (0..count).map(|number| format!(" {number}")).collect();
        assert_eq!(numbers, wanted, "{stream}: lines are lost, torn or out of order");
    }
    assert!(text.starts_with("before\n"), "the log was overwritten");
}

#[test]
fn an_agent_whose_reader_has_gone_gets_sigpipe() {
    let jar = Jar::new();
    let mut command = std::process::Command::new("sh");
    let line =
        format!("{} run -- sh -c 'yes; echo $? > /workspace/group/code' | head -n 1", harness::belljar().display());
    command.args(["-c", &line]);
    jar.surround(&mut command);
    assert_eq!(finish(command, b"").success().out(), "y\n");
    let code = fs::read_to_string(jar.group("main").join("code")).expect("the agent went on");
    assert_eq!(code.trim(), "141", "128 + SIGPIPE");
}

#[test]
fn orphans_of_the_agent_are_reaped_and_end_with_it() {
    let jar = Jar::new();
    let mark = "86399.21";
    let script = format!(
        "for i in 1 2 3; do (sleep {mark} &) ; done; (sh -c 'exit 3' &); sleep 0.1; ps -eo stat= 2>/dev/null | grep -c Z; exit 5"
    );
    let outcome = jar.sh(&script).exits(5);
    assert_eq!(outcome.out().trim(), "0", "a zombie was left inside");
    assert!(harness::processes_with(mark).is_empty(), "a process outlived its run");
}

#[test]
fn nothing_of_the_callers_environment_passes_unless_it_is_named() {
    let jar = Jar::new();
    let mut command = jar.belljar(["run", "-e", "NAMED", "-e", "SET=a b=c", "--", "env"]);
    command.env("NAMED", "yes").env("UNNAMED", harness::SECRET).env("HTTPS_PROXY", "http://user:pass@proxy.invalid");
    let out = finish(command, b"").success().out();
    for line in ["NAMED=yes", "SET=a b=c", "HOME=/home/node", "USER=node"] {
        assert!(out.lines().any(|have| have == line), "{line} is not in\n{out}");
    }
    assert!(!out.contains(harness::SECRET) && !out.contains("pass@") && !out.contains("BELLJAR"), "{out}");
}

#[test]
fn arguments_arrive_byte_for_byte() {
    let jar = Jar::new();
    let arguments = ["", " ", "a b", "\"q\"", "$HOME", "*", "-v", "--", "line\nfeed", "ä ☃", "\u{1b}[31m"];
    let mut command = vec!["printf", "<%s>"];
    command.extend(arguments);
    let wanted: String = arguments.iter().map(|argument| format!("<{argument}>")).collect();
    assert_eq!(jar.run(&[], &command).success().out(), wanted);
}

#[test]
fn the_working_directory_is_the_groups_folder_or_as_asked() {
    let jar = Jar::new();
    assert_eq!(jar.run(&[], &["pwd"]).success().out(), "/workspace/group\n");
    let asked = jar.run(&["-w", "/workspace/project/src"], &["pwd"]).success();
    assert_eq!(asked.out(), "/workspace/project/src\n");
}

#[test]
fn files_in_the_groups_folder_belong_to_the_caller() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let jar = Jar::new();
    jar.sh("echo x > made; chmod 600 made; mkdir -p d/e; mv made d/e/renamed; ln -s renamed d/e/link; echo y > top; cat d/e/renamed; rm top")
        .success();
    for name in ["d", "d/e", "d/e/renamed", "d/e/link"] {
        let meta = fs::symlink_metadata(jar.group("main").join(name)).expect("the agent made it");
        assert_eq!(meta.uid(), harness::own_uid(), "{name}");
    }
    let meta = fs::metadata(jar.group("main").join("d/e/renamed")).expect("the agent made it");
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    // And back: what the caller writes, the agent can change.
    fs::write(jar.group("main").join("callers"), "old").expect("write a file");
    jar.sh("echo new > callers && rm -r d").success();
    assert_eq!(fs::read_to_string(jar.group("main").join("callers")).expect("read it"), "new\n");
}

#[test]
fn verbose_speaks_on_stderr_only() {
    let outcome = Jar::new().run(&["-v"], &["echo", "hi"]).success();
    assert_eq!(outcome.out(), "hi\n");
    outcome.says(&["belljar: verified", "ms"]);
}

/// One file for both streams gets their lines in the order of writing.
#[test]
fn both_streams_in_one_file_keep_their_order() {
    let jar = Jar::new();
    let path = jar.write("ordered", "");
    let mut command = jar.belljar(["run", "--", "sh", "-c", "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done"]);
    let file = File::create(&path).expect("open the file");
    command.stdout(file.try_clone().expect("duplicate it")).stderr(file);
    Live::start(command).wait().success();
    let text = fs::read_to_string(&path).expect("read the file");
    assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), "o1 e1 o2 e2 o3 e3 o4 e4 o5 e5");
}

/// A socket as stdin on which nothing comes, as a parent written in Node gives
/// it, does not keep a run from ending.
#[test]
fn a_silent_socket_as_stdin_holds_nothing_up() {
    for (arguments, code) in
        [(vec!["run", "--", "true"], 0), (vec!["run", "--timeout", "1s", "--", "sleep", "99"], 124)]
    {
        let jar = Jar::new();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("make a socket pair");
        let mut command = jar.belljar(arguments);
        command.stdin(std::os::fd::OwnedFd::from(theirs));
        let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("start belljar");
        let mut ended = None;
        let begun = std::time::Instant::now();
        while ended.is_none() && begun.elapsed() < slowly(std::time::Duration::from_secs(20)) {
            ended = child.try_wait().expect("look at it");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(ended.and_then(|status| status.code()), Some(code), "it hung");
        drop(ours);
    }
}

#[test]
fn another_users_runtime_directory_is_not_used() {
    // `su me` leaves XDG_RUNTIME_DIR of who called it.
    let jar = Jar::new();
    let others = if harness::is_root() { jar.path("others") } else { "/".into() };
    if harness::is_root() {
        fs::create_dir(&others).expect("make a directory");
        std::os::unix::fs::chown(&others, Some(12345), Some(12345)).expect("give it away");
    }
    let mut command = jar.belljar(["run", "--", "id", "-u"]);
    command.env_remove("BELLJAR_HOME").env("HOME", jar.path("")).env("XDG_RUNTIME_DIR", &others);
    command.current_dir(jar.project());
    assert_eq!(finish(command, b"").success().out(), "1000\n");
    assert!(!others.join("belljar").exists(), "what others own was used");
}
