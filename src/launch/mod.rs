//! Makes a plan true: launcher, staging, runtime, verify, supervision, and
//! teardown that never stops early.

mod cgroup;
mod container;
mod covers;
mod disk;
mod handshake;
mod idmap;
mod janitor;
mod launcher;
mod leaf;
mod network;
mod outcome;
mod outgoing;
mod pasta;
mod podman;
mod protocol;
mod refresh;
mod relay;
mod replaced;
mod staging;
mod steps;
mod supervise;
mod tasks;
mod terminal;
mod verify;
mod writable;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::config::{Backend, Caller, Dirs, create_private, open_again};
use crate::error::{Context, Error, Result};
use crate::ipc;
use crate::journal::{Events, Priority};
use crate::namespaces::{self, Restriction, Step};
use crate::plan::{FileOwnership, IdMap, Plan, Resolved};
use crate::runs::{Receipt, RunDirectory, Status};
use crate::sys;

pub use cgroup::{name as cgroup_name, remove as remove_cgroup};
pub use janitor::Janitor;
pub use leaf::{Reached, Usage};
pub use outcome::{Cause, Outcome};
pub use pasta::end as end_pasta;
pub use podman::remove as remove_container;
pub use protocol::Report;
pub use terminal::caller_has_terminal;

use cgroup::Cgroup;
use disk::Guard;
use idmap::Detached;
use launcher::Inheritance;
use leaf::Leaf;
use outgoing::Outgoing;
use pasta::Pasta;
use podman::PodmanNamespace;
use protocol::{Channel, MOST_DESCRIPTORS, ToLauncher};
use steps::Steps;
use supervise::Around;

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
pub fn run(mut resolved: Resolved, caller: &Caller, dirs: &Dirs, options: &RunOptions) -> Result<u8> {
    let begun = Instant::now();
    let runtime = &resolved.plan.runtime;
    if let Some(unseen) = runtime.kind.runtime().unseen() {
        return Err(Error::refused(format!(
            "belljar run does not run what it cannot verify: {}",
            runtime.path.display()
        ))
        .because(unseen)
        .hint("belljar bundle --output DIR, and run that with it; or leave --runtime out"));
    }
    namespaces::check(&resolved.plan)?;
    let mut steps = Steps::begin();
    let copy = match &options.receipt {
        Some(path) => Some((path, File::create(path).refuse(|| format!("--receipt {}", path.display()))?)),
        None => None,
    };
    let (outgoing, janitor, directory) =
        prepare(&mut resolved, caller, dirs, options, &mut steps).map_err(namespaces::suspect_filter)?;
    let mut receipt = Receipt::begin(directory.id(), options.name.as_deref(), &resolved.plan);
    let events = Events::new(resolved.log, Some(directory.id()), Some(&resolved.plan.group));
    // A signal waits until somebody listens: it would end the supervisor alone, and what began would have no end.
    supervise::signals().thread_block().step(|| "hold signals back".to_owned())?;
    tell_begin(&events, &resolved.plan, options);
    if outgoing.is_some() {
        offer_tools(&events, dirs, &resolved.plan.group);
    }
    steps.end("own directories");
    let mut made = Made { directory, cgroup: Cgroup::default(), launcher: None, pasta: None, podman: None, janitor };
    let result = made.carry_out(&resolved, outgoing, dirs, &receipt, &mut steps).map_err(|error| {
        made.launcher = None;
        namespaces::explain(blame_pids(error, &resolved.plan), resolved.plan.runtime.backend)
    });
    match &result {
        Ok(outcome) => {
            receipt.end(outcome);
            tell_end(&events, &receipt, outcome);
        }
        Err(error) => {
            receipt.fail(error);
            events.tell_error("failed", error);
        }
    }
    steps.end("run");
    let mut problems = Vec::new();
    problems.extend(receipt.write(dirs).err());
    if let Some((path, mut file)) = copy {
        problems.extend(receipt.write_to(&mut file).step(|| format!("--receipt {}", path.display())).err());
    }
    problems.extend(made.tear_down());
    steps.end("teardown");
    if options.verbose {
        report(&receipt, begun, &steps.into_list());
    }
    let outcome = result?;
    for problem in problems {
        eprintln!("{problem}");
    }
    Ok(outcome.exit_code)
}

/// What a run needs of the host, before anything of its container is made.
fn prepare(
    resolved: &mut Resolved,
    caller: &Caller,
    dirs: &Dirs,
    options: &RunOptions,
    steps: &mut Steps,
) -> Result<(Option<Outgoing>, Janitor, RunDirectory)> {
    let outgoing = Outgoing::prepare(resolved, caller, dirs)?;
    steps.end("authorities");
    for directory in &resolved.needed {
        open_again(directory)?;
        create_private(directory)?;
    }
    // First, because it cleans up also after a supervisor that is killed while
    // it makes the run directory.
    let janitor = Janitor::start(dirs)?;
    let directory = RunDirectory::create(dirs, &resolved.plan, options.name.as_deref())?;
    Ok((outgoing, janitor, directory))
}

/// Where few processes are allowed, a container may not be made of them.
fn blame_pids(error: Error, plan: &Plan) -> Error {
    const SUITS: u64 = 64;
    let few = plan.limits.pids.as_ref().filter(|pids| pids.value < SUITS);
    match few {
        Some(pids) if error.causes.iter().any(|cause| cause.contains("Resource temporarily unavailable")) => error
            .because(format!("--pids {}: the container's own first processes count too", pids.value))
            .hint(format!("--pids {SUITS} or more suits most agents")),
        _ => error,
    }
}

/// The command's arguments are in the receipt: they may be a whole prompt.
fn tell_begin(events: &Events, plan: &Plan, options: &RunOptions) {
    let program = plan.command.first().map_or("", String::as_str);
    let name = options.name.as_deref().map_or(String::new(), |name| format!(" {name}"));
    let mut more =
        vec![("PROGRAM", program.into()), ("BACKEND", format!("{:?}", plan.runtime.backend).to_lowercase().into())];
    more.extend(options.name.as_deref().map(|name| ("NAME", name.into())));
    events.tell("started", Priority::Info, &format!("run{name} of group {} began: {program}", plan.group), &more);
}

/// The tools are the agent's convenience: what it has done to its own files, by which
/// it would find them, stops no run.
fn offer_tools(events: &Events, dirs: &Dirs, group: &str) {
    if let Err(error) = ipc::offer_mcp(dirs, group) {
        let more: Vec<_> = error.hint.as_deref().map(|hint| ("HINT", hint.into())).into_iter().collect();
        let message = format!("the agent will not find belljar's tools by itself: {}", error.with_causes());
        events.tell("notice", Priority::Notice, &message, &more);
    }
}

fn tell_end(events: &Events, receipt: &Receipt, outcome: &Outcome) {
    let priority = if outcome.exit_code == 0 { Priority::Info } else { Priority::Notice };
    let mut more = vec![("EXIT_CODE", outcome.exit_code.to_string().into()), ("CAUSE", receipt.cause.as_str().into())];
    if !receipt.limits_reached.is_empty() {
        more.push(("LIMITS_REACHED", receipt.limits_reached.join(" ").into()));
    }
    let message = format!("run of group {} ended: {}", receipt.group, receipt.cause);
    events.tell("ended", priority, &message, &more);
}

/// What a run has made, in the order of making.
struct Made {
    directory: RunDirectory,
    cgroup: Cgroup,
    launcher: Option<Launcher>,
    pasta: Option<Pasta>,
    /// podman, where it has made, or may have made, the container.
    podman: Option<PathBuf>,
    janitor: Janitor,
}

impl Made {
    /// Starts the launcher, and supervises it to the end. The receipt is
    /// written while the launcher is at work.
    fn carry_out(
        &mut self,
        resolved: &Resolved,
        mut outgoing: Option<Outgoing>,
        dirs: &Dirs,
        receipt: &Receipt,
        steps: &mut Steps,
    ) -> Result<Outcome> {
        let guard = Guard::begin(&resolved.plan)?;
        let stdio = if resolved.plan.terminal { None } else { Some(relay::Stdio::open()?) };
        let (agent_side, own_side) = stdio.map(|stdio| (stdio.agent, stdio.own)).unzip();
        self.podman.clone_from(&resolved.plan.runtime.podman);
        let (launcher, channel, detached) = Launcher::start(resolved, self.directory.id(), agent_side)?;
        let pid = launcher.pid;
        self.launcher = Some(launcher);
        let own = [Pid::this(), self.janitor.pid(), pid];
        let leaf = self.cgroup.make(&resolved.plan.limits, self.directory.id(), &own)?;
        begin(&channel, leaf.as_ref(), &detached)?;
        drop((leaf, detached));
        let helper = resolved.plan.egress.helper.clone();
        self.pasta = helper.map(|program| Pasta::new(program, pid, self.directory.path()));
        steps.end("launcher");
        self.directory.sync()?;
        receipt.write(dirs)?;
        steps.end("receipt");
        if let Some(outgoing) = &mut outgoing {
            outgoing.unlock()?;
        }
        let around = Around { launcher: pid, run: self.directory.id(), outgoing, pasta: self.pasta.as_ref(), guard };
        supervise::supervise(resolved, channel, own_side, around)
    }

    /// Undoes what was made, all of it, whatever fails on the way.
    fn tear_down(self) -> Vec<Error> {
        drop(self.pasta);
        drop(self.launcher);
        let container = self.podman.map_or(Ok(()), |podman| remove_container(&podman, self.directory.id()));
        let cgroup = self.cgroup.remove();
        let directory = self.directory.remove();
        let janitor = self.janitor.dismiss();
        [container, cgroup, directory, janitor].into_iter().filter_map(Result::err).collect()
    }
}

/// Says on stderr what happened, for `--verbose`.
fn report(receipt: &Receipt, begun: Instant, steps: &[(String, f64)]) {
    for (step, milliseconds) in steps {
        eprintln!("belljar: supervisor: {step}: {milliseconds:.2} ms");
    }
    if let Some(verify) = &receipt.verify {
        for (step, milliseconds) in &verify.steps {
            eprintln!("belljar: launcher: {step}: {milliseconds:.2} ms");
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

/// The launcher process: killed and reaped when this value goes.
struct Launcher {
    pid: Pid,
}

impl Launcher {
    /// Starts it in namespaces of its own, with id maps, and with the detached
    /// mounts that only the supervisor can make. It waits for the word to begin.
    fn start(resolved: &Resolved, run: &str, stdio: Option<[OwnedFd; 3]>) -> Result<(Self, Channel, Detached)> {
        let plan = &resolved.plan;
        // Before the launcher is there: both would contend for the kernel's lock
        // on mounts, which costs more than it saves.
        let detached = match plan.identity.files {
            FileOwnership::Caller => Vec::new(),
            FileOwnership::Idmapped => idmap::detached_mounts(resolved)?,
        };
        let (ours, theirs) = Channel::pair()?;
        let window = if plan.terminal { terminal::window_size() } else { None };
        let supervisor = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
            .step(|| "watch the supervisor".to_owned())?;
        let podman = match &plan.runtime.podman {
            Some(podman) if plan.identity.files == FileOwnership::Caller => Some(PodmanNamespace::find(podman)?),
            _ => None,
        };
        let mut given = Some(Inheritance { plan, run, channel: theirs, supervisor, stdio, window, podman });
        // Below podman the launcher makes its own after it has entered podman's.
        let below_podman = plan.runtime.backend == Backend::Podman;
        let flags = if below_podman { CloneFlags::empty() } else { namespaces::LAUNCHER };
        let pid = match sys::clone_process(flags, || given.take().map_or(1, |given| launcher::main(given))) {
            Ok(pid) => pid,
            Err(errno) if below_podman => return Err(errno).step(|| "start the launcher".to_owned()),
            Err(errno) => return Err(Restriction::of(Step::Namespaces, errno).refusal()),
        };
        let launcher = Self { pid };
        drop(given);
        if !below_podman {
            write_maps(pid, plan)?;
        }
        Ok((launcher, ours, detached))
    }
}

/// Gives the launcher the word to begin, and what it needs for it.
fn begin(channel: &Channel, leaf: Option<&Leaf>, detached: &[(usize, OwnedFd)]) -> Result<()> {
    let descriptors = leaf.map(Leaf::descriptors);
    channel.send(&ToLauncher::Begin, descriptors.as_ref().map_or(&[], |all| all.as_slice()))?;
    for chunk in detached.chunks(MOST_DESCRIPTORS) {
        let places = chunk.iter().map(|(place, _)| *place).collect();
        let descriptors: Vec<_> = chunk.iter().map(|(_, tree)| tree.as_fd()).collect();
        channel.send(&ToLauncher::Mounts(places), &descriptors)?;
    }
    channel.send(&ToLauncher::MountsEnd, &[])
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
/// ordinary user must give up setgroups first, and leaves maps of subordinate
/// ids to newuidmap and newgidmap.
fn write_maps(pid: Pid, plan: &Plan) -> Result<()> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let identity = &plan.identity;
    // With a subordinate gid newgidmap lets them drop groups, as runc does.
    if identity.files == FileOwnership::Caller && identity.launcher_gids.len() == 1 {
        write_to(&process.join("setgroups"), "deny")?;
    }
    for (name, program, maps) in
        [("uid_map", "newuidmap", &identity.launcher_uids), ("gid_map", "newgidmap", &identity.launcher_gids)]
    {
        let line = |map: &IdMap| [map.inside, map.outside, map.count].map(|id| id.to_string());
        if identity.files == FileOwnership::Caller && maps.len() > 1 {
            let step = || format!("map subordinate ids with {program}");
            let output = Command::new(program)
                .arg(pid.to_string())
                .args(maps.iter().flat_map(line))
                .stdin(Stdio::null())
                .output()
                .step(step)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::failed(step()).because(said).hint("belljar doctor"));
            }
        } else {
            write_to(&process.join(name), &maps.iter().map(|map| line(map).join(" ") + "\n").collect::<String>())?;
        }
    }
    Ok(())
}

fn write_to(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).step(|| format!("write {}", path.display())).map_err(|error| error.hint("belljar doctor"))
}

/// A descriptor that reads as end of file and swallows what is written.
fn null() -> Result<OwnedFd> {
    File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from).step(|| "open /dev/null".to_owned())
}

impl Receipt {
    fn end(&mut self, outcome: &Outcome) {
        self.finish(Status::Ended, outcome.cause.describe(), Some(outcome.exit_code));
        self.limits_reached = outcome.reached.clone();
        self.usage = outcome.usage;
        self.verify = outcome.report.clone();
        self.requests = outcome.requests.clone();
    }

    fn fail(&mut self, error: &Error) {
        self.finish(Status::Failed, error.what.clone(), Some(error.exit_code()));
        self.error = Some(error.clone());
    }
}
