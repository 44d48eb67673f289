//! The plan for people: `belljar explain`, and the summary that the agent reads.

use std::fmt::Write as _;

use super::{Content, EgressMode, Mount, MountKind, Plan, RootKind, ShadowKind, Transport, Trust};
use crate::error::printable;
use crate::ipc::URL;

impl Plan {
    /// Each line of the plan with its reason.
    pub fn explain(&self) -> String {
        let mut out = String::new();
        let trust = match self.trust {
            Trust::Trusted => "trusted",
            Trust::Untrusted => "untrusted",
        };
        let mut line = |name: &str, value: &str, reason: &str| {
            let _ = writeln!(out, "{name:<10} {:<46} {}", printable(value), printable(reason));
        };
        line("group", &self.group, trust);
        line("command", &self.command.join(" "), &self.command_reason);
        line("workdir", &self.workdir, "");
        line("terminal", if self.terminal { "yes" } else { "no" }, "as the caller's, unless -t or -T says otherwise");
        let identity = &self.identity;
        line(
            "user",
            &format!(
                "node ({0}:{0}) inside, {1}:{2} on the host",
                identity.inside, identity.host_uid, identity.host_gid
            ),
            &identity.reason,
        );
        line("rights", "no capabilities, no_new_privs", "always");
        line(
            "seccomp",
            &format!("profile {}, {} calls allowed", self.seccomp.profile, self.seccomp.allowed),
            &format!("sha256 {}", &self.seccomp.sha256[..12]),
        );
        line("runtime", &self.runtime.path.to_string_lossy(), &self.runtime.reason);
        let root = match &self.root.kind {
            RootKind::Host => "the host's /usr, read-only, in a generated root".to_owned(),
            RootKind::Image { reference, digest, .. } => {
                format!("the image {} ({}), in a generated root", printable(reference), &digest.to_string()[..19])
            }
            RootKind::Directory { path } => {
                format!("{}, read-only, in a generated root", path.display())
            }
        };
        line("root", &root, &format!("{} generated entries", self.root.generated.len()));
        if let Some(layer) = self.root.writable {
            line("root", &layer.describe(), "layers over the root's own directories, which stay as they are");
        }
        line("egress", self.egress.mode.name(), &self.egress.means);
        if let Some(inspected) = &self.egress.inspection {
            line("egress", if inspected.opened { "TLS is opened" } else { "TLS is not opened" }, &inspected.reason);
        }
        for secret in &self.egress.secrets {
            line("secret", &secret.name, &format!("added by the gateway for {}", secret.goes_to.join(", ")));
        }
        if !self.egress.listeners.is_empty() {
            let ports = |transport| {
                let ports = self.egress.listeners.iter().filter(|listener| listener.transport == transport);
                ports.map(|listener| listener.port.to_string()).collect::<Vec<_>>().join(" ")
            };
            let all = format!("TCP {}, UDP {}", ports(Transport::Tcp), ports(Transport::Udp));
            line("listen", &all, "what the gateway serves inside; every other port is closed");
        }
        self.explain_limits(&mut line);
        for mount in &self.mounts {
            if !matches!(mount.kind, MountKind::DevNull | MountKind::Empty) {
                line("mount", &mount_text(mount), &mount.reason);
                if let MountKind::Bind { submounts, .. } = &mount.kind {
                    for submount in submounts {
                        line(
                            "mount",
                            &format!("{} ro", super::join(&mount.target, submount)),
                            "mounted below it on the host; comes along read-only",
                        );
                    }
                }
            }
        }
        for (target, shadow) in self.shadows() {
            let what = match shadow.kind {
                ShadowKind::File => "/dev/null over the file",
                ShadowKind::Absent => "/dev/null, the name is kept free",
                ShadowKind::Directory => "an empty unreadable directory",
                ShadowKind::Special => "/dev/null over what is not a file",
            };
            line("hidden", &super::join(target, &shadow.path.to_string_lossy()), &format!("{what}: {}", shadow.rule));
        }
        let count = self.shadowed;
        line(
            "hidden",
            &format!("{} files, {} directories, {} special", count.files, count.directories, count.special),
            "in all",
        );
        line("masked", &self.masked_paths.join(" "), "they tell about the host");
        line("read-only", &self.readonly_paths.join(" "), "they change the host");
        for entry in &self.root.generated {
            let what = match &entry.content {
                Content::Directory => "directory".to_owned(),
                Content::Link(target) => format!("link to {target}"),
                Content::Text(text) => format!("{} bytes of belljar's", text.len()),
                Content::Copy(from) => format!("copy of the host's {}", from.display()),
            };
            line("file", &entry.path, &what);
        }
        for variable in &self.environment {
            line("env", &format!("{}={}", variable.name, variable.value), &variable.reason);
        }
        for note in &self.notes {
            line("note", note, "");
        }
        let _ = writeln!(out, "{:<10} sha256 {}", "plan", self.digest());
        out
    }

    fn explain_limits(&self, line: &mut impl FnMut(&str, &str, &str)) {
        let limits = &self.limits;
        let mut limit = |name: &str, value: Option<(String, bool, &str)>| match value {
            Some((value, true, by)) => line("limit", &format!("{name} {value}"), by),
            Some((value, false, by)) => line("limit", &format!("{name} {value} NOT IN FORCE"), by),
            None => line("limit", &format!("{name} none"), ""),
        };
        limit(
            "timeout",
            limits.timeout_seconds.as_ref().map(|l| (format!("{} s", l.value), l.enforced, l.by.as_str())),
        );
        limit(
            "output",
            limits.output_bytes.as_ref().map(|l| (format!("{} bytes", l.value), l.enforced, l.by.as_str())),
        );
        limit("pids", limits.pids.as_ref().map(|l| (l.value.to_string(), l.enforced, l.by.as_str())));
        limit(
            "memory",
            limits.memory_bytes.as_ref().map(|l| (format!("{} bytes", l.value), l.enforced, l.by.as_str())),
        );
        limit(
            "io",
            limits.io_bytes_per_second.as_ref().map(|l| (format!("{} bytes/s", l.value), l.enforced, l.by.as_str())),
        );
        limit("disk", limits.disk_bytes.as_ref().map(|l| (format!("{} bytes", l.value), l.enforced, l.by.as_str())));
        limit("cpus", limits.cpus.as_ref().map(|l| (l.value.to_string(), l.enforced, l.by.as_str())));
    }

    /// Every shadow, with the target of its mount.
    fn shadows(&self) -> impl Iterator<Item = (&str, &super::Shadow)> {
        self.mounts.iter().flat_map(|mount| {
            let shadows = match &mount.kind {
                MountKind::Merged { shadows, .. } => shadows.as_slice(),
                _ => &[],
            };
            shadows.iter().map(|shadow| (mount.target.as_str(), shadow))
        })
    }

    /// What the agent may do, for the agent: nothing of the host's paths.
    pub fn summary(&self) -> String {
        let mut out = String::from("You run inside belljar, as user node (1000), without capabilities.\n\n");
        let _ = writeln!(out, "Working directory: {}", printable(&self.workdir));
        let _ = writeln!(out, "Network: {}", self.egress.means);
        let _ = writeln!(out, "Directories of the person who called you:");
        for mount in &self.mounts {
            if mount.target.starts_with("/workspace")
                && matches!(mount.kind, MountKind::Bind { .. } | MountKind::Merged { .. })
            {
                let _ = writeln!(
                    out,
                    "  {} ({})",
                    printable(&mount.target),
                    if mount.readonly { "read-only" } else { "read-write" }
                );
            }
        }
        let _ = writeln!(out, "Private and gone after the run: /tmp, /run, /home/node (but /home/node/.claude stays).");
        if self.root.writable.is_some() {
            let _ = writeln!(out, "So is what you write elsewhere; npm install -g and pip install work.");
        }
        let _ = writeln!(out, "Names that may hold credentials read as empty.");
        if self.egress.mode != EgressMode::None {
            let _ = writeln!(out, "Messages, schedules, and asking a person for access: tools by MCP at {URL}.");
        }
        out
    }
}

fn mount_text(mount: &Mount) -> String {
    let mut flags = vec![if mount.readonly { "ro" } else { "rw" }];
    if mount.nodev {
        flags.push("nodev");
    }
    if mount.noexec {
        flags.push("noexec");
    }
    let from = match &mount.kind {
        MountKind::Bind { source, .. } | MountKind::Merged { source, .. } => source.to_string_lossy().into_owned(),
        MountKind::Layered { source, .. } => format!("a layer over {}", source.display()),
        MountKind::Tmpfs { size, inodes, .. } => {
            format!("tmpfs {} MiB, {inodes} files", size >> 20)
        }
        MountKind::Proc => "proc".to_owned(),
        MountKind::Devpts | MountKind::Console => "devpts".to_owned(),
        MountKind::Generated { .. } | MountKind::Holder => "belljar's own".to_owned(),
        MountKind::DevNull | MountKind::Device => "device".to_owned(),
        MountKind::Empty => "empty".to_owned(),
    };
    format!("{} {} <- {from}", mount.target, flags.join(","))
}
