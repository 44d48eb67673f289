//! `--egress open`: pasta gives the launcher's network namespace an interface
//! that reaches the world, and not the host's own loopback (passt(1)).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};

/// Name of the file in the run directory with pasta's process id.
const PID_FILE: &str = "pasta.pid";

/// The pasta of a run; ended when this value goes.
#[derive(Debug)]
pub struct Pasta {
    program: PathBuf,
    launcher: Pid,
    directory: PathBuf,
}

impl Pasta {
    /// For the namespaces of `launcher`; not started yet.
    pub fn new(program: PathBuf, launcher: Pid, directory: &Path) -> Self {
        Self { program, launcher, directory: directory.to_owned() }
    }

    /// Starts it; returns when the interface is up.
    pub fn start(&self) -> Result<()> {
        let Self { program, launcher, directory } = self;
        let file = directory.join(PID_FILE);
        let mut command = Command::new(program);
        if nix::unistd::geteuid().is_root() {
            // As nobody, its choice for root, it could not enter the namespaces.
            command.args(["--runas", "0:0"]);
        }
        let output = command
            .args(["--quiet", "--config-net", "--no-map-gw"])
            .args(["-T", "none", "-U", "none", "-t", "none", "-u", "none"])
            .arg("--pid")
            .arg(&file)
            .arg(launcher.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .step(|| format!("start {}", program.display()))?;
        if !output.status.success() {
            let mut error = Error::failed(format!("--egress open: {} gave the run no network", program.display()));
            for line in String::from_utf8_lossy(&output.stderr).lines().filter(|line| !line.contains("syslog")) {
                error = error.because(line);
            }
            return Err(error.hint("it needs /dev/net/tun: chmod 666 /dev/net/tun; or leave --egress open out"));
        }
        Ok(())
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        end(&self.directory);
    }
}

/// Ends the pasta of the run with this directory, if there is one. Its id could
/// be another process's by now: only a pasta is ended.
pub fn end(directory: &Path) {
    let pid = fs::read_to_string(directory.join(PID_FILE)).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let Some(pid) = pid.filter(|pid| *pid > 1) else {
        return;
    };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.starts_with("pasta") || name.starts_with("passt") {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
