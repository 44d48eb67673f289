//! Promise: a caller with a terminal gives the agent one of its own: it has the
//! size of the caller's, follows it, passes Ctrl-C, and the caller's terminal is
//! as it was afterwards, however the run ended.

mod harness;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use harness::{Jar, Live, SOON, eventually};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use rustix::termios::{Termios, tcgetattr, tcsetwinsize};

/// belljar in a session of its own on a terminal of ours.
struct Terminal {
    live: Live,
    master: File,
    slave: OwnedFd,
    before: Termios,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(jar: &Jar, options: &[&str], command: &[&str]) -> Option<Self> {
        let Some(setsid) = harness::system_program("setsid") else {
            harness::skip("setsid, to give belljar a terminal");
            return None;
        };
        let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("open a terminal");
        let before = tcgetattr(&pair.slave).expect("its mode");
        let stdio = || Stdio::from(pair.slave.try_clone().expect("duplicate it"));
        let mut setsid = Command::new(setsid);
        setsid.arg("--ctty").arg(harness::belljar()).arg("run").args(options).arg("--").args(command);
        jar.surround(&mut setsid);
        setsid.env("TERM", "vt100").stdin(stdio()).stdout(stdio()).stderr(stdio());
        let live = Live::start(setsid);
        let master = File::from(pair.master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, into) = (master.try_clone().expect("duplicate it"), Arc::clone(&seen));
        thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                into.lock().expect("nobody panics with it").extend_from_slice(&buffer[..length]);
            }
        });
        Some(Self { live, master, slave: pair.slave, before, seen })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("nobody panics with it")).into_owned()
    }

    fn wait_for(&mut self, text: &str) {
        let mut ended = None;
        eventually(&format!("`{text}` on the terminal"), harness::DEADLINE / 3, || {
            if !self.live.is_running() {
                // What it wrote last may not have been read here yet.
                let since = *ended.get_or_insert_with(Instant::now);
                assert!(self.text().contains(text) || since.elapsed() < SOON, "it ended: {}", self.text());
            }
            self.text().contains(text)
        });
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// Waits for the end: the mode is what it was.
    fn ends(self, code: i32) -> String {
        let outcome = self.live.wait();
        let text = String::from_utf8_lossy(&self.seen.lock().expect("nobody panics with it")).into_owned();
        assert_eq!(outcome.code, code, "{text}");
        let after = tcgetattr(&self.slave).expect("its mode");
        let modes = |t: &Termios| (t.local_modes, t.input_modes, t.output_modes, t.control_modes);
        assert_eq!(modes(&after), modes(&self.before), "the caller's terminal is not as it was");
        text
    }
}

#[test]
fn the_agent_has_a_terminal_of_the_callers_size() {
    let jar = Jar::new();
    let script = "test -t 0 && test -t 1 && test -t 2 && echo all three; stty size; echo $TERM; tty; exit 6";
    let Some(mut terminal) = Terminal::start(&jar, &[], &["sh", "-c", script]) else { return };
    terminal.wait_for("vt100");
    let text = terminal.ends(6);
    assert!(text.contains("all three") && text.contains("33 101"), "{text}");
}

#[test]
fn without_a_terminal_or_with_no_tty_there_is_none() {
    let jar = Jar::new();
    let script = "test -t 0 || test -t 1 || test -t 2 || echo none; test -c /dev/console && echo console; true";
    assert_eq!(jar.sh(script).success().out(), "none\n");
    let Some(mut terminal) = Terminal::start(&jar, &["-T"], &["sh", "-c", script]) else { return };
    terminal.wait_for("none");
    assert!(!terminal.ends(0).contains("console"));
}

#[test]
fn a_terminal_can_be_had_without_one() {
    let jar = Jar::new();
    // Many times: whether the runtime is quick or slow must not matter.
    for _ in 0..10 {
        let out = jar.run(&["-t"], &["sh", "-c", "test -t 1 && echo yes"]).success();
        assert_eq!(out.out().trim(), "yes");
    }
}

#[test]
fn a_new_size_reaches_the_agent() {
    let jar = Jar::new();
    let script = "trap 'echo changed; stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let Some(mut terminal) = Terminal::start(&jar, &[], &["sh", "-c", script]) else { return };
    terminal.wait_for("ready");
    let size = rustix::termios::Winsize { ws_row: 44, ws_col: 122, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal.master, size).expect("change the size");
    terminal.wait_for("44 122");
    terminal.live.signal(Signal::SIGKILL);
}

#[test]
fn what_is_typed_reaches_the_agent_once_and_is_echoed_once() {
    let jar = Jar::new();
    let Some(mut terminal) = Terminal::start(&jar, &[], &["sh", "-c", "echo ready; read line; echo \"got <$line>\""])
    else {
        return;
    };
    terminal.wait_for("ready");
    terminal.type_in("hello there\r");
    terminal.wait_for("got <hello there>");
    let text = terminal.ends(0);
    assert_eq!(text.matches("hello there").count(), 2, "one echo and one answer: {text}");
}

#[test]
fn ctrl_c_reaches_the_agent_and_not_belljar() {
    let jar = Jar::new();
    let script = "trap 'echo interrupted; exit 8' INT; echo ready; while :; do sleep 0.05; done";
    let Some(mut terminal) = Terminal::start(&jar, &[], &["sh", "-c", script]) else { return };
    terminal.wait_for("ready");
    terminal.type_in("\u{3}");
    terminal.wait_for("interrupted");
    terminal.ends(8);
    let Some(mut terminal) = Terminal::start(&jar, &[], &["sh", "-c", "echo ready; exec sleep 1000"]) else { return };
    terminal.wait_for("ready");
    terminal.type_in("\u{3}");
    terminal.ends(130);
}

#[test]
fn the_end_of_input_can_be_typed() {
    let jar = Jar::new();
    let Some(mut terminal) = Terminal::start(&jar, &[], &["sh", "-c", "echo ready; cat; echo at end"]) else { return };
    terminal.wait_for("ready");
    terminal.type_in("\u{4}");
    terminal.wait_for("at end");
    terminal.ends(0);
}

#[test]
fn the_mode_is_restored_after_sigterm_timeout_and_failure() {
    let jar = Jar::new();
    let Some(mut terminal) = Terminal::start(&jar, &[], &["sh", "-c", "echo ready; exec sleep 1000"]) else { return };
    terminal.wait_for("ready");
    terminal.live.signal(Signal::SIGTERM);
    terminal.ends(143);
    let Some(terminal) = Terminal::start(&jar, &["--timeout", "400ms"], &["sleep", "1000"]) else { return };
    terminal.ends(124);
    let Some(terminal) = Terminal::start(&jar, &[], &["no-such-program"]) else { return };
    terminal.ends(127);
}

#[test]
fn a_long_output_arrives_whole() {
    let jar = Jar::new();
    let Some(terminal) = Terminal::start(&jar, &[], &["sh", "-c", "seq 1 20000; echo the end"]) else { return };
    let seen = Arc::clone(&terminal.seen);
    terminal.ends(0);
    eventually("the last line", SOON, || {
        String::from_utf8_lossy(&seen.lock().expect("it is whole")).contains("the end")
    });
    let text = String::from_utf8_lossy(&seen.lock().expect("it is whole")).into_owned();
    let numbers = text.lines().filter(|line| line.trim().parse::<u32>().is_ok()).count();
    assert_eq!(numbers, 20000);
}
