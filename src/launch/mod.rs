//! Makes a plan true: launcher, staging, runtime, verify, supervision, and
//! teardown that never stops early.

mod cgroup;
mod idmap;
mod janitor;
mod launcher;
mod protocol;
mod refresh;
mod relay;
mod staging;
mod supervise;
mod terminal;
mod verify;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::config::{Caller, Dirs, create_private};
use crate::error::{Context, Error, Result};
use crate::plan::{FileOwnership, IdMap, Plan, Resolved};
use crate::runs::{Receipt, RunDirectory, Status};
use crate::sys;

pub use cgroup::remove as remove_cgroup;
pub use janitor::Janitor;
pub use protocol::Report;
pub use supervise::{Cause, Outcome};
pub use terminal::caller_has_terminal;

use launcher::Inheritance;
use protocol::{Channel, MOST_DESCRIPTORS, ToLauncher};

/// What `belljar run` asks for beyond the plan.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// `--name`.
    pub name: Option<String>,
    /// `--receipt`.
    pub receipt: Option<PathBuf>,
    /// Say the steps and their times on stderr.
    pub verbose: bool,
}

/// Runs the plan to its end; returns the exit code for the caller.
pub fn run(resolved: Resolved, caller: &Caller, dirs: &Dirs, options: &RunOptions) -> Result<u8> {
    let begun = Instant::now();
    prepare(&resolved, caller)?;
    let directory = RunDirectory::create(dirs, &resolved.plan, options.name.as_deref())?;
    let copy = match &options.receipt {
        Some(path) => Some((path, File::create(path).refuse(|| format!("--receipt {}", path.display()))?)),
        None => None,
    };
    let mut receipt = Receipt::begin(directory.id(), options.name.as_deref(), &resolved.plan);
    receipt.write(dirs)?;
    let cgroup = cgroup::Cgroup::create(&resolved.plan.limits, directory.id())?;
    let janitor = Janitor::start(dirs, directory.path(), cgroup.as_ref().map(cgroup::Cgroup::path))?;
    let result = contain(&resolved, directory.id(), cgroup.as_ref());
    match &result {
        Ok(outcome) => receipt.end(outcome),
        Err(error) => receipt.fail(error),
    }
    let mut problems = Vec::new();
    let mut try_step = |step: Result<()>| problems.extend(step.err());
    try_step(receipt.write(dirs));
    if let Some((path, mut file)) = copy {
        try_step(receipt.write_to(&mut file).step(|| format!("--receipt {}", path.display())));
    }
    try_step(cgroup.map_or(Ok(()), cgroup::Cgroup::remove));
    try_step(directory.remove());
    try_step(janitor.dismiss());
    if options.verbose {
        report(&receipt, begun);
    }
    let outcome = result?;
    for problem in problems {
        eprintln!("{problem}");
    }
    Ok(outcome.exit_code)
}

/// Says on stderr what happened, for `--verbose`.
fn report(receipt: &Receipt, begun: Instant) {
    if let Some(verify) = &receipt.verify {
        for (step, milliseconds) in &verify.steps {
            eprintln!("belljar: {step}: {milliseconds:.2} ms");
        }
        eprintln!("belljar: verified {} mounts and {} facts", verify.mounts, verify.facts);
    }
    eprintln!(
        "belljar: run {} {}, {:.2} ms in all",
        receipt.run,
        receipt.cause,
        begun.elapsed().as_secs_f64() * 1000.0
    );
}

/// Makes belljar's own directories of the group.
fn prepare(resolved: &Resolved, caller: &Caller) -> Result<()> {
    for directory in &resolved.needed {
        create_private(directory)?;
    }
    let _ = caller;
    Ok(())
}

/// Starts the launcher and supervises it.
fn contain(resolved: &Resolved, run: &str, cgroup: Option<&cgroup::Cgroup>) -> Result<Outcome> {
    let plan = &resolved.plan;
    let (ours, theirs) = Channel::pair()?;
    let stdio = if plan.terminal { None } else { Some(relay::Stdio::open()?) };
    let window = if plan.terminal { terminal::window_size() } else { None };
    let supervisor = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .step(|| "watch the supervisor".to_owned())?;
    let (agent_side, own_side) = match stdio {
        Some(stdio) => (Some(stdio.agent), Some(stdio.own)),
        None => (None, None),
    };
    let detached = match plan.identity.files {
        FileOwnership::Caller => Vec::new(),
        FileOwnership::Idmapped => idmap::detached_mounts(resolved)?,
    };
    let mut given = Some(Inheritance { plan, run, channel: theirs, supervisor, stdio: agent_side, window });
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    let join_cgroup = cgroup.is_some();
    // A cgroup namespace has the cgroup of its making as its root: with a cgroup
    // of the run's own it is made after the launcher has been moved there.
    let flags = if join_cgroup { flags - CloneFlags::CLONE_NEWCGROUP } else { flags };
    let pid = sys::clone_process(flags, || given.take().map_or(1, |given| launcher::main(given)))
        .step(|| "start the launcher in namespaces of its own".to_owned())
        .map_err(|error| error.hint("belljar doctor says whether user namespaces are allowed here"))?;
    drop(given);
    let launcher = Launcher { pid };
    if let Some(cgroup) = cgroup {
        cgroup.add(pid)?;
    }
    write_maps(pid, plan)?;
    ours.send(&ToLauncher::Begin, &[])?;
    for chunk in detached.chunks(MOST_DESCRIPTORS) {
        let places = chunk.iter().map(|(place, _)| *place).collect();
        let descriptors: Vec<_> = chunk.iter().map(|(_, tree)| tree.as_fd()).collect();
        ours.send(&ToLauncher::Mounts(places), &descriptors)?;
    }
    ours.send(&ToLauncher::MountsEnd, &[])?;
    drop(detached);
    let result = supervise::supervise(resolved, ours, own_side);
    drop(launcher);
    result
}

/// The launcher process: killed and reaped when this value goes.
struct Launcher {
    pid: Pid,
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It has ended by itself, or an error came before: either way nothing
        // of it may stay. With it, as PID 1, ends everything below it.
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Writes the id maps of the launcher's user namespace (user_namespaces(7)). An
/// ordinary user must give up setgroups first.
fn write_maps(pid: Pid, plan: &Plan) -> Result<()> {
    let lines = |maps: &[IdMap]| {
        maps.iter().map(|map| format!("{} {} {}\n", map.inside, map.outside, map.count)).collect::<String>()
    };
    let process = PathBuf::from(format!("/proc/{pid}"));
    let write = |name: &str, text: String| {
        let path = process.join(name);
        fs::write(&path, text)
            .step(|| format!("write {}", path.display()))
            .map_err(|error| error.hint("belljar doctor"))
    };
    if plan.identity.files == FileOwnership::Caller {
        write("setgroups", "deny".to_owned())?;
    }
    write("uid_map", lines(&plan.identity.launcher_uids))?;
    write("gid_map", lines(&plan.identity.launcher_gids))
}

/// A descriptor that reads as end of file and swallows what is written.
fn null() -> Result<OwnedFd> {
    File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from).step(|| "open /dev/null".to_owned())
}

impl Receipt {
    fn end(&mut self, outcome: &Outcome) {
        self.finish(Status::Ended, outcome.cause.describe(), Some(outcome.exit_code));
        self.verify = outcome.report.clone();
    }

    fn fail(&mut self, error: &Error) {
        self.finish(Status::Failed, error.what.clone(), Some(error.exit_code()));
        self.error = Some(error.clone());
    }
}
