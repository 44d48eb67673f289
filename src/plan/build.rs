//! Request + configuration + group → plan. Every refusal happens here.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::command::Program;
use super::egress::GatewayParts;
use super::mounts::{Mounts, Options, Surroundings};
use super::own::{OwnPlaces, real_path};
use super::request::{Access, MountArgument, ProjectArgument, Request};
use super::source::{absolute, check_characters};
use super::{
    Allowlist, BELLJAR_DIR, Blocked, HOME, Limits, Mount, MountKind, Plan, Root, RootAccess, RootKind, Seccomp, Trust,
    egress, environment, identity, limits, read_mountinfo,
};
use crate::backend;
use crate::bundle::seccomp;
use crate::config::{Backend, Caller, Config, Dirs, Group, GroupConfig, Groups, RunConfig};
use crate::error::{Error, Kind, Result};
use crate::image::{Images, Reference};
use crate::rootfs::{self, Choice};

/// One argument of execve(2) may have this many bytes at most (MAX_ARG_STRLEN).
const LONGEST_ARGUMENT: usize = 128 << 10;
/// All arguments and variables together; the kernel takes 2 MiB with the usual
/// stack limit of 8 MiB (execve(2)).
const ALL_ARGUMENTS: usize = 2 << 20;

/// A plan, and what is held open for it.
#[derive(Debug)]
pub struct Resolved {
    /// The plan.
    pub plan: Plan,
    /// The pinned source of mounts, by their place in the plan.
    pub sources: BTreeMap<usize, OwnedFd>,
    /// belljar's own directories that must be there before the run.
    pub needed: Vec<PathBuf>,
    /// The group.
    pub group: Group,
    /// What the gateway works by; none with `--egress none`.
    pub gateway: Option<GatewayParts>,
    /// Where the run's events are told.
    pub log: crate::journal::To,
}

/// Resolves the request; nothing on the host is changed.
pub fn build(request: &Request, caller: &Caller, dirs: &Dirs) -> Result<Resolved> {
    let config = Config::load(&dirs.config_file())?;
    let allowlist = Allowlist::load(&dirs.allowlist_file(), &caller.home)?;
    let group = Groups::new(dirs).find(&request.group)?;
    let group_config = config.for_group(group.name.as_str());
    let chosen = request.backend.or(group_config.backend).or(config.run.backend).unwrap_or_default();
    let runtime = backend::resolve(
        chosen,
        request.runtime.as_deref().or(group_config.runtime.as_deref()).or(config.run.runtime.as_deref()),
        request.image_place,
        caller,
    )?;
    let mut limits = limits::resolve(request, &config, (caller, dirs), &runtime)?;
    let identity = identity::resolve(caller, &group, &runtime)?;
    let root_choice = root_of(request, &group_config, &config.run, dirs)?;
    let typed = command_of(request, group_config.command.as_deref(), &root_choice)?;
    let mode = request.egress.or(group_config.egress).or(config.run.egress).unwrap_or_default();
    let way = egress::resolve(mode, &group, &config, caller, dirs)?;

    let around = Surroundings {
        caller,
        own: OwnPlaces::new(dirs, &way.key_files),
        allowlist: &allowlist,
        blocked: Blocked::new(&allowlist.blocked_patterns)?,
        host_mounts: read_mountinfo(Path::new("/proc/self/mountinfo"))?,
        trust: group.trust(),
    };
    let root_access = RootAccess::resolve(request.writable_root, group_config.writable_root, config.run.writable_root);
    let mut mounts = Mounts::new(root_access);
    let mut root = rootfs::resolve(&root_choice, &around, &mut mounts)?;
    if way.gateway.is_some() {
        root.trust_bundle();
    }
    add_private(&mut mounts, request.terminal);
    let needed = add_group(&mut mounts, &group, dirs);
    add_persons(&mut mounts, request, &around, &group_config)?;
    let program = match root.is_host() {
        true => Program::find(&typed[0], &caller.home)?,
        false => Program { reason: "looked up in the root".to_owned(), ..Program::default() },
    };
    for (package, reason) in &program.packages {
        mounts.add_package(&around, package, reason)?;
    }
    root.add_links(&program.links);
    mounts.check_links(&needed)?;
    if root_access == RootAccess::Writable {
        mounts.add_holders();
    }
    let mut command = typed;
    if let Some(path) = &program.path {
        command[0] = path.clone();
    }
    let directories = [program.directories, root_access.program_directories()].concat();
    let variables = [way.variables, root_access.variables()].concat();
    let of_image = match &root_choice {
        Choice::Image(_, image) => image.config.environment.as_slice(),
        Choice::Rootfs(_) => &[],
    };
    let mut environment =
        environment::resolve(&request.environment, (&directories, of_image), variables, request.terminal)?;
    environment::add_of_image(&mut environment, of_image);
    check_lengths(&command, &environment)?;
    let mut notes = std::mem::take(&mut mounts.notes);
    limits.apply_to(&mut mounts)?;
    notes.extend(unenforced(&limits));
    if let Some(unseen) = runtime.kind.runtime().unseen() {
        notes.push(format!("verify cannot see what {} makes: {unseen}", runtime.path.display()));
    }
    if runtime.backend == Backend::Podman {
        backend::podman::check_targets(&mounts.list)?;
    }
    let shadowed = mounts.shadowed;
    let profile = seccomp::profile()?;
    let mut root = root.into_plan(root_access);
    if let (Some(layer), Some(disk)) = (&mut root.writable, &limits.disk_bytes) {
        layer.size = layer.size.min(disk.value);
    }
    notes.extend(root_in_reach(&root, &mounts.list));
    let plan = Plan {
        version: 1,
        group: group.name.to_string(),
        trust: group.trust(),
        command,
        command_reason: program.reason,
        workdir: workdir(request)?,
        hostname: "belljar".to_owned(),
        terminal: request.terminal,
        identity,
        root,
        mounts: mounts.list,
        shadowed,
        masked_paths: existing(&MASKED),
        readonly_paths: existing(&READONLY),
        environment,
        egress: way.egress,
        limits,
        seccomp: Seccomp { profile: "default".to_owned(), sha256: seccomp::digest(), allowed: profile.allowed() },
        runtime,
        notes,
    };
    let sources =
        mounts.sources.into_iter().enumerate().filter_map(|(index, source)| Some((index, source?.file))).collect();
    Ok(Resolved { plan, sources, needed, group, gateway: way.gateway, log: config.log.to })
}

/// Paths of /proc that tell about the host, or that a program could hurt it with.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/kmsg",
];
const READONLY: [&str; 6] = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn existing(paths: &[&str]) -> Vec<String> {
    paths.iter().filter(|path| Path::new(path).exists()).map(|path| (*path).to_owned()).collect()
}

/// The root that was chosen: what was typed, then the group's, then `[run]`'s.
fn root_of(request: &Request, group: &GroupConfig, run: &RunConfig, dirs: &Dirs) -> Result<Choice> {
    let levels = [
        ("the command line", &request.image, &request.rootfs),
        ("[group]", &group.image, &group.rootfs),
        ("[run]", &run.image, &run.rootfs),
    ];
    for (place, image, rootfs) in levels {
        match (image, rootfs) {
            (None, None) => {}
            (None, Some(rootfs)) => return Ok(Choice::Rootfs(rootfs.clone())),
            (Some(image), None) => return image_of(image, dirs),
            (Some(_), Some(_)) => {
                return Err(Error::refused(format!("{place} names both an image and a rootfs")).hint("leave one out"));
            }
        }
    }
    Ok(Choice::Rootfs("host".to_owned()))
}

fn image_of(typed: &str, dirs: &Dirs) -> Result<Choice> {
    let here = std::env::current_dir().map_err(|error| Error::refused("read the current directory").because(error))?;
    let reference = Reference::parse(typed, &here)?;
    match Images::new(dirs).find(&reference)? {
        Some(image) => Ok(Choice::Image(typed.to_owned(), Box::new(image))),
        None => {
            let error = Error::refused(format!("the image {reference} is not in belljar's cache"));
            Err(Error { kind: Kind::NoImage, ..error.hint(format!("belljar image import '{typed}'")) })
        }
    }
}

/// The image that a request needs, when the plan was refused for want of it.
pub fn wanted_image(request: &Request, dirs: &Dirs) -> Result<Option<String>> {
    let config = Config::load(&dirs.config_file())?;
    let group = config.for_group(&request.group);
    let levels =
        [(&request.image, &request.rootfs), (&group.image, &group.rootfs), (&config.run.image, &config.run.rootfs)];
    Ok(levels
        .into_iter()
        .find(|(image, rootfs)| image.is_some() || rootfs.is_some())
        .and_then(|(image, _)| image.clone()))
}

/// What was typed, then what is configured, then what an image says. What is
/// typed takes the place of an image's entrypoint too.
fn command_of(request: &Request, configured: Option<&[String]>, root: &Choice) -> Result<Vec<String>> {
    let of_image = || match root {
        Choice::Image(_, image) => [image.config.entrypoint.as_slice(), &image.config.command].concat(),
        Choice::Rootfs(_) => Vec::new(),
    };
    let mut command = match (request.command.as_slice(), configured) {
        ([], None) => of_image(),
        ([], Some(configured)) => configured.to_vec(),
        (typed, _) => typed.to_vec(),
    };
    if command.is_empty() {
        command.clone_from(&request.example);
    }
    match command.first() {
        None => Err(Error::usage("no command to run").hint("belljar run -- COMMAND [ARG…]")),
        Some(program) if program.is_empty() => {
            Err(Error::refused("the command is empty").hint("belljar run -- COMMAND [ARG…]"))
        }
        Some(_) => Ok(command),
    }
}

fn check_lengths(command: &[String], environment: &[super::Variable]) -> Result<()> {
    let values = environment.iter().flat_map(|variable| [&variable.name, &variable.value]);
    if command.iter().chain(values).any(|text| text.contains('\0')) {
        return Err(Error::refused("the command or the environment has a NUL in it, which execve(2) takes for an end")
            .hint("of an image's own: type the command, belljar run --image REF -- COMMAND"));
    }
    let variables = environment.iter().map(|variable| variable.name.len() + variable.value.len() + 2);
    let all = command.iter().map(|argument| argument.len() + 1).chain(variables);
    let (mut longest, mut sum) = (0, 0);
    for length in all {
        longest = longest.max(length);
        sum += length + size_of::<usize>();
    }
    if longest > LONGEST_ARGUMENT || sum > ALL_ARGUMENTS {
        return Err(Error::refused(format!(
            "the command and environment are too long: {sum} bytes, the longest item {longest}"
        ))
        .because(format!(
            "the kernel takes {LONGEST_ARGUMENT} bytes for one and {ALL_ARGUMENTS} for all (execve(2), E2BIG)"
        ))
        .hint("pass it on stdin, or in a file in the project"));
    }
    Ok(())
}

/// A root directory that the agent can write by another way.
fn root_in_reach(root: &Root, mounts: &[Mount]) -> Option<String> {
    let RootKind::Directory { path } = &root.kind else { return None };
    let through = mounts.iter().find(|mount| {
        !mount.readonly && matches!(&mount.kind, MountKind::Bind { source, .. } if path.starts_with(source))
    })?;
    Some(format!(
        "the agent can change its own root for later runs: {} lies in what is mounted read-write at {}",
        path.display(),
        through.target
    ))
}

fn workdir(request: &Request) -> Result<String> {
    let Some(typed) = &request.workdir else {
        return Ok("/workspace/group".to_owned());
    };
    check_characters(typed)?;
    let good = typed.starts_with('/') && !typed.split('/').any(|part| part == ".." || part == ".");
    if !good {
        return Err(Error::refused(format!("--workdir {typed}: a path inside is absolute and without `.` and `..`"))
            .hint("for example --workdir /workspace/project"));
    }
    Ok(typed.clone())
}

/// What belongs to every run: proc, devices, private tmpfs, belljar's own files.
fn add_private(mounts: &mut Mounts, terminal: bool) {
    const MIB: u64 = 1 << 20;
    let tmpfs = |size: u64, inodes: u64, mode: u32| MountKind::Tmpfs { size, inodes, mode };
    mounts.push("/proc", MountKind::Proc, Options::DATA, "the container's own processes; PID 1 is hidden");
    mounts.push("/dev", tmpfs(MIB, 256, 0o755), Options::DEVICE, "a minimal /dev");
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        mounts.push(&format!("/dev/{device}"), MountKind::Device, Options::DEVICE, "a harmless device");
    }
    mounts.push("/dev/pts", MountKind::Devpts, Options::DEVICE, "terminals of the container's own");
    mounts.push("/dev/shm", tmpfs(512 * MIB, 65_536, 0o1777), Options::DATA, "private shared memory");
    if terminal {
        mounts.push("/dev/console", MountKind::Console, Options::DEVICE, "the agent's terminal");
    }
    mounts.push("/tmp", tmpfs(4096 * MIB, 1_048_576, 0o1777), Options::RW, "private, gone after the run");
    mounts.push("/run", tmpfs(64 * MIB, 16_384, 0o755), Options::DATA, "private, gone after the run");
    mounts.push(
        BELLJAR_DIR,
        MountKind::Generated { directory: true },
        Options::RO,
        "the init, and what the agent may do",
    );
    mounts.push(HOME, tmpfs(4096 * MIB, 1_048_576, 0o700), Options::RW, "the private home, gone after the run");
}

/// The group's own directories (DESIGN 6.3); returns those that must exist.
fn add_group(mounts: &mut Mounts, group: &Group, dirs: &Dirs) -> Vec<PathBuf> {
    let data = real_path(&dirs.data);
    let name = group.name.as_str();
    let [folder, session, messages, tasks, input] = group.directories(&data);
    let (global, ipc) = (data.join("groups/global"), data.join("ipc").join(name));
    mounts.add_own(
        session.clone(),
        "/home/node/.claude",
        Access::ReadWrite,
        "the group's session, which no other group sees",
    );
    mounts.add_own(folder.clone(), "/workspace/group", Access::ReadWrite, "the group's folder");
    mounts.add_own(global.clone(), "/workspace/global", Access::ReadOnly, "what all groups share");
    mounts.add_own(ipc.clone(), "/workspace/ipc", Access::ReadWrite, "the group's messages to and from the host");
    for (directory, name) in [(&messages, "messages"), (&tasks, "tasks"), (&input, "input")] {
        let reason = "so that the host's directory cannot be renamed away";
        mounts.add_own(directory.clone(), &format!("/workspace/ipc/{name}"), Access::ReadWrite, reason);
    }
    vec![session, folder, global, ipc, messages, tasks, input]
}

/// What the person mounts: the project, configured mounts, typed ones.
fn add_persons(
    mounts: &mut Mounts,
    request: &Request,
    around: &Surroundings<'_>,
    configured: &GroupConfig,
) -> Result<()> {
    let mut targets = Vec::new();
    let configured_project =
        configured.project.as_deref().map(str::parse::<ProjectArgument>).transpose().map_err(|error| {
            Error::refused(format!("[group.{}] project: {}", request.group, error.what))
                .hint("for example project = \"~/src/app:ro\"")
        })?;
    let (project, base, by) = match (&request.project, &configured_project) {
        (Some(typed), _) => (Some(typed), true, "--project"),
        (None, set) => (set.as_ref(), false, "the configuration"),
    };
    match (project, around.trust) {
        (Some(project), Trust::Untrusted) => {
            return Err(Error::refused(format!(
                "project {}, asked for by {by}: group `{}` gets no project",
                project.directory, request.group
            ))
            .because("only main, the trusted group, sees the project")
            .hint("mount what it needs with --mount, which the allowlist must allow"));
        }
        (None, Trust::Untrusted) => {}
        (project, Trust::Trusted) => {
            let here = || {
                std::env::current_dir().map_err(|error| {
                    Error::refused("read the current directory").because(error).hint("cd to a directory that exists")
                })
            };
            let (path, access, reason) = match project {
                Some(project) => {
                    let base = base.then(here).transpose()?;
                    let path = absolute(&project.directory, &around.caller.home, base.as_deref())?;
                    (path, project.access, format!("the project, asked for by {by}"))
                }
                None => (here()?, Access::ReadOnly, "the project: the current directory".to_owned()),
            };
            mounts.add_project(around, &path, access, &reason).map_err(|error| match (project, &error.hint) {
                (None, _) => Error {
                    hint: Some(format!(
                        "{}; or choose the project: --project DIR",
                        error.hint.unwrap_or_else(|| "cd to a project directory".to_owned())
                    )),
                    ..error
                },
                _ => error,
            })?;
        }
    }
    let configured = configured.mounts.iter().map(|mount| MountArgument {
        source: mount.host.clone(),
        target: mount.container.clone(),
        access: if mount.readonly { Access::ReadOnly } else { Access::ReadWrite },
    });
    for argument in configured.chain(request.mounts.iter().cloned()) {
        let index = mounts.list.len();
        mounts.add_extra(around, &argument)?;
        targets.push(mounts.list[index].target.clone());
    }
    mounts.check_targets(&targets)
}

fn unenforced(limits: &Limits) -> Vec<String> {
    limits.not_in_force().map(|(name, by)| format!("limit --{name} is {by}")).collect()
}
