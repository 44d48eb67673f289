//! podman's user namespace, and the launcher's namespaces for podman.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;

use super::with_lines;
use crate::backend::host_environment;
use crate::error::{Context, Error, Result};
use crate::sys;

/// The user namespace in which podman of an ordinary user works, as `podman
/// unshare` makes it, and the environment that its children have there.
#[derive(Debug)]
pub struct PodmanNamespace {
    user: File,
    environment: Vec<(OsString, OsString)>,
}

impl AsFd for PodmanNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }
}

impl PodmanNamespace {
    /// Asks podman for it. The child holds it open until it is entered.
    pub fn find(podman: &Path) -> Result<Self> {
        let step = || format!("enter podman's user namespace with {} unshare", podman.display());
        let hint = |error: Error| error.hint("podman unshare id    (or belljar run --backend crun)");
        let mut command = Command::new(podman);
        // A process of podman's may stay, for its next call.
        sys::let_signals_in(&mut command);
        let mut child = command
            .args(["unshare", "sh", "-c", "echo $$; read -r line"])
            .env_clear()
            .envs(host_environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .step(step)
            .map_err(hint)?;
        let mut line = String::new();
        let said = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let found = match (said, line.trim().parse::<i32>()) {
            (Some(Ok(_)), Ok(pid)) => Self::of(Pid::from_raw(pid)).step(step),
            _ => Err(Error::failed(step())),
        };
        drop(child.stdin.take());
        let output = child.wait_with_output().step(step)?;
        found.map_err(|error| hint(with_lines(error, &output.stderr)))
    }

    /// The environment that podman's children have there.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        self.environment.clone()
    }

    fn of(process: Pid) -> std::io::Result<Self> {
        let user = File::open(format!("/proc/{process}/ns/user"))?;
        let environment = fs::read(format!("/proc/{process}/environ"))?
            .split(|byte| *byte == 0)
            .filter_map(|variable| {
                let (name, value) = variable.split_at(variable.iter().position(|byte| *byte == b'=')?);
                Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value[1..].to_vec())))
            })
            .collect();
        Ok(Self { user, environment })
    }
}

/// Namespaces of the launcher for podman: podman's user namespace where there
/// is one, and a mount and cgroup namespace of its own. No process namespace:
/// podman must know its containers by ids that hold outside.
pub fn enter(namespace: Option<&PodmanNamespace>) -> Result<()> {
    if let Some(namespace) = namespace {
        setns(&namespace.user, CloneFlags::CLONE_NEWUSER).step(|| "enter podman's user namespace".to_owned())?;
    }
    // What podman leaves behind, its conmon, stays below the launcher.
    nix::sys::prctl::set_child_subreaper(true).step(|| "adopt podman's processes".to_owned())?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
        .step(|| "make a mount and a cgroup namespace for podman".to_owned())
}
