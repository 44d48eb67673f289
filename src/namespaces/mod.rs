//! Whether this host lets a run have namespaces of its own, and where it does
//! not, why and what mends it: one answer for `belljar doctor` and `belljar run`.

mod cause;
mod facts;
mod probe;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::config::Backend;
use crate::error::{Error, Kind, Result};
use crate::plan::Plan;
use facts::Facts;

pub use probe::{Step, try_all};

/// The namespaces of the launcher.
pub const LAUNCHER: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// How long the threads of a run that failed may take to end.
const ALONE_WITHIN: Duration = Duration::from_secs(2);

/// What does not work here, why, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restriction {
    /// What was tried.
    pub step: Step,
    /// The kernel's answer and its cause.
    pub found: String,
    /// What a person can type or change.
    pub mend: String,
}

impl Restriction {
    /// Why the kernel answered a step with `errno`. The caller must have one thread.
    pub fn of(step: Step, errno: Errno) -> Self {
        let refused = if matches!(step, Step::Namespaces | Step::Nested) { probe::refused_alone() } else { Vec::new() };
        cause::find(step, errno, &Facts::read(), &refused)
    }

    /// As the error of a run.
    pub fn refusal(self) -> Error {
        Error::refused(format!("no run can be made here: {}", self.step.failed())).because(self.found).hint(self.mend)
    }
}

/// Refuses a run before its first effect where the host is known to restrict
/// namespaces. A few small files tell whether there is a reason to try; without
/// one nothing is tried, because it would cost every run some milliseconds.
pub fn check(plan: &Plan) -> Result<()> {
    if !Facts::read().raise_doubts() {
        return Ok(());
    }
    let failed = match plan.runtime.backend {
        // Whether podman can, podman knows: it may be allowed what belljar is not.
        Backend::Podman => probe::try_threads(),
        _ => try_all(),
    };
    match failed {
        // Not every run needs an overlay.
        Some(restriction) if restriction.step != Step::Overlay => Err(restriction.refusal()),
        _ => Ok(()),
    }
}

/// Looks for the cause of an error that came before the agent began, on a host
/// that raised no doubts. The launcher must be gone: it counts.
pub fn explain(error: Error, backend: Backend) -> Error {
    if error.kind != Kind::Failed || !is_alone() {
        return error;
    }
    match try_all() {
        Some(restriction) if backend != Backend::Podman || restriction.step == Step::Namespaces => {
            let refusal = restriction.refusal().because(&error.what);
            error.causes.iter().fold(refusal, Error::because)
        }
        _ => suspect_filter(error),
    }
}

/// Says of a step that failed as a filter lets calls fail that there is one.
pub fn suspect_filter(error: Error) -> Error {
    match error.kind {
        Kind::Failed => cause::suspect(error, &Facts::read()),
        _ => error,
    }
}

/// Whether this process has one thread, or will have in a moment: those that
/// heard the launcher and carried its output end with it.
fn is_alone() -> bool {
    let threads = || fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let begun = Instant::now();
    while threads() != 1 {
        if begun.elapsed() > ALONE_WITHIN {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}
