//! Promise: the host process starts runs for its owner alone, says what became of
//! them, and leaves nothing when it ends.

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Jar, Live, SOON, eventually, is_root, slowly, system_program};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

struct Host {
    jar: Jar,
    live: Live,
}

fn socket(jar: &Jar) -> PathBuf {
    jar.path("belljar/data/belljar.sock")
}

fn ask_at(path: &PathBuf, method: &str, target: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(slowly(Duration::from_secs(60)))).expect("set a timeout");
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(request.as_bytes()).expect("send");
    // A refusal may come before all of it was sent.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

impl Host {
    fn start(options: &[&str]) -> Self {
        Self::start_in(Jar::new(), options, &[])
    }

    fn start_in(jar: Jar, options: &[&str], variables: &[(&str, &str)]) -> Self {
        // The project of main: the host process has no current directory of its own choice.
        jar.write("belljar/config/config.toml", &format!("[group.main]\nproject = \"{}\"\n", jar.project().display()));
        let mut command = jar.belljar(["serve"].iter().chain(options));
        command.envs(variables.iter().copied());
        let live = Live::start(command);
        eventually("it listens", 2 * SOON, || UnixStream::connect(socket(&jar)).is_ok());
        Self { jar, live }
    }

    fn ask(&self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        ask_at(&socket(&self.jar), method, target, &body)
    }

    fn run(&self, body: &Value) -> (u16, Value) {
        self.ask("POST", "/runs", body)
    }
}

#[test]
fn a_run_is_answered_with_what_became_of_it() {
    let host = Host::start(&[]);
    let (status, answer) = host.run(&json!({"command": ["sh", "-c", "cat; echo e >&2; exit 3"], "stdin": "hello\n"}));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["exit_code"], &answer["stdout"], &answer["stderr"]),
        (&json!(3), &json!("hello\n"), &json!("e\n"))
    );
    assert_eq!((&answer["cause"], &answer["truncated"]), (&json!("exited with 3"), &json!(false)));
    assert_eq!(host.jar.receipts()[0]["run"], answer["run"]);
    // Nothing of what is between this process and its manager reaches the agent.
    let (_, answer) = host.run(&json!({"command": ["env"], "name": "third"}));
    let environment = answer["stdout"].as_str().expect("text");
    assert!(
        environment.contains("HOME=/home/node") && !environment.contains("NOTIFY") && !environment.contains("LISTEN")
    );
    let (_, answer) = host.run(&json!({"command": ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]}));
    assert_eq!((answer["stdout"].as_str().map(str::len), &answer["truncated"]), (Some(1 << 20), &json!(true)));
    let (status, answer) = host.ask("GET", "/status", &Value::Null);
    assert_eq!((status, &answer["runs"]), (200, &json!(0)));
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let host = Host::start(&[]);
    let refused = |body: &Value, wanted: u16, words: &str| {
        let (status, answer) = host.run(body);
        let text = answer["error"].to_string();
        assert!(status == wanted && text.contains(words), "{status}, not {wanted}: {answer}");
    };
    refused(&json!({"group": "nobody", "command": ["true"]}), 422, "belljar group add nobody");
    refused(&json!({"group": "../x", "command": ["true"]}), 422, "not a group name");
    refused(&json!({"group": "--help", "command": ["true"]}), 422, "not a group name");
    refused(&json!({"command": []}), 422, "no command");
    refused(&json!({"command": ["a\u{0}b"]}), 422, "NUL");
    refused(&json!({"comand": ["true"]}), 400, "unknown field");
    refused(&json!(["true"]), 400, "not understood");
    refused(&json!({"command": ["true"], "name": "--receipt=/x"}), 422, "--name");
    refused(&json!({"command": ["--verbose"]}), 200, "null");
    refused(&json!({"command": ["true"], "stdin": "x".repeat(2 << 20)}), 413, "1 MiB");
    assert_eq!(host.ask("GET", "/nothing", &Value::Null).0, 404);
    assert_eq!(host.ask("PUT", "/runs", &Value::Null).0, 405);
    assert_eq!(host.ask("DELETE", "/runs/nothing", &Value::Null).0, 404);
    // It serves as before.
    assert_eq!(host.run(&json!({"command": ["true"]})).0, 200);
}

#[test]
fn a_run_is_stopped_by_its_id_by_its_clients_going_and_by_the_hosts_end() {
    let host = Host::start(&["--runs", "2"]);
    let sleeping = json!({"command": ["sleep", "1000"]}).to_string();
    let path = socket(&host.jar);
    let post = || {
        let mut stream = UnixStream::connect(&path).expect("connect");
        let length = sleeping.len();
        let head = format!("POST /runs HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((head + &sleeping).as_bytes()).expect("send");
        stream
    };
    let live = || host.ask("GET", "/runs", &Value::Null).1.as_array().map_or(0, Vec::len);
    let (first, mut second) = (post(), post());
    eventually("both go on", 4 * SOON, || live() == 2);
    let (status, answer) = host.run(&json!({"command": ["true"]}));
    assert_eq!((status, answer["error"]["message"].as_str().is_some()), (429, true), "{answer}");
    drop(first);
    eventually("who goes away ends the run", 4 * SOON, || live() == 1);
    let left = host.ask("GET", "/runs", &Value::Null).1[0]["run"].as_str().expect("an id").to_owned();
    assert_eq!(host.ask("DELETE", &format!("/runs/{left}"), &Value::Null).0, 202);
    second.set_read_timeout(Some(slowly(Duration::from_secs(30)))).expect("set a timeout");
    let mut answer = String::new();
    second.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("ended by SIGTERM"), "{answer}");
    let _third = post();
    eventually("a third one goes on", 4 * SOON, || live() == 1);
    host.live.signal(Signal::SIGTERM);
    let Host { jar, live } = host;
    live.wait().success();
    assert!(!socket(&jar).exists(), "its socket is gone");
    assert!(jar.call(&["ps", "--json"]).success().json().as_array().is_some_and(Vec::is_empty));
    let left: Vec<_> =
        fs::read_dir(jar.path("belljar/run")).map(|entries| entries.flatten().collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
    assert!(harness::processes_with(&jar.path("").display().to_string()).is_empty());
}

#[test]
fn a_host_that_is_killed_takes_its_runs_with_it() {
    let host = Host::start(&[]);
    let mut stream = UnixStream::connect(socket(&host.jar)).expect("connect");
    let body = json!({"command": ["sh", "-c", "touch begun; sleep 5000"]}).to_string();
    write!(stream, "POST /runs HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("send");
    eventually("the run begins", 2 * SOON, || host.jar.group("main").join("begun").exists());
    host.live.signal(Signal::SIGKILL);
    eventually("the run ends", 3 * SOON, || {
        host.jar.receipts().last().is_some_and(|receipt| receipt["status"] == "ended")
    });
    eventually("it is no longer listed", SOON, || host.jar.call(&["ps", "--json"]).json() == json!([]));
    let left: Vec<String> = fs::read_dir(host.jar.path("belljar/data"))
        .expect("the data directory")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("tmp") || name.contains("receipt.") || name.starts_with(".r"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_a_journal_it_says_on_stderr_what_happens() {
    if Path::new("/run/systemd/journal/socket").exists() {
        harness::skip("a host without a journal; with one, tests/journal.rs and tests/vm look there");
        return;
    }
    let host = Host::start(&[]);
    let (_, answer) = host.run(&json!({"command": ["sh", "-c", "exit 3"]}));
    let run = answer["run"].as_str().expect("an id").to_owned();
    assert_eq!(host.run(&json!({"group": "nobody", "command": ["true"]})).0, 422);
    host.live.signal(Signal::SIGTERM);
    let said = host.live.wait().success();
    said.says(&[
        "[group=nobody event=refused exit_code=125 hint=",
        "belljar: serves on ",
        &format!(
            "belljar: run of group main ended: exited with 3 \
             [run={run} group=main event=ended exit_code=3 cause=\"exited with 3\"]"
        ),
        "belljar: serves no longer",
    ]);
}

#[test]
fn events_of_runs_are_in_its_log_and_not_in_the_agents_stderr() {
    let jar = Jar::new();
    let host = Host::start_in(jar, &[], &[]);
    let config = format!("[group.main]\nproject = \"{}\"\n[log]\nto = \"json\"\n", host.jar.project().display());
    host.jar.write("belljar/config/config.toml", &config);
    let (_, answer) = host.run(&json!({"command": ["sh", "-c", "echo mine >&2; ls /proc/self/fd"]}));
    assert_eq!(answer["stderr"], "mine\n", "{answer}");
    assert_eq!(answer["stdout"], "0\n1\n2\n3\n", "and ls has the directory as its fourth");
    // Nobody waits for the answer of this one.
    let mut stream = UnixStream::connect(socket(&host.jar)).expect("connect");
    let body = json!({"name": "lost", "command": ["sleep", "60"]}).to_string();
    write!(stream, "POST /runs HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("ask");
    let began = |text: &str| text.contains("\"name\":\"lost\"") && text.contains("\"event\":\"started\"");
    eventually("it begins", 2 * SOON, || host.live.so_far_err().lines().any(began));
    drop(stream);
    let ended = |run: &str, line: &str| line.contains("\"event\":\"ended\"") && line.contains(run);
    let said = host.live.so_far_err();
    let started = said.lines().find(|line| began(line)).expect("it began");
    let run = serde_json::from_str::<Value>(started).expect("JSON")["run"].as_str().expect("an id").to_owned();
    eventually("it ends", 3 * SOON, || host.live.so_far_err().lines().any(|line| ended(&run, line)));
}

#[test]
fn one_host_and_no_other_file_in_its_place() {
    let host = Host::start(&[]);
    host.jar.call(&["serve"]).exits(125).says(&["another belljar serves already", "hint: "]);
    host.live.signal(Signal::SIGKILL);
    let Host { jar, live } = host;
    drop(live);
    assert!(socket(&jar).exists(), "a killed one leaves its socket");
    let again = Host::start_in(jar, &[], &[]);
    assert_eq!(again.ask("GET", "/status", &Value::Null).0, 200);
    again.live.signal(Signal::SIGTERM);
    let Host { jar, live } = again;
    live.wait().success();
    fs::write(socket(&jar), "mine").expect("write a file");
    jar.call(&["serve"]).exits(125).says(&["no socket of belljar's", "ls -l"]);
    assert_eq!(fs::read_to_string(socket(&jar)).expect("read"), "mine");
    fs::remove_file(socket(&jar)).expect("remove");
    let _other = UnixListener::bind(socket(&jar)).expect("bind");
    jar.call(&["serve"]).exits(125).says(&["listens on it already"]);
}

#[test]
fn other_users_are_refused() {
    if !is_root() {
        // An ordinary user has nobody else's id; root's run of this test has.
        return;
    }
    let host = Host::start(&[]);
    let path = socket(&host.jar);
    assert_eq!(fs::metadata(&path).expect("its mode").permissions().mode() & 0o777, 0o600);
    // As if somebody had opened the way to it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("open it");
    for directory in path.ancestors().skip(1).filter(|directory| directory.starts_with(host.jar.path(""))) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("open the way");
    }
    let curl = system_program("curl").expect("curl");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(curl);
    command.args(["-sS", "-m", "20", "http://b/status", "--unix-socket"]).arg(&path);
    host.jar.surround(&mut command);
    let out = harness::finish(command, b"");
    assert!(out.out().contains("for its owner"), "{out:?}");
    assert_eq!(host.ask("GET", "/status", &Value::Null).0, 200);
}

#[test]
fn systemd_hands_it_the_socket_hears_when_it_is_ready_and_whether_it_lives() {
    let jar = Jar::new();
    let heard_at = jar.path("notify");
    let manager = UnixDatagram::bind(&heard_at).expect("bind");
    let given = jar.path("given.sock");
    let listener = UnixListener::bind(&given).expect("bind");
    jar.write("belljar/config/config.toml", &format!("[group.main]\nproject = \"{}\"\n", jar.project().display()));
    // sd_listen_fds(3): descriptor 3, and the process id of who gets it.
    let mut command = Command::new("sh");
    command.args(["-c", "exec env LISTEN_PID=$$ LISTEN_FDS=1 \"$@\" 3<&0 </dev/null", "sh"]).arg(harness::belljar());
    command.arg("serve");
    jar.surround(&mut command);
    command
        .env("NOTIFY_SOCKET", &heard_at)
        .env("WATCHDOG_USEC", slowly(Duration::from_millis(400)).as_micros().to_string());
    command.stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let mut child = command.spawn().expect("start belljar serve");
    let hear = |within: Duration| {
        manager.set_read_timeout(Some(within)).expect("set a timeout");
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = manager.recv(&mut buffer) {
            all.push_str(&String::from_utf8_lossy(&buffer[..length]));
            all.push('\n');
            if all.len() > 4096 {
                break;
            }
        }
        all
    };
    let mut all = String::new();
    eventually("it is ready", 2 * SOON, || {
        let mut buffer = [0; 4096];
        manager.set_read_timeout(Some(Duration::from_millis(100))).expect("set a timeout");
        if let Ok(length) = manager.recv(&mut buffer) {
            all.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        all.contains("READY=1")
    });
    let (status, answer) = ask_at(&given, "POST", "/runs", &json!({"command": ["env"]}).to_string());
    assert_eq!(status, 200, "{answer}");
    assert!(!answer["stdout"].as_str().is_some_and(|text| text.contains("LISTEN") || text.contains("WATCHDOG")));
    eventually("it says that it lives", 2 * SOON, || {
        let mut buffer = [0; 4096];
        manager.recv(&mut buffer).is_ok_and(|length| buffer[..length].starts_with(b"WATCHDOG=1"))
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("stop it");
    // What it said before is read first.
    std::thread::sleep(slowly(Duration::from_millis(50)));
    manager.set_nonblocking(true).expect("not to wait");
    let mut buffer = [0; 4096];
    while manager.recv(&mut buffer).is_ok() {}
    manager.set_nonblocking(false).expect("to wait");
    assert_eq!(hear(slowly(Duration::from_secs(1))), "", "one that hangs says nothing");
    nix::sys::signal::kill(pid, Signal::SIGCONT).expect("let it go on");
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("end it");
    assert!(child.wait().expect("its end").success());
    assert!(hear(slowly(Duration::from_millis(200))).contains("STOPPING=1"));
    assert!(given.exists(), "systemd's socket is systemd's to remove");
}

#[test]
fn it_ends_when_nobody_needs_it() {
    let host = Host::start(&["--idle-exit", "1s"]);
    let (status, _) = host.run(&json!({"command": ["sleep", "2"]}));
    assert_eq!(status, 200, "a run is a need");
    host.live.wait().success();
}
