//! The OCI runtimes that belljar knows, and what is different about each. All
//! have `run --bundle` and pass descriptors on; nothing else is common.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

use super::Start;

/// Which runtime it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// crun, and what has its command line.
    Crun,
    /// runc.
    Runc,
    /// youki.
    Youki,
    /// gVisor's.
    Runsc,
    /// crun with a virtual machine (libkrun).
    Krun,
}

/// Whether a runtime needs id 0 of the container's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootId {
    /// One map, of the agent's id, is enough.
    NotNeeded,
    /// It becomes id 0 on its way, so that has to be mapped, to an id that owns
    /// nothing.
    Mapped,
}

/// How long a runtime that runs a bundle stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// Until the container ends.
    UntilTheEnd,
    /// Until the container has started: staying, it would put pipes of its own
    /// between the agent and its stdio.
    UntilTheStart,
}

/// What a runtime sees at /sys/fs/cgroup. None of them makes a cgroup: they run
/// in the run's own where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupView {
    /// A cgroup v2 tree, without which crun refuses hosts with hybrid cgroups.
    Unified,
    /// The same, where nothing can be made, and a process can be added without any
    /// effect: for one that insists on a cgroup. Its path is the tree's root.
    Sealed,
}

/// Who writes the id maps of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapsBy {
    /// The runtime.
    Itself,
    /// newuidmap and newgidmap on its PATH. In the launcher's namespace those of
    /// the system know nobody; it gets ones of ours, which write what they are
    /// told, as the launcher may.
    Helpers,
}

/// How a runtime reads SCMP_CMP_MASKED_EQ. The OCI runtime spec leaves to
/// libseccomp what `value` and `valueTwo` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskedEqual {
    /// `value` is the mask, as libseccomp has it (seccomp_rule_add(3)).
    MaskFirst,
    /// `valueTwo` is the mask. Should a later version mend that, the init sees
    /// that the filter is another one, and the run ends.
    MaskLast,
}

/// Trouble of all versions before one.
#[derive(Debug)]
pub struct Trouble {
    /// The first version without it.
    pub before: (u32, u32, u32),
    /// What it is, and what it means for runs.
    pub what: &'static str,
    /// Whether runs are possible all the same.
    pub usable: bool,
}

/// What is different about a runtime.
pub trait OciRuntime {
    /// Its own name, by which it is found on PATH.
    fn name(&self) -> &'static str;

    /// Adds the arguments by which it runs a bundle in the foreground and passes
    /// descriptor 3 on.
    fn run(&self, start: &Start, command: &mut Command);

    /// Whether it stays until the container ends.
    fn stay(&self) -> Stay {
        Stay::UntilTheEnd
    }

    /// What it is to see of cgroups.
    fn cgroups(&self) -> CgroupView {
        CgroupView::Unified
    }

    /// Who writes the id maps of the container.
    fn maps_by(&self) -> MapsBy {
        MapsBy::Itself
    }

    /// How it reads a masked comparison of a seccomp rule.
    fn masked_equal(&self) -> MaskedEqual {
        MaskedEqual::MaskFirst
    }

    /// Whether it needs id 0 mapped.
    fn root_id(&self) -> RootId {
        RootId::NotNeeded
    }

    /// What verify cannot see of its containers; then belljar cannot run them.
    fn unseen(&self) -> Option<&'static str> {
        None
    }

    /// Known trouble, worst first.
    fn troubles(&self) -> &'static [Trouble] {
        &[]
    }
}

/// The command line that all share, after their own global options.
fn run_bundle(start: &Start, command: &mut Command, options: &[&str]) {
    command.arg("run").args(options).arg("--bundle").arg(&start.bundle).args(["--preserve-fds", "1"]);
    if let Some(console) = &start.console {
        command.arg("--console-socket").arg(console);
    }
    command.arg(&start.id);
}

fn state_and_log(start: &Start, command: &mut Command) {
    command.arg("--root").arg(&start.state).arg("--log").arg(&start.log).args(["--log-format", "text"]);
}

struct Crun;

impl OciRuntime for Crun {
    fn name(&self) -> &'static str {
        "crun"
    }

    fn run(&self, start: &Start, command: &mut Command) {
        state_and_log(start, command);
        // No cgroup is made: the runtime is in the run's own where there is one.
        command.args(["--cgroup-manager", "disabled"]);
        run_bundle(start, command, &[]);
    }

    fn troubles(&self) -> &'static [Trouble] {
        &[
            Trouble { before: (1, 0, 0), what: "it lacks options that belljar uses", usable: false },
            Trouble {
                before: (1, 8, 2),
                what: "it follows a link at /dev of a root (CVE-2026-47766); belljar generates the root itself, so runs are not affected",
                usable: true,
            },
        ]
    }
}

struct Runc;

impl OciRuntime for Runc {
    fn name(&self) -> &'static str {
        "runc"
    }

    fn run(&self, start: &Start, command: &mut Command) {
        state_and_log(start, command);
        // Whether cgroups can be written is found out in the launcher, where they cannot.
        command.args(["--rootless", "true"]);
        run_bundle(start, command, &["--detach"]);
    }

    fn stay(&self) -> Stay {
        Stay::UntilTheStart
    }

    fn root_id(&self) -> RootId {
        RootId::Mapped
    }

    fn troubles(&self) -> &'static [Trouble] {
        &[
            Trouble { before: (1, 1, 0), what: "it answers unknown calls with EPERM", usable: false },
            Trouble {
                before: (1, 1, 12),
                what: "it leaks a descriptor of the host's (CVE-2024-21626); verify ends a run whose init has any but four",
                usable: true,
            },
        ]
    }
}

struct Youki;

impl OciRuntime for Youki {
    fn name(&self) -> &'static str {
        "youki"
    }

    fn run(&self, start: &Start, command: &mut Command) {
        state_and_log(start, command);
        run_bundle(start, command, &[]);
    }

    fn masked_equal(&self) -> MaskedEqual {
        MaskedEqual::MaskLast
    }

    fn maps_by(&self) -> MapsBy {
        MapsBy::Helpers
    }

    fn cgroups(&self) -> CgroupView {
        CgroupView::Sealed
    }

    fn root_id(&self) -> RootId {
        RootId::Mapped
    }
}

struct Runsc;

impl OciRuntime for Runsc {
    fn name(&self) -> &'static str {
        "runsc"
    }

    fn run(&self, start: &Start, command: &mut Command) {
        state_and_log(start, command);
        run_bundle(start, command, &[]);
    }

    fn root_id(&self) -> RootId {
        RootId::Mapped
    }

    fn unseen(&self) -> Option<&'static str> {
        Some(
            "gVisor's own kernel holds the processes, mounts and network of its containers: the host's kernel shows nothing of them",
        )
    }
}

struct Krun;

impl OciRuntime for Krun {
    fn name(&self) -> &'static str {
        "krun"
    }

    fn run(&self, start: &Start, command: &mut Command) {
        Crun.run(start, command);
    }

    fn unseen(&self) -> Option<&'static str> {
        Some(
            "a virtual machine's own kernel holds the agent's processes and network: the host's kernel shows only the machine",
        )
    }
}

impl RuntimeKind {
    /// All, in the order in which they are looked for.
    pub const ALL: [Self; 5] = [Self::Crun, Self::Runc, Self::Youki, Self::Runsc, Self::Krun];

    /// What is different about it.
    pub fn runtime(self) -> &'static dyn OciRuntime {
        match self {
            Self::Crun => &Crun,
            Self::Runc => &Runc,
            Self::Youki => &Youki,
            Self::Runsc => &Runsc,
            Self::Krun => &Krun,
        }
    }

    /// By the program's name, or else by what it says of itself. A script, or a
    /// program that says nothing, is taken to have crun's command line.
    pub fn of(path: &Path) -> Self {
        let named = |name: &str| Self::ALL.into_iter().find(|kind| kind.runtime().name() == name);
        if let Some(kind) = path.file_name().and_then(|name| name.to_str()).and_then(named) {
            return kind;
        }
        if !super::find::is_program(path) {
            return Self::Crun;
        }
        version_text(path).and_then(|text| named(text.split_whitespace().next()?)).unwrap_or(Self::Crun)
    }
}

/// What `PATH --version` says.
fn version_text(path: &Path) -> Option<String> {
    let output = Command::new(path).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version that `PATH --version` says, as text and as numbers.
pub fn version_of(path: &Path) -> Option<(String, (u32, u32, u32))> {
    let text = version_text(path)?;
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?.to_owned();
    let mut numbers =
        word.split('.').map(|part| part.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0));
    let version = (numbers.next()?, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Some((word, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_it_is() {
        for (path, kind) in [("/usr/bin/crun", RuntimeKind::Crun), ("/usr/sbin/runc", RuntimeKind::Runc)] {
            assert_eq!(RuntimeKind::of(Path::new(path)), kind);
        }
        assert_eq!(RuntimeKind::of(Path::new("/opt/krun")), RuntimeKind::Krun);
        // A program that is no runtime says something else.
        assert_eq!(RuntimeKind::of(Path::new("/bin/true")), RuntimeKind::Crun);
    }
}
