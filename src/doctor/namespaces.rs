//! User namespaces and what a run does in them.

use super::{Finding, State};
use crate::namespaces::{Step, try_all};

pub fn examine() -> Vec<Finding> {
    let failed = try_all();
    let worked = Step::ALL.into_iter().take_while(|step| failed.as_ref().is_none_or(|failed| failed.step != *step));
    let mut findings: Vec<Finding> =
        worked.map(|step| Finding::new(step.name(), State::Ok, step.works(), "", None)).collect();
    if let Some(failed) = &failed {
        let step = failed.step;
        findings.push(Finding::new(step.name(), State::Missing, &failed.found, step.matters(), Some(&failed.mend)));
    }
    findings
}
