//! A host process that a test starts, kills and starts again; what is said to it, and
//! what it says.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Jar, Live, Outcome, SOON, eventually, slowly};

/// The program of a channel: tests/host/channel.py.
const CHANNEL: &str = include_str!("../host/channel.py");

/// A person's host process.
pub struct Host {
    /// Its surroundings.
    pub jar: Jar,
    live: Option<Live>,
    options: Vec<String>,
}

impl Host {
    /// With this configuration, which main's project is added to, and these groups.
    pub fn start(config: &str, groups: &[&str]) -> Self {
        Self::start_with(&[], config, groups)
    }

    /// The same, with options of `belljar serve`.
    pub fn start_with(options: &[&str], config: &str, groups: &[&str]) -> Self {
        let mut host = Self::prepare(options, groups);
        host.configure(config);
        host.again();
        host
    }

    /// Not started yet.
    pub fn prepare(options: &[&str], groups: &[&str]) -> Self {
        let jar = Jar::new();
        for group in groups {
            jar.call(&["group", "add", group]).success();
        }
        Self { jar, live: None, options: options.iter().map(|option| (*option).to_owned()).collect() }
    }

    /// Writes config.toml. `$JAR` is the test's directory.
    pub fn configure(&self, config: &str) {
        let config = config.replace("$JAR", &self.jar.text(""));
        self.jar.write("belljar/config/config.toml", &config);
    }

    /// Starts it, and waits until it listens.
    pub fn again(&mut self) {
        self.begin();
        eventually("it listens", 3 * SOON, || UnixStream::connect(self.socket()).is_ok());
    }

    /// Starts it.
    pub fn begin(&mut self) {
        assert!(self.live.is_none(), "one host process at a time");
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.live = Some(Live::start(self.jar.belljar([&["serve"], &options[..]].concat())));
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut live = self.live.take().expect("it runs");
        live.signal(Signal::SIGKILL);
        assert!(live.ends_before(std::time::Instant::now() + slowly(SOON)), "nothing survives SIGKILL");
    }

    /// Ends it as systemd does; what it said.
    pub fn end(&mut self) -> Outcome {
        let live = self.live.take().expect("it runs");
        live.signal(Signal::SIGTERM);
        live.wait().success()
    }

    /// What its log holds.
    pub fn log(&self) -> String {
        self.live.as_ref().map_or_else(String::new, Live::so_far_err)
    }

    /// Its process id.
    pub fn pid(&self) -> nix::unistd::Pid {
        self.live.as_ref().expect("it runs").pid()
    }

    /// Where it is reached.
    pub fn socket(&self) -> PathBuf {
        self.jar.path("belljar/data/belljar.sock")
    }

    /// Asks it over HTTP.
    pub fn ask(&self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.socket()).expect("connect");
        stream.set_read_timeout(Some(slowly(Duration::from_secs(60)))).expect("set a timeout");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: {length}");
        // A refusal may come before all of it was sent.
        let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Says something in a chat; what became of it.
    pub fn say(&self, chat: &str, text: &str) -> Value {
        self.post(&json!({"chat": chat, "text": text, "sender": "ann"}))
    }

    /// `POST /messages`.
    pub fn post(&self, message: &Value) -> Value {
        let (status, answer) = self.ask("POST", "/messages", message);
        assert_eq!(status, 202, "{answer}");
        answer
    }

    /// All that was said to people in a chat.
    pub fn said(&self, chat: &str) -> Vec<String> {
        let chat = chat.replace('#', "%23");
        let (status, answer) = self.ask("GET", &format!("/messages?chat={chat}"), &Value::Null);
        assert_eq!(status, 200, "{answer}");
        answer.as_array().into_iter().flatten().filter_map(|one| one["text"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until so much was said in a chat; all of it.
    pub fn wait_said(&self, chat: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} answers in {chat}; the log: {}", self.log()), 8 * SOON, || {
            self.said(chat).len() >= count
        });
        self.said(chat)
    }

    /// Waits for nothing to be going on in a group, and to be sent.
    pub fn settle(&self) {
        eventually("nothing goes on", 8 * SOON, || {
            self.ask("GET", "/status", &Value::Null).1["runs"] == 0
                && self.count("SELECT count(*) FROM message WHERE state = 'given'") == 0
        });
    }

    /// A number from the store.
    pub fn count(&self, query: &str) -> i64 {
        let path = self.jar.path("belljar/data/belljar.db");
        let database = rusqlite::Connection::open(path).expect("open the store");
        database.busy_timeout(slowly(SOON)).expect("set a timeout");
        database.query_row(query, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// A file in a group's folder.
    pub fn file(&self, group: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.jar.group(group).join(name)).ok()
    }

    /// Waits for a file in a group's folder, with something in it.
    pub fn wait_file(&self, group: &str, name: &str) -> String {
        eventually(&format!("{name} of {group}; the log: {}", self.log()), 8 * SOON, || {
            self.file(group, name).is_some_and(|text| !text.is_empty())
        });
        self.file(group, name).unwrap_or_default()
    }
}

/// A channel whose network is files below the jar's directory `channel-NAME`.
pub struct Channel {
    directory: PathBuf,
}

impl Channel {
    /// Of this name; with the program's options: `remembers`, or nothing.
    pub fn new(jar: &Jar, name: &str) -> Self {
        jar.write("channel.py", CHANNEL);
        let directory = jar.path(&format!("channel-{name}"));
        fs::create_dir_all(&directory).expect("make a directory");
        Self { directory }
    }

    /// Its section of config.toml.
    pub fn section(name: &str, options: &str) -> String {
        let options: String = options.split_whitespace().map(|option| format!(", \"{option}\"")).collect();
        format!("[channel.{name}]\ncommand = [\"python3\", \"$JAR/channel.py\", \"$JAR/channel-{name}\"{options}]\n")
    }

    /// A line of the program's.
    pub fn line(&self, line: &str) {
        let path = self.directory.join("feed");
        let mut feed = fs::File::options().create(true).append(true).open(path).expect("open the feed");
        feed.write_all(format!("{line}\n").as_bytes()).expect("write to the feed");
    }

    /// Somebody says something.
    pub fn hears(&self, id: &str, chat: &str, (sender, text): (&str, &str)) {
        let line = json!({"type": "message", "id": id, "chat": chat, "sender": sender, "text": text});
        self.line(&line.to_string());
    }

    /// What the program does at its next message: see the program.
    pub fn next(&self, what: &str) {
        fs::write(self.directory.join(what), "").expect("write a file");
    }

    /// Whether it has done so.
    pub fn has_done(&self, what: &str) -> bool {
        !self.directory.join(what).exists()
    }

    /// What reached the network.
    pub fn sent(&self) -> Vec<Value> {
        self.log("sent")
    }

    /// One of its logs: `sent`, `asked` (each `send`), `told` (each other line), `stored`, `begun`.
    pub fn log(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until so much reached the network; all of it.
    pub fn wait_sent(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} messages in {}", self.directory.display()), 8 * SOON, || {
            self.sent().len() >= count
        });
        self.sent()
    }

    /// Waits until the host has answered for a message.
    pub fn wait_stored(&self, id: &str) {
        eventually(&format!("{id} is stored"), 4 * SOON, || self.log("stored").iter().any(|one| *one == json!(id)));
    }
}
