//! The podman backend's part of the launcher: podman is called below the
//! launcher, in its mount namespace, so that it sees the staging area and not
//! the host's changing paths.

mod configuration;
mod namespace;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, chown};

pub use self::namespace::{PodmanNamespace, enter};

use super::cgroup;
use super::container::{Created, poll_for};
use super::leaf::Leaf;
use super::protocol::{Channel, ToLauncher};
use super::staging::{STAGING, clone_source, merged, move_to, staged};
use super::tasks::children_of;
use super::verify::Stamp;
use crate::backend::host_environment;
use crate::backend::podman::{
    CONMON_PID_FILE, COVERED, DIRECTORY, PID_FILE, cgroup_name, container_name, create_arguments, global_arguments,
    handshake_socket, is_made_by_launcher,
};
use crate::bundle::{Place, seccomp};
use crate::error::{Context, Error, Result};
use crate::plan::{Content, Mount, MountKind, Plan, open_files};
use crate::sys;

/// How long one call of podman may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Generations of processes that are ended at most.
const ROUNDS: usize = 64;

/// Where a session's D-Bus is (dbus-daemon(1)), and an address where none is.
const SESSION_BUS: &str = "DBUS_SESSION_BUS_ADDRESS";
const NO_BUS: &str = "unix:path=/dev/null/none";

/// How often a container is removed that will not go.
const TRIES: usize = 4;

/// podman, as the launcher calls it.
#[derive(Debug)]
pub struct Podman<'a> {
    plan: &'a Plan,
    run: &'a str,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl<'a> Podman<'a> {
    /// For the run; refused where the plan has no podman.
    pub fn new(plan: &'a Plan, run: &'a str, namespace: Option<&PodmanNamespace>) -> Result<Self> {
        let program = plan.runtime.podman.clone().ok_or_else(|| Error::failed("the plan names no podman"))?;
        let mut environment = namespace.map_or_else(host_environment, PodmanNamespace::environment);
        let file = staged(DIRECTORY).join("containers.conf");
        configuration::write(&environment, &file)?;
        environment.retain(|(name, _)| name != configuration::ONLY && name != configuration::ON_TOP);
        environment.push((configuration::ONLY.into(), file.into()));
        // An ordinary user's podman has systemd move it, and so the agent, into a
        // scope outside the run's cgroup, wherever it reaches the user's manager.
        environment.retain(|(name, _)| name != SESSION_BUS);
        environment.push((SESSION_BUS.into(), NO_BUS.into()));
        Ok(Self { plan, run, program, environment })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if configuration::has_default_mounts(&self.environment) {
            command.args(["--default-mounts-file", "/dev/null"]);
        }
        command
            .args(global_arguments(self.plan, &staged(DIRECTORY).join("nothing")))
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null());
        sys::end_with_parent(&mut command, nix::sys::signal::Signal::SIGKILL);
        command
    }

    /// Calls podman to its end; the supervisor's word, or the time, can end it
    /// before, with all that it has started.
    fn call(&self, what: &str, mut command: Command, channel: &Channel) -> Result<()> {
        let step = || format!("podman {what}, with {}", self.program.display());
        // A file, because what podman leaves running may hold a pipe open.
        let log = staged(DIRECTORY).join("log");
        command.stdout(Stdio::null()).stderr(File::create(&log).step(step)?);
        let mut child = command.spawn().step(step)?;
        let ended = wait_for(&mut child, channel).and_then(|status| match status {
            Some(status) if status.success() => Ok(()),
            Some(_) => {
                let said = fs::read(&log).unwrap_or_default();
                Err(with_lines(Error::failed(step()), &said).hint("belljar doctor, or belljar run --backend crun"))
            }
            None => Err(Error::failed(step()).because(format!("it took more than {} s", CALL_TIMEOUT.as_secs()))),
        });
        if ended.is_err() {
            end_descendants();
        }
        ended
    }

    /// Creates and initialises the container, whose PID 1 waits for the start and
    /// must be `init_file` then.
    pub fn create_and_initialise(
        &self,
        places: &[Option<Place>],
        (channel, leaf): (&Channel, Option<&Leaf>),
        init_file: Stamp,
    ) -> Result<Created> {
        let mut create = self.command();
        create.args(create_arguments(self.plan, self.run, Path::new(STAGING), places, open_files()));
        self.call("create", create, channel)?;
        let mut init = self.command();
        init.arg("init").arg(container_name(self.run));
        if let Some(leaf) = leaf {
            leaf.enter(&mut init)?;
            // podman has systemd move it away from a cgroup that it cannot see.
            sys::unshare_cgroups(&mut init);
        }
        self.call("init", init, channel)?;
        let (init, conmon) = (pid_in(PID_FILE)?, pid_in(CONMON_PID_FILE)?);
        leaf.map_or(Ok(()), |leaf| leaf.let_out(conmon))?;
        let before = Stamp::of(Path::new(&format!("/proc/{init}/exe")))?;
        let conmon = rustix::process::Pid::from_raw(conmon.as_raw())
            .ok_or_else(|| Error::failed("podman wrote no process id of conmon"))?;
        let conmon = rustix::process::pidfd_open(conmon, rustix::process::PidfdFlags::empty())
            .step(|| "watch conmon".to_owned())?;
        Ok(Created { init, conmon, programs: [before, init_file] })
    }

    /// `podman start --attach`, with the agent's stdio. The process ends with the
    /// container.
    pub fn start(&self, stdio: Option<&[OwnedFd; 3]>, terminal: Option<OwnedFd>) -> Result<Child> {
        let mut command = self.command();
        command.args(["start", "--attach", "--interactive", "--sig-proxy=false", "--detach-keys="]);
        command.arg(container_name(self.run));
        let own = |fd: &OwnedFd| fd.try_clone().map(Stdio::from).step(|| "pass the agent's stdio".to_owned());
        if let Some([stdin, stdout, stderr]) = stdio {
            command.stdin(own(stdin)?).stdout(own(stdout)?).stderr(own(stderr)?);
        }
        if let Some(terminal) = &terminal {
            command.stdin(own(terminal)?).stdout(own(terminal)?).stderr(own(terminal)?);
            sys::take_terminal(&mut command);
        }
        command.spawn().step(|| format!("podman start, with {}", self.program.display()))
    }
}

fn pid_in(name: &str) -> Result<Pid> {
    let file = staged(DIRECTORY).join(name);
    let step = || format!("read {}", file.display());
    fs::read_to_string(&file).step(step)?.trim().parse().map(Pid::from_raw).step(step)
}

/// Waits for podman; `None` when it takes too long. An error when the run is
/// ended meanwhile.
fn wait_for(child: &mut Child, channel: &Channel) -> Result<Option<ExitStatus>> {
    let step = || "wait for podman".to_owned();
    let process = rustix::process::Pid::from_child(child);
    let ended = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).step(step)?;
    let begun = Instant::now();
    while begun.elapsed() < CALL_TIMEOUT {
        let mut watched =
            [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        poll_for(&mut watched, Duration::from_secs(1))?;
        if watched[0].any().unwrap_or_default() {
            return child.wait().map(Some).step(step);
        }
        if watched[1].any().unwrap_or_default() {
            match channel.receive::<ToLauncher>()? {
                Some((ToLauncher::Refresh(_), _)) => {}
                _ => return Err(Error::failed("the run was ended before the agent began")),
            }
        }
    }
    Ok(None)
}

/// Kills everything that descends from this process, which adopts what its
/// children leave, and nothing else.
pub fn end_descendants() {
    let own = nix::unistd::getpid();
    for _ in 0..ROUNDS {
        let children = children_of(own);
        if children.is_empty() {
            return;
        }
        // Theirs become this process's own, and are met in the next round.
        for child in children {
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
}

/// Removes the run's container, if there is one, with what runs in it. By the
/// supervisor, or by whoever buries the run.
pub fn remove(podman: &Path, run: &str) -> Result<()> {
    let mut result = Ok(());
    for _ in 0..TRIES {
        // podman may have been killed in the middle: then it does not know of
        // what it has started, and fails on what it finds half done, once.
        result = remove_once(podman, run);
        if end_strays(run) == 0 && result.is_ok() {
            break;
        }
    }
    // podman looks for it in a view that ended with the launcher.
    result.and(cgroup::remove_named(&cgroup_name(run)))
}

fn remove_once(podman: &Path, run: &str) -> Result<()> {
    let name = container_name(run);
    let step = || format!("podman rm {name}");
    let output = Command::new(podman)
        .args(["rm", "--force", "--time", "0", "--ignore", "--volumes"])
        .arg(&name)
        .env_clear()
        .envs(host_environment())
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .step(step)?;
    if output.status.success() {
        return Ok(());
    }
    Err(with_lines(Error::failed(step()), &output.stderr).hint(format!("podman rm --force {name}")))
}

/// Ends the conmon that has the run's container by name, with all below it;
/// how many there were.
fn end_strays(run: &str) -> usize {
    let name = container_name(run);
    let named = |process: &Path| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let conmon = arguments.first().is_some_and(|program| program.ends_with(b"conmon"));
        conmon && arguments.windows(2).any(|pair| pair[0] == b"-n" && pair[1] == name.as_bytes())
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let found: Vec<Pid> = processes
        .filter(|process| named(process))
        .filter_map(|process| process.file_name()?.to_str()?.parse().ok().map(Pid::from_raw))
        .collect();
    for conmon in &found {
        // Stopped first: it would have the container cleaned up meanwhile.
        let _ = kill(*conmon, Signal::SIGSTOP);
        for child in children_of(*conmon) {
            let _ = kill(child, Signal::SIGKILL);
        }
        let _ = kill(*conmon, Signal::SIGKILL);
    }
    found.len()
}

fn with_lines(error: Error, text: &[u8]) -> Error {
    let text = String::from_utf8_lossy(text).into_owned();
    text.lines().filter(|line| !line.trim().is_empty()).fold(error, Error::because)
}

/// For real root: a /dev/null of the run's own over the host's in this mount
/// namespace. conmon gives crun /dev/null as stdio, and crun makes the
/// container's user the owner of that file.
pub fn own_null() -> Result<()> {
    let step = || "make a /dev/null of the run's own".to_owned();
    let none: Option<&str> = None;
    let at = staged("dev");
    directory(&at)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("belljar"), &at, Some("tmpfs"), flags, Some("mode=0755,size=64k")).step(step)?;
    let null = at.join("null");
    let all = Mode::from_bits_truncate(0o666);
    mknod(&null, SFlag::S_IFCHR, all, makedev(1, 3)).step(step)?;
    fs::set_permissions(&null, fs::Permissions::from_mode(0o666)).step(step)?;
    mount(Some(&null), "/dev/null", none, MsFlags::MS_BIND, none).step(step)
}

/// Makes what podman has no options for, and puts its place into `places`: each
/// tmpfs with its limits, the devpts, /dev. Then podman's own files.
pub fn stage(plan: &Plan, places: &mut [Option<Place>]) -> Result<()> {
    for (index, mount) in plan.mounts.iter().enumerate() {
        if is_made_by_launcher(&mount.kind) {
            let target = merged(index);
            make(plan, mount, &target)?;
            places[index] = Some(Place::Path(target));
        }
    }
    let own = staged(DIRECTORY);
    for name in ["", "nothing", "cgroup", "sys", "sys/fs", "sys/fs/cgroup"] {
        directory(&own.join(name))?;
    }
    for (target, name) in COVERED {
        if let Some(text) = generated(plan, target) {
            write(&own.join(name), text)?;
            // podman's mount needs a file to lie on, and podman looks users up.
            below_root(target, text)?;
        }
    }
    for path in ["/etc/passwd", "/etc/group"] {
        below_root(path, generated(plan, path).unwrap_or_default())?;
    }
    directory(&staged("bundle/rootfs/sys"))?;
    let profile = serde_json::to_string(&seccomp::profile()?.render(plan.runtime.kind.runtime().masked_equal())?)
        .step(|| "render the profile".to_owned())?;
    write(&own.join("seccomp.json"), &profile)
}

fn generated<'a>(plan: &'a Plan, path: &str) -> Option<&'a str> {
    plan.root.generated.iter().find(|entry| entry.path == path).and_then(|entry| match &entry.content {
        Content::Text(text) => Some(text.as_str()),
        _ => None,
    })
}

fn below_root(path: &str, text: &str) -> Result<()> {
    let path = staged("bundle/rootfs").join(path.trim_start_matches('/'));
    match path.exists() {
        true => Ok(()),
        false => {
            path.parent().map_or(Ok(()), directory)?;
            write(&path, text)
        }
    }
}

fn make(plan: &Plan, mount_: &Mount, target: &Path) -> Result<()> {
    let owner = plan.identity.in_launcher;
    let step = || format!("stage the mount of {}", mount_.target);
    let mut flags = MsFlags::MS_NOSUID;
    for (on, flag) in [(mount_.nodev, MsFlags::MS_NODEV), (mount_.noexec, MsFlags::MS_NOEXEC)] {
        flags.set(flag, on);
    }
    let fresh = |kind: &str, options: &str| {
        directory(target)?;
        mount(Some(kind), target, Some(kind), flags, Some(options)).step(step)
    };
    match &mount_.kind {
        MountKind::Tmpfs { size, inodes, mode } => {
            fresh("tmpfs", &format!("size={size},nr_inodes={inodes},mode={mode:o},uid={owner},gid={owner}"))?;
            if mount_.target == "/dev" {
                links_of_dev(target)?;
            }
            targets_below(plan, mount_, target, owner)
        }
        MountKind::Devpts => fresh("devpts", "newinstance,ptmxmode=0666,mode=0620"),
        _ => {
            let device = Path::new(&mount_.target);
            File::create(target).step(step)?;
            move_to(&clone_source(device, None, false)?, target).step(step)
        }
    }
}

/// What crun makes in a /dev of its own.
fn links_of_dev(dev: &Path) -> Result<()> {
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ];
    links.iter().try_for_each(|(name, to)| symlink(to, dev.join(name)).step(|| format!("make the link /dev/{name}")))
}

/// The targets of later mounts in a tmpfs that is staged: the runtime's root
/// may not be able to make them.
fn targets_below(plan: &Plan, above: &Mount, staged_at: &Path, owner: u32) -> Result<()> {
    for mount in &plan.mounts {
        let Some(below) = mount.target.strip_prefix(&above.target).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        if below.contains('/') {
            continue;
        }
        let path = staged_at.join(below);
        match mount.kind {
            MountKind::Device | MountKind::Console | MountKind::DevNull => write(&path, "")?,
            MountKind::Bind { directory: false, .. } | MountKind::Generated { directory: false } => write(&path, "")?,
            _ => directory(&path)?,
        }
        chown(&path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
            .step(|| format!("chown {}", path.display()))?;
    }
    Ok(())
}

fn directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).step(|| format!("make directory {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).step(|| format!("write {}", path.display()))
}

/// The socket to which the init connects. It is taken away once that has
/// happened, so that nothing else in the container can.
pub fn listen_for_init() -> Result<OwnedFd> {
    let path = handshake_socket(Path::new(STAGING));
    let step = || format!("listen on {}", path.display());
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).step(step)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(&path).step(step)?).step(step)?;
    listen(&socket, Backlog::new(1).step(step)?).step(step)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).step(step)?;
    Ok(socket)
}

/// Takes away the directory that only podman's mounts needed.
pub fn forget_covered() -> Result<()> {
    let path = staged("bundle/rootfs/sys");
    fs::remove_dir(&path).step(|| format!("remove {}", path.display()))
}

/// The init has connected: nothing else can from here on.
pub fn forget_socket() -> Result<()> {
    let path = handshake_socket(Path::new(STAGING));
    fs::remove_file(&path).step(|| format!("remove {}", path.display()))
}

/// Enters the container's network namespace, so that what is opened from here on
/// is the container's.
pub fn enter_network(init: Pid) -> Result<()> {
    let path = format!("/proc/{init}/ns/net");
    let step = || "enter the container's network namespace".to_owned();
    setns(File::open(&path).step(step)?, CloneFlags::CLONE_NEWNET).step(step)
}

/// A terminal for `podman start`, which carries it to the container's own: the
/// side for the supervisor, and the side for podman.
pub fn open_terminal(window: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)> {
    let size =
        window.map(|(rows, columns)| nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
    let pair = nix::pty::openpty(size.as_ref(), None).step(|| "open a terminal for podman".to_owned())?;
    Ok((pair.master, pair.slave))
}
