//! Promise: the units that belljar writes say what was asked for, are hardened,
//! and never take the place of what somebody else wrote. systemd itself judges
//! them; that they work is shown in tests/vm.

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Jar, Outcome, finish, is_root, skip, system_program};

struct Units {
    jar: Jar,
}

impl Units {
    fn new() -> Option<Self> {
        if system_program("systemd-analyze").is_none() {
            skip("systemd-analyze, of the package systemd");
            return None;
        }
        Some(Self { jar: Jar::new() })
    }

    fn directory(&self) -> PathBuf {
        self.jar.path("config/systemd/user")
    }

    fn call(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.jar.belljar(["systemd"].iter().chain(arguments));
        command.env("XDG_CONFIG_HOME", self.jar.path("config")).current_dir(self.jar.project());
        finish(command, b"")
    }

    /// Units of the caller's own manager, which is not asked.
    fn write(&self, what: &str, arguments: &[&str]) -> Outcome {
        let line: Vec<&str> = [what, "--user", "--no-enable"].iter().chain(arguments).copied().collect();
        self.call(&line)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// `systemd-analyze verify` and `security`, without a manager.
    fn is_good(&self, name: &str) {
        let path = self.directory().join(name);
        let verify = |path: &Path| {
            let mut command = Command::new("systemd-analyze");
            self.jar.surround(&mut command);
            command.args(["verify", "--man=no"]).arg(path).env("XDG_RUNTIME_DIR", self.jar.path(""));
            let said = finish(command, b"").err();
            said.lines().filter(|line| line.contains("belljar")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(verify(&path), Vec::<String>::new());
        // The control: what is wrong is seen.
        let wrong = self.jar.path(&format!("wrong-{name}"));
        fs::write(&wrong, format!("{}\n[Unit]\nNonsense=yes\n", self.text(name))).expect("write a copy");
        assert!(verify(&wrong).iter().any(|line| line.contains("Nonsense")), "{:?}", verify(&wrong));
        if name.ends_with(".service") {
            // Rated as outside of this test: by a user, and with nothing below /tmp.
            let text = self.text(name).replace("User=%u", "User=belljar");
            let rated = text.replace("# Without PrivateTmp=: something of this run lies there.", "PrivateTmp=yes");
            let path = self.jar.path(name);
            fs::write(&path, rated).expect("write a copy");
            let mut command = Command::new("systemd-analyze");
            self.jar.surround(&mut command);
            command.args(["security", "--offline=yes", "--threshold=30"]).arg(path);
            let rated = finish(command, b"");
            assert_eq!(rated.code, 0, "{name}: {}", rated.out().lines().last().unwrap_or_default());
        }
    }
}

fn value<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let prefix = format!("{key}=");
    text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
}

/// systemd.syntax's quoting and specifiers, as its manual has them.
fn words(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut characters = line.chars().peekable();
    while let Some(first) = characters.next() {
        if first == ' ' {
            continue;
        }
        let mut word = Vec::new();
        let quote = (first == '"').then_some('"');
        let mut next = if quote.is_some() { characters.next() } else { Some(first) };
        while let Some(c) = next {
            match (c, quote) {
                ('"', Some(_)) | (' ', None) => break,
                ('\\', _) => match characters.next().expect("an escape") {
                    'n' => word.push(b'\n'),
                    't' => word.push(b'\t'),
                    'x' => {
                        let digits: String = characters.by_ref().take(2).collect();
                        word.push(u8::from_str_radix(&digits, 16).expect("two digits"));
                    }
                    c => word.extend(c.to_string().bytes()),
                },
                ('%', _) => {
                    assert_eq!(characters.next(), Some('%'), "a specifier in {line}");
                    word.push(b'%');
                }
                (c, _) => word.extend(c.to_string().bytes()),
            }
            next = characters.next();
        }
        found.push(String::from_utf8(word).expect("text"));
    }
    found
}

#[test]
fn the_host_process_and_the_template_pass_and_are_rated_below_3() {
    let Some(units) = Units::new() else { return };
    units.write("install", &[]).success();
    assert_eq!(units.names(), ["belljar.service", "belljar.socket", "belljar@.service"]);
    for name in units.names() {
        let text = units.text(&name);
        assert!(text.contains("\nDocumentation="), "{name}");
        units.is_good(&name);
    }
    let service = units.text("belljar.service");
    for line in ["Type=notify", "WatchdogSec=60", "Delegate=yes", "Requires=belljar.socket", "KillMode=mixed"] {
        assert!(service.lines().any(|have| have == line), "{line}");
    }
    assert!(value(&units.text("belljar@.service"), "ExecStart")[0].ends_with(" run --group %i"));
    assert!(units.write("install", &[]).success().out().lines().all(|line| !line.starts_with("wrote")), "it is there");
    let out = units.write("remove", &[]).success().out();
    assert_eq!((out.matches("removed").count(), units.names().len()), (3, 0), "{out}");
    assert!(
        units
            .call(&["install", "--system", "--dry-run"])
            .success()
            .out()
            .contains("/etc/systemd/system/belljar.socket")
    );
    if !is_root() {
        units.call(&["install", "--system"]).exits(125).says(&["root's to write", "hint: "]);
    }
}

#[test]
fn a_job_is_what_was_typed() {
    let Some(units) = Units::new() else { return };
    let odd = ["50%", "$HOME", "a\"b", "c'd", "e\\f", "", ";", "two\nlines", "é", "%i", "# no", "\t", "\u{1b}[0m", " "];
    let arguments: Vec<&str> =
        ["--name", "odd", "--timeout", "90s", "--disk", "1g", "--", "printf"].into_iter().chain(odd).collect();
    units.write("unit", &arguments).success();
    let text = units.text("belljar-odd.service");
    let line = value(&text, "ExecStart")[0].strip_prefix(':').expect("no variables are replaced").to_owned();
    let read = words(&line);
    let command = read.iter().position(|word| word == "--").expect("the command");
    assert_eq!(read[command + 1..], ["printf"].into_iter().chain(odd).collect::<Vec<_>>());
    for option in ["run", "--name=odd", "--timeout=1m30s", "--disk=1073741824", "--group=main"] {
        assert!(read.contains(&option.to_owned()), "{option}: {read:?}");
    }
    let project = format!("--project={}:ro", fs::canonicalize(units.jar.project()).expect("real").display());
    assert!(read.contains(&project), "{project}: {read:?}");
    units.is_good("belljar-odd.service");
    assert!(!units.write("unit", &["--name", "there", "--", "true"]).success().out().contains("not on this host"));
    let absent = units.write("unit", &["--name", "absent", "--", "belljar-nonexistent"]).success();
    assert!(
        absent.out().contains("note: belljar-nonexistent is not on this host yet; the job ends with 127"),
        "{absent:?}"
    );
}

#[test]
fn what_no_unit_could_hold_or_start_is_refused() {
    let Some(units) = Units::new() else { return };
    for (calendar, hint) in [
        ("2020-01-01", "systemd-analyze calendar 2020-01-01"),
        ("*-02-31", "systemd-analyze calendar '*-02-31'"),
        ("it's noon", r"systemd-analyze calendar 'it'\''s noon'"),
    ] {
        let refused = units.write("timer", &["--name", "n", "--on-calendar", calendar, "--", "true"]).exits(125);
        refused.says(&[calendar, hint]);
    }
    let with = |variable: &str, value: &str| {
        let mut command = units.jar.belljar(["systemd", "install", "--user", "--no-enable"]);
        command.env("XDG_CONFIG_HOME", units.jar.path("config")).env(variable, value);
        finish(command, b"").exits(125)
    };
    with("PATH", "/usr/bin\n:/bin").says(&["PATH has a line break"]);
    let delay = ["--name", "n", "--on-calendar", "daily", "--randomized-delay", "99999999999h", "--", "true"];
    units.write("timer", &delay).exits(2).says(&["more than a year"]);
    for name in ["a\"b", "a\\b", "a\nb"] {
        with("BELLJAR_HOME", &units.jar.text(name)).says(&["cannot stand in a unit", "ReadWritePaths="]);
    }
    assert!(units.names().is_empty(), "{:?}", units.names());
}

#[test]
fn what_a_run_needs_is_left_open_and_no_more() {
    let Some(units) = Units::new() else { return };
    units.write("unit", &["--name", "plain", "--", "true"]).success();
    // Everything of this test lies below /tmp.
    let text = units.text("belljar-plain.service");
    assert!(value(&text, "PrivateTmp").is_empty() && value(&text, "PrivateDevices") == ["yes"]);
    assert_eq!(value(&text, "NoNewPrivileges"), ["yes"]);
    assert!(!value(&text, "SystemCallFilter").is_empty());
    let writes = value(&text, "ReadWritePaths").join(" ");
    assert!(
        writes.contains("/belljar/data") && !writes.contains(&units.jar.project().display().to_string()),
        "{writes}"
    );
    let project = format!("{}:rw", units.jar.path("writable").display());
    fs::create_dir(units.jar.path("writable")).expect("make a project");
    units.write("unit", &["--name", "writes", "--project", &project, "--", "true"]).success();
    assert!(value(&units.text("belljar-writes.service"), "ReadWritePaths").join(" ").contains("/writable"));
    units.jar.write("belljar/config/config.toml", "[run]\negress = \"open\"\n");
    units.write("install", &[]).success();
    assert!(value(&units.text("belljar.service"), "PrivateDevices").is_empty());
    units.jar.write("belljar/config/config.toml", "[run]\nbackend = \"podman\"\n");
    units.write("install", &[]).success();
    let text = units.text("belljar.service");
    assert!(value(&text, "NoNewPrivileges").is_empty() && value(&text, "PrivateUsers").is_empty(), "newuidmap");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let Some(units) = Units::new() else { return };
    let refused = |arguments: &[&str], code: i32, words: &[&str]| {
        units.call(arguments).exits(code).says(words);
        assert!(units.names().is_empty(), "{:?} after {arguments:?}", units.names());
    };
    let unit = ["unit", "--user", "--no-enable"];
    let with = |more: &[&'static str]| unit.iter().chain(more).copied().collect::<Vec<_>>();
    refused(&with(&["--name", "../x", "--", "true"]), 2, &["letters"]);
    refused(&with(&["--name", "a@b", "--", "true"]), 2, &["letters"]);
    refused(&with(&["--name", "n", "-g", "nobody", "--", "true"]), 125, &["there is no group `nobody`", "group add"]);
    refused(&with(&["--name", "n", "--tty", "--", "true"]), 2, &["no terminal"]);
    refused(&with(&["--name", "n", "--env", "HOME", "--", "true"]), 2, &["--env HOME=VALUE"]);
    refused(&with(&["--name", "n"]), 2, &["no command"]);
    refused(&with(&["--name", "n", "--mount", "/nonexistent", "--", "true"]), 125, &["/nonexistent"]);
    let timer = ["timer", "--user", "--no-enable", "--name", "n", "--on-calendar"];
    refused(
        &timer.iter().chain(&["Fooday", "--", "true"]).copied().collect::<Vec<_>>(),
        125,
        &["Fooday", "systemd-analyze"],
    );
    refused(&timer.iter().chain(&["daily"]).copied().collect::<Vec<_>>(), 2, &["no command"]);
    refused(&["remove", "--user", "--no-enable", "--name", "n"], 125, &["there is no job `n`"]);
    refused(&["install", "--user", "--as-user", "nobody"], 2, &["--system"]);
}

#[test]
fn a_timer_is_for_its_job() {
    let Some(units) = Units::new() else { return };
    let timer =
        ["--name", "night", "--on-calendar", "Mon..Fri 03:00", "--on-calendar", "Sun *-*-1..7 12:00", "--persistent"];
    let arguments: Vec<&str> = timer.into_iter().chain(["--randomized-delay", "30m", "--", "true"]).collect();
    units.write("timer", &arguments).success();
    assert_eq!(units.names(), ["belljar-night.service", "belljar-night.timer"]);
    let text = units.text("belljar-night.timer");
    assert_eq!(value(&text, "OnCalendar"), ["Mon..Fri 03:00", "Sun *-*-1..7 12:00"]);
    assert_eq!((value(&text, "Persistent"), value(&text, "RandomizedDelaySec")), (vec!["yes"], vec!["1800s"]));
    units.is_good("belljar-night.timer");
    // Another time for the job as it is.
    let before = units.text("belljar-night.service");
    units.write("timer", &["--name", "night", "--on-calendar", "daily"]).success();
    assert_eq!(value(&units.text("belljar-night.timer"), "OnCalendar"), ["daily"]);
    assert_eq!(units.text("belljar-night.service"), before);
    units.write("install", &[]).success();
    assert!(units.write("remove", &[]).success().out().contains("belljar-night.timer"), "it says what is left");
    units.write("remove", &["--all"]).success();
    assert!(units.names().is_empty());
}

#[test]
fn what_others_wrote_stays() {
    let Some(units) = Units::new() else { return };
    units.write("install", &[]).success();
    let service = units.directory().join("belljar.service");
    let drop_in = units.directory().join("belljar.service.d");
    fs::create_dir(&drop_in).expect("make the drop-in's directory");
    fs::write(drop_in.join("mine.conf"), "[Service]\nNice=5\n").expect("write a drop-in");
    let edited = units.text("belljar.service").replace("WatchdogSec=60", "WatchdogSec=10");
    fs::write(&service, &edited).expect("edit");
    for what in ["install", "remove"] {
        units.write(what, &[]).exits(125).says(&["changed by hand", "systemctl --user edit belljar.service"]);
        assert_eq!(units.text("belljar.service"), edited);
    }
    assert_eq!(units.names().len(), 4, "a refused removal removes nothing");
    units.write("install", &["--force"]).success();
    assert!(units.text("belljar.service").contains("WatchdogSec=60"));
    fs::write(&service, "[Service]\nExecStart=/bin/true\n").expect("another's unit");
    for what in ["install", "remove"] {
        for force in [&[][..], &["--force"]] {
            units.write(what, force).exits(125).says(&["not written by belljar", "mv "]);
        }
    }
    assert_eq!(units.text("belljar.service"), "[Service]\nExecStart=/bin/true\n");
    fs::remove_file(&service).expect("remove");
    symlink("/dev/null", &service).expect("mask it");
    units.write("install", &[]).exits(125).says(&["unmask"]);
    fs::remove_file(&service).expect("unmask it");
    fs::write(units.directory().join("belljarx.service"), "[Service]\n").expect("a name that begins so");
    let out = units.write("remove", &["--all"]).success().out();
    assert!(out.contains("removed"), "{out}");
    assert_eq!(units.names(), ["belljar.service.d", "belljarx.service"]);
    units.write("install", &[]).success();
    assert!(drop_in.join("mine.conf").exists());
}
