//! Controls: the probe without belljar. An attempt that fails here too would
//! prove nothing about belljar.

use std::fs;
use std::process::Command;

use crate::harness::{Jar, Outcome, finish, is_root, probe, skip, system_program};

/// The probe as an ordinary process of the host.
pub fn directly(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(probe());
    command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    finish(command, b"")
}

/// The probe in a plain container: crun, with process ids and mounts of its own,
/// and nothing else that restricts it. `None`, loudly, where none can be made.
pub fn without_policy(jar: &Jar, arguments: &[&str]) -> Option<Outcome> {
    let (Some(crun), Some(_)) = (system_program("crun"), system_program("unshare")) else {
        skip("crun and unshare, for the control without a policy");
        return None;
    };
    let bundle = jar.path("control-bundle");
    fs::create_dir_all(bundle.join("rootfs")).expect("make a directory");
    fs::copy(probe(), jar.path("control-probe")).expect("copy the probe");
    // A shell is PID 1, so that PID 1 is not the probe itself.
    let mut args = vec!["sh", "-c", "\"$@\"; exit $?", "sh"];
    let program = jar.text("control-probe");
    args.push(&program);
    args.extend(arguments);
    let bind =
        |path: &str| serde_json::json!({"destination": path, "source": path, "type": "bind", "options": ["rbind"]});
    let temporary = jar.text("");
    let mut mounts: Vec<_> = ["/usr", "/bin", "/lib", "/lib64", "/dev", temporary.as_str()]
        .into_iter()
        .filter(|path| std::path::Path::new(path).exists())
        .map(bind)
        .collect();
    mounts.push(serde_json::json!({"destination": "/proc", "source": "proc", "type": "proc"}));
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "process": {"user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/usr/bin:/bin"]},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    });
    jar.write("control-bundle/config.json", &config.to_string());
    // On hosts with hybrid cgroups crun runs only where it sees version 2 alone.
    let script = "mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.arg(if is_root() { "-m" } else { "-Urm" });
    if !is_root() {
        command.args(["-C"]);
    }
    command.args(["sh", "-c", script, "sh"]);
    command.arg(crun).args(["--root"]).arg(jar.path("control-state"));
    command.args(["--cgroup-manager", "disabled", "run", "--bundle"]);
    command.arg(&bundle).arg(format!("control-{}", std::process::id()));
    jar.surround(&mut command);
    Some(finish(command, b""))
}
