//! A world for one test: a host with belljar on it, and an internet with public
//! names and addresses, in namespaces that go with the test. `world.sh` makes
//! it; `tests/origin` answers in it, and writes down what it received.

// Every test executable compiles this module, and each uses a part of it.
#![allow(dead_code, unused_imports)]

mod log;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Jar, Live, Outcome, SOON, belljar, finish, is_root, skip, slowly, system_program};

pub use log::{all_headers, header, json_lines};

const SCRIPT: &str = include_str!("world.sh");
/// For attacks: sockets, TLS and requests that no library would send. With how
/// much slower than an ordinary machine this one is said to be.
pub fn prelude() -> String {
    format!("SLOW = {}\n{}", slowly(Duration::from_secs(1)).as_secs_f64(), include_str!("prelude.py"))
}

/// The value of every test's secret: with characters that each way of writing
/// it down writes differently.
pub const CANARY: &str = "cAnArY+9f/3b~7\"e=51d0\\w&Zq";
/// One that every tool and header takes as it is.
pub const TOKEN: &str = "tok-canary-8d31f7c2a9e04b56-Zq";
/// Where the world's private name server and host are, seen from the origins.
pub const HOST: &str = "198.51.100.1";

/// A host, an internet, and a person's surroundings on that host.
pub struct World {
    /// The person.
    pub jar: Jar,
    live: Live,
    host: String,
    internet: String,
    joined: String,
}

impl World {
    /// Makes one; nothing, loudly, where the machine cannot.
    pub fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// One in which origins listen on the host's own addresses too.
    pub fn with_host_origin() -> Option<Self> {
        Self::with(&[("WORLD_HOST_ORIGIN", "1")])
    }

    /// One in which a test can be the journal, at `world/journal/socket`.
    pub fn with_journal() -> Option<Self> {
        Self::with(&[("WORLD_JOURNAL", "1")])
    }

    fn with(variables: &[(&str, &str)]) -> Option<Self> {
        for program in ["ip", "unshare", "nsenter"] {
            if system_program(program).is_none() {
                skip(&format!("{program}, to make a world for the gateway's tests"));
                return None;
            }
        }
        let jar = Jar::new();
        fs::create_dir_all(jar.path("world")).expect("make a directory");
        let mut command = Command::new("bash");
        command.args(["-c", SCRIPT, "world.sh"]).arg(jar.path("world")).arg(origin());
        jar.surround(&mut command);
        command.envs(variables.iter().copied()).stdin(Stdio::piped());
        let live = Live::start(command);
        live.wait_for("READY ");
        live.wait_for("\n");
        let text = live.so_far();
        let ready = text.lines().find_map(|line| line.strip_prefix("READY ")).expect("a line");
        let ids: Vec<&str> = ready.split(' ').collect();
        let [host, internet, joined] = ids.as_slice() else { panic!("not three ids: {ready}") };
        let world = Self {
            host: (*host).to_owned(),
            internet: (*internet).to_owned(),
            joined: (*joined).to_owned(),
            jar,
            live,
        };
        world.config("");
        Some(world)
    }

    /// `config.toml`, in which the origins' authority is an extra root. `more`
    /// continues the section `[gateway]`.
    pub fn config(&self, more: &str) {
        let roots = self.jar.text("world/ca.pem");
        self.jar.write("belljar/config/config.toml", &format!("[gateway]\nextra_roots = [\"{roots}\"]\n{more}"));
    }

    /// `policy.toml`.
    pub fn policy(&self, text: &str) {
        self.jar.write("belljar/config/policy.toml", text);
    }

    /// A program on the world's host, as the person who runs the tests.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.host]);
        if is_root() {
            command.args(["--net", "--mount"]);
        } else {
            command.args(["--user", "--net", "--mount", "--preserve-credentials"]);
            command.args(["nsenter", "--target", &self.joined, "--user", "--preserve-credentials"]);
        }
        command.args(["env", "-C"]).arg(self.jar.project()).arg(program);
        self.jar.surround(&mut command);
        command
    }

    /// A program in the internet's network, and its root there.
    pub fn out_there(&self, program: &str, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.internet, "--net"]);
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg(program).args(arguments);
        self.jar.surround(&mut command);
        finish(command, b"")
    }

    /// belljar on the world's host.
    pub fn belljar<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(belljar());
        command.args(arguments);
        command
    }

    /// `belljar ARGUMENTS…` to its end.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        finish(self.belljar(arguments), b"")
    }

    /// `belljar run OPTIONS… -- COMMAND…`, not yet started.
    pub fn run_command(&self, options: &[&str], command: &[&str]) -> Command {
        let line = ["run"].iter().chain(options).chain(&["--"]).chain(command).copied().collect::<Vec<_>>();
        self.belljar(line)
    }

    /// `belljar run OPTIONS… -- COMMAND…` to its end.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Outcome {
        finish(self.run_command(options, command), b"")
    }

    /// `belljar run -- sh -c SCRIPT` to its end.
    pub fn sh(&self, script: &str) -> Outcome {
        self.run(&[], &["sh", "-c", script])
    }

    /// A Python program in a belljar, after the prelude.
    pub fn python(&self, options: &[&str], script: &str) -> Outcome {
        self.run(options, &["/usr/bin/python3", "-c", &format!("{}\n{script}", prelude())])
    }

    /// `belljar run OPTIONS… -- COMMAND…`, which goes on.
    pub fn start(&self, options: &[&str], command: &[&str]) -> Live {
        Live::start(self.run_command(options, command))
    }

    /// A control: a program on the world's host, outside of any belljar, which
    /// trusts the origins.
    pub fn outside(&self, program: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.command(program);
        command.args(arguments);
        let authority = self.jar.path("world/ca.pem");
        for name in ["CURL_CA_BUNDLE", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"] {
            command.env(name, &authority);
        }
        finish(command, b"")
    }

    /// The control of [`World::python`].
    pub fn python_outside(&self, script: &str) -> Outcome {
        self.outside("/usr/bin/python3", &["-c", &format!("OUTSIDE = True\n{}\n{script}", prelude())])
    }

    /// `belljar secret add NAME OPTIONS…` with this value.
    pub fn secret(&self, name: &str, options: &[&str], value: &str) {
        let line = ["secret", "add", name].iter().chain(options).copied().collect::<Vec<_>>();
        finish(self.belljar(line), value.as_bytes()).success();
    }

    /// Adds groups.
    pub fn groups(&self, names: &[&str]) {
        for name in names {
            self.call(&["group", "add", name]).success();
        }
    }

    /// Where the origins' logs are.
    pub fn internet(&self, below: &str) -> PathBuf {
        self.jar.path("world/internet").join(below)
    }

    /// The requests that origins received.
    pub fn requests(&self) -> Vec<Value> {
        json_lines(&self.internet("requests.jsonl")).into_iter().filter(|line| line["event"] == "request").collect()
    }

    /// The requests whose path begins with this.
    pub fn requests_to(&self, path: &str) -> Vec<Value> {
        self.requests().into_iter().filter(|one| one["path"].as_str().is_some_and(|at| at.starts_with(path))).collect()
    }

    /// The one request whose path begins with this.
    pub fn received(&self, path: &str) -> Value {
        let mut found = self.requests_to(path);
        assert_eq!(found.len(), 1, "requests to {path}: {found:?}\nall: {:?}", self.requests());
        found.remove(0)
    }

    /// How the body of a request ended, once it has.
    pub fn body_of(&self, request: &Value) -> Option<Value> {
        json_lines(&self.internet("requests.jsonl"))
            .into_iter()
            .find(|line| line["event"] == "body" && line["id"] == request["id"])
    }

    /// What came that was no request, of this kind: `tcp`, `hello`, `udp`, `dns`.
    pub fn packets(&self, event: &str) -> Vec<Value> {
        json_lines(&self.internet("packets.jsonl")).into_iter().filter(|line| line["event"] == event).collect()
    }

    /// All that anybody sent to anybody.
    pub fn everything(&self) -> String {
        ["requests.jsonl", "packets.jsonl"]
            .iter()
            .map(|name| fs::read_to_string(self.internet(name)).unwrap_or_default())
            .collect()
    }

    /// The record of the only, or the latest, run.
    pub fn record(&self) -> Vec<Value> {
        let receipts = self.jar.receipts();
        let run = receipts.last().and_then(|receipt| receipt["run"].as_str()).expect("a receipt");
        let text = self.call(&["log", run, "--json"]).success().out();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of the record is JSON")).collect()
    }
}

impl Drop for World {
    /// Lets the script end the servers: killed, it would leave them behind.
    fn drop(&mut self) {
        drop(self.live.stdin.take());
        self.live.ends_before(Instant::now() + slowly(SOON));
    }
}

/// The program that is the internet's servers.
fn origin() -> PathBuf {
    let origin = std::env::var_os("BELLJAR_ORIGIN")
        .map_or_else(|| belljar().with_file_name("examples").join("origin"), PathBuf::from);
    assert!(origin.is_file(), "{} is missing: cargo build --example origin", origin.display());
    origin
}

/// Whether the program is on this host; says it loudly when it is not.
pub fn has(program: &str) -> bool {
    let found = system_program(program).is_some();
    if !found {
        skip(&format!("{program} below /usr"));
    }
    found
}

/// A file's text; nothing when it is not there.
pub fn text_of(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
