//! What is doubtful in a policy that reads well.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Zoned;
use serde::Serialize;

use super::rule::{Action, DefaultAction, GroupSet, Rule};
use super::{HostPattern, Policy};

/// Combinations of methods, groups and times that are looked at for one rule.
const MOST_CELLS: usize = 20_000;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file does not do what it says.
    Error,
    /// It may not do what was meant.
    Warning,
}

/// Something doubtful.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The line in the file.
    pub line: usize,
    /// What it is.
    pub text: String,
}

/// Finds what is doubtful, in the order of the file. `groups` are those that
/// there are.
pub fn check(policy: &Policy, groups: &[String], now: &Zoned) -> Vec<Finding> {
    let mut findings = Findings::default();
    for (at, rule) in policy.rules.iter().enumerate() {
        if rule.until.is_some_and(|until| until <= now.timestamp()) {
            findings.warn(rule.line, format!("rule `{}` ended, its `until` is in the past", rule.name));
            continue;
        }
        findings.unknown_groups(rule.line, &rule.groups, groups);
        let earlier: Vec<&Rule> =
            policy.rules[..at].iter().filter(|rule| rule.until.is_none_or(|until| until > now.timestamp())).collect();
        if !findings.unreachable(rule, &earlier) {
            findings.order_matters(rule, &earlier);
            findings.without_effect(policy, at);
        }
    }
    findings.places(policy);
    for entry in &policy.tcp {
        findings.unknown_groups(entry.line, &entry.groups, groups);
    }
    findings.0.sort_by_key(|finding| finding.line);
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, line: usize, text: String) {
        self.0.push(Finding { severity: Severity::Error, line, text });
    }

    fn warn(&mut self, line: usize, text: String) {
        self.0.push(Finding { severity: Severity::Warning, line, text });
    }

    fn unknown_groups(&mut self, line: usize, set: &GroupSet, groups: &[String]) {
        let GroupSet::Named(names) = set else { return };
        for name in names.iter().filter(|name| !groups.contains(name)) {
            self.error(line, format!("there is no group `{name}`; belljar group list shows those that there are"));
        }
    }

    /// An earlier rule is for all that this one is for, whenever it is.
    fn unreachable(&mut self, rule: &Rule, earlier: &[&Rule]) -> bool {
        let Some(first) = earlier.iter().find(|first| includes(first, rule) && lasts(first, rule)) else {
            return self.unreachable_together(rule, earlier);
        };
        let (name, line, by) = (&rule.name, first.line, &first.name);
        let text = if includes(rule, first) && rule.action != first.action {
            format!(
                "rule `{name}` ({}) contradicts rule `{by}` ({}) of line {line}: both are for the same, and the first decides",
                rule.action, first.action
            )
        } else {
            format!(
                "rule `{name}` is never reached: rule `{by}` ({}) of line {line} is for all that it is for",
                first.action
            )
        };
        self.error(rule.line, text);
        true
    }

    /// Earlier rules are together for all that this one is for: for each method,
    /// group and time of day there is one.
    fn unreachable_together(&mut self, rule: &Rule, earlier: &[&Rule]) -> bool {
        let near: Vec<&Rule> = earlier
            .iter()
            .copied()
            .filter(|first| first.host.includes(&rule.host) && first.path.includes(&rule.path) && outlives(first, rule))
            .collect();
        let Some(cells) = cells(rule, &near) else {
            let name = &rule.name;
            self.warn(rule.line, format!("rule `{name}`: the rules before it name too many methods, groups and times to see whether they are together for all that it is for"));
            return false;
        };
        let by: Option<Vec<&&Rule>> = cells.iter().map(|cell| near.iter().find(|first| cell.is_of(first))).collect();
        let Some(by) = by else {
            return false;
        };
        let names: BTreeSet<String> =
            by.into_iter().map(|first| format!("`{}` (line {})", first.name, first.line)).collect();
        let names: Vec<String> = names.into_iter().collect();
        let by = match names.as_slice() {
            [one] => format!("rule {one} is"),
            several => format!("rules {} are together", several.join(", ")),
        };
        self.error(rule.line, format!("rule `{}` is never reached: {by} for all that it is for", rule.name));
        true
    }

    /// A stricter rule that an earlier one takes requests from, without being
    /// the exception to it. What refuses first and permits then is plain.
    fn order_matters(&mut self, rule: &Rule, earlier: &[&Rule]) {
        let crossing = |first: &&&Rule| {
            strictness(first.action) < strictness(rule.action)
                && overlaps(first, rule)
                && !includes(rule, first)
                && !includes(first, rule)
        };
        for first in earlier.iter().filter(crossing) {
            self.warn(
                rule.line,
                format!(
                    "rule `{}` ({}) and rule `{}` ({}) of line {} are both for some requests; there the earlier decides",
                    rule.name, rule.action, first.name, first.action, first.line
                ),
            );
        }
    }

    /// Without the rule the same would happen.
    fn without_effect(&mut self, policy: &Policy, at: usize) {
        let rule = &policy.rules[at];
        let same = match policy.default {
            DefaultAction::Allow => Action::Allow,
            DefaultAction::Deny => Action::Deny,
        };
        let differs = |other: &Rule| other.action != same || other.rate.is_some();
        let later = policy.rules[at + 1..].iter().any(|later| differs(later) && overlaps(rule, later));
        // A path that is of this rule as it is, and of another one in a looser
        // reading, is refused as ambiguous, whichever comes first.
        let near = |other: &Rule| !rule.path.is_any() && differs(other) && other.host.overlaps(&rule.host);
        // Where everything is allowed, a rule has its group's requests seen at all.
        let seen =
            |other: &Rule| other.line != rule.line && other.until.is_none() && other.groups.includes(&rule.groups);
        let shows = policy.default == DefaultAction::Allow && !policy.rules.iter().any(seen);
        let changes = later || shows || policy.rules.iter().any(near);
        if rule.action == same && rule.rate.is_none() && !changes {
            self.warn(
                rule.line,
                format!("rule `{}` has no effect: the default is {same}, and no later rule says otherwise", rule.name),
            );
        }
    }

    fn places(&mut self, policy: &Policy) {
        for entry in &policy.allow_private {
            match &entry.host {
                HostPattern::Any => self.warn(
                    entry.line,
                    format!(
                        "allow_private for `*` opens port {} of every private address, this machine's too",
                        entry.port
                    ),
                ),
                HostPattern::Exact(host) if host.ip().is_some_and(is_public) => {
                    self.warn(entry.line, format!("allow_private for {host} has no effect: it is a public address"));
                }
                _ => {}
            }
        }
        for entry in policy.tcp.iter().filter(|entry| matches!(entry.port, 80 | 443)) {
            self.warn(
                entry.line,
                format!("tcp to {}:{}: no rule and no secret's binding sees what goes through", entry.host, entry.port),
            );
        }
        for entry in policy.tcp.iter().filter(|entry| entry.host == HostPattern::Any) {
            self.warn(entry.line, format!("tcp to `*` opens port {} of every public host, unseen", entry.port));
        }
    }
}

fn strictness(action: Action) -> u8 {
    match action {
        Action::Allow => 0,
        Action::Approve => 1,
        Action::Deny => 2,
    }
}

/// Group, host, method and path.
fn includes(one: &Rule, other: &Rule) -> bool {
    let methods = match (&one.methods, &other.methods) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(one), Some(other)) => other.iter().all(|method| one.contains(method)),
    };
    methods && one.groups.includes(&other.groups) && one.host.includes(&other.host) && one.path.includes(&other.path)
}

/// Whether the one is in force whenever the other is.
fn lasts(one: &Rule, other: &Rule) -> bool {
    (one.between.is_none() || one.between == other.between) && outlives(one, other)
}

/// Whether the one ends no earlier than the other.
fn outlives(one: &Rule, other: &Rule) -> bool {
    one.until.is_none_or(|end| other.until.is_some_and(|other| other <= end))
}

/// Requests that no rule tells apart but by host and path: `None` stands for
/// every method, or group, that no rule names.
struct Cell<'a> {
    method: Option<&'a str>,
    group: Option<&'a str>,
    minute: u16,
}

impl Cell<'_> {
    /// Whether the rule is for them.
    fn is_of(&self, rule: &Rule) -> bool {
        let method = self.method.map_or(rule.methods.is_none(), |method| rule.has_method(method));
        let group = self.group.map_or(rule.groups == GroupSet::All, |group| rule.groups.contains(group));
        method && group && rule.between.is_none_or(|window| window.contains_minute(self.minute))
    }
}

/// All cells of a rule, as far as the rules near it tell them apart; `None` when
/// they are too many to look at.
fn cells<'a>(rule: &'a Rule, near: &[&'a Rule]) -> Option<Vec<Cell<'a>>> {
    let all = || near.iter().copied().chain([rule]);
    let mut methods: BTreeSet<Option<&str>> =
        all().filter_map(|one| one.methods.as_ref()).flatten().map(|method| Some(method.0.as_str())).collect();
    let mut groups: BTreeSet<Option<&str>> = all()
        .filter_map(|one| match &one.groups {
            GroupSet::All => None,
            GroupSet::Named(names) => Some(names),
        })
        .flatten()
        .map(|name| Some(name.as_str()))
        .collect();
    methods.insert(None);
    groups.insert(None);
    // Between two borders nothing changes, so that the first minute stands for all.
    let mut minutes: BTreeSet<u16> = all().filter_map(|one| one.between).flat_map(|window| window.borders()).collect();
    minutes.insert(0);
    if methods.len().saturating_mul(groups.len()).saturating_mul(minutes.len()) > MOST_CELLS {
        return None;
    }
    let mut cells = Vec::new();
    for method in &methods {
        for group in &groups {
            cells.extend(minutes.iter().map(|minute| Cell { method: *method, group: *group, minute: *minute }));
        }
    }
    cells.retain(|cell| cell.is_of(rule));
    Some(cells)
}

fn overlaps(one: &Rule, other: &Rule) -> bool {
    let methods = match (&one.methods, &other.methods) {
        (Some(one), Some(other)) => other.iter().any(|method| one.contains(method)),
        _ => true,
    };
    methods && one.groups.overlaps(&other.groups) && one.host.overlaps(&other.host) && one.path.overlaps(&other.path)
}

/// Whether the address is surely public; the dial guard judges exactly.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_global_unicast(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    // RFC 6598, RFC 2544, and what is not unicast.
    let shared = a == 100 && (64..128).contains(&b);
    let bench = a == 198 && (b == 18 || b == 19);
    !(address.is_private() || address.is_loopback() || address.is_link_local() || a == 0 || a >= 224 || shared || bench)
}

/// 2000::/3 without 6to4, whose inner address may be anything (RFC 3056).
fn is_global_unicast(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    first & 0xe000 == 0x2000 && first != 0x2002
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The default, rules, and what is found.
    type Case = (&'static str, Vec<(&'static str, String)>, Vec<(Severity, &'static str)>);

    /// Rules in short: the host, then other lines.
    fn findings(default: &str, rules: &[(&str, &str)]) -> Vec<(Severity, String)> {
        let mut text = format!("default = \"{default}\"\n");
        for (host, rest) in rules {
            text.push_str(&format!("[[rule]]\nhost = \"{host}\"\n{rest}\n"));
        }
        all(&text)
    }

    fn all(text: &str) -> Vec<(Severity, String)> {
        let policy = Policy::parse(text, Path::new("policy.toml")).unwrap_or_else(|error| panic!("{error}"));
        let now = "2026-06-01T12:00:00+00:00[UTC]".parse().unwrap();
        check(&policy, &["main".to_owned()], &now).into_iter().map(|f| (f.severity, f.text)).collect()
    }

    #[test]
    fn rules() {
        use Severity::{Error, Warning};
        const ALLOW: &str = "action = \"allow\"";
        const DENY: &str = "action = \"deny\"";
        let deny_path = |path: &str| format!("path = \"{path}\"\naction = \"deny\"");
        let cases: Vec<Case> = vec![
            ("deny", vec![("*.a", ALLOW.into())], vec![]),
            ("deny", vec![("*.a", ALLOW.into()), ("b.a", DENY.into())], vec![(Error, "`rule 2` is never reached")]),
            ("deny", vec![("b.a", DENY.into()), ("*.a", ALLOW.into())], vec![]),
            ("deny", vec![("a", ALLOW.into()), ("a", DENY.into())], vec![(Error, "contradicts")]),
            ("deny", vec![("a", ALLOW.into()), ("a", ALLOW.into())], vec![(Error, "never reached")]),
            // It has TLS opened, and its requests seen.
            ("allow", vec![("a", ALLOW.into())], vec![]),
            ("deny", vec![("a", DENY.into())], vec![(Warning, "no effect")]),
            ("allow", vec![("a", format!("{ALLOW}\nrate = \"1/hour\""))], vec![]),
            ("allow", vec![("b.a", ALLOW.into()), ("*.a", DENY.into())], vec![]),
            ("allow", vec![("b.a", ALLOW.into()), ("*.c", DENY.into())], vec![(Warning, "no effect")]),
            (
                "allow",
                vec![("*.a", format!("path = \"/x\"\n{ALLOW}")), ("b.a", deny_path("/*"))],
                vec![(Warning, "are both for some")],
            ),
            // Not always in force, so the later one is reached.
            (
                "allow",
                vec![("a", format!("{DENY}\nbetween = \"08:00-09:00\"")), ("a", "action = \"approve\"".into())],
                vec![],
            ),
            (
                "allow",
                vec![("a", format!("{DENY}\nuntil = 2027-01-01T00:00:00Z")), ("a", "action = \"approve\"".into())],
                vec![],
            ),
            (
                "allow",
                vec![
                    ("a", format!("{DENY}\nuntil = 2027-01-01T00:00:00Z")),
                    ("a", "action = \"approve\"\nuntil = 2026-12-01T00:00:00Z".into()),
                ],
                vec![(Error, "contradicts")],
            ),
            (
                "allow",
                vec![("a", format!("{DENY}\nuntil = 2026-01-01T00:00:00Z")), ("a", "action = \"approve\"".into())],
                vec![(Warning, "in the past")],
            ),
            ("allow", vec![("a", format!("groups = [\"sale\"]\n{DENY}"))], vec![(Error, "no group `sale`")]),
            ("allow", vec![("a", deny_path("/x/*")), ("a", deny_path("/x/y"))], vec![(Error, "never reached")]),
            (
                "allow",
                vec![("a", format!("methods = [\"GET\"]\n{DENY}")), ("a", format!("methods = [\"POST\"]\n{DENY}"))],
                vec![],
            ),
        ];
        for (default, rules, expected) in cases {
            let rules: Vec<(&str, &str)> = rules.iter().map(|(host, rest)| (*host, rest.as_str())).collect();
            let found = findings(default, &rules);
            let fits = found.len() == expected.len()
                && found.iter().zip(&expected).all(|(f, e)| f.0 == e.0 && f.1.contains(e.1));
            assert!(fits, "{rules:?}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn rules_that_are_together_for_all_that_another_is_for() {
        let deny = |more: &str| format!("{more}\naction = \"deny\"");
        let allow = |more: &str| format!("{more}\naction = \"allow\"");
        let (get, post, both) = ("methods = [\"GET\"]", "methods = [\"POST\"]", "methods = [\"GET\", \"POST\"]");
        let (main, others) = ("groups = [\"main\"]", "groups = [\"sales\", \"ops\"]");
        let time = |text: &str| format!("between = \"{text}\"");
        for (rules, reached) in [
            (vec![deny(get), deny(post), allow(both)], false),
            (vec![deny(get), allow(both)], true),
            (vec![deny(get), deny(post), allow("")], true),
            (vec![deny(&time("08:00-20:00")), allow(&time("09:00-10:00"))], false),
            (vec![deny(&time("08:00-20:00")), allow(&time("09:00-20:01"))], true),
            (vec![deny(&time("08:00-20:00")), deny(&time("20:00-08:00")), allow("")], false),
            (vec![deny(&time("22:00-06:00")), allow(&time("23:00-05:00"))], false),
            (vec![deny(&time("22:00-06:00")), allow(&time("05:00-23:00"))], true),
            (vec![deny(main), deny(others), allow("groups = [\"main\", \"ops\"]")], false),
            (vec![deny(main), deny(others), allow("")], true),
            (vec![deny(&format!("{main}\n{get}")), deny(&format!("{others}\n{get}")), deny(post), allow(both)], true),
            (vec![deny(&format!("{get}\nuntil = 2026-12-01T00:00:00Z")), deny(post), allow(both)], true),
        ] {
            let rules: Vec<_> = rules.iter().map(|rule| ("a", rule.as_str())).collect();
            let found = findings("deny", &rules);
            let never =
                found.iter().any(|(severity, text)| *severity == Severity::Error && text.contains("never reached"));
            assert_eq!(!never, reached, "{rules:?}: {found:?}");
        }
    }

    #[test]
    fn too_many_combinations_are_said() {
        let one = |number: usize| {
            let time = format!("{:02}:{:02}-{:02}:{:02}", number / 60, number % 60, number / 60 + 1, number % 60);
            format!("groups = [\"g{number}\"]\nmethods = [\"M{number}\"]\nbetween = \"{time}\"\naction = \"deny\"")
        };
        let mut rules: Vec<String> = (0..100).map(one).collect();
        rules.push("action = \"allow\"".to_owned());
        let rules: Vec<_> = rules.iter().map(|rule| ("a", rule.as_str())).collect();
        assert!(findings("deny", &rules).iter().any(|(_, text)| text.contains("too many")));
    }

    #[test]
    fn what_makes_a_path_ambiguous_has_an_effect() {
        let deny = ("a", "path = \"/Admin\"\naction = \"deny\"");
        let allow = ("a", "path = \"/admin\"\naction = \"allow\"");
        assert!(findings("deny", &[deny, allow]).iter().all(|(_, text)| !text.contains("no effect")));
        assert!(findings("deny", &[deny]).iter().any(|(_, text)| text.contains("no effect")));
    }

    #[test]
    fn places() {
        for (host, doubtful) in [
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("203.1.1.1", true),
            ("::1", false),
            ("fd00::1", false),
            ("2606:4700::1", true),
            ("::ffff:10.0.0.1", false),
            ("git.corp", false),
            ("*", true),
        ] {
            let found = all(&format!("[[allow_private]]\nhost = \"{host}\"\nport = 22\n"));
            assert_eq!(!found.is_empty(), doubtful, "{host}: {found:?}");
        }
        assert_eq!(all("[[tcp]]\nhost = \"a\"\nport = 443\ngroups = [\"gone\"]\n").len(), 2);
        assert!(all("[[tcp]]\nhost = \"a\"\nport = 22\n").is_empty());
    }
}
