//! Promise: where a host restricts namespaces, `belljar doctor` names cause and
//! cure, and `belljar run` refuses with the same words, before its first effect.

mod harness;

use std::fs;
use std::process::Command;

use harness::{Jar, Outcome, finish, is_root, load, probe, skip, system_program, tree};

/// Nests user namespaces until the kernel makes no more, and goes on there.
const NEST: &str = "#!/bin/sh\nmap=$1; shift\n\
    if unshare --user $map true 2>/dev/null; then exec unshare --user $map \"$0\" $map \"$@\"; else exec \"$@\"; fi\n";

/// belljar below other programs.
fn below(jar: &Jar, around: &[&str], arguments: &[&str]) -> Outcome {
    let mut command = Command::new(around[0]);
    command.args(&around[1..]).arg(harness::belljar()).args(arguments);
    jar.surround(&mut command);
    finish(command, b"")
}

/// When a run is refused.
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    /// Before its first effect.
    Early,
    /// When the launcher fails, on a host that raises no doubts before.
    Late,
}

/// What doctor found, after it was compared with what run says.
struct Refusal {
    name: String,
    found: String,
    mend: String,
}

impl Refusal {
    /// The promise as a whole.
    fn below(jar: &Jar, around: &[&str]) -> Self {
        Self::seen(Seen::Early, jar, around)
    }

    fn seen(seen: Seen, jar: &Jar, around: &[&str]) -> Self {
        let doctor = below(jar, around, &["doctor", "--json"]).exits(1).json();
        let names = [
            "threads",
            "namespaces",
            "id maps",
            "ids",
            "private mounts",
            "tmpfs",
            "proc",
            "overlay",
            "nested namespace",
            "entering namespaces",
            "own root",
        ];
        let missing = doctor
            .as_array()
            .expect("a list")
            .iter()
            .find(|finding| finding["state"] == "missing" && names.iter().any(|name| finding["name"] == *name))
            .unwrap_or_else(|| panic!("doctor finds nothing: {doctor:#}"));
        let text = |field: &str| missing[field].as_str().expect("a text").to_owned();
        let refusal = Self { name: text("name"), found: text("found"), mend: text("mend") };
        let before = tree(&jar.path("belljar"));
        let receipt = jar.text("receipt.json");
        let run = below(jar, around, &["run", "--receipt", &receipt, "--", "touch", "/workspace/group/ran"]).exits(125);
        let lines: Vec<String> = run.err().lines().map(str::to_owned).collect();
        let said = |line: usize| lines.get(line).map_or("", String::as_str);
        assert!(said(0).starts_with("belljar: error: no run can be made here: "), "{lines:?}");
        assert_eq!(said(1), format!("  because: {}", refusal.found));
        assert_eq!(lines.last(), Some(&format!("hint: {}", refusal.mend)));
        assert!(run.stdout.is_empty() && jar.live_runs().is_empty());
        assert!(!jar.group("main").join("ran").exists(), "the agent ran");
        if seen == Seen::Early {
            assert_eq!(lines.len(), 3, "{lines:?}");
            assert_eq!(tree(&jar.path("belljar")), before, "the refusal came after an effect");
            assert!(!jar.path("receipt.json").exists(), "the refusal came after an effect");
        } else {
            let kept = jar.receipts().pop().expect("a receipt");
            assert_eq!(
                (&kept["status"], &kept["error"]["causes"][0]),
                (&"failed".into(), &refusal.found.clone().into())
            );
        }
        refusal
    }

    /// A failure unless cause and cure hold these.
    fn is(&self, name: &str, found: &[&str], mend: &[&str]) {
        assert_eq!(self.name, name, "{}", self.found);
        for part in found {
            assert!(self.found.contains(part), "`{part}` is not in: {}", self.found);
        }
        for part in mend {
            assert!(self.mend.contains(part), "`{part}` is not in: {}", self.mend);
        }
    }
}

/// A user namespace in which the caller keeps its id, with `script` done in it
/// first, with all capabilities there; `"$@"` is what comes after.
fn prepared(script: &str) -> Vec<String> {
    let map = if is_root() { "--map-root-user" } else { "--map-current-user" };
    // An ordinary user's own capabilities are for the script alone.
    let drop = if is_root() { "" } else { "setpriv --inh-caps=-all --ambient-caps=-all" };
    let script = format!("{script} && exec {drop} \"$@\"");
    ["unshare", "--user", map, "--keep-caps", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

/// Around the words, the probe that puts a filter in force.
fn filtered(rule: &str, errno: &str) -> Vec<String> {
    let probe = probe().to_string_lossy().into_owned();
    vec![probe, "under".to_owned(), rule.to_owned(), errno.to_owned()]
}

/// Mounts a copy of /proc/sys/kernel over it, with these values: root in a mount
/// namespace, an ordinary user in a user namespace too.
fn with_sysctl(jar: &Jar, name: &str, value: &str) -> Vec<String> {
    for entry in fs::read_dir("/proc/sys/kernel").expect("it is there").flatten() {
        if let Ok(text) = fs::read_to_string(entry.path()) {
            jar.write(&format!("kernel/{}", entry.file_name().to_string_lossy()), &text);
        }
    }
    jar.write(&format!("kernel/{name}"), &format!("{value}\n"));
    let script = format!("mount --bind {} /proc/sys/kernel", jar.text("kernel"));
    if is_root() {
        let script = format!("{script} && exec \"$@\"");
        return ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    }
    prepared(&script)
}

#[test]
fn the_limit_of_user_namespaces() {
    let jar = Jar::new();
    for (kind, step) in [("user", "namespaces"), ("net", "namespaces"), ("mnt", "namespaces")] {
        // The script's own mount namespace counts, so it is there before.
        let around = prepared(&format!("echo 0 >/proc/sys/user/max_{kind}_namespaces"));
        let name = format!("user.max_{kind}_namespaces");
        let refusal = Refusal::below(&jar, &words(&around));
        refusal.is(step, &["ENOSPC", &format!("{name} is 0")], &[&format!("sudo sysctl {name}=65536")]);
    }
    // Of host names only the container has one.
    let around = prepared("echo 0 >/proc/sys/user/max_uts_namespaces");
    let refusal = Refusal::below(&jar, &words(&around));
    if !is_root() {
        refusal.is(
            "nested namespace",
            &["user.max_uts_namespaces is 0"],
            &["sudo sysctl user.max_uts_namespaces=65536"],
        );
    }
    // Enough for the launcher's, and not for the container's in it.
    let around = prepared("echo 1 >/proc/sys/user/max_user_namespaces");
    let refusal = Refusal::below(&jar, &words(&around));
    if is_root() {
        // Root's runs get ids that such a namespace does not have, which comes first.
        refusal.is("id maps", &["no ids from 1900000000 up"], &["outside of it"]);
        return;
    }
    refusal.is("nested namespace", &["user.max_user_namespaces is 1", "used up"], &["sudo sysctl", "lsns"]);
}

#[test]
fn a_runtime_that_fails_is_not_taken_for_a_host_that_refuses() {
    let jar = Jar::new();
    let runtime = jar.script("crun", "case \"$*\" in *run*) echo boom >&2; exit 1 ;; esac; exec /usr/bin/crun \"$@\"");
    let outcome = jar.run(&["--runtime", &runtime.to_string_lossy()], &["true"]).exits(125);
    let outcome = outcome.says(&["boom", "start the container with"]);
    assert!(!outcome.err().contains("no run can be made here"), "{}", outcome.err());
}

#[test]
fn too_many_sandboxes_around() {
    let jar = Jar::new();
    let nest = jar.script("nest", NEST).to_string_lossy().into_owned();
    let map = if is_root() { "--map-root-user" } else { "--map-current-user" };
    let refusal = Refusal::below(&jar, &[&nest, map]);
    refusal.is("namespaces", &["ENOSPC", "32 are nested"], &["fewer sandboxes"]);
}

#[test]
fn a_filter_that_refuses_user_namespaces_as_dockers_does() {
    let jar = Jar::new();
    for errno in ["EPERM", "ENOSYS"] {
        let refusal = Refusal::below(&jar, &words(&filtered("userns", errno)));
        let mend = ["--security-opt seccomp=unconfined", "RestrictNamespaces=no"];
        refusal.is("namespaces", &[errno, "seccomp filter", "refuses user namespaces"], &[]);
        assert!(mend.iter().any(|mend| refusal.mend.contains(mend)), "{}", refusal.mend);
    }
    // A filter is no reason by itself.
    let outcome = below(&jar, &words(&filtered("nothing", "EPERM")), &["run", "--", "echo", "ran"]).success();
    assert_eq!((outcome.out(), outcome.err()), ("ran\n".to_owned(), String::new()));
}

#[test]
fn a_filter_that_refuses_some_namespaces_as_units_do() {
    let jar = Jar::new();
    let refusal = Refusal::below(&jar, &words(&filtered("network", "EPERM")));
    refusal.is("namespaces", &["EPERM", "seccomp filter", "of this kind: net"], &[]);
    assert!(!refusal.found.contains("mnt") && !refusal.found.contains("user namespaces"), "{}", refusal.found);
}

#[test]
fn a_filter_that_refuses_mounting() {
    let jar = Jar::new();
    let refusal = Refusal::below(&jar, &words(&filtered("mount", "EPERM")));
    refusal.is("private mounts", &["EPERM", "seccomp filter", "refuses mounting"], &[]);
}

#[test]
fn a_filter_that_refuses_one_call() {
    let jar = Jar::new();
    for (rule, step, cause) in [
        ("pivot_root", "own root", "refuses pivot_root"),
        ("setns", "entering namespaces", "refuses setns"),
        ("setresuid", "ids", "refuses setresuid or setresgid"),
        ("clone3", "threads", "refuses clone3"),
    ] {
        let refusal = Refusal::below(&jar, &words(&filtered(rule, "EPERM")));
        refusal.is(step, &["EPERM", "seccomp filter", cause], &["seccomp=unconfined"]);
    }
}

/// What none of the steps tries, the trial run does, and both say the same.
#[test]
fn a_filter_that_refuses_a_call_that_only_a_run_makes() {
    let jar = Jar::new();
    for call in [
        "unshare",
        "umount2",
        "sethostname",
        "seccomp",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "pidfd_open",
        "memfd_create",
        "prlimit64",
        "socketpair",
    ] {
        for errno in &["EPERM", "ENOSYS"][..load(2, 1) as usize] {
            let around = filtered(call, errno);
            let doctor = below(&jar, &words(&around), &["doctor", "--json"]).exits(1).json();
            let missing: Vec<_> =
                doctor.as_array().expect("a list").iter().filter(|finding| finding["state"] == "missing").collect();
            let [missing] = missing[..] else { panic!("{call} {errno}: {missing:#?}") };
            assert_eq!(missing["name"], "a trial run", "{call} {errno}");
            let run = below(&jar, &words(&around), &["run", "--", "touch", "/workspace/group/ran"]).exits(125);
            let (said, found) = (run.err(), missing["found"].as_str().expect("a text"));
            let cause = said.lines().filter_map(|line| line.strip_prefix("  because: ")).next_back().expect("a cause");
            assert!(cause.contains("seccomp filter") && found.ends_with(cause), "{call} {errno}: {found}\n{said}");
            let mend = missing["mend"].as_str().expect("a text");
            assert!(said.ends_with(&format!("hint: {mend}\n")), "{call} {errno}: {mend}\n{said}");
            assert!(mend.contains("seccomp=unconfined") || mend.contains("SystemCallFilter="), "{mend}");
            assert!(!jar.group("main").join("ran").exists(), "the agent ran");
            assert!(jar.live_runs().is_empty());
        }
    }
    // What a run can do without it does without.
    let outcome = below(&jar, &words(&filtered("inotify_init1", "EPERM")), &["run", "--", "echo", "ran"]).success();
    assert_eq!(outcome.out(), "ran\n");
}

/// The kernel of Ubuntu makes a user namespace for a program without a profile,
/// in which it has no capability: nothing else can be made, or mounted.
#[test]
fn apparmor_that_takes_the_capabilities() {
    let name = "apparmor_restrict_unprivileged_userns";
    for (rule, errno, step) in [
        ("userns", "EACCES", "namespaces"),
        ("others", "EPERM", "namespaces"),
        ("mount", "EACCES", "private mounts"),
        ("mount", "EPERM", "private mounts"),
    ] {
        let jar = Jar::new();
        let mut around = with_sysctl(&jar, name, "1");
        around.extend(filtered(rule, errno));
        let refusal = Refusal::below(&jar, &words(&around));
        if is_root() {
            // It does not restrict root, so the filter is what there is.
            refusal.is(step, &[errno, "seccomp filter"], &[]);
            assert!(!refusal.found.contains("AppArmor"), "{}", refusal.found);
            continue;
        }
        refusal.is(
            step,
            &[errno, "AppArmor", "kernel.apparmor_restrict_unprivileged_userns is 1"],
            &[
                "sudo apparmor_parser -r /etc/apparmor.d/belljar",
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ],
        );
        assert!(!refusal.found.contains("seccomp"), "{}", refusal.found);
        // Where it is switched off, it is not the cause.
        jar.write(&format!("kernel/{name}"), "0\n");
        let refusal = Refusal::below(&jar, &words(&around));
        assert!(!refusal.found.contains("AppArmor"), "{}", refusal.found);
    }
}

#[test]
fn the_sysctl_of_debian() {
    let jar = Jar::new();
    let mut around = with_sysctl(&jar, "unprivileged_userns_clone", "0");
    around.extend(filtered("userns", "EPERM"));
    let refusal = Refusal::below(&jar, &words(&around));
    if is_root() {
        assert!(!refusal.found.contains("unprivileged_userns_clone"), "{}", refusal.found);
    } else {
        refusal.is(
            "namespaces",
            &["EPERM", "kernel.unprivileged_userns_clone is 0"],
            &["sudo sysctl kernel.unprivileged_userns_clone=1"],
        );
    }
}

#[test]
fn a_chroot() {
    if system_program("chroot").is_none() {
        skip("chroot");
        return;
    }
    let jar = Jar::new();
    // The directory is no mount of its own, as with an ordinary chroot.
    let root = jar.path("chroot");
    let mut script = String::from("true");
    for entry in fs::read_dir("/").expect("it is there").flatten().filter(|entry| !entry.path().is_symlink()) {
        if entry.path().is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            fs::create_dir_all(root.join(&name)).expect("make a directory");
            // A directory of somebody else's may be closed.
            script += &format!(" && {{ mount --rbind /{name} {0}/{name} || true; }}", root.display());
        }
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        if fs::read_link(format!("/{link}")).is_ok() {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).expect("make a link");
        }
    }
    let script = format!("{script} && cd / && exec chroot {} \"$@\"", root.display());
    let map: &[&str] = if is_root() { &[] } else { &["--user", "--map-current-user", "--keep-caps"] };
    let mut around = vec!["unshare"];
    around.extend(map);
    let project = jar.text("project");
    around.extend(["--mount", "sh", "-c", &script, "sh", "env", "-C", &project]);
    let refusal = Refusal::below(&jar, &around);
    refusal.is("namespaces", &["EPERM", "chroot"], &["outside of it"]);
}

/// As inside a container whose /proc is masked.
#[test]
fn a_proc_that_is_covered_in_part() {
    let jar = Jar::new();
    let cover = "mount --bind /dev/null /proc/kallsyms";
    let around = if is_root() {
        let script = format!("{cover} && exec \"$@\"");
        ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    } else {
        prepared(cover)
    };
    // Only root can cover it without a namespace of users, which raises doubts.
    let seen = if is_root() { Seen::Late } else { Seen::Early };
    let refusal = Refusal::seen(seen, &jar, &words(&around));
    refusal.is("proc", &["EPERM", "/proc/kallsyms"], &["unmask"]);
}
