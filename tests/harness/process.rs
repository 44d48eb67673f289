//! Programs with a deadline: what hangs is killed, and is a failure.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::{DEADLINE, SOON, slowly};

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; 128 + n when signal n ended the program itself.
    pub code: i32,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// stdout as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// A failure unless it ended with this code.
    pub fn exits(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "exit code {}, not {code}\nstdout: {}\nstderr: {}",
            self.code,
            shorten(&self.out()),
            shorten(&self.err())
        );
        self
    }

    /// A failure unless it ended with 0.
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// A failure unless stderr holds all of these.
    pub fn says(self, wanted: &[&str]) -> Self {
        let text = self.err();
        for part in wanted {
            assert!(text.contains(part), "`{part}` is not in stderr:\n{text}");
        }
        self
    }

    /// stdout as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON: {error}\n{}", shorten(&self.out())))
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(4000).collect()
}

#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    closed: bool,
}

/// What a program has written so far.
#[derive(Clone, Default)]
struct Collected(Arc<(Mutex<Stream>, Condvar)>);

impl Collected {
    fn from(mut source: impl Read + Send + 'static) -> Self {
        let collected = Self::default();
        let into = collected.clone();
        thread::spawn(move || {
            let mut buffer = vec![0u8; 64 << 10];
            loop {
                let read = source.read(&mut buffer);
                let (stream, news) = &*into.0;
                let mut stream = stream.lock().expect("no reader panics");
                match read {
                    Ok(length @ 1..) => stream.bytes.extend_from_slice(&buffer[..length]),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    _ => stream.closed = true,
                }
                news.notify_all();
                if stream.closed {
                    return;
                }
            }
        });
        collected
    }

    /// Waits for `enough`; whether it came before the deadline.
    fn wait(&self, deadline: Instant, enough: impl Fn(&Stream) -> bool) -> bool {
        let (stream, news) = &*self.0;
        let mut stream = stream.lock().expect("no reader panics");
        while !enough(&stream) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || stream.closed {
                return enough(&stream);
            }
            stream = news.wait_timeout(stream, left).expect("no reader panics").0;
        }
        true
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().expect("no reader panics").bytes.clone()
    }
}

/// A program that runs. It is killed when this value goes.
pub struct Live {
    child: Child,
    /// Its stdin, when it was given a pipe.
    pub stdin: Option<ChildStdin>,
    stdout: Option<Collected>,
    stderr: Option<Collected>,
    deadline: Instant,
}

impl Live {
    /// Starts it; what it writes into pipes is collected.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(Collected::from),
            stderr: child.stderr.take().map(Collected::from),
            child,
            deadline: Instant::now() + slowly(DEADLINE),
        }
    }

    /// Gives it so long from now, where a load takes longer than most tests do.
    pub fn within(mut self, time: Duration) -> Self {
        self.deadline = Instant::now() + slowly(time);
        self
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it still runs");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for it").is_none()
    }

    /// Whether it ends before then. Waits in the kernel: many tests that look every
    /// few milliseconds are a load of their own, in an emulator the greatest.
    pub fn ends_before(&mut self, deadline: Instant) -> bool {
        if !self.is_running() {
            return true;
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it is not reaped");
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the last wait is not one for nothing.
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], left) {
                Ok(1..) => return true,
                Ok(_) if Instant::now() < deadline => {}
                Ok(_) => return false,
                Err(Errno::EINTR) => {}
                Err(errno) => panic!("wait for it: {errno}"),
            }
        }
    }

    /// Waits until its stdout holds `text`.
    pub fn wait_for(&self, text: &str) {
        let holds = |stream: &Stream| stream.bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let stdout = self.stdout.as_ref().expect("stdout is a pipe");
        assert!(
            stdout.wait(self.deadline, holds),
            "`{text}` never came; stdout: {}\nstderr: {}",
            self.so_far(),
            self.stderr.as_ref().map_or_else(String::new, |stderr| text_of(&stderr.bytes()))
        );
    }

    /// What it has written to stdout so far.
    pub fn so_far(&self) -> String {
        self.stdout.as_ref().map_or_else(String::new, |stdout| text_of(&stdout.bytes()))
    }

    /// What it has written to stderr so far.
    pub fn so_far_err(&self) -> String {
        self.stderr.as_ref().map_or_else(String::new, |stderr| text_of(&stderr.bytes()))
    }

    /// Writes to its stdin.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("stdin is a pipe").write_all(bytes).expect("it reads its stdin");
    }

    /// Waits until it has ended and all that it wrote is there.
    pub fn wait(mut self) -> Outcome {
        drop(self.stdin.take());
        if !self.ends_before(self.deadline) {
            let _ = self.child.kill();
            panic!("it hung for {:?}; stdout: {}", slowly(DEADLINE), shorten(&self.so_far()));
        }
        let status = self.child.wait().expect("wait for it");
        let collect = |collected: Option<Collected>| {
            collected.map_or_else(Vec::new, |collected| {
                assert!(
                    collected.wait(self.deadline, |stream| stream.closed),
                    "it ended, but something still holds its output open"
                );
                collected.bytes()
            })
        };
        Outcome {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: collect(self.stdout.take()),
            stderr: collect(self.stderr.take()),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // A killed one leaves its end to the janitor, whose files the test may be
        // about to remove.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        self.ends_before(Instant::now() + slowly(SOON));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command to its end, with this on stdin (nothing: as it was set).
pub fn finish(mut command: Command, input: &[u8]) -> Outcome {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut live = Live::start(command);
    if let Some(mut stdin) = live.stdin.take() {
        let input = input.to_vec();
        thread::spawn(move || {
            // A program that reads no more closes its end; that is its choice.
            let _ = stdin.write_all(&input);
        });
    }
    live.wait()
}

fn pids() -> Vec<u32> {
    fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

/// Whether a process of this host id can be one of the caller's runs: another user
/// may run the same tests at the same time.
fn can_be_own(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    let Some(uid): Option<u32> = uid else { return false };
    let own = nix::unistd::geteuid();
    if own.is_root() {
        return uid == 0 || uid >= super::RESERVED_IDS;
    }
    let name = nix::unistd::User::from_uid(own).ok().flatten().map(|user| user.name).unwrap_or_default();
    let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let is_subordinate = ranges.lines().any(|line| {
        let mut fields = line.split(':');
        let owner = fields.next().unwrap_or_default();
        let numbers: Vec<u32> = fields.filter_map(|field| field.parse().ok()).collect();
        let [first, count] = numbers[..] else { return false };
        (owner == name || owner == own.to_string()) && (first..first.saturating_add(count)).contains(&uid)
    });
    uid == own.as_raw() || is_subordinate
}

/// Processes of the caller's runs whose command line holds `mark`.
pub fn processes_with(mark: &str) -> Vec<u32> {
    pids()
        .into_iter()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(mark.len()).any(|window| window == mark.as_bytes()))
        })
        .filter(|pid| can_be_own(*pid))
        .collect()
}

/// A process: its id, and when it began, because ids are used again.
pub type Known = (u32, String);

/// The fields of /proc/PID/stat after the name, which may hold blanks.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// The process and all below it.
pub fn descendants(pid: Pid) -> Vec<Known> {
    let all: Vec<(u32, Vec<String>)> = pids().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut family = BTreeSet::from([pid.as_raw() as u32]);
    let mut grown = true;
    while grown {
        grown = false;
        for (pid, fields) in &all {
            let parent = fields.get(1).and_then(|parent| parent.parse().ok());
            if parent.is_some_and(|parent| family.contains(&parent)) {
                grown |= family.insert(*pid);
            }
        }
    }
    all.into_iter()
        .filter(|(pid, _)| family.contains(pid))
        .map(|(pid, fields)| (pid, fields.get(19).cloned().unwrap_or_default()))
        .collect()
}

/// Whether the process is still there, and not only waited for.
pub fn is_alive(known: &Known) -> bool {
    stat(known.0)
        .is_some_and(|fields| fields.get(19) == Some(&known.1) && fields.first().is_none_or(|state| state != "Z"))
}
