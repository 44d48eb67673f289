//! What the kernel and the surroundings say about namespaces without trying.

use std::fs;
use std::path::Path;

use crate::config::is_real_root;
use crate::plan::HOST_ID_BASE;
use caps::{CapSet, Capability};
use nix::unistd::geteuid;

/// Kinds of namespaces by the names of their limits (namespaces(7), /proc/sys/user).
pub const KINDS: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "cgroup", "uts"];
/// The map of the host's own user namespace (user_namespaces(7)).
const WHOLE: [&str; 3] = ["0", "0", "4294967295"];

/// What belljar runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Around {
    /// A container of somebody's.
    Container,
    /// A unit of systemd, and whether it is one of the user's manager.
    Unit(String, bool),
    /// Nothing that could be told.
    Unknown,
}

/// The facts.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `user.max_*_namespaces`, in the order of [`KINDS`]; none where there is no
    /// such file.
    pub most: [Option<u64>; KINDS.len()],
    /// `kernel.unprivileged_userns_clone` (Debian, Arch).
    pub clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu).
    pub apparmor: Option<u64>,
    /// The AppArmor profile that this process is in.
    pub profile: Option<String>,
    /// A seccomp filter is in force.
    pub filtered: bool,
    /// This is the host's own user namespace.
    pub outermost: bool,
    /// Of all user namespaces' capabilities, those of the host's own.
    pub privileged: bool,
    /// The own uid has a place in the user namespace.
    pub mapped: bool,
    /// So have the ids that runs by root get, where root calls.
    pub has_ids: bool,
    /// The root directory is no mount: this is a chroot.
    pub chrooted: bool,
    /// The kernel has user namespaces.
    pub built_in: bool,
    /// What covers parts of /proc.
    pub covered: Vec<String>,
    /// What belljar runs in.
    pub around: Around,
}

impl Facts {
    /// Reads them.
    pub fn read() -> Self {
        let number = |path: String| fs::read_to_string(path).ok()?.trim().parse().ok();
        let kernel = |name: &str| number(format!("/proc/sys/kernel/{name}"));
        let map = read("/proc/self/uid_map");
        let outermost = map.lines().any(|line| line.split_whitespace().eq(WHOLE));
        let admin = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false);
        let mounts = read("/proc/self/mountinfo");
        let targets: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        Self {
            most: KINDS.map(|kind| number(format!("/proc/sys/user/max_{kind}_namespaces"))),
            clone: kernel("unprivileged_userns_clone"),
            apparmor: kernel("apparmor_restrict_unprivileged_userns"),
            profile: fs::read_to_string("/proc/self/attr/apparmor/current").ok().map(|text| text.trim().to_owned()),
            filtered: field(&read("/proc/self/status"), "Seccomp:") == Some("2"),
            outermost,
            privileged: outermost && admin,
            mapped: holds(&map, u64::from(geteuid().as_raw())),
            has_ids: !is_real_root() || holds(&map, u64::from(HOST_ID_BASE)),
            chrooted: !targets.is_empty() && !targets.contains(&"/"),
            built_in: Path::new("/proc/self/ns/user").exists(),
            covered: targets
                .into_iter()
                .filter(|target| target.starts_with("/proc/") && !target.starts_with("/proc/sys/fs/"))
                .map(str::to_owned)
                .collect(),
            around: around(),
        }
    }

    /// Whether it is worth a try before a run begins.
    pub fn raise_doubts(&self) -> bool {
        self.most.contains(&Some(0))
            || !self.privileged && (self.clone == Some(0) || self.is_apparmors())
            || self.filtered
            || !self.outermost
            || !self.mapped
            || self.chrooted
            || !self.built_in
    }

    /// Whether AppArmor restricts this process: one that no profile is written
    /// for, or that lost its capabilities to the profile for such.
    pub fn is_apparmors(&self) -> bool {
        let nobodys = |profile: &str| profile == "unconfined" || profile.starts_with("unprivileged_userns");
        self.apparmor.is_some_and(|restrict| restrict > 0)
            && !self.privileged
            && self.profile.as_deref().is_none_or(nobodys)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The word after a name, in a file of such lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether the map holds the id. One that has no place shows as 65534, which is
/// also somebody's.
fn holds(map: &str, id: u64) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first.saturating_add(count)).contains(&id))
    })
}

fn around() -> Around {
    if ["/run/.containerenv", "/.dockerenv", "/run/systemd/container"].iter().any(|path| Path::new(path).exists()) {
        return Around::Container;
    }
    unit_of(&read("/proc/self/cgroup"))
}

/// The innermost service in the path of a cgroup, which is the unit's name.
fn unit_of(cgroups: &str) -> Around {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let is_manager = |name: &str| name.starts_with("user@");
    match own.split('/').rfind(|name| name.ends_with(".service")) {
        Some(name) if !is_manager(name) => Around::Unit(name.to_owned(), own.split('/').any(is_manager)),
        _ => Around::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_in_the_cgroups_path() {
        let unit = |path: &str| unit_of(&format!("1:name=systemd:/x.service\n0::{path}\n"));
        assert_eq!(unit("/system.slice/a.service"), Around::Unit("a.service".to_owned(), false));
        assert_eq!(unit("/system.slice/a.service/supervisor"), Around::Unit("a.service".to_owned(), false));
        assert_eq!(
            unit("/user.slice/user-7.slice/user@7.service/app.slice/b@c.service"),
            Around::Unit("b@c.service".to_owned(), true)
        );
        assert_eq!(unit("/user.slice/user-7.slice/user@7.service/app.slice/x.scope"), Around::Unknown);
        assert_eq!(unit("/user.slice/user-7.slice/session-1.scope"), Around::Unknown);
    }

    #[test]
    fn an_id_without_a_place_is_seen() {
        assert!(holds("         0          0 4294967295\n", 65_534));
        assert!(!holds("0 1000 1\n", 65_534) && holds("0 1000 1\n1 100000 65536\n", 65_534));
        assert!(!holds("", 0));
    }
}
