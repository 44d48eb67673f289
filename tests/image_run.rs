//! Promise: an image is a root like any other: unpacked once, shared read-only,
//! its links lead nowhere outside, and what it says of its user, environment and
//! command counts only as far as the plan shows.

mod harness;

use std::collections::BTreeSet;
use std::process::Command;

use harness::layout::{Layer, Layout, image, programs};
use harness::{Jar, finish, is_root, names_in, skip, system_program, tree, unpacked_root};
use serde_json::json;

/// Where an image could have a link, that is mounted or generated over.
const TARGETS: [&str; 12] = [
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "home",
    "workspace",
    "etc/passwd",
    "etc/resolv.conf",
    "home/node",
    "run/belljar",
    "workspace/group",
];

#[test]
fn an_image_runs_and_is_shared() {
    let jar = Jar::new();
    let reference = image(&jar, "layout", &[programs(&jar).file("etc/os-release", "NAME=image\n").bytes()]);
    jar.call(&["explain", "--image", &reference, "--", "true"])
        .exits(125)
        .says(&["not in belljar's cache", "belljar image import"]);
    // A run imports it, once.
    let run = |script: &str| jar.run(&["--image", &reference], &["sh", "-c", script]);
    assert_eq!(run("cat /etc/os-release; id -u").success().out(), "NAME=image\n1000\n");
    let images = jar.path("belljar/data/images");
    let cached = tree(&images);
    assert_eq!(run("cat /srv/data; touch /srv/x /etc/x /usr/x; echo done").success().out(), "of the root\ndone\n");
    assert_eq!(tree(&images), cached, "a run changed the cache");
    let plan = jar.plan(&["--image", &reference], &["true"]);
    assert_eq!(plan["root"]["kind"]["kind"], "image");
    let id = plan["root"]["kind"]["digest"].as_str().expect("the plan names the image").to_owned();
    // By its id, too, and not when the id is another's.
    assert_eq!(jar.run(&["--image", &id[7..19]], &["id", "-u"]).success().out(), "1000\n");
    jar.run(&["--image", &"0".repeat(64)], &["true"]).exits(125);
    jar.call(&["image", "remove", &reference]).success();
    assert!(!names_in(&images).iter().any(|name| name.len() == 64), "{:?}", names_in(&images));
}

#[test]
fn a_link_where_something_is_mounted_leads_nowhere() {
    let outside = |jar: &Jar| jar.path("outside");
    for target in TARGETS {
        let jar = Jar::new();
        jar.write("outside/file", "of the host\n");
        let aim = outside(&jar).to_string_lossy().into_owned();
        // A file where a file is generated; a link in place of the directory otherwise.
        let aim = if target.starts_with("etc/") { format!("{aim}/file") } else { aim };
        let mut layers = vec![programs(&jar).bytes()];
        let name = target.rsplit('/').next().unwrap_or(target);
        let above = target.strip_suffix(name).unwrap_or_default();
        layers.push(Layer::new().file(&format!("{above}.wh.{name}"), "").bytes());
        layers.push(Layer::new().link(target, &aim).bytes());
        let reference = image(&jar, "layout", &layers);
        let before = tree(&outside(&jar));
        let outcome = jar.run(
            &["--image", &reference],
            &["sh", "-c", "id -u; id -un; ls / >/dev/null; echo x > /tmp/x; touch /workspace/group/x"],
        );
        assert_eq!(outcome.success().out(), "1000\nnode\n", "{target}");
        assert_eq!(tree(&outside(&jar)), before, "{target} led out");
    }
}

#[test]
fn a_link_in_place_of_etc_or_usr_refuses_the_run() {
    for target in ["etc", "usr"] {
        let jar = Jar::new();
        jar.write("outside/file", "of the host\n");
        let layer = Layer::new().file(&format!(".wh.{target}"), "").link(target, &jar.text("outside")).bytes();
        let reference = image(&jar, "layout", &[programs(&jar).bytes(), layer]);
        jar.run(&["--image", &reference], &["true"]).exits(125).says(&[&format!("/{target} is a link")]);
    }
}

#[test]
fn what_an_image_says_counts_as_far_as_the_plan_shows() {
    let jar = Jar::new();
    let mut layout = Layout::new(&jar, "layout");
    layout.layer(&programs(&jar).bytes());
    let reference = layout.finish(json!({
        "User": "root", "WorkingDir": "/srv", "Entrypoint": ["sh", "-c"], "Cmd": ["id -u; pwd; echo $OF_IMAGE $HOME"],
        "Env": ["PATH=/opt/tool/bin:/usr/bin:relative", "OF_IMAGE=$HOME", "HOME=/root", "HTTPS_PROXY=http://evil.example:1",
                "https_proxy=http://evil.example:1", "9BAD=x", "NODE_EXTRA_CA_CERTS=/evil.pem"],
        "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
    }));
    jar.call(&["image", "import", &reference]).success();
    let outcome = jar.call(&["run", "--image", &reference]).success();
    assert_eq!(outcome.out(), "1000\n/workspace/group\n$HOME /home/node\n");
    // A typed command takes the place of both.
    assert_eq!(jar.run(&["--image", &reference], &["id", "-un"]).success().out(), "node\n");
    let plan = jar.plan(&["--image", &reference], &["true"]);
    let variables = plan["environment"].as_array().expect("a list");
    let find = |name: &str| variables.iter().find(|variable| variable["name"] == name);
    assert_eq!(find("OF_IMAGE").expect("it is planned")["reason"], "the image's");
    assert!(
        find("PATH").expect("it is planned")["value"]
            .as_str()
            .is_some_and(|path| path.starts_with("/opt/tool/bin:") && !path.contains("relative"))
    );
    assert!(!plan.to_string().contains("evil"), "a variable of the image's took the place of ours");
    assert!(find("9BAD").is_none());
}

#[test]
fn a_live_run_keeps_its_image() {
    let jar = Jar::new();
    let reference = image(&jar, "layout", &[Layer::new().tree(&unpacked_root(&jar, &["sleep"])).bytes()]);
    jar.call(&["image", "import", &reference]).success();
    let live = jar.start(&["--image", &reference], &["sh", "-c", "echo ready; exec sleep 1000"]);
    live.wait_for("ready");
    jar.call(&["image", "remove", &reference]).exits(125).says(&["live run"]);
    live.signal(nix::sys::signal::Signal::SIGTERM);
    live.wait();
    jar.call(&["image", "remove", &reference]).success();
}

#[test]
fn a_changed_archive_is_another_image() {
    let jar = Jar::new();
    let reference = image(&jar, "layout", &[programs(&jar).file("srv/data", "first\n").bytes()]);
    let read = || jar.run(&["--image", &reference], &["cat", "/srv/data"]).success().out();
    assert_eq!(read(), "first\n");
    image(&jar, "layout", &[programs(&jar).file("srv/data", "second\n").bytes()]);
    assert_eq!(read(), "second\n");
}

#[test]
fn files_of_1000_are_the_agents_in_a_writable_root() {
    let jar = Jar::new();
    let mut own = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    for (kind, name, id) in [
        (tar::EntryType::Directory, "app", 1000),
        (tar::EntryType::Regular, "app/own", 1000),
        (tar::EntryType::Regular, "srv/roots", 0),
    ] {
        header.set_entry_type(kind);
        header.set_path(name).expect("a plain name");
        header.set_uid(id);
        header.set_gid(id);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_size(0);
        header.set_cksum();
        own.append(&header, std::io::empty()).expect("memory");
    }
    let reference = image(&jar, "layout", &[programs(&jar).bytes(), own.into_inner().expect("memory")]);
    let script = "echo x > /app/own && touch /app/new && echo written; echo x > /srv/roots";
    let outcome = jar.run(&["--image", &reference, "--writable-root"], &["sh", "-c", script]);
    assert_eq!(outcome.out(), "written\n");
    // As an ordinary user every file of the root is the caller's, and so 1000's.
    assert_eq!(outcome.code, if is_root() { 2 } else { 0 }, "{}", outcome.err());
    jar.run(&["--image", &reference], &["sh", "-c", "echo x > /app/own"]).exits(2);
}

/// `docker save`'s form, a plain and a compressed OCI archive, and names.
#[test]
fn every_local_source() {
    let jar = Jar::new();
    let reference = image(&jar, "layout", &[programs(&jar).bytes()]);
    let Some(tar) = system_program("tar") else { return skip("tar, for archives") };
    let pack = |archive: &str, option: &str| {
        let mut command = Command::new(&tar);
        command.args([
            "-C",
            &jar.text("layout"),
            option,
            "-f",
            &jar.text(archive),
            "oci-layout",
            "index.json",
            "blobs",
        ]);
        jar.surround(&mut command);
        finish(command, b"").success();
    };
    pack("image.tar", "-c");
    pack("image.tar.gz", "-cz");
    let id = jar.call(&["image", "import", &reference]).success().out();
    for archive in ["image.tar", "image.tar.gz"] {
        let reference = format!("oci-archive:{}", jar.text(archive));
        assert_eq!(jar.call(&["image", "import", &reference]).success().out(), id, "{archive}");
    }
    let Some(podman) = system_program("podman") else { return skip("podman, for images of its store") };
    let podman = |arguments: &[&str]| {
        let mut command = Command::new(&podman);
        command.args(arguments);
        jar.surround(&mut command);
        finish(command, b"")
    };
    let name = format!("localhost/belljar-test-{}:v1", std::process::id());
    let load = podman(&["load", "--quiet", "--input", &jar.text("image.tar")]);
    if load.code != 0 {
        // Without subordinate ids podman unpacks nothing: belljar says so, and what to do.
        jar.call(&["image", "import", &name]).exits(125).says(&["is not on this machine", "belljar image pull"]);
        return;
    }
    let loaded = load.out().trim().rsplit([' ', ':']).next().unwrap_or_default().to_owned();
    podman(&["tag", &loaded, &name]).success();
    let saved = jar.text("docker.tar");
    podman(&["save", "--quiet", "--format", "docker-archive", "--output", &saved, &name]).success();
    let from_store = jar.call(&["image", "import", &name]).success().out();
    let from_archive = jar.call(&["image", "import", &format!("docker-archive:{saved}")]).success().out();
    podman(&["rmi", "--force", &name]).success();
    assert_eq!(from_store, id);
    assert_eq!(jar.run(&["--image", &name], &["id", "-u"]).success().out(), "1000\n");
    assert_eq!(jar.run(&["--image", from_archive.trim()], &["id", "-u"]).success().out(), "1000\n");
    jar.call(&["image", "import", "localhost/no-such-image"]).exits(125).says(&["podman's store does not have it"]);
}

/// Names at the top mean nothing to those who mount them, and a file there is
/// found: many an entrypoint is one.
#[test]
fn what_lies_at_the_top_of_an_image_is_there() {
    let jar = Jar::new();
    let strange = ["we:ird", "com,ma", "new\nline", "qu\"ote", "sp ace", "-dash", "name=value"];
    let own = strange.iter().fold(Layer::new(), |layer, name| layer.file(&format!("{name}/own"), "of the image\n"));
    let own = own.entry(tar::EntryType::Regular, b"start.sh", b"", 0o755, b"#!/bin/sh\necho \"started with $*\"\n");
    let mut layout = Layout::new(&jar, "layout");
    layout.layer(&programs(&jar).bytes());
    layout.layer(&own.bytes());
    let reference = layout.finish(json!({"Entrypoint": ["/start.sh"], "Cmd": ["its", "command"]}));
    let outcome = jar.call(&["run", "--image", &reference]).success();
    assert_eq!(outcome.out(), "started with its command\n");
    let script = "for each in /*/own; do echo \"$each\"; done; echo x > /start.sh";
    let outcome = jar.run(&["--image", &reference], &["sh", "-c", script]).exits(2);
    let out = outcome.out();
    let found: BTreeSet<&str> = out.split_terminator("/own\n").map(|path| path.trim_start_matches('/')).collect();
    assert_eq!(found, BTreeSet::from(strange));
    let many = (0..300).fold(Layer::new(), |layer, number| layer.file(&format!("file-{number}"), ""));
    let reference = image(&jar, "many", &[programs(&jar).bytes(), many.bytes()]);
    jar.run(&["--image", &reference], &["true"]).exits(125).says(&["entries at its top", "256 at most"]);
}
