//! Promise: the agent image of `make image` has what an agent expects, and
//! nothing that belongs to the machine that built it.

mod harness;

use std::process::Command;

use harness::{Jar, finish, is_root, skip, system_program};

const NAME: &str = "localhost/belljar-agent:latest";

/// What podman says of the image, or nothing where root's podman has none.
fn inspected(jar: &Jar, what: &str) -> Option<String> {
    let mut command = Command::new(system_program("podman")?);
    command.args(["image", "inspect", "--format", what, NAME]);
    jar.surround(&mut command);
    let outcome = finish(command, b"");
    (outcome.code == 0).then(|| outcome.out().trim().to_owned())
}

/// Whether the image can be tried. An ordinary user without subordinate ids
/// cannot hold it in podman's store, so only root's is looked at.
fn is_there(jar: &Jar) -> bool {
    if !is_root() {
        return false;
    }
    let there = inspected(jar, "{{.Id}}").is_some();
    if !there {
        skip("the agent image in root's podman: make image");
    }
    there
}

/// The image's files, mounted by root's podman for as long as this lives.
struct Mounted(String);

impl Mounted {
    fn new(jar: &Jar) -> Self {
        Self(podman_image(jar, "mount"))
    }

    /// A run in the image that reaches nothing.
    fn inside(&self, jar: &Jar, script: &str) -> String {
        jar.run(&["--egress", "none", "--rootfs", &self.0], &["sh", "-c", script]).success().out()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // podman counts the mounts: another test's stays.
        let _ = Command::new("podman").args(["image", "unmount", NAME]).output();
    }
}

fn podman_image(jar: &Jar, verb: &str) -> String {
    let mut command = Command::new(system_program("podman").expect("it was there"));
    command.args(["image", verb, NAME]);
    jar.surround(&mut command);
    finish(command, b"").success().out().trim().to_owned()
}

#[test]
fn what_an_agent_expects_runs_in_the_image() {
    let jar = Jar::new();
    if !is_there(&jar) {
        return;
    }
    let script = "set -e; for each in node npm git python3 pip curl rg jq ssh patch unzip xz file less ps; do \
        $each --version >/dev/null 2>&1 || $each -V >/dev/null 2>&1 || $each -v >/dev/null || echo no $each; done; \
        test -s /etc/ssl/certs/ca-certificates.crt; id -u; claude --version";
    let out = Mounted::new(&jar).inside(&jar, script);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 2 && lines[0] == "1000" && lines[1].ends_with("(Claude Code)"), "{out}");
}

#[test]
fn nothing_of_the_builder_is_in_the_image() {
    let jar = Jar::new();
    if !is_there(&jar) {
        return;
    }
    let script = "find / -xdev -type f -perm /6000 2>/dev/null; \
        find / -xdev -not -path '/usr/share/doc/*' \\( -name .npmrc -o -name npmrc -o -name .package-lock.json -o -name '*.sources' \
        -o -name sources.list -o -name '99mmdebstrap' -o -name auth.conf \\) 2>/dev/null; echo looked";
    assert_eq!(Mounted::new(&jar).inside(&jar, script), "looked\n");
    assert_eq!(
        inspected(&jar, "{{.Config.User}} {{.Config.WorkingDir}} {{.Config.Cmd}}").as_deref(),
        Some("node /home/node [claude]")
    );
    let environment = inspected(&jar, "{{.Config.Env}}").expect("it was there");
    assert_eq!(
        environment,
        "[PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DISABLE_AUTOUPDATER=1]"
    );
}
