//! podman's command line for a plan. podman makes the container from what the
//! launcher has staged; its own ideas are switched off one by one, and what
//! cannot be switched off is mounted from the staging area and taken away again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::runtime::RuntimeKind;
use crate::bundle::{Place, init_arguments};
use crate::error::{Error, Result};
use crate::plan::{AGENT_ID, BELLJAR_DIR, FileOwnership, INIT_PATH, Mount, MountKind, OpenFiles, Plan, most_processes};

/// Where podman's own files of a run are, in the staging area.
pub const DIRECTORY: &str = "podman";
/// The init's first argument: where it meets the launcher. podman passes no
/// descriptors on to a container that it creates and starts in two steps.
pub const HANDSHAKE: &str = "/run/belljar/handshake";
/// Name of that socket in the directory that is mounted at /run/belljar.
pub const HANDSHAKE_NAME: &str = "handshake";
/// What podman would mount by itself, with what is mounted instead: a name in
/// [`DIRECTORY`]. The launcher takes these mounts away again.
pub const COVERED: [(&str, &str); 4] =
    [("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf"), ("/sys", "sys"), ("/sys/fs/cgroup", "cgroup")];

/// File in [`DIRECTORY`] with the process id of the container's PID 1.
pub const PID_FILE: &str = "pid";
/// File in [`DIRECTORY`] with the process id of conmon.
pub const CONMON_PID_FILE: &str = "conmon.pid";

/// Name of the run's container, for podman and for those who look for it.
pub fn container_name(run: &str) -> String {
    format!("belljar-{run}")
}

/// Options of every call, before the command: which runtime podman uses, that
/// systemd is not asked for cgroups (the run's is there), and no
/// hooks of the host, which would run with the container's descriptors.
pub fn global_arguments(plan: &Plan, empty: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--hooks-dir".into(), empty.into()];
    arguments.extend(["--runtime".into(), plan.runtime.path.clone().into()]);
    arguments.extend(["--cgroup-manager".into(), "cgroupfs".into()]);
    arguments
}

/// podman cannot tell runc to do without a cgroup for the container. Where it
/// may make one (as root) that is below the launcher's own, whose limits hold
/// for it.
pub fn has_cgroup(plan: &Plan) -> bool {
    makes_cgroup(plan.runtime.kind)
}

/// Whether podman does not run this runtime without a cgroup.
pub fn makes_cgroup(runtime: RuntimeKind) -> bool {
    runtime == RuntimeKind::Runc
}

/// Name of the cgroup below the launcher's in which podman makes the container's.
pub fn cgroup_name(run: &str) -> String {
    format!("belljar-podman-{run}")
}

/// `podman create …` for the plan. `staging` is the staging area; `places` are
/// where each mount lies in it; podman writes the init's pid to `pid_file`.
pub fn create_arguments(
    plan: &Plan,
    run: &str,
    staging: &Path,
    places: &[Option<Place>],
    open_files: OpenFiles,
) -> Vec<OsString> {
    let own = staging.join(DIRECTORY);
    let text = |text: &str| OsString::from(text);
    let mut arguments = vec![
        text("create"),
        text("--name"),
        container_name(run).into(),
        text("--label"),
        format!("belljar.run={run}").into(),
        text("--label"),
        format!("belljar.group={}", plan.group).into(),
    ];
    arguments.extend(user_namespace(plan).into_iter().map(OsString::from));
    let fixed = [
        "--rootfs",
        "--network=none",
        "--http-proxy=false",
        "--no-hosts",
        "--no-healthcheck",
        "--read-only-tmpfs=false",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--security-opt=proc-opts=nosuid,noexec,nodev,hidepid=2",
        "--unsetenv-all",
        "--systemd=false",
        "--image-volume=ignore",
        "--log-driver=k8s-file",
        // conmon begins it anew then: `podman logs` shows the last.
        "--log-opt=max-size=1mb",
        // Without it podman gives the container its own /dev/null, and crun gives
        // that file of the host to the container's user.
        "--interactive",
    ];
    arguments.extend(fixed.map(OsString::from));
    if plan.root.writable.is_none() {
        arguments.push(text("--read-only"));
    }
    arguments.push(if has_cgroup(plan) { text("--cgroups=enabled") } else { text("--cgroups=disabled") });
    if has_cgroup(plan) {
        arguments.push(text("--pids-limit=0"));
        // Without one an ordinary user's podman asks for no cgroup at all.
        if plan.identity.files == FileOwnership::Idmapped {
            arguments.push(format!("--cgroup-parent=/{}", cgroup_name(run)).into());
        }
    }
    arguments.push(option("--security-opt=seccomp=", &own.join("seccomp.json")));
    if !plan.masked_paths.is_empty() {
        // What podman masks by itself differs from version to version, and it
        // masks twice what it is told to mask too.
        let paths = plan.masked_paths.join(":");
        arguments.push(format!("--security-opt=unmask={paths}").into());
        arguments.push(format!("--security-opt=mask={paths}").into());
    }
    arguments.push(format!("--user={AGENT_ID}:{AGENT_ID}").into());
    arguments.push(format!("--hostname={}", plan.hostname).into());
    arguments.push(format!("--workdir={}", plan.workdir).into());
    arguments.push(option("--pidfile=", &own.join(PID_FILE)));
    arguments.push(option("--conmon-pidfile=", &own.join(CONMON_PID_FILE)));
    arguments.push(text("--ulimit=core=0:0"));
    arguments.push(format!("--ulimit=nofile={}:{}", open_files.soft, open_files.hard).into());
    // Not the planned one: until the container has its user namespace, podman's
    // own processes and threads would count too. The init sets that.
    let processes = most_processes();
    arguments.push(format!("--ulimit=nproc={processes}:{processes}").into());
    if plan.terminal {
        arguments.push(text("--tty"));
    }
    for (mount, place) in plan.mounts.iter().zip(places) {
        if let Some(Place::Path(source)) = place {
            arguments.extend(volume(mount, source));
        }
    }
    for (target, name) in COVERED {
        let source = own.join(name);
        arguments.push("--mount".into());
        arguments.push(format!("type=bind,source={},destination={target},{}", source.display(), COVER_OPTIONS).into());
    }
    arguments.push(format!("--entrypoint=[\"{INIT_PATH}\"]").into());
    arguments.push(staging.join("bundle/rootfs").into());
    arguments.extend(init_arguments(plan, HANDSHAKE).into_iter().skip(1).map(OsString::from));
    arguments
}

const COVER_OPTIONS: &str = "ro,nosuid,nodev,noexec,bind-propagation=rprivate";

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}

/// The container's user namespace. For root keep-id does not exist: the ids are
/// those of the group's reserved range.
fn user_namespace(plan: &Plan) -> Vec<String> {
    let identity = &plan.identity;
    match identity.files {
        FileOwnership::Caller => vec![format!("--userns=keep-id:uid={AGENT_ID},gid={AGENT_ID}")],
        FileOwnership::Idmapped => {
            let maps = |name: &str, maps: &[crate::plan::IdMap]| {
                let one = |map: &crate::plan::IdMap| format!("--{name}={}:{}:{}", map.inside, map.outside, map.count);
                maps.iter().map(one).collect::<Vec<_>>()
            };
            let mut all = maps("uidmap", &identity.launcher_uids);
            all.extend(maps("gidmap", &identity.launcher_gids));
            all
        }
    }
}

/// One `--mount`. Its value is a list with commas; `--volume` has colons instead.
fn volume(mount: &Mount, source: &Path) -> [OsString; 2] {
    let flags = [
        Some(if mount.readonly { "ro" } else { "rw" }),
        Some("nosuid"),
        mount.nodev.then_some("nodev"),
        mount.noexec.then_some("noexec"),
    ];
    let flags: Vec<&str> = flags.into_iter().flatten().collect();
    let (target, source, flags) = (&mount.target, source.display(), flags.join(","));
    if target.contains(OF_LISTS) {
        return ["--volume".into(), format!("{source}:{target}:{flags},rprivate").into()];
    }
    let value = format!("type=bind,source={source},destination={target},{flags},bind-propagation=rprivate");
    ["--mount".into(), value.into()]
}

/// What has a meaning in the list that `--mount` takes (RFC 4180).
const OF_LISTS: [char; 4] = [',', '"', '\n', '\r'];

/// Refuses targets for which podman has no notation.
pub fn check_targets(mounts: &[Mount]) -> Result<()> {
    match mounts.iter().find(|mount| mount.target.contains(OF_LISTS) && mount.target.contains(':')) {
        None => Ok(()),
        Some(mount) => {
            let what =
                format!("mount {}: podman takes no path with a colon and one of , \" and line ends", mount.target);
            Err(Error::refused(what).hint("belljar run --backend crun"))
        }
    }
}

/// Directory below the staging area in which podman's handshake socket lies.
pub fn handshake_socket(staging: &Path) -> PathBuf {
    let name = Path::new(BELLJAR_DIR).file_name().unwrap_or_default();
    staging.join(name).join(HANDSHAKE_NAME)
}

/// Whether the launcher has to make the mount before podman starts, because
/// podman knows no option for what the plan asks for.
pub fn is_made_by_launcher(kind: &MountKind) -> bool {
    matches!(kind, MountKind::Tmpfs { .. } | MountKind::Devpts | MountKind::Device)
}
