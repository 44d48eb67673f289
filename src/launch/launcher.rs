//! The launcher: a process in namespaces of its own (user, mount, network,
//! cgroup, PID, IPC), uid 0 of its namespace only, one thread. It fills the
//! staging area, starts the runtime, verifies, gives the word to go on, and
//! stays as PID 1 of its process namespace: when it dies, all below it dies.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::unistd::{Gid, Pid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, setgroups, setresgid, setresuid, setsid};

use super::container::{Below, Container, Streams};
use super::covers;
use super::handshake::{Line, Ready};
use super::leaf::Leaf;
use super::network;
use super::podman::{self, Podman, PodmanNamespace};
use super::protocol::{Channel, FromLauncher, ToLauncher};
use super::replaced::Replaced;
use super::staging::{self, staged};
use super::steps::Steps;
use super::verify;
use crate::backend::podman::COVERED;
use crate::backend::{self, Start, Stay};
use crate::bundle::{Place, Places, render};
use crate::config::Backend;
use crate::error::{Context, Error, Result};
use crate::plan::{EgressMode, FileOwnership, Plan, open_files, read_mountinfo};
use crate::sys;

/// What the launcher inherits from the supervisor.
#[derive(Debug)]
pub struct Inheritance<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The run's id.
    pub run: &'a str,
    /// The launcher's end of the pair.
    pub channel: Channel,
    /// pidfd of the supervisor, to see whether it is gone already.
    pub supervisor: OwnedFd,
    /// The agent's stdin, stdout and stderr; none when it has a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// Rows and columns of the caller's window.
    pub window: Option<(u16, u16)>,
    /// podman's user namespace, for an ordinary user with podman.
    pub podman: Option<PodmanNamespace>,
}

/// Runs to the end of the container. Every error goes to the supervisor.
pub fn main(inheritance: Inheritance<'_>) -> isize {
    let channel = &inheritance.channel;
    // The supervisor's own ends of the agent's pipes must not stay open here:
    // the agent would wait for the end of its input for ever.
    let mut keep = vec![channel.as_fd(), inheritance.supervisor.as_fd()];
    keep.extend(inheritance.stdio.iter().flatten().map(AsFd::as_fd));
    keep.extend(inheritance.podman.as_ref().map(AsFd::as_fd));
    sys::close_all_but(&keep);
    // The supervisor holds them back for itself.
    let _ = super::supervise::signals().thread_unblock();
    let message = match launch(&inheritance) {
        Ok(ended) => ended,
        Err(error) => FromLauncher::Failed(error),
    };
    // The supervisor may be gone; then nobody is left to tell.
    let _ = channel.send(&message, &[]);
    0
}

fn launch(given: &Inheritance<'_>) -> Result<FromLauncher> {
    let mut steps = Steps::begin();
    let channel = &given.channel;
    let leaf = match channel.receive::<ToLauncher>()? {
        Some((ToLauncher::Begin, descriptors)) => Leaf::received(descriptors),
        _ => return Err(Error::failed("the supervisor ended before the launcher began")),
    };
    if leaf.is_none() && given.plan.limits.cgroup.is_some() {
        return Err(Error::failed("the supervisor sent no cgroup, and the limits need one"));
    }
    if given.plan.runtime.backend == Backend::Podman {
        podman::enter(given.podman.as_ref())?;
    }
    become_namespace_root()?;
    if given.plan.egress.helper.is_some() {
        // pasta looks up the namespaces in /proc, which the change of ids closed.
        nix::sys::prctl::set_dumpable(true).step(|| "let pasta find the namespaces".to_owned())?;
    }
    die_with_supervisor(given.supervisor.as_fd())?;
    steps.end("wait for id maps");
    staging::prepare(&given.plan.runtime)?;
    match given.plan.runtime.backend {
        Backend::Podman => below_podman(given, leaf, steps),
        _ => below_runtime(given, leaf, steps),
    }
}

/// An OCI runtime starts the bundle in the launcher's own namespaces.
fn below_runtime(given: &Inheritance<'_>, leaf: Option<Leaf>, mut steps: Steps) -> Result<FromLauncher> {
    let channel = &given.channel;
    sys::loopback_up().step(|| "bring the loopback interface up".to_owned())?;
    open_listeners(given)?;
    let detached = receive_mounts(channel)?;
    steps.end("namespaces");
    let places = staging::fill(given.plan, detached)?;
    steps.end("staging");
    let identity = &given.plan.identity;
    let spec_places = Places {
        root: staged("bundle/rootfs"),
        mounts: places.clone(),
        handshake: "3".to_owned(),
        maps: identity.container.clone(),
        own_network: false,
        open_files: Some(open_files()),
        window: given.window,
    };
    let spec = render(given.plan, &spec_places)?;
    let config = staged("bundle/config.json");
    let text = serde_json::to_vec(&spec).step(|| "render config.json".to_owned())?;
    fs::write(&config, text).step(|| format!("write {}", config.display()))?;
    steps.end("bundle");

    let staging = read_mountinfo(Path::new("/proc/self/mountinfo"))?;
    let init_file = verify::Stamp::of(&staged("belljar/init"))?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .step(|| "make the handshake's socket pair".to_owned())?;
    setsockopt(&ours, sockopt::PassCred, &true).step(|| "ask for the init's identity".to_owned())?;
    let theirs_inode = verify::inode_of(&theirs)?;
    let console = given.plan.terminal.then(console_listener).transpose()?;
    let line = Line::Open { socket: ours, peer: None };
    let stay = given.plan.runtime.kind.runtime().stay();
    let runtime = start_runtime(given, leaf.as_ref(), theirs)?;
    let runtimes = Pid::from_raw(runtime.id() as i32);
    let mut container = Container::new(runtime, (stay, leaf), line, Below::OwnNamespace);
    let ready = container.wait_until_ready(given.plan, console.as_ref(), channel)?;
    if stay == Stay::UntilTheEnd {
        container.let_out(runtimes)?;
    }
    steps.end("runtime");
    covers::make_equal(given.plan, ready.pid, &[]).map_err(|error| container.kill_because(error))?;
    let facts = verify::Facts {
        run: given.run,
        init: ready.pid,
        handshake_inode: Some(theirs_inode),
        stdio: given.stdio.as_ref(),
        staging: &staging,
        init_file,
    };
    proceed(given, container, &ready, (&places, &facts), steps)
}

/// podman makes the container from what is staged; its network namespace is
/// entered then, so that the listeners are there before the agent is.
fn below_podman(given: &Inheritance<'_>, leaf: Option<Leaf>, mut steps: Steps) -> Result<FromLauncher> {
    let (plan, channel) = (given.plan, &given.channel);
    let detached = receive_mounts(channel)?;
    if plan.identity.files == FileOwnership::Idmapped {
        podman::own_null()?;
    }
    steps.end("namespaces");
    let mut places = staging::fill(plan, detached)?;
    podman::stage(plan, &mut places)?;
    steps.end("staging");
    let staging = read_mountinfo(Path::new("/proc/self/mountinfo"))?;
    let init_file = verify::Stamp::of(&staged("belljar/init"))?;
    let listener = podman::listen_for_init()?;
    let podman = Podman::new(plan, given.run, given.podman.as_ref())?;
    let created = podman.create_and_initialise(&places, (channel, leaf.as_ref()), init_file)?;
    steps.end("podman create and init");
    let facts = verify::Facts {
        run: given.run,
        init: created.init,
        handshake_inode: None,
        stdio: None,
        staging: &staging,
        init_file,
    };
    covers::make_equal(plan, created.init, &COVERED.map(|(target, _)| target))?;
    podman::forget_covered()?;
    // Before anything is opened in it: it could be the host's network.
    verify::verify_created(plan, &places, &facts)?;
    steps.end("verify what was created");
    podman::enter_network(created.init)?;
    sys::loopback_up().step(|| "bring the loopback interface up".to_owned())?;
    open_listeners(given)?;
    let terminal = if plan.terminal {
        let (master, slave) = podman::open_terminal(given.window)?;
        channel.send(&FromLauncher::Terminal, &[master.as_fd()])?;
        Some(slave)
    } else {
        None
    };
    let runtime = podman.start(given.stdio.as_ref(), terminal)?;
    let mut container =
        Container::new(runtime, (Stay::UntilTheEnd, leaf), Line::Awaited(listener), Below::Podman(created));
    let ready = container.wait_until_ready(plan, None, channel)?;
    podman::forget_socket()?;
    steps.end("podman start");
    if ready.pid != facts.init {
        let error = Error::failed("verify: what spoke as the init is not the container's PID 1");
        return Err(container.kill_because(error));
    }
    proceed(given, container, &ready, (&places, &facts), steps)
}

/// Verifies, gives the word to go on, and stays until the end.
fn proceed(
    given: &Inheritance<'_>,
    mut container: Container,
    ready: &Ready,
    (places, facts): (&[Option<Place>], &verify::Facts<'_>),
    mut steps: Steps,
) -> Result<FromLauncher> {
    let channel = &given.channel;
    let mut report = verify::verify(given.plan, places, facts).map_err(|error| container.kill_because(error))?;
    container.check_cgroup(ready.pid)?;
    if let Some(finding) = &ready.finding {
        let error = Error::failed("verify: the seccomp filter in force is not the plan's").because(finding);
        return Err(container.kill_because(error));
    }
    steps.end("verify");
    if !given.plan.egress.listeners.is_empty() {
        container.wait_for_gateway(channel)?;
        steps.end("wait for the gateway");
    }
    report.steps = steps.into_list();
    let replaced = Replaced::remember(given.plan, ready.pid)?;
    channel.send(&FromLauncher::Started(report), &[])?;
    container.go_on(given.plan, streams_of(given.stdio.as_ref())?)?;
    container.watch((ready.pid, &given.plan.limits), channel, replaced)
}

fn streams_of(stdio: Option<&[OwnedFd; 3]>) -> Result<Streams> {
    let Some([_, stdout, stderr]) = stdio else { return Ok(Streams::Two) };
    let same = verify::inode_of(stdout)? == verify::inode_of(stderr)?;
    Ok(if same { Streams::One } else { Streams::Two })
}

/// Opens the sockets that the gateway serves, and hands them over.
fn open_listeners(given: &Inheritance<'_>) -> Result<()> {
    let egress = &given.plan.egress;
    if egress.listeners.is_empty() {
        return Ok(());
    }
    if egress.mode == EgressMode::Gateway {
        network::catch_all()?;
    }
    let opened = network::open(&egress.listeners)?;
    let (what, sockets): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    given.channel.send(&FromLauncher::Listeners(what), &borrowed)
}

/// uid and gid 0 of the own namespace, no other groups. Only a caller that is
/// root may drop groups (user_namespaces(7), setgroups).
fn become_namespace_root() -> Result<()> {
    let zero = (Uid::from_raw(0), Gid::from_raw(0));
    let _ = setgroups(&[]);
    setresgid(zero.1, zero.1, zero.1).step(|| "become gid 0 of the launcher's namespace".to_owned())?;
    setresuid(zero.0, zero.0, zero.0).step(|| "become uid 0 of the launcher's namespace".to_owned())
}

fn die_with_supervisor(supervisor: BorrowedFd<'_>) -> Result<()> {
    // After the change of ids, which clears it (prctl(2)).
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step(|| "tie the launcher to the supervisor".to_owned())?;
    let mut watched = [PollFd::new(supervisor, PollFlags::POLLIN)];
    if poll(&mut watched, PollTimeout::ZERO).unwrap_or(1) != 0 {
        return Err(Error::failed("the supervisor is gone"));
    }
    setsid().step(|| "leave the caller's session".to_owned())?;
    let null = fs::File::options().read(true).write(true).open("/dev/null").step(|| "open /dev/null".to_owned())?;
    let dup = || -> nix::Result<()> {
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)
    };
    dup().step(|| "let go of the caller's terminal".to_owned())
}

fn receive_mounts(channel: &Channel) -> Result<BTreeMap<usize, OwnedFd>> {
    let mut detached = BTreeMap::new();
    loop {
        match channel.receive::<ToLauncher>()? {
            Some((ToLauncher::Mounts(places), descriptors)) => detached.extend(places.into_iter().zip(descriptors)),
            Some((ToLauncher::MountsEnd, _)) => return Ok(detached),
            _ => return Err(Error::failed("the supervisor ended while it sent mounts")),
        }
    }
}

fn console_listener() -> Result<UnixListener> {
    let path = staged("console.sock");
    UnixListener::bind(&path).step(|| format!("listen on {}", path.display()))
}

fn start_runtime(given: &Inheritance<'_>, leaf: Option<&Leaf>, handshake: OwnedFd) -> Result<Child> {
    let plan = given.plan;
    let start = Start {
        kind: plan.runtime.kind,
        program: if plan.runtime.staged { staged("runtime") } else { plan.runtime.path.clone() },
        readonly_program: plan.runtime.staged,
        bundle: staged("bundle"),
        state: staged("state"),
        log: staged("runtime.log"),
        console: plan.terminal.then(|| staged("console.sock")),
        helpers: staged("helpers"),
        id: given.run.to_owned(),
    };
    let mut command = backend::command(&start);
    match &given.stdio {
        Some([stdin, stdout, stderr]) => {
            let own = |fd: &OwnedFd| fd.try_clone().map(Stdio::from).step(|| "pass the agent's stdio".to_owned());
            command.stdin(own(stdin)?).stdout(own(stdout)?).stderr(own(stderr)?);
        }
        None => {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
    }
    // First: descriptor 3 may be the way in.
    leaf.map_or(Ok(()), |leaf| leaf.enter(&mut command))?;
    sys::pass_as_descriptor_3(&mut command, handshake);
    command.spawn().step(|| format!("start the runtime {}", start.program.display()))
}
