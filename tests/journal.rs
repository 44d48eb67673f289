//! Promise: what happens is in the journal under belljar's fields, and an agent
//! can neither set nor forge one. A test is the journal here, on a real socket
//! with the journal's own protocol; the real one is asked in tests/vm.

mod harness;
mod world;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use harness::{Jar, finish, slowly};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use world::{TOKEN, World};

type Entry = BTreeMap<String, Vec<u8>>;

/// The journal, as far as belljar can see it.
struct Journal {
    entries: Receiver<Entry>,
    socket: UnixDatagram,
}

impl Journal {
    fn begin(world: &World) -> Self {
        let path = world.jar.path("world/journal/socket");
        let socket = UnixDatagram::bind(&path).expect("bind the journal's socket");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("open it to all");
        let (sender, entries) = channel();
        let reader = socket.try_clone().expect("a second descriptor");
        std::thread::spawn(move || Self::read(&reader, &sender));
        Self { entries, socket }
    }

    /// Everything that has come within a moment of silence.
    fn entries(&self) -> Vec<Entry> {
        let silence = slowly(Duration::from_millis(300));
        std::iter::from_fn(|| self.entries.recv_timeout(silence).ok()).collect()
    }

    fn read(socket: &UnixDatagram, entries: &Sender<Entry>) {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
            let mut into = [IoSliceMut::new(&mut buffer)];
            let got = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty());
            let Ok(message) = got else { return };
            let length = message.bytes;
            let files: Vec<i32> = message
                .cmsgs()
                .expect("control messages")
                .filter_map(|one| if let ControlMessageOwned::ScmRights(files) = one { Some(files) } else { None })
                .flatten()
                .collect();
            let bytes = match files.first() {
                #[allow(unsafe_code)]
                Some(file) => {
                    // SAFETY: the kernel has just made this descriptor for us.
                    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(*file) });
                    let mut bytes = Vec::new();
                    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read the entry's file");
                    bytes
                }
                None => buffer[..length].to_vec(),
            };
            if length == 0 && files.is_empty() || entries.send(parse(&bytes)).is_err() {
                return;
            }
        }
    }
}

impl Drop for Journal {
    /// Lets the reader end, and with it the socket.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// systemd, "Native Journal Protocol".
fn parse(mut bytes: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line feed");
        let line = &bytes[..end];
        bytes = &bytes[end + 1..];
        let (name, value) = match line.iter().position(|byte| *byte == b'=') {
            Some(at) => (&line[..at], line[at + 1..].to_vec()),
            None => {
                let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
                let length = usize::try_from(u64::from_le_bytes(*length)).expect("a length");
                assert_eq!(rest[length], b'\n');
                bytes = &rest[length + 1..];
                (line, rest[..length].to_vec())
            }
        };
        let name = String::from_utf8(name.to_vec()).expect("a name");
        assert!(entry.insert(name, value).is_none(), "a field twice");
    }
    entry
}

fn text<'a>(entry: &'a Entry, name: &str) -> &'a str {
    entry.get(name).map_or("", |value| std::str::from_utf8(value).expect("text"))
}

fn of<'a>(entries: &'a [Entry], event: &str) -> Vec<&'a Entry> {
    entries.iter().filter(|entry| text(entry, "BELLJAR_EVENT") == event).collect()
}

fn world() -> Option<(World, Journal)> {
    let world = World::with_journal()?;
    let journal = Journal::begin(&world);
    Some((world, journal))
}

#[test]
fn a_run_and_its_requests_have_their_fields_and_no_value_of_a_secret() {
    let Some((world, journal)) = world() else { return };
    world.groups(&["sales"]);
    world.secret("mail", &["--host", "a.test", "--bearer", "--group", "sales", "--env", "KEY"], TOKEN);
    world.policy("[[rule]]\nname = \"no b\"\nhost = \"b.test\"\naction = \"deny\"\n");
    let script =
        "curl -sS -H \"authorization: Bearer $KEY\" https://a.test/one?q=1; curl -sS https://b.test/two; exit 3";
    let out = world.run(&["--group", "sales", "--name", "post"], &["sh", "-c", script]).exits(3);
    assert!(!out.err().contains("belljar"), "{}", out.err());
    let entries = journal.entries();
    let run = world.jar.receipts()[0]["run"].as_str().expect("a run").to_owned();
    for entry in &entries {
        assert_eq!((text(entry, "BELLJAR_RUN"), text(entry, "BELLJAR_GROUP")), (run.as_str(), "sales"), "{entry:?}");
        assert_eq!(text(entry, "SYSLOG_IDENTIFIER"), "belljar");
        assert!(["3", "5", "6", "7"].contains(&text(entry, "PRIORITY")));
        assert!(!text(entry, "MESSAGE").is_empty());
        assert!(!format!("{entry:?}").contains("q=1"));
        for value in entry.values() {
            assert!(!String::from_utf8_lossy(value).contains(TOKEN));
        }
    }
    assert_eq!(text(of(&entries, "started")[0], "BELLJAR_NAME"), "post");
    let ended = of(&entries, "ended");
    assert_eq!(
        (ended.len(), text(ended[0], "BELLJAR_EXIT_CODE"), text(ended[0], "BELLJAR_CAUSE")),
        (1, "3", "exited with 3")
    );
    let requests = of(&entries, "request");
    let at = |path: &str| *requests.iter().find(|entry| text(entry, "BELLJAR_PATH") == path).expect("the request");
    let one = at("/one");
    assert_eq!((text(one, "BELLJAR_HOST"), text(one, "BELLJAR_METHOD")), ("a.test", "GET"));
    assert_eq!((text(one, "BELLJAR_SECRET"), text(one, "BELLJAR_STATUS"), text(one, "PRIORITY")), ("mail", "200", "6"));
    let two = at("/two");
    assert_eq!(
        (text(two, "BELLJAR_ACTION"), text(two, "BELLJAR_RULE"), text(two, "PRIORITY")),
        ("denied_by_policy", "no b", "5")
    );
}

#[test]
fn a_refusal_is_there_in_its_own_words() {
    let Some((world, journal)) = world() else { return };
    world.call(&["run", "--group", "nobody", "--", "true"]).exits(125);
    let entries = journal.entries();
    let refused = of(&entries, "refused");
    assert_eq!((refused.len(), entries.len()), (1, 1));
    assert_eq!((text(refused[0], "BELLJAR_GROUP"), text(refused[0], "PRIORITY")), ("nobody", "3"));
    assert!(text(refused[0], "MESSAGE").contains("there is no group `nobody`"));
    assert!(text(refused[0], "BELLJAR_HINT").contains("belljar group add nobody"));
}

/// Runs a script whose stdout is a file that JOURNAL_STREAM names, or another.
fn with_stream(world: &World, script: &str, right: bool) -> String {
    let path = world.jar.path("stream");
    let stream = File::create(&path).expect("make the stream");
    let meta = stream.metadata().expect("its numbers");
    let mut command = world.run_command(&[], &["sh", "-c", script]);
    let inode = meta.ino() + u64::from(!right);
    command.env("JOURNAL_STREAM", format!("{}:{inode}", meta.dev()));
    command.stdout(Stdio::from(stream)).stderr(Stdio::null());
    assert!(command.stdin(Stdio::null()).status().expect("start belljar").success());
    String::from_utf8_lossy(&fs::read(path).expect("read the stream")).into_owned()
}

#[test]
fn the_agents_output_is_there_line_by_line_and_forges_nothing() {
    let Some((world, journal)) = world() else { return };
    let script = r#"printf 'one\n\ntwo=2\nMESSAGE=x\nBELLJAR_GROUP=other\n'; printf 'a\0b\377\n'; head -c 300000 /dev/zero | tr '\0' y; printf '\nlast'"#;
    assert_eq!(with_stream(&world, script, true), "", "nothing goes to the stream");
    let entries = journal.entries();
    let output = of(&entries, "output");
    let lines: Vec<&[u8]> = output.iter().map(|entry| entry["MESSAGE"].as_slice()).collect();
    assert_eq!(lines[..6], [b"one".as_slice(), b"", b"two=2", b"MESSAGE=x", b"BELLJAR_GROUP=other", b"a\0b\xff"]);
    assert_eq!(lines.last(), Some(&b"last".as_slice()));
    let long: usize = lines[6..lines.len() - 1].iter().map(|line| line.len()).sum();
    assert_eq!(long, 300_000, "a long line loses nothing");
    for entry in &output {
        assert_eq!((text(entry, "BELLJAR_GROUP"), text(entry, "BELLJAR_STREAM")), ("main", "stdout"));
    }
}

#[test]
fn a_stream_that_is_not_the_journals_gets_the_output_itself() {
    let Some((world, journal)) = world() else { return };
    assert_eq!(with_stream(&world, "echo hello", false), "hello\n");
    assert!(of(&journal.entries(), "output").is_empty());
}

#[test]
fn a_journal_that_goes_loses_no_output_and_stops_no_run() {
    let Some((world, journal)) = world() else { return };
    let socket = world.jar.path("world/journal/socket");
    drop(journal);
    // The name is there, and nobody listens.
    assert_eq!(with_stream(&world, "echo hello; echo again", true), "hello\nagain\n");
    fs::remove_file(socket).expect("remove the socket");
    assert_eq!(with_stream(&world, "echo hello", true), "hello\n");
    let out = world.sh("echo hi").success();
    assert_eq!((out.out().as_str(), out.err().as_str()), ("hi\n", ""));
}

#[test]
fn a_journal_that_does_not_read_stops_no_run() {
    let Some(world) = World::with_journal() else { return };
    let _socket = UnixDatagram::bind(world.jar.path("world/journal/socket")).expect("bind");
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("not to wait");
    while filler.send_to(&[b'x'; 1024], world.jar.path("world/journal/socket")).is_ok() {}
    let out = world.sh("echo hi").success();
    assert_eq!(out.out(), "hi\n");
}

#[test]
fn where_it_goes_is_configured() {
    let jar = Jar::new();
    let told = |to: &str| {
        jar.write("belljar/config/config.toml", &format!("[log]\nto = \"{to}\"\n"));
        let out = jar.run(&[], &["sh", "-c", "echo hi; exit 2"]).exits(2);
        assert_eq!(out.out(), "hi\n");
        out.err()
    };
    assert_eq!(told("none"), "");
    assert_eq!(told("auto"), "");
    let lines = told("stderr");
    assert!(lines.contains("run of group main ended: exited with 2") && lines.contains("event=ended"), "{lines}");
    let objects: Vec<serde_json::Value> =
        told("json").lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let ended = objects.iter().find(|object| object["event"] == "ended").expect("the end");
    assert_eq!((&ended["group"], &ended["exit_code"], &ended["priority"]), (&"main".into(), &"2".into(), &"5".into()));
    jar.write("belljar/config/config.toml", "[log]\nto = \"syslog\"\n");
    jar.run(&[], &["true"]).exits(125).says(&["config.toml:2", "syslog"]);
}

#[test]
fn a_unit_is_told_when_the_agent_has_been_started_and_the_agent_hears_nothing_of_it() {
    let jar = Jar::new();
    let path = jar.path("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(slowly(Duration::from_millis(300)))).expect("set a timeout");
    let heard = || {
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            all.push_str(&String::from_utf8_lossy(&buffer[..length]));
            all.push('\n');
        }
        all
    };
    let mut command = jar.belljar(["run", "--", "env"]);
    command.env("NOTIFY_SOCKET", &path);
    let out = finish(command, b"").success();
    assert!(!out.out().contains("NOTIFY"), "{}", out.out());
    let said = heard();
    assert!(said.contains("READY=1") && said.contains("STATUS="), "{said}");
    let mut command = jar.belljar(["run", "--group", "nobody", "--", "env"]);
    command.env("NOTIFY_SOCKET", &path);
    finish(command, b"").exits(125);
    assert!(!heard().contains("READY"), "a refused run is never ready");
    let mut command = jar.belljar(["run", "--", "sleep", "60"]);
    command.env("NOTIFY_SOCKET", &path);
    let live = harness::Live::start(command);
    harness::eventually("it is ready", harness::SOON, || heard().contains("READY=1"));
    live.signal(nix::sys::signal::Signal::SIGTERM);
    live.wait().exits(143);
    assert!(heard().contains("STOPPING=1"));
}
