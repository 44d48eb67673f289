//! Promise: the agent image of `make image` has what an agent expects, and
//! nothing that belongs to the machine that built it.

mod harness;

use std::process::Command;

use harness::{Jar, finish, is_root, skip, system_program};

/// The archive that `make image` writes; tests/run puts it beside belljar.
fn archive() -> Option<String> {
    let file = harness::belljar().with_file_name("agent-image.tar");
    let there = file.is_file();
    if !there {
        skip("the agent image: make image");
    }
    there.then(|| format!("oci-archive:{}", file.display()))
}

/// A run in the image that reaches nothing.
fn inside(jar: &Jar, image: &str, script: &str) -> String {
    jar.run(&["--egress", "none", "--image", image], &["sh", "-c", script]).success().out()
}

#[test]
fn what_an_agent_expects_runs_in_the_image() {
    let jar = Jar::new();
    let Some(image) = archive() else { return };
    let script = "set -e; for each in node npm git python3 pip curl rg jq ssh patch unzip xz file less ps; do \
        $each --version >/dev/null 2>&1 || $each -V >/dev/null 2>&1 || $each -v >/dev/null || echo no $each; done; \
        test -s /etc/ssl/certs/ca-certificates.crt; id -u; claude --version";
    let out = inside(&jar, &image, script);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 2 && lines[0] == "1000" && lines[1].ends_with("(Claude Code)"), "{out}");
    // Its own command and variables, and not its user's name for a directory.
    let plan = jar.call(&["explain", "--json", "--image", &image]).success().json();
    assert_eq!(plan["command"], serde_json::json!(["claude"]), "{}", plan["command"]);
    assert_eq!(jar.run(&["--image", &image], &["sh", "-c", "echo $DISABLE_AUTOUPDATER"]).success().out(), "1\n");
}

/// With a root that can be written what npm installs is found, as on the host's root.
#[test]
fn what_npm_installs_in_the_image_is_found() {
    let jar = Jar::new();
    let Some(image) = archive() else { return };
    let script = r#"mkdir pack && cd pack && printf '#!/bin/sh\necho found\n' > own-tool && chmod +x own-tool &&
        echo '{"name": "own-tool", "version": "1.0.0", "bin": {"own-tool": "own-tool"}}' > package.json &&
        npm install --global --no-audit --no-fund . >&2 && own-tool"#;
    let options = ["--egress", "none", "--workdir", "/home/node", "--image", &image];
    let outcome = jar.run(&[&["--writable-root"][..], &options].concat(), &["sh", "-c", script]).success();
    assert_eq!(outcome.out(), "found\n", "{}", outcome.err());
    // The control: without it npm installs nothing.
    let outcome = jar.run(&options, &["sh", "-c", script]);
    assert!(outcome.code != 0 && outcome.out().is_empty(), "{}", outcome.out());
}

#[test]
fn nothing_of_the_builder_is_in_the_image() {
    let jar = Jar::new();
    let Some(image) = archive() else { return };
    let script = "find / -xdev -type f -perm /6000 2>/dev/null; \
        find / -xdev -not -path '/usr/share/doc/*' \\( -name .npmrc -o -name npmrc -o -name .package-lock.json -o -name '*.sources' \
        -o -name sources.list -o -name '99mmdebstrap' -o -name auth.conf \\) 2>/dev/null; echo looked";
    assert_eq!(inside(&jar, &image, script), "looked\n");
    if !is_root() {
        return;
    }
    let Some(podman) = system_program("podman") else { return skip("podman") };
    let mut command = Command::new(podman);
    let what = "{{.Config.User}} {{.Config.WorkingDir}} {{.Config.Cmd}} {{.Config.Env}}";
    command.args(["image", "inspect", "--format", what, "localhost/belljar-agent:latest"]);
    jar.surround(&mut command);
    assert_eq!(
        finish(command, b"").success().out().trim(),
        "node /home/node [claude] \
        [PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DISABLE_AUTOUPDATER=1]"
    );
}
