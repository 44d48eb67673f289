//! What a person lets a group reach beside policy.toml, because its agent asked: in
//! the place of a default that denies, and never of a rule.

use std::sync::Arc;

use super::exchange::Exchange;
use super::forward::{Judged, Scheme, unavailable};
use super::refusal::Refusal;
use super::shared::Shared;
use crate::ipc::access_scope;
use crate::policy::{ACCESS_RULE, Action, Decision, DefaultAction, Policy, Query};
use crate::store::State;

/// Whether nothing but the default denies it: no rule does, in any reading of the path.
pub fn is_denied_by_default(query: &Query<'_>, policy: &Policy) -> bool {
    policy.default == DefaultAction::Deny && policy.decide_with(query, DefaultAction::Allow).action == Action::Allow
}

/// The decision on a request that the default denies, while a person lets the group
/// reach the host.
pub async fn granted(
    query: &Query<'_>,
    judged: &Judged,
    shared: &Arc<Shared>,
    exchange: &Arc<Exchange>,
) -> Result<Option<Decision>, Refusal> {
    let usual = matches!((judged.scheme, judged.port), (Scheme::Https, 443) | (Scheme::Http, 80));
    if !usual || !is_denied_by_default(query, &shared.policy) {
        return Ok(None);
    }
    let (store, scope) = (Arc::clone(&shared.store), access_scope(&shared.group, &judged.host));
    match tokio::task::spawn_blocking(move || store.granted(&scope)).await {
        Ok(Ok(Some(id))) => {
            exchange.note(|entry| entry.approval = Some((id, State::Approved)));
            let decision = shared.policy.decide_with(query, DefaultAction::Allow);
            let rule = decision.rule.or_else(|| Some(ACCESS_RULE.to_owned()));
            Ok(Some(Decision { rule, ..decision }))
        }
        Ok(Ok(None)) => Ok(None),
        Ok(Err(error)) => Err(unavailable("list of grants", &error)),
        Err(error) => Err(unavailable("list of grants", &error)),
    }
}
