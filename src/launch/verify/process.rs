//! The process that is the container's PID 1: program, ids, namespaces, descriptors.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process;

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;

use super::{Differences, Facts, Stamp, below_podman, link, read};
use crate::backend::podman;
use crate::bundle::init_arguments;
use crate::error::{Context, Result};
use crate::plan::{AGENT_ID, Plan, open_files, process_limit};
use crate::sys;

/// The program, its arguments, environment and directory.
pub(super) fn check_process(
    plan: &Plan,
    facts: &Facts<'_>,
    process: &Path,
    differences: &mut Differences,
) -> Result<()> {
    let exe = process.join("exe");
    differences.compared += 1;
    if Stamp::of(&exe)? != facts.init_file {
        differences.add(format!("program of PID 1: the plan has belljar's init, the kernel {}", link(&exe)?));
    }
    let joined = |parts: &[String]| parts.iter().map(|part| format!("{part}\0")).collect::<String>();
    differences.compare(
        "arguments of PID 1",
        joined(&init_arguments(plan, handshake(plan))),
        read(&process.join("cmdline"))?,
    );
    let environment: Vec<String> =
        plan.environment.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect();
    let its = read(&process.join("environ"))?;
    // By name only: a value may be a secret, and the difference is printed.
    let names = |one: &[&str], other: &[&str]| {
        let missing = one.iter().filter(|variable| !other.contains(variable));
        missing.map(|variable| variable.split('=').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
    };
    let mut planned: Vec<&str> = environment.iter().map(String::as_str).collect();
    let mut its: Vec<&str> = its.split_terminator('\0').collect();
    if below_podman(plan) {
        // The init gets the agent's environment from belljar itself; what podman
        // gave the init does not reach the agent.
        planned.clear();
        its.retain(|variable| !PODMANS_OWN.contains(&variable.split('=').next().unwrap_or_default()));
    }
    differences.compare("environment, other than in the plan", "", names(&its, &planned));
    differences.compare("environment, missing or other in the kernel", "", names(&planned, &its));
    differences.compare("personality", "00000000", read(&process.join("personality"))?.trim());
    // Nobody sets the domain: it is the host's.
    let names = rustix::system::uname();
    let planned = format!("{} {}", plan.hostname, names.domainname().to_string_lossy());
    differences.compare("host name and domain", planned, names_in(&process.join("ns/uts"))?);
    differences.compare("working directory", &plan.workdir, link(&process.join("cwd"))?);
    let mut cgroup = read(&process.join("cgroup"))?;
    if below_podman(plan) && podman::has_cgroup(plan) {
        cgroup = without_own(&cgroup, facts.run);
    }
    let mut own = read(Path::new("/proc/self/cgroup"))?;
    if plan.limits.cgroup.is_some() {
        // That of version 2 is the run's own, and looked up in there.
        [&mut own, &mut cgroup].into_iter().for_each(|lines| *lines = without_version_2(lines));
    }
    differences.compare("cgroup", own, cgroup);
    let limits = read(&process.join("limits"))?;
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    differences.compare("core dump limit", "0 0", limit("Max core file size"));
    let files = open_files();
    differences.compare("open files limit", format!("{} {}", files.soft, files.hard), limit("Max open files"));
    // Below podman the init sets it after the word to go on.
    if let Some(value) = process_limit(&plan.limits).filter(|_| !below_podman(plan)) {
        differences.compare("process limit", format!("{value} {value}"), limit("Max processes"));
    }
    Ok(())
}

/// Host and domain name in a UTS namespace. Only a process in it sees them, and
/// the launcher could not come back.
fn names_in(namespace: &Path) -> Result<String> {
    let step = || format!("verify: read the names of {}", namespace.display());
    let namespace = File::open(namespace).step(step)?;
    let (reader, writer) = nix::unistd::pipe().step(step)?;
    match sys::fork().step(step)? {
        ForkResult::Child => {
            let told = setns(&namespace, CloneFlags::CLONE_NEWUTS).is_ok_and(|()| {
                let names = rustix::system::uname();
                let names = [names.nodename().to_bytes(), b" ", names.domainname().to_bytes()].concat();
                File::from(writer).write_all(&names).is_ok()
            });
            process::exit(i32::from(!told))
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut names = Vec::new();
            File::from(reader).read_to_end(&mut names).step(step)?;
            waitpid(child, None).step(step)?;
            Ok(String::from_utf8_lossy(&names).into_owned())
        }
    }
}

/// The cgroups of a process with what podman made below the launcher's taken off
/// (cgroups(7), /proc/PID/cgroup: the line of version 2 begins with `0::`).
fn without_own(cgroups: &str, run: &str) -> String {
    let name = format!("/{}/libpod-", podman::cgroup_name(run));
    let above = |line: &str| {
        let (above, id) = line.rsplit_once(&name)?;
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (line.starts_with("0::") && is_id).then(|| if above == "0::" { "0::/".to_owned() } else { above.to_owned() })
    };
    cgroups.lines().map(|line| above(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn without_version_2(cgroups: &str) -> String {
    cgroups.lines().filter(|line| !line.starts_with("0::")).map(|line| format!("{line}\n")).collect()
}

/// Ids, capabilities, no_new_privs, seccomp, and the id maps.
pub(super) fn check_status(plan: &Plan, process: &Path, differences: &mut Differences) -> Result<()> {
    let text = read(&process.join("status"))?;
    let status: BTreeMap<&str, Vec<&str>> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.split_whitespace().collect()))
        .collect();
    let field = |name: &str| status.get(name).map(|values| values.join(" ")).unwrap_or_default();
    let id = plan.identity.in_launcher;
    for name in ["Uid", "Gid"] {
        differences.compare(name, format!("{id} {id} {id} {id}"), field(name));
    }
    // Those of the caller, which an ordinary user cannot drop (user_namespaces(7),
    // setgroups), and no other.
    let own = read(Path::new("/proc/self/status"))?;
    let own = own.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let others: Vec<&str> = status.get("Groups").into_iter().flatten().copied().collect();
    let others =
        others.into_iter().filter(|group| *group != id.to_string() && !own.split_whitespace().any(|its| its == *group));
    differences.compare("other groups", "", others.collect::<Vec<_>>().join(" "));
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        differences.compare(&format!("capability set {name}"), "0000000000000000", field(name));
    }
    differences.compare("umask", "0022", field("Umask"));
    differences.compare("no_new_privs", "1", field("NoNewPrivs"));
    differences.compare("seccomp mode", "2", field("Seccomp"));
    differences.compare(
        "pid in the container",
        "1",
        status.get("NSpid").and_then(|pids| pids.last()).copied().unwrap_or_default(),
    );
    check_maps(plan, process, differences)
}

pub(super) fn check_maps(plan: &Plan, process: &Path, differences: &mut Differences) -> Result<()> {
    for name in ["uid_map", "gid_map"] {
        let planned: Vec<String> = match plan.identity.container.as_slice() {
            [] => kept_id(&read(&Path::new("/proc/self").join(name))?),
            maps => maps.iter().map(|map| format!("{} {} {}", map.inside, map.outside, map.count)).collect(),
        };
        let kernel = read(&process.join(name))?;
        let kernel: Vec<String> = kernel.lines().map(words).collect();
        differences.compare(name, planned.join(", "), kernel.join(", "));
    }
    Ok(())
}

/// The map that podman's `keep-id:uid=1000` makes in a namespace with the map
/// `own`: 1000 is its 0, the caller; the others follow each other.
fn kept_id(own: &str) -> Vec<String> {
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok());
    let ids: u32 = own.lines().filter_map(count).sum();
    let next = AGENT_ID + 1;
    vec![format!("0 1 {AGENT_ID}"), format!("{AGENT_ID} 0 1"), format!("{next} {next} {}", ids.saturating_sub(next))]
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Variables that podman gives to PID 1, whatever it is told.
const PODMANS_OWN: [&str; 5] = ["HOSTNAME", "HOME", "PATH", "TERM", "container"];

/// The init's first argument.
fn handshake(plan: &Plan) -> &'static str {
    if below_podman(plan) { podman::HANDSHAKE } else { "3" }
}

/// Which network namespace the container must be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// The launcher's, which is sealed.
    Entered,
    /// A new one, which the launcher will enter.
    New,
}

/// Each namespace new, but the network where the launcher is in it already.
pub(super) fn check_namespaces(process: &Path, network: Network, differences: &mut Differences) -> Result<()> {
    for name in ["user", "pid", "mnt", "ipc", "uts", "cgroup", "net"] {
        let own = link(&Path::new("/proc/self/ns").join(name))?;
        let its = link(&process.join("ns").join(name))?;
        differences.compared += 1;
        match (name == "net" && network == Network::Entered, own == its) {
            (true, false) => {
                differences.add(format!("network namespace: the plan has the sealed one {own}, the kernel {its}"))
            }
            (false, true) if name == "net" => {
                differences.add(format!("network namespace: the plan has a new one, the kernel the host's {its}"))
            }
            (false, true) => {
                differences.add(format!("{name} namespace: the plan has a new one, the kernel the launcher's {its}"))
            }
            _ => {}
        }
    }
    // Some kernels have none.
    if let Ok(own) = fs::read_link("/proc/self/ns/time") {
        differences.compare("time namespace", own.to_string_lossy(), link(&process.join("ns/time"))?);
    }
    Ok(())
}

/// A sealed network has a loopback and nothing else (proc_net(5), dev).
pub(super) fn check_interfaces(process: &Path, differences: &mut Differences) -> Result<()> {
    let table = read(&process.join("net/dev"))?;
    let names = table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    differences.compare("network interfaces", "lo", names.collect::<Vec<_>>().join(" "));
    Ok(())
}

/// Descriptors 0, 1 and 2, the handshake on 3, and nothing else.
pub(super) fn check_descriptors(
    plan: &Plan,
    facts: &Facts<'_>,
    process: &Path,
    differences: &mut Differences,
) -> Result<()> {
    let directory = process.join("fd");
    let mut open = BTreeMap::new();
    for entry in fs::read_dir(&directory).step(|| format!("verify: read {}", directory.display()))? {
        let entry = entry.step(|| format!("verify: read {}", directory.display()))?;
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(-1);
        open.insert(number, entry.path());
    }
    for (number, path) in &open {
        let its = fs::metadata(path).step(|| format!("verify: read {}", path.display()))?;
        differences.compared += 1;
        let planned = match (number, facts.stdio) {
            (0..=2, Some(stdio)) => {
                let own = rustix::fs::fstat(&stdio[*number as usize]).step(|| "verify: identify stdio".to_owned())?;
                (own.st_dev, own.st_ino) == (its.dev(), its.ino())
            }
            (0..=2, None) if plan.terminal => (136..=143).contains(&nix::sys::stat::major(its.rdev())),
            // conmon's pipes: whatever else it were, it could be the host's.
            (0..=2, None) => below_podman(plan) && its.file_type().is_fifo(),
            (3, _) => facts.handshake_inode.map_or(its.file_type().is_socket(), |inode| its.ino() == inode),
            _ => false,
        };
        if !planned {
            differences.add(format!(
                "descriptor {number}: the plan has {}, the kernel {}",
                if *number <= 3 { "another" } else { "none" },
                link(path)?
            ));
        }
    }
    for number in 0..=3 {
        if !open.contains_key(&number) {
            differences.add(format!("descriptor {number}: the plan has it, the kernel not"));
        }
    }
    Ok(())
}
