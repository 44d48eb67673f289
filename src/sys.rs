//! The system calls that no library wraps. The only module with `unsafe`.
//!
//! Nothing here decides anything: each function is one call with its error.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

/// Stack of the launcher, in bytes; pages are only touched when used.
const STACK: usize = 4 << 20;

/// Starts `child` in a copy of this process, in the namespaces of `flags`
/// (clone(2)). The caller must have one thread.
pub fn clone_process(flags: CloneFlags, mut child: impl FnMut() -> isize) -> nix::Result<Pid> {
    let mut stack = vec![0u8; STACK];
    // SAFETY: without CLONE_VM the child has its own copy of the memory, so the
    // stack and the closure stay valid in it whatever this process does; this
    // process has one thread, so no lock is held by a thread that the copy lacks.
    unsafe { nix::sched::clone(Box::new(&mut child), &mut stack, flags, Some(libc::SIGCHLD)) }
}

/// Forks; true in the child. The caller must have one thread.
pub fn fork() -> nix::Result<nix::unistd::ForkResult> {
    // SAFETY: one thread, so the child finds every lock free.
    unsafe { nix::unistd::fork() }
}

/// What `mount_setattr` is to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes<'a> {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear.
    pub clear: u64,
    /// A user namespace whose map the mount gets (`MOUNT_ATTR_IDMAP`).
    pub idmap: Option<BorrowedFd<'a>>,
    /// Receives and passes on no mounts any more (MS_PRIVATE).
    pub private: bool,
    /// Also on every mount below.
    pub recursive: bool,
}

/// mount_setattr(2) on the mount that `fd` is the root of (Linux 5.12).
pub fn mount_setattr(fd: impl AsFd, attributes: MountAttributes<'_>) -> io::Result<()> {
    // SAFETY: the structure is plain integers, for which zero is valid.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = attributes.set;
    attr.attr_clr = attributes.clear;
    if attributes.private {
        attr.propagation = libc::MS_PRIVATE;
    }
    if let Some(namespace) = attributes.idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = namespace.as_raw_fd() as u64;
    }
    let recursive = if attributes.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure lives through the
    // call and its true size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Brings the loopback interface of the calling network namespace up
/// (netdevice(7)).
pub fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an ifreq is plain bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives through the call and names its interface.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `command` start with `fd` as its descriptor 3, not closed on exec.
pub fn pass_as_descriptor_3(command: &mut Command, fd: OwnedFd) {
    let setup = move || {
        if fd.as_raw_fd() == 3 {
            nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        } else {
            // SAFETY: dup2 takes integers and is async-signal-safe.
            if unsafe { libc::dup2(fd.as_raw_fd(), 3) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes calls that are async-signal-safe
    // (signal-safety(7)) and allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// Makes `command` enter a cgroup before it is executed: `0`, written to the
/// `cgroup.procs` that `procs` is, is the writer (cgroup-v2, "Processes").
pub fn enter_cgroup(command: &mut Command, procs: OwnedFd) {
    let setup = move || nix::unistd::write(&procs, b"0").map(drop).map_err(io::Error::from);
    // SAFETY: the closure makes one call that is async-signal-safe and allocates
    // nothing.
    unsafe { command.pre_exec(setup) };
}

/// Makes `command` hear signals that this thread holds back.
pub fn let_signals_in(command: &mut Command) {
    let all = nix::sys::signal::SigSet::all();
    let setup = move || all.thread_unblock().map_err(io::Error::from);
    // SAFETY: sigprocmask is async-signal-safe, and the closure allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// Takes over what [`pass_as_descriptor_3`] gave. What this process has opened by
/// itself is closed on exec, and is not taken for it.
pub fn take_descriptor_3() -> Option<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: it is only looked at, and need not be open.
    let given = unsafe { BorrowedFd::borrow_raw(3) };
    if fcntl(given, FcntlArg::F_GETFD) != Ok(0) || fcntl(given, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
        return None;
    }
    Some(own(3))
}

/// Makes `command` start in a cgroup namespace of its own, with the cgroup that
/// it is in then as its root (cgroup_namespaces(7)).
pub fn unshare_cgroups(command: &mut Command) {
    let setup = || nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).map_err(io::Error::from);
    // SAFETY: the closure makes one call that is async-signal-safe and allocates
    // nothing.
    unsafe { command.pre_exec(setup) };
}

/// Makes `command` get the signal when the thread that starts it ends (prctl(2),
/// PR_SET_PDEATHSIG).
pub fn end_with_parent(command: &mut Command, signal: nix::sys::signal::Signal) {
    let setup = move || nix::sys::prctl::set_pdeathsig(signal).map_err(io::Error::from);
    // SAFETY: the closure makes one call that is async-signal-safe and allocates
    // nothing.
    unsafe { command.pre_exec(setup) };
}

/// Makes `command` start in a session of its own, with its stdin as controlling
/// terminal (ioctl_tty(2), TIOCSCTTY).
pub fn take_terminal(command: &mut Command) {
    let setup = || {
        nix::unistd::setsid()?;
        // SAFETY: integers only.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure only makes calls that are async-signal-safe and
    // allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// Makes `command` start without any descriptor above 2, whatever this process
/// forgot to mark (close_range(2), CLOSE_RANGE_CLOEXEC: Linux 5.11).
pub fn close_above_2_on_exec(command: &mut Command) {
    let setup = || {
        // SAFETY: integers only; marking closes nothing before the exec.
        let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes one call that is async-signal-safe and allocates
    // nothing.
    unsafe { command.pre_exec(setup) };
}

/// How the tables of open files of two threads compare: equal where they are one
/// table, else in an order that is the same each time (kcmp(2), KCMP_FILES).
pub fn compare_files(one: Pid, other: Pid) -> io::Result<std::cmp::Ordering> {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: integers only.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, one.as_raw(), other.as_raw(), KCMP_FILES, 0, 0) };
    match answer {
        0 => Ok(std::cmp::Ordering::Equal),
        1 => Ok(std::cmp::Ordering::Less),
        2 => Ok(std::cmp::Ordering::Greater),
        -1 => Err(io::Error::last_os_error()),
        _ => Err(io::Error::other("kcmp gives no order")),
    }
}

/// Takes over a descriptor that the kernel has just given to this process, as
/// received by SCM_RIGHTS.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller got the number from the kernel for itself; nobody else
    // in this process knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes every descriptor above 2 but those in `keep` (close_range(2), Linux
/// 5.9). Nothing in the process may use the others after.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.push(u32::MAX);
    keep.sort_unstable();
    let mut first = 3;
    for kept in keep {
        if first < kept {
            // SAFETY: integers only; the caller uses no other descriptor after.
            unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0) };
        }
        first = first.max(kept.saturating_add(1));
    }
}

/// Ends this process at once, without running what the supervisor registered to
/// run at its own end; for forked children.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}
