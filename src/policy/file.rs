//! `policy.toml`: read strictly. A file with one doubtful word stops new runs
//! and names the line, because a rule that was meant otherwise is worse than
//! none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use super::rule::{ACCESS_RULE, Action, AllowPrivate, DefaultAction, GroupSet, Method, Rate, Rule, TcpRule, Window};
use super::{HostPattern, PathPattern, Problem};
use crate::config::{Dirs, GroupName, read_own};
use crate::error::{Error, Result, printable};

/// A longer file is refused. In bytes.
const LONGEST: usize = 1 << 20;
/// A longer rule name is refused. In characters.
const LONGEST_NAME: usize = 100;

/// `policy.toml`, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// What happens to a request that no rule is for.
    pub default: DefaultAction,
    /// In the order of the file: the first that is for a request decides.
    pub rules: Vec<Rule>,
    /// Places that may be dialled although their address is not public.
    pub allow_private: Vec<AllowPrivate>,
    /// Raw tunnels.
    pub tcp: Vec<TcpRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    default: DefaultAction,
    #[serde(default)]
    rule: Vec<Spanned<WrittenRule>>,
    #[serde(default)]
    allow_private: Vec<Spanned<WrittenPrivate>>,
    #[serde(default)]
    tcp: Vec<Spanned<WrittenTcp>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    name: Option<Name>,
    groups: Option<WrittenGroups>,
    host: HostPattern,
    methods: Option<Methods>,
    path: Option<PathPattern>,
    action: Action,
    rate: Option<Rate>,
    between: Option<Window>,
    until: Option<Until>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPrivate {
    host: HostPattern,
    port: Port,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTcp {
    host: HostPattern,
    port: Port,
    groups: Option<WrittenGroups>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = Problem;

    fn try_from(name: String) -> Result<Self, Problem> {
        let shown = printable(&name);
        // Whatever printable escapes would reach terminals and the record.
        if shown != name {
            return Err(Problem(format!("the name `{shown}` has control characters")));
        }
        if name.trim().is_empty() || name.trim() != name {
            return Err(Problem(format!("the name `{name}` is empty or has spaces around it")));
        }
        if name.chars().count() > LONGEST_NAME {
            return Err(Problem(format!("a name has at most {LONGEST_NAME} characters")));
        }
        if name == ACCESS_RULE {
            return Err(Problem(format!("the name `{name}` is for what agents ask a person for")));
        }
        Ok(Self(name))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
struct WrittenGroups(Vec<String>);

impl TryFrom<Vec<String>> for WrittenGroups {
    type Error = Problem;

    fn try_from(names: Vec<String>) -> Result<Self, Problem> {
        if names.is_empty() {
            return Err(Problem::new("`groups` is empty: leave it out for all groups"));
        }
        for name in &names {
            name.parse::<GroupName>()
                .map_err(|error| Problem(printable(&format!("{}: {}", error.what, error.causes.join(": ")))))?;
        }
        Ok(Self(names))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<Method>")]
struct Methods(Vec<Method>);

impl TryFrom<Vec<Method>> for Methods {
    type Error = Problem;

    fn try_from(methods: Vec<Method>) -> Result<Self, Problem> {
        if methods.is_empty() {
            return Err(Problem::new("`methods` is empty: leave it out for all methods"));
        }
        Ok(Self(methods))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "i64")]
struct Port(u16);

impl TryFrom<i64> for Port {
    type Error = Problem;

    fn try_from(port: i64) -> Result<Self, Problem> {
        match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(Problem(format!("{port} is no port: 1 to 65535"))),
        }
    }
}

struct Until(Timestamp);

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        const EXAMPLE: &str = "write for example until = 2026-12-31T18:00:00+01:00";
        let toml::Value::Datetime(time) = toml::Value::deserialize(from)? else {
            return Err(D::Error::custom(format!("`until` is no time; {EXAMPLE}, without quotes")));
        };
        if time.date.is_none() || time.time.is_none() || time.offset.is_none() {
            return Err(D::Error::custom(format!("`until` needs date, time and offset (Z is UTC); {EXAMPLE}")));
        }
        time.to_string().parse().map(Self).map_err(|error| D::Error::custom(format!("`until`: {error}; {EXAMPLE}")))
    }
}

fn groups(written: Option<WrittenGroups>) -> GroupSet {
    written.map_or(GroupSet::All, |WrittenGroups(names)| GroupSet::Named(names))
}

/// What is off, and at which byte of the text.
struct Flaw {
    at: usize,
    what: String,
}

impl Policy {
    /// Where the file lies.
    pub fn file(dirs: &Dirs) -> PathBuf {
        dirs.config.join("policy.toml")
    }

    /// Reads the file; a missing one allows every public host. An invalid one
    /// is refused, with line and reason.
    pub fn load(path: &Path) -> Result<Self> {
        let Some(text) = read_own(path)? else {
            return Ok(Self::default());
        };
        if text.len() > LONGEST {
            return Err(Error::refused(format!("{} is larger than 1 MiB", path.display())));
        }
        Self::parse(&text, path)
    }

    /// Reads the text of a file; `path` is named in errors only.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        Self::understand(text).map_err(|flaw| {
            let line = Lines::of(text).number(flaw.at);
            Error::refused(format!("{}:{line}: {}", path.display(), flaw.what))
                .hint(format!("mend line {line} of {}, then: belljar policy check", path.display()))
        })
    }

    fn understand(text: &str) -> Result<Self, Flaw> {
        let written: Written = toml::from_str(text).map_err(|error: toml::de::Error| Flaw {
            at: error.span().map_or(0, |span| span.start),
            what: error.message().to_owned(),
        })?;
        let mut policy = Self { default: written.default, ..Self::default() };
        let mut names = BTreeMap::new();
        let lines = Lines::of(text);
        for (number, spanned) in written.rule.into_iter().enumerate() {
            let at = spanned.span().start;
            let rule = understand_rule(spanned.into_inner(), number + 1, lines.number(at))
                .map_err(|problem| Flaw { at, what: problem.0 })?;
            if let Some(first) = names.insert(rule.name.clone(), rule.line) {
                return Err(Flaw { at, what: format!("the rule of line {first} has the name `{}` too", rule.name) });
            }
            policy.rules.push(rule);
        }
        for spanned in written.allow_private {
            let line = lines.number(spanned.span().start);
            let WrittenPrivate { host, port: Port(port) } = spanned.into_inner();
            policy.allow_private.push(AllowPrivate { line, host, port });
        }
        for spanned in written.tcp {
            let line = lines.number(spanned.span().start);
            let WrittenTcp { host, port: Port(port), groups: written } = spanned.into_inner();
            policy.tcp.push(TcpRule { line, host, port, groups: groups(written) });
        }
        Ok(policy)
    }
}

fn understand_rule(written: WrittenRule, number: usize, line: usize) -> Result<Rule, Problem> {
    if written.action == Action::Deny && written.rate.is_some() {
        return Err(Problem::new(
            "a rule that denies has no rate; action = \"allow\" with a rate refuses what is over it",
        ));
    }
    Ok(Rule {
        name: written.name.map_or_else(|| format!("rule {number}"), |Name(name)| name),
        line,
        groups: groups(written.groups),
        host: written.host,
        methods: written.methods.map(|Methods(methods)| methods),
        path: written.path.unwrap_or_else(PathPattern::any),
        action: written.action,
        rate: written.rate,
        between: written.between,
        until: written.until.map(|Until(until)| until),
    })
}

/// Where the lines of a text end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line of a byte, from 1.
    fn number(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at) + 1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn flaws_are_named_with_their_line() {
        for (text, line, says) in [
            ("default = \"approve\"", 1, "approve"),
            ("\ndefalt = \"deny\"", 2, "defalt"),
            ("default = deny", 1, ""),
            ("\n[[rules]]\nhost = \"a\"", 2, "rules"),
            ("[rule]\nhost = \"a\"\naction = \"deny\"", 1, ""),
            ("[[rule]]\naction = \"deny\"", 1, "host"),
            ("[[rule]]\nhost = \"a\"", 1, "action"),
            ("[[rule]]\nhost = \"a\"\naction = \"block\"", 3, "block"),
            ("[[rule]]\nhost = \"https://a/\"\naction = \"deny\"", 2, "IPv6"),
            ("[[rule]]\nhost = \"*a\"\naction = \"deny\"", 2, "*.example"),
            ("[[rule]]\nhost = \"bücher.example\"\naction = \"deny\"", 2, "xn--"),
            ("[[rule]]\nhost = [\"a\", \"b\"]\naction = \"deny\"", 2, ""),
            ("[[rule]]\nhost = \"a\"\nmethod = \"GET\"\naction = \"deny\"", 3, "method"),
            ("[[rule]]\nhost = \"a\"\nmethods = []\naction = \"deny\"", 3, "leave it out"),
            ("[[rule]]\nhost = \"a\"\nmethods = \"GET\"\naction = \"deny\"", 3, ""),
            ("[[rule]]\nhost = \"a\"\nmethods = [\"G T\"]\naction = \"deny\"", 3, "method"),
            ("[[rule]]\nhost = \"a\"\nmethods = [\"*\"]\naction = \"deny\"", 3, "method"),
            ("[[rule]]\nhost = \"a\"\nmethods = [\"connect\"]\naction = \"deny\"", 3, "tcp"),
            ("[[rule]]\nhost = \"a\"\ngroups = []\naction = \"deny\"", 3, "leave it out"),
            ("[[rule]]\nhost = \"a\"\ngroups = [\"*\"]\naction = \"deny\"", 3, "group name"),
            ("[[rule]]\nhost = \"a\"\npath = \"v1\"\naction = \"deny\"", 3, "begins with `/`"),
            ("[[rule]]\nhost = \"a\"\npath = \"/a*b\"\naction = \"deny\"", 3, "whole segment"),
            ("[[rule]]\nhost = \"a\"\npath = \"/a?b=c\"\naction = \"deny\"", 3, "?"),
            ("[[rule]]\nhost = \"a\"\naction = \"deny\"\nrate = \"1/hour\"", 1, "rate"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nrate = \"0/hour\"", 4, "deny"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nrate = \"10 per hour\"", 4, "10/minute"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nrate = \"1/30\"", 4, "3/30s"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nrate = \"-1/hour\"", 4, "whole number"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nrate = \"99999999999/hour\"", 4, "large"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nrate = \"1/10ms\"", 4, "1 second"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nrate = \"1/1year\"", 4, "31 days"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nbetween = \"8-20\"", 4, "HH:MM"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nbetween = \"08:00-08:00\"", 4, "same"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nbetween = \"00:00-24:00\"", 4, "same"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nbetween = \"24:00-08:00\"", 4, "HH:MM"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nbetween = \"08:60-09:00\"", 4, "HH:MM"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nuntil = 2026-12-31", 4, "offset"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nuntil = 2026-12-31T00:00:00", 4, "offset"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nuntil = 08:00:00", 4, "offset"),
            ("[[rule]]\nhost = \"a\"\naction = \"allow\"\nuntil = \"2026-12-31T00:00:00Z\"", 4, "without quotes"),
            ("[[rule]]\nname = \"a\\u001b[31m\"\nhost = \"a\"\naction = \"allow\"", 2, "control"),
            ("[[rule]]\nname = \"a\\u202e\"\nhost = \"a\"\naction = \"allow\"", 2, "control"),
            ("[[rule]]\nname = \"\"\nhost = \"a\"\naction = \"allow\"", 2, "empty"),
            ("[[rule]]\nname = \"request_access\"\nhost = \"a\"\naction = \"allow\"", 2, "what agents ask"),
            (
                "[[rule]]\nname = \"x\"\nhost = \"a\"\naction = \"allow\"\n[[rule]]\nname = \"x\"\nhost = \"b\"\naction = \"deny\"",
                5,
                "line 1",
            ),
            (
                "[[rule]]\nhost = \"a\"\naction = \"allow\"\n[[rule]]\nname = \"rule 1\"\nhost = \"b\"\naction = \"deny\"",
                4,
                "line 1",
            ),
            ("[[allow_private]]\nhost = \"a\"", 1, "port"),
            ("[[allow_private]]\nhost = \"a\"\nport = 0", 3, "65535"),
            ("[[allow_private]]\nhost = \"a\"\nport = \"22\"", 3, ""),
            ("[[tcp]]\nhost = \"a\"\nport = 65536", 3, "65535"),
            ("[[tcp]]\nhost = \"a:22\"\nport = 22", 2, "IPv6"),
            ("[[tcp]]\nhost = \"a\"\nport = 22\naction = \"allow\"", 4, "action"),
        ] {
            let error = Policy::parse(text, Path::new("policy.toml")).expect_err(text);
            assert!(error.what.starts_with(&format!("policy.toml:{line}: ")), "{text}\n{error}");
            assert!(error.what.contains(says), "{text}\n{error}");
            assert!(error.hint.is_some() && !error.what.contains('\u{1b}'), "{text}\n{error}");
        }
    }

    #[test]
    fn what_is_left_out() {
        let policy =
            Policy::parse("[[rule]]\nhost = \"A.\"\nmethods = [\"get\"]\naction = \"allow\"\n", Path::new("p"))
                .unwrap();
        let rule = &policy.rules[0];
        assert_eq!((rule.name.as_str(), rule.line, rule.host.to_string()), ("rule 1", 1, "a".to_owned()));
        assert!(rule.path.is_any() && rule.has_method("GET") && !rule.has_method("HEAD"));
        assert_eq!(policy.default, DefaultAction::Allow);
        assert_eq!(Policy::load(Path::new("/nonexistent/policy.toml")), Ok(Policy::default()));
        assert!(Policy::load(Path::new("/proc/self")).is_err());
        assert!(Policy::load(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn rates() {
        for (text, shown) in [("10/hour", "10/hour"), ("3/30s", "3/30s"), ("5/5m", "5/5m"), ("1/60s", "1/minute")] {
            assert_eq!(Rate::try_from(text.to_owned()).map(|rate| rate.to_string()), Ok(shown.to_owned()));
        }
    }
}
