//! User namespaces and what a run does in them, tried in a child that is thrown
//! away.

use std::fs;
use std::os::fd::AsFd;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{getegid, geteuid, pipe, read, write};

use super::{Finding, State};
use crate::launch::NAMESPACES;
use crate::sys;

/// What the child tried, in order; it reports the first step that failed.
const STEPS: [&str; 5] = ["namespaces", "private mounts", "tmpfs", "proc", "overlay"];

pub fn examine() -> Vec<Finding> {
    match try_steps() {
        Ok(None) => STEPS.iter().map(|step| works(step)).collect(),
        Ok(Some((failed, errno))) => {
            let mut findings: Vec<Finding> = STEPS[..failed].iter().map(|step| works(step)).collect();
            findings.push(broken(STEPS[failed], errno));
            findings
        }
        Err(errno) => vec![broken(STEPS[0], errno)],
    }
}

fn works(step: &str) -> Finding {
    let what = match step {
        "namespaces" => "user, mount, PID, network, IPC and cgroup namespaces can be made",
        "private mounts" => "mounts of a run stay its own",
        "tmpfs" => "the staging area can be mounted",
        "proc" => "a fresh /proc can be mounted",
        _ => "shadows can be merged over a project",
    };
    Finding::new(step, State::Ok, what, "", None)
}

fn broken(step: &str, errno: nix::Error) -> Finding {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let matters = match step {
        "namespaces" => "every run is made in namespaces of its own",
        "proc" => "a run sees its own processes only; inside another container /proc must be unmasked",
        "overlay" => "secrets in a project are hidden by an overlay",
        _ => "everything that a run mounts is staged first",
    };
    let (cause, mend) = if step != "namespaces" {
        (
            format!("{errno}"),
            if step == "proc" {
                "run the outer container with an unmasked /proc (podman run --security-opt unmask=ALL)"
            } else {
                "see the kernel's log: dmesg | tail"
            },
        )
    } else if read("/proc/sys/user/max_user_namespaces") == "0" {
        (format!("{errno}: user.max_user_namespaces is 0"), "sysctl -w user.max_user_namespaces=65536")
    } else if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        (format!("{errno}: kernel.unprivileged_userns_clone is 0"), "sysctl -w kernel.unprivileged_userns_clone=1")
    } else if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        (
            format!("{errno}: AppArmor restricts user namespaces (Ubuntu 24.04 and later)"),
            "give belljar an AppArmor profile with `userns,`, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    } else if read("/proc/self/status").lines().any(|line| line.starts_with("Seccomp:") && !line.ends_with('0')) {
        (
            format!("{errno}: a seccomp filter is in force, as in a container"),
            "let the outer container make user namespaces (podman run --security-opt seccomp=unconfined)",
        )
    } else {
        (format!("{errno}"), "sysctl user.max_user_namespaces kernel.unprivileged_userns_clone")
    };
    Finding::new(step, State::Missing, cause, matters, Some(mend))
}

/// Tries each step in a child in new namespaces; which failed first, and why.
fn try_steps() -> nix::Result<Option<(usize, nix::Error)>> {
    let (begin_read, begin_write) = pipe()?;
    let (result_read, result_write) = pipe()?;
    let child = sys::clone_process(NAMESPACES, || {
        // Without the other ends, a doctor that dies ends the read below too.
        sys::close_all_but(&[begin_read.as_fd(), result_write.as_fd()]);
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        let mut word = [0u8];
        if read(&begin_read, &mut word).is_err() {
            return 1;
        }
        let report = match attempt() {
            Ok(()) => [u8::MAX, 0],
            Err((step, errno)) => [step, u8::try_from(errno as i32).unwrap_or(0)],
        };
        isize::from(write(&result_write, &report).is_err())
    })?;
    let maps = || -> std::io::Result<()> {
        fs::write(format!("/proc/{child}/setgroups"), "deny")?;
        fs::write(format!("/proc/{child}/uid_map"), format!("0 {} 1\n", geteuid()))?;
        fs::write(format!("/proc/{child}/gid_map"), format!("0 {} 1\n", getegid()))
    };
    let mapped = maps();
    let _ = write(&begin_write, b"b");
    let mut report = [0u8; 2];
    drop(result_write);
    let got = read(&result_read, &mut report);
    let _ = waitpid(child, None);
    if let Err(error) = mapped {
        return Ok(Some((0, nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EPERM)))));
    }
    match (got, report[0]) {
        (Ok(2), u8::MAX) => Ok(None),
        (Ok(2), step) => Ok(Some((usize::from(step), nix::Error::from_raw(i32::from(report[1]))))),
        _ => Ok(Some((0, nix::Error::ECHILD))),
    }
}

fn attempt() -> Result<(), (u8, nix::Error)> {
    let none: Option<&str> = None;
    let at = |step: u8| move |errno: nix::Error| (step, errno);
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(at(1))?;
    mount(Some("belljar"), "/sys/fs", Some("tmpfs"), MsFlags::empty(), none).map_err(at(2))?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).map_err(at(3))?;
    let make = |path: &str| {
        fs::create_dir(path).map_err(|error| (2, nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))
    };
    for path in ["/sys/fs/a", "/sys/fs/b", "/sys/fs/c"] {
        make(path)?;
    }
    mount(
        Some("overlay"),
        "/sys/fs/c",
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some("lowerdir=/sys/fs/a:/sys/fs/b,userxattr"),
    )
    .map_err(at(4))
}
