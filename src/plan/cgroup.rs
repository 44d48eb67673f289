//! Where a cgroup of the run's own can be made (cgroup-v2, "Delegation").

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Pid, access};
use serde::Serialize;

use crate::config::Caller;
use crate::error::{Context, Error, Result};
use crate::systemd::{Manager, ManagerKind};

/// Where version 2 of the hierarchy is on every host that has it alone.
pub const HIERARCHY: &str = "/sys/fs/cgroup";

/// Attributes by which the host's service manager says that it has given a
/// cgroup away (systemd's "Control Group APIs and Delegation"): to be read by
/// everyone, and by root.
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Where the run's own cgroup is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupPlace {
    /// Beside the caller's own, below a cgroup that was given away to it.
    Below(PathBuf),
    /// The caller's own was given away to it, and the supervisor is alone in it:
    /// it moves one level down.
    MoveDown(PathBuf),
    /// In a transient scope, which the manager is asked for.
    Scope(Manager),
}

impl CgroupPlace {
    /// As a reason in the plan.
    pub fn describe(&self) -> String {
        match self {
            Self::Below(parent) | Self::MoveDown(parent) => format!("a cgroup below {}", parent.display()),
            Self::Scope(manager) => format!("a transient scope of {}", manager.name()),
        }
    }

    /// The cgroup above the run's own, where it is known before the run.
    pub fn parent(&self) -> Option<&Path> {
        match self {
            Self::Below(parent) | Self::MoveDown(parent) => Some(parent),
            Self::Scope(_) => None,
        }
    }
}

/// Why no cgroup can be made, and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoCgroup {
    /// The reason.
    pub reason: String,
    /// What a person can type.
    pub hint: String,
}

/// Finds a place whose cgroups can have these controllers: below the unit that
/// the caller is in, where that was given away, or else a scope. Nothing is
/// changed.
pub fn find_cgroup(caller: &Caller, controllers: &[&str]) -> std::result::Result<CgroupPlace, NoCgroup> {
    let hierarchy = hierarchy()?;
    let own = own_cgroup(Pid::this()).map_err(|error| NoCgroup {
        reason: format!("{} ({})", error.what, error.causes.join("; ")),
        hint: "belljar doctor".to_owned(),
    })?;
    let mut here = format!("the caller's cgroup {} was not given away to it", own.display());
    let mut try_here = |given_away: &dyn Fn(&Path) -> bool| {
        let place = leaf_of(hierarchy, &own, given_away)?;
        match lacking(place.parent().unwrap_or(hierarchy), controllers) {
            None => Some(place),
            Some(reason) => {
                here = reason;
                None
            }
        }
    };
    if let Some(place) = try_here(&is_marked) {
        return Ok(place);
    }
    let manager = match Manager::find(caller) {
        Ok(manager) => manager,
        Err(reason) => {
            return Err(NoCgroup {
                reason: format!("{here}, and {reason}"),
                hint: match caller.uid {
                    0 => "call belljar from a unit with Delegate=yes".to_owned(),
                    uid => format!(
                        "loginctl enable-linger {uid}, so that the user's service manager runs; or call belljar from a unit with Delegate=yes"
                    ),
                },
            });
        }
    };
    // A user's manager marks nothing, but tells.
    if let Some(unit) = manager.delegated_unit().map(|unit| below(hierarchy, &unit))
        && let Some(place) = try_here(&|cgroup| cgroup == unit)
    {
        return Ok(place);
    }
    // The manager's own cgroup was given away as a whole: what it has, it can give.
    match lacking(&below(hierarchy, &manager.cgroup), controllers) {
        None => Ok(CgroupPlace::Scope(manager)),
        Some(reason) => Err(NoCgroup {
            hint: match manager.kind {
                ManagerKind::System => "the kernel was built or started without it".to_owned(),
                ManagerKind::User => format!(
                    "systemctl edit user@.service, add [Service] and Delegate=cpu cpuset io memory pids, then systemctl restart user@{}.service",
                    caller.uid
                ),
            },
            reason,
        }),
    }
}

/// The place for runs of a unit that does not run yet: with `Delegate=yes` the
/// host's manager gives it all controllers that there are (systemd.resource-control(5)).
pub fn find_cgroup_of_unit(controllers: &[&str]) -> std::result::Result<CgroupPlace, NoCgroup> {
    let hierarchy = hierarchy()?;
    match lacking(hierarchy, controllers) {
        None => Ok(CgroupPlace::MoveDown(hierarchy.join("system.slice"))),
        Some(reason) => Err(NoCgroup { reason, hint: "the kernel was built or started without it".to_owned() }),
    }
}

fn hierarchy() -> std::result::Result<&'static Path, NoCgroup> {
    let hierarchy = Path::new(HIERARCHY);
    if hierarchy.join("cgroup.controllers").exists() {
        return Ok(hierarchy);
    }
    Err(NoCgroup {
        reason: format!("{} is not a cgroup v2 hierarchy", hierarchy.display()),
        hint: "boot with systemd.unified_cgroup_hierarchy=1, so that the host has cgroup v2".to_owned(),
    })
}

/// The cgroup (version 2) of a process, as this process sees it, below the mount
/// of the hierarchy (cgroups(7), /proc/PID/cgroup).
pub fn own_cgroup(process: Pid) -> Result<PathBuf> {
    let path = format!("/proc/{process}/cgroup");
    let text = fs::read_to_string(&path).step(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(PathBuf::from).ok_or_else(|| Error::failed(format!("{path}: the process is in no cgroup v2")))
}

/// A cgroup's directory.
pub fn below(hierarchy: &Path, cgroup: &Path) -> PathBuf {
    hierarchy.join(cgroup.strip_prefix("/").unwrap_or(cgroup))
}

/// Where the caller may make cgroups by itself. A cgroup with processes in it
/// cannot have controllers for those below it (cgroup-v2, "No Internal Process
/// Constraint"), so the caller's own must be a leaf of what was given away, or
/// hold nothing but this process.
fn leaf_of(hierarchy: &Path, own: &Path, given_away: &dyn Fn(&Path) -> bool) -> Option<CgroupPlace> {
    let own = below(hierarchy, own);
    let parent = own.parent().filter(|parent| parent.starts_with(hierarchy));
    if let Some(parent) = parent.filter(|parent| is_writable(parent) && given_away(parent) && holds(parent, &[])) {
        return Some(CgroupPlace::Below(parent.to_owned()));
    }
    let mine = own != hierarchy && is_writable(&own) && given_away(&own);
    (mine && holds(&own, &[Pid::this().as_raw()])).then_some(CgroupPlace::MoveDown(own))
}

fn is_writable(cgroup: &Path) -> bool {
    [cgroup, &cgroup.join("cgroup.procs"), &cgroup.join("cgroup.subtree_control")]
        .into_iter()
        .all(|path| access(path, AccessFlags::W_OK).is_ok())
}

/// Whether the host's service manager has marked the cgroup as given away. On a
/// host without one, whoever made it writable has given it away.
fn is_marked(cgroup: &Path) -> bool {
    let said = MARKS.iter().any(|name| {
        let mut value = [0u8; 8];
        rustix::fs::getxattr(cgroup, *name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    });
    said || !Path::new("/run/systemd/system").is_dir()
}

/// Whether the cgroup holds these processes and no other.
fn holds(cgroup: &Path, processes: &[i32]) -> bool {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let listed: Vec<i32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    listed == processes
}

/// What the cgroup lacks to give these controllers to those below it.
fn lacking(cgroup: &Path, controllers: &[&str]) -> Option<String> {
    let file = cgroup.join("cgroup.controllers");
    let there = fs::read_to_string(&file).unwrap_or_default();
    let lacks: Vec<&str> =
        controllers.iter().filter(|wanted| !there.split_whitespace().any(|have| have == **wanted)).copied().collect();
    let plural = if lacks.len() == 1 { "controller" } else { "controllers" };
    (!lacks.is_empty()).then(|| format!("{} has no {plural} {}", cgroup.display(), lacks.join(" and ")))
}
