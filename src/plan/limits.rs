//! What may be used up, and by what each limit is held.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::request::Request;
use super::{Limit, Limits};
use crate::config::{Config, Enforce};
use crate::error::{Error, Result};

/// Processes and threads of a run, unless said otherwise.
const DEFAULT_PIDS: u64 = 4096;

/// PID_MAX_LIMIT of the kernel on 64 bits.
const MOST_IDS: u64 = 1 << 22;
/// Where nothing says how many files a process may open (proc(5), fs.nr_open).
const MOST_FILES: u64 = 1 << 20;

/// A duration such as `10m` or `1h 30m`; seconds when there is no unit.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let plain = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let duration = match plain {
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        None => humantime::parse_duration(text).map_err(|error| error.to_string()),
    };
    match duration {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err(Error::usage(format!("`{text}` is no time"))),
        Err(reason) => {
            Err(Error::usage(format!("`{text}` is not a duration: {reason}")).hint("for example 30s, 10m, 2h"))
        }
    }
}

/// A size such as `64m` or `2g`, in bytes; the units are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: Option<u64> = match &lower[number.len()..] {
        "" | "b" => Some(1),
        "k" | "kb" | "kib" => Some(1 << 10),
        "m" | "mb" | "mib" => Some(1 << 20),
        "g" | "gb" | "gib" => Some(1 << 30),
        "t" | "tb" | "tib" => Some(1 << 40),
        _ => None,
    };
    let bytes = factor.zip(number.parse::<u64>().ok()).and_then(|(factor, number)| number.checked_mul(factor));
    match bytes {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(Error::usage(format!("`{text}` is not a size")).hint("for example 512k, 64m, 2g")),
    }
}

/// A number of CPUs such as `1.5`.
pub fn parse_cpus(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.01..=10_000.0).contains(&cpus) => Ok(cpus),
        _ => Err(Error::usage(format!("`{text}` is not a number of CPUs")).hint("for example 0.5, 1, 1.5")),
    }
}

/// Resolves the limits: typed, then the group's, then `[limits]`, then built in.
pub fn resolve(request: &Request, config: &Config) -> Result<Limits> {
    let group = config.for_group(&request.group);
    let limits = &config.limits;
    let enforce = group.enforce.or(limits.enforce).unwrap_or_default();
    let own = |value| Limit { value, enforced: true, by: "belljar's own clock and counter".to_owned() };
    let timeout = request.timeout.or(group.timeout).or(limits.timeout);
    let output = request.output_limit.or(group.output_limit).or(limits.output_limit);
    let memory = request.memory.or(group.memory).or(limits.memory);
    let cpus = request.cpus.or(group.cpus).or(limits.cpus);
    let asked_pids = request.pids.or(group.pids).or(limits.pids);
    if asked_pids == Some(0) {
        return Err(Error::refused("--pids 0: no process could start").hint("--pids 64 or more suits most agents"));
    }
    let (mut needed, mut options) = (Vec::new(), Vec::new());
    if memory.is_some() {
        needed.push("memory");
        options.push("memory");
    }
    if cpus.is_some() {
        needed.push("cpu");
        options.push("cpus");
    }
    let cgroup = if needed.is_empty() { None } else { Some(delegated_cgroup(Path::new("/sys/fs/cgroup"), &needed)) };
    let by = match &cgroup {
        Some(Err(reason)) if enforce == Enforce::Strict => {
            return Err(Error::refused(format!("--{} cannot be enforced here", options.join(" and --")))
                .because(reason)
                .hint("run under a delegated cgroup (systemd-run --user --scope -p Delegate=yes belljar run …), or set enforce = \"best-effort\" in [limits] of config.toml"));
        }
        Some(Err(reason)) => (false, format!("not in force: {reason}")),
        Some(Ok(parent)) => (true, format!("a cgroup below {}", parent.display())),
        None => (false, String::new()),
    };
    let held = |value| Limit { value, enforced: by.0, by: by.1.clone() };
    Ok(Limits {
        timeout_seconds: timeout.map(|timeout| Limit {
            value: timeout.as_secs_f64(),
            enforced: true,
            by: "belljar's own clock".to_owned(),
        }),
        output_bytes: output.map(own),
        pids: Some(Limit {
            value: asked_pids.unwrap_or(DEFAULT_PIDS),
            enforced: true,
            by: "RLIMIT_NPROC, which the kernel counts for each user namespace".to_owned(),
        }),
        memory_bytes: memory.map(held),
        cpus: cpus.map(|value| Limit { value, enforced: by.0, by: by.1.clone() }),
        cgroup_parent: cgroup.and_then(std::result::Result::ok),
    })
}

/// RLIMIT_NPROC of the agent: the limit of the plan, or what the caller has less
/// of, because only root could raise that.
pub fn process_limit(limits: &Limits) -> Option<u64> {
    limits.pids.as_ref().map(|pids| pids.value.min(most_processes()))
}

/// As many processes as the caller may have: its hard RLIMIT_NPROC, or the
/// number of process ids (proc_sys_kernel(5), pid_max), to which podman lowers
/// the limit.
pub fn most_processes() -> u64 {
    let ids = fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok());
    let most = rustix::process::getrlimit(rustix::process::Resource::Nproc).maximum;
    most.unwrap_or(u64::MAX).min(ids.unwrap_or(MOST_IDS))
}

/// Limits of open files (setrlimit(2), RLIMIT_NOFILE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// Descriptors that a process may have now.
    pub soft: u64,
    /// As many as it may allow itself.
    pub hard: u64,
}

/// The caller's own limits, which the agent gets: some runtimes raise theirs.
pub fn open_files() -> OpenFiles {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    OpenFiles { soft: files.current.unwrap_or(MOST_FILES), hard: files.maximum.unwrap_or(MOST_FILES) }
}

/// The cgroup (v2) below which this caller can make one with these controllers.
///
/// That is the parent of the caller's own cgroup, when both it and the caller's
/// are the caller's to change, because a cgroup with processes in it cannot
/// have controllers for its children (cgroup-v2: "no internal processes").
pub fn delegated_cgroup(mount: &Path, controllers: &[&str]) -> std::result::Result<PathBuf, String> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    if !mount.join("cgroup.controllers").exists() {
        return Err(format!("{} is not a cgroup v2 hierarchy", mount.display()));
    }
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or_else(|| "this process is in no cgroup v2".to_owned())?;
    let own = mount.join(own);
    let parent = if own == mount { own.clone() } else { own.parent().unwrap_or(mount).to_owned() };
    let enabled = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    let missing: Vec<_> =
        controllers.iter().filter(|wanted| !enabled.split_whitespace().any(|have| have == **wanted)).collect();
    if !missing.is_empty() {
        return Err(format!("the controllers {missing:?} are not enabled in {}", parent.display()));
    }
    for file in [parent.clone(), parent.join("cgroup.procs"), own.join("cgroup.procs")] {
        if access(&file, AccessFlags::W_OK).is_err() {
            return Err(format!("{} is not delegated to this user", file.display()));
        }
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_durations_and_cpus() {
        assert_eq!(parse_size("64m").ok(), Some(64 << 20));
        assert_eq!(parse_size("2G").ok(), Some(2 << 30));
        assert_eq!(parse_size("512").ok(), Some(512));
        for bad in ["", "m", "-1", "1.5g", "0", "99999999999999t", "1x"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("90").ok(), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("10m").ok(), Some(Duration::from_secs(600)));
        for bad in ["", "0", "-1s", "soon", "inf", "nan"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_cpus("1.5").is_ok() && parse_cpus("0").is_err() && parse_cpus("nan").is_err());
    }
}
