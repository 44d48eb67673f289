//! Compares the kernel's own view of the created container with the plan,
//! before the agent's first instruction. Nothing that the container says counts.

mod mounts;
mod process;
mod stranger;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

pub use self::stranger::{Programs, stranger_as, stranger_as_pid_1};

use self::mounts::check_mounts;
use self::process::{
    Network, check_descriptors, check_interfaces, check_maps, check_namespaces, check_process, check_status,
};
use super::protocol::Report;
use crate::bundle::Place;
use crate::config::Backend;
use crate::error::{Context, Error, Result};
use crate::plan::{MountEntry, Plan};

/// What the launcher knows of the container from itself.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The run's id.
    pub run: &'a str,
    /// The init, in the launcher's process namespace.
    pub init: Pid,
    /// Inode of the init's end of the handshake, where the launcher made it.
    pub handshake_inode: Option<u64>,
    /// The agent's stdio, where it is the launcher's own.
    pub stdio: Option<&'a [OwnedFd; 3]>,
    /// The launcher's mounts before the runtime started: it could change them.
    pub staging: &'a [MountEntry],
    /// The staged init before the runtime started.
    pub init_file: Stamp,
}

/// Which file it is, and that it was not written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The file's stamp now; of a link in /proc, its target's.
    pub fn of(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).step(|| format!("verify: read {}", path.display()))?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), changed })
    }
}

/// Inode of an open file: sockets and pipes are told apart by it.
pub fn inode_of(file: impl AsFd) -> Result<u64> {
    rustix::fs::fstat(file).map(|stat| stat.st_ino).step(|| "identify a descriptor".to_owned())
}

/// The differences found so far.
struct Differences {
    found: Vec<String>,
    compared: usize,
}

impl Differences {
    fn compare(&mut self, what: &str, planned: impl AsRef<str>, kernel: impl AsRef<str>) {
        self.compared += 1;
        let (planned, kernel) = (planned.as_ref(), kernel.as_ref());
        if planned != kernel {
            self.found.push(format!("{what}: the plan has `{planned}`, the kernel `{kernel}`"));
        }
    }

    fn add(&mut self, difference: String) {
        self.found.push(difference);
    }

    /// The error that names each difference.
    fn none_or(self, plan: &Plan) -> Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        let runtime = plan.runtime.podman.as_ref().unwrap_or(&plan.runtime.path).display();
        let what = format!("verify: the container that {runtime} made is not the plan's; the agent did not run");
        let error = self.found.into_iter().fold(Error::failed(what), Error::because);
        Err(error.hint("check the runtime: belljar doctor; the plan: belljar explain"))
    }
}

/// Compares everything; the error names each difference.
pub fn verify(plan: &Plan, places: &[Option<Place>], facts: &Facts<'_>) -> Result<Report> {
    let process = PathBuf::from(format!("/proc/{}", facts.init));
    let mut differences = Differences { found: Vec::new(), compared: 0 };
    check_process(plan, facts, &process, &mut differences)?;
    check_status(plan, &process, &mut differences)?;
    check_namespaces(&process, Network::Entered, &mut differences)?;
    if below_podman(plan) && plan.egress.helper.is_none() {
        check_interfaces(&process, &mut differences)?;
    }
    check_descriptors(plan, facts, &process, &mut differences)?;
    let facts_compared = differences.compared;
    let mounts = check_mounts(plan, places, facts, &process, &mut differences)?;
    differences.none_or(plan)?;
    Ok(Report { mounts, facts: facts_compared, steps: Vec::new() })
}

/// Compares what is final in a container that is created and not started:
/// namespaces, id maps and mounts. `facts.init` is the runtime's process then.
pub fn verify_created(plan: &Plan, places: &[Option<Place>], facts: &Facts<'_>) -> Result<()> {
    let process = PathBuf::from(format!("/proc/{}", facts.init));
    let mut differences = Differences { found: Vec::new(), compared: 0 };
    check_namespaces(&process, Network::New, &mut differences)?;
    check_interfaces(&process, &mut differences)?;
    check_maps(plan, &process, &mut differences)?;
    check_mounts(plan, places, facts, &process, &mut differences)?;
    differences.none_or(plan)
}

fn read(path: &Path) -> Result<String> {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .step(|| format!("verify: read {}", path.display()))
}

fn link(path: &Path) -> Result<String> {
    fs::read_link(path)
        .map(|target| target.to_string_lossy().into_owned())
        .step(|| format!("verify: read the link {}", path.display()))
}

fn below_podman(plan: &Plan) -> bool {
    plan.runtime.backend == Backend::Podman
}
