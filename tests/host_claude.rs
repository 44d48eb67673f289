//! Promise: without any configuration of agents the host process speaks with Claude
//! Code: a message is answered, a further one goes into the live run, and the next
//! run goes on with the session.

mod harness;
mod world;

use std::ffi::OsString;
use std::path::PathBuf;

use harness::{DEADLINE, Live, SOON, eventually, skip};
use nix::sys::signal::Signal;
use world::World;

const TOKEN: &str = "host-claude-secret-71c0";

fn claude() -> Option<PathBuf> {
    let prefix = std::env::var_os("BELLJAR_CLAUDE").filter(|prefix| !prefix.is_empty()).map(PathBuf::from);
    let found = prefix.map(|prefix| prefix.join("bin")).filter(|bin| bin.join("claude").exists());
    if found.is_none() {
        skip("claude below BELLJAR_CLAUDE, the prefix in which npm installed it");
    }
    found
}

#[test]
fn messages_are_answered_by_claude_code_in_one_session() {
    let Some(bin) = claude() else { return };
    let Some(world) = World::new() else { return };
    let project = world.jar.project();
    world.config(&format!(
        "[group.main]\nproject = \"{}\"\n[host]\nidle_close = \"2s\"\n[log]\nto = \"stderr\"\n",
        project.display()
    ));
    world.secret("claude", &["--preset", "anthropic"], TOKEN);
    let mut command = world.belljar(["serve"]);
    let mut path = OsString::from(bin);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("PATH", &path);
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    let live = Live::start(command).within(4 * DEADLINE);
    eventually("it serves", 2 * SOON, || live.so_far_err().contains("event=serving"));
    let send = |text: &str| {
        let out = world.jar.call(&["send", "--wait=60s", text]);
        assert_eq!(out.out(), "The jar is sealed.\n", "{}\n{}", out.err(), live.so_far_err());
    };
    send("What is the jar?");
    // Into the live run.
    send("And what else?");
    assert_eq!(world.jar.receipts().len(), 1, "{}", live.so_far_err());
    eventually("it is idle and closed", 4 * SOON, || world.jar.receipts()[0]["status"] == "ended");
    assert_eq!(world.jar.receipts()[0]["exit_code"], 0);
    send("Once more?");
    let receipts = world.jar.receipts();
    let command = receipts[1]["plan"]["command"].to_string();
    assert!(command.contains("--resume"), "{command}");
    let everything = world.everything() + &live.so_far_err();
    assert!(!world.jar.call(&["log", "host"]).out().contains(TOKEN));
    assert!(everything.contains("/v1/messages"));
    live.signal(Signal::SIGTERM);
    live.wait().success();
}
