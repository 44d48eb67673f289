//! Promise: bad input gets a clear error, exit code 125 or clap's 2, and has no
//! effect: nothing is made, nothing runs.

mod harness;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use harness::{Jar, Outcome, finish, names_in, tree};

/// The run is refused with one of the two codes, says why and what to do, and
/// leaves everything as it was.
fn refused(jar: &Jar, arguments: &[&OsStr], says: &[&str]) -> Outcome {
    let before = (tree(&jar.path("belljar")), tree(&jar.project()), names_in(&jar.path("")));
    let outcome = finish(jar.belljar(arguments), b"");
    let shown: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().chars().take(60).collect()).collect();
    assert!(matches!(outcome.code, 2 | 125), "{shown:?}: exit code {}: {}", outcome.code, outcome.err());
    assert_eq!(outcome.out(), "", "{shown:?}");
    let err = outcome.err();
    assert!(err.contains("error: "), "{shown:?}: no error is named: {err}");
    assert!(!err.contains("panicked"), "{shown:?}: {err}");
    assert!(!err.bytes().any(|byte| byte == 0x1b), "{shown:?}: control characters reach the terminal: {err:?}");
    for part in says {
        assert!(err.contains(part), "{shown:?}: `{part}` is not in: {err}");
    }
    let after = (tree(&jar.path("belljar")), tree(&jar.project()), names_in(&jar.path("")));
    assert_eq!(before, after, "{shown:?} had an effect");
    outcome
}

fn words<'a>(text: &[&'a str]) -> Vec<&'a OsStr> {
    text.iter().map(|word| OsStr::new(*word)).collect()
}

/// `belljar run OPTIONS -- touch …`, refused.
fn run_refused(jar: &Jar, options: &[&str], says: &[&str]) {
    let mut line = vec!["run"];
    line.extend(options);
    line.extend(["--", "touch", "/workspace/group/ran"]);
    refused(jar, &words(&line), says);
}

#[test]
fn groups() {
    let jar = Jar::new();
    run_refused(&jar, &["-g", "unknown"], &["no group `unknown`", "hint: "]);
    let long = "a".repeat(65);
    for name in
        ["..", "../main", "a/b", "", ".hidden", "-x y", "ä", "a b", "a\nb", "global", "GLOBAL", &long, "\u{1b}[31mred"]
    {
        run_refused(&jar, &[&format!("--group={name}")], &["group"]);
        refused(&jar, &words(&["group", "add", "--", name]), &["group name"]);
    }
    refused(&jar, &words(&["group", "add", "main"]), &["main"]);
    refused(&jar, &words(&["group", "remove", "main"]), &["main"]);
}

#[test]
fn mounts() {
    let jar = Jar::new();
    for name in ["plain", "line\nfeed", "co,mma", "back\\slash"] {
        fs::create_dir_all(jar.path("area").join(name)).expect("make a directory");
    }
    fs::create_dir_all(jar.path("area/co:lon")).expect("make a directory");
    std::os::unix::fs::symlink("plain", jar.path("area/link")).expect("make a link");
    jar.allow(&[(&jar.path("area"), true)]);
    let area = |name: &str| jar.text("area") + "/" + name;
    for (mount, says) in [
        ("relative".to_owned(), "relative"),
        ("./relative".to_owned(), "relative"),
        (String::new(), "empty"),
        (":x".to_owned(), "empty"),
        (area("missing"), "No such file"),
        (area("line\nfeed"), "character"),
        (area("co,mma"), "character"),
        (area("back\\slash"), "character"),
        (area("co:lon:x:ro"), "colon"),
        (area("link"), "symbolic link"),
        (area("plain:.."), ".."),
        (area("plain:a/../b"), ".."),
        (area("plain:/absolute"), "relative"),
        (area("plain:a,b"), "character"),
        ("~other/x".to_owned(), "another user"),
        (area("plain/../../secret"), "No such file"),
    ] {
        run_refused(&jar, &["-m", &mount], &[says]);
    }
    run_refused(&jar, &["-m", "/no/such:x:rx"], &["colons"]);
}

#[test]
fn projects() {
    let jar = Jar::new();
    run_refused(&jar, &["--project", "/no/such/directory"], &["No such file"]);
    run_refused(&jar, &["--project", ""], &["empty"]);
    run_refused(&jar, &["--project", ".:cow"], &["ro or rw"]);
    run_refused(&jar, &["--project", "README.md"], &["not a directory"]);
    run_refused(&jar, &["--project", "~nobody"], &["another user"]);
    fs::create_dir(jar.path("project/a,b")).expect("make a directory");
    run_refused(&jar, &["--project", "a,b"], &["character"]);
    run_refused(&jar, &["--project", "a\nb"], &["character"]);
    // The current directory is the default, and judged the same.
    let gone = jar.path("gone");
    fs::create_dir(&gone).expect("make a directory");
    let script = format!("cd {0} && rmdir {0} && exec {1} run -- true", gone.display(), harness::belljar().display());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]);
    jar.surround(&mut command);
    finish(command, b"").exits(125).says(&["belljar: error: "]);
}

#[test]
fn names_that_are_not_utf_8() {
    let jar = Jar::new();
    let odd = OsString::from_vec([jar.path("area").as_os_str().as_bytes(), b"/odd\xff"].concat());
    fs::create_dir_all(&odd).expect("make a directory");
    jar.allow(&[(&jar.path("area"), true)]);
    for option in ["-m", "--project", "-e", "-g"] {
        refused(&jar, &[OsStr::new("run"), OsStr::new(option), &odd, OsStr::new("--"), OsStr::new("true")], &[]);
    }
    let command = OsStr::from_bytes(b"odd\xff");
    refused(&jar, &[OsStr::new("run"), OsStr::new("--"), command], &[]);
}

#[test]
fn commands() {
    let jar = Jar::new();
    refused(&jar, &words(&["run"]), &["no command"]);
    refused(&jar, &words(&["run", "--"]), &["no command"]);
    refused(&jar, &words(&["run", "--", ""]), &["empty"]);
}

#[test]
fn an_argument_of_a_megabyte() {
    let jar = Jar::new();
    // The kernel does not even pass one of 1 MB on to belljar (execve(2)): it can
    // come from the configuration only.
    let text = format!("[group.main]\ncommand = [\"echo\", \"{}\"]\n", "x".repeat(1 << 20));
    jar.write("belljar/config/config.toml", &text);
    refused(&jar, &words(&["run"]), &["too long"]);
}

#[test]
fn many_arguments_that_are_too_long_together() {
    let jar = Jar::new();
    let text = format!("[group.main]\ncommand = [\"echo\"{}]\n", format!(", \"{}\"", "x".repeat(100_000)).repeat(30));
    jar.write("belljar/config/config.toml", &text);
    refused(&jar, &words(&["run"]), &["too long"]);
}

#[test]
fn limits_and_options() {
    let jar = Jar::new();
    for (option, value) in [
        ("--timeout", "soon"),
        ("--timeout", "0"),
        ("--timeout", "-1s"),
        ("--timeout", ""),
        ("--memory", "much"),
        ("--memory", "0"),
        ("--memory", "99999999999999t"),
        ("--cpus", "0"),
        ("--cpus", "nan"),
        ("--cpus", "-1"),
        ("--pids", "0"),
        ("--pids", "-1"),
        ("--pids", "x"),
        ("--output-limit", "0"),
        ("--output-limit", "1x"),
        ("--egress", "wide"),
        ("--backend", "docker"),
        ("--runtime", "/no/such/runtime"),
        ("--runtime", "no-such-runtime"),
        ("--runtime", "/etc/passwd"),
        ("--workdir", "relative"),
        ("--workdir", "/a/../b"),
        ("--rootfs", "/no/such/root"),
        ("--rootfs", "/"),
        ("--env", "=x"),
        ("--env", "A-B=x"),
        ("--env", "1=x"),
        ("--env", "BELLJAR_TEST_NOT_SET"),
        ("--name", "a/b"),
        ("--name", "a b"),
        ("--name", ""),
        ("--receipt", "/no/such/directory/receipt"),
    ] {
        run_refused(&jar, &[&format!("{option}={value}")], &[]);
    }
    // A misspelt option is no command.
    for line in [["run", "--tiemout", "1s", "true"], ["run", "--rw", "--", "true"], ["explain", "--jsno", "--", "true"]]
    {
        refused(&jar, &words(&line), &["unexpected argument"]);
    }
}

#[test]
fn invalid_files_are_named_with_the_line() {
    let jar = Jar::new();
    for (text, says) in [
        ("[limits\n", ":1: "),
        ("\n\n[limits]\npids = \"many\"\n", ":4: "),
        ("[run]\negress = \"wide\"\n", ":2: "),
        ("[run]\nunknown = 1\n", "unknown"),
        ("[limits]\ntimeout = \"soon\"\n", "soon"),
        ("[gruop.main]\n", "gruop"),
        ("[limits]\nenforce = \"maybe\"\n", ":2: "),
        ("[gateway]\ninspect = \"sometimes\"\n", ":2: "),
        ("[gateway]\n\nidle_timeout = \"soon\"\n", ":3: "),
        ("[gateway]\nextra_root = [\"/etc/corp.pem\"]\n", "extra_root"),
        ("[vault]\nprovider = \"other\"\n", ":2: "),
        ("[vault]\nkey = \"none\"\n", ":2: "),
    ] {
        jar.write("belljar/config/config.toml", text);
        run_refused(&jar, &[], &["config.toml:", says]);
    }
    // What can be read and cannot be used is named by its key.
    for (text, says) in [
        ("[gateway]\nextra_roots = [\"/no/such/file.pem\"]\n", &["extra_roots", "/no/such/file.pem"]),
        ("[gateway]\nextra_roots = [\"/etc/passwd\"]\n", &["extra_roots", "/etc/passwd"]),
        ("[vault]\nprovider = \"onecli\"\n", &["[vault]", "url"]),
    ] {
        jar.write("belljar/config/config.toml", text);
        run_refused(&jar, &[], says);
    }
    fs::remove_file(jar.path("belljar/config/config.toml")).expect("delete it");
    for (text, says) in [
        ("default = \"perhaps\"\n", ":1: "),
        ("\n[[rule]]\nhost = \"a.example\"\naction = \"alow\"\n", ":4: "),
        ("[[rule]\n", ":1: "),
        ("[[rule]]\nhost = \"https://a.example\"\naction = \"deny\"\n", ":2: "),
    ] {
        jar.write("belljar/config/policy.toml", text);
        run_refused(&jar, &[], &["policy.toml:", says]);
        // Also where it could not matter: it is mended before it does.
        run_refused(&jar, &["--egress", "none"], &["policy.toml:", says]);
        refused(&jar, &words(&["explain"]), &["policy.toml:", says]);
    }
    fs::remove_file(jar.path("belljar/config/policy.toml")).expect("delete it");
    for (text, says) in [
        ("", ":1: "),
        ("{\n\"allowedRoots\": [\n{\"path\": 5}]}", ":3: "),
        ("{\n\"allowedRoots\": []", ":2: "),
        ("{\"allowedRoots\": [],\n\"unknown\": 1}", "unknown"),
        ("{\"allowedRoots\": [\n{\"path\": \"relative\"}]}", ":2: "),
        ("{\"allowedRoots\": [],\n\"blockedPatterns\": [\"\"]}", ":2: "),
        ("{\"blockedPatterns\": []}", "allowedRoots"),
        ("[]", "mount-allowlist.json:1"),
    ] {
        jar.write("belljar/config/mount-allowlist.json", text);
        run_refused(&jar, &[], &["mount-allowlist.json:", says]);
        refused(&jar, &words(&["explain"]), &[says]);
    }
    fs::remove_file(jar.path("belljar/config/mount-allowlist.json")).expect("delete it");
    jar.write("belljar/data/groups.json", "{ not json");
    run_refused(&jar, &["-g", "any"], &["groups"]);
}

#[test]
fn files_that_others_can_write_or_that_lead_nowhere_stop_the_run() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let jar = Jar::new();
    let config = jar.path("belljar/config");
    let chmod = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let refused = |said: &str| {
        let out = jar.run(&[], &["touch", "/workspace/group/ran"]);
        assert_eq!(out.code, 125, "{said}: {}", out.err());
        assert!(out.err().contains(said) && out.err().contains("hint: "), "{said}: {}", out.err());
        assert!(!jar.group("main").join("ran").exists(), "{said}");
    };
    for name in ["policy.toml", "config.toml", "mount-allowlist.json"] {
        let path = config.join(name);
        symlink("/nowhere", &path).expect("a link");
        refused(name);
        std::fs::remove_file(&path).expect("remove the link");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        refused("it is not a file");
        std::fs::remove_file(&path).expect("remove the FIFO");
        std::fs::write(&path, if name.ends_with("json") { "{}" } else { "" }).expect("write a file");
        chmod(&path, 0o666);
        refused("others can write");
        std::fs::remove_file(&path).expect("remove the file");
    }
    chmod(&config, 0o777);
    refused("others can write");
    chmod(&config, 0o755);
    assert_eq!(jar.run(&[], &["true"]).code, 0);
}
