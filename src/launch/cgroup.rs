//! A cgroup of the run's own, below a delegated one (cgroup-v2, "Delegation").

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::plan::{Limits, read_mountinfo};

/// Period of the CPU limit in microseconds (cgroup-v2, cpu.max; its default).
const PERIOD: f64 = 100_000.0;
/// How long the kernel may take to empty a cgroup whose processes were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);

/// The cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes it with the limits of the plan; `None` when the plan needs none.
    pub fn create(limits: &Limits, run: &str) -> Result<Option<Self>> {
        let Some(parent) = &limits.cgroup_parent else {
            return Ok(None);
        };
        let path = parent.join(format!("belljar-{run}"));
        fs::create_dir(&path).step(|| format!("make the cgroup {}", path.display()))?;
        let cgroup = Self { path };
        let mut settings = Vec::new();
        if let Some(memory) = limits.memory_bytes.as_ref().filter(|limit| limit.enforced) {
            settings.push(("memory.max", memory.value.to_string()));
            settings.push(("memory.oom.group", "1".to_owned()));
            if cgroup.path.join("memory.swap.max").exists() {
                settings.push(("memory.swap.max", "0".to_owned()));
            }
        }
        if let Some(cpus) = limits.cpus.as_ref().filter(|limit| limit.enforced) {
            settings.push(("cpu.max", format!("{:.0} {PERIOD:.0}", cpus.value * PERIOD)));
        }
        for (file, value) in settings {
            if let Err(error) = cgroup.write(file, &value) {
                return Err(match cgroup.remove() {
                    Ok(()) => error,
                    Err(teardown) => error.because(teardown.what),
                });
            }
        }
        Ok(Some(cgroup))
    }

    /// Moves a process into it, and with it all that it will start.
    pub fn add(&self, pid: Pid) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).step(|| format!("write {value} to {}", path.display()))
    }

    /// Kills what is left in it and removes it.
    pub fn remove(self) -> Result<()> {
        remove(&self.path)
    }
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
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let begun = Instant::now();
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if begun.elapsed() > EMPTY_WITHIN => {
                return Err(Error::failed(format!("remove the cgroup {}", path.display())).because(error));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}
