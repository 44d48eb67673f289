//! Promise: the bundle is the plan rendered, nothing more: it changes only when
//! somebody means it to, and a plain runtime gives the same view with it.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Jar, SECRET, finish, is_root, skip, system_program};
use serde_json::Value;

/// config.json of `belljar bundle … -- true`, by an ordinary user and by root,
/// without what differs from host to host.
const GOLDEN_OF_USER: &str = include_str!("bundle/of-user.json");
const GOLDEN_OF_ROOT: &str = include_str!("bundle/of-root.json");

fn bundle(jar: &Jar, command: &[&str]) -> Value {
    let output = jar.text("bundle");
    let mut line = vec!["bundle", "--output", &output, "-e", "A=b", "--pids", "100", "--"];
    line.extend(command);
    let outcome = jar.call(&line).success();
    assert_eq!((outcome.out(), outcome.err()), (String::new(), String::new()));
    let text = fs::read_to_string(jar.path("bundle/config.json")).expect("read config.json");
    serde_json::from_str(&text).expect("config.json is JSON")
}

/// Takes out what depends on the host: paths, ids, the kernel's proc, and the
/// filter, which has its own tests.
fn normalised(jar: &Jar, mut config: Value) -> Value {
    let seccomp = config["linux"]["seccomp"].take();
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO", "an allowlist");
    assert!(seccomp["syscalls"].as_array().is_some_and(|rules| rules.len() > 5));
    for paths in ["maskedPaths", "readonlyPaths"] {
        let found = config["linux"][paths].take();
        let found: BTreeSet<&str> = found.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert!(found.iter().all(|path| path.starts_with("/proc/")), "{found:?}");
    }
    for maps in ["uidMappings", "gidMappings"] {
        let map = config["linux"][maps][0]["hostID"].take();
        assert_ne!(map, 0, "the agent is root on the host");
    }
    // Links into /usr, and the configuration of each Java that the host has.
    let optional = |target: &str| target == "/etc/alternatives" || target.starts_with("/etc/java-");
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(optional));
    }
    let text = config.to_string().replace(jar.text("").trim_end_matches('/'), "$JAR");
    // Which place the project has among the mounts depends on the optional ones.
    let text = (0..40).fold(text, |text, place| text.replace(&format!("shadows/{place}:"), "shadows/N:"));
    serde_json::from_str(&text).expect("still JSON")
}

#[test]
fn config_json_is_the_golden_one() {
    let jar = Jar::new();
    let config = normalised(&jar, bundle(&jar, &["true"]));
    let (name, golden) = if is_root() { ("of-root.json", GOLDEN_OF_ROOT) } else { ("of-user.json", GOLDEN_OF_USER) };
    let golden: Value = serde_json::from_str(golden).expect("the golden file is JSON");
    let shown = serde_json::to_string_pretty(&config).expect("it is a value");
    assert!(config == golden, "config.json has changed; if that is meant, tests/bundle/{name} becomes:\n{shown}");
}

#[test]
fn every_security_field_is_set() {
    let jar = Jar::new();
    let config = bundle(&jar, &["true"]);
    let process = &config["process"];
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["user"]["uid"], 1000);
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        assert_eq!(process["capabilities"][set], Value::Array(vec![]), "{set}");
    }
    assert_eq!(config["root"]["readonly"], true);
    let namespaces = config["linux"]["namespaces"].as_array().expect("a list");
    let kinds: BTreeSet<&str> = namespaces.iter().filter_map(|each| each["type"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["cgroup", "ipc", "mount", "network", "pid", "user", "uts"]));
    assert!(namespaces.iter().all(|each| each["path"].is_null()), "a namespace of somebody else");
    for mount in config["mounts"].as_array().expect("a list") {
        let options = mount["options"].as_array().expect("a list");
        assert!(options.iter().any(|option| option == "nosuid"), "{mount}");
    }
}

#[test]
fn the_bundles_plan_is_the_one_that_is_explained() {
    let jar = Jar::new();
    let planned = jar.plan(&["-e", "A=b", "--pids", "100"], &["true"]);
    bundle(&jar, &["true"]);
    let text = fs::read_to_string(jar.path("bundle/plan.json")).expect("read plan.json");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("it is JSON"), planned);
}

#[test]
fn an_output_that_is_not_empty_is_refused() {
    let jar = Jar::new();
    jar.write("bundle/precious", "mine");
    let output = jar.text("bundle");
    jar.call(&["bundle", "--output", &output, "--", "true"]).exits(125).says(&["not empty"]);
    assert_eq!(harness::names_in(Path::new(&output)), ["precious"]);
}

#[test]
fn a_plain_runtime_gives_the_same_view() {
    let (Some(crun), Some(_)) = (system_program("crun"), system_program("unshare")) else {
        skip("crun and unshare, to run the bundle without belljar");
        return;
    };
    let jar = Jar::new();
    // What the agent sees: itself, its rights, its mounts, its files.
    let look = "id; pwd; env | sort; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; \
        awk '{print $5}' /proc/self/mountinfo | sort; ls -A / /etc /dev /workspace /workspace/project; cat /workspace/project/.env; \
        cat /proc/net/dev | grep -c :; ls -l /proc/self/fd | grep -c '[0-9] ->'";
    bundle(&jar, &["sh", "-c", look]);
    let ours = jar.run(&["-e", "A=b", "--pids", "100"], &["sh", "-c", look]).success().out();
    assert!(!ours.contains(SECRET) && ours.contains("uid=1000"));
    // On hosts with hybrid cgroups crun runs only where it sees version 2 alone.
    let script = "mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args([if is_root() { "-m" } else { "-UrmC" }, "sh", "-c", script, "sh"]).arg(crun);
    command.arg("--root").arg(jar.path("state")).args(["--cgroup-manager", "disabled", "run", "--bundle"]);
    command.arg(jar.path("bundle")).arg(format!("plain-{}", std::process::id()));
    if !is_root() {
        // In that namespace the caller is 0.
        let config = fs::read_to_string(jar.path("bundle/config.json")).expect("read config.json");
        let mut config: Value = serde_json::from_str(&config).expect("it is JSON");
        for maps in ["uidMappings", "gidMappings"] {
            config["linux"][maps][0]["hostID"] = 0.into();
        }
        fs::write(jar.path("bundle/config.json"), config.to_string()).expect("write config.json");
    }
    jar.surround(&mut command);
    let plain = finish(command, b"").success().out();
    assert_eq!(plain, ours);
}
