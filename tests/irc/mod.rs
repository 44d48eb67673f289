//! A real IRC server (ngircd), people on it, and the channel program under test.

// Each test executable compiles this module, and uses a part of it.
#![allow(dead_code)]

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Live, Outcome, SOON, belljar, eventually, finish, is_root, skip, slowly, system_program};

/// A directory that everybody can read, as ngircd has to that gives root up.
fn place() -> TempDir {
    let permissions = Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("bj-irc-").permissions(permissions).tempdir().expect("a temporary directory")
}

/// What is out of the ordinary about a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// The password that everybody has to say.
    pub password: Option<&'static str>,
    /// Whether it has a port with TLS, for `localhost`.
    pub tls: bool,
}

/// ngircd on loopback ports of its own.
pub struct Server {
    place: TempDir,
    program: PathBuf,
    port: u16,
    tls_port: u16,
    live: Option<Live>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Server {
    /// Starts it; none where ngircd is not installed.
    pub fn start(settings: Settings) -> Option<Self> {
        let Some(program) = system_program("ngircd") else {
            skip("ngircd");
            return None;
        };
        let place = place();
        let mut server = Self { place, program, port: free_port(), tls_port: free_port(), live: None };
        server.configure(settings);
        server.start_again();
        Some(server)
    }

    fn configure(&self, settings: Settings) {
        let path = |name: &str| self.place.path().join(name);
        fs::create_dir(path("conf.d")).expect("make a directory");
        let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("ask").expect("the tester has a name");
        let own_group = nix::unistd::Group::from_gid(own.gid).expect("ask").expect("and a group");
        let (user, group) =
            if is_root() { ("nobody".to_owned(), "nogroup".to_owned()) } else { (own.name, own_group.name) };
        let mut text = format!(
            "[Global]\nName = irc.test\nInfo = tests\nAdminEMail = a@irc.test\nListen = 127.0.0.1\nPorts = {}\n\
             ServerUID = {user}\nServerGID = {group}\nMotdPhrase = hello\n",
            self.port
        );
        if let Some(password) = settings.password {
            text.push_str(&format!("Password = {password}\n"));
        }
        text.push_str("[Limits]\nMaxNickLength = 30\nMaxConnectionsIP = 0\nMaxPenaltyTime = 0\n");
        text.push_str("[Options]\nDNS = no\nIdent = no\nPAM = no\n");
        text.push_str(&format!("IncludeDir = {}\n", path("conf.d").display()));
        if settings.tls {
            self.certify();
            text.push_str(&format!(
                "[SSL]\nCertFile = {}\nKeyFile = {}\nPorts = {}\n",
                path("cert.pem").display(),
                path("key.pem").display(),
                self.tls_port
            ));
        }
        fs::write(path("ngircd.conf"), text).expect("write the configuration");
    }

    /// An authority of its own, and a certificate for `localhost`.
    fn certify(&self) {
        let own_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "belljar tests: irc");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.not_after = date_time_ymd(2099, 1, 1);
        let made = authority.self_signed(&own_key).expect("a certificate");
        let issuer = Issuer::new(authority, own_key);
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        leaf.not_after = date_time_ymd(2098, 1, 1);
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        for (name, text) in [("ca.pem", made.pem()), ("cert.pem", leaf.pem()), ("key.pem", key.serialize_pem())] {
            fs::write(self.place.path().join(name), text).expect("write a file");
        }
    }

    /// Kills it, as a crash would.
    pub fn stop(&mut self) {
        let live = self.live.take().expect("it runs");
        live.signal(nix::sys::signal::Signal::SIGKILL);
    }

    /// Starts it where it was.
    pub fn start_again(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("-n").arg("-f").arg(self.place.path().join("ngircd.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let live = Live::start(command);
        eventually("ngircd listens", 2 * SOON, || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        self.live = Some(live);
    }

    /// Where it listens, on 127.0.0.1, without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with the authority of its certificate.
    pub fn authority(&self) -> PathBuf {
        self.place.path().join("ca.pem")
    }
}

/// Somebody on the server.
pub struct Person {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Person {
    /// Registers and joins.
    pub fn join(server: &Server, nick: &str, channel: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set a timeout");
        let mut person = Self { stream, heard: Vec::new() };
        person.say(&format!("NICK {nick}"));
        person.say("USER x 0 * :x");
        person.wait_for(" 001 ");
        person.say(&format!("JOIN {channel}"));
        person.wait_for(" 366 ");
        person.heard.clear();
        person
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) {
        self.say_bytes(format!("{line}\r\n").as_bytes());
    }

    /// Sends bytes.
    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Waits until the server has said this.
    pub fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + slowly(Duration::from_secs(20));
        while !self.heard().contains(text) {
            assert!(Instant::now() < until, "`{text}` never came: {}", self.heard());
            self.listen();
        }
    }

    /// Takes what has come, or waits a moment.
    pub fn listen(&mut self) {
        let mut buffer = [0; 4096];
        if let Ok(read) = self.stream.read(&mut buffer) {
            self.heard.extend_from_slice(&buffer[..read]);
        }
    }

    /// All that it has said since this person joined.
    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }

    /// The texts in a channel, whose name the server writes as it was first written.
    pub fn texts(&self, channel: &str) -> Vec<String> {
        let in_channel = |line: &str| {
            let (_, rest) = line.split_once(" PRIVMSG ")?;
            let (target, text) = rest.split_once(" :")?;
            target.eq_ignore_ascii_case(channel).then(|| text.to_owned())
        };
        self.heard().split("\r\n").filter_map(in_channel).collect()
    }
}

/// The channel program, and the directory that stays when it is started again.
pub struct Channel {
    place: TempDir,
    live: Option<Live>,
}

impl Channel {
    /// Not started yet.
    pub fn new() -> Self {
        let place = place();
        fs::create_dir(place.path().join("state")).expect("make a directory");
        Self { place, live: None }
    }

    /// A path of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).expect("write a file");
        self.path(name)
    }

    /// The command, for a server that is named like this.
    pub fn command_at(&self, server: &str, options: &[&str]) -> Command {
        let mut command = self.bare();
        command.args(["--server", server]).args(options);
        command
    }

    /// The command, without TLS.
    pub fn command(&self, server: &Server, options: &[&str]) -> Command {
        self.command_at(&format!("127.0.0.1:{}", server.port), &[&["--no-tls"], options].concat())
    }

    fn bare(&self) -> Command {
        let mut command = Command::new(belljar());
        command
            .env_clear()
            .env("BELLJAR_CHANNEL", "irc")
            .env("BELLJAR_CHANNEL_STATE", self.path("state"))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .args(["channel", "irc", "--nick", "jar"]);
        command
    }

    /// To its end, with these options.
    pub fn call(&self, options: &[&str]) -> Outcome {
        let mut command = self.bare();
        command.args(options);
        finish(command, b"")
    }

    /// Starts it, without TLS.
    pub fn start(self, server: &Server, options: &[&str]) -> Self {
        let command = self.command(server, options);
        self.run(command)
    }

    /// Starts it with TLS; the server by this name.
    pub fn start_tls(self, server: &Server, name: &str, options: &[&str]) -> Self {
        let command = self.command_at(&format!("{name}:{}", server.tls_port), options);
        self.run(command)
    }

    /// Starts it for a server at this address.
    pub fn start_at(self, server: &str, options: &[&str]) -> Self {
        let command = self.command_at(server, options);
        self.run(command)
    }

    fn run(mut self, mut command: Command) -> Self {
        command.stdin(Stdio::piped());
        self.live = Some(Live::start(command));
        self
    }

    /// The process.
    pub fn live(&self) -> &Live {
        self.live.as_ref().expect("it was started")
    }

    /// The process.
    pub fn live_mut(&mut self) -> &mut Live {
        self.live.as_mut().expect("it was started")
    }

    /// Says a line to it, as the host process does.
    pub fn tell(&mut self, line: &Value) {
        self.live_mut().write(format!("{line}\n").as_bytes());
    }

    /// Has it send something.
    pub fn send(&mut self, id: &str, chat: &str, text: &str) {
        self.tell(&json!({"type": "send", "id": id, "chat": chat, "text": text, "again": false}));
    }

    /// Whole lines that it has said.
    pub fn lines(&self) -> Vec<Value> {
        let said = self.live().so_far();
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }

    /// What it has heard.
    pub fn messages(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["type"] == "message").collect()
    }

    /// What became of a message: `sent`, `failed`, or nothing yet.
    pub fn answer(&self, id: &str) -> Value {
        let answers = |line: &Value| line["id"] == id && (line["type"] == "sent" || line["type"] == "failed");
        self.lines().into_iter().find(answers).map_or(Value::Null, |line| line["type"].clone())
    }

    /// Waits until that is known.
    pub fn wait_for_answer(&self, id: &str) {
        eventually("an answer to a message", Duration::from_secs(20), || !self.answer(id).is_null());
    }

    /// Kills it; what it remembers stays.
    pub fn kill(mut self) -> Self {
        let live = self.live.take().expect("it was started");
        live.signal(nix::sys::signal::Signal::SIGKILL);
        drop(live);
        self
    }

    /// Closes its stdin, and waits for its end.
    pub fn end(self) -> Outcome {
        self.end_in_place().0
    }

    /// The same; it can be started again.
    pub fn end_in_place(mut self) -> (Outcome, Self) {
        let live = self.live.take().expect("it was started");
        (live.wait(), self)
    }
}
