//! Promise: the root is the host's /usr or an unpacked directory, read-only either
//! way, and nothing that somebody planted in it decides where a mount goes.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use harness::{Jar, SECRET, unpacked_root};

#[test]
fn the_hosts_usr_and_nothing_else_of_the_host() {
    let jar = Jar::new();
    let out = jar
        .sh("ls /; ls /root /home /var /boot /srv 2>/dev/null; cat /etc/passwd; cat /etc/shadow; true")
        .success()
        .out();
    let top: BTreeSet<&str> =
        out.lines().take_while(|line| *line != "/home:").filter(|line| !line.is_empty()).collect();
    for foreign in ["root", "boot", "srv", "media", "mnt", "sys", "opt"] {
        assert!(!top.contains(foreign), "/{foreign} of the host is there: {out}");
    }
    assert!(out.contains("node:x:1000:1000:") && !out.contains("root:$"), "{out}");
    let of_home: Vec<&str> =
        out.lines().skip_while(|line| *line != "/home:").skip(1).take_while(|line| !line.is_empty()).collect();
    assert_eq!(of_home, ["node"], "homes of the host are there: {out}");
    // Of /etc: what belljar generates, and two directories that lead to programs.
    let plan = jar.plan(&[], &["true"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    let mounted: Vec<String> = list(&plan["mounts"]).iter().map(|mount| text(&mount["target"])).collect();
    let generated = list(&plan["root"]["generated"]);
    for target in mounted.iter().filter(|target| target.starts_with("/etc")) {
        let leads_to_programs = target == "/etc/alternatives" || target.starts_with("/etc/java-");
        assert!(leads_to_programs, "{target} of the host is there");
    }
    for name in jar.sh("ls -A /etc").success().out().lines() {
        let path = format!("/etc/{name}");
        let made = generated.iter().map(|entry| text(&entry["path"])).any(|made| made.starts_with(&path));
        assert!(made || mounted.contains(&path), "{path} is neither generated nor mounted by the plan");
    }
    let copies = generated.iter().filter(|entry| !entry["content"]["copy"].is_null());
    for copy in copies.map(|entry| text(&entry["path"])) {
        // Public on every machine: lists, and where libraries and certificates are.
        let public = [
            "/etc/ld.so.cache",
            "/etc/localtime",
            "/etc/protocols",
            "/etc/services",
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/openssl.cnf",
        ];
        assert!(public.contains(&copy.as_str()), "{copy} of the host is copied");
    }
}

#[test]
fn an_unpacked_root_runs_with_belljars_own_parts() {
    let jar = Jar::new();
    let root = unpacked_root(&jar, &[]).to_string_lossy().into_owned();
    let before = harness::tree(Path::new(&root));
    let script = "cat /etc/os-release /srv/data; id -u; touch /x /srv/x /etc/x 2>/dev/null; touch /workspace/group/x && ls /workspace/group; cat /workspace/project/.env";
    let out = jar.run(&["--rootfs", &root], &["sh", "-c", script]).success();
    assert_eq!(out.out(), "NAME=small\nof the root\n1000\nx\n", "{}", out.err());
    let out = jar.run(&["--rootfs", &root], &["cat", "/etc/passwd"]).success().out();
    assert!(out.contains("node:x:1000") && !out.contains("planted"), "{out}");
    jar.run(&["--rootfs", &root], &["git", "--version"]).exits(127);
    assert_eq!(harness::tree(Path::new(&root)), before, "the root was changed");
}

#[test]
fn a_planted_link_at_a_mount_target_refuses_the_run() {
    let jar = Jar::new();
    let root = unpacked_root(&jar, &[]);
    fs::create_dir(jar.path("outside")).expect("make a directory");
    for name in ["proc", "sys", "dev", "run", "tmp", "home", "workspace"] {
        let planted = root.join(name);
        symlink(jar.path("outside"), &planted).expect("plant a link");
        jar.run(&["--rootfs", &root.to_string_lossy()], &["true"])
            .exits(125)
            .says(&[&format!("its /{name} is a link")]);
        fs::remove_file(&planted).expect("take it away");
    }
    for name in ["etc", "usr"] {
        fs::create_dir_all(root.join(name)).expect("make a directory");
        fs::rename(root.join(name), root.join("aside")).expect("move it aside");
        symlink(jar.path("outside"), root.join(name)).expect("plant a link");
        jar.run(&["--rootfs", &root.to_string_lossy()], &["true"]).exits(125).says(&["is a link"]);
        fs::remove_file(root.join(name)).expect("take it away");
        fs::rename(root.join("aside"), root.join(name)).expect("move it back");
    }
    assert!(harness::names_in(&jar.path("outside")).is_empty(), "something was written through a planted link");
}

#[test]
fn links_deeper_in_the_root_lead_nowhere() {
    let jar = Jar::new();
    let root = unpacked_root(&jar, &[]);
    jar.write("outside/secret", SECRET);
    for (name, target) in [("srv/link", "outside/secret"), ("etc/hosts", "outside/secret"), ("etc/ssl", "outside")] {
        let _ = fs::remove_file(root.join(name));
        symlink(jar.path(target), root.join(name)).expect("plant a link");
    }
    fs::create_dir_all(root.join("workspace")).expect("make a directory");
    symlink(jar.path("outside"), root.join("workspace/group")).expect("plant a link");
    symlink(jar.path("outside"), root.join("workspace/project")).expect("plant a link");
    let script = "cat /srv/link /etc/hosts /etc/ssl/secret /workspace/project/secret; touch /workspace/group/made";
    let out = jar.run(&["--rootfs", &root.to_string_lossy()], &["sh", "-c", script]).success();
    assert!(!out.out().contains(SECRET), "{}", out.out());
    assert_eq!(harness::names_in(&jar.path("outside")), ["secret"]);
}

#[test]
fn what_the_host_has_mounted_below_the_root_comes_along_read_only_and_is_in_the_plan() {
    let jar = Jar::new();
    let root = unpacked_root(&jar, &[]);
    jar.write("other/file", "mounted\n");
    fs::create_dir_all(root.join("srv/below")).expect("make a directory");
    for option in ["", "--writable-root"] {
        let belljar = format!("{} {{}} {option} --rootfs {} --", harness::belljar().display(), root.display());
        let run = belljar.replace("{}", "run") + " sh -c 'cat /srv/data /srv/below/file; touch /srv/below/x'";
        let explain = belljar.replace("{}", "explain") + " true";
        // A user mounts in a namespace of the user's own, and is a user again in another.
        let again = if harness::is_root() { "" } else { "unshare -U --map-user=1001 --map-group=1001" };
        let mount = format!("mount --bind {} {}", jar.text("other"), root.join("srv/below").display());
        let script = format!("{mount} && {again} {explain} && exec {again} {run}");
        let mut command = std::process::Command::new("unshare");
        command.args([if harness::is_root() { "-m" } else { "-Urm" }, "sh", "-c", &script]);
        jar.surround(&mut command);
        let out = harness::finish(command, b"").exits(1).says(&["Read-only file system"]).out();
        assert!(out.ends_with("of the root\nmounted\n"), "{out}");
        assert!(out.lines().any(|line| line.starts_with("mount      /srv/below ro")), "{out}");
    }
    assert_eq!(harness::names_in(&jar.path("other")), ["file"]);
}

#[test]
fn a_root_with_homes_or_belljars_own_in_it_is_refused() {
    let jar = Jar::new();
    let whole = jar.text("");
    jar.run(&["--rootfs", "/"], &["true"]).exits(125).says(&["the host's own root"]);
    jar.run(&["--rootfs", whole.trim_end_matches('/')], &["true"]).exits(125).says(&["--rootfs", "home"]);
    jar.run(&["--rootfs", &jar.text("belljar")], &["true"]).exits(125).says(&["belljar's own "]);
    jar.run(&["--rootfs", &jar.text("belljar/config")], &["true"]).exits(125).says(&["belljar's own "]);
    jar.run(&["--rootfs", &jar.text("project/README.md")], &["true"]).exits(125).says(&["not a directory"]);
    symlink(jar.path("home"), jar.path("link")).expect("make a link");
    jar.run(&["--rootfs", &jar.text("link")], &["true"]).exits(125).says(&["symbolic link"]);
}

#[test]
fn as_user_is_for_root_and_does_everything_with_that_users_rights() {
    let jar = Jar::new();
    if !harness::is_root() {
        jar.run(&["--as-user", "root"], &["true"]).exits(125).says(&["for root"]);
        return;
    }
    jar.run(&["--as-user", "no-such-user"], &["true"]).exits(125).says(&["no such user"]);
    // nobody has no home to write in: refused, and nothing was done as root.
    let outcome = jar.run(&["--as-user", "nobody", "--project", &jar.text("project")], &["true"]);
    assert_eq!(outcome.exits(125).out(), "");
    assert!(!jar.path("belljar/data").exists(), "root's own directories were used");
}
