//! What belljar itself may do in a unit. An agent's limits are those of its
//! container; these hold for belljar, its gateway and the runtime, and for the
//! agent a second time.

use std::path::PathBuf;

use super::text::Text;
use super::{Scope, Setting, listed};

/// What the hardening must leave open.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// podman, or a runtime below whose maps newuidmap(1) makes: a program with
    /// the set-user-ID bit, and ids beside the caller's own.
    pub more_ids: bool,
    /// pasta's device, /dev/net/tun.
    pub tun: bool,
    /// Something that belljar mounts or writes lies below /tmp or /var/tmp.
    pub shared_tmp: bool,
    /// Directories that agents may write.
    pub writes: Vec<PathBuf>,
}

/// Capabilities with which root makes a run: the agent's id maps and mounts, its
/// files' owners, and its end.
const OF_ROOT: &str = "CAP_SYS_ADMIN CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_MKNOD";

/// Writes the directives.
pub fn harden(unit: &mut Text, setting: &Setting) {
    let needs = &setting.needs;
    let is_root = setting.scope == Scope::System && setting.user.is_none();
    unit.why("What is made here is for its owner alone.").set("UMask", "0077");
    if needs.more_ids {
        unit.why("Without NoNewPrivileges=, SystemCallFilter= and PrivateUsers=: newuidmap is a set-user-ID program.");
    } else {
        unit.why("No program can gain rights by being executed.").set("NoNewPrivileges", "yes");
        unit.why("belljar and a runtime need mounts and namespaces, an agent's tools the rest of @system-service.")
            .set("SystemCallArchitectures", "native")
            .set("SystemCallErrorNumber", "EPERM")
            .set("SystemCallFilter", "@system-service @mount @pkey seccomp sethostname setdomainname")
            .set("SystemCallFilter", "~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap @debug");
        unit.why("A container's namespaces; not that of time.")
            .set("RestrictNamespaces", "user mnt pid net ipc uts cgroup");
        unit.why("The gateway's connections, and netlink for the container's loopback.")
            .set("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK");
        unit.why("Neither agents nor runtimes need these.")
            .set("LockPersonality", "yes")
            .set("RestrictRealtime", "yes")
            .set("RestrictSUIDSGID", "yes");
    }
    match (is_root, needs.more_ids) {
        (true, _) => {
            unit.why("What root needs to give each group an id of its own, and no more.")
                .set("CapabilityBoundingSet", OF_ROOT);
        }
        (false, true) => {}
        (false, false) => {
            unit.why("belljar makes its containers without a capability, and sees no other user's files as theirs.")
                .set("CapabilityBoundingSet", "")
                .set("PrivateUsers", "yes");
            unit.why("Nobody's kernel modules are an agent's to load.").set("ProtectKernelModules", "yes");
        }
    }
    let private_mounts = is_root || !needs.more_ids;
    if private_mounts {
        mounts(unit, setting, is_root);
    }
    unit.why("Not set, because it would break: MemoryDenyWriteExecute= (compilers just in time, as in Node),")
        .why("ProtectHostname= (the container's own name), ProtectControlGroups= (the run's cgroup), ProcSubset=,")
        .why("ProtectKernelTunables= and ProtectKernelLogs= (a container's own /proc needs one that nothing covers),")
        .why("PrivateNetwork= and IPAddressDeny= (the gateway's work; policy.toml says what is let through).");
}

fn mounts(unit: &mut Text, setting: &Setting, is_root: bool) {
    let needs = &setting.needs;
    unit.why("Mounts do not reach the host, and the unit's keys no other unit.")
        .set("PrivateMounts", "yes")
        .set("KeyringMode", "private");
    unit.why("The clock is the host's; other users' processes cannot be seen.")
        .set("ProtectClock", "yes")
        .set("ProtectProc", "invisible");
    if needs.tun {
        unit.why("Without PrivateDevices=: `egress = \"open\"` needs /dev/net/tun.");
    } else {
        unit.why("No device but /dev/null and its like.").set("PrivateDevices", "yes").set("DevicePolicy", "closed");
    }
    if needs.shared_tmp {
        unit.why("Without PrivateTmp=: something of this run lies there.");
    } else {
        unit.why("Other programs' temporary files stay theirs.").set("PrivateTmp", "yes");
    }
    if is_root {
        unit.why("The system is read-only; /run and /var are belljar's to write.").set("ProtectSystem", "full");
        return;
    }
    if setting.places.is_empty() {
        unit.why("Everything but homes is read-only; `belljar systemd install` knows what is written there, and writes it tighter.")
            .set("ProtectSystem", "strict");
        return;
    }
    unit.why("Everything is read-only but what belljar keeps, and what agents may write as it is configured now.")
        .why("Another directory for them: ReadWritePaths= in a drop-in, or write this unit anew.")
        .set("ProtectSystem", "strict")
        .set("ProtectHome", "read-only");
    if setting.scope == Scope::User {
        unit.set("ReadWritePaths", "%t");
    }
    let is_below_another = |path: &&PathBuf| {
        !setting.places.iter().chain(&needs.writes).any(|other| other != *path && path.starts_with(other))
    };
    let all = setting.places.iter().chain(&needs.writes).filter(is_below_another);
    // One that is not there must not keep the unit from starting.
    let paths: Vec<String> = all.map(|path| format!("-{}", listed(path))).collect();
    unit.set_all("ReadWritePaths", &paths);
}
