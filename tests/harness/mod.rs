//! What every test stands on: a home, a project and belljar's directories of
//! its own, the program under test with a deadline, and nothing of the person
//! who runs the tests.
//!
//! The same executables run as root and as an ordinary user, from a copy in
//! another place: nothing here looks at the source tree at run time.

// Every test executable compiles this module, and each uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod host;
pub mod layout;
mod process;
mod root;
pub mod text;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use process::{Live, Outcome, descendants, finish, is_alive, processes_with};
pub use root::unpacked_root;

/// How many times longer everything may take here than on an ordinary machine:
/// `BELLJAR_TEST_SLOW`, for a machine that is emulated in software.
pub fn slowly(within: Duration) -> Duration {
    within.mul_f64(factor("BELLJAR_TEST_SLOW"))
}

/// A load that is `whole` on an ordinary machine, divided by `BELLJAR_TEST_LOAD`,
/// and never below `least`, with which the test still proves something.
pub fn load(whole: u64, least: u64) -> u64 {
    ((whole as f64 / factor("BELLJAR_TEST_LOAD")) as u64).max(least)
}

fn factor(name: &str) -> f64 {
    let Some(text) = std::env::var(name).ok().filter(|text| !text.is_empty()) else { return 1.0 };
    let factor = text.parse().unwrap_or(0.0);
    assert!((1.0..=1000.0).contains(&factor), "{name}={text}: a number from 1 to 1000");
    factor
}

/// After this a program that still runs is killed, and the test fails.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// What is promised within a second, with room for a loaded machine.
pub const SOON: Duration = Duration::from_secs(4);
/// What no agent may read: it is in the project's `.env`.
pub const SECRET: &str = "belljar-test-secret-5d1f09";
/// Host ids that root's agents have lie above this.
pub const RESERVED_IDS: u32 = 1_900_000_000;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program under test.
pub fn belljar() -> PathBuf {
    std::env::var_os("BELLJAR_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_belljar")), PathBuf::from)
}

/// The program that runs inside, and in controls outside.
pub fn probe() -> PathBuf {
    let probe = std::env::var_os("BELLJAR_PROBE")
        .map_or_else(|| belljar().with_file_name("examples").join("probe"), PathBuf::from);
    assert!(probe.is_file(), "{} is missing: cargo build --example probe", probe.display());
    probe
}

/// The backend that these tests are about, where it is not the default:
/// `tests/run` runs the security tests again with `BELLJAR_TEST_BACKEND=podman`.
pub fn backend() -> Option<String> {
    std::env::var("BELLJAR_TEST_BACKEND").ok().filter(|backend| !backend.is_empty())
}

/// Whether these tests are about the podman backend.
pub fn below_podman() -> bool {
    backend().as_deref() == Some("podman")
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The uid of the person who runs the tests.
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Says loudly that a promise was not tested. Where `CI` is set it is a failure:
/// there everything has to be present.
pub fn skip(missing: &str) {
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!ci, "SKIPPED: {missing}");
    // Not by eprintln!, which the test runner keeps to itself.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {missing}");
}

/// A program of the system, whoever runs the tests.
pub fn system_program(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|directory| Path::new(directory).join(name)).find(|file| file.is_file())
}

/// Waits until `happened`; a failure when it has not within the deadline, which
/// is stretched where `BELLJAR_TEST_SLOW` says so.
pub fn eventually(what: &str, within: Duration, mut happened: impl FnMut() -> bool) {
    let within = slowly(within);
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(slowly(Duration::from_millis(5)));
    }
}

/// Numbers for moments and pauses: different in each run of the tests, and no
/// secret.
pub struct Dice(u64);

impl Dice {
    /// Seeded by the clock.
    pub fn new() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64);
        Self(now | 1)
    }

    /// A number below `limit` (xorshift64).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A person's surroundings for one test, removed with this value.
pub struct Jar {
    root: TempDir,
}

impl Jar {
    /// A home, and a git repository with a real `.env` in it.
    pub fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("bj-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary directory");
        let jar = Self { root };
        for directory in ["home", "belljar/config", "project/src"] {
            fs::create_dir_all(jar.path(directory)).expect("make a directory");
        }
        jar.write("project/.env", &format!("TOKEN={SECRET}\n"));
        jar.write("project/README.md", "an example\n");
        jar.write("project/src/main.rs", "fn main() {}\n");
        // What git's template brings besides is a dozen examples.
        jar.git(&["init", "-q", "-b", "main", "--template="]);
        fs::create_dir(jar.path("project/.git/hooks")).expect("make a directory");
        jar.write("project/.gitignore", ".env\n");
        jar.git(&["add", "-A"]);
        // Nobody's housekeeping: it starts two more programs.
        let who = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "maintenance.auto=false"];
        jar.git(&[&who[..], &["commit", "-qm", "first"]].concat());
        jar
    }

    /// A path of the test's own.
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// The same as text.
    pub fn text(&self, below: &str) -> String {
        self.path(below).to_string_lossy().into_owned()
    }

    /// The project directory.
    pub fn project(&self) -> PathBuf {
        self.path("project")
    }

    /// A group's folder, as the host sees it.
    pub fn group(&self, name: &str) -> PathBuf {
        self.path("belljar/data/groups").join(name)
    }

    /// Writes a file, and the directories on the way.
    pub fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("make the directories on the way");
        }
        fs::write(&path, text).expect("write a file");
        path
    }

    /// Writes a program.
    pub fn script(&self, below: &str, text: &str) -> PathBuf {
        let path = self.write(below, text);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("make it executable");
        path
    }

    /// Allows extra mounts below these directories, each `(path, read-write)`.
    pub fn allow(&self, roots: &[(&Path, bool)]) {
        let roots: Vec<serde_json::Value> =
            roots.iter().map(|(path, rw)| serde_json::json!({"path": path, "allowReadWrite": rw})).collect();
        let text = serde_json::json!({"allowedRoots": roots}).to_string();
        self.write("belljar/config/mount-allowlist.json", &text);
    }

    /// Puts the probe into main's folder: inside it is `/workspace/group/probe`.
    pub fn install_probe(&self) {
        fs::create_dir_all(self.group("main")).expect("make the group's folder");
        fs::copy(probe(), self.group("main").join("probe")).expect("copy the probe");
    }

    /// belljar with these arguments, in the project, without a terminal.
    pub fn belljar<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(belljar());
        let mut arguments = arguments.into_iter().peekable();
        let runs = arguments.peek().is_some_and(|first| ["run", "explain"].map(OsStr::new).contains(&first.as_ref()));
        command.args(arguments.by_ref().take(1));
        if let (true, Some(backend)) = (runs, backend()) {
            command.arg("--backend").arg(backend);
        }
        command.args(arguments);
        self.surround(&mut command);
        command
    }

    /// Gives a command this person's environment and directory.
    pub fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.path("home"))
            .env("BELLJAR_HOME", self.path("belljar"))
            .current_dir(self.project())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// `belljar ARGUMENTS…` to its end.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        finish(self.belljar(arguments), b"")
    }

    /// `belljar run OPTIONS… -- COMMAND…` to its end.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Outcome {
        self.call(&run_line(options, command))
    }

    /// `belljar run -- sh -c SCRIPT` to its end.
    pub fn sh(&self, script: &str) -> Outcome {
        self.run(&[], &["sh", "-c", script])
    }

    /// `belljar run OPTIONS… -- COMMAND…`, which goes on.
    pub fn start(&self, options: &[&str], command: &[&str]) -> Live {
        Live::start(self.belljar(run_line(options, command)))
    }

    /// The plan of a run, as JSON.
    pub fn plan(&self, options: &[&str], command: &[&str]) -> serde_json::Value {
        let mut line = vec!["explain", "--json"];
        line.extend(options);
        line.push("--");
        line.extend(command);
        self.call(&line).success().json()
    }

    /// What lies in the run directory: one entry for each live run.
    pub fn live_runs(&self) -> Vec<String> {
        names_in(&self.path("belljar/run"))
    }

    /// The receipts, oldest first.
    pub fn receipts(&self) -> Vec<serde_json::Value> {
        let directory = self.path("belljar/data/receipts");
        let mut receipts: Vec<serde_json::Value> = names_in(&directory)
            .into_iter()
            .filter(|name| name.ends_with(".json"))
            .map(|name| {
                let text = fs::read_to_string(directory.join(name)).expect("read a receipt");
                serde_json::from_str(&text).expect("a receipt is JSON")
            })
            .collect();
        receipts.sort_by_key(|receipt| receipt["started"].as_str().map(str::to_owned));
        receipts
    }

    fn git(&self, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.args(arguments);
        self.surround(&mut command);
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        finish(command, b"").success();
    }
}

fn run_line<'a>(options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let mut line = vec!["run"];
    line.extend(options);
    line.push("--");
    line.extend(command);
    line
}

/// Names in a directory, sorted; none when it is not there.
pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Everything below a directory, with kinds and sizes, sorted: to see whether
/// something was left, taken away or changed.
pub fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(next) = queue.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else {
                continue;
            };
            if meta.is_dir() {
                queue.push(entry.path());
            }
            let size = if meta.is_file() { meta.len() } else { 0 };
            found.push(format!("{} {:o} {size}", entry.path().display(), meta.permissions().mode()));
        }
    }
    found.sort();
    found
}
