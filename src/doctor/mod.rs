//! What this host can do. Each check tries the real thing where that is
//! harmless, in a child that is thrown away, and names the cause when it fails.

mod gateway;
mod host;
mod namespaces;
mod runtime;
mod trial;

use serde::Serialize;

use crate::config::{Caller, Dirs};
use crate::error::Error;

/// Whether what was examined is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Runs are possible; something that a person may want is not.
    Limited,
    /// No run is possible.
    Missing,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was examined.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub matters: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

impl Finding {
    fn new(name: &str, state: State, found: impl Into<String>, matters: &str, mend: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            state,
            found: found.into(),
            matters: matters.to_owned(),
            mend: mend.filter(|_| state != State::Ok).map(str::to_owned),
        }
    }
}

/// An error in one line.
fn said(error: &Error) -> String {
    let causes = error.causes.iter().map(|cause| format!(": {cause}"));
    std::iter::once(error.what.clone()).chain(causes).collect()
}

/// Examines everything, in the order in which a run needs it.
pub fn examine(caller: &Caller, dirs: &Dirs) -> Vec<Finding> {
    let mut findings = vec![host::kernel(), host::caller(caller)];
    findings.extend(namespaces::examine());
    findings.extend(runtime::examine(caller));
    findings.extend(gateway::examine(caller, dirs));
    findings.push(host::cgroup(caller));
    findings.push(host::subordinate_ids(caller));
    findings.push(host::watches());
    findings.push(host::directories(dirs));
    // With something missing it fails for that, which is said already.
    if findings.iter().all(|finding| finding.state != State::Missing) {
        findings.push(trial::examine(dirs));
    }
    findings
}
