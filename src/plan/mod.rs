//! The plan: everything that one agent will get, as one plain value.
//!
//! [`build`] resolves a [`Request`] with the configuration and the group; every
//! refusal happens there. Five readers take it from here and nothing else:
//! explain, bundle, launch, verify, receipt. Nothing in this room has an effect
//! on the host.

mod allowed;
mod beneath;
mod blocked;
mod build;
mod cgroup;
mod command;
mod egress;
mod environment;
mod identity;
mod leaving;
mod limits;
mod mounts;
mod own;
mod request;
mod source;
mod storage;
mod submounts;
mod system;
mod text;
mod walk;
mod writable;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::backend::RuntimeKind;
use crate::config::Backend;
use crate::image::Digest as ImageDigest;

pub use allowed::{Allowlist, AllowlistState, Verdict};
pub use beneath::open_without_links;
pub use blocked::{Blocked, DEFAULT_PATTERNS};
pub use build::{Resolved, build, wanted_image};
pub use cgroup::{CgroupPlace, HIERARCHY, below, find_cgroup, own_cgroup};
pub use command::NOT_FOUND;
pub use egress::{GatewayParts, expanded, extra_roots, find_pasta, inspected, key_files, records_of};
pub use identity::HOST_ID_BASE;
pub use leaving::{Egress, EgressSecret, Inspected, Listener, ListenerPurpose, Opened, Transport};
pub use limits::{
    OpenFiles, most_processes, open_files, parse_cpus, parse_duration, parse_rate, parse_size, process_limit,
};
pub use mounts::{Mounts, Surroundings, join};
pub use own::OwnPlaces;
pub use request::{Access, EgressMode, MountArgument, ProjectArgument, Request};
pub use source::{FileId, Source, absolute, identify};
pub use storage::{floor_of, source_of};
pub use submounts::{MountEntry, read_mountinfo};
pub use system::Origin;
pub use writable::{RootAccess, WritableRoot};

/// uid and gid of the agent inside (REQUIREMENTS: unprivileged `node`, 1000).
pub const AGENT_ID: u32 = 1000;
/// Where belljar's own files are inside.
pub const BELLJAR_DIR: &str = "/run/belljar";
/// The init's path inside.
pub const INIT_PATH: &str = "/run/belljar/init";
/// The agent's home inside.
pub const HOME: &str = "/home/node";

/// Everything that one agent will get.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Version of this form.
    pub version: u32,
    /// The group whose agent it is.
    pub group: String,
    /// Whether the group is trusted: only `main` is.
    pub trust: Trust,
    /// What the init executes: program and arguments.
    pub command: Vec<String>,
    /// How the program was found.
    pub command_reason: String,
    /// Working directory inside.
    pub workdir: String,
    /// Host name inside.
    pub hostname: String,
    /// Whether the agent gets a terminal of its own.
    pub terminal: bool,
    /// Who the agent is, inside and on the host.
    pub identity: Identity,
    /// The root filesystem.
    pub root: Root,
    /// Every mount, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// What is hidden below the mounts, counted.
    pub shadowed: Shadowed,
    /// Paths of /proc that are covered.
    pub masked_paths: Vec<String>,
    /// Paths of /proc that cannot be written.
    pub readonly_paths: Vec<String>,
    /// The whole environment.
    pub environment: Vec<Variable>,
    /// What may leave.
    pub egress: Egress,
    /// What may be used up.
    pub limits: Limits,
    /// The system calls.
    pub seccomp: Seccomp,
    /// Who makes the container.
    pub runtime: Runtime,
    /// What a person should know beyond the lines above.
    pub notes: Vec<String>,
}

/// How far a group is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// The person's own group.
    Trusted,
    /// Others may write to it.
    Untrusted,
}

/// One range of a user namespace's map (user_namespaces(7)): `count` ids from
/// `inside` are `outside` and following in the parent namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IdMap {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in the parent.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Who the agent is.
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// uid and gid inside.
    pub inside: u32,
    /// The agent's uid as the host sees it; never 0.
    pub host_uid: u32,
    /// The agent's gid as the host sees it; never 0.
    pub host_gid: u32,
    /// uid map of the launcher's namespace, relative to the caller's.
    pub launcher_uids: Vec<IdMap>,
    /// gid map of the launcher's namespace.
    pub launcher_gids: Vec<IdMap>,
    /// Map of the container's namespace, of uids and gids alike, relative to the
    /// launcher's; empty where podman makes its own.
    pub container: Vec<IdMap>,
    /// The agent's id in the launcher's namespace.
    pub in_launcher: u32,
    /// For root: a host id of the group's that owns nothing.
    pub spare: Option<u32>,
    /// How files on disk come to belong to the caller.
    pub files: FileOwnership,
    /// Where the ids come from.
    pub reason: String,
}

/// How files that the agent makes come to belong to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileOwnership {
    /// The agent's host uid is the caller's.
    Caller,
    /// Id-mapped mounts turn the agent's host uid into the owner of the mounted
    /// directory (mount_setattr(2)).
    Idmapped,
}

/// The root filesystem.
#[derive(Debug, Clone, Serialize)]
pub struct Root {
    /// Where it comes from.
    pub kind: RootKind,
    /// What belljar puts into it.
    pub generated: Vec<Generated>,
    /// Where what is written into it goes; `None` when it is read-only.
    pub writable: Option<WritableRoot>,
}

impl Root {
    /// The image, where it is one.
    pub fn image(&self) -> Option<&ImageDigest> {
        match &self.kind {
            RootKind::Image { digest, .. } => Some(digest),
            _ => None,
        }
    }
}

/// Where the root filesystem comes from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum RootKind {
    /// The host's /usr in a generated root.
    Host,
    /// An image of the cache: the top-level entries of its root, in a generated
    /// root.
    Image {
        /// As it was asked for.
        reference: String,
        /// Its id.
        digest: ImageDigest,
        /// Where its root is on the host.
        path: PathBuf,
    },
    /// An unpacked root: its top-level entries, in a generated root.
    Directory {
        /// Where it is on the host.
        path: PathBuf,
    },
}

/// One entry that belljar makes in the root.
#[derive(Debug, Clone, Serialize)]
pub struct Generated {
    /// Absolute path inside.
    pub path: String,
    /// What is made there.
    pub content: Content,
}

/// What is made at a path of the root.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Link(String),
    /// A file with this text.
    Text(String),
    /// A copy of this file of the host.
    Copy(PathBuf),
}

/// One mount.
#[derive(Debug, Clone, Serialize)]
pub struct Mount {
    /// Absolute path inside.
    pub target: String,
    /// What is mounted.
    #[serde(flatten)]
    pub kind: MountKind,
    /// Cannot be written.
    pub readonly: bool,
    /// Device nodes in it do not work.
    pub nodev: bool,
    /// Programs in it cannot be executed.
    pub noexec: bool,
    /// Why it is there.
    pub reason: String,
}

/// What is mounted. Set-user-id bits count in none of them (`nosuid`).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// The real path: no component is a symbolic link.
        source: PathBuf,
        /// What was validated; `None` for belljar's own directories, which are
        /// made and pinned after the plan is accepted.
        id: Option<FileId>,
        /// A directory (a file otherwise).
        directory: bool,
        /// Mounts of the host below it that come along, relative to it.
        submounts: Vec<String>,
    },
    /// A directory of the host, read-only, with names hidden for the whole run:
    /// an overlay whose upper layer holds the shadows.
    Merged {
        /// The real path.
        source: PathBuf,
        /// What was validated.
        id: FileId,
        /// What is hidden, relative to the directory.
        shadows: Vec<Shadow>,
    },
    /// A directory of the root filesystem under a layer of the run's own, which
    /// takes what is written into it: an overlay (`--writable-root`).
    Layered {
        /// The real path; nothing is ever written there.
        source: PathBuf,
        /// What was validated.
        id: FileId,
    },
    /// A directory of the generated root in which other mounts lie: a mount too,
    /// because a mount cannot be renamed, and with it what lies in it.
    Holder,
    /// `/dev/null` over a name that a merged mount hides.
    DevNull,
    /// An empty unreadable directory over a name that a merged mount hides.
    Empty,
    /// A file or directory that belljar makes for this run.
    Generated {
        /// A directory (a file otherwise).
        directory: bool,
    },
    /// A private tmpfs.
    Tmpfs {
        /// Size limit in bytes.
        size: u64,
        /// Limit of files and directories.
        inodes: u64,
        /// Permission bits of its root.
        mode: u32,
    },
    /// A fresh proc of the container's own processes.
    Proc,
    /// A fresh devpts.
    Devpts,
    /// A device of the host, bound by the runtime.
    Device,
    /// The agent's own terminal, bound by the runtime.
    Console,
}

/// One name hidden below a merged mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Shadow {
    /// Relative to the mounted directory.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What lies there.
    pub kind: ShadowKind,
    /// Which rule hides it.
    pub rule: String,
}

fn lossy<S: serde::Serializer>(path: &std::path::Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// What kind of thing is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShadowKind {
    /// A regular file or symbolic link.
    File,
    /// A directory.
    Directory,
    /// A socket, FIFO or device node.
    Special,
    /// Nothing yet: the name is kept free.
    Absent,
}

/// How much is hidden.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Shadowed {
    /// Files, also those that do not exist yet.
    pub files: usize,
    /// Directories.
    pub directories: usize,
    /// Sockets, FIFOs and device nodes.
    pub special: usize,
}

/// One environment variable.
#[derive(Debug, Clone, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Why it is there.
    pub reason: String,
}

/// What may be used up.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Limits {
    /// Wall-clock seconds of the run.
    pub timeout_seconds: Option<Limit<f64>>,
    /// Bytes of stdout and stderr together.
    pub output_bytes: Option<Limit<u64>>,
    /// Processes and threads.
    pub pids: Option<Limit<u64>>,
    /// Bytes of memory of the whole tree.
    pub memory_bytes: Option<Limit<u64>>,
    /// CPUs' worth of time per second of the whole tree.
    pub cpus: Option<Limit<f64>>,
    /// Bytes per second read from each block device behind the mounts, and as
    /// many written to it.
    pub io_bytes_per_second: Option<Limit<u64>>,
    /// Those devices, as `major:minor`.
    pub io_devices: Vec<String>,
    /// Bytes that the run may add to what is mounted read-write, and that each
    /// private tmpfs may hold.
    pub disk_bytes: Option<Limit<u64>>,
    /// Where a cgroup of the run's own is made, if one is needed.
    pub cgroup: Option<CgroupPlace>,
    /// What is limited in it.
    pub controllers: Vec<String>,
}

/// One limit.
#[derive(Debug, Clone, Serialize)]
pub struct Limit<T> {
    /// How much.
    pub value: T,
    /// Whether it is in force.
    pub enforced: bool,
    /// By what, or why not.
    pub by: String,
}

/// The system calls.
#[derive(Debug, Clone, Serialize)]
pub struct Seccomp {
    /// The profile's name.
    pub profile: String,
    /// SHA-256 of its text.
    pub sha256: String,
    /// How many calls are allowed at least with some arguments.
    pub allowed: usize,
}

/// Who makes the container.
#[derive(Debug, Clone, Serialize)]
pub struct Runtime {
    /// Whether belljar calls the OCI runtime itself, or podman.
    pub backend: Backend,
    /// podman's own file, with the podman backend.
    pub podman: Option<PathBuf>,
    /// Which OCI runtime it is.
    pub kind: RuntimeKind,
    /// The OCI runtime's file on the host.
    pub path: PathBuf,
    /// How it was chosen.
    pub reason: String,
    /// Run from a read-only bind of its file in the staging area: a program, so
    /// that it need not copy itself to be safe from the container
    /// (CVE-2019-5736), or a file that the launcher's host id cannot reach.
    pub staged: bool,
}

impl Plan {
    /// The plan's canonical text, which the digest covers: JSON with sorted keys
    /// and without blanks (`jq -cS .plan RECEIPT | tr -d '\n' | sha256sum`).
    pub fn canonical(&self) -> String {
        serde_json::to_value(self).map(|value| value.to_string()).unwrap_or_default()
    }

    /// Whether files below the mount keep the owners that the system gave them,
    /// also for runs by root; those of persons are id-mapped.
    pub fn is_system(&self, mount: &Mount) -> bool {
        let target = mount.target.as_str();
        let of_person = ["/workspace", "/home", "/root", "/opt"].iter().any(|prefix| target.starts_with(prefix));
        !of_person && !self.command.first().is_some_and(|program| program.starts_with(target))
    }

    /// SHA-256 of the canonical text, in hexadecimal.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.canonical().as_bytes()))
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
