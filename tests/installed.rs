//! Promise: belljar works with what is installed, crun or podman, and says what
//! to install where neither is. Programs are taken away in a mount namespace of
//! the test's own, where a file that nobody can execute covers them.

mod harness;

use std::process::Command;

use harness::layout::{image, programs};
use harness::{Jar, Outcome, finish, is_root, skip, system_program};

/// `belljar ARGUMENTS…` where the programs of these names are not installed.
/// Only root can cover them.
fn without(jar: &Jar, names: &[&str], arguments: &[&str]) -> Outcome {
    let nothing = jar.write("nothing", "");
    let covered: Vec<String> =
        names.iter().filter_map(|name| system_program(name)).map(|path| path.display().to_string()).collect();
    let script = "for file in $1; do mount --bind \"$0\" \"$file\" || exit 99; done; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(nothing)
        .arg(covered.join(" "))
        .arg(harness::belljar())
        .args(arguments)
        .current_dir(jar.project());
    jar.surround(&mut command);
    finish(command, b"")
}

const SHOW: [&str; 5] = ["--", "sh", "-c", "id -u; while read -r a; do echo $a; done < /proc/self/status", "sh"];

fn shown(outcome: &Outcome) {
    for line in ["1000", "CapBnd: 0000000000000000", "Seccomp: 2", "NoNewPrivs: 1"] {
        assert!(outcome.out().lines().any(|its| its.replace('\t', " ") == line), "{line}: {}", outcome.out());
    }
}

#[test]
fn without_podman_all_of_crun_works() {
    if !is_root() {
        return;
    }
    let jar = Jar::new();
    let tools = ["podman", "buildah", "skopeo", "runc"];
    shown(&without(&jar, &tools, &[&["run"][..], &SHOW].concat()).success());
    let reference = image(&jar, "layout", &[programs(&jar).bytes()]);
    shown(&without(&jar, &tools, &[&["run", "--image", &reference][..], &SHOW].concat()).success());
    without(&jar, &tools, &["run", "--backend", "podman", "true"]).exits(125).says(&["podman", "apt-get install"]);
    without(&jar, &tools, &["image", "import", "localhost/some"]).exits(125).says(&["is not on this machine"]);
    without(&jar, &tools, &["image", "pull", "localhost/some"]).exits(125).says(&["apt-get install skopeo"]);
}

#[test]
fn without_crun_podman_works() {
    if !is_root() {
        return;
    }
    if system_program("podman").is_none() || system_program("runc").is_none() {
        return skip("podman and runc");
    }
    let jar = Jar::new();
    shown(&without(&jar, &["crun"], &[&["run"][..], &SHOW].concat()).success());
    assert_eq!(jar.receipts()[0]["plan"]["runtime"]["backend"], "podman", "{}", jar.receipts()[0]);
    without(&jar, &["crun"], &["run", "--", "sh", "-c", "exit 7"]).exits(7);
    let reference = image(&jar, "layout", &[programs(&jar).bytes()]);
    shown(&without(&jar, &["crun"], &[&["run", "--image", &reference][..], &SHOW].concat()).success());
    without(&jar, &["crun"], &["run", "--backend", "crun", "true"]).exits(125).says(&["crun", "apt-get install crun"]);
    without(&jar, &["crun", "runc"], &["run", "true"]).exits(125).says(&["apt-get install crun"]);
    let cgroups = Command::new("find").args(["/sys/fs/cgroup", "-name", "belljar-podman-*"]).output().expect("find");
    assert_eq!(String::from_utf8_lossy(&cgroups.stdout), "", "a cgroup is left");
}

#[test]
fn without_both_one_error_says_what_to_install() {
    if !is_root() {
        return;
    }
    let jar = Jar::new();
    for command in ["run", "explain"] {
        let said = without(&jar, &["crun", "podman"], &[command, "--", "true"]).exits(125);
        assert_eq!(
            said.err(),
            "belljar: error: neither crun nor podman is installed\nhint: apt-get install crun\n",
            "{command}"
        );
    }
    assert!(jar.receipts().is_empty(), "refused after an effect");
    let report = without(&jar, &["crun", "podman"], &["doctor"]);
    assert!(report.out().contains("apt-get install crun"), "{}", report.out());
}

/// `--backend auto` takes podman for an image that only podman has.
#[test]
fn auto_takes_podman_for_what_only_podman_has() {
    let jar = Jar::new();
    let Some(podman) = system_program("podman") else { return skip("podman, for images of its store") };
    let podman = |arguments: &[&str]| {
        let mut command = Command::new(&podman);
        command.args(arguments);
        jar.surround(&mut command);
        finish(command, b"")
    };
    let layer = jar.path("layer.tar");
    std::fs::write(&layer, programs(&jar).bytes()).expect("write the layer");
    let name = format!("localhost/belljar-only-podman-{}:v1", std::process::id());
    if podman(&["import", "--quiet", &layer.to_string_lossy(), &name]).code != 0 {
        // Without subordinate ids podman keeps no images.
        return;
    }
    let backend = || {
        jar.run(&["--backend", "auto", "--image", &name], &["id", "-u"]).success();
        jar.receipts().pop().map(|receipt| receipt["plan"]["runtime"]["backend"].clone()).unwrap_or_default()
    };
    let first = backend();
    let second = backend();
    podman(&["rmi", "--force", &name]).success();
    assert_eq!((first, second), ("podman".into(), "crun".into()), "once it is in the cache crun suffices");
}
