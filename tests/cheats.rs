//! Promise: a runtime that cheats is caught before the agent's first
//! instruction: 125, and the difference is named. Each cheat is a wrapper around
//! the real crun that changes the bundle, or the way the container starts. The
//! honest wrapper must pass.

mod harness;

use std::path::PathBuf;

use harness::{Jar, Outcome, below_podman, skip, system_program};

/// podman runs without a cgroup only runtimes whose names it knows.
const WRAPPER: &str = "runtime/crun";

/// Changes config.json, or the command line, and becomes crun.
const CHEAT: &str = include_str!("cheats/cheat.py");

/// A run whose runtime cheats in this way; `None`, loudly, without the means.
fn cheated(jar: &Jar, cheat: &str, options: &[&str]) -> Option<Outcome> {
    let (Some(python), Some(crun)) = (system_program("python3"), system_program("crun")) else {
        skip("python3 and crun, for runtimes that cheat");
        return None;
    };
    let script = jar.write("runtime/cheat.py", CHEAT);
    let wrapper = jar.script(
        WRAPPER,
        &format!("#!/bin/sh\nexec {} {} {cheat} {} \"$@\"\n", python.display(), script.display(), crun.display()),
    );
    let wrapper = wrapper.to_string_lossy();
    let mut line = vec!["--runtime", &wrapper];
    line.extend(options);
    Some(jar.run(&line, &["sh", "-c", "touch /workspace/group/began; echo began"]))
}

/// Whether the agent's first instruction was executed.
fn began(jar: &Jar) -> bool {
    jar.group("main").join("began").exists()
}

/// The cheat is caught; the difference that is named holds all of these.
fn caught(cheat: &str, named: &[&str]) {
    caught_with(cheat, &[], named);
}

/// The same in a run with these options.
fn caught_with(cheat: &str, options: &[&str], named: &[&str]) {
    let jar = Jar::new();
    let Some(outcome) = cheated(&jar, cheat, options) else {
        return;
    };
    assert!(!began(&jar), "{cheat}: the agent began; stderr: {}", outcome.err());
    let outcome = outcome.exits(125);
    assert_eq!(outcome.out(), "", "{cheat}");
    outcome.says(named);
    let receipt = jar.receipts().pop().expect("a receipt");
    assert_eq!(receipt["status"], "failed", "{cheat}");
    assert!(jar.live_runs().is_empty(), "{cheat}: a run directory was left");
}

#[test]
fn an_honest_wrapper_passes() {
    let jar = Jar::new();
    let Some(outcome) = cheated(&jar, "honest", &[]) else {
        return;
    };
    assert_eq!(outcome.success().out(), "began\n");
    assert!(began(&jar));
}

#[test]
fn one_mount_more() {
    caught("add-mount", &["mount /workspace/stolen", "the plan has none"]);
}

#[test]
fn one_mount_more_on_top_of_a_planned_one() {
    caught("mount-on-top", &["mount /workspace/global"]);
}

#[test]
fn one_mount_less() {
    caught("drop-mount", &["mount /workspace/global", "the kernel not"]);
}

#[test]
fn a_shadow_less() {
    caught("drop-shadow", &["mount /workspace/project/.env"]);
}

#[test]
fn another_source() {
    caught("other-source", &["mount /workspace/global", "the kernel"]);
}

/// As root the runtime itself fails on it: it cannot make the targets.
#[test]
fn mounts_in_another_order() {
    caught("reorder", &["/workspace/project/.env"]);
}

#[test]
fn a_source_swapped_in_the_staging_area() {
    caught("restage", &["mount /workspace/global", "source"]);
}

#[test]
fn an_init_written_to_after_it_was_staged() {
    caught("rewrite-init", &["program of PID 1"]);
}

#[test]
fn a_mount_without_its_ro() {
    caught("drop-ro", if below_podman() { &["/dev/shm", "file system"] } else { &["/dev/shm", "flag", "noexec"] });
}

#[test]
fn a_directory_of_a_writable_root_without_its_layer() {
    caught_with("no-layer", &["--writable-root"], &["mount /usr:", "file system"]);
}

#[test]
fn a_directory_of_a_writable_root_that_could_be_renamed() {
    // Without it podman's runtime cannot make what lies in it.
    let named = if below_podman() { ["belljar: error: ", "podman"] } else { ["mount /workspace:", "the kernel not"] };
    caught_with("no-holder", &["--writable-root"], &named);
    caught_with("holder-rw", &["--writable-root"], &["mount /workspace:", "flag", "ro"]);
}

#[test]
fn a_writable_root() {
    caught("writable-root", &["mount /:", "flag", "ro"]);
}

#[test]
fn a_mount_without_its_nosuid() {
    caught(
        "drop-nosuid",
        if below_podman() { &["mount /tmp", "file system"] } else { &["mount /tmp", "flag", "nosuid"] },
    );
}

#[test]
fn a_bigger_tmpfs() {
    caught(
        "big-tmpfs",
        if below_podman() { &["mount /tmp", "file system"] } else { &["mount /tmp", "option", "size="] },
    );
}

#[test]
fn proc_shows_what_was_masked() {
    caught("unmask", &["mount /proc/", "the kernel not"]);
}

#[test]
fn proc_without_hidepid() {
    caught("no-hidepid", &["mount /proc", "hidepid"]);
}

#[test]
fn a_capability_kept() {
    caught("keep-capability", &["capability set", "the plan has `0000000000000000`"]);
}

#[test]
fn a_capability_kept_in_the_bounding_set() {
    caught("keep-bounding", &["capability set CapBnd"]);
}

#[test]
fn no_new_privs_left_out() {
    caught("no-nnp", &["no_new_privs"]);
}

#[test]
fn seccomp_left_out() {
    caught("no-seccomp", &["seccomp mode", "the plan has `2`"]);
}

#[test]
fn a_seccomp_filter_that_allows_everything() {
    caught("allow-all", &["seccomp"]);
}

#[test]
fn a_seccomp_filter_that_allows_one_refused_call() {
    caught("allow-one", &["seccomp"]);
}

#[test]
fn another_uid_mapped() {
    // podman's runtime cannot map another one for a user: it has one range.
    let named = if below_podman() { "belljar: error: " } else { "uid_map: the plan has `1000 " };
    caught("other-uid", &[named]);
}

#[test]
fn a_second_uid_mapped() {
    // Only root's launcher has a second id to map; a user's cannot, and crun says so.
    caught("second-uid", if harness::is_root() && !below_podman() { &["uid_map"] } else { &["belljar: error: "] });
}

#[test]
fn what_is_not_even_in_the_configuration_of_others() {
    caught("other-umask", &["umask: the plan has `0022`"]);
    caught("other-hostname", &["host name and domain: the plan has `belljar "]);
    caught("other-personality", &["personality"]);
}

#[test]
fn one_group_more() {
    // Without podman an ordinary user's crun may set none, and leaves that out.
    if !harness::is_root() && !below_podman() {
        return;
    }
    // crun cannot give a group that is not mapped.
    caught("other-groups", if below_podman() { &["other groups"] } else { &["belljar: error: "] });
}

#[test]
fn another_program_instead_of_the_init() {
    caught("other-program", &["PID 1"]);
    caught("short-program", &["PID 1"]);
    assert!(harness::processes_with("86396.3").is_empty(), "the other program outlived its run");
}

/// Nothing can stop a runtime from executing what it was told at once; but such
/// a run is never passed off as a verified one.
#[test]
fn the_agent_in_the_place_of_the_init() {
    let jar = Jar::new();
    if let Some(outcome) = cheated(&jar, "agent-as-init", &[]) {
        // podman looks for the program in a PATH that it does not have.
        outcome.exits(125).says(&[if below_podman() { "podman init" } else { "PID 1" }]);
        assert_eq!(jar.receipts()[0]["status"], "failed");
    }
}

#[test]
fn a_copy_of_the_init() {
    caught("copied-init", &["program of PID 1"]);
}

#[test]
fn other_arguments() {
    caught("other-arguments", &["arguments of PID 1"]);
}

#[test]
fn one_variable_more() {
    caught("environment", &["environment", "LD_PRELOAD"]);
}

#[test]
fn another_working_directory() {
    caught("directory", &["working directory", "/tmp"]);
}

#[test]
fn a_namespace_that_is_not_new() {
    for kind in ["ipc", "uts", "cgroup"] {
        caught(&format!("keep-{kind}"), &[&format!("{kind} namespace"), "the launcher's"]);
    }
}

#[test]
fn the_launchers_process_ids() {
    caught("keep-pid", &["belljar: error: "]);
}

#[test]
fn another_network() {
    caught("other-network", &["network namespace"]);
}

#[test]
fn a_descriptor_that_leaks() {
    caught("leak", &["descriptor 4", "the plan has none"]);
}

#[test]
fn another_stdin() {
    caught("other-stdin", &["descriptor 0"]);
}

#[test]
fn resource_limits_left_out() {
    caught("no-rlimits", &["limit"]);
}

#[test]
fn a_hook_that_mounts_afterwards() {
    caught("hook", &["belljar: error: "]);
}

#[test]
fn a_runtime_that_does_nothing() {
    caught("nothing", &["belljar: error: "]);
}

#[test]
fn a_runtime_that_fails() {
    caught("fail", &["belljar: error: "]);
}

#[test]
fn a_runtime_that_never_starts_anything_can_be_ended() {
    let jar = Jar::new();
    let wrapper: PathBuf = jar.script(WRAPPER, "#!/bin/sh\nsleep 86397.1\n");
    let live = jar.start(&["--runtime", &wrapper.to_string_lossy()], &["true"]);
    harness::eventually("the runtime has started", harness::SOON, || {
        harness::processes_with("sleep\u{0}86397.1").len() == 1
    });
    live.signal(nix::sys::signal::Signal::SIGTERM);
    live.wait();
    assert!(harness::processes_with("86397.1").is_empty(), "the runtime outlived its run");
}

#[test]
fn a_cheat_is_caught_with_a_terminal_too() {
    let jar = Jar::new();
    if let Some(outcome) = cheated(&jar, "add-mount", &["-t"]) {
        outcome.exits(125).says(&["mount /workspace/stolen"]);
        assert!(!began(&jar));
    }
}
