//! The launcher: a process in namespaces of its own (user, mount, network,
//! cgroup, PID, IPC), uid 0 of its namespace only, one thread. It fills the
//! staging area, starts the runtime, verifies, gives the word to go on, and
//! stays as PID 1 of its process namespace: when it dies, all below it dies.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, send, setsockopt, socketpair,
    sockopt,
};
use nix::unistd::{Gid, Pid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, setgroups, setresgid, setresuid, setsid};

use super::network;
use super::protocol::{Channel, FromLauncher, ToLauncher};
use super::replaced::Replaced;
use super::staging::{self, staged};
use super::steps::Steps;
use super::verify;
use crate::backend::{self, Start};
use crate::bundle::{Places, render};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{EgressMode, Plan, read_mountinfo};
use crate::sys;

/// How long the runtime may take until the init reports.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a runtime that has not reported is looked at.
const LOOK: Duration = Duration::from_millis(100);

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
}

/// Runs to the end of the container. Every error goes to the supervisor.
pub fn main(inheritance: Inheritance<'_>) -> isize {
    let channel = &inheritance.channel;
    // The supervisor's own ends of the agent's pipes must not stay open here:
    // the agent would wait for the end of its input for ever.
    let mut keep = vec![channel.as_fd(), inheritance.supervisor.as_fd()];
    keep.extend(inheritance.stdio.iter().flatten().map(AsFd::as_fd));
    sys::close_all_but(&keep);
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
    match channel.receive::<ToLauncher>()? {
        Some((ToLauncher::Begin, _)) => {}
        _ => {
            return Err(Error::failed("the supervisor ended before the launcher began"));
        }
    }
    if given.plan.limits.cgroup_parent.is_some() {
        // Made only now that the supervisor has moved this process to its cgroup.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).step(|| "make a cgroup namespace".to_owned())?;
    }
    become_namespace_root()?;
    if given.plan.egress.helper.is_some() {
        // pasta looks up the namespaces in /proc, which the change of ids closed.
        nix::sys::prctl::set_dumpable(true).step(|| "let pasta find the namespaces".to_owned())?;
    }
    die_with_supervisor(given.supervisor.as_fd())?;
    steps.end("wait for id maps");
    staging::prepare()?;
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
        mapped_to: identity.in_launcher,
        own_network: false,
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
    let mut container = Container { runtime: start_runtime(given, theirs)?, handshake: ours, gateway_serves: false };
    let ready = container.wait_until_ready(given, console.as_ref(), channel)?;
    steps.end("runtime");
    let facts = verify::Facts {
        init: ready.pid,
        handshake_inode: theirs_inode,
        stdio: given.stdio.as_ref(),
        staging: &staging,
        init_file,
    };
    let mut report = verify::verify(given.plan, &places, &facts).map_err(|error| container.kill_because(error))?;
    if let Some(finding) = ready.finding {
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
    send(container.handshake.as_raw_fd(), b"GO", MsgFlags::MSG_NOSIGNAL)
        .step(|| "give the init the word to go on".to_owned())?;
    container.watch(ready.pid, channel, replaced)
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

fn start_runtime(given: &Inheritance<'_>, handshake: OwnedFd) -> Result<Child> {
    let plan = given.plan;
    let start = Start {
        program: if plan.runtime.staged { staged("runtime") } else { plan.runtime.path.clone() },
        readonly_program: plan.runtime.staged,
        bundle: staged("bundle"),
        state: staged("state"),
        log: staged("runtime.log"),
        console: plan.terminal.then(|| staged("console.sock")),
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
    sys::pass_as_descriptor_3(&mut command, handshake);
    command.spawn().step(|| format!("start the runtime {}", start.program.display()))
}

/// What the init reported.
struct Ready {
    /// Its pid in the launcher's process namespace, from the kernel.
    pid: Pid,
    /// What it found wrong.
    finding: Option<String>,
}

enum InitSays {
    Ready(Ready),
    NotExecuted(i32),
    Exited(i32),
    Gone,
}

struct Container {
    runtime: Child,
    handshake: OwnedFd,
    gateway_serves: bool,
}

impl Container {
    /// Waits for the init's report, and meanwhile for the terminal, the
    /// supervisor's word, and a runtime that fails or starts something else.
    fn wait_until_ready(
        &mut self,
        given: &Inheritance<'_>,
        console: Option<&UnixListener>,
        channel: &Channel,
    ) -> Result<Ready> {
        let begun = Instant::now();
        let mut console = console;
        loop {
            let mut watched = vec![
                PollFd::new(self.handshake.as_fd(), PollFlags::POLLIN),
                PollFd::new(channel.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(console) = console {
                watched.push(PollFd::new(console.as_fd(), PollFlags::POLLIN));
            }
            poll_for(&mut watched, LOOK)?;
            let woken: Vec<bool> =
                watched.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
            if woken.get(2) == Some(&true) {
                if let Some(listener) = console.take() {
                    let master = receive_master(listener)?;
                    channel.send(&FromLauncher::Terminal, &[master.as_fd()])?;
                }
            }
            if woken[1] {
                self.obey_before_start(channel)?;
            }
            if woken[0] {
                match hear(&self.handshake)? {
                    InitSays::Ready(ready) if console.is_none() || !given.plan.terminal => {
                        return Ok(ready);
                    }
                    InitSays::Ready(_) => {
                        return Err(self.kill_because(Error::failed("verify: the runtime made no terminal")));
                    }
                    _ => return Err(self.failure(given)),
                }
            }
            if let Some(difference) = verify::stranger_as_pid_1() {
                let error =
                    Error::failed("verify: PID 1 of the container is not belljar's init; the agent did not run");
                return Err(self.kill_because(error.because(difference)));
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(self.kill_because(
                    Error::failed(format!(
                        "start the container: the init did not report within {} s",
                        START_TIMEOUT.as_secs()
                    ))
                    .hint("belljar doctor"),
                ));
            }
        }
    }

    /// The gateway serves: its files are put where the agent's programs look.
    fn proceed(&mut self, names: Vec<String>, files: Vec<OwnedFd>) -> Result<()> {
        staging::add_own_files(names, files).map_err(|error| self.kill_because(error))?;
        self.gateway_serves = true;
        Ok(())
    }

    /// Nothing may run before something answers on the listeners.
    fn wait_for_gateway(&mut self, channel: &Channel) -> Result<()> {
        while !self.gateway_serves {
            match channel.receive::<ToLauncher>()? {
                Some((ToLauncher::Proceed(names), files)) => self.proceed(names, files)?,
                Some((ToLauncher::Refresh(_), _)) => {}
                _ => return Err(self.kill_because(Error::failed("the run was ended before the agent began"))),
            }
        }
        Ok(())
    }

    fn obey_before_start(&mut self, channel: &Channel) -> Result<()> {
        match channel.receive::<ToLauncher>()? {
            Some((ToLauncher::Refresh(_), _)) => Ok(()),
            Some((ToLauncher::Proceed(names), files)) => self.proceed(names, files),
            _ => Err(self.kill_because(Error::failed("the run was ended before the agent began"))),
        }
    }

    /// Why the runtime ended before the init reported, in its own words.
    fn failure(&mut self, given: &Inheritance<'_>) -> Error {
        let code = self.wait_runtime_briefly();
        let log = fs::read_to_string(staged("runtime.log")).unwrap_or_default();
        let said: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let mut error = Error::failed(format!("start the container with {}", given.plan.runtime.path.display()));
        for line in &said {
            error = error.because(line);
        }
        if said.is_empty() {
            error = error.because(format!(
                "PID 1 was not belljar's init, or ended without a report (runtime's exit code {code:?})"
            ));
        }
        self.kill_because(error.hint("belljar doctor"))
    }

    fn wait_runtime_briefly(&mut self) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if let Ok(Some(status)) = self.runtime.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Ends the container before the agent's first instruction.
    fn kill_because(&mut self, error: Error) -> Error {
        let _ = self.runtime.kill();
        // PID 1 of this process namespace: -1 is everything below, and only that.
        let _ = nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
        Error { kind: Kind::Failed, ..error }
    }

    /// Stays until the container has ended.
    fn watch(&mut self, init: Pid, channel: &Channel, mut replaced: Replaced) -> Result<FromLauncher> {
        let runtime = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&self.runtime),
            rustix::process::PidfdFlags::empty(),
        )
        .step(|| "watch the runtime".to_owned())?;
        let mut wait_status = None;
        let mut init_speaks = true;
        loop {
            let mut watched =
                vec![PollFd::new(runtime.as_fd(), PollFlags::POLLIN), PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
            if init_speaks {
                watched.push(PollFd::new(self.handshake.as_fd(), PollFlags::POLLIN));
            }
            poll_for(&mut watched, Duration::from_secs(3600))?;
            let woken: Vec<bool> =
                watched.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
            drop(watched);
            if woken.get(2) == Some(&true) {
                match hear(&self.handshake)? {
                    InitSays::NotExecuted(errno) => channel.send(&FromLauncher::NotExecuted(errno), &[])?,
                    InitSays::Exited(status) => wait_status = Some(status),
                    InitSays::Gone => init_speaks = false,
                    InitSays::Ready(_) => {}
                }
                continue;
            }
            if woken[1] {
                self.obey(init, channel, &mut replaced)?;
            }
            if woken[0] {
                let status = self.runtime.wait().step(|| "wait for the runtime".to_owned())?;
                return Ok(FromLauncher::Ended { wait_status, runtime_code: status.code() });
            }
        }
    }

    fn obey(&mut self, init: Pid, channel: &Channel, replaced: &mut Replaced) -> Result<()> {
        let Some((message, _)) = channel.receive::<ToLauncher>()? else {
            return Err(self.kill_because(Error::failed("the supervisor is gone")));
        };
        match message {
            ToLauncher::Signal(number) => {
                if let Ok(signal) = Signal::try_from(number) {
                    let _ = nix::sys::signal::kill(init, signal);
                }
            }
            ToLauncher::Kill => {
                let _ = nix::sys::signal::kill(init, Signal::SIGKILL);
            }
            ToLauncher::Refresh(index) => {
                replaced.uncover(index);
                // A name that could not be refreshed stays as old as it is.
                let _ = staging::refresh(index);
            }
            ToLauncher::Begin | ToLauncher::Mounts(_) | ToLauncher::MountsEnd | ToLauncher::Proceed(_) => {}
        }
        Ok(())
    }
}

fn poll_for(watched: &mut [PollFd<'_>], timeout: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(watched, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).step(|| "wait for the container".to_owned()),
    }
}

/// One message of the init, with its pid as the kernel tells it (unix(7),
/// SCM_CREDENTIALS).
fn hear(handshake: &OwnedFd) -> Result<InitSays> {
    let step = || "hear the init".to_owned();
    let mut buffer = [0u8; 512];
    let mut control = nix::cmsg_space!(libc::ucred, [RawFd; 4]);
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<UnixAddr>(handshake.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
    let got = match got {
        Err(nix::errno::Errno::ECONNRESET) => return Ok(InitSays::Gone),
        got => got.step(step)?,
    };
    let mut pid = 0;
    for message in got.cmsgs().step(step)? {
        match message {
            ControlMessageOwned::ScmCredentials(credentials) => pid = credentials.pid(),
            ControlMessageOwned::ScmRights(descriptors) => descriptors.into_iter().map(sys::own).for_each(drop),
            _ => {}
        }
    }
    let length = got.bytes;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let number = |text: &str| text.trim().parse::<i32>().unwrap_or(0);
    Ok(match text.split_once(' ').unwrap_or((&text, "")) {
        ("READY", rest) => {
            InitSays::Ready(Ready { pid: Pid::from_raw(pid), finding: (!rest.is_empty()).then(|| rest.to_owned()) })
        }
        ("EXEC", rest) => InitSays::NotExecuted(number(rest)),
        ("EXIT", rest) => InitSays::Exited(number(rest)),
        _ => InitSays::Gone,
    })
}

/// The terminal's master side, as the runtime sends it (runc's console socket
/// protocol, which crun shares). A message without it means that it failed.
fn receive_master(listener: &UnixListener) -> Result<OwnedFd> {
    let step = || "receive the terminal from the runtime".to_owned();
    let (stream, _) = listener.accept().step(step)?;
    let mut buffer = [0u8; 256];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
        .step(step)?;
    let mut descriptors = Vec::new();
    for message in got.cmsgs().step(step)? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            descriptors.extend(raw.into_iter().map(sys::own));
        }
    }
    descriptors.into_iter().next().ok_or_else(|| Error::failed("the runtime made no terminal"))
}
