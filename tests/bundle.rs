//! Promise: the bundle is the plan rendered, nothing more: it changes only when
//! somebody means it to, and a plain runtime gives the same view with it.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::layout::{Layer, image};
use harness::{Jar, Outcome, SECRET, finish, is_root, skip, system_program, unpacked_root};
use serde_json::Value;

/// The golden bundles of oci/: `belljar bundle … -- true` by an ordinary user and
/// by root, without what differs from host to host. `make golden` renews them.
const GOLDEN: [(&str, &str); 4] = [
    ("host-user.json", include_str!("../oci/host-user.json")),
    ("host-root.json", include_str!("../oci/host-root.json")),
    ("directory-user.json", include_str!("../oci/directory-user.json")),
    ("directory-root.json", include_str!("../oci/directory-root.json")),
];

/// An id in place of the agent's on this host.
const SOME_ID: u32 = 100_000;

fn bundle(jar: &Jar, command: &[&str]) -> Value {
    bundle_with(jar, &[], command)
}

fn bundle_with(jar: &Jar, options: &[&str], command: &[&str]) -> Value {
    let output = jar.text("bundle");
    let mut line = vec!["bundle", "--output", &output, "-e", "A=b", "--pids", "100"];
    line.extend(options);
    line.push("--");
    line.extend(command);
    let outcome = jar.call(&line).success();
    assert_eq!((outcome.out(), outcome.err()), (String::new(), String::new()));
    let text = fs::read_to_string(jar.path("bundle/config.json")).expect("read config.json");
    serde_json::from_str(&text).expect("config.json is JSON")
}

/// Takes out what depends on the host: paths, ids, the kernel's proc, and the
/// filter, which has its own tests. What is left is still a valid bundle.
fn normalised(jar: &Jar, mut config: Value) -> Value {
    let linux = config["linux"].as_object_mut().expect("it is Linux's");
    let seccomp = linux.remove("seccomp").expect("a filter");
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO", "an allowlist");
    assert!(seccomp["syscalls"].as_array().is_some_and(|rules| rules.len() > 5));
    for paths in ["maskedPaths", "readonlyPaths"] {
        let found = linux.remove(paths).expect("paths of proc");
        let found: BTreeSet<&str> = found.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert!(found.iter().all(|path| path.starts_with("/proc/")), "{found:?}");
    }
    for maps in ["uidMappings", "gidMappings"] {
        let id = &mut linux.get_mut(maps).expect("a map")[0]["hostID"];
        assert_ne!(*id, 0, "the agent is root on the host");
        *id = SOME_ID.into();
    }
    // Links into /usr, and the configuration of each Java that the host has.
    let optional = |target: &str| target == "/etc/alternatives" || target.starts_with("/etc/java-");
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(optional));
    }
    let text = config.to_string().replace(jar.text("").trim_end_matches('/'), "$JAR");
    // Where a cgroup counts the processes the resource limit leaves room for belljar's own.
    let text = text.replace("\"hard\":116,\"soft\":116", "\"hard\":100,\"soft\":100");
    // Which place the project has among the mounts depends on the optional ones.
    let text = (0..40).fold(text, |text, place| {
        let named = |end: char| (format!("shadows/{place}{end}"), format!("shadows/N{end}"));
        [':', '"'].map(named).iter().fold(text, |text, (its, shown)| text.replace(its, shown))
    });
    serde_json::from_str(&text).expect("still JSON")
}

/// Where `make golden` wants the golden bundles.
fn renewed_to() -> Option<PathBuf> {
    std::env::var_os("BELLJAR_GOLDEN").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Compares with a golden bundle; writes it instead where BELLJAR_GOLDEN names a
/// directory, which is what `make golden` does.
fn is_golden(kind: &str, config: &Value) {
    let name = format!("{kind}-{}.json", if is_root() { "root" } else { "user" });
    let shown = serde_json::to_string_pretty(config).expect("it is a value");
    if let Some(directory) = renewed_to() {
        fs::write(directory.join(name), shown + "\n").expect("write the golden file");
        return;
    }
    let (_, golden) = GOLDEN.iter().find(|(file, _)| *file == name).expect("it is in GOLDEN");
    let golden: Value = serde_json::from_str(golden).expect("the golden file is JSON");
    assert!(*config == golden, "config.json has changed; if that is meant, make golden; oci/{name} becomes:\n{shown}");
}

#[test]
fn config_json_is_the_golden_one() {
    let jar = Jar::new();
    is_golden("host", &normalised(&jar, bundle(&jar, &["true"])));
}

#[test]
fn a_directorys_config_json_is_the_golden_one() {
    let jar = Jar::new();
    let root = unpacked_root(&jar, &[]).to_string_lossy().into_owned();
    is_golden("directory", &normalised(&jar, bundle_with(&jar, &["--rootfs", &root], &["true"])));
}

/// What the specification's schema says of these files, or nothing where Debian's
/// packages of the schema and of a validator are missing.
fn by_schema(jar: &Jar, files: &[&Path]) -> Option<Outcome> {
    let script = include_str!("../oci/schema.py");
    let mut command = Command::new(system_program("python3")?);
    command.args(["-c", script]).args(files);
    jar.surround(&mut command);
    let outcome = finish(command, b"");
    (outcome.code != 2).then_some(outcome)
}

#[test]
fn bundles_are_valid_by_the_specifications_schema() {
    let jar = Jar::new();
    let root = unpacked_root(&jar, &[]).to_string_lossy().into_owned();
    let image = image(&jar, "layout", &[Layer::new().tree(Path::new(&root)).bytes()]);
    let mut files = Vec::new();
    // Those that are being renewed are looked at in the next run of the tests.
    for (name, text) in GOLDEN.into_iter().filter(|_| renewed_to().is_none()) {
        jar.write(name, text);
        files.push(jar.path(name));
    }
    for (name, options) in [
        ("fresh-host.json", &[][..]),
        ("fresh-directory.json", &["--rootfs", &root]),
        ("fresh-image.json", &["--image", &image]),
    ] {
        let config = bundle_with(&jar, options, &["true"]);
        jar.write(name, &config.to_string());
        files.push(jar.path(name));
        fs::remove_dir_all(jar.path("bundle")).expect("remove the bundle");
    }
    let files: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
    let Some(outcome) = by_schema(&jar, &files) else {
        skip("golang-github-opencontainers-specs-dev and python3-jsonschema, for the schema");
        return;
    };
    assert_eq!(outcome.out(), "");
    outcome.success();
    // The control: the schema refuses each of these, in a file of its parts too.
    let fresh = fs::read_to_string(jar.path("fresh-host.json")).expect("read the bundle");
    let broken = [
        ("/ociVersion", "ociVersion: None", Value::Null),
        ("/process/user/uid", "process/user/uid: -1", (-1).into()),
        ("/mounts/0/destination", "mounts/0/destination: 7", 7.into()),
        ("/linux/namespaces/0/type", "linux/namespaces/0: {'type': 'planet'}", "planet".into()),
        ("/linux/seccomp/defaultAction", "linux/seccomp/defaultAction: 'SCMP_ACT_WISH'", "SCMP_ACT_WISH".into()),
    ];
    let mut expected = Vec::new();
    for (number, (pointer, said, wrong)) in broken.into_iter().enumerate() {
        let mut config: Value = serde_json::from_str(&fresh).expect("it is JSON");
        *config.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is in the bundle")) = wrong;
        let file = format!("broken-{number}.json");
        jar.write(&file, &config.to_string());
        expected.push((jar.path(&file), said));
    }
    // One call: the validator takes longer to start than to look.
    let files: Vec<&Path> = expected.iter().map(|(file, _)| file.as_path()).collect();
    let outcome = by_schema(&jar, &files).expect("the validator was there");
    assert_eq!(outcome.code, 1, "{}", outcome.err());
    for (file, said) in &expected {
        let said = format!("{}: {said}", file.display());
        assert!(outcome.out().lines().any(|line| line.starts_with(&said)), "{said}: {}", outcome.out());
    }
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

/// What the agent sees: itself, its rights, its mounts, its files.
const LOOK: &str = r#"
id; pwd; env | sort; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
while read -r id parent device root target flags rest; do
    # The flags of /, devices and masked files are the runtime's own.
    case $target in
        /workspace*|/home*|/usr|/tmp|/run*) echo "mount $target ${flags%,idmapped}";;
        *) echo "mount $target";;
    esac
done < /proc/self/mountinfo | sort
ls -A / /etc /workspace /workspace/project; cat /workspace/project/.env
grep -c : /proc/net/dev; ls -l /proc/self/fd | grep -c '[0-9] ->'
cd /workspace/group; cat from-the-host
echo x > made && rm made && echo the group is writable
for path in /workspace/project/made /usr/made /made; do (echo x > $path) 2>/dev/null || echo "$path is not"; done
"#;
/// The programs that it needs.
const LOOKERS: [&str; 7] = ["id", "env", "sort", "grep", "ls", "cat", "rm"];

/// The bundle under a plain runtime. On hosts with hybrid cgroups one runs only
/// where it sees version 2 alone.
fn plain(jar: &Jar, runtime: &Path, options: &[&str]) -> Outcome {
    let script = "mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args([if is_root() { "-m" } else { "-UrmC" }, "sh", "-c", script, "sh"]).arg(runtime);
    command.arg("--root").arg(jar.path("state")).args(options).args(["run", "--bundle"]);
    command.arg(jar.path("bundle")).arg(format!("plain-{}", std::process::id()));
    jar.surround(&mut command);
    finish(command, b"")
}

fn gives_the_same_view(jar: &Jar, options: &[&str]) {
    let (Some(crun), Some(_)) = (system_program("crun"), system_program("unshare")) else {
        skip("crun and unshare, to run the bundle without belljar");
        return;
    };
    let mut mounted = vec!["-e", "A=b", "--pids", "100"];
    mounted.extend(options);
    jar.run(&mounted, &["sh", "-c", ":"]).success();
    fs::write(jar.group("main").join("from-the-host"), "from the host\n").expect("write to the group");
    let ours = jar.run(&mounted, &["sh", "-c", LOOK]).success().out();
    assert!(!ours.contains(SECRET) && ours.contains("uid=1000") && ours.contains("the group is writable"), "{ours}");
    bundle_with(jar, options, &["sh", "-c", LOOK]);
    if !is_root() {
        // In that namespace the caller is 0.
        let config = fs::read_to_string(jar.path("bundle/config.json")).expect("read config.json");
        let mut config: Value = serde_json::from_str(&config).expect("it is JSON");
        for maps in ["uidMappings", "gidMappings"] {
            config["linux"][maps][0]["hostID"] = 0.into();
        }
        fs::write(jar.path("bundle/config.json"), config.to_string()).expect("write config.json");
    }
    assert_eq!(
        plain(jar, &crun, &["--cgroup-manager", "disabled"]).success().out().replace(",relatime", ""),
        ours.replace(",relatime", ""),
        "crun with {options:?}"
    );
    if is_root() {
        match system_program("runc") {
            Some(runc) => assert_eq!(plain(jar, &runc, &[]).success().out(), ours, "runc with {options:?}"),
            None => skip("runc"),
        }
    }
}

#[test]
fn a_plain_runtime_gives_the_same_view() {
    gives_the_same_view(&Jar::new(), &[]);
}

#[test]
fn a_plain_runtime_gives_the_same_view_of_an_image() {
    let jar = Jar::new();
    let reference = image(&jar, "layout", &[Layer::new().tree(&unpacked_root(&jar, &LOOKERS)).bytes()]);
    gives_the_same_view(&jar, &["--image", &reference]);
}
