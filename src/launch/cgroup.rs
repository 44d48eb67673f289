//! A cgroup of the run's own (cgroup-v2, "Delegation"). Only what the agent's
//! limits are for is in it: not the launcher, which has to tell how it ended.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::leaf::Leaf;
use crate::error::{Context, Error, Result};
use crate::plan::{CgroupPlace, HIERARCHY, Limits, below, read_mountinfo};
use crate::systemd::Manager;

/// Period of the CPU limit in microseconds (cgroup-v2, cpu.max; its default).
const PERIOD: f64 = 100_000.0;
/// How long the kernel may take to empty a cgroup whose processes were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);
/// How long a service manager may take to forget a scope that has ended.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);

/// Name of the run's cgroup in a delegated one.
pub fn name(run: &str) -> String {
    format!("belljar-{run}")
}

/// What was made, to be undone.
#[derive(Debug, Default)]
pub struct Cgroup {
    /// The agent's own.
    agent: Option<PathBuf>,
    /// One for belljar's processes. It is never killed: the supervisor may be in it.
    aside: Option<PathBuf>,
    /// The cgroup that own processes were moved out of, and with which controllers.
    left: Option<(PathBuf, Vec<String>)>,
    /// The scope, which the manager removes when nothing is in it.
    scope: Option<PathBuf>,
}

impl Cgroup {
    /// Makes the run's cgroup with the limits of the plan, and the way into it.
    /// `own` are belljar's processes, the launcher last. What was made is kept in
    /// `self`, also when a later step fails.
    pub fn make(&mut self, limits: &Limits, run: &str, own: &[Pid]) -> Result<Option<Leaf>> {
        let (Some(place), Some(launcher)) = (&limits.cgroup, own.last()) else {
            return Ok(None);
        };
        let (parent, agent, aside) = match place {
            CgroupPlace::Below(parent) => {
                let launchers = crate::plan::own_cgroup(*launcher)?;
                (parent.clone(), parent.join(name(run)), below(Path::new(HIERARCHY), &launchers))
            }
            CgroupPlace::MoveDown(unit) => {
                let aside = unit.join(format!("{}-supervisor", name(run)));
                make_directory(&aside)?;
                self.aside = Some(aside.clone());
                self.left = Some((unit.clone(), limits.controllers.clone()));
                own.iter().try_for_each(|process| move_to(&aside, *process))?;
                (unit.clone(), unit.join(name(run)), aside)
            }
            CgroupPlace::Scope(manager) => {
                let scope = self.start_scope(manager, run, *launcher)?;
                let aside = scope.join("launcher");
                make_directory(&aside)?;
                self.aside = Some(aside.clone());
                move_to(&aside, *launcher)?;
                (scope.clone(), scope.join("agent"), aside)
            }
        };
        for controller in &limits.controllers {
            write(&parent.join("cgroup.subtree_control"), &format!("+{controller}"))
                .map_err(|error| error.hint(format!("ls {}, and see who is in it", parent.display())))?;
        }
        make_directory(&agent)?;
        self.agent = Some(agent.clone());
        for (file, value) in settings(limits, &agent) {
            write(&agent.join(file), &value)?;
        }
        let open = |path: &Path, writable: bool| {
            let file = File::options().read(!writable).write(writable).open(path);
            file.map(OwnedFd::from).step(|| format!("open {}", path.display()))
        };
        let (enter, leave) = (agent.join("cgroup.procs"), aside.join("cgroup.procs"));
        Ok(Some(Leaf { directory: open(&agent, false)?, enter: open(&enter, true)?, leave: open(&leave, true)? }))
    }

    fn start_scope(&mut self, manager: &Manager, run: &str, launcher: Pid) -> Result<PathBuf> {
        let scope = manager.start_scope(&format!("{}.scope", name(run)), launcher, &format!("belljar run {run}"))?;
        let scope = below(Path::new(HIERARCHY), &scope);
        self.scope = Some(scope.clone());
        Ok(scope)
    }

    /// Kills what is left and removes what was made.
    pub fn remove(mut self) -> Result<()> {
        let mut problems = Vec::new();
        problems.extend(self.agent.take().and_then(|agent| remove(&agent).err()));
        if let Some(aside) = self.aside.take() {
            if let Some((unit, controllers)) = self.left.take() {
                problems.extend(move_back(&aside, &unit, &controllers).err());
            }
            problems.extend(remove_when(&aside, || {}).err());
        }
        if let Some(scope) = &self.scope {
            let begun = Instant::now();
            while scope.exists() && begun.elapsed() < FORGOTTEN_WITHIN {
                thread::sleep(Duration::from_millis(2));
            }
        }
        problems.into_iter().next().map_or(Ok(()), Err)
    }
}

/// The settings, file by file, that the kernel has files for.
fn settings(limits: &Limits, agent: &Path) -> Vec<(&'static str, String)> {
    let has = |controller: &str| limits.controllers.iter().any(|its| its == controller);
    let mut settings = Vec::new();
    if let Some(memory) = limits.memory_bytes.as_ref().filter(|limit| limit.enforced) {
        settings.push(("memory.max", memory.value.to_string()));
        // All of the agent or nothing of it: half an agent is of no use.
        settings.push(("memory.oom.group", "1".to_owned()));
        settings.push(("memory.swap.max", "0".to_owned()));
    }
    if let Some(cpus) = limits.cpus.as_ref().filter(|limit| limit.enforced) {
        settings.push(("cpu.max", format!("{:.0} {PERIOD:.0}", cpus.value * PERIOD)));
    }
    if let Some(pids) = limits.pids.as_ref().filter(|_| has("pids")) {
        settings.push(("pids.max", pids.value.to_string()));
    }
    if let Some(rate) = limits.io_bytes_per_second.as_ref().filter(|limit| limit.enforced) {
        let line = |device: &String| ("io.max", format!("{device} rbps={0} wbps={0}", rate.value));
        settings.extend(limits.io_devices.iter().map(line));
    }
    // A kernel without swap has no limit for it.
    settings.retain(|(file, _)| *file != "memory.swap.max" || agent.join(file).exists());
    settings
}

fn make_directory(path: &Path) -> Result<()> {
    // Whatever the caller's umask is: the launcher, in a namespace of its own, is not root there.
    let make = || fs::create_dir(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)));
    make().step(|| format!("make the cgroup {}", path.display()))
}

/// Moves a process with all its threads.
fn move_to(cgroup: &Path, process: Pid) -> Result<()> {
    write(&cgroup.join("cgroup.procs"), &process.to_string())
}

/// Gives the unit its processes back, as it was found: without controllers for
/// those below it, because it has processes again.
fn move_back(aside: &Path, unit: &Path, controllers: &[String]) -> Result<()> {
    for controller in controllers {
        write(&unit.join("cgroup.subtree_control"), &format!("-{controller}"))?;
    }
    let list = aside.join("cgroup.procs");
    let processes = fs::read_to_string(&list).step(|| format!("read {}", list.display()))?;
    for process in processes.lines().filter_map(|line| line.parse().ok()) {
        move_to(unit, Pid::from_raw(process))?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).step(|| format!("write {value} to {}", path.display()))
}

/// Removes each cgroup of that name, with those below it, wherever the caller's
/// view of the hierarchy (cgroup-v2) has it.
pub fn remove_named(name: &str) -> Result<()> {
    let mounts = read_mountinfo(Path::new("/proc/self/mountinfo"))?;
    let Some(hierarchy) = mounts.iter().find(|mount| mount.fstype == "cgroup2") else {
        return Ok(());
    };
    let mut waiting = vec![(PathBuf::from(&hierarchy.target), false)];
    let mut found = Vec::new();
    while let Some((path, inside)) = waiting.pop() {
        let inside = inside || path.file_name().is_some_and(|its| its == name);
        let below = fs::read_dir(&path).into_iter().flatten().flatten();
        waiting.extend(below.filter(is_directory).map(|entry| (entry.path(), inside)));
        if inside {
            found.push(path);
        }
    }
    // Those below were found later.
    found.iter().rev().try_for_each(|path| remove(path))
}

fn is_directory(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Kills what is left in the cgroup and removes it.
pub fn remove(path: &Path) -> Result<()> {
    // Linux 5.14; before, the launcher's death has ended the tree already.
    remove_when(path, || drop(fs::write(path.join("cgroup.kill"), "1")))
}

/// Removes the cgroup as soon as nothing is in it; `hurry` is done meanwhile.
fn remove_when(path: &Path, hurry: impl Fn()) -> Result<()> {
    let begun = Instant::now();
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if begun.elapsed() > EMPTY_WITHIN => {
                return Err(Error::failed(format!("remove the cgroup {}", path.display())).because(error));
            }
            Err(_) => {
                hurry();
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}
