//! PID 1 of every container: proves where it stands, waits for the word, runs
//! the agent, forwards signals, reaps, and passes the agent's status on.
//!
//! Compiled by `build.rs` into a static program without any crate, because it
//! has to run in any root. It speaks with the launcher over one SEQPACKET
//! socket: `READY <finding>` out, `GO` in, `EXEC <errno>` or
//! `EXIT <wait status>` out, with `full` where no more processes could be. The socket is a descriptor that it was started
//! with, or a path to connect to, where something stands between the launcher
//! and it that passes no descriptors on (podman). In that case the word is
//! `GO <bytes> <processes> <streams>`: the whole environment of the agent
//! follows, its process limit is set here, where the namespace holds nothing
//! else, `one` stream makes stderr the same pipe as stdout, and the init ends
//! with the launcher. The launcher believes none of it before it has
//! read the kernel's view of this process; see `launch::verify`.

use std::ffi::{CString, OsString, c_char, c_int, c_long, c_ulong, c_void};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicI32, Ordering};

#[allow(unsafe_code)]
mod sys {
    //! The few calls of libc that the init needs. All arguments are plain
    //! integers or pointers to live, NUL-terminated buffers.
    use super::*;

    unsafe extern "C" {
        pub fn prctl(option: c_int, arg2: c_ulong, arg3: c_ulong, arg4: c_ulong, arg5: c_ulong) -> c_int;
        pub fn fcntl(fd: c_int, cmd: c_int, arg: c_int) -> c_int;
        pub fn send(fd: c_int, buf: *const c_void, len: usize, flags: c_int) -> isize;
        pub fn recv(fd: c_int, buf: *mut c_void, len: usize, flags: c_int) -> isize;
        pub fn fork() -> c_int;
        pub fn getrlimit(resource: c_int, limit: *mut c_void) -> c_int;
        pub fn pause() -> c_int;
        pub fn close(fd: c_int) -> c_int;
        pub fn setpgid(pid: c_int, pgid: c_int) -> c_int;
        pub fn tcsetpgrp(fd: c_int, pgid: c_int) -> c_int;
        pub fn isatty(fd: c_int) -> c_int;
        pub fn execvp(file: *const c_char, argv: *const *const c_char) -> c_int;
        pub fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
        pub fn kill(pid: c_int, sig: c_int) -> c_int;
        pub fn signal(sig: c_int, handler: usize) -> usize;
        pub fn sigprocmask(how: c_int, set: *const c_void, old: *mut c_void) -> c_int;
        pub fn _exit(code: c_int) -> !;
        pub fn syscall(number: c_long, ...) -> c_long;
        pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        pub fn connect(fd: c_int, address: *const c_void, length: u32) -> c_int;
        pub fn setrlimit(resource: c_int, limit: *const c_void) -> c_int;
        pub fn dup2(from: c_int, to: c_int) -> c_int;
        pub static mut environ: *const *const c_char;
    }
}

const PR_SET_DUMPABLE: c_int = 4;
const AF_UNIX: c_int = 1;
const SOCK_SEQPACKET: c_int = 5;
const F_SETFD: c_int = 2;
const F_SETFL: c_int = 4;
const F_SETOWN: c_int = 8;
const O_ASYNC: c_int = 0o20000;
const MSG_PEEK: c_int = 2;
const MSG_DONTWAIT: c_int = 0x40;
const SIGIO: c_int = 29;
const RLIMIT_NPROC: c_int = 6;
const FD_CLOEXEC: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const SIGTTOU: c_int = 22;
const SIG_SETMASK: c_int = 2;
/// Larger than any libc's sigset_t, of which 0 is the empty set.
const NO_SIGNAL: [u64; 16] = [0; 16];
const EVERY_SIGNAL: [u64; 16] = [u64::MAX; 16];
const EINTR: i32 = 4;
const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const ENOSYS: i32 = 38;
/// HUP, INT, QUIT, USR1, USR2, TERM, CONT, WINCH.
const FORWARDED: [c_int; 8] = [1, 2, 3, 10, 12, 15, 18, 28];
const LAST_SIGNAL: c_int = 64;

/// The agent's process group; 0 until it runs.
static AGENT: AtomicI32 = AtomicI32::new(0);
/// A signal that came before the agent ran, to be passed on then; 0 for none.
static EARLY: AtomicI32 = AtomicI32::new(0);
/// The socket to a launcher that this process must not outlive; -1 for none.
static LAUNCHER: AtomicI32 = AtomicI32::new(-1);

extern "C" fn forward(signal: c_int) {
    let agent = AGENT.load(Ordering::SeqCst);
    if agent > 0 {
        // SAFETY: kill is async-signal-safe (signal-safety(7)) and takes integers.
        #[allow(unsafe_code)]
        unsafe {
            sys::kill(-agent, signal)
        };
    } else {
        EARLY.store(signal, Ordering::SeqCst);
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn tell(fd: c_int, message: &str) {
    // SAFETY: the buffer lives through the call and its length is given.
    #[allow(unsafe_code)]
    unsafe {
        sys::send(fd, message.as_ptr().cast(), message.len(), MSG_NOSIGNAL)
    };
}

/// Calls that the default profile refuses, with the errno that it must give.
/// Each one is harmless and fails with another errno when no filter refuses
/// it, so a filter that lets everything through is seen here.
#[cfg(target_arch = "x86_64")]
const REFUSED: [(&str, c_long, [c_long; 4], i32); 6] = [
    ("unshare", 272, [0x4000_0000_0000_0000, 0, 0, 0], EPERM),
    ("ptrace", 101, [-1, 0, 0, 0], EPERM),
    ("mount", 165, [0, 0, 0, 0], EPERM),
    ("ioctl(TIOCSTI)", 16, [-1, 0x5412, 0, 0], EPERM),
    ("fchmod(04000)", 91, [-1, 0o4755, 0, 0], EPERM),
    ("openat2", 437, [-1, 0, 0, 0], ENOSYS),
];
#[cfg(target_arch = "aarch64")]
const REFUSED: [(&str, c_long, [c_long; 4], i32); 6] = [
    ("unshare", 97, [0x4000_0000_0000_0000, 0, 0, 0], EPERM),
    ("ptrace", 117, [-1, 0, 0, 0], EPERM),
    ("mount", 40, [0, 0, 0, 0], EPERM),
    ("ioctl(TIOCSTI)", 29, [-1, 0x5412, 0, 0], EPERM),
    ("fchmod(04000)", 52, [-1, 0o4755, 0, 0], EPERM),
    ("openat2", 437, [-1, 0, 0, 0], ENOSYS),
];

/// What the seccomp filter in force lets through that it must not.
fn filter_finding() -> Option<String> {
    for (name, number, args, expected) in REFUSED {
        // SAFETY: every argument is an integer or a null pointer, which the
        // kernel answers with an errno when no filter does so before.
        #[allow(unsafe_code)]
        let result = unsafe { sys::syscall(number, args[0], args[1], args[2], args[3]) };
        let got = if result == -1 { errno() } else { 0 };
        if got != expected {
            return Some(format!("{name} answered errno {got}, not {expected}"));
        }
    }
    None
}

/// Connects to the launcher's socket at `path`; -1 when that fails.
fn connect_to(path: &str) -> c_int {
    // sockaddr_un (unix(7)): the family, then the path, closed by NUL.
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&(AF_UNIX as u16).to_ne_bytes());
    if path.len() > 107 {
        return -1;
    }
    address[2..2 + path.len()].copy_from_slice(path.as_bytes());
    // SAFETY: the address lives through the call and its length is given.
    #[allow(unsafe_code)]
    unsafe {
        let fd = sys::socket(AF_UNIX, SOCK_SEQPACKET, 0);
        if fd != -1 && sys::connect(fd, address.as_ptr().cast(), address.len() as u32) == -1 {
            return -1;
        }
        fd
    }
}

extern "C" fn launcher_spoke(_: c_int) {
    let mut byte = [0u8; 1];
    let fd = LAUNCHER.load(Ordering::SeqCst);
    // SAFETY: recv and _exit are async-signal-safe; the buffer is one byte long.
    #[allow(unsafe_code)]
    unsafe {
        if sys::recv(fd, byte.as_mut_ptr().cast(), 1, MSG_PEEK | MSG_DONTWAIT) == 0 {
            // The launcher is gone, and nobody supervises any more: with PID 1
            // ends all that is in its process namespace (pid_namespaces(7)).
            sys::_exit(137);
        }
    }
}

/// Ends this process as soon as the launcher's end of the socket is closed.
fn end_with_launcher(fd: c_int) {
    LAUNCHER.store(fd, Ordering::SeqCst);
    // SAFETY: the handler is async-signal-safe; the others take integers.
    #[allow(unsafe_code)]
    unsafe {
        sys::signal(SIGIO, launcher_spoke as *const () as usize);
        sys::fcntl(fd, F_SETOWN, std::process::id() as c_int);
        sys::fcntl(fd, F_SETFL, O_ASYNC);
    }
    // It may have gone before.
    launcher_spoke(0);
}

/// Receives the agent's environment, `length` bytes of `NAME=VALUE` and NUL, and
/// makes it this process's, which its children inherit.
fn take_environment(fd: c_int, length: usize) -> bool {
    let mut text = vec![0u8; length];
    let mut have = 0;
    while have < length {
        // SAFETY: the rest of the buffer lives through the call.
        #[allow(unsafe_code)]
        let got = unsafe { sys::recv(fd, text[have..].as_mut_ptr().cast(), length - have, 0) };
        match usize::try_from(got) {
            Ok(got @ 1..) => have += got,
            _ => return false,
        }
    }
    let variables = text.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    let variables: Vec<CString> = variables.filter_map(|variable| CString::new(variable).ok()).collect();
    let mut pointers: Vec<*const c_char> = variables.iter().map(|variable| variable.as_ptr()).collect();
    pointers.push(std::ptr::null());
    std::mem::forget(variables);
    // SAFETY: one thread; the array ends with NULL, and it and its strings are
    // never freed (environ(7)).
    #[allow(unsafe_code)]
    unsafe {
        sys::environ = pointers.leak().as_ptr();
    }
    true
}

/// Sets RLIMIT_NPROC for the agent; 0 for none.
fn limit_processes(most: u64) -> bool {
    let limit = [most, most];
    // SAFETY: an rlimit is two integers of 64 bits (getrlimit(2)).
    #[allow(unsafe_code)]
    unsafe {
        most == 0 || sys::setrlimit(RLIMIT_NPROC, limit.as_ptr().cast()) == 0
    }
}

/// stderr becomes the same pipe as stdout, as it is outside.
fn join_streams() -> bool {
    // SAFETY: integers only.
    #[allow(unsafe_code)]
    unsafe {
        sys::dup2(1, 2) == 2
    }
}

/// newuidmap(1) and newgidmap(1) for a runtime in the launcher's namespace, which
/// may write any map of its own ids: `PID INSIDE OUTSIDE COUNT …`.
fn write_map(name: &str) -> Option<i32> {
    let file = ["uid_map", "gid_map"].into_iter().find(|file| name.ends_with(&format!("new{}", file.replace('_', ""))))?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (pid, maps) = args.split_first()?;
    let lines: String = maps.chunks(3).map(|map| map.join(" ") + "\n").collect();
    Some(match std::fs::write(format!("/proc/{pid}/{file}"), lines) {
        Ok(()) => 0,
        Err(_) => 1,
    })
}

fn main() {
    if let Some(code) = std::env::args().next().and_then(|name| write_map(&name)) {
        std::process::exit(code);
    }
    keep_signals();
    let mut args = std::env::args_os().skip(1);
    let handshake = args.next().and_then(|fd| fd.into_string().ok()).unwrap_or_default();
    let connected = handshake.starts_with('/');
    let fd: c_int = if connected { connect_to(&handshake) } else { handshake.parse().unwrap_or(-1) };
    let command: Vec<CString> =
        args.map(OsString::into_vec).filter_map(|arg| CString::new(arg).ok()).collect();
    // SAFETY: integers only.
    #[allow(unsafe_code)]
    unsafe {
        sys::fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    if handshake == "-" {
        // A bundle under a plain runtime: nobody verifies, nobody waits.
        std::process::exit(if command.is_empty() { 125 } else { run(-1, &command) });
    }
    match filter_finding() {
        None => tell(fd, "READY"),
        Some(finding) => tell(fd, &format!("READY {finding}")),
    }
    let mut buffer = [0u8; 64];
    // SAFETY: the buffer's length is given and it lives through the call.
    #[allow(unsafe_code)]
    let got = unsafe { sys::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let word = std::str::from_utf8(&buffer[..usize::try_from(got).unwrap_or(0)]).unwrap_or_default();
    let words: Vec<&str> = word.split(' ').collect();
    let goes = match words.as_slice() {
        ["GO", length, processes, streams] if connected => {
            length.parse().is_ok_and(|length| take_environment(fd, length))
                && processes.parse().is_ok_and(limit_processes)
                && (*streams != "one" || join_streams())
        }
        _ => word == "GO" && !connected,
    };
    if !goes || command.is_empty() {
        std::process::exit(125);
    }
    if connected {
        end_with_launcher(fd);
    }
    std::process::exit(run(fd, &command));
}

/// Whether no process can be started beside those that the agent, which has
/// just gone, has left: RLIMIT_NPROC tells nobody that it was reached. As many
/// are tried as may have gone with it, fewer where the limit is low. What is
/// started here ends with this process. `fd` is for this process alone.
fn is_full(fd: c_int) -> bool {
    let mut limit = [0u64; 2];
    // SAFETY: a struct rlimit is two such numbers.
    #[allow(unsafe_code)]
    if unsafe { sys::getrlimit(RLIMIT_NPROC, limit.as_mut_ptr().cast()) } == -1 {
        return false;
    }
    (0..(limit[0] / 8 + 1).min(4)).any(|_| {
        // SAFETY: this process has one thread; the child only waits.
        #[allow(unsafe_code)]
        unsafe {
            match sys::fork() {
                0 => {
                    sys::close(fd);
                    open_to_measures();
                    loop {
                        sys::pause();
                    }
                }
                pid => pid == -1 && errno() == EAGAIN,
            }
        }
    })
}

/// A child of this process is closed to the caller as this one is, and `--disk`
/// would take it for an agent's that hides what it has open.
fn open_to_measures() {
    // SAFETY: integers only.
    #[allow(unsafe_code)]
    unsafe {
        sys::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    }
}

/// Which signals wait until they are let in.
fn block(signals: &[u64; 16]) {
    // SAFETY: the set is not shorter than a sigset_t, and lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        sys::sigprocmask(SIG_SETMASK, signals.as_ptr().cast(), std::ptr::null_mut());
    }
}

/// From here on a signal for the agent is kept until it runs: one for which a
/// PID 1 has no handler would be gone (pid_namespaces(7)).
fn keep_signals() {
    for signal in FORWARDED {
        // SAFETY: the handler is async-signal-safe.
        #[allow(unsafe_code)]
        unsafe {
            sys::signal(signal, forward as *const () as usize)
        };
    }
}

/// Starts the agent, and returns its exit code once it has ended.
fn run(fd: c_int, command: &[CString]) -> i32 {
    let mut argv: Vec<*const c_char> = command.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    // Not dumpable closes /proc/1 to the agent (proc(5)); only now, because it
    // closes it to the launcher too, who had to look first.
    // SAFETY: integers only.
    #[allow(unsafe_code)]
    unsafe {
        sys::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    // SAFETY: this process has one thread; argv ends with NULL and its strings
    // outlive the call.
    #[allow(unsafe_code)]
    let agent = unsafe {
        // A child that still had the handler would take what is for the agent.
        block(&EVERY_SIGNAL);
        match sys::fork() {
            -1 => {
                tell(fd, &format!("EXEC {}", errno()));
                return 125;
            }
            0 => {
                open_to_measures();
                sys::setpgid(0, 0);
                if sys::isatty(0) == 1 {
                    // A background group that takes the terminal gets SIGTTOU.
                    sys::signal(SIGTTOU, SIG_IGN);
                    sys::tcsetpgrp(0, std::process::id() as c_int);
                }
                for signal in 1..=LAST_SIGNAL {
                    sys::signal(signal, SIG_DFL);
                }
                block(&NO_SIGNAL);
                sys::execvp(argv[0], argv.as_ptr());
                let errno = errno();
                tell(fd, &format!("EXEC {errno}"));
                sys::_exit(if errno == 2 { 127 } else { 126 })
            }
            pid => pid,
        }
    };
    // Both sides set the group, so that it exists whichever of them is first.
    // SAFETY: integers only.
    #[allow(unsafe_code)]
    unsafe {
        sys::setpgid(agent, agent)
    };
    AGENT.store(agent, Ordering::SeqCst);
    block(&NO_SIGNAL);
    let early = EARLY.swap(0, Ordering::SeqCst);
    if early != 0 {
        forward(early);
    }
    loop {
        let mut status: c_int = 0;
        // SAFETY: status is a live integer.
        #[allow(unsafe_code)]
        let pid = unsafe { sys::waitpid(-1, &mut status, 0) };
        if pid == -1 && errno() != EINTR {
            return 125;
        }
        if pid == agent && (status & 0x7f != 0x7f) {
            let full = if status != 0 && is_full(fd) { " full" } else { "" };
            tell(fd, &format!("EXIT {status}{full}"));
            let signal = status & 0x7f;
            return if signal == 0 { (status >> 8) & 0xff } else { 128 + signal };
        }
    }
}
