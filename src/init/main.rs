//! PID 1 of every container: proves where it stands, waits for the word, runs
//! the agent, forwards signals, reaps, and passes the agent's status on.
//!
//! Compiled by `build.rs` into a static program without any crate, because it
//! has to run in any root. It speaks with the launcher over one SEQPACKET
//! descriptor: `READY <finding>` out, `GO` in, `EXEC <errno>` or
//! `EXIT <wait status>` out. The launcher believes none of it before it has
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
        pub fn setpgid(pid: c_int, pgid: c_int) -> c_int;
        pub fn tcsetpgrp(fd: c_int, pgid: c_int) -> c_int;
        pub fn isatty(fd: c_int) -> c_int;
        pub fn execvp(file: *const c_char, argv: *const *const c_char) -> c_int;
        pub fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
        pub fn kill(pid: c_int, sig: c_int) -> c_int;
        pub fn signal(sig: c_int, handler: usize) -> usize;
        pub fn _exit(code: c_int) -> !;
        pub fn syscall(number: c_long, ...) -> c_long;
    }
}

const PR_SET_DUMPABLE: c_int = 4;
const F_SETFD: c_int = 2;
const FD_CLOEXEC: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const SIGTTOU: c_int = 22;
const EINTR: i32 = 4;
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
/// HUP, INT, QUIT, USR1, USR2, TERM, CONT, WINCH.
const FORWARDED: [c_int; 8] = [1, 2, 3, 10, 12, 15, 18, 28];
const LAST_SIGNAL: c_int = 64;

/// The agent's process group; 0 until it runs.
static AGENT: AtomicI32 = AtomicI32::new(0);
/// A signal that came before the agent ran, to be passed on then; 0 for none.
static EARLY: AtomicI32 = AtomicI32::new(0);

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

fn main() {
    let mut args = std::env::args_os().skip(1);
    let handshake = args.next().and_then(|fd| fd.into_string().ok()).unwrap_or_default();
    let fd: c_int = handshake.parse().unwrap_or(-1);
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
    let mut word = [0u8; 2];
    // SAFETY: the buffer is two bytes long and lives through the call.
    #[allow(unsafe_code)]
    let got = unsafe { sys::recv(fd, word.as_mut_ptr().cast(), word.len(), 0) };
    if got != 2 || &word != b"GO" || command.is_empty() {
        std::process::exit(125);
    }
    std::process::exit(run(fd, &command));
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
    // SAFETY: this process has one thread; the handler is async-signal-safe;
    // argv ends with NULL and its strings outlive the call.
    #[allow(unsafe_code)]
    let agent = unsafe {
        for signal in FORWARDED {
            sys::signal(signal, forward as *const () as usize);
        }
        match sys::fork() {
            -1 => {
                tell(fd, &format!("EXEC {}", errno()));
                return 125;
            }
            0 => {
                sys::setpgid(0, 0);
                if sys::isatty(0) == 1 {
                    // A background group that takes the terminal gets SIGTTOU.
                    sys::signal(SIGTTOU, SIG_IGN);
                    sys::tcsetpgrp(0, std::process::id() as c_int);
                }
                for signal in 1..=LAST_SIGNAL {
                    sys::signal(signal, SIG_DFL);
                }
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
            tell(fd, &format!("EXIT {status}"));
            let signal = status & 0x7f;
            return if signal == 0 { (status >> 8) & 0xff } else { 128 + signal };
        }
    }
}
