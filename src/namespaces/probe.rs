//! Tries what every run does in namespaces, in a child that is thrown away.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, getegid, geteuid, pipe, pivot_root, read, setresgid, setresuid, write};

use super::facts::KINDS;
use super::{LAUNCHER, Restriction};
use crate::config::is_real_root;
use crate::plan::HOST_ID_BASE;
use crate::sys;

/// What the child reports when all of it worked.
const ALL: u8 = u8::MAX;

/// What is tried, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Threads: the supervisor has some.
    Threads,
    /// Namespaces of the launcher.
    Namespaces,
    /// Its id maps.
    Maps,
    /// Taking the ids that are mapped.
    Ids,
    /// Taking the mounts out of the host's propagation.
    PrivateMounts,
    /// The staging area.
    Tmpfs,
    /// A /proc of the run's own.
    Proc,
    /// Shadows merged over a project.
    Overlay,
    /// The container's own namespaces, in the launcher's.
    Nested,
    /// Entering the container's, to look at what was made.
    Enter,
    /// A root directory of the run's own.
    Root,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Threads,
        Self::Namespaces,
        Self::Maps,
        Self::Ids,
        Self::PrivateMounts,
        Self::Tmpfs,
        Self::Proc,
        Self::Overlay,
        Self::Nested,
        Self::Enter,
        Self::Root,
    ];

    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Namespaces => "namespaces",
            Self::Maps => "id maps",
            Self::Ids => "ids",
            Self::PrivateMounts => "private mounts",
            Self::Tmpfs => "tmpfs",
            Self::Proc => "proc",
            Self::Overlay => "overlay",
            Self::Nested => "nested namespace",
            Self::Enter => "entering namespaces",
            Self::Root => "own root",
        }
    }

    /// That it works.
    pub fn works(self) -> &'static str {
        match self {
            Self::Threads => "threads can be made",
            Self::Namespaces => "user, mount, PID, network, IPC and cgroup namespaces can be made",
            Self::Maps => "the own ids can be mapped",
            Self::Ids => "the ids of a run can be taken",
            Self::PrivateMounts => "mounts of a run stay its own",
            Self::Tmpfs => "the staging area can be mounted",
            Self::Proc => "a fresh /proc can be mounted",
            Self::Overlay => "shadows can be merged over a project",
            Self::Nested => "the container can have namespaces of its own",
            Self::Enter => "namespaces of a run can be entered",
            Self::Root => "a run can have a root directory of its own",
        }
    }

    /// That it does not.
    pub fn failed(self) -> &'static str {
        match self {
            Self::Threads => "threads cannot be made",
            Self::Namespaces => "namespaces of its own cannot be made",
            Self::Maps => "ids cannot be mapped in a user namespace of its own",
            Self::Ids => "ids of a user namespace of its own cannot be taken",
            Self::PrivateMounts | Self::Tmpfs => "nothing can be mounted in namespaces of its own",
            Self::Proc => "a /proc of its own cannot be mounted",
            Self::Overlay => "an overlay cannot be mounted in namespaces of its own",
            Self::Nested => "namespaces of the container cannot be made in the launcher's",
            Self::Enter => "namespaces of its own cannot be entered",
            Self::Root => "the root directory cannot be changed in namespaces of its own",
        }
    }

    /// Why it matters.
    pub fn matters(self) -> &'static str {
        match self {
            Self::Threads => "the supervisor has some",
            Self::Namespaces | Self::Maps | Self::Ids => "every run is made in namespaces of its own",
            Self::PrivateMounts | Self::Tmpfs => "everything that a run mounts is staged first",
            Self::Proc => "a run sees its own processes only; inside another container /proc must be unmasked",
            Self::Overlay => "secrets in a project are hidden by an overlay",
            Self::Nested => "the agent has no capability even in the namespace that the mounts were made in",
            Self::Enter => "belljar looks at the container before the agent runs",
            Self::Root => "the agent sees the root of its bundle only",
        }
    }

    /// What a filter refuses that lets namespaces be made.
    pub fn call(self) -> Option<&'static str> {
        match self {
            Self::PrivateMounts | Self::Tmpfs | Self::Proc | Self::Overlay => Some("mounting"),
            Self::Threads => Some("clone3, by which threads are made (other answers than ENOSYS to it are wrong)"),
            Self::Ids => Some("setresuid or setresgid"),
            Self::Enter => Some("setns"),
            Self::Root => Some("pivot_root"),
            Self::Namespaces | Self::Maps | Self::Nested => None,
        }
    }
}

/// Tries every step, and explains the first one that fails. The caller must have
/// one thread.
pub fn try_all() -> Option<Restriction> {
    if let Some(restriction) = try_threads() {
        return Some(restriction);
    }
    let (step, errno) = match first_failure() {
        Ok(failure) => failure?,
        Err(errno) => (Step::Namespaces, errno),
    };
    Some(Restriction::of(step, errno))
}

/// Tries the threads alone. A C library makes them by clone3, and falls back to
/// clone only where that is not there (ENOSYS).
pub fn try_threads() -> Option<Restriction> {
    let error = thread::Builder::new().spawn(|| ()).map(JoinHandle::join).err()?;
    Some(Restriction::of(Step::Threads, errno_of(&error)))
}

/// Kinds of namespaces that cannot be made together with a user namespace alone.
pub fn refused_alone() -> Vec<(&'static str, Errno)> {
    let with = [
        CloneFlags::empty(),
        CloneFlags::CLONE_NEWNS,
        CloneFlags::CLONE_NEWPID,
        CloneFlags::CLONE_NEWNET,
        CloneFlags::CLONE_NEWIPC,
        CloneFlags::CLONE_NEWCGROUP,
        CloneFlags::CLONE_NEWUTS,
    ];
    let refused = |(kind, with)| make(CloneFlags::CLONE_NEWUSER | with).err().map(|errno| (kind, errno));
    KINDS.into_iter().zip(with).filter_map(refused).collect()
}

/// Makes namespaces for a child that ends at once.
fn make(flags: CloneFlags) -> nix::Result<()> {
    waitpid(sys::clone_process(flags, || 0)?, None).map(drop)
}

fn first_failure() -> nix::Result<Option<(Step, Errno)>> {
    let (begin_read, begin_write) = pipe()?;
    let (result_read, result_write) = pipe()?;
    let child = sys::clone_process(LAUNCHER, || {
        // Without the other ends, a caller that dies ends the read below too.
        sys::close_all_but(&[begin_read.as_fd(), result_write.as_fd()]);
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        // A supervisor is not dumpable, and nor would this child be: its maps would be root's to write (proc(5)).
        if nix::sys::prctl::set_dumpable(true).is_err() || write(&result_write, b"r") != Ok(1) {
            return 1;
        }
        let mut word = [0u8];
        if read(&begin_read, &mut word) != Ok(1) {
            return 1;
        }
        let report = match attempt() {
            Ok(()) => [ALL, 0],
            Err((step, errno)) => [step as u8, u8::try_from(errno as i32).unwrap_or(0)],
        };
        isize::from(write(&result_write, &report).is_err())
    })?;
    drop(result_write);
    let maps = || -> std::io::Result<()> {
        fs::write(format!("/proc/{child}/setgroups"), "deny")?;
        // Root's own ids are not in the maps of root's runs, nor could they be without CAP_SETFCAP.
        let (uid, gid) =
            if is_real_root() { (HOST_ID_BASE, HOST_ID_BASE) } else { (geteuid().as_raw(), getegid().as_raw()) };
        fs::write(format!("/proc/{child}/uid_map"), format!("0 {uid} 1\n"))?;
        fs::write(format!("/proc/{child}/gid_map"), format!("0 {gid} 1\n"))
    };
    let mut ready = [0u8];
    if read(&result_read, &mut ready) != Ok(1) {
        let _ = waitpid(child, None);
        return Ok(Some((Step::Namespaces, Errno::ECHILD)));
    }
    let mapped = maps();
    if mapped.is_ok() {
        let _ = write(&begin_write, b"b");
    }
    drop(begin_write);
    let mut report = [0u8; 2];
    let got = read(&result_read, &mut report);
    let _ = waitpid(child, None);
    if let Err(error) = mapped {
        return Ok(Some((Step::Maps, errno_of(&error))));
    }
    let step = Step::ALL.into_iter().find(|step| *step as u8 == report[0]);
    Ok(match (got, step) {
        (Ok(2), None) => None,
        (Ok(2), Some(step)) => Some((step, Errno::from_raw(i32::from(report[1])))),
        // It was killed.
        _ => Some((Step::Namespaces, Errno::ECHILD)),
    })
}

fn attempt() -> Result<(), (Step, Errno)> {
    let none: Option<&str> = None;
    let at = |step: Step| move |errno: Errno| (step, errno);
    // Who called may have no place in the maps.
    let zero = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(zero.0, zero.0, zero.0).and_then(|()| setresuid(zero.1, zero.1, zero.1)).map_err(at(Step::Ids))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(at(Step::PrivateMounts))?;
    mount(Some("belljar"), "/sys/fs", Some("tmpfs"), MsFlags::empty(), none).map_err(at(Step::Tmpfs))?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).map_err(at(Step::Proc))?;
    for path in ["/sys/fs/a", "/sys/fs/b", "/sys/fs/c"] {
        fs::create_dir(path).map_err(|error| (Step::Tmpfs, errno_of(&error)))?;
    }
    mount(
        Some("overlay"),
        "/sys/fs/c",
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some("lowerdir=/sys/fs/a:/sys/fs/b,userxattr"),
    )
    .map_err(at(Step::Overlay))?;
    make(LAUNCHER | CloneFlags::CLONE_NEWUTS).map_err(at(Step::Nested))?;
    let own = File::open("/proc/self/ns/mnt").map_err(|error| (Step::Enter, errno_of(&error)))?;
    setns(own, CloneFlags::CLONE_NEWNS).map_err(at(Step::Enter))?;
    pivot_root("/sys/fs", "/sys/fs/a").map_err(at(Step::Root))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
