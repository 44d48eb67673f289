//! Compares the kernel's own view of the created container with the plan,
//! before the agent's first instruction. Nothing that the container says counts.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::protocol::Report;
use super::staging::staged;
use crate::backend::podman;
use crate::bundle::{Place, init_arguments};
use crate::config::Backend;
use crate::error::{Context, Error, Result};
use crate::plan::{AGENT_ID, Mount, MountEntry, MountKind, Plan, process_limit, read_mountinfo};

/// What the launcher knows of the container from itself.
#[derive(Debug)]
pub struct Facts<'a> {
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

/// The program, its arguments, environment and directory.
fn check_process(plan: &Plan, facts: &Facts<'_>, process: &Path, differences: &mut Differences) -> Result<()> {
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
    differences.compare("working directory", &plan.workdir, link(&process.join("cwd"))?);
    let own = read(Path::new("/proc/self/cgroup"))?;
    differences.compare("cgroup", own, read(&process.join("cgroup"))?);
    let limits = read(&process.join("limits"))?;
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    differences.compare("core dump limit", "0 0", limit("Max core file size"));
    // Below podman the init sets it after the word to go on.
    if let Some(value) = process_limit(&plan.limits).filter(|_| !below_podman(plan)) {
        differences.compare("process limit", format!("{value} {value}"), limit("Max processes"));
    }
    Ok(())
}

/// Ids, capabilities, no_new_privs, seccomp, and the id maps.
fn check_status(plan: &Plan, process: &Path, differences: &mut Differences) -> Result<()> {
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
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        differences.compare(&format!("capability set {name}"), "0000000000000000", field(name));
    }
    differences.compare("no_new_privs", "1", field("NoNewPrivs"));
    differences.compare("seccomp mode", "2", field("Seccomp"));
    differences.compare(
        "pid in the container",
        "1",
        status.get("NSpid").and_then(|pids| pids.last()).copied().unwrap_or_default(),
    );
    check_maps(plan, process, differences)
}

fn check_maps(plan: &Plan, process: &Path, differences: &mut Differences) -> Result<()> {
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

fn below_podman(plan: &Plan) -> bool {
    plan.runtime.backend == Backend::Podman
}

/// Variables that podman gives to PID 1, whatever it is told.
const PODMANS_OWN: [&str; 5] = ["HOSTNAME", "HOME", "PATH", "TERM", "container"];

/// The init's first argument.
fn handshake(plan: &Plan) -> &'static str {
    if below_podman(plan) { podman::HANDSHAKE } else { "3" }
}

/// Which network namespace the container must be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// The launcher's, which is sealed.
    Entered,
    /// A new one, which the launcher will enter.
    New,
}

/// Each namespace new, but the network where the launcher is in it already.
fn check_namespaces(process: &Path, network: Network, differences: &mut Differences) -> Result<()> {
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
    Ok(())
}

/// A sealed network has a loopback and nothing else (proc_net(5), dev).
fn check_interfaces(process: &Path, differences: &mut Differences) -> Result<()> {
    let table = read(&process.join("net/dev"))?;
    let names = table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    differences.compare("network interfaces", "lo", names.collect::<Vec<_>>().join(" "));
    Ok(())
}

/// Descriptors 0, 1 and 2, the handshake on 3, and nothing else.
fn check_descriptors(plan: &Plan, facts: &Facts<'_>, process: &Path, differences: &mut Differences) -> Result<()> {
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

/// What one mount must be.
#[derive(Debug)]
struct Expected {
    device: Option<String>,
    root: Option<String>,
    fstype: Option<String>,
    flags: Vec<String>,
    options: Vec<String>,
}

const FLAGS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// The mount table of the container against the plan and the staging area.
fn check_mounts(
    plan: &Plan,
    places: &[Option<Place>],
    facts: &Facts<'_>,
    process: &Path,
    differences: &mut Differences,
) -> Result<usize> {
    let own = facts.staging;
    let kernel = read_mountinfo(&process.join("mountinfo"))?;
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    let mut root = source_of(own, &staged("bundle/rootfs"))?;
    // A writable one keeps the restrictions of the memory that it lies in.
    if plan.root.writable.is_none() {
        root.flags = vec!["ro".to_owned()];
    }
    expected.insert("/".to_owned(), root);
    for (index, mount) in plan.mounts.iter().enumerate() {
        expect(own, mount, places.get(index).and_then(Option::as_ref), &mut expected)?;
    }
    let null = source_of(own, Path::new("/dev/null"))?;
    for path in &plan.masked_paths {
        // The runtime covers a file with /dev/null, a directory with an empty one.
        let device = Path::new(path).is_file().then(|| null.device.clone()).flatten();
        let flags: &[&str] = if device.is_some() { &["ro", "nosuid", "noexec"] } else { &FLAGS };
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        expected.insert(path.clone(), Expected { device, root: None, fstype: None, flags, options: Vec::new() });
    }
    for path in &plan.readonly_paths {
        let below = path.strip_prefix("/proc").map(str::to_owned);
        let flags = FLAGS.map(str::to_owned).to_vec();
        let fstype = Some("proc".to_owned());
        expected.insert(path.clone(), Expected { device: None, root: below, fstype, flags, options: Vec::new() });
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &kernel {
        *seen.entry(&entry.target).or_default() += 1;
        match expected.get(&entry.target) {
            None if below_podman(plan) && hides_more(entry, &null) => {}
            None => differences.add(format!(
                "mount {}: the plan has none, the kernel {} {} ({})",
                entry.target,
                entry.fstype,
                entry.root,
                entry.options.join(",")
            )),
            Some(planned) => compare_mount(entry, planned, differences),
        }
    }
    for target in expected.keys() {
        match seen.get(target.as_str()) {
            None => differences.add(format!("mount {target}: the plan has it, the kernel not")),
            Some(1) => {}
            Some(times) => {
                differences.add(format!("mount {target}: the plan has one, the kernel {times} on top of each other"))
            }
        }
    }
    check_order(&kernel, differences);
    let root_link = link(&process.join("root"))?;
    differences.compare("root directory", "/", root_link);
    Ok(kernel.len())
}

/// Whether the mount only covers something of /proc or /sys: later versions of
/// podman mask more than the plan does.
fn hides_more(entry: &MountEntry, null: &Expected) -> bool {
    let below = ["/proc/", "/sys/"].iter().any(|system| entry.target.starts_with(system));
    let is_null = null.device.as_ref() == Some(&entry.device) && null.root.as_ref() == Some(&entry.root);
    below && (is_null || (entry.fstype == "tmpfs" && entry.root == "/" && entry.has("ro")))
}

/// Each mount lies on the nearest one above it; one that was made earlier than
/// that is covered by it.
fn check_order(kernel: &[MountEntry], differences: &mut Differences) {
    for entry in kernel.iter().filter(|entry| entry.target != "/") {
        let above = kernel
            .iter()
            .filter(|other| other.target != entry.target && Path::new(&entry.target).starts_with(&other.target))
            .max_by_key(|other| other.target.len());
        let on = kernel.iter().find(|other| other.id == entry.parent);
        let name = |mount: Option<&MountEntry>| mount.map_or("nothing", |mount| mount.target.as_str()).to_owned();
        if name(above) != name(on) {
            differences.add(format!(
                "mount {}: the plan has it on {}, the kernel on {}: the order of mounts is another",
                entry.target,
                name(above),
                name(on)
            ));
        }
    }
}

fn compare_mount(entry: &MountEntry, planned: &Expected, differences: &mut Differences) {
    let target = &entry.target;
    let mut wrong = |what: &str, planned: &str, kernel: &str| {
        differences.add(format!("mount {target}: {what}: the plan has `{planned}`, the kernel `{kernel}`"));
    };
    if let Some(device) = planned.device.as_ref().filter(|device| **device != entry.device) {
        wrong("file system", device, &entry.device);
    }
    if let Some(root) = planned.root.as_ref().filter(|root| **root != entry.root) {
        wrong("source", root, &entry.root);
    }
    if let Some(fstype) = planned.fstype.as_ref().filter(|fstype| **fstype != entry.fstype) {
        wrong("type", fstype, &entry.fstype);
    }
    for flag in FLAGS {
        let planned_flag = planned.flags.iter().any(|have| have == flag);
        if planned_flag && !entry.has(flag) {
            wrong("flag", flag, "without it");
        } else if flag == "ro"
            && !planned_flag
            && entry.has(flag)
            && planned.fstype.is_none()
            && planned.device.is_some()
            && !target.starts_with("/proc/")
            && !target.starts_with("/dev/")
        {
            wrong("flag", "rw", "ro");
        }
    }
    for option in &planned.options {
        if !entry.super_options.contains(option) {
            wrong("option", option, &entry.super_options.join(","));
        }
    }
    if entry.propagation.iter().any(|field| field.starts_with("shared:") || field.starts_with("master:")) {
        wrong("propagation", "private", &entry.propagation.join(" "));
    }
}

/// What `path`, in the launcher's view, is a part of.
fn source_of(own: &[MountEntry], path: &Path) -> Result<Expected> {
    let covering = own.iter().filter(|entry| path.starts_with(&entry.target)).max_by_key(|entry| entry.target.len());
    let entry = covering.ok_or_else(|| Error::failed(format!("verify: no mount holds {}", path.display())))?;
    // Of mounts on top of each other the last one is seen.
    let entry = own.iter().rev().find(|other| other.target == entry.target).unwrap_or(entry);
    let rest = path.strip_prefix(&entry.target).unwrap_or(Path::new(""));
    let root = if rest.as_os_str().is_empty() { PathBuf::from(&entry.root) } else { Path::new(&entry.root).join(rest) };
    Ok(Expected {
        device: Some(entry.device.clone()),
        root: Some(root.to_string_lossy().into_owned()),
        fstype: None,
        flags: FLAGS.iter().filter(|flag| entry.has(flag)).map(|flag| (*flag).to_owned()).collect(),
        options: Vec::new(),
    })
}

fn expect(
    own: &[MountEntry],
    mount: &Mount,
    place: Option<&Place>,
    expected: &mut BTreeMap<String, Expected>,
) -> Result<()> {
    let flag = |on: bool, name: &str| on.then(|| name.to_owned());
    let planned: Vec<String> =
        [flag(true, "nosuid"), flag(mount.readonly, "ro"), flag(mount.nodev, "nodev"), flag(mount.noexec, "noexec")]
            .into_iter()
            .flatten()
            .collect();
    let fresh = |fstype: &str, options: Vec<String>| Expected {
        device: None,
        root: Some("/".to_owned()),
        fstype: Some(fstype.to_owned()),
        flags: planned.clone(),
        options,
    };
    let what = match (&mount.kind, place) {
        (MountKind::Tmpfs { .. } | MountKind::Devpts | MountKind::Device, Some(Place::Path(path))) => {
            let mut source = source_of(own, path)?;
            source.flags.extend(planned);
            source
        }
        (MountKind::Proc, _) => fresh("proc", vec!["hidepid=invisible".to_owned()]),
        (MountKind::Devpts, _) => fresh("devpts", vec!["ptmxmode=666".to_owned()]),
        (MountKind::Tmpfs { size, inodes, .. }, _) => {
            fresh("tmpfs", vec![format!("size={}k", size >> 10), format!("nr_inodes={inodes}")])
        }
        (MountKind::Device, _) => {
            let mut device = source_of(own, Path::new(&mount.target))?;
            device.flags = planned;
            device
        }
        (MountKind::Console, _) => Expected {
            device: None,
            root: None,
            fstype: Some("devpts".to_owned()),
            flags: Vec::new(),
            options: Vec::new(),
        },
        (_, Some(Place::Path(path))) => {
            let mut source = source_of(own, path)?;
            source.flags.extend(planned);
            if let MountKind::Bind { submounts, .. } = &mount.kind {
                for submount in submounts {
                    let mut below = source_of(own, &path.join(submount))?;
                    below.flags.extend(source.flags.iter().cloned());
                    expected.insert(crate::plan::join(&mount.target, submount), below);
                }
            }
            source
        }
        _ => {
            return Err(Error::failed(format!("verify: the mount {} has no place", mount.target)));
        }
    };
    expected.insert(mount.target.clone(), what);
    Ok(())
}

/// While the init has not reported: the process that is to become PID 1 of
/// podman's container executes neither of the programs that it may.
pub fn stranger_as(pid: Pid, programs: &[Stamp; 2]) -> Option<String> {
    let exe = PathBuf::from(format!("/proc/{pid}/exe"));
    let stamp = Stamp::of(&exe).ok().filter(|stamp| !programs.contains(stamp))?;
    let name = fs::read_link(&exe).unwrap_or_default();
    // Not while it executes the next one.
    (Stamp::of(&exe).ok()? == stamp)
        .then(|| format!("program of PID 1: the plan has belljar's init, the kernel {}", name.display()))
}

/// While the init has not reported: a PID 1 of a process namespace below ours
/// that runs neither the init nor what the runtime itself runs (it is a copy of
/// the runtime until it executes the init) is a cheat.
pub fn stranger_as_pid_1() -> Option<String> {
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let init = identity(&staged("belljar/init"))?;
    let mut ours = Vec::new();
    let mut first = Vec::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let process = entry.path();
        let Ok(status) = fs::read_to_string(process.join("status")) else { continue };
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let pids: Vec<&str> = pids.split_whitespace().collect();
        let Some(exe) = identity(&process.join("exe")) else { continue };
        match pids.as_slice() {
            [_] => ours.push(exe),
            [.., "1"] => first.push((exe, process.join("exe"))),
            _ => {}
        }
    }
    let (_, stranger) = first.into_iter().find(|(exe, _)| *exe != init && !ours.contains(exe))?;
    let name = fs::read_link(&stranger).unwrap_or_default();
    Some(format!("program of PID 1: the plan has belljar's init, the kernel {}", name.display()))
}
