//! Tells a person, by the command that they configured.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};

use super::Approval;
use crate::error::{Context, Error, Result};
use crate::record::json_line;
use crate::sys;

/// After this the command is killed.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many run at once: an agent can ask and go away in a loop.
const AT_ONCE: usize = 32;
/// What a desktop notification, a mail program and belljar itself need. The
/// rest of the caller's environment may hold credentials.
const KEPT: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "BELLJAR_HOME",
];

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One of those that run at once.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let more = |running| (running < AT_ONCE).then_some(running + 1);
        RUNNING.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Starts the command, with the approval as one line of JSON on its stdin. No
/// shell reads either. It is killed after half a minute; nobody waits for it.
/// An error says that it could not be started.
pub fn notify(command: &[String], approval: &Approval) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let place = Place::take().ok_or_else(|| {
        Error::failed(format!("start {program}"))
            .because(format!("{AT_ONCE} of them run already"))
            .hint("belljar approvals")
    })?;
    let line = json_line(&approval.to_json())?;
    // A file and not a pipe: one that does not read cannot hold anybody up.
    let mut stdin =
        File::from(memfd_create("belljar-approval", MemfdFlags::CLOEXEC).step(|| "make a file in memory".to_owned())?);
    stdin.write_all(line.as_bytes()).and_then(|()| stdin.rewind()).step(|| "write the approval".to_owned())?;
    let mut start = Command::new(program);
    start.args(arguments).env_clear();
    start.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    start.current_dir("/").stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    sys::close_above_2_on_exec(&mut start);
    let child = start.spawn().map_err(|error| {
        Error::failed(format!("start {program}")).because(error).hint("approval_command in config.toml")
    })?;
    let watched = thread::Builder::new().name("approval-command".to_owned()).spawn(move || watch(child, place));
    watched.map(|_| ()).step(|| "start a thread".to_owned())
}

/// Waits for the end, or makes it. The child's own children go with it.
fn watch(mut child: Child, _place: Place) {
    let begun = Instant::now();
    while let Ok(None) = child.try_wait() {
        if begun.elapsed() >= PATIENCE {
            let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.wait();
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}
