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
        self.decide_with(query, self.default)
    }

    /// The same with another default: what a person allowed beside the file takes
    /// its place, and that of no rule.
    pub fn decide_with(&self, query: &Query<'_>, default: DefaultAction) -> Decision {
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
            return say(query, candidates.first().copied(), default);
        }
        let mut readings = query.path.readings();
        let exact = readings.next().and_then(|reading| decide(&reading));
        if action(exact, default) != Action::Deny {
            let other =
                readings.map(|reading| (decide(&reading), reading)).find(|(rule, _)| !alike(exact, *rule, default));
            if let Some(other) = other {
                return ambiguous(query, (exact, other), default);
            }
        }
        say(query, exact, default)
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

fn say(query: &Query<'_>, rule: Option<&Rule>, default: DefaultAction) -> Decision {
    match rule {
        Some(rule) => by_rule(query, rule),
        None => by_default(query, default),
    }
}

fn action(rule: Option<&Rule>, default: DefaultAction) -> Action {
    rule.map_or(default.into(), |rule| rule.action)
}

/// Whether it makes no difference which of the two decides.
fn alike(one: Option<&Rule>, other: Option<&Rule>, default: DefaultAction) -> bool {
    let rate = |rule: Option<&Rule>| rule.and_then(|rule| rule.rate).is_some();
    let line = |rule: Option<&Rule>| rule.map(|rule| rule.line);
    line(one) == line(other) || (action(one, default) == action(other, default) && !rate(one) && !rate(other))
}

/// `exact` decides for the path as it is, the other rule for another reading of it.
fn ambiguous(
    query: &Query<'_>,
    (exact, (rule, reading)): (Option<&Rule>, (Option<&Rule>, Reading)),
    default: DefaultAction,
) -> Decision {
    let by = |rule: Option<&Rule>| match rule {
        Some(rule) => format!("rule `{}` ({})", rule.name, rule.action),
        None => format!("the default ({})", action(None, default)),
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

fn by_default(query: &Query<'_>, default: DefaultAction) -> Decision {
    let Query { group, method, host, .. } = query;
    match default {
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

/// A rule that lets just this request pass, or says that it opens more. All
/// parts are checked text without quotes.
fn snippet(query: &Query<'_>) -> String {
    let Query { group, method, host, path, .. } = query;
    let (pattern, more) = pattern_for(path);
    let path = match more {
        Opens::JustThis => format!("path = \"{pattern}\""),
        Opens::More => {
            format!("path = \"{pattern}\"  # all that begins so: the path itself cannot be written in a rule")
        }
    };
    let host = host.to_string();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    format!("[[rule]]\ngroups = [\"{group}\"]\nhost = \"{host}\"\nmethods = [\"{method}\"]\n{path}\naction = \"allow\"")
}

/// What a rule for a path opens.
#[derive(Debug, PartialEq, Eq)]
enum Opens {
    JustThis,
    More,
}

/// The path as a pattern, or the longest beginning of it that a rule can say.
fn pattern_for(path: &NormalPath) -> (String, Opens) {
    let text = path.as_str();
    let covers = |pattern: &str| {
        PathPattern::parse(pattern)
            .is_ok_and(|parsed| parsed.to_string() == pattern && parsed.covers(path) == Coverage::Every)
    };
    if !text.contains('*') && covers(text) {
        return (text.to_owned(), Opens::JustThis);
    }
    // A pattern is plain text up to its last character. Only a few are tried: each
    // is judged in every reading of a path that the agent has chosen.
    let plain = &text[..text.find(['*', ';', '%']).unwrap_or(text.len())];
    let parent = |text: &str| text.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
    let above = &plain[..parent(plain)];
    let further = &above[..parent(above)];
    let longest = [plain, above, further].map(|start| format!("{start}*")).into_iter().find(|pattern| covers(pattern));
    (longest.unwrap_or_else(|| "/*".to_owned()), Opens::More)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use jiff::Zoned;

    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(text, Path::new("policy.toml")).unwrap_or_else(|error| panic!("{error}"))
    }

    fn at(time: &str) -> Zoned {
        format!("{time}[UTC]").parse().unwrap()
    }

    fn decide(policy: &Policy, method: &str, url: &str) -> Decision {
        let (host, path) = url.split_at(url.find('/').unwrap());
        let (host, path) = (Host::parse(host).unwrap(), NormalPath::normalise(path).unwrap());
        let now = at("2026-06-01T12:00:00+00:00");
        policy.decide(&Query { group: "main", method, host: &host, path: &path, now: &now })
    }

    #[test]
    fn the_first_rule_decides() {
        let policy = policy(
            r#"
            default = "deny"
            [[rule]]
            name = "others"
            groups = ["other"]
            host = "*"
            action = "allow"
            [[rule]]
            name = "no tokens"
            host = "api.example"
            path = "/user/keys*"
            action = "deny"
            [[rule]]
            name = "send"
            host = "api.example"
            methods = ["POST"]
            path = "/v1/send*"
            action = "approve"
            rate = "10/hour"
            [[rule]]
            name = "all"
            host = "*.example"
            action = "allow"
            "#,
        );
        for (method, url, rule, action) in [
            ("GET", "api.example/user/keys/1", Some("no tokens"), Action::Deny),
            ("POST", "api.example/v1/send", Some("send"), Action::Approve),
            ("GET", "api.example/v1/send", Some("all"), Action::Allow),
            ("GET", "example/", None, Action::Deny),
            ("GET", "api.example.org/", None, Action::Deny),
            ("get", "api.example/", None, Action::Deny),
            ("post", "api.example/v1/send", None, Action::Deny),
            ("POSt", "api.example/v1/send", None, Action::Deny),
            // Whatever leads to the denied path for some origin.
            ("GET", "api.example/x/../user/keys", Some("no tokens"), Action::Deny),
            ("GET", "api.example/user%2fkeys", None, Action::Deny),
            ("GET", "api.example/x/..%2fuser/keys", None, Action::Deny),
            ("GET", "api.example/User/Keys", None, Action::Deny),
            ("GET", "api.example/user;x/keys", None, Action::Deny),
            ("GET", "api.example/x/..;/user/keys", None, Action::Deny),
            ("GET", "api.example/%2575ser/keys", None, Action::Deny),
            ("GET", "api.example/x/..%255cuser/keys", None, Action::Deny),
            // The rate cannot be passed by either.
            ("POST", "api.example/V1/send", None, Action::Deny),
            ("POST", "api.example/v1%2fsend", None, Action::Deny),
            ("POST", "api.example/v1/send/a%2fB;c", Some("send"), Action::Approve),
        ] {
            let decision = decide(&policy, method, url);
            assert_eq!((decision.rule.as_deref(), decision.action), (rule, action), "{method} {url}: {decision:?}");
            assert_eq!(decision.hint.is_empty(), action == Action::Allow, "{method} {url}");
        }
        assert_eq!(decide(&policy, "POST", "api.example/v1/send").rate.map(|rate| rate.count), Some(10));
        assert!(decide(&policy, "GET", "api.example/User/Keys").reason.starts_with("ambiguous path: "));
    }

    #[test]
    fn another_default_takes_the_place_of_no_rule() {
        let policy = policy(
            "default = \"deny\"\n[[rule]]\nname = \"no\"\nhost = \"a.example\"\npath = \"/admin*\"\naction = \"deny\"\n",
        );
        for (path, action) in [
            ("/", Action::Allow),
            ("/admin", Action::Deny),
            // What some origin reads as the denied path is not in the default's place.
            ("/ADMIN", Action::Deny),
            ("/x%2f..%2fadmin", Action::Deny),
        ] {
            let (host, path) = (Host::parse("a.example").unwrap(), NormalPath::normalise(path).unwrap());
            let now = at("2026-06-01T12:00:00+00:00");
            let query = Query { group: "main", method: "GET", host: &host, path: &path, now: &now };
            assert_eq!(policy.decide(&query).action, Action::Deny, "{path}");
            assert_eq!(policy.decide_with(&query, DefaultAction::Allow).action, action, "{path}");
        }
    }

    #[test]
    fn the_rule_that_is_offered_opens_no_more_than_it_says() {
        for (path, pattern, opens) in [
            ("/v1/a", "/v1/a", Opens::JustThis),
            ("/v1/a;b", "/v1/a*", Opens::More),
            ("/v1/a*b", "/v1/a*", Opens::More),
            ("/v1/a%23b/c", "/v1/a*", Opens::More),
            ("/v1/a%253Fb", "/v1/a*", Opens::More),
            ("/;x", "/*", Opens::More),
            ("/A b".replace(' ', "%20").as_str(), "/A%20b", Opens::JustThis),
        ] {
            let policy = policy("default = \"deny\"");
            let normal = NormalPath::normalise(path).unwrap();
            assert_eq!(pattern_for(&normal), (pattern.to_owned(), opens), "{path}");
            let hint = decide(&policy, "GET", &format!("a.example{path}")).hint;
            let offered = hint.split_once('\n').unwrap().1;
            let opened = Policy::parse(&format!("default = \"deny\"\n{offered}"), Path::new("policy.toml")).unwrap();
            assert_eq!(decide(&opened, "GET", &format!("a.example{path}")).action, Action::Allow, "{offered}");
            assert_eq!(decide(&opened, "GET", "a.example/other").action == Action::Allow, pattern == "/*", "{offered}");
        }
    }

    #[test]
    fn a_long_path_is_refused_quickly() {
        let policy = policy("default = \"deny\"");
        let begun = std::time::Instant::now();
        for path in [format!("/{}%2F..%2Fb", "a".repeat(8000)), format!("/;{}", "a".repeat(8000)), "/a;".repeat(2600)] {
            assert_eq!(decide(&policy, "GET", &format!("a.example{path}")).action, Action::Deny);
        }
        // Not a measurement: trying every beginning took minutes.
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_path_means_nothing_to_rules_for_all_paths() {
        let policy = policy("[[rule]]\nhost = \"*.example\"\naction = \"allow\"\nrate = \"5/day\"\n");
        for url in ["npm.example/@scope%2fname", "x.test/a%2f..%2fb;c", "npm.example/A/%252e"] {
            assert_eq!(decide(&policy, "GET", url).action, Action::Allow, "{url}");
        }
    }

    #[test]
    fn two_plain_permissions_may_meet() {
        let policy = policy(
            "default = \"deny\"\n[[rule]]\nhost = \"npm.example\"\npath = \"/@s/*\"\naction = \"allow\"\n\
             [[rule]]\nhost = \"npm.example\"\npath = \"/@s%2f*\"\naction = \"allow\"\n",
        );
        assert_eq!(decide(&policy, "GET", "npm.example/@s%2fname").action, Action::Allow);
        assert_eq!(decide(&policy, "GET", "npm.example/@s/name/-/name-1.tgz").action, Action::Allow);
        assert_eq!(decide(&policy, "GET", "npm.example/@s%2f..%2fother").action, Action::Deny);
        assert_eq!(decide(&policy, "GET", "npm.example/@t%2fname").action, Action::Deny);
    }

    #[test]
    fn time() {
        let policy = policy(
            "[[rule]]\nname = \"night\"\nhost = \"a\"\naction = \"deny\"\nbetween = \"22:00-06:00\"\n\
             until = 2026-12-31T00:00:00+01:00\n",
        );
        for (now, action) in [
            ("2026-06-01T21:59:59+00:00", Action::Allow),
            ("2026-06-01T22:00:00+00:00", Action::Deny),
            ("2026-06-01T00:00:00+00:00", Action::Deny),
            ("2026-06-01T05:59:59+00:00", Action::Deny),
            ("2026-06-01T06:00:00+00:00", Action::Allow),
            ("2026-12-30T22:59:59+00:00", Action::Deny),
            ("2026-12-30T23:00:00+00:00", Action::Allow),
        ] {
            let (host, path) = (Host::parse("a").unwrap(), NormalPath::normalise("/").unwrap());
            let query = Query { group: "main", method: "GET", host: &host, path: &path, now: &at(now) };
            assert_eq!(policy.decide(&query).action, action, "{now}");
        }
    }

    #[test]
    fn the_rule_that_is_offered_lets_the_request_pass() {
        for url in ["api.example/v1/x", "api.example/a;b/c*d", "api.example/%22%5D", "192.0.2.1/A", "[::1]/a%2f..%2fb"]
        {
            let hint = decide(&policy("default = \"deny\""), "GET", url).hint;
            let offered = hint.split_once('\n').unwrap().1;
            let mended = policy(&format!("default = \"deny\"\n{offered}\n"));
            assert_eq!(decide(&mended, "GET", url).action, Action::Allow, "{url}: {offered}");
        }
    }

    #[test]
    fn tunnels_and_inspection() {
        let policy = policy(
            "[[tcp]]\nhost = \"db.example\"\nport = 5432\ngroups = [\"a\"]\n[[allow_private]]\nhost = \"*.corp\"\nport = 22\n\
             [[rule]]\nhost = \"x\"\ngroups = [\"a\"]\naction = \"deny\"\n",
        );
        let host = |text| Host::parse(text).unwrap();
        assert!(policy.decide_tcp("a", &host("DB.example."), 5432));
        assert!(!policy.decide_tcp("a", &host("db.example"), 5433));
        assert!(!policy.decide_tcp("b", &host("db.example"), 5432));
        assert!(policy.allows_private(&host("git.corp"), 22) && !policy.allows_private(&host("corp"), 22));
        assert!(policy.needs_inspection("a") && !policy.needs_inspection("b"));
    }
}
