//! Patterns of hosts: which hosts a rule or a secret is for.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::{Host, Problem};

/// Which hosts a rule or a secret is for. Compared by label, never by
/// substring.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum HostPattern {
    /// `*`: every host, addresses too.
    Any,
    /// `*.example`: names with one or more labels below, not `example` itself.
    Below(String),
    /// This host.
    Exact(Host),
}

impl HostPattern {
    /// Reads `*`, `*.example`, a name or an address.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if text == "*" {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(parent) => match Host::name_or_v4(parent)? {
                Host::Name(parent) => Ok(Self::Below(parent)),
                _ => Err(Problem::new("`*.` goes before a name, not before an address")),
            },
            None => Ok(Self::Exact(Host::parse(text)?)),
        }
    }

    /// Whether the pattern is for this host. An IPv4 address is also found in
    /// its mapped IPv6 form: a connection to either goes to the same place.
    pub fn matches(&self, host: &Host) -> bool {
        match self {
            Self::Any => true,
            Self::Below(parent) => matches!(host, Host::Name(name) if is_below(name, parent)),
            Self::Exact(exact) => {
                let canonical = |host: &Host| host.ip().map(|ip| ip.to_canonical());
                exact == host || (exact.ip().is_some() && canonical(exact) == canonical(host))
            }
        }
    }

    /// Whether each host of `other` is one of this pattern.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (Self::Below(parent), Self::Below(child)) => parent == child || is_below(child, parent),
            (_, Self::Exact(host)) => self.matches(host),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }

    /// Whether there is a host that both patterns are for.
    pub fn overlaps(&self, other: &Self) -> bool {
        // By label, patterns are nested or apart.
        self.includes(other) || other.includes(self)
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).and_then(|front| front.strip_suffix('.')).is_some_and(|front| !front.is_empty())
}

impl TryFrom<String> for HostPattern {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text).map_err(|problem| {
            let shown = crate::error::printable(&text);
            Problem(format!("`{shown}` is no host: {problem}"))
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => out.write_str("*"),
            Self::Below(parent) => write!(out, "*.{parent}"),
            Self::Exact(host) => write!(out, "{host}"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patterns_go_by_label() {
        for (pattern, yes, no) in [
            (
                "api.example",
                vec!["api.example", "API.example."],
                vec!["xapi.example", "a.api.example", "api.example.org"],
            ),
            (
                "*.example",
                vec!["a.example", "b.a.example"],
                vec!["example", "badexample", "a.example.org", "192.0.2.1"],
            ),
            ("*", vec!["a", "192.0.2.1", "::1"], vec![]),
            ("192.0.2.1", vec!["192.0.2.1", "::ffff:192.0.2.1"], vec!["192.0.2.10", "::ffff:192.0.2.2"]),
            ("[2001:db8::1]", vec!["2001:db8:0::1"], vec!["2001:db8::2", "192.0.2.1"]),
            ("*.Sub.Example.", vec!["x.sub.example"], vec!["sub.example", "xsub.example"]),
        ] {
            let parsed = HostPattern::parse(pattern).unwrap();
            for host in yes {
                assert!(parsed.matches(&Host::parse(host).unwrap()), "{pattern} {host}");
            }
            for host in no {
                assert!(!parsed.matches(&Host::parse(host).unwrap()), "{pattern} {host}");
            }
        }
        for text in [
            "",
            "*.",
            "**",
            "*.*",
            "*.*.example",
            "*example",
            "a.*",
            "a*.example",
            "*.192.0.2.1",
            "*.1",
            "a:443",
            "https://a",
            "a/",
            "bücher",
            "*.bücher",
            "*.[::1]",
            "*.::1",
            "a b",
            "*..a",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
        assert!(HostPattern::parse("bücher.example").unwrap_err().0.contains("xn--"));
    }

    #[test]
    fn inclusion() {
        let p = |text| HostPattern::parse(text).unwrap();
        for (one, other, includes) in [
            ("*", "*", true),
            ("*", "*.a", true),
            ("*.a", "*", false),
            ("*.a", "*.b.a", true),
            ("*.b.a", "*.a", false),
            ("*.a", "*.ba", false),
            ("*.a", "b.a", true),
            ("*.a", "a", false),
            ("a", "a", true),
            ("a", "*.a", false),
        ] {
            assert_eq!(p(one).includes(&p(other)), includes, "{one} {other}");
        }
        assert!(p("*.a").overlaps(&p("c.b.a")) && !p("*.a").overlaps(&p("*.b")));
    }
}
