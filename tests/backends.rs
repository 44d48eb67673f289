//! Promise: the same plan gives the same container, whoever starts it. What the
//! agent sees is written down line by line below each backend, and compared; the
//! few lines that differ are explained here, and counted.

mod harness;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use harness::layout::{image, programs};
use harness::{Jar, descendants, is_root, own_uid, skip, system_program, unpacked_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Prints what the agent sees: ids, capabilities, mounts with flags, /sys,
/// /proc/sys, /dev, environment, limits, project.
const VIEW: &str = r#"
id
while read -r name rest; do case $name in Cap*|NoNewPrivs:|Seccomp:|Uid:|Gid:) echo "status $name $rest";; esac; done < /proc/self/status
while read -r id parent device root target flags rest; do echo "mount $target $flags"; done < /proc/self/mountinfo
while read -r line; do echo "uid_map" $line; done < /proc/self/uid_map
for path in /sys /sys/* /proc/sys /proc/sys/* /dev/* /run/* /run/belljar/* /workspace/project/* /workspace/project/.*; do
    [ -e "$path" ] && echo "path $path"
done
for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/keys /proc/kcore /etc/passwd /dev/null; do
    if [ -w "$path" ]; then echo "writable $path"; fi
    if [ -r "$path" ]; then echo "readable $path"; fi
done
stat -c 'mode %a %u:%g %n' / /tmp /run /home/node /workspace /dev/shm
env | while read -r line; do echo "env $line"; done
ulimit -a | while read -r line; do echo "limit $line"; done
pwd; umask; ls -l /proc/self/fd | while read -r a b c d e f g h fd rest; do echo "descriptor $fd"; done
"#;

/// The lines of the view that may be other than crun's, by what they begin with.
const EXPLAINED: [(&str, &str); 3] = [
    ("uid_map", "runc and youki need the container's id 0 mapped; podman's keep-id maps ids around the agent's"),
    ("path /dev/core", "runc and youki make no link to /proc/kcore, which is masked"),
    ("path /dev/kcore", "youki's name of that link, where the kernel has the file"),
];
/// Most lines that may differ, of runtimes and of podman.
const MOST: usize = 6;

fn youki() -> Option<PathBuf> {
    std::env::var_os("BELLJAR_YOUKI")
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .or_else(|| system_program("youki"))
}

/// Whether the caller has subordinate ids, without which only crun works.
fn has_subordinate_ids() -> bool {
    let name =
        nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name).unwrap_or_default();
    let own = [format!("{name}:"), format!("{}:", own_uid())];
    let has = |file: &str| {
        std::fs::read_to_string(file)
            .unwrap_or_default()
            .lines()
            .any(|line| own.iter().any(|own| line.starts_with(own)))
    };
    is_root() || (has("/etc/subuid") && has("/etc/subgid"))
}

/// Options for each backend that is installed, with its name.
fn backends() -> Vec<(&'static str, Vec<String>)> {
    let mut found = Vec::new();
    for name in ["runc", "podman"] {
        match system_program(name) {
            Some(_) if name == "podman" => found.push((name, vec!["--backend".to_owned(), name.to_owned()])),
            Some(path) => found.push((name, vec!["--runtime".to_owned(), path.display().to_string()])),
            None => skip(name),
        }
    }
    match youki() {
        Some(path) => found.push(("youki", vec!["--runtime".to_owned(), path.display().to_string()])),
        None => skip("youki: tests/youki builds it"),
    }
    found
}

fn view(jar: &Jar, options: &[&str]) -> BTreeSet<String> {
    let outcome = jar.run(options, &["sh", "-c", VIEW]).success();
    let lines: BTreeSet<String> = outcome.out().lines().map(str::to_owned).collect();
    assert!(lines.iter().any(|line| line.starts_with("mount /proc ")) && lines.len() > 60, "no view: {lines:?}");
    lines
}

fn compare(jar: &Jar, root: &[&str]) {
    let crun = view(jar, root);
    for (name, options) in backends() {
        let mut line: Vec<&str> = options.iter().map(String::as_str).collect();
        line.extend(root);
        let its = view(jar, &line);
        let differ: Vec<&String> = crun.symmetric_difference(&its).collect();
        let unexplained: Vec<&&String> =
            differ.iter().filter(|line| !EXPLAINED.iter().any(|(begins, _)| line.starts_with(begins))).collect();
        assert!(unexplained.is_empty(), "{name} with {root:?} differs: {unexplained:#?}");
        assert!(differ.len() <= MOST, "{name} with {root:?} differs in {} lines: {differ:#?}", differ.len());
    }
}

#[test]
fn the_view_is_the_same_on_the_hosts_root() {
    if has_subordinate_ids() {
        compare(&Jar::new(), &[]);
    }
}

#[test]
fn the_view_is_the_same_on_an_unpacked_directory() {
    if has_subordinate_ids() {
        let jar = Jar::new();
        let root = unpacked_root(&jar, &["env"]).to_string_lossy().into_owned();
        compare(&jar, &["--rootfs", &root]);
    }
}

#[test]
fn the_view_is_the_same_on_an_image() {
    if has_subordinate_ids() {
        let jar = Jar::new();
        let reference = image(&jar, "layout", &[programs(&jar).bytes()]);
        compare(&jar, &["--image", &reference]);
    }
}

#[test]
fn without_subordinate_ids_only_crun_is_not_refused() {
    if has_subordinate_ids() {
        return;
    }
    let jar = Jar::new();
    for (name, options) in backends() {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        jar.run(&options, &["true"]).exits(125).says(&["subordinate ids", "crun"]);
        assert!(jar.receipts().is_empty(), "{name}: refused after an effect");
    }
    jar.run(&["--runtime", "crun"], &["true"]).success();
    let report = jar.call(&["doctor"]);
    assert!(report.out().contains("subordinate ids"), "{}", report.out());
}

/// What a virtual machine's kernel hides cannot be verified: the plan says so,
/// and nothing is run.
#[test]
fn what_cannot_be_verified_is_not_run() {
    let jar = Jar::new();
    for name in ["runsc", "krun"] {
        let program = jar.script(&format!("bin/{name}"), "#!/bin/sh\ntouch /tmp/never\n");
        let program = program.to_string_lossy();
        if !is_root() && !has_subordinate_ids() && name == "runsc" {
            jar.run(&["--runtime", &program], &["true"]).exits(125).says(&["subordinate ids"]);
            continue;
        }
        let plan = jar.plan(&["--runtime", &program], &["true"]);
        assert!(plan["notes"].to_string().contains("verify cannot see"), "{}", plan["notes"]);
        jar.run(&["--runtime", &program], &["true"]).exits(125).says(&["cannot verify", "belljar bundle"]);
        assert!(jar.receipts().is_empty(), "{name}: refused after an effect");
    }
}

/// podman shows the run as it shows its own containers.
#[test]
fn podman_knows_the_run() {
    if !has_subordinate_ids() {
        return;
    }
    let Some(podman) = system_program("podman") else { return skip("podman") };
    let jar = Jar::new();
    let before =
        std::fs::metadata("/dev/null").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).expect("it is there");
    let live =
        jar.start(&["--backend", "podman", "--name", "seen"], &["sh", "-c", "echo from the agent; exec sleep 1000"]);
    live.wait_for("from the agent");
    let run = jar.live_runs().pop().expect("a live run");
    let call = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&podman);
        command.args(arguments);
        jar.surround(&mut command);
        harness::finish(command, b"").success().out()
    };
    let name = format!("belljar-{run}");
    let filter = format!("label=belljar.run={run}");
    assert_eq!(
        call(&["ps", "--filter", &filter, "--format", "{{.Names}} {{.Labels.belljar.group}}"]).trim().split(' ').next(),
        Some(name.as_str())
    );
    assert!(call(&["inspect", &name]).contains("\"belljar.group\": \"main\""));
    assert_eq!(call(&["logs", &name]), "from the agent\n");
    call(&["stop", "--time", "5", &name]);
    assert_eq!(live.wait().code, 143, "the agent was not ended by podman's signal");
    harness::eventually("podman has forgotten it", harness::SOON, || {
        call(&["ps", "--all", "--quiet", "--filter", &filter]).is_empty()
    });
    // crun gives what conmon opens to the container's user.
    jar.run(&["--backend", "podman", "-t"], &["true"]).success();
    let after =
        std::fs::metadata("/dev/null").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).expect("it is there");
    assert_eq!(before, after, "the host's /dev/null has another owner");
}

/// Mounts, devices, variables and namespaces that the caller's podman gives to
/// every container are not the agent's.
#[test]
fn what_podman_gives_to_every_container_does_not_get_in() {
    if !has_subordinate_ids() {
        return;
    }
    let Some(podman) = system_program("podman") else { return skip("podman") };
    let jar = Jar::new();
    jar.write("host/secret", harness::SECRET);
    let configuration = jar.write(
        "containers.conf",
        &format!(
            "[containers]\nvolumes = [\"{}:/evil\"]\nenv = [\"EVIL=1\"]\ntz = \"local\"\ninit = true\nnetns = \"host\"\n\
             utsns = \"host\"\npidns = \"host\"\ndevices = [\"/dev/fuse\"]\ndefault_capabilities = [\"CHOWN\"]\n",
            jar.text("host")
        ),
    );
    let script = "cat /evil/secret; env | grep EVIL; ls -d /dev/fuse /etc/localtime/.. 2>/dev/null; \
        while read -r line; do case $line in CapBnd*) echo $line;; esac; done < /proc/self/status; wc -l < /proc/net/dev";
    let mut command = jar.belljar(["run", "--backend", "podman", "--", "sh", "-c", script]);
    command.env("CONTAINERS_CONF", &configuration);
    let outcome = harness::finish(command, b"").success();
    assert_eq!(outcome.out(), "CapBnd: 0000000000000000\n3\n", "{}", outcome.err());
    // The control: podman itself does give it.
    let root = unpacked_root(&jar, &[]);
    let call = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&podman);
        command.args(arguments);
        jar.surround(&mut command);
        command.env("CONTAINERS_CONF", &configuration);
        harness::finish(command, b"").success().out()
    };
    let container = call(&["create", "--rootfs", &root.to_string_lossy(), "true"]);
    let shown = call(&["inspect", container.trim()]);
    call(&["rm", "--force", container.trim()]);
    assert!(shown.contains("\"Destination\": \"/evil\"") && shown.contains("EVIL=1"), "{shown}");
}

/// What the agent writes does not fill the host's disk by podman's log.
#[test]
fn podmans_log_has_a_limit() {
    if !has_subordinate_ids() {
        return;
    }
    let Some(podman) = system_program("podman") else { return skip("podman") };
    let jar = Jar::new();
    let script = "head -c 6000000 /dev/zero | tr '\\0' x >&2; echo written; exec sleep 1000";
    let live = jar.start(&["--backend", "podman"], &["sh", "-c", script]);
    live.wait_for("written");
    let run = jar.live_runs().pop().expect("a live run");
    let mut command = std::process::Command::new(podman);
    command.args(["inspect", "--format", "{{.HostConfig.LogConfig.Path}}", &format!("belljar-{run}")]);
    jar.surround(&mut command);
    let log = harness::finish(command, b"").success().out();
    let size = std::fs::metadata(log.trim()).expect("podman's log").len();
    assert!(size > 0 && size < 2_000_000, "{size} bytes");
}

/// podman's database may have to wait for others while the agent has begun, and
/// ended, already.
#[test]
fn a_podman_that_is_slow_loses_no_output() {
    if !has_subordinate_ids() {
        return;
    }
    if system_program("podman").is_none() {
        return skip("podman");
    }
    let jar = Jar::new();
    let script = ": > begun; until [ -e go ]; do sleep 0.05; done; echo said; echo said >&2";
    let live = jar.start(&["--backend", "podman"], &["sh", "-c", script]);
    let group = jar.group("main");
    harness::eventually("the agent has begun", harness::SOON, || group.join("begun").exists());
    let attached: Vec<Pid> = descendants(live.pid())
        .iter()
        .map(|(pid, _)| Pid::from_raw(*pid as i32))
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|argument| argument == b"--attach")
        })
        .collect();
    assert!(!attached.is_empty(), "no podman start is there");
    let all = |signal| attached.iter().for_each(|pid| kill(*pid, signal).expect("it is still there"));
    all(Signal::SIGSTOP);
    jar.write("belljar/data/groups/main/go", "");
    std::thread::sleep(Duration::from_secs(4));
    all(Signal::SIGCONT);
    let outcome = live.wait().success();
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("said\n", "said\n"));
}
