//! Promise: what is hidden stays hidden for the whole run, whatever the host does
//! with the files meanwhile; and everything else that the host saves is seen.

mod harness;

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use harness::{Jar, Live, SECRET, SOON, eventually};

const PROBE: &str = "/workspace/group/probe";

/// Saves like an editor: a new file is renamed over the old one.
fn save(path: &Path, text: &str) {
    let new = path.with_extension("saving");
    fs::write(&new, text).expect("write the new file");
    fs::rename(&new, path).expect("rename it over the old one");
}

/// An agent that reads `file` until it is told to stop.
fn poll(jar: &Jar, options: &[&str], file: &str) -> Live {
    jar.install_probe();
    let live = jar.start(options, &[PROBE, "poll", file, "/workspace/group/stop", SECRET]);
    live.wait_for("polling");
    live
}

/// Tells it to; it must have read, and never seen the secret.
fn saw_nothing(jar: &Jar, live: Live) {
    fs::write(jar.group("main").join("stop"), "").expect("tell it to stop");
    let out = live.wait().success().out();
    let seen: serde_json::Value =
        serde_json::from_str(out.lines().last().unwrap_or_default()).expect("the counts are JSON");
    assert!(seen["reads"].as_u64() > Some(100), "the agent hardly read: {seen}");
    assert_eq!(seen["leaks"], 0, "the agent read the secret: {seen}");
}

#[test]
fn the_poll_itself_does_see_a_secret_that_is_not_hidden() {
    let jar = Jar::new();
    jar.write("project/notes.txt", SECRET);
    let live = poll(&jar, &[], "/workspace/project/notes.txt");
    fs::write(jar.group("main").join("stop"), "").expect("tell it to stop");
    let out = live.wait().success().out();
    assert!(!out.contains("\"leaks\":0"), "the control saw nothing: {out}");
}

#[test]
fn a_thousand_atomic_saves_of_env_show_nothing() {
    let jar = Jar::new();
    let live = poll(&jar, &[], "/workspace/project/.env");
    for number in 0..1000 {
        save(&jar.project().join(".env"), &format!("TOKEN={SECRET} {number}\n"));
        if number % 4 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    saw_nothing(&jar, live);
}

#[test]
fn env_deleted_and_made_again_shows_nothing() {
    let jar = Jar::new();
    let env = jar.project().join(".env");
    let live = poll(&jar, &[], "/workspace/project/.env");
    for number in 0..300 {
        fs::remove_file(&env).expect("delete it");
        std::thread::sleep(Duration::from_micros(500 * (number % 5)));
        fs::write(&env, SECRET).expect("make it again");
        std::thread::sleep(Duration::from_micros(300 * (number % 7)));
    }
    // In place, through a link, and as a directory of that name.
    fs::write(&env, format!("{SECRET} again")).expect("write in place");
    jar.write("project/elsewhere", SECRET);
    fs::remove_file(&env).expect("delete it");
    std::os::unix::fs::symlink("elsewhere", &env).expect("make a link");
    std::thread::sleep(Duration::from_millis(300));
    fs::remove_file(&env).expect("delete it");
    fs::create_dir(&env).expect("make a directory");
    fs::write(env.join("inner"), SECRET).expect("write a file");
    let inner = jar.sh("cat /workspace/project/.env/inner");
    assert!(!inner.out().contains(SECRET));
    saw_nothing(&jar, live);
}

#[test]
fn env_made_during_the_run_shows_nothing_when_there_was_none() {
    let jar = Jar::new();
    let env = jar.project().join(".env");
    fs::remove_file(&env).expect("delete it");
    let before = harness::tree(&jar.project());
    let live = poll(&jar, &[], "/workspace/project/.env");
    assert_eq!(harness::tree(&jar.project()), before, "a stub is in the person's tree");
    fs::write(&env, SECRET).expect("make it");
    std::thread::sleep(Duration::from_millis(300));
    for number in 0..200 {
        save(&env, &format!("{SECRET} {number}"));
        std::thread::sleep(Duration::from_millis(1));
    }
    saw_nothing(&jar, live);
}

#[test]
fn a_hidden_file_deep_below_is_hidden_for_the_whole_run() {
    let jar = Jar::new();
    for name in ["a/b/.env.production", "a/id_rsa", "a/b/c/credentials"] {
        jar.write(&format!("project/{name}"), SECRET);
    }
    let extra = jar.write("extra/deep/.npmrc", SECRET);
    jar.allow(&[(&jar.path("extra"), false)]);
    for (options, inside, outside) in [
        (vec![], "/workspace/project/a/b/.env.production", jar.path("project/a/b/.env.production")),
        (vec![], "/workspace/project/a/id_rsa", jar.path("project/a/id_rsa")),
        (vec!["-m".to_owned(), jar.text("extra")], "/workspace/extra/extra/deep/.npmrc", extra),
    ] {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let _ = fs::remove_file(jar.group("main").join("stop"));
        let live = poll(&jar, &options, inside);
        for number in 0..100 {
            save(&outside, &format!("{SECRET} {number}"));
            std::thread::sleep(Duration::from_millis(2));
        }
        saw_nothing(&jar, live);
    }
}

/// What the host replaces as a whole, as a change of branch does, is seen as it
/// is now, but for what was hidden in it.
#[test]
fn a_directory_with_hidden_names_that_is_made_again_shows_the_rest() {
    let jar = Jar::new();
    let fill = |number: u32| {
        jar.write("project/pkg/api/.env", SECRET);
        jar.write("project/pkg/api/.ssh/key", SECRET);
        jar.write("project/pkg/api/code", &number.to_string());
    };
    fill(0);
    let live = jar.start(
        &[],
        &["sh", "-c", "cd /workspace/project/pkg; echo ready; for n in 1 2 3; do \
            until [ \"$(cat /workspace/project/pkg/api/code 2>/dev/null)\" = $n ]; do \
            cat /workspace/project/pkg/api/.env /workspace/project/pkg/api/.ssh/key 2>/dev/null; done; echo seen $n; done"],
    );
    live.wait_for("ready");
    // By now belljar has begun to watch.
    std::thread::sleep(Duration::from_millis(500));
    for number in 1..=3 {
        fs::remove_dir_all(jar.path("project/pkg/api")).expect("delete it");
        fill(number);
        let what = format!("seen {number}");
        eventually(&what, SOON, || live.so_far().contains(&what));
    }
    assert_eq!(live.wait().success().out(), "ready\nseen 1\nseen 2\nseen 3\n");
}

#[test]
fn a_hidden_directory_is_empty_and_unreadable_and_stays_so() {
    let jar = Jar::new();
    let key = jar.write("project/conf/.ssh/id_ed25519", SECRET);
    let live = jar.start(
        &[],
        &["sh", "-c", "echo ready; until [ -e stop ]; do cat /workspace/project/conf/.ssh/* /workspace/project/conf/.ssh/id_ed25519; ls -A /workspace/project/conf/.ssh; done 2>/dev/null; true"],
    );
    live.wait_for("ready");
    let (directory, away) = (jar.path("project/conf/.ssh"), jar.path("project/conf/ssh-away"));
    for number in 0..50 {
        save(&key, &format!("{SECRET} {number}"));
        fs::rename(&directory, &away).expect("move it away");
        fs::rename(&away, &directory).expect("and back");
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::write(jar.group("main").join("stop"), "").expect("tell it to stop");
    assert_eq!(live.wait().success().out(), "ready\n");
}

#[test]
fn the_agent_cannot_take_a_shadow_away() {
    let jar = Jar::new();
    let script = "cd /workspace/project; rm -f .env; mv .env x; umount .env; umount -l .env; \
        mount --bind README.md .env; unshare -Ur umount .env; unshare -Urm cat .env; \
        ln .env /workspace/group/l; cp .env /workspace/group/c; cat .env /proc/self/root/workspace/project/.env; \
        cat /proc/self/cwd/.env; python3 -c 'print(open(\".env\").read())'; true";
    let outcome = jar.sh(&format!("{{ {script}; }} 2>/dev/null")).success();
    assert!(!outcome.out().contains(SECRET), "{}", outcome.out());
    for name in harness::names_in(&jar.group("main")) {
        let text = fs::read_to_string(jar.group("main").join(&name)).unwrap_or_default();
        assert!(!text.contains(SECRET), "{name}");
    }
    let kept = fs::read_to_string(jar.project().join(".env")).expect("it is still there");
    assert_eq!(kept, format!("TOKEN={SECRET}\n"));
}

#[test]
fn what_the_host_saves_elsewhere_is_seen_soon() {
    let jar = Jar::new();
    jar.write("project/looked-at", "old");
    let script = "cd /workspace/project; cat looked-at src/main.rs >/dev/null; ls new deep/er/new >/dev/null 2>&1; echo ready; \
        for f in looked-at src/main.rs new deep/er/new later/file; do \
        until grep -q fresh $f 2>/dev/null; do sleep 0.01; done; echo seen $f; done; \
        until [ ! -e looked-at ]; do sleep 0.01; done; echo seen gone";
    let live = jar.start(&[], &["sh", "-c", script]);
    live.wait_for("ready");
    let soon = |what: &str| {
        eventually(what, SOON, || live.so_far().contains(what));
    };
    save(&jar.path("project/looked-at"), "fresh");
    soon("seen looked-at");
    fs::write(jar.path("project/src/main.rs"), "fresh, in place").expect("write a file");
    soon("seen src/main.rs");
    jar.write("project/new", "fresh");
    soon("seen new");
    jar.write("project/deep/er/new", "fresh");
    soon("seen deep/er/new");
    jar.write("aside/file", "fresh");
    fs::rename(jar.path("aside"), jar.path("project/later")).expect("move a directory in");
    soon("seen later/file");
    fs::remove_file(jar.path("project/looked-at")).expect("delete it");
    soon("seen gone");
    live.wait().success();
}

/// An agent that waits for three saves of a file in a directory that is not
/// there yet.
const THREE_SAVES: &str = "cd /workspace/project; echo ready; \
    until [ -e warm ]; do sleep 0.01; done; echo seen warm; for n in 1 2 3; do \
    until [ \"$(cat fresh/dir/file 2>/dev/null)\" = $n ]; do sleep 0.01; done; echo seen $n; done";

fn three_saves(jar: &Jar, live: Live) {
    for number in 1..=3 {
        let path = jar.write("project/fresh/dir/file.saving", &number.to_string());
        fs::rename(path, jar.path("project/fresh/dir/file")).expect("rename it");
        jar.write("project/warm", "");
        let what = format!("seen {number}");
        eventually(&what, SOON, || live.so_far().contains(&what));
    }
    live.wait().success();
}

#[test]
fn saves_in_a_directory_that_came_during_the_run_are_seen_too() {
    let jar = Jar::new();
    let live = jar.start(&[], &["sh", "-c", THREE_SAVES]);
    live.wait_for("ready");
    jar.write("project/warm", "");
    live.wait_for("seen warm");
    // By now belljar has begun to watch; a second save shows it.
    std::thread::sleep(Duration::from_millis(300));
    three_saves(&jar, live);
}

#[test]
fn saves_in_a_directory_that_came_while_the_run_began_are_seen_too() {
    for _ in 0..5 {
        let jar = Jar::new();
        let live = jar.start(&[], &["sh", "-c", THREE_SAVES]);
        live.wait_for("ready");
        three_saves(&jar, live);
    }
}

#[test]
fn a_save_of_what_the_agent_held_while_the_run_began_is_seen_when_it_lets_go() {
    let jar = Jar::new();
    jar.write("project/held", "1");
    let script = "cd /workspace/project; exec 3<held; echo ready; sleep 0.7; exec 3<&-; \
        until [ \"$(cat held)\" = 2 ]; do sleep 0.01; done";
    let live = jar.start(&[], &["sh", "-c", script]);
    live.wait_for("ready");
    // Before belljar begins to watch, so that no event tells of it.
    let path = jar.write("project/held.saving", "2");
    fs::rename(path, jar.path("project/held")).expect("rename it");
    live.wait().success();
}

#[test]
fn a_socket_or_fifo_that_appears_during_the_run_is_out_of_reach() {
    let jar = Jar::new();
    jar.install_probe();
    let live = jar.start(
        &[],
        &["sh", "-c", "echo ready; until [ -e stop ]; do for i in 1 2 3 4 5; do ./probe reach socket=/workspace/project/src/s fifo=/workspace/project/src/f; done; done"],
    );
    live.wait_for("ready");
    let listener = UnixListener::bind(jar.path("project/src/s")).expect("listen");
    listener.set_nonblocking(true).expect("do not wait");
    let fifo = jar.path("project/src/f");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("make a FIFO");
    let reader = File::options().read(true).write(true).open(&fifo).expect("open the FIFO");
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("do not wait");
    // Until the agent has seen the names, and some more attempts.
    eventually("the agent sees the names", SOON, || live.so_far().matches("connect to a socket").count() > 20);
    std::thread::sleep(Duration::from_millis(700));
    fs::write(jar.group("main").join("stop"), "").expect("tell it to stop");
    live.wait().success();
    assert!(listener.accept().is_err(), "the agent connected to a socket of the host");
    let got = std::io::Read::read(&mut &reader, &mut [0u8; 16]);
    assert!(!matches!(got, Ok(1..)), "the agent wrote to a FIFO of the host");
}
