//! What is doubtful in a policy that reads well.
use super::*;
/// A finding.
#[derive(Debug)]
pub struct Finding;
/// How bad.
#[derive(Debug)]
pub enum Severity {
    /// w
    Warning,
}
/// x
pub fn check(_: &Policy) -> Vec<Finding> {
    Vec::new()
}
