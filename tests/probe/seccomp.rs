//! Tries, from inside, what the default seccomp profile refuses.
//!
//! Each probe is one raw system call in a child of its own, so that neither a
//! killed child nor a call that succeeds after all can spoil the next one.
//! The arguments are harmless on purpose: without a filter the same list runs
//! through, as root too, and nothing is mounted, loaded, restarted or changed
//! but a few files below the scratch directory, which go away again. That
//! control run is what shows that an `EPERM` came from the filter.
//!
//! Nothing is printed here; the caller decides how.

// Raw system calls are what this module is for.
#![allow(unsafe_code)]

use std::ffi::{CString, c_long};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::child::{Answer, in_child};

/// What the profile promises for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// `EPERM`.
    Refused,
    /// `ENOSYS`, for which programs have a fallback.
    Absent,
    /// `EPERM`, or `ENOSYS` where the runtime's libseccomp does not know the name yet.
    RefusedOrAbsent,
    /// Reaches the kernel: any answer but `EPERM` and `ENOSYS`.
    Passes,
    /// The caller is killed: the call came through another architecture's door.
    Killed,
}

/// One call with its answer.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The call as a reader would write it, for example `unshare(CLONE_NEWUSER)`.
    pub name: String,
    /// What the profile promises.
    pub expected: Expected,
    /// What happened.
    pub answer: Answer,
}

impl Probe {
    /// Whether the answer is the promised one.
    pub fn holds(&self) -> bool {
        use Answer::{Errno, Signal, Success};
        match self.expected {
            Expected::Refused => self.answer == Errno(libc::EPERM),
            Expected::Absent => self.answer == Errno(libc::ENOSYS),
            Expected::RefusedOrAbsent => {
                matches!(self.answer, Errno(libc::EPERM | libc::ENOSYS))
            }
            Expected::Passes => match self.answer {
                Success => true,
                Errno(errno) => errno != libc::EPERM && errno != libc::ENOSYS,
                _ => false,
            },
            Expected::Killed => matches!(self.answer, Signal(_)),
        }
    }
}

/// Makes every probe. `scratch` is a writable directory; a directory is made
/// in it and removed at the end.
///
/// # Errors
/// When the scratch files cannot be made or removed.
pub fn run(scratch: &Path) -> io::Result<Vec<Probe>> {
    let dir = scratch.join(format!("seccomp-probe.{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let mut cases = Cases::new(dir.clone());
    cases.outright();
    cases.namespaces();
    cases.terminals();
    cases.sockets();
    cases.personalities();
    let made = cases.mode_bits();
    let mut probes: Vec<Probe> = cases.list.iter().map(Case::probe).collect();
    #[cfg(target_arch = "x86_64")]
    probes.push(Probe {
        name: "getpid through int 0x80".into(),
        expected: Expected::Killed,
        answer: in_child(i386_getpid),
    });
    std::fs::remove_dir_all(&dir)?;
    made?;
    probes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(probes)
}

/// One call before it is made.
struct Case {
    name: String,
    expected: Expected,
    number: c_long,
    arguments: [c_long; 6],
}

impl Case {
    fn probe(&self) -> Probe {
        let answer = in_child(|| {
            let a = &self.arguments;
            // SAFETY: the arguments are numbers, null or unmapped pointers, and
            // strings that `Cases` keeps alive; the child exits right after.
            unsafe { libc::syscall(self.number, a[0], a[1], a[2], a[3], a[4], a[5]) }
        });
        Probe { name: self.name.clone(), expected: self.expected, answer }
    }
}

/// The list, and the strings that its arguments point to.
struct Cases {
    list: Vec<Case>,
    strings: Vec<CString>,
    dir: PathBuf,
}

const NULL: c_long = 0;
/// Never mapped, so that the kernel answers `EFAULT` where it would read.
const NOWHERE: c_long = 1;
const ALL: c_long = 0xffff_ffff;
const NOBODY: c_long = 0x7fff_ffff;
const HIGH: c_long = 1 << 32;
/// Above every socket type: the kernel answers `EINVAL` before it looks for,
/// or loads, the family.
const NO_TYPE: c_long = 15;

/// Numbers that are the same on every architecture, newer than some libc crates.
mod number {
    use std::ffi::c_long;
    pub const MOUNT_SETATTR: c_long = 442;
    pub const QUOTACTL_FD: c_long = 443;
    pub const PROCESS_MRELEASE: c_long = 448;
    pub const SET_MEMPOLICY_HOME_NODE: c_long = 450;
    pub const FCHMODAT2: c_long = 452;
    pub const OPEN_TREE_ATTR: c_long = 467;
}

impl Cases {
    fn new(dir: PathBuf) -> Self {
        Self { list: Vec::new(), strings: Vec::new(), dir }
    }

    fn add(&mut self, name: &str, expected: Expected, number: c_long, arguments: &[c_long]) {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        self.list.push(Case { name: name.to_owned(), expected, number, arguments: all });
    }

    /// The address of a string that lives as long as the list.
    fn text(&mut self, bytes: &[u8]) -> c_long {
        let string = CString::new(bytes).expect("paths hold no zero byte");
        let address = string.as_ptr() as c_long;
        self.strings.push(string);
        address
    }

    /// A path below the scratch directory that no other call uses.
    fn fresh(&mut self) -> c_long {
        let path = self.dir.join(self.strings.len().to_string());
        self.text(path.as_os_str().as_bytes())
    }

    /// Calls that are refused whatever their arguments.
    fn outright(&mut self) {
        use Expected::{Absent, Refused, RefusedOrAbsent};
        let empty = self.text(b"");
        #[rustfmt::skip]
        let refused: &[(&str, c_long, &[c_long])] = &[
            ("mount", libc::SYS_mount, &[NULL, NULL, NULL, 0, NULL]),
            ("umount2", libc::SYS_umount2, &[empty, 0]),
            ("pivot_root", libc::SYS_pivot_root, &[empty, empty]),
            ("chroot", libc::SYS_chroot, &[empty]),
            ("move_mount", libc::SYS_move_mount, &[-1, empty, -1, empty, ALL]),
            ("open_tree", libc::SYS_open_tree, &[-1, empty, ALL]),
            ("fsopen", libc::SYS_fsopen, &[empty, ALL]),
            ("fsconfig", libc::SYS_fsconfig, &[-1, 9999, NULL, NULL, 0]),
            ("fsmount", libc::SYS_fsmount, &[-1, ALL, 0]),
            ("fspick", libc::SYS_fspick, &[-1, empty, ALL]),
            ("mount_setattr", number::MOUNT_SETATTR, &[-1, empty, ALL, NULL, 0]),
            ("name_to_handle_at", libc::SYS_name_to_handle_at, &[-1, NULL, NULL, NULL, ALL]),
            ("open_by_handle_at", libc::SYS_open_by_handle_at, &[-1, NULL, 0]),
            ("add_key", libc::SYS_add_key, &[NULL, NULL, NULL, 0, 0]),
            ("request_key", libc::SYS_request_key, &[NULL, NULL, NULL, 0]),
            ("keyctl", libc::SYS_keyctl, &[9999]),
            ("bpf", libc::SYS_bpf, &[NOBODY, NULL, 0]),
            ("perf_event_open", libc::SYS_perf_event_open, &[NULL, 0, -1, -1, 0]),
            ("userfaultfd", libc::SYS_userfaultfd, &[ALL]),
            ("ptrace(PTRACE_SEIZE)", libc::SYS_ptrace, &[0x4206, NOBODY]),
            ("process_vm_readv", libc::SYS_process_vm_readv, &[NOBODY, NULL, 0, NULL, 0, 1]),
            ("process_vm_writev", libc::SYS_process_vm_writev, &[NOBODY, NULL, 0, NULL, 0, 1]),
            ("process_madvise", libc::SYS_process_madvise, &[-1, NULL, 0, 0, 0]),
            ("process_mrelease", number::PROCESS_MRELEASE, &[-1, 0]),
            ("pidfd_getfd", libc::SYS_pidfd_getfd, &[-1, -1, 0]),
            ("kcmp", libc::SYS_kcmp, &[NOBODY, NOBODY, 0, 0, 0]),
            ("init_module", libc::SYS_init_module, &[NULL, 0, NULL]),
            ("finit_module", libc::SYS_finit_module, &[-1, NULL, 0]),
            ("delete_module", libc::SYS_delete_module, &[NULL, 0]),
            // More segments than the kernel takes, and an unknown flag: with none
            // and no flag the call would throw away a loaded image.
            ("kexec_load", libc::SYS_kexec_load, &[0, 1000, NULL, 0x8000]),
            ("swapon", libc::SYS_swapon, &[NULL, 0]),
            ("swapoff", libc::SYS_swapoff, &[NULL]),
            // The magic numbers are wrong.
            ("reboot", libc::SYS_reboot, &[0, 0, 0, NULL]),
            // Not a null pointer, which would switch accounting off.
            ("acct", libc::SYS_acct, &[empty]),
            ("quotactl", libc::SYS_quotactl, &[ALL, NULL, 0, NULL]),
            ("quotactl_fd", number::QUOTACTL_FD, &[-1, ALL, 0, NULL]),
            ("syslog", libc::SYS_syslog, &[100, NULL, 0]),
            // The children have left their terminal, so that nothing hangs up.
            ("vhangup", libc::SYS_vhangup, &[]),
            ("settimeofday", libc::SYS_settimeofday, &[NOWHERE, NULL]),
            ("clock_settime", libc::SYS_clock_settime, &[0, NOWHERE]),
            ("adjtimex", libc::SYS_adjtimex, &[NOWHERE]),
            ("clock_adjtime", libc::SYS_clock_adjtime, &[0, NOWHERE]),
            ("sethostname", libc::SYS_sethostname, &[NOWHERE, -1]),
            ("setdomainname", libc::SYS_setdomainname, &[NOWHERE, -1]),
            ("fanotify_init", libc::SYS_fanotify_init, &[ALL, 0]),
            ("fanotify_mark", libc::SYS_fanotify_mark, &[-1, 0, 0, -1, NULL]),
            ("lookup_dcookie", libc::SYS_lookup_dcookie, &[0, NULL, 0]),
            ("vmsplice", libc::SYS_vmsplice, &[-1, NULL, 0, 0]),
            ("mbind", libc::SYS_mbind, &[1, 1, 9999, NULL, 0, 0]),
            ("set_mempolicy", libc::SYS_set_mempolicy, &[9999, NULL, 0]),
            ("migrate_pages", libc::SYS_migrate_pages, &[NOBODY, 0, NULL, NULL]),
            ("move_pages", libc::SYS_move_pages, &[NOBODY, 0, NULL, NULL, NULL, 0]),
            ("set_mempolicy_home_node", number::SET_MEMPOLICY_HOME_NODE, &[0, 0, 0, 9999]),
            ("setns", libc::SYS_setns, &[-1, 0]),
            #[cfg(target_arch = "x86_64")]
            ("kexec_file_load", libc::SYS_kexec_file_load, &[-1, -1, 0, NULL, -1]),
            #[cfg(target_arch = "x86_64")]
            ("iopl", libc::SYS_iopl, &[99]),
            #[cfg(target_arch = "x86_64")]
            ("ioperm", libc::SYS_ioperm, &[-1, 2, 1]),
            #[cfg(target_arch = "x86_64")]
            ("modify_ldt", libc::SYS_modify_ldt, &[9999, NULL, 0]),
        ];
        for &(name, number, arguments) in refused {
            self.add(name, Refused, number, arguments);
        }
        self.add("open_tree_attr", RefusedOrAbsent, number::OPEN_TREE_ATTR, &[-1, empty, ALL]);
        #[rustfmt::skip]
        let absent: &[(&str, c_long, &[c_long])] = &[
            ("clone3", libc::SYS_clone3, &[NULL, 0]),
            ("openat2", libc::SYS_openat2, &[-1, NULL, NULL, 0]),
            ("io_uring_setup", libc::SYS_io_uring_setup, &[0, NULL]),
            ("io_uring_enter", libc::SYS_io_uring_enter, &[-1, 0, 0, 0, NULL, 0]),
            ("io_uring_register", libc::SYS_io_uring_register, &[-1, 9999, NULL, 0]),
            ("a number that no call has", 4000, &[]),
        ];
        for &(name, number, arguments) in absent {
            self.add(name, Absent, number, arguments);
        }
        #[cfg(target_arch = "x86_64")]
        self.add("getpid through x32", Expected::Killed, 0x4000_0000 | libc::SYS_getpid, &[]);
    }

    fn namespaces(&mut self) {
        const SIGCHLD: c_long = libc::SIGCHLD as c_long;
        let flags: &[(&str, c_long)] = &[
            ("CLONE_NEWTIME", 0x80),
            ("CLONE_NEWNS", 0x0002_0000),
            ("CLONE_NEWCGROUP", 0x0200_0000),
            ("CLONE_NEWUTS", 0x0400_0000),
            ("CLONE_NEWIPC", 0x0800_0000),
            ("CLONE_NEWUSER", 0x1000_0000),
            ("CLONE_NEWPID", 0x2000_0000),
            ("CLONE_NEWNET", 0x4000_0000),
        ];
        for &(name, flag) in flags {
            for (high, mark) in [(0, ""), (HIGH, " with a high bit")] {
                self.add(&format!("clone({name}){mark}"), Expected::Refused, libc::SYS_clone, &[high | flag | SIGCHLD]);
            }
            self.add(&format!("unshare({name})"), Expected::Refused, libc::SYS_unshare, &[flag]);
        }
        self.add("clone(SIGCHLD)", Expected::Passes, libc::SYS_clone, &[SIGCHLD]);
    }

    /// On descriptor -1: what reaches the kernel answers `EBADF`.
    fn terminals(&mut self) {
        let refused: &[(&str, c_long)] = &[("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c), ("TIOCSETD", 0x5423)];
        for &(name, command) in refused {
            self.add(&format!("ioctl({name})"), Expected::Refused, libc::SYS_ioctl, &[-1, command, NULL]);
            for bit in 32..64 {
                self.add(
                    &format!("ioctl({name} | 1 << {bit})"),
                    Expected::Refused,
                    libc::SYS_ioctl,
                    &[-1, command | 1 << bit, NULL],
                );
            }
            // Each command that differs in one bit must get through.
            for bit in 0..32 {
                let near = command ^ (1 << bit);
                self.add(&format!("ioctl({near:#x})"), Expected::Passes, libc::SYS_ioctl, &[-1, near, NULL]);
            }
        }
    }

    fn sockets(&mut self) {
        use Expected::{Passes, Refused};
        const UNIX: c_long = libc::AF_UNIX as c_long;
        const NETLINK: c_long = libc::AF_NETLINK as c_long;
        const STREAM: c_long = libc::SOCK_STREAM as c_long;
        const RAW: c_long = libc::SOCK_RAW as c_long;
        for family in 0..46 {
            let allowed = matches!(family, 1 | 2 | 10);
            for (high, mark) in [(0, ""), (HIGH, " with a high bit")] {
                if family == NETLINK {
                    continue;
                }
                let (expected, kind) = if allowed { (Passes, STREAM) } else { (Refused, NO_TYPE) };
                let name = format!("socket(family {family}){mark}");
                self.add(&name, expected, libc::SYS_socket, &[high | family, kind, 0]);
                let (expected, kind) = if family == UNIX { (Passes, STREAM) } else { (Refused, NO_TYPE) };
                let name = format!("socketpair(family {family}){mark}");
                // The pair has nowhere to go: `EFAULT` when the call gets through.
                let arguments = [high | family, kind, 0, NOWHERE];
                self.add(&name, expected, libc::SYS_socketpair, &arguments);
            }
        }
        for protocol in 0..32 {
            let (expected, kind) = if protocol == 0 { (Passes, RAW) } else { (Refused, NO_TYPE) };
            for (high, mark) in [(0, ""), (HIGH, " with a high bit")] {
                let name = format!("socket(AF_NETLINK, protocol {protocol}){mark}");
                let arguments = [NETLINK | high, kind, protocol | high];
                self.add(&name, expected, libc::SYS_socket, &arguments);
            }
        }
    }

    fn personalities(&mut self) {
        for bit in 19..28 {
            let name = format!("personality({:#x})", 1 << bit);
            self.add(&name, Expected::Refused, libc::SYS_personality, &[1 << bit]);
        }
        for value in [0, 0x8, 0x2_0000, 0x4_0000, ALL, -1] {
            let name = format!("personality({value:#x})");
            self.add(&name, Expected::Passes, libc::SYS_personality, &[value]);
        }
    }

    /// Setuid and setgid on files, in every call that takes a mode. Here the
    /// calls can succeed when there is no filter, below the scratch directory.
    fn mode_bits(&mut self) -> io::Result<()> {
        const HERE: c_long = libc::AT_FDCWD as c_long;
        const CREATE: c_long = (libc::O_CREAT | libc::O_WRONLY) as c_long;
        const UNNAMED: c_long = (libc::O_TMPFILE | libc::O_WRONLY) as c_long;
        let file = self.dir.join("file");
        std::fs::write(&file, b"")?;
        // Stays open until this process ends; the children inherit it.
        let descriptor = {
            use std::os::fd::IntoRawFd;
            c_long::from(std::fs::File::open(&file)?.into_raw_fd())
        };
        let file = self.text(file.as_os_str().as_bytes());
        let here = self.dir.clone();
        let here = self.text(here.as_os_str().as_bytes());
        for mode in [0o755, 0o1755, 0o4755, 0o2755, 0o6755, 0o4700, 0o2700] {
            let bits = mode & 0o6000 != 0;
            let expected = if bits { Expected::Refused } else { Expected::Passes };
            let newer = if bits { Expected::RefusedOrAbsent } else { Expected::Passes };
            let mut list: Vec<(&str, c_long, Vec<c_long>)> = vec![
                ("fchmod", libc::SYS_fchmod, vec![descriptor, mode]),
                ("fchmodat", libc::SYS_fchmodat, vec![HERE, file, mode]),
                ("openat(O_CREAT)", libc::SYS_openat, vec![HERE, self.fresh(), CREATE, mode]),
                ("openat(O_TMPFILE)", libc::SYS_openat, vec![HERE, here, UNNAMED, mode]),
                ("mkdirat", libc::SYS_mkdirat, vec![HERE, self.fresh(), mode]),
                ("mknodat(file)", libc::SYS_mknodat, vec![HERE, self.fresh(), 0o100_000 | mode, 0]),
                ("mknodat(FIFO)", libc::SYS_mknodat, vec![HERE, self.fresh(), 0o010_000 | mode, 0]),
            ];
            #[cfg(target_arch = "x86_64")]
            list.extend([
                ("chmod", libc::SYS_chmod, vec![file, mode]),
                ("creat", libc::SYS_creat, vec![self.fresh(), mode]),
                ("open(O_CREAT)", libc::SYS_open, vec![self.fresh(), CREATE, mode]),
                ("open(O_TMPFILE)", libc::SYS_open, vec![here, UNNAMED, mode]),
                ("mkdir", libc::SYS_mkdir, vec![self.fresh(), mode]),
                ("mknod(file)", libc::SYS_mknod, vec![self.fresh(), 0o100_000 | mode, 0]),
                ("mknod(FIFO)", libc::SYS_mknod, vec![self.fresh(), 0o010_000 | mode, 0]),
            ]);
            for (name, number, arguments) in list {
                self.add(&format!("{name} with mode {mode:04o}"), expected, number, &arguments);
            }
            if bits {
                let name = format!("fchmodat2 with mode {mode:04o}");
                self.add(&name, newer, number::FCHMODAT2, &[HERE, file, mode, 0]);
            }
            // What lies above the sixteen bits of a mode must not hide it.
            let name = format!("fchmodat with mode {mode:04o} and a high bit");
            self.add(&name, expected, libc::SYS_fchmodat, &[HERE, file, mode | HIGH]);
            // Without creating, the mode is whatever the register held.
            let name = format!("openat without O_CREAT, mode {mode:04o}");
            self.add(&name, Expected::Passes, libc::SYS_openat, &[HERE, file, 0, mode]);
        }
        Ok(())
    }
}

/// `getpid` of the 32-bit table, where the numbers mean other calls.
#[cfg(target_arch = "x86_64")]
fn i386_getpid() -> c_long {
    let answer: i32;
    // SAFETY: the call takes no arguments and writes no memory.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") 20 => answer,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    c_long::from(answer)
}
