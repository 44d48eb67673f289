//! What may be used up, and by what each limit is held.

use std::fs;
use std::time::Duration;

use super::cgroup::{CgroupPlace, NoCgroup, find_cgroup, find_cgroup_of_unit};
use super::request::Request;
use super::{Limit, Limits, Runtime};
use crate::backend::podman::makes_cgroup;
use crate::config::{Backend, Caller, Config, Dirs, Enforce};
use crate::error::{Error, Result};

/// Processes and threads of a run, unless said otherwise.
const DEFAULT_PIDS: u64 = 4096;

/// A tmpfs has whole pages, of which the largest that Linux has are of so many bytes.
const LARGEST_PAGE: u64 = 64 << 10;

/// The controller of processes and threads (cgroup-v2, "PID").
const PIDS: &str = "pids";
/// RLIMIT_NPROC counts a few of the runtime's processes too.
const BEYOND_CGROUP: u64 = 16;
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
    let wrong = match duration {
        Ok(duration) if !duration.is_zero() => return Ok(duration),
        Ok(_) => format!("`{text}` is no time"),
        Err(reason) => format!("`{text}` is not a duration: {reason}"),
    };
    Err(Error::usage(wrong).hint("for example 30s, 10m, 2h"))
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

/// Bytes per second such as `20m`.
pub fn parse_rate(text: &str) -> Result<u64> {
    parse_size(text.strip_suffix("/s").unwrap_or(text))
        .map_err(|_| Error::usage(format!("`{text}` is not a number of bytes per second")).hint("for example 20m"))
}

/// A number of CPUs such as `1.5`.
pub fn parse_cpus(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.01..=10_000.0).contains(&cpus) => Ok(cpus),
        _ => Err(Error::usage(format!("`{text}` is not a number of CPUs")).hint("for example 0.5, 1, 1.5")),
    }
}

/// The cgroup and its controllers, or why there is none.
type Found = std::result::Result<(CgroupPlace, Vec<&'static str>), NoCgroup>;

/// Resolves the limits: typed, then the group's, then `[limits]`, then built in.
pub fn resolve(
    request: &Request,
    config: &Config,
    (caller, dirs): (&Caller, &Dirs),
    runtime: &Runtime,
) -> Result<Limits> {
    let group = config.for_group(&request.group);
    let limits = &config.limits;
    let enforce = group.enforce.or(limits.enforce).unwrap_or_default();
    let own = |value| Limit { value, enforced: true, by: "belljar's own clock and counter".to_owned() };
    let timeout = request.timeout.or(group.timeout).or(limits.timeout);
    let output = request.output_limit.or(group.output_limit).or(limits.output_limit);
    let memory = request.memory.or(group.memory).or(limits.memory);
    let cpus = request.cpus.or(group.cpus).or(limits.cpus);
    let io = request.io.or(group.io).or(limits.io);
    let disk = request.disk.or(group.disk).or(limits.disk).map(|bytes| bytes.next_multiple_of(LARGEST_PAGE));
    let asked_pids = request.pids.or(group.pids).or(limits.pids);
    if asked_pids == Some(0) {
        return Err(Error::refused("--pids 0: no process could start").hint("--pids 64 or more suits most agents"));
    }
    let mut needed = Vec::new();
    // Writing is counted where the memory is that waits to be written (cgroup-v2, "Writeback").
    for (option, asked, controllers) in [
        ("--memory", memory.is_some(), ["memory"].as_slice()),
        ("--cpus", cpus.is_some(), &["cpu"]),
        ("--io", io.is_some(), &["io", "memory"]),
    ] {
        if asked {
            needed.push((option, controllers));
        }
    }
    let places = |controllers: &[&str]| match request.of_unit {
        true => find_cgroup_of_unit(controllers),
        false => find_cgroup(caller, controllers),
    };
    let found = find(&needed, asked_pids, &places, runtime);
    let held = match &found {
        Some(Err(no)) if enforce == Enforce::Strict && !needed.is_empty() => {
            let options: Vec<&str> = needed.iter().map(|(option, _)| *option).collect();
            return Err(Error::refused(format!("{} cannot be enforced here", options.join(" and ")))
                .because(&no.reason)
                .hint(format!(
                    "{}; to run without, enforce = \"best-effort\" in [limits] of {}",
                    no.hint,
                    dirs.config_file().display()
                )));
        }
        Some(Err(no)) => (false, format!("not in force: {}", no.reason)),
        Some(Ok((place, _))) => (true, place.describe()),
        None => (false, String::new()),
    };
    let (place, controllers) = found.and_then(std::result::Result::ok).unzip();
    let controllers: Vec<&str> = controllers.unwrap_or_default();
    let counted = "RLIMIT_NPROC, which the kernel counts for each user namespace";
    let pids_by = match &place {
        Some(place) if controllers.contains(&PIDS) => format!("{}, and {counted}", place.describe()),
        _ => counted.to_owned(),
    };
    Ok(Limits {
        timeout_seconds: timeout.map(|timeout| Limit {
            value: timeout.as_secs_f64(),
            enforced: true,
            by: "belljar's own clock".to_owned(),
        }),
        output_bytes: output.map(own),
        pids: Some(Limit { value: asked_pids.unwrap_or(DEFAULT_PIDS), enforced: true, by: pids_by }),
        memory_bytes: memory.map(|value| Limit { value, enforced: held.0, by: held.1.clone() }),
        cpus: cpus.map(|value| Limit { value, enforced: held.0, by: held.1.clone() }),
        io_bytes_per_second: io.map(|value| Limit { value, enforced: held.0, by: held.1.clone() }),
        io_devices: Vec::new(),
        disk_bytes: disk.map(|value| Limit {
            value,
            enforced: true,
            by: "the size of each private tmpfs, and belljar's own measure of what is mounted read-write".to_owned(),
        }),
        cgroup: place,
        controllers: controllers.into_iter().map(str::to_owned).collect(),
    })
}

/// Looks for a cgroup where a limit needs one. The limit of processes holds
/// without, but with one the kernel says whether it was reached.
fn find(
    needed: &[(&str, &[&'static str])],
    asked_pids: Option<u64>,
    places: &dyn Fn(&[&str]) -> std::result::Result<CgroupPlace, NoCgroup>,
    runtime: &Runtime,
) -> Option<Found> {
    let mut controllers: Vec<&'static str> = needed.iter().flat_map(|(_, its)| its.iter().copied()).collect();
    controllers.sort_unstable();
    controllers.dedup();
    if controllers.is_empty() && asked_pids.is_none() {
        return None;
    }
    if runtime.backend == Backend::Podman && makes_cgroup(runtime.kind) {
        return Some(Err(NoCgroup {
            reason: format!("podman makes a cgroup of its own for {}", runtime.path.display()),
            hint: "belljar run --backend crun, or crun as podman's runtime".to_owned(),
        }));
    }
    let with_pids: Vec<&'static str> = controllers.iter().copied().chain([PIDS]).collect();
    let found = places(&with_pids).map(|place| (place, with_pids));
    Some(match found {
        Err(_) if !controllers.is_empty() => places(&controllers).map(|place| (place, controllers)),
        found => found,
    })
}

/// RLIMIT_NPROC of the agent: the limit of the plan, or what the caller has less
/// of, because only root could raise that.
pub fn process_limit(limits: &Limits) -> Option<u64> {
    // More than its cgroup lets: only what the cgroup refuses is counted.
    let more = if limits.controllers.iter().any(|controller| controller == PIDS) { BEYOND_CGROUP } else { 0 };
    limits.pids.as_ref().map(|pids| pids.value.saturating_add(more).min(most_processes()))
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
