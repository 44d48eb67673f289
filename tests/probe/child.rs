//! Tries a system call in a child, and says what came of it.

// Raw system calls are what this module is for.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};
use std::fmt;
use std::io;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The call succeeded.
    Success,
    /// It failed with this error number.
    Errno(c_int),
    /// The child that made it was killed by this signal.
    Signal(c_int),
    /// The probe's own child could not be made or waited for: why.
    NotTried(c_int),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = match *self {
            Self::Success => return f.write_str("ok"),
            Self::Signal(libc::SIGSYS) => return f.write_str("SIGSYS"),
            Self::Signal(number) => return write!(f, "signal {number}"),
            Self::NotTried(errno) => {
                return write!(f, "not tried: {}", io::Error::from_raw_os_error(errno));
            }
            Self::Errno(errno) => errno,
        };
        match errno {
            libc::EPERM => f.write_str("EPERM"),
            libc::ENOENT => f.write_str("ENOENT"),
            libc::ESRCH => f.write_str("ESRCH"),
            libc::EBADF => f.write_str("EBADF"),
            libc::EACCES => f.write_str("EACCES"),
            libc::EFAULT => f.write_str("EFAULT"),
            libc::EEXIST => f.write_str("EEXIST"),
            libc::EINVAL => f.write_str("EINVAL"),
            libc::ENOTTY => f.write_str("ENOTTY"),
            libc::ENOSYS => f.write_str("ENOSYS"),
            libc::EAFNOSUPPORT => f.write_str("EAFNOSUPPORT"),
            libc::EOPNOTSUPP => f.write_str("EOPNOTSUPP"),
            other => write!(f, "errno {other}"),
        }
    }
}

/// Makes a call in a child and brings back its answer. The child has no
/// controlling terminal and leaves no core file.
pub fn in_child(call: impl Fn() -> c_long) -> Answer {
    // SAFETY: between fork and _exit the child makes system calls only; it
    // allocates nothing and takes no lock, so other threads do not matter.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Answer::NotTried(last_errno());
    }
    if child == 0 {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: as above; `none` outlives the call, a null status is allowed.
        unsafe {
            libc::setsid();
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            let code = if call() < 0 { last_errno().clamp(1, 255) } else { 0 };
            // A clone that got through leaves a child, which exits just below.
            libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL);
            libc::_exit(code);
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: waits for our own child, with a status that outlives the call.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            break;
        }
        let errno = last_errno();
        if errno != libc::EINTR {
            return Answer::NotTried(errno);
        }
    }
    if libc::WIFSIGNALED(status) {
        return Answer::Signal(libc::WTERMSIG(status));
    }
    match libc::WEXITSTATUS(status) {
        0 => Answer::Success,
        errno => Answer::Errno(errno),
    }
}

fn last_errno() -> c_int {
    // SAFETY: the pointer to this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}
