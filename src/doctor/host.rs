//! Kernel, caller, cgroups, subordinate ids, limits, directories.

use std::fs;
use std::path::Path;

use nix::sys::utsname::uname;
use nix::unistd::{AccessFlags, Uid, User, access};

use super::{Finding, State};
use crate::config::{Caller, Dirs};
use crate::plan::find_cgroup;

/// Overlays in user namespaces (5.11), mount_setattr (5.12), process limits of a
/// user namespace (5.14).
const OLDEST: (u32, u32) = (5, 14);

pub fn kernel() -> Finding {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let state = if version >= OLDEST { State::Ok } else { State::Missing };
    Finding::new(
        "kernel",
        state,
        format!("Linux {release}"),
        "belljar needs 5.14: overlays in user namespaces, mount_setattr, process limits of a user namespace",
        Some("install a newer kernel"),
    )
}

pub fn caller(caller: &Caller) -> Finding {
    let name = User::from_uid(Uid::from_raw(caller.uid))
        .ok()
        .flatten()
        .map_or_else(|| caller.uid.to_string(), |user| user.name);
    match (caller.uid, caller.is_root) {
        (0, false) => Finding::new(
            "caller",
            State::Missing,
            "uid 0 without SYS_ADMIN, SETUID and SETGID",
            "the agent would be uid 0 on the host",
            Some("call belljar as an ordinary user"),
        ),
        (0, true) => Finding::new(
            "caller",
            State::Ok,
            "root: agents get unprivileged host ids of their group, files stay the owner's",
            "",
            None,
        ),
        _ => Finding::new("caller", State::Ok, format!("{name}: agents run with this user's host id"), "", None),
    }
}

pub fn cgroup(caller: &Caller) -> Finding {
    let matters = "--memory, --cpus and --io are held in a cgroup; without one, a run that asks for them is refused";
    let name = "cgroup";
    match find_cgroup(caller, &["memory", "cpu", "pids", "io"]) {
        Ok(place) => {
            Finding::new(name, State::Ok, format!("memory, cpu, pids and io: {}", place.describe()), matters, None)
        }
        Err(all) => match find_cgroup(caller, &["memory", "cpu"]) {
            Ok(place) => {
                let found = format!("memory and cpu: {}; not all: {}", place.describe(), all.reason);
                Finding::new(name, State::Limited, found, matters, Some(&all.hint))
            }
            Err(no) => Finding::new(name, State::Limited, no.reason, matters, Some(&no.hint)),
        },
    }
}

pub fn subordinate_ids(caller: &Caller) -> Finding {
    let matters = "belljar does not need them with crun; podman and runc do";
    let uid = caller.uid.to_string();
    let name = User::from_uid(Uid::from_raw(caller.uid)).ok().flatten().map(|user| user.name).unwrap_or_default();
    let has = |file: &str| {
        fs::read_to_string(file)
            .unwrap_or_default()
            .lines()
            .any(|line| line.split(':').next().is_some_and(|owner| owner == name || owner == uid))
    };
    if caller.is_root || (has("/etc/subuid") && has("/etc/subgid")) {
        return Finding::new("subordinate ids", State::Ok, "there, and not needed with crun", matters, None);
    }
    Finding::new("subordinate ids", State::Ok, "none, and none needed with crun", matters, None)
}

pub fn watches() -> Finding {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/sys/fs/inotify/{name}"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (watches, instances) = (read("max_user_watches"), read("max_user_instances"));
    let state = if watches >= 65_536 && instances >= 128 { State::Ok } else { State::Limited };
    Finding::new(
        "inotify",
        state,
        format!("{watches} watches, {instances} instances"),
        "a read-only project is watched so that the agent sees what you save; where watches run out, names are refreshed every half second instead",
        Some("sysctl -w fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512"),
    )
}

pub fn directories(dirs: &Dirs) -> Finding {
    let matters = "configuration, sessions, receipts and run directories lie there";
    for directory in dirs.all() {
        let existing = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
        if access(existing, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
            return Finding::new(
                "directories",
                State::Missing,
                format!("{} cannot be written", existing.display()),
                matters,
                Some("export BELLJAR_HOME=/a/directory/of/yours"),
            );
        }
    }
    let [config, data, run] = dirs.all();
    Finding::new(
        "directories",
        State::Ok,
        format!("{}, {}, {}", config.display(), data.display(), run.display()),
        matters,
        None,
    )
}
