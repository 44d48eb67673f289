//! Live runs without containers, and processes that use the store: this test
//! executable again.

// Two test executables compile this module, and each uses a part of it.
#![allow(dead_code)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use belljar::config::Dirs;
use belljar::record::{Entry, Kind, Log};
use belljar::store::{Body, Held, Scope, Store, Verdict};
use nix::fcntl::{Flock, FlockArg};

use super::harness::Jar;

const WHAT: &str = "BELLJAR_TEST_CHILD";
const HOME: &str = "BELLJAR_TEST_HOME";

fn dirs_in(home: PathBuf) -> Dirs {
    Dirs { config: home.join("config"), data: home.join("data"), run: home.join("run") }
}

pub fn dirs(jar: &Jar) -> Dirs {
    dirs_in(jar.path("belljar"))
}

pub fn store(jar: &Jar) -> Store {
    Store::open(&dirs(jar)).expect("open the store")
}

/// The file, past belljar.
pub fn database(jar: &Jar) -> rusqlite::Connection {
    rusqlite::Connection::open(jar.path("belljar/data/belljar.db")).expect("open the file")
}

/// The file of a live run as a supervisor keeps it; the run dies with this value.
pub struct LiveRun {
    pub id: String,
    _lock: Flock<File>,
}

impl LiveRun {
    pub fn new(jar: &Jar, id: &str) -> Self {
        let live = dirs(jar).live();
        fs::create_dir_all(&live).expect("make the directory");
        let state = serde_json::json!({
            "run": id, "name": null, "group": "main", "pid": std::process::id(), "started": "", "command": [],
            "directory": dirs(jar).run.join(id), "cgroup": null,
        });
        let path = live.join(format!("{id}.json"));
        fs::write(&path, state.to_string()).expect("write");
        let file = File::options().write(true).open(path).expect("open");
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).expect("lock");
        Self { id: id.to_owned(), _lock: lock }
    }
}

/// A request of that run.
pub fn held(run: &LiveRun, method: &str, path: &str) -> Held {
    Held {
        run: run.id.clone(),
        scope: Scope {
            group: "main".into(),
            rule: "mail needs a person".into(),
            method: method.into(),
            scheme: "https".into(),
            host: "mail.example".into(),
            port: 443,
            path: path.into(),
        },
        query: None,
        content_type: Some("text/plain".into()),
        secret: None,
        body: Body::Whole(b"hello".to_vec()),
        wait: Duration::from_secs(60),
    }
}

/// This executable `count` times, each doing `what`; what they said.
pub fn in_children(jar: &Jar, what: &str, count: usize, meanwhile: impl FnOnce(&mut [Child])) -> Vec<String> {
    let mut children: Vec<Child> = (0..count)
        .map(|_| {
            Command::new(std::env::current_exe().expect("this executable"))
                .args(["child::is_another_process", "--exact", "--nocapture"])
                .env(WHAT, what)
                .env(HOME, jar.path("belljar"))
                .stdout(Stdio::piped())
                .spawn()
                .expect("start")
        })
        .collect();
    meanwhile(&mut children);
    let end = |child: Child| String::from_utf8_lossy(&child.wait_with_output().expect("wait").stdout).into_owned();
    children.into_iter().map(end).collect()
}

/// What a child does; nothing in the tests' own process.
#[test]
fn is_another_process() {
    let (Some(what), Some(home)) = (std::env::var_os(WHAT), std::env::var_os(HOME)) else { return };
    let dirs = dirs_in(PathBuf::from(home));
    match what.to_str() {
        Some("take") => {
            let store = Store::open(&dirs).expect("open");
            for _ in 0..20 {
                let taken = store.take("main", "ten", 10, Duration::from_secs(60)).expect("take");
                println!("{}", if taken == belljar::store::Taken::Granted { "granted" } else { "no" });
            }
        }
        Some("write") => {
            let store = Store::open(&dirs).expect("open");
            let run = "20260101-000000000-aaaaaa";
            let lock = Flock::lock(tempfile::tempfile().expect("a file"), FlockArg::LockExclusiveNonblock);
            let run = LiveRun { id: run.into(), _lock: lock.map_err(|(_, errno)| errno).expect("lock") };
            loop {
                let mut held = held(&run, "POST", "/");
                held.body = Body::Whole(vec![b'x'; 300_000]);
                let id = store.hold(held).expect("hold").id;
                store.take("main", "many", 1_000_000, Duration::from_millis(5)).expect("take");
                let _ = store.decide(&id, Verdict::Approve { more: Some(Duration::from_secs(1)) }, "child");
            }
        }
        Some("record") => {
            let log = Log::create(&dirs, "killed", "main", belljar::journal::To::None).expect("create");
            loop {
                let mut entry = Entry::new(Kind::Request, SystemTime::now());
                entry.path = Some("/x".repeat(3000));
                match log.append(&entry) {
                    Ok(()) => println!("written"),
                    Err(error) => break println!("{error}"),
                }
            }
        }
        _ => panic!("nobody does {what:?}"),
    }
}
