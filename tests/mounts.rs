//! Promise: an agent gets exactly the mounts of its group, and of the host only
//! what the allowlist allows; names that hold credentials are hidden at every
//! depth, and what cannot be made safe is refused with the reason.

mod harness;

use std::fs;
use std::path::Path;

use harness::{Jar, SECRET, is_root};

/// What a plan mounts below /workspace and in the home: target and `ro` or `rw`.
fn given(plan: &serde_json::Value) -> Vec<String> {
    let mounts = plan["mounts"].as_array().expect("a list");
    let own = |target: &str| target.starts_with("/workspace") || target.starts_with("/home/node/");
    let mut found: Vec<String> = mounts
        .iter()
        .filter(|mount| !matches!(mount["kind"].as_str(), Some("dev-null" | "empty")))
        .map(|mount| (mount["target"].as_str().unwrap_or_default(), mount["readonly"] == true))
        .filter(|(target, _)| own(target))
        .map(|(target, readonly)| format!("{target} {}", if readonly { "ro" } else { "rw" }))
        .collect();
    found.sort();
    found
}

const OF_EVERY_GROUP: [&str; 7] = [
    "/home/node/.claude rw",
    "/workspace/global ro",
    "/workspace/group rw",
    "/workspace/ipc rw",
    "/workspace/ipc/input rw",
    "/workspace/ipc/messages rw",
    "/workspace/ipc/tasks rw",
];

#[test]
fn main_gets_the_project_and_no_other_group_does() {
    let jar = Jar::new();
    jar.call(&["group", "add", "sales"]).success();
    let mut with_project = OF_EVERY_GROUP.to_vec();
    with_project.push("/workspace/project ro");
    assert_eq!(given(&jar.plan(&[], &["true"])), with_project);
    assert_eq!(given(&jar.plan(&["-g", "sales"], &["true"])), OF_EVERY_GROUP);
    let out = jar.run(&["-g", "sales"], &["ls", "/workspace"]).success().out();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["global", "group", "ipc"]);
    jar.run(&["-g", "sales", "--project", "."], &["true"]).exits(125).says(&["only main"]);
}

#[test]
fn no_group_sees_anothers_folder_session_or_messages() {
    let jar = Jar::new();
    for group in ["sales", "press"] {
        jar.call(&["group", "add", group]).success();
    }
    let places = ["/workspace/group", "/home/node/.claude", "/workspace/ipc"];
    for (group, other) in [("main", "sales"), ("sales", "press"), ("press", "main")] {
        let write = places.map(|place| format!("echo {group}-{SECRET} > {place}/of-{group}")).join("; ");
        jar.run(&["-g", group], &["sh", "-c", &write]).success();
        let search = format!(
            "grep -rl {other}-{SECRET} /workspace /home/node /tmp /run 2>/dev/null; ls -A {}",
            places.join(" ")
        );
        let out = jar.run(&["-g", group], &["sh", "-c", &search]).out();
        assert!(!out.contains(&format!("of-{other}")), "{group} sees {other}'s: {out}");
        assert_eq!(out.matches(&format!("of-{group}")).count(), 3, "{group} lost its own: {out}");
    }
    // All read what is global, and none writes it.
    jar.write("belljar/data/groups/global/notes", "for all");
    for group in ["main", "sales"] {
        let out =
            jar.run(&["-g", group], &["sh", "-c", "cat /workspace/global/notes; echo x > /workspace/global/notes"]);
        assert_eq!(out.exits(2).out(), "for all");
    }
}

#[test]
fn groups_are_added_listed_shown_and_removed() {
    let jar = Jar::new();
    jar.call(&["group", "add", "sales"]).success();
    let list = jar.call(&["group", "list"]).success().out();
    assert!(list.contains("main") && list.contains("sales"), "{list}");
    assert!(jar.call(&["group", "show", "sales"]).success().out().contains("untrusted"));
    jar.call(&["group", "add", "sales"]).exits(125);
    fs::write(jar.group("sales").join("kept"), "x").expect("write a file");
    jar.call(&["group", "remove", "sales"]).success();
    assert!(jar.group("sales").join("kept").exists(), "removing a group took its data");
    jar.run(&["-g", "sales"], &["true"]).exits(125).says(&["no group `sales`"]);
    for name in ["main", "nobody"] {
        jar.call(&["group", "remove", name]).exits(125);
    }
}

/// The access that the allowlist gives, or the refusal.
fn access(jar: &Jar, group: &str, mount: &str) -> String {
    let outcome = jar.call(&["explain", "--json", "-g", group, "-m", mount]);
    if outcome.code != 0 {
        return outcome.exits(125).err();
    }
    let of_extra = given(&outcome.json()).into_iter().find(|line| line.starts_with("/workspace/extra"));
    of_extra.expect("the mount is in the plan")
}

#[test]
fn the_first_root_that_contains_a_mount_decides() {
    let jar = Jar::new();
    jar.call(&["group", "add", "sales"]).success();
    jar.write("area/ro/file", "x");
    jar.write("area/rw/file", "x");
    let config = |more: &str| {
        let text = format!(
            "{{\"allowedRoots\": [{{\"path\": \"{0}/ro\"}}, {{\"path\": \"{0}\", \"allowReadWrite\": true}}, \
             {{\"path\": \"~/not-there\", \"description\": \"none yet\"}}]{more}}}",
            jar.text("area")
        );
        jar.write("belljar/config/mount-allowlist.json", &text);
    };
    config("");
    let (ro, rw) = (format!("{}:rw", jar.text("area/ro")), format!("{}:rw", jar.text("area/rw")));
    assert_eq!(access(&jar, "main", &rw), "/workspace/extra/rw rw");
    assert_eq!(access(&jar, "main", &ro), "/workspace/extra/ro ro", "the first root is read-only");
    assert_eq!(access(&jar, "main", &jar.text("area/rw")), "/workspace/extra/rw ro", "read-write must be asked for");
    assert_eq!(access(&jar, "sales", &rw), "/workspace/extra/rw ro", "nonMainReadOnly holds by default");
    config(", \"nonMainReadOnly\": false");
    assert_eq!(access(&jar, "sales", &rw), "/workspace/extra/rw rw");
    assert!(access(&jar, "main", &jar.text("project")).contains("no allowed root contains it"));
    config(", \"blockedPatterns\": [\"area\"]");
    assert!(access(&jar, "main", &rw).contains("blocked by the pattern `area`"));
    fs::remove_file(jar.path("belljar/config/mount-allowlist.json")).expect("delete it");
    assert!(access(&jar, "main", &rw).contains("there is no allowlist"));
}

#[test]
fn mounts_check_says_which_rule_decided() {
    let jar = Jar::new();
    let area = jar.path("area");
    jar.write("area/x/.env", SECRET);
    jar.write("area/.ssh/id_rsa", SECRET);
    jar.allow(&[(&area, true)]);
    let check = |arguments: &[&str]| {
        let mut line = vec!["mounts", "check"];
        line.extend(arguments);
        jar.call(&line)
    };
    let out = check(&[&jar.text("area/x")]).success().out();
    assert!(out.contains("read-only") && out.contains(&jar.text("area")) && out.contains("1 names"), "{out}");
    let refused = check(&["--rw", &jar.text("area/x")]);
    assert_eq!(refused.code, 1);
    assert!(refused.out().contains(".env"), "{}", refused.out());
    assert!(check(&[&jar.text("area/.ssh")]).exits(1).out().contains(".ssh"));
    assert!(check(&[&jar.text("project")]).exits(1).out().contains("no allowed root"));
    assert!(check(&["--untrusted", &jar.text("area/x")]).success().out().contains("read-only"));
    let list = jar.call(&["mounts", "list"]).success().out();
    assert!(list.contains(&jar.text("area")) && list.contains(".gnupg"), "{list}");
    let fresh = Jar::new();
    fresh.call(&["mounts", "init"]).success();
    fresh.call(&["mounts", "init"]).exits(125);
    fresh.run(&["-m", &fresh.text("home")], &["true"]).exits(125).says(&["no allowed root"]);
}

#[test]
fn credentials_are_hidden_at_every_depth() {
    let jar = Jar::new();
    let hidden = [
        ".env",
        ".env.local",
        "a/.env",
        "a/b/c/d/.ENV",
        "a/id_rsa",
        "a/id_rsa.pub",
        "a/b/id_ed25519_work",
        "a/.npmrc",
        "a/.netrc",
        "a/credentials",
        "a/.git-credentials",
        "a/tls/server.key",
        "a/tls/private.pem",
        "a/.aws/config",
        "a/b/.ssh/known_hosts",
        ".kube/config",
        "a/my.kdbx",
    ];
    let seen = ["a/environment", "a/credentials.rs", "a/tls/public.pem", "a/my_id_rsa.txt", ".github/workflow.yml"];
    for name in hidden {
        jar.write(&format!("project/{name}"), &format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n"));
    }
    for name in seen {
        jar.write(&format!("project/{name}"), "visible\n");
    }
    jar.write("belljar/config/mount-allowlist.json", "{\"allowedRoots\": [], \"blockedPatterns\": [\"*.kdbx\"]}");
    let out = jar.sh("cd /workspace/project; grep -rl belljar-test-secret . 2>/dev/null; cat .env a/b/c/d/.ENV a/tls/server.key; ls -A a/.aws a/b/.ssh 2>/dev/null; true");
    assert_eq!(out.success().out(), "");
    for name in seen {
        assert_eq!(jar.run(&[], &["cat", &format!("/workspace/project/{name}")]).success().out(), "visible\n");
    }
    let plan = jar.plan(&[], &["true"]);
    assert_eq!(plan["shadowed"]["files"], hidden.len() - 3);
    assert_eq!(plan["shadowed"]["directories"], 3);
    let directories = jar.sh("stat -c %a /workspace/project/a/.aws; cd /workspace/project/a/.aws").out();
    assert_eq!(directories, "0\n");
}

#[test]
fn a_secret_under_a_second_name_refuses_the_run() {
    let jar = Jar::new();
    fs::hard_link(jar.path("project/.env"), jar.path("project/src/copy.txt")).expect("make a hard link");
    jar.run(&[], &["true"]).exits(125).says(&[".env", "copy.txt", "hard link"]);
    fs::remove_file(jar.path("project/src/copy.txt")).expect("delete it");
    // A second name outside every mount, or under another hidden name, is harmless.
    fs::hard_link(jar.path("project/.env"), jar.path("home/backup")).expect("make a hard link");
    fs::hard_link(jar.path("project/.env"), jar.path("project/.env.old")).expect("make a hard link");
    jar.run(&[], &["true"]).success();
    // In another mount it is not.
    jar.allow(&[(&jar.path("home"), false)]);
    jar.run(&["-m", &jar.text("home")], &["true"]).exits(125).says(&["backup", "hard link"]);
    fs::create_dir_all(jar.group("main")).expect("make the group's folder");
    fs::hard_link(jar.path("project/.env"), jar.group("main").join("mine")).expect("make a hard link");
    jar.run(&[], &["true"]).exits(125).says(&["hard link"]);
}

#[test]
fn a_read_write_mount_that_holds_a_secret_is_refused() {
    let jar = Jar::new();
    jar.run(&["--project", ".:rw"], &["true"]).exits(125).says(&[".env", "read-only"]);
    fs::remove_file(jar.path("project/.env")).expect("delete it");
    jar.sh("echo x > /workspace/project/made").exits(2);
    jar.run(&["--project", ".:rw"], &["sh", "-c", "echo made > /workspace/project/made"]).success();
    assert_eq!(fs::read_to_string(jar.path("project/made")).expect("it is there"), "made\n");
}

#[test]
fn git_hooks_and_config_cannot_be_changed_or_moved_away() {
    let jar = Jar::new();
    fs::remove_file(jar.path("project/.env")).expect("delete it");
    fs::create_dir_all(jar.path("project/.git/hooks")).expect("make a directory");
    let sub = jar.path("project/vendor/lib");
    fs::create_dir_all(&sub).expect("make a directory");
    for name in ["objects", "refs", "hooks"] {
        fs::create_dir_all(sub.join(".git").join(name)).expect("make a directory");
    }
    fs::write(sub.join(".git/HEAD"), "ref: refs/heads/main\n").expect("write a file");
    fs::write(sub.join(".git/config"), "[core]\n").expect("write a file");
    let before: Vec<String> = ["project/.git/config", "project/vendor/lib/.git/config"]
        .iter()
        .map(|name| fs::read_to_string(jar.path(name)).expect("read it"))
        .collect();
    let tricks = "cd /workspace/project; for g in .git vendor/lib/.git; do \
        echo evil > $g/config; echo evil > $g/hooks/pre-commit; mv $g $g.away; rm -rf $g/hooks $g/config; mv $g/hooks $g/h; \
        ln -sf /tmp/x $g/config; mv $g/config $g/c; mkdir $g.away/hooks; done; mv vendor vendor2; mv vendor/lib vendor/lib2; \
        git config core.hooksPath /tmp; true";
    jar.run(&["--project", ".:rw"], &["sh", "-c", &format!("{{ {tricks}; }} 2>/dev/null")]).success();
    let after: Vec<String> = ["project/.git/config", "project/vendor/lib/.git/config"]
        .iter()
        .map(|name| fs::read_to_string(jar.path(name)).expect("it is still there"))
        .collect();
    assert_eq!(before, after);
    assert!(harness::names_in(&jar.path("project/.git/hooks")).iter().all(|name| name != "pre-commit"));
    assert!(harness::names_in(&sub.join(".git/hooks")).is_empty());
    // The rest of git works.
    let commit = "cd /workspace/project && echo x > new && git -c user.name=a -c user.email=a@example.invalid -c safe.directory=* add new && \
        git -c user.name=a -c user.email=a@example.invalid -c safe.directory=* commit -qm second";
    jar.run(&["--project", ".:rw"], &["sh", "-c", commit]).success();
}

#[test]
fn nothing_of_belljars_own_can_be_mounted() {
    let jar = Jar::new();
    jar.run(&[], &["true"]).success();
    jar.allow(&[(Path::new("/"), true)]);
    let own = [
        "belljar",
        "belljar/config",
        "belljar/data",
        "belljar/data/groups",
        "belljar/data/sessions",
        "belljar/data/groups/main",
        "belljar/run",
        "belljar/config/mount-allowlist.json",
    ];
    for below in own {
        let mount = jar.text(below);
        jar.run(&["-m", &mount], &["true"]).exits(125).says(&["belljar's own "]);
        jar.run(&["-m", &format!("{mount}:x:rw")], &["true"]).exits(125);
    }
    let whole = jar.text("");
    jar.run(&["-m", &format!("{whole}:x")], &["true"]).exits(125).says(&["belljar's own "]);
    jar.run(&["--project", &whole], &["true"]).exits(125).says(&["belljar's own "]);
    for system in ["/", "/proc", "/sys", "/dev", "/proc/self", "/dev/shm"] {
        jar.run(&["-m", &format!("{system}:x")], &["true"]).exits(125);
    }
}

#[test]
fn two_mounts_never_meet() {
    let jar = Jar::new();
    for name in ["one", "two"] {
        jar.write(&format!("area/{name}/f"), name);
    }
    jar.allow(&[(&jar.path("area"), true)]);
    let (one, two) = (jar.text("area/one"), jar.text("area/two"));
    for (a, b) in [("x", "x"), ("x", "x/y"), ("x/y", "x")] {
        let line = [format!("{one}:{a}"), format!("{two}:{b}")];
        jar.run(&["-m", &line[0], "-m", &line[1]], &["true"]).exits(125).says(&["two mounts meet"]);
    }
    let line = [format!("{one}:x/one"), format!("{two}:x/two")];
    let out = jar.run(&["-m", &line[0], "-m", &line[1]], &["sh", "-c", "cat /workspace/extra/x/*/f"]).success();
    assert_eq!(out.out(), "onetwo");
}

#[test]
fn what_is_mounted_below_a_mount_is_never_carried_along_silently() {
    let jar = Jar::new();
    jar.write("area/under/covered", SECRET);
    jar.write("other/file", SECRET);
    jar.allow(&[(&jar.path("area"), true)]);
    let run = format!(
        "{} run -m {} -- sh -c 'ls -A /workspace/extra/area/under; grep -r {SECRET} /workspace/extra; true'",
        harness::belljar().display(),
        jar.text("area")
    );
    // A user mounts in a namespace of the user's own, and is a user again in another.
    let again = if is_root() { "" } else { "unshare -U --map-user=1001 --map-group=1001" };
    let script = format!("mount --bind {} {} && exec {again} {run}", jar.text("other"), jar.text("area/under"));
    let mut command = std::process::Command::new("unshare");
    command.args([if is_root() { "-m" } else { "-Urm" }, "sh", "-c", &script]);
    jar.surround(&mut command);
    let outcome = harness::finish(command, b"");
    assert!(!outcome.out().contains("file"), "the mount below came along: {}", outcome.out());
    if is_root() {
        // Left out, and what it covers is no secret of the mount's but of the host's.
        outcome.success();
    } else {
        outcome.exits(125).says(&["another file system is mounted below it"]);
    }
}

#[test]
fn mounts_of_the_configuration_obey_the_allowlist_too() {
    let jar = Jar::new();
    jar.write("area/notes/n", "note");
    jar.write(
        "belljar/config/config.toml",
        &format!("[[group.main.mounts]]\nhost = \"{}\"\ncontainer = \"n\"\nreadonly = false\n", jar.text("area/notes")),
    );
    jar.run(&[], &["true"]).exits(125).says(&["no allowlist"]);
    jar.allow(&[(&jar.path("area"), false)]);
    let out = jar.sh("cat /workspace/extra/n/n; echo x > /workspace/extra/n/n").exits(2);
    assert_eq!(out.out(), "note");
}

/// An agent that deletes HEAD in one run must not find hooks writable in the
/// next, put a hook there, and HEAD back.
#[test]
fn a_damaged_git_directory_is_protected_too() {
    let jar = Jar::new();
    fs::remove_file(jar.path("project/.env")).expect("delete it");
    fs::create_dir_all(jar.path("project/.git/hooks")).expect("make a directory");
    fs::remove_file(jar.path("project/.git/HEAD")).expect("delete it");
    let project = format!("{}:rw", jar.text("project"));
    let script = "cd /workspace/project/.git; echo x > hooks/post-commit || echo kept; mv hooks away || echo kept";
    let out = jar.run(&["--project", &project], &["sh", "-c", script]).success().out();
    assert_eq!(out, "kept\nkept\n");
}
