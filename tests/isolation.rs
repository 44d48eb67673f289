//! Promise: an agent has no rights, and reaches nothing of the host but what the
//! plan names. What counts is what the kernel and the host's own things saw; the
//! same attempts in a container without a policy show that they are real.

#[path = "harness/control.rs"]
mod control;
mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::text::answers;
use harness::{Jar, Live, RESERVED_IDS, probe, processes_with};

const PROBE: &str = "/workspace/group/probe";

/// The probe inside, with the answers by name.
fn inside(jar: &Jar, options: &[&str], arguments: &[&str]) -> BTreeMap<String, String> {
    jar.install_probe();
    let mut command = vec![PROBE];
    command.extend(arguments);
    answers(&jar.run(options, &command).success().out())
}

/// The host's side of the probe: things to reach, and who reached them.
struct Host {
    live: Live,
    facts: serde_json::Value,
}

impl Host {
    fn start(directory: &Path) -> Self {
        let mut command = Command::new(probe());
        command.arg("host").arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let live = Live::start(command);
        live.wait_for("}\n");
        let facts = serde_json::from_str(&live.so_far()).expect("the facts are JSON");
        Self { live, facts }
    }

    /// The facts as arguments, with the directory of the socket and the FIFO as
    /// the agent knows it.
    fn arguments(&self, directory: &str) -> Vec<String> {
        let mut arguments =
            vec!["reach".to_owned(), format!("socket={directory}/host.sock"), format!("fifo={directory}/host.fifo")];
        for (name, value) in self.facts.as_object().expect("an object") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            arguments.push(format!("{name}={value}"));
        }
        arguments
    }

    /// Who came, and the end of it.
    fn counts(mut self) -> serde_json::Value {
        self.live.write(b"count\n");
        self.live.wait_for("counted");
        let text = self.live.wait().success().out();
        serde_json::from_str(text.lines().last().unwrap_or_default()).expect("the counts are JSON")
    }
}

#[test]
fn every_capability_set_is_empty_and_the_filter_is_in_force() {
    let jar = Jar::new();
    let status = inside(&jar, &[], &["identity"]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Seccomp"], "2");
    assert_eq!(status["Uid"], "1000 1000 1000 1000");
    assert_eq!(status["Gid"], "1000 1000 1000 1000");
    let outside = answers(&control::directly(&["identity"]).success().out());
    assert_eq!(outside["NoNewPrivs"], "0", "the control has them");
    assert_ne!(outside["CapBnd"], "0000000000000000", "the control has them");
}

#[test]
fn nothing_is_open_above_descriptor_2() {
    let jar = Jar::new();
    assert_eq!(inside(&jar, &[], &["identity"])["descriptors"], "[0, 1, 2]");
    // Nor what the caller has open by mistake.
    let mut command = Command::new("sh");
    let line = format!("exec 7<.env 9>../leak {} run -- {PROBE} identity", harness::belljar().display());
    command.args(["-c", &line]);
    jar.surround(&mut command);
    let status = answers(&harness::finish(command, b"").success().out());
    assert_eq!(status["descriptors"], "[0, 1, 2]");
}

#[test]
fn no_host_path_is_writable_but_the_planned_ones() {
    let jar = Jar::new();
    let extra = jar.write("extra/ro/file", "x");
    let extra = extra.parent().and_then(Path::parent).expect("it has one").to_owned();
    fs::create_dir(extra.join("rw")).expect("make a directory");
    jar.allow(&[(&extra, true)]);
    let (ro, rw) = (format!("{}/ro", extra.display()), format!("{}/rw:rw", extra.display()));
    let tried = inside(&jar, &["-m", &ro, "-m", &rw], &["writable"]);
    let writable: Vec<&str> =
        tried.iter().filter(|(_, answer)| *answer == "ok").map(|(path, _)| path.as_str()).collect();
    let private = [
        "/dev",
        "/dev/full",
        "/dev/null",
        "/dev/random",
        "/dev/shm",
        "/dev/urandom",
        "/dev/zero",
        "/home/node",
        "/run",
        "/tmp",
    ];
    let shadows = ["/workspace/project/.env"];
    let planned = [
        "/home/node/.claude",
        "/workspace/extra/rw",
        "/workspace/group",
        "/workspace/ipc",
        "/workspace/ipc/input",
        "/workspace/ipc/messages",
        "/workspace/ipc/tasks",
    ];
    for path in &writable {
        assert!(
            private.contains(path) || planned.contains(path) || shadows.contains(path) || is_device_over(&tried, path),
            "{path} can be written"
        );
    }
    for path in planned {
        assert!(writable.contains(&path), "{path} cannot be written: {:?}", tried.get(path));
    }
    for path in [
        "/",
        "/usr",
        "/etc",
        "/workspace",
        "/workspace/project",
        "/workspace/global",
        "/workspace/extra/ro",
        "/proc/sys",
        "/run/belljar",
    ] {
        assert_ne!(tried.get(path).map(String::as_str), Some("ok"), "{path}");
    }
    let secret = fs::read_to_string(jar.project().join(".env")).expect("read it");
    assert!(secret.contains(harness::SECRET), "the host's file behind a shadow was written");
}

/// Masked files of /proc are /dev/null: what is written there is gone.
fn is_device_over(tried: &BTreeMap<String, String>, path: &str) -> bool {
    path.starts_with("/proc/") && !path.starts_with("/proc/sys") && tried.contains_key(path)
}

#[test]
fn the_first_process_cannot_be_read() {
    let jar = Jar::new();
    let tried = inside(&jar, &[], &["reach"]);
    let of_first = |tried: &BTreeMap<String, String>| -> Vec<(String, String)> {
        tried.iter().filter(|(name, _)| name.contains("/proc/1/")).map(|(n, a)| (n.clone(), a.clone())).collect()
    };
    assert_eq!(of_first(&tried).len(), 11);
    for (name, answer) in of_first(&tried) {
        assert_ne!(answer, "ok", "{name}");
    }
    if let Some(outcome) = control::without_policy(&jar, &["reach"]) {
        for (name, answer) in of_first(&answers(&outcome.success().out())) {
            assert_eq!(answer, "ok", "the control: {name}");
        }
    }
}

#[test]
fn no_process_socket_port_or_ipc_object_of_the_host_is_in_reach() {
    let jar = Jar::new();
    let host = Host::start(&jar.project());
    let arguments = host.arguments("/workspace/project");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let tried = inside(&jar, &[], &arguments);
    for (name, answer) in &tried {
        // The FIFO's name is covered by /dev/null, which swallows all.
        assert!(answer != "ok" || name == "write to a FIFO", "{name}");
    }
    let counts = host.counts();
    for name in ["socket", "abstract", "port", "fifo", "signals"] {
        assert_eq!(counts[name], 0, "{name} of the host was reached");
    }
}

#[test]
fn the_same_attempts_without_a_policy_succeed() {
    let jar = Jar::new();
    let host = Host::start(&jar.project());
    let directory = jar.text("project");
    let arguments = host.arguments(&directory);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(outcome) = control::without_policy(&jar, &arguments) else {
        return;
    };
    let tried = answers(&outcome.success().out());
    for (name, answer) in &tried {
        // A container has its own process ids even without a policy.
        assert!(answer == "ok" || name.contains("a process of the host"), "the control: {name}: {answer}");
    }
    control::directly(&arguments).success();
    let counts = host.counts();
    for name in ["socket", "abstract", "port", "fifo", "signals"] {
        assert_ne!(counts[name], 0, "the control did not reach {name}");
    }
}

#[test]
fn a_socket_in_a_read_write_mount_refuses_the_run() {
    let jar = Jar::new();
    fs::create_dir(jar.path("extra")).expect("make a directory");
    let host = Host::start(&jar.path("extra"));
    jar.allow(&[(&jar.path("extra"), true)]);
    let mount = format!("{}:rw", jar.text("extra"));
    jar.run(&["-m", &mount], &["true"]).exits(125).says(&["host.", "read-only"]);
    // Read-only, they are covered.
    let arguments = host.arguments("/workspace/extra/extra");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let tried = inside(&jar, &["-m", &jar.text("extra")], &arguments);
    assert_ne!(tried["connect to a socket"], "ok");
    let counts = host.counts();
    assert_eq!((&counts["socket"], &counts["fifo"]), (&0.into(), &0.into()));
}

#[test]
fn the_filter_refuses_what_its_profile_says() {
    let jar = Jar::new();
    let tried = inside(&jar, &[], &["seccomp", "/tmp"]);
    assert!(tried.len() > 60, "only {} calls were tried", tried.len());
    for (name, answer) in &tried {
        assert!(answer.starts_with("holds"), "{name}: {answer}");
    }
    let outside = jar.path("control");
    fs::create_dir(&outside).expect("make a directory");
    let free = answers(&control::directly(&["seccomp", &outside.to_string_lossy()]).success().out());
    let broken = free.values().filter(|answer| answer.starts_with("broken")).count();
    assert!(broken > tried.len() / 4, "the control is refused too: {broken} of {}", tried.len());
}

#[test]
fn no_run_leaves_a_setuid_or_setgid_file() {
    let jar = Jar::new();
    fs::create_dir(jar.path("extra")).expect("make a directory");
    jar.allow(&[(&jar.path("extra"), true)]);
    let mount = format!("{}:rw", jar.text("extra"));
    for target in ["/workspace/group", "/workspace/ipc", "/home/node/.claude", "/workspace/extra/extra"] {
        let tried = inside(&jar, &["-m", &mount], &["seccomp", target]);
        for (name, answer) in &tried {
            assert!(answer.starts_with("holds"), "in {target}: {name}: {answer}");
        }
        let script = format!(
            "cd {target}; cp /bin/sh x; for m in 4755 2755 6755 u+s g+s; do chmod $m x && echo chmod $m; done; \
             install -m 4755 /bin/sh y && echo install; mkdir -m 2755 d && echo mkdir; mkdir e; chmod g+s e && echo e; true"
        );
        let outcome = jar.run(&["-m", &mount], &["sh", "-c", &script]).success();
        assert_eq!(outcome.out(), "", "in {target}");
    }
    for directory in [jar.path("belljar"), jar.path("extra")] {
        for line in harness::tree(&directory) {
            let mode = line.split(' ').nth(1).and_then(|mode| u32::from_str_radix(mode, 8).ok());
            assert_eq!(mode.map(|mode| mode & 0o6000), Some(0), "{line}");
        }
    }
    // The control: outside the very same command leaves one.
    let file = jar.script("control/x", "");
    let status = Command::new("chmod").arg("4755").arg(&file).status().expect("chmod is there");
    assert!(status.success());
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o7000, 0o4000);
}

#[test]
fn the_agents_host_uid_is_never_0() {
    let jar = Jar::new();
    let mark = format!("8639{}.5", std::process::id());
    let live = jar.start(&[], &["sh", "-c", &format!("echo ready; sleep {mark}; true")]);
    live.wait_for("ready");
    let own = harness::own_uid();
    harness::eventually("the agent is there", harness::SOON, || processes_with(&format!("sleep\0{mark}")).len() == 1);
    let mut seen = 0;
    for (pid, _) in harness::descendants(live.pid()) {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let ids = |field: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            line.split_whitespace().filter_map(|id| id.parse().ok()).collect()
        };
        // The launcher has a process namespace of its own, but below podman.
        let outside = if harness::below_podman() { 2 } else { 3 };
        let in_container =
            status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().count() > outside);
        if !in_container {
            continue;
        }
        seen += 1;
        for id in ids("Uid:").into_iter().chain(ids("Gid:")) {
            if own == 0 {
                assert!(id > RESERVED_IDS, "process {pid} has host id {id}");
            }
            assert_ne!(id, 0, "process {pid} is root on the host");
        }
        if own != 0 {
            assert_eq!(ids("Uid:"), [own; 4], "process {pid}");
        }
    }
    assert!(seen >= 3, "init, shell and sleep were not all found: {seen}");
}
