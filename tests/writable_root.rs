//! Promise: with `--writable-root` what the agent may write in its root can be
//! written, goes into memory of the run's own with a limit, and is gone after
//! it. Nothing else becomes writable, and no mount can be moved away.

mod harness;
mod world;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{
    Jar, Live, Outcome, SECRET, SOON, eventually, finish, is_root, names_in, processes_with, skip, tree, unpacked_root,
};
use nix::sys::signal::Signal;
use world::{TOKEN, World, has};

const WRITABLE: &str = "--writable-root";

fn sh(jar: &Jar, options: &[&str], script: &str) -> Outcome {
    let mut line = vec![WRITABLE];
    line.extend(options);
    jar.run(&line, &["sh", "-c", script])
}

/// A root with a directory of the agent's in directories of root's: on disk it
/// belongs to 1000 where root calls, as an image's is unpacked, and otherwise to
/// the caller.
fn root_with_own(jar: &Jar) -> PathBuf {
    let root = unpacked_root(jar, &["cp", "chmod", "mkdir", "rm", "mv", "ln", "stat"]);
    jar.write("root/opt/some/app/deep/file", "as unpacked\n");
    jar.write("root/opt/some/app/old/file", "goes\n");
    fs::create_dir_all(root.join("var/tmp")).expect("make a directory");
    fs::set_permissions(root.join("var/tmp"), PermissionsExt::from_mode(0o1777)).expect("open it");
    jar.write("root/srv/secret", "not for others\n");
    fs::set_permissions(root.join("srv/secret"), PermissionsExt::from_mode(0o600)).expect("close it");
    if is_root() {
        give(&root.join("opt/some/app"), 1000);
    }
    root
}

fn give(path: &Path, owner: u32) {
    chown(path, Some(owner), Some(owner)).expect("chown");
    for name in names_in(path) {
        let below = path.join(name);
        if below.is_dir() {
            give(&below, owner);
        } else {
            chown(below, Some(owner), Some(owner)).expect("chown");
        }
    }
}

#[test]
fn without_the_option_nothing_of_the_root_can_be_written() {
    let jar = Jar::new();
    let root = root_with_own(&jar).to_string_lossy().into_owned();
    let script = "for f in /x /usr/x /etc/x /opt/some/app/x /var/tmp/x; do [ -d ${f%/*} ] || [ ${f%/*} = '' ] && touch $f 2>&1; done; true";
    for options in [&[][..], &["--rootfs", &root]] {
        let out = jar.run(options, &["sh", "-c", script]).success();
        assert!(out.out().contains("Read-only file system") && !out.out().contains("denied"), "{}", out.out());
    }
    let path = jar.run(&[], &["sh", "-c", "echo $PATH $NPM_CONFIG_PREFIX"]).success().out();
    assert!(!path.contains("/home/node"), "{path}");
}

#[test]
fn the_hosts_root_takes_what_is_written_and_is_as_before_in_the_next_run() {
    let jar = Jar::new();
    let usr = names_in(Path::new("/usr"));
    let script = "echo made > /made && mkdir -p /srv/deep && echo more > /srv/deep/file && cat /made /srv/deep/file; \
        touch /usr/lib/belljar-test /usr/bin/belljar-test 2>&1; ls /usr";
    let out = sh(&jar, &[], script).success().out();
    assert!(out.starts_with("made\nmore\n") && out.contains("denied"), "{out}");
    let next = sh(&jar, &[], "ls -d /made /srv /usr/* 2>&1; true").success().out();
    assert!(!next.contains("\n/made") && !next.contains("belljar-test"), "{next}");
    assert_eq!(names_in(Path::new("/usr")), usr, "the host's /usr was changed");
}

#[test]
fn what_is_the_agents_in_an_unpacked_root_can_be_changed_and_stays_as_it_was_on_disk() {
    let jar = Jar::new();
    let root = root_with_own(&jar);
    let before = (tree(&root), fs::read_to_string(root.join("opt/some/app/deep/file")).expect("read it"));
    let script = "cd /opt/some/app && echo changed > deep/file && rm -r old && mkdir -p new/er && mv deep moved && \
        ln -s /usr link && cat moved/file && ls && touch /var/tmp/x && stat -c '%u %g' . moved/file /var/tmp/x";
    let name = root.to_string_lossy();
    let out = sh(&jar, &["--rootfs", &name], script).success();
    assert_eq!(out.out(), "changed\nlink\nmoved\nnew\n1000 1000\n1000 1000\n1000 1000\n", "{}", out.err());
    let next = sh(&jar, &["--rootfs", &name], "cd /opt/some/app; ls . /var/tmp; cat deep/file old/file").success();
    assert_eq!(next.out(), ".:\ndeep\nold\n\n/var/tmp:\nas unpacked\ngoes\n", "{}", next.err());
    assert_eq!((tree(&root), fs::read_to_string(root.join("opt/some/app/deep/file")).expect("read it")), before);
}

#[test]
fn what_is_anothers_in_an_unpacked_root_stays_anothers() {
    // Only root can give files to others.
    if !is_root() {
        return;
    }
    let jar = Jar::new();
    let root = root_with_own(&jar);
    jar.write("root/opt/foreign/file", "of 33\n");
    give(&root.join("opt/foreign"), 33);
    let before = tree(&root);
    let script = "cat /opt/foreign/file; echo x >> /opt/foreign/file; touch /opt/foreign/x; echo x >> /srv/data; touch /srv/x; \
        rm /etc/os-release; echo x >> /etc/passwd; cat /srv/secret; chmod 666 /srv/secret; mv /srv/secret /srv/open; true";
    let out = sh(&jar, &["--rootfs", &root.to_string_lossy()], script).success();
    assert_eq!(out.out(), "of 33\n", "{}", out.err());
    assert_eq!(
        out.err().matches("ermission denied").count() + out.err().matches("not permitted").count(),
        9,
        "{}",
        out.err()
    );
    assert_eq!(tree(&root), before);
}

#[test]
fn links_planted_in_the_root_lead_no_write_out_of_it() {
    let jar = Jar::new();
    let root = root_with_own(&jar);
    jar.write("outside/file", SECRET);
    let outside = jar.path("outside");
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o777)).expect("open it");
    let _ = fs::remove_dir_all(root.join("etc/ssl"));
    let links = ["etc/hosts", "etc/ssl", "var/lib", "opt/some/app/link", "srv/link", "outside"];
    for link in links {
        symlink(&outside, root.join(link)).expect("plant a link");
        symlink(outside.join("file"), root.join(format!("{link}-file"))).expect("plant a link");
    }
    let relative = "../".repeat(20) + &jar.text("outside")[1..];
    symlink(&relative, root.join("opt/some/app/relative")).expect("plant a link");
    let script = format!(
        "for d in /etc/ssl /var/lib /opt/some/app/link /opt/some/app/relative /srv/link /outside; do \
           touch $d/made; echo x > $d-file; cat $d/file $d-file; done 2>/dev/null; \
         mkdir -p {outside} && echo inside > {outside}/file && cat /opt/some/app/relative/file; cat /etc/hosts",
        outside = outside.display()
    );
    let out = sh(&jar, &["--rootfs", &root.to_string_lossy()], &script).success().out();
    assert!(out.contains("inside\n127.0.0.1 localhost") && !out.contains(SECRET), "{out}");
    assert_eq!(names_in(&outside), ["file"]);
    assert_eq!(fs::read_to_string(outside.join("file")).expect("read it"), SECRET);
}

#[test]
fn two_runs_see_nothing_of_each_other() {
    let jar = Jar::new();
    let root = root_with_own(&jar).to_string_lossy().into_owned();
    let script =
        "echo one > /opt/some/app/deep/file; touch /mine; echo ready; read -r line; cat /opt/some/app/deep/file";
    let mut command = jar.belljar(["run", WRITABLE, "--rootfs", &root, "--", "sh", "-c", script]);
    command.stdin(Stdio::piped());
    let mut first = Live::start(command);
    first.wait_for("ready");
    let out =
        sh(&jar, &["--rootfs", &root], "cat /opt/some/app/deep/file; ls /mine; echo two > /opt/some/app/deep/file");
    assert_eq!(out.success().out(), "as unpacked\n");
    first.write(b"go\n");
    assert_eq!(first.wait().success().out(), "ready\none\n");
}

#[test]
fn set_id_bits_count_for_nothing() {
    let jar = Jar::new();
    let root = root_with_own(&jar);
    let planted = root.join("opt/some/app/set-id");
    fs::copy(root.join("bin/id"), &planted).expect("copy a program");
    if is_root() {
        chown(&planted, Some(0), Some(0)).expect("chown");
    }
    fs::set_permissions(&planted, PermissionsExt::from_mode(0o6755)).expect("chmod");
    let script = "cp /bin/id /opt/some/app/mine; chmod 4755 /opt/some/app/mine && echo SET; chmod 2755 /opt/some/app/mine && echo SET; \
        cp /bin/id /top; chmod 6755 /top && echo SET; /top -u; /opt/some/app/mine -u; /opt/some/app/set-id -u; /opt/some/app/set-id -g";
    let out = sh(&jar, &["--rootfs", &root.to_string_lossy()], script).success();
    assert_eq!(out.out(), "1000\n1000\n1000\n1000\n", "{}", out.err());
    // In the mount table too, for each file system that the agent can write.
    let table = sh(&jar, &[], "cat /proc/self/mountinfo").success().out();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let options: Vec<&str> = fields[5].split(',').collect();
        if options.contains(&"rw") {
            assert!(
                options.contains(&"nosuid") || ["/proc", "/dev"].iter().any(|own| fields[4].starts_with(own)),
                "{line}"
            );
        }
    }
}

#[test]
fn mounts_and_shadows_stay_where_they_are() {
    let jar = Jar::new();
    jar.write("notes/note", "of the person\n");
    jar.write("notes/.env", SECRET);
    jar.allow(&[(&jar.path("notes"), false)]);
    let root = root_with_own(&jar).to_string_lossy().into_owned();
    let notes = format!("{}:deep/notes", jar.text("notes"));
    let before = tree(&jar.project());
    // Each directory on the way to a mount, and each mount.
    let script = "for d in /workspace /workspace/project /workspace/group /workspace/extra /workspace/extra/deep /workspace/extra/deep/notes \
            /home /home/node /home/node/.claude /run /run/belljar /run/belljar/init /proc /dev /dev/null /tmp /usr /etc /etc/alternatives \
            /workspace/project/.env /workspace/extra/deep/notes/.env; do \
          [ -e $d ] || continue; mv -T $d /away 2>/dev/null && echo MOVED $d; rmdir $d 2>/dev/null && echo REMOVED $d; done; \
        for f in /workspace/x /workspace/extra/x /workspace/extra/deep/x /workspace/project/x /workspace/project/.env /workspace/global/x \
            /workspace/extra/deep/notes/x /run/belljar/x /run/belljar/summary.txt /home/x; do touch $f 2>/dev/null && echo WROTE $f; done; \
        echo x 2>/dev/null >> /run/belljar/init && echo WROTE init; echo x 2>/dev/null > /proc/sys/kernel/hostname && echo WROTE sys; \
        cat /workspace/project/.env /workspace/extra/deep/notes/.env /workspace/extra/deep/notes/note; echo end";
    for options in [vec!["-m", &notes], vec!["-m", &notes, "--rootfs", &root]] {
        let out = sh(&jar, &options, script).success();
        assert_eq!(out.out(), "of the person\nend\n", "{}", out.err());
    }
    assert_eq!(tree(&jar.project()), before);
    assert_eq!(names_in(&jar.path("notes")), [".env", "note"]);
}

#[test]
fn the_layer_has_a_limit_and_the_plan_says_it() {
    let jar = Jar::new();
    let plan = jar.plan(&[WRITABLE], &["true"]);
    let (size, inodes) = (plan["root"]["writable"]["size"].as_u64(), plan["root"]["writable"]["inodes"].as_u64());
    let (size, inodes) = (size.expect("a size"), inodes.expect("a number of files"));
    let script = "for d in / /usr /etc; do stat -f -c '%b %S %c' $d; done; fallocate -l 64G /big 2>&1; echo small > /small && cat /small";
    let out = sh(&jar, &[], script).success().out();
    let lines: Vec<&str> = out.lines().collect();
    for line in &lines[..3] {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        assert_eq!((numbers[0] * numbers[1], numbers[2]), (size, inodes), "{out}");
    }
    assert!(lines[3].contains("No space left on device") && lines.last() == Some(&"small"), "{out}");
    let text = jar.call(&["explain", WRITABLE, "--", "true"]).success().out();
    assert!(text.contains(&format!("writable in memory: {} MiB, {inodes} files", size >> 20)), "{text}");
    assert!(text.contains("/usr rw,nodev <- a layer over /usr"), "{text}");
    assert!(jar.plan(&[], &["true"])["root"]["writable"].is_null());
}

#[test]
fn a_killed_run_leaves_nothing_of_it() {
    let jar = Jar::new();
    let mark = format!("7{}.5", std::process::id());
    let table = || fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let before = table();
    let script = format!("head -c 30000000 /dev/zero > /big; (setsid sleep {mark} &); echo ready; sleep {mark}");
    let run = jar.start(&[WRITABLE], &["sh", "-c", &script]);
    run.wait_for("ready");
    run.signal(Signal::SIGKILL);
    run.wait();
    eventually("no process of the run is left", SOON, || processes_with(&mark).is_empty());
    eventually("no run directory is left", SOON, || jar.live_runs().is_empty());
    assert_eq!(table(), before, "a mount was left on the host");
}

#[test]
fn it_works_whatever_the_callers_umask_is() {
    let jar = Jar::new();
    let root = root_with_own(&jar).to_string_lossy().into_owned();
    for options in [vec![], vec![WRITABLE], vec![WRITABLE, "--rootfs", &root]] {
        let mut command = Command::new("sh");
        let words = [
            "-c",
            "umask 077; exec \"$0\" run \"$@\" -- sh -c 'umask; cat /etc/hosts >/dev/null && ls -d /bin/sh /workspace/group >/dev/null && echo seen'",
        ];
        command.args(words).arg(harness::belljar()).args(&options);
        jar.surround(&mut command);
        assert_eq!(finish(command, b"").success().out(), "0022\nseen\n", "{options:?}");
    }
}

#[test]
fn npm_and_pip_install_programs_that_are_found() {
    if !has("npm") || !Path::new("/usr/lib/python3/dist-packages/pip").exists() {
        skip("npm and python3-pip");
        return;
    }
    let Some(world) = World::new() else { return };
    world.secret("npm", &["--preset", "npm"], TOKEN);
    let script = "echo '//registry.npmjs.org/:_authToken=${NPM_TOKEN}' > ~/.npmrc; \
        npm install -g --no-audit --no-fund --fetch-retries 0 tiny-package >&2 && tiny-program; \
        /usr/bin/python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --retries 0 tinypkg >&2 && tiny-wheel; \
        /usr/bin/python3 -c 'import tinypkg; print(tinypkg.NAME)'";
    let out = world.run(&[WRITABLE], &["sh", "-c", script]).success();
    assert_eq!(out.out(), "tiny\ntiny\ntiny\n", "{}", out.err());
    let next = world.run(&[WRITABLE], &["sh", "-c", "command -v tiny-program tiny-wheel; true"]).success();
    assert_eq!(next.out(), "", "what was installed is there in the next run");
}

#[test]
fn the_configuration_gives_it_to_all_groups_or_to_one() {
    let jar = Jar::new();
    jar.call(&["group", "add", "other"]).success();
    let is_writable = |group: &str| !jar.plan(&["-g", group], &["true"])["root"]["writable"].is_null();
    jar.write("belljar/config/config.toml", "[run]\nwritable_root = true\n[group.other]\nwritable_root = false\n");
    assert!(is_writable("main") && !is_writable("other"));
    jar.write("belljar/config/config.toml", "[group.other]\nwritable_root = true\n");
    assert!(!is_writable("main") && is_writable("other"));
}

#[test]
fn a_bundle_cannot_have_one_and_says_why() {
    let jar = Jar::new();
    let output = jar.text("bundle");
    let out = jar.call(&["bundle", WRITABLE, "--output", &output, "--", "true"]).exits(125);
    out.says(&["--writable-root", "a plain runtime has no such place"]);
    assert!(!Path::new(&output).exists(), "something was written");
}
