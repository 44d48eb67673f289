//! One start of an OCI runtime.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;

use super::runtime::{MapsBy, RuntimeKind};
use crate::config::is_of_another;

/// Where one start of the runtime finds its things.
#[derive(Debug)]
pub struct Start {
    /// Which runtime it is.
    pub kind: RuntimeKind,
    /// The program.
    pub program: PathBuf,
    /// The program is bound read-only: the container cannot overwrite it, so the
    /// runtime need not run a copy of itself (CVE-2019-5736).
    pub readonly_program: bool,
    /// The bundle.
    pub bundle: PathBuf,
    /// State directory; it vanishes with the staging area, so that nothing has
    /// to be deleted.
    pub state: PathBuf,
    /// Where the runtime writes its own errors.
    pub log: PathBuf,
    /// Socket for the terminal's master side, when there is a terminal.
    pub console: Option<PathBuf>,
    /// Where helpers of ours are, for a runtime that needs them.
    pub helpers: PathBuf,
    /// The container's id.
    pub id: String,
}

/// The command that runs the bundle in the foreground, with descriptor 3 passed
/// on to the container's PID 1.
pub fn command(start: &Start) -> Command {
    let mut command = Command::new(&start.program);
    start.kind.runtime().run(start, &mut command);
    command.current_dir(&start.bundle).env_clear().envs(inherited_environment());
    if start.kind.runtime().maps_by() == MapsBy::Helpers {
        command.env("PATH", &start.helpers);
    }
    if start.readonly_program {
        // Known to crun and runc, who check that the file system is read-only.
        command.env("_LIBCONTAINER_CLONED_BINARY", "1");
    }
    command
}

/// The environment for a runtime: the caller's, without what leads it to files
/// of the caller's other containers.
pub fn inherited_environment() -> Vec<(OsString, OsString)> {
    host_environment().into_iter().filter(|(name, _)| name != "XDG_RUNTIME_DIR").collect()
}

/// The caller's environment without what makes a runtime pass descriptors or
/// sockets of the host on to the container, and without another user's runtime
/// directory, which `su` leaves and podman refuses.
pub fn host_environment() -> Vec<(OsString, OsString)> {
    const LEFT_OUT: [&str; 5] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "BELLJAR_HOME"];
    let is_left_out = |name: &OsString, value: &OsString| {
        LEFT_OUT.iter().any(|left_out| name == left_out)
            || name == "XDG_RUNTIME_DIR" && is_of_another(Path::new(value), Uid::effective().as_raw())
    };
    env::vars_os().filter(|(name, value)| !is_left_out(name, value)).collect()
}
