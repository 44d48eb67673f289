//! Promise: what an agent works with runs in a belljar as on the host: node,
//! python3, git and cargo from the host, programs installed in a person's home,
//! and Claude Code.

mod harness;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use harness::{Jar, Outcome, finish, skip, system_program};

/// belljar as the person who runs the tests calls it, whose own programs are to
/// be found: with that person's PATH and home.
fn as_person(jar: &Jar, path_first: Option<&Path>, command: &[&str]) -> Outcome {
    let mut belljar = jar.belljar(["run", "--"]);
    belljar.args(command);
    let mut path = OsString::new();
    if let Some(first) = path_first {
        path.push(first);
        path.push(":");
    }
    path.push(std::env::var_os("PATH").unwrap_or_default());
    belljar.env("PATH", path);
    for name in ["HOME", "RUSTUP_HOME", "CARGO_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            belljar.env(name, value);
        }
    }
    finish(belljar, b"")
}

/// Whether the person who runs the tests has the program, and it works.
fn has(program: &str) -> bool {
    let works = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !works {
        skip(&format!("{program} on this host"));
    }
    works
}

#[test]
fn node_runs_with_workers_children_and_files() {
    if !has("node") {
        return;
    }
    let jar = Jar::new();
    let script = "const {Worker} = require('worker_threads'); const {execSync} = require('child_process'); const fs = require('fs');
        fs.writeFileSync('made.txt', 'x'.repeat(1 << 20));
        new Worker('require(\"worker_threads\").parentPort.postMessage(6 * 7)', {eval: true}).on('message', (m) => {
          console.log(m, execSync('id -u').toString().trim(), fs.statSync('made.txt').size, process.env.HOME);
        });";
    let out = as_person(&jar, None, &["node", "-e", script]).success();
    assert_eq!(out.out(), "42 1000 1048576 /home/node\n", "{}", out.err());
}

#[test]
fn python_runs_with_threads_and_processes() {
    if !has("python3") {
        return;
    }
    let jar = Jar::new();
    let script = "import concurrent.futures as c, hashlib, json, os, sqlite3, ssl, subprocess, tempfile
def square(n): return n * n
if __name__ == '__main__':
    with c.ThreadPoolExecutor(4) as pool: threads = sum(pool.map(square, range(10)))
    with c.ProcessPoolExecutor(2) as pool: processes = sum(pool.map(square, range(10)))
    with tempfile.NamedTemporaryFile() as file: file.write(b'x')
    print(threads, processes, os.getuid(), subprocess.check_output(['echo', 'hi'], text=True).strip())
";
    fs::create_dir_all(jar.group("main")).expect("make the group's folder");
    fs::write(jar.group("main").join("work.py"), script).expect("write a file");
    let out = as_person(&jar, None, &["python3", "work.py"]).success();
    assert_eq!(out.out(), "285 285 1000 hi\n", "{}", out.err());
}

#[test]
fn git_reads_the_project_and_commits_in_the_groups_folder() {
    if !has("git") {
        return;
    }
    let jar = Jar::new();
    let script = "set -e; cd /workspace/project; git -c safe.directory='*' log --format=%s; git -c safe.directory='*' status --porcelain; \
        cd /workspace/group; git init -q r; cd r; echo x > f; git add f; \
        git -c user.name=a -c user.email=a@example.invalid commit -qm made; git log --format=%s; git clone -q . ../c; ls ../c";
    let out = jar.sh(script).success();
    assert_eq!(out.out(), "first\nmade\nf\n", "{}", out.err());
}

#[test]
fn cargo_builds_and_runs_a_crate() {
    if !has("cargo") || !has("cc") {
        return;
    }
    let jar = Jar::new();
    let crate_directory = jar.group("main").join("hello");
    fs::create_dir_all(crate_directory.join("src")).expect("make a directory");
    fs::write(
        crate_directory.join("Cargo.toml"),
        "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    )
    .expect("write a file");
    fs::write(crate_directory.join("src/main.rs"), "fn main() { println!(\"hello\"); }\n").expect("write a file");
    let line = ["cargo", "run", "--offline", "--quiet", "--manifest-path", "/workspace/group/hello/Cargo.toml"];
    let out = as_person(&jar, None, &line).success();
    assert_eq!(out.out(), "hello\n", "{}", out.err());
}

/// Lays a command out below `home` as `npm install --global` does with a prefix in
/// the home, and runs it: it answers, and sees nothing else of the home.
fn npm_command(jar: &Jar, home: &Path) {
    let modules = home.join(".npm-global/lib/node_modules");
    let package = modules.join("@scope/tool");
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().expect("it has one")).expect("make a directory");
        fs::write(path, text).expect("write a file");
    };
    write(&modules.join("other/index.js"), "module.exports = 'other'");
    write(&package.join("lib/answer.js"), "module.exports = 42");
    write(&package.join("package.json"), "{\"name\": \"@scope/tool\", \"bin\": {\"tool\": \"cli.js\"}}");
    write(&home.join("diary.txt"), harness::SECRET);
    let script = format!(
        "#!/usr/bin/env node\nconst fs = require('fs');\n\
         console.log(require('./lib/answer.js'), process.argv[2], fs.existsSync('{}'), fs.existsSync('{}'));\n",
        home.join("diary.txt").display(),
        modules.join("other/index.js").display()
    );
    write(&package.join("cli.js"), &script);
    fs::set_permissions(package.join("cli.js"), fs::Permissions::from_mode(0o755)).expect("make it executable");
    let bin = home.join(".npm-global/bin");
    fs::create_dir_all(&bin).expect("make a directory");
    symlink("../lib/node_modules/@scope/tool/cli.js", bin.join("tool")).expect("make a link");
    let mut command = jar.belljar(["run", "--", "tool", "argument"]);
    command.env("HOME", home).env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()));
    let out = finish(command, b"").success();
    assert_eq!(out.out(), "42 argument false false\n", "{}", out.err());
    let plan = &jar.receipts()[0]["plan"];
    let package = package.to_string_lossy();
    let mount = plan["mounts"].as_array().expect("a list").iter().find(|mount| mount["target"] == *package);
    let mount = mount.expect("the package is a line of the plan");
    assert_eq!(mount["readonly"], true);
    assert!(mount["reason"].as_str().is_some_and(|reason| reason.contains("package")), "{mount}");
}

#[test]
fn a_command_that_npm_installed_in_the_home_runs_with_nothing_else_of_the_home() {
    let (Some(_), Some(home)) = (system_program("node"), std::env::var_os("HOME")) else {
        skip("node below /usr, and a home");
        return;
    };
    let home = tempfile::Builder::new().prefix("bj-home-").tempdir_in(home).expect("a directory in the home");
    npm_command(&Jar::new(), home.path());
}

#[test]
fn a_home_in_a_place_that_is_private_inside_works_too() {
    if system_program("node").is_none() {
        skip("node below /usr");
        return;
    }
    // Inside, a tmpfs covers /tmp; on some hosts the home is /home/node.
    let home = tempfile::Builder::new().prefix("bj-home-").tempdir_in("/tmp").expect("a directory");
    npm_command(&Jar::new(), home.path());
}

#[test]
fn a_single_program_in_the_home_comes_alone_and_a_home_never_comes_whole() {
    let jar = Jar::new();
    jar.script("home/.cargo/bin/mine", "#!/bin/sh\necho mine; ls \"$(dirname \"$0\")\"\n");
    jar.script("home/.cargo/bin/other", "#!/bin/sh\n");
    jar.write("home/.cargo/credentials.toml", harness::SECRET);
    let out = jar.run(&[], &[&jar.text("home/.cargo/bin/mine")]).success().out();
    assert_eq!(out, "mine\nmine\n");
    // A virtual environment that is the whole home.
    jar.write("home/pyvenv.cfg", "home = /usr/bin\n");
    jar.script("home/bin/tool", "#!/bin/sh\necho ran\n");
    jar.run(&[], &[&jar.text("home/bin/tool")]).exits(125).says(&["never mounted as a whole"]);
    fs::remove_file(jar.path("home/pyvenv.cfg")).expect("delete it");
    // A package that holds a secret.
    jar.script("home/venv/bin/tool", "#!/bin/sh\necho ran\n");
    jar.write("home/venv/pyvenv.cfg", "home = /usr/bin\n");
    jar.run(&[], &[&jar.text("home/venv/bin/tool")]).success();
    jar.write("home/venv/.env", harness::SECRET);
    jar.run(&[], &[&jar.text("home/venv/bin/tool")]).exits(125).says(&[".env"]);
}

#[test]
fn claude_code_starts() {
    let Some(prefix) = std::env::var_os("BELLJAR_CLAUDE").filter(|prefix| !prefix.is_empty()) else {
        skip("BELLJAR_CLAUDE, the prefix below which npm installed @anthropic-ai/claude-code");
        return;
    };
    let jar = Jar::new();
    let bin = Path::new(&prefix).join("bin");
    let out = as_person(&jar, Some(&bin), &["claude", "--version"]).success();
    assert!(out.out().contains("Claude Code"), "{} {}", out.out(), out.err());
}
