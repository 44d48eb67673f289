//! A host process with groups whose agents' files are written from here: on disk they
//! are the caller's, whoever writes them.

// Two test executables compile this module, and each uses a part of it.
#![allow(dead_code)]

pub mod outside;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::harness::{Jar, Live, SOON, eventually, names_in, slowly};

/// Where agents put files.
pub const KINDS: [&str; 2] = ["messages", "tasks"];

/// What an agent says in its own chat.
pub fn message(text: &str) -> String {
    json!({"type": "message", "text": text}).to_string()
}

/// A host process, or what one that was killed has left.
pub struct Host {
    pub jar: Jar,
    live: Option<Live>,
}

impl Host {
    /// Groups beside main; each group has the chat `irc:#NAME`.
    pub fn start(groups: &[&str]) -> Self {
        Self::start_with(groups, "")
    }

    /// The same, with more in config.toml.
    pub fn start_with(groups: &[&str], config: &str) -> Self {
        let mut host = Self::prepared(groups, config);
        host.again();
        host
    }

    /// Groups, and nobody who serves them yet.
    pub fn prepared(groups: &[&str], config: &str) -> Self {
        let jar = Jar::new();
        let main = format!("[group.main]\nproject = \"{}\"\ncommand = [\"cat\"]\n", jar.project().display());
        jar.write("belljar/config/config.toml", &(main + "[host]\nretry = \"100ms\"\ntime_zone = \"UTC\"\n" + config));
        for group in groups {
            jar.call(&["group", "add", group]).success();
        }
        for group in groups.iter().chain(&["main"]) {
            jar.call(&["group", "set", group, "--chat", &format!("irc:#{group}")]).success();
        }
        Self { jar, live: None }
    }

    /// Starts it, and waits until it listens.
    pub fn again(&mut self) {
        self.begin();
        eventually("the host process listens", 4 * SOON, || UnixStream::connect(self.socket()).is_ok());
        // It opens the groups' directories next; files that come before that wait there.
        let is_open = |group: String| group.starts_with('.') || self.data("ipc/.refused").join(group).is_dir();
        eventually("it has the directories", 4 * SOON, || {
            let groups = names_in(&self.data("ipc"));
            groups.contains(&"main".to_owned()) && groups.into_iter().all(is_open)
        });
    }

    /// Starts it, and waits for nothing.
    pub fn begin(&mut self) {
        self.live = Some(Live::start(self.jar.belljar(["serve"])).within(Duration::from_secs(600)));
    }

    /// Kills it, at whatever it does.
    pub fn kill(&mut self) {
        if let Some(live) = self.live.take() {
            live.signal(Signal::SIGKILL);
        }
    }

    /// What it has said to its log.
    pub fn log(&self) -> String {
        self.live.as_ref().map_or_else(String::new, Live::so_far_err)
    }

    fn socket(&self) -> PathBuf {
        self.jar.path("belljar/data/belljar.sock")
    }

    /// A path below belljar's data.
    pub fn data(&self, below: &str) -> PathBuf {
        self.jar.path("belljar/data").join(below)
    }

    /// A group's directory `messages`, `tasks` or `input`.
    pub fn inbox(&self, group: &str, kind: &str) -> PathBuf {
        self.data("ipc").join(group).join(kind)
    }

    /// Puts a file there as agents do: written beside, and renamed.
    pub fn put(&self, group: &str, kind: &str, name: &str, bytes: impl AsRef<[u8]>) {
        put_into(&self.inbox(group, kind), name, bytes.as_ref());
    }

    /// What was said in a chat, by the API.
    pub fn said(&self, chat: &str) -> Vec<String> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let chat = chat.replace('#', "%23");
            let target = format!("/messages?chat={chat}&after={after}");
            let answer = ask(&self.socket(), &target);
            let some = answer.as_array().cloned().unwrap_or_else(|| panic!("no messages: {answer}"));
            let Some(last) = some.last() else { return all };
            after = last["seq"].as_i64().expect("a number");
            all.extend(some.iter().map(|one| one["text"].as_str().expect("a text").to_owned()));
        }
    }

    /// A group's agent says something by a file, and it is said within a second, with
    /// room for a loaded machine.
    pub fn serves(&self, group: &str) {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let text = format!("honest {number}");
        self.put(group, "messages", &format!("honest-{number}.json"), message(&text));
        eventually(&format!("{group} is served"), SOON, || self.has_said(group, &text));
    }

    /// Whether a group's agent has said this in its own chat.
    pub fn has_said(&self, group: &str, text: &str) -> bool {
        let count: i64 = self
            .database()
            .query_row(
                "SELECT count(*) FROM outgoing WHERE grp = ?1 AND chat = ?2 AND text = ?3",
                [group, &format!("irc:#{group}"), text],
                |row| row.get(0),
            )
            .expect("count");
        count == 1
    }

    /// The file, past belljar.
    pub fn database(&self) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.data("belljar.db"), flags).expect("open the file");
        connection.busy_timeout(slowly(Duration::from_secs(10))).expect("set a timeout");
        connection
    }

    /// Rows of a query, as text.
    pub fn rows(&self, query: &str) -> Vec<String> {
        let database = self.database();
        let mut statement = database.prepare(query).expect("a query");
        let columns = statement.column_count();
        let mut rows = statement.query([]).expect("rows");
        let mut all = Vec::new();
        while let Some(row) = rows.next().expect("a row") {
            let fields = (0..columns).map(|at| match row.get_ref(at).expect("a field") {
                ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                other => format!("{other:?}"),
            });
            all.push(fields.collect::<Vec<_>>().join(" "));
        }
        all
    }

    /// All that an agent's operation could change, but for what records it.
    pub fn state(&self) -> Vec<String> {
        let mut all = Vec::new();
        for table in ["binding", "chat", "message", "outgoing", "session", "task", "task_run", "approval", "permit"] {
            all.push(table.to_owned());
            all.extend(self.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2")));
        }
        for file in ["belljar/data/groups.json", "belljar/config/config.toml", "belljar/config/mount-allowlist.json"] {
            all.push(fs::read_to_string(self.jar.path(file)).unwrap_or_default());
        }
        all.extend(names_in(&self.data("groups")));
        all
    }

    /// How many decisions about a group's agent are recorded.
    pub fn count_decisions(&self, group: &str) -> i64 {
        let count = "SELECT count(*) FROM decision WHERE grp = ?1";
        self.database().query_row(count, [group], |row| row.get(0)).expect("count")
    }

    /// The latest decision about a group's agent, as a person sees it.
    pub fn decision(&self, group: &str) -> Value {
        self.jar.call(&["group", "decisions", group, "--json"]).success().json()[0].clone()
    }

    /// What a group's agent reads of refusals, and takes away.
    pub fn take_refusals(&self, group: &str) -> Vec<Value> {
        let input = self.inbox(group, "input");
        let names = names_in(&input).into_iter().filter(|name| name.starts_with("refused-"));
        names
            .map(|name| {
                let text = fs::read_to_string(input.join(&name)).expect("read a refusal");
                fs::remove_file(input.join(&name)).expect("remove it");
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
            })
            .collect()
    }

    /// Files that were not understood: the reasons.
    pub fn reasons(&self, group: &str) -> Vec<String> {
        let aside = self.data("ipc/.refused").join(group);
        let names = names_in(&aside).into_iter().filter(|name| name.ends_with(".reason"));
        names.map(|name| fs::read_to_string(aside.join(name)).unwrap_or_default()).collect()
    }

    /// What is taken of a group's files and not finished.
    pub fn claimed(&self, group: &str) -> Vec<String> {
        names_in(&self.data("ipc/.claimed").join(group))
    }

    /// Whether nothing of a group's files waits.
    pub fn is_settled(&self, group: &str) -> bool {
        let waits = |kind| names_in(&self.inbox(group, kind)).iter().any(|name| name.ends_with(".json"));
        !KINDS.into_iter().any(waits) && self.claimed(group).is_empty()
    }
}

/// Puts a file into a directory as agents do.
pub fn put_into(directory: &Path, name: &str, bytes: &[u8]) {
    let beside = directory.join(format!("{name}.tmp"));
    fs::write(&beside, bytes).expect("write a file");
    fs::rename(&beside, directory.join(name)).expect("rename it");
}

fn ask(socket: &Path, target: &str) -> Value {
    let mut stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(slowly(Duration::from_secs(60)))).expect("set a timeout");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Files below a directory that hold these bytes; no link is followed.
pub fn files_with(directory: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(next) = queue.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                queue.push(entry.path());
            } else if kind.is_file()
                && entry.metadata().is_ok_and(|meta| meta.len() < 64 << 20)
                && fs::read(entry.path())
                    .is_ok_and(|content| content.windows(bytes.len()).any(|window| window == bytes))
            {
                found.push(entry.path());
            }
        }
    }
    found
}
