//! The decision on one request.

use jiff::Zoned;
use serde::Serialize;

use super::rule::{Action, DefaultAction, Rate, Rule, check_method};
use super::{Coverage, Host, NormalPath, PathPattern, Policy, Reading};

/// A request to judge.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Whose request.
    pub group: &'a str,
    /// The method as it was sent.
    pub method: &'a str,
    /// The host that will be dialled.
    pub host: &'a Host,
    /// The path as it will be sent.
    pub path: &'a NormalPath,
    /// Local time.
    pub now: &'a Zoned,
}

/// What is done with a request, and the words for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What is done.
    pub action: Action,
    /// The rule that decided; `None` for the default, and for a request that
    /// cannot be judged.
    pub rule: Option<String>,
    /// To be counted for the group and the rule; what is over it is refused.
    pub rate: Option<Rate>,
    /// Why.
    pub reason: String,
    /// What a person could do; empty when nothing was refused.
    pub hint: String,
}

impl Policy {
    /// Judges a request. The first rule that is for its group, host, method and
    /// path and is in force decides, else the default. A path that another
    /// reading would decide otherwise is refused.
    pub fn decide(&self, query: &Query<'_>) -> Decision {
        if let Err(problem) = check_method(query.method) {
            return refused(problem.0, "send the method in upper case");
        }
        let candidates: Vec<&Rule> = self
            .rules
            .iter()
            .filter(|rule| rule.groups.contains(query.group) && rule.host.matches(query.host))
            .filter(|rule| rule.has_method(query.method) && rule.in_force(query.now))
            .collect();
        let decide = |reading: &Reading| candidates.iter().copied().find(|rule| rule.path.matches(reading));
        if candidates.iter().all(|rule| rule.path.is_any()) {
            return self.say(query, candidates.first().copied());
        }
        let mut readings = query.path.readings();
        let exact = readings.next().and_then(|reading| decide(&reading));
        if self.action(exact) != Action::Deny {
            let other = readings.map(|reading| (decide(&reading), reading)).find(|(rule, _)| !self.alike(exact, *rule));
            if let Some((rule, reading)) = other {
                return self.ambiguous(query, exact, (&reading, rule));
            }
        }
        self.say(query, exact)
    }

    fn say(&self, query: &Query<'_>, rule: Option<&Rule>) -> Decision {
        match rule {
            Some(rule) => by_rule(query, rule),
            None => self.by_default(query),
        }
    }

    fn action(&self, rule: Option<&Rule>) -> Action {
        rule.map_or(self.default.into(), |rule| rule.action)
    }

    /// Whether it makes no difference which of the two decides.
    fn alike(&self, one: Option<&Rule>, other: Option<&Rule>) -> bool {
        let rate = |rule: Option<&Rule>| rule.and_then(|rule| rule.rate).is_some();
        let line = |rule: Option<&Rule>| rule.map(|rule| rule.line);
        line(one) == line(other) || (self.action(one) == self.action(other) && !rate(one) && !rate(other))
    }

    fn ambiguous(&self, query: &Query<'_>, exact: Option<&Rule>, other: (&Reading, Option<&Rule>)) -> Decision {
        let (reading, rule) = other;
        let by = |rule: Option<&Rule>| match rule {
            Some(rule) => format!("rule `{}` ({})", rule.name, rule.action),
            None => format!("the default ({})", self.action(None)),
        };
        refused(
            format!(
                "ambiguous path: {} decides for {} as it is, and {} for {}, as some origins read it",
                by(exact),
                query.path,
                by(rule),
                crate::error::printable(&reading.text)
            ),
            "send the path in its plain form: rules are for paths without encoded slashes, doubled encoding, \
             parameters after `;` and other case",
        )
    }

    fn by_default(&self, query: &Query<'_>) -> Decision {
        let Query { group, method, host, .. } = query;
        match self.default {
            DefaultAction::Allow => Decision {
                action: Action::Allow,
                rule: None,
                rate: None,
                reason: "the default of policy.toml allows what no rule is for".to_owned(),
                hint: String::new(),
            },
            DefaultAction::Deny => refused(
                format!("no rule of policy.toml is for {method} to {host} by group `{group}`, and its default is deny"),
                &format!("a person can add to policy.toml:\n{}", snippet(query)),
            ),
        }
    }

    /// Whether requests of the group have to be seen: the default is deny, or a
    /// rule can be for them, now or later.
    pub fn needs_inspection(&self, group: &str) -> bool {
        self.default == DefaultAction::Deny || self.rules.iter().any(|rule| rule.groups.contains(group))
    }

    /// Whether the group may open a raw tunnel to there.
    pub fn decide_tcp(&self, group: &str, host: &Host, port: u16) -> bool {
        self.tcp.iter().any(|rule| rule.port == port && rule.groups.contains(group) && rule.host.matches(host))
    }

    /// Whether the host may be dialled on this port although its address is not
    /// public.
    pub fn allows_private(&self, host: &Host, port: u16) -> bool {
        self.allow_private.iter().any(|entry| entry.port == port && entry.host.matches(host))
    }
}

fn refused(reason: String, hint: &str) -> Decision {
    Decision { action: Action::Deny, rule: None, rate: None, reason, hint: hint.to_owned() }
}

fn by_rule(query: &Query<'_>, rule: &Rule) -> Decision {
    let Query { method, host, .. } = query;
    let name = &rule.name;
    let (reason, hint) = match rule.action {
        Action::Allow => (format!("rule `{name}` of policy.toml allows {method} to {host}"), String::new()),
        Action::Deny => (
            format!("rule `{name}` of policy.toml denies {method} to {host}"),
            format!("a person can add to policy.toml, before rule `{name}`:\n{}", snippet(query)),
        ),
        Action::Approve => (
            format!("rule `{name}` of policy.toml lets {method} to {host} wait for a person"),
            "a person approves it with: belljar approve ID".to_owned(),
        ),
    };
    Decision { action: rule.action, rule: Some(name.clone()), rate: rule.rate, reason, hint }
}

/// A rule that lets just this request pass. All parts are checked text without
/// quotes.
fn snippet(query: &Query<'_>) -> String {
    let Query { group, method, host, path, .. } = query;
    let plain = PathPattern::parse(path.as_str()).is_ok_and(|pattern| {
        pattern.to_string() == path.as_str() && !path.as_str().contains('*') && pattern.covers(path) == Coverage::Every
    });
    let path = if plain { format!("path = \"{path}\"\n") } else { String::new() };
    let host = host.to_string();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    format!("[[rule]]\ngroups = [\"{group}\"]\nhost = \"{host}\"\nmethods = [\"{method}\"]\n{path}action = \"allow\"")
}
