//! Starts a program under a seccomp filter, such as containers, units and
//! AppArmor put around belljar, or behave like.

// The filter is installed by raw calls.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// Namespaces beside those of users.
const OTHERS: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;
const MOUNT: [libc::c_long; 7] = [
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
];
/// Calls that can be refused one by one.
const CALLS: [(&str, libc::c_long); 17] = [
    ("pivot_root", libc::SYS_pivot_root),
    ("setns", libc::SYS_setns),
    ("clone3", libc::SYS_clone3),
    ("setresuid", libc::SYS_setresuid),
    ("unshare", libc::SYS_unshare),
    ("umount2", libc::SYS_umount2),
    ("sethostname", libc::SYS_sethostname),
    ("keyctl", libc::SYS_keyctl),
    ("seccomp", libc::SYS_seccomp),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("memfd_create", libc::SYS_memfd_create),
    ("prlimit64", libc::SYS_prlimit64),
    ("socketpair", libc::SYS_socketpair),
    ("inotify_init1", libc::SYS_inotify_init1),
];
/// Offsets in `struct seccomp_data` (seccomp(2)): the number, and the low half of
/// the first argument on a little-endian machine.
const NUMBER: u32 = 0;
const FIRST: u32 = 16;

/// Executes the command under a filter that answers what `rule` names with
/// `errno`. `clone3`, whose flags no filter sees, is then not there, as with Docker.
pub fn under(rule: &str, errno: &str, command: &[&str]) -> io::Result<()> {
    let errno = match errno {
        "EPERM" => libc::EPERM,
        "EACCES" => libc::EACCES,
        "ENOSYS" => libc::ENOSYS,
        _ => return Err(io::Error::other("EPERM, EACCES or ENOSYS")),
    };
    let refuse = |number: i32| op(BPF_RET | BPF_K, (0, 0), libc::SECCOMP_RET_ERRNO | number as u32);
    let allow = op(BPF_RET | BPF_K, (0, 0), libc::SECCOMP_RET_ALLOW);
    let load = |offset| op(BPF_LD | BPF_W | BPF_ABS, (0, 0), offset);
    let equals = |call: libc::c_long, (yes, no)| op(BPF_JMP | BPF_JEQ | BPF_K, (yes, no), call as u32);
    let makes = |flags: i32| {
        vec![
            load(NUMBER),
            equals(libc::SYS_clone3, (0, 1)),
            refuse(libc::ENOSYS),
            equals(libc::SYS_clone, (1, 0)),
            equals(libc::SYS_unshare, (0, 3)),
            load(FIRST),
            op(BPF_JMP | BPF_JSET | BPF_K, (0, 1), flags as u32),
            refuse(errno),
            allow,
        ]
    };
    let calls = |calls: &[libc::c_long]| {
        let each = |call: &libc::c_long| [equals(*call, (0, 1)), refuse(errno)];
        [load(NUMBER)].into_iter().chain(calls.iter().flat_map(each)).chain([allow]).collect()
    };
    let mut program = match rule {
        "userns" => makes(libc::CLONE_NEWUSER),
        "others" => makes(OTHERS),
        "network" => makes(libc::CLONE_NEWNET),
        "mount" => calls(&MOUNT),
        "nothing" => calls(&[]),
        name => match CALLS.iter().find(|(call, _)| *call == name) {
            Some((_, call)) => calls(&[*call]),
            None => return Err(io::Error::other("userns, others, network, mount, nothing, or a call on the list")),
        },
    };
    let filter = sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
    // SAFETY: integers, and a filter that outlives the call.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    let [name, arguments @ ..] = command else { return Err(io::Error::other("a command is missing")) };
    Err(Command::new(name).args(arguments).exec())
}

fn op(code: u32, (yes, no): (u8, u8), k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: yes, jf: no, k }
}
