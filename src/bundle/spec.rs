//! Plan → `config.json` (OCI runtime spec 1.0.2). Every security field is set:
//! the library's defaults would keep capabilities and allow every call.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    BoxBuilder, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount as OciMount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::seccomp;
use crate::backend::CgroupView;
use crate::error::{Context, Error, Result};
use crate::plan::{AGENT_ID, INIT_PATH, IdMap, Mount, MountKind, OpenFiles, Plan, process_limit};

/// Where the things of one bundle lie, and how it is to be started.
#[derive(Debug)]
pub struct Places {
    /// The root filesystem.
    pub root: PathBuf,
    /// What is bound for each mount of the plan; `None` for those that the
    /// runtime makes.
    pub mounts: Vec<Option<Place>>,
    /// The init's first argument: descriptor of the handshake, or `-` for none.
    pub handshake: String,
    /// The container's map, relative to the namespace that the runtime is started
    /// in.
    pub maps: Vec<IdMap>,
    /// A network namespace of the container's own, instead of the launcher's.
    pub own_network: bool,
    /// Limits of open files; `None` leaves the runtime's.
    pub open_files: Option<OpenFiles>,
    /// Rows and columns of the agent's terminal.
    pub window: Option<(u16, u16)>,
}

/// What is mounted for one mount of the plan.
#[derive(Debug, Clone)]
pub enum Place {
    /// A file or directory, staged with the mount's flags.
    Path(PathBuf),
    /// A file or directory of the host.
    Unstaged(PathBuf),
    /// A file or directory whose owner on disk becomes a host id (crun's mount
    /// option `idmap`).
    Mapped {
        /// Where it is.
        path: PathBuf,
        /// Owner and group on disk.
        owner: (u32, u32),
        /// The host id.
        to: u32,
    },
    /// Nothing: there is no name to cover.
    LeftOut,
    /// An overlay of these lower layers, uppermost first.
    Layers(Vec<PathBuf>),
}

/// The arguments of the container's PID 1.
pub fn init_arguments(plan: &Plan, handshake: &str) -> Vec<String> {
    let mut arguments = vec![INIT_PATH.to_owned(), handshake.to_owned()];
    arguments.extend(plan.command.iter().cloned());
    arguments
}

/// Renders the plan.
pub fn render(plan: &Plan, places: &Places) -> Result<Spec> {
    let failed = || "render the OCI configuration".to_owned();
    let none = || Some(HashSet::new());
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(none().unwrap_or_default())
        .effective(none().unwrap_or_default())
        .inheritable(none().unwrap_or_default())
        .permitted(none().unwrap_or_default())
        .ambient(none().unwrap_or_default())
        .build()
        .step(failed)?;
    let user = UserBuilder::default().uid(AGENT_ID).gid(AGENT_ID).build().step(failed)?;
    let environment: Vec<String> =
        plan.environment.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect();
    let mut rlimits = vec![rlimit(PosixRlimitType::RlimitCore, 0, 0)?];
    if let Some(most) = process_limit(&plan.limits) {
        rlimits.push(rlimit(PosixRlimitType::RlimitNproc, most, most)?);
    }
    if let Some(files) = places.open_files {
        rlimits.push(rlimit(PosixRlimitType::RlimitNofile, files.soft, files.hard)?);
    }
    let mut process = ProcessBuilder::default()
        .terminal(plan.terminal)
        .user(user)
        .args(init_arguments(plan, &places.handshake))
        .env(environment)
        .cwd(plan.workdir.clone())
        .capabilities(capabilities)
        .rlimits(rlimits)
        .no_new_privileges(true)
        .build()
        .step(failed)?;
    if let (true, Some((rows, columns))) = (plan.terminal, places.window) {
        let size = BoxBuilder::default().height(u64::from(rows)).width(u64::from(columns)).build().step(failed)?;
        process.set_console_size(Some(size));
    }
    let maps = || {
        let map = |map: &IdMap| {
            let ids = LinuxIdMappingBuilder::default().container_id(map.inside).host_id(map.outside).size(map.count);
            ids.build().step(failed)
        };
        places.maps.iter().map(map).collect::<Result<Vec<_>>>()
    };
    // The root of a tree in which nothing can be made.
    let sealed = plan.runtime.kind.runtime().cgroups() == CgroupView::Sealed;
    let cgroups_path = sealed.then(|| PathBuf::from("/"));
    let mut linux = LinuxBuilder::default()
        .uid_mappings(maps()?)
        .gid_mappings(maps()?)
        .namespaces(namespaces(places.own_network)?)
        .masked_paths(plan.masked_paths.clone())
        .readonly_paths(plan.readonly_paths.clone())
        .seccomp(seccomp::profile()?.render(plan.runtime.kind.runtime().masked_equal())?)
        .build()
        .step(failed)?;
    linux
        .set_resources(None)
        .set_devices(None)
        .set_cgroups_path(cgroups_path)
        .set_mount_label(None)
        .set_rootfs_propagation(Some("private".to_owned()));
    let mut mounts = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        mounts.extend(oci_mount(mount, places.mounts.get(index).cloned().flatten())?);
    }
    let root = RootBuilder::default().path(&places.root).readonly(plan.root.writable.is_none()).build().step(failed)?;
    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .root(root)
        .mounts(mounts)
        .process(process)
        .hostname(plan.hostname.clone())
        .linux(linux)
        .build()
        .step(failed)?;
    spec.set_hooks(None).set_annotations(None);
    Ok(spec)
}

/// The same options for a whole tree: without them crun forgets those of a bind
/// that is not read-only.
fn recursive(mount: &Mount, options: &[String]) -> Vec<String> {
    let given = options.iter().filter(|_| !mount.readonly);
    given.map(|option| format!("r{option}")).collect()
}

fn rlimit(kind: PosixRlimitType, soft: u64, hard: u64) -> Result<PosixRlimit> {
    PosixRlimitBuilder::default().typ(kind).hard(hard).soft(soft).build().step(|| "render a resource limit".to_owned())
}

fn namespaces(own_network: bool) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let mut kinds = vec![User, Pid, Mount, Ipc, Uts, Cgroup];
    if own_network {
        kinds.push(Network);
    }
    let build = |kind| LinuxNamespaceBuilder::default().typ(kind).build().step(|| "render a namespace".to_owned());
    kinds.into_iter().map(build).collect()
}

/// One mount; `None` for what the runtime makes by itself.
fn oci_mount(mount: &Mount, place: Option<Place>) -> Result<Option<OciMount>> {
    let flag = |on: bool, name: &str| on.then(|| name.to_owned());
    let mut options: Vec<String> = [
        Some("nosuid".to_owned()),
        flag(mount.readonly, "ro"),
        flag(mount.nodev, "nodev"),
        flag(mount.noexec, "noexec"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (kind, source) = match (&mount.kind, place) {
        (MountKind::Device | MountKind::Console, _) | (_, Some(Place::LeftOut)) => return Ok(None),
        (MountKind::Proc, _) => {
            options.push("hidepid=2".to_owned());
            ("proc", PathBuf::from("proc"))
        }
        (MountKind::Devpts, _) => {
            options.extend(["newinstance", "ptmxmode=0666", "mode=0620"].map(str::to_owned));
            ("devpts", PathBuf::from("devpts"))
        }
        (MountKind::Tmpfs { size, inodes, mode }, _) => {
            options.extend([
                format!("size={size}"),
                format!("nr_inodes={inodes}"),
                format!("mode={mode:o}"),
                format!("uid={AGENT_ID}"),
                format!("gid={AGENT_ID}"),
            ]);
            ("tmpfs", PathBuf::from("tmpfs"))
        }
        (_, Some(Place::Path(path))) => {
            options.extend(["rbind", "rprivate"].map(str::to_owned));
            ("bind", path)
        }
        (_, Some(Place::Unstaged(path))) => {
            options.extend(recursive(mount, &options));
            options.extend(["rbind", "rprivate"].map(str::to_owned));
            ("bind", path)
        }
        (_, Some(Place::Mapped { path, owner: (uid, gid), to })) => {
            options.extend(recursive(mount, &options));
            options.extend(["rbind", "rprivate"].map(str::to_owned));
            options.push(format!("idmap=uids={uid}-{to}-1;gids={gid}-{to}-1"));
            ("bind", path)
        }
        (_, Some(Place::Layers(layers))) => {
            let layers: Vec<String> = layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
            options.extend([format!("lowerdir={}", layers.join(":")), "userxattr".to_owned()]);
            ("overlay", PathBuf::from("overlay"))
        }
        (_, None) => {
            return Err(Error::failed(format!("no place was made for the mount {}", mount.target)));
        }
    };
    let built = MountBuilder::default().destination(&mount.target).typ(kind).source(source).options(options).build();
    Ok(Some(built.step(|| format!("render the mount {}", mount.target))?))
}
