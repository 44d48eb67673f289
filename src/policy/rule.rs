//! What a rule of `policy.toml` is made of.

use std::fmt;
use std::time::Duration;

use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize, Serializer};

use super::{HostPattern, PathPattern, Problem};
use crate::plan::parse_duration;

/// The rule by which a person is asked for access to a host or for a secret: none of
/// policy.toml has its name.
pub const ACCESS_RULE: &str = "request_access";

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It goes on.
    Allow,
    /// It is refused.
    Deny,
    /// It waits for a person.
    Approve,
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Approve => "approve",
        })
    }
}

/// What happens to a request that no rule is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultAction {
    /// It goes on.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

impl From<DefaultAction> for Action {
    fn from(default: DefaultAction) -> Self {
        match default {
            DefaultAction::Allow => Self::Allow,
            DefaultAction::Deny => Self::Deny,
        }
    }
}

/// Whose requests a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupSet {
    /// Every group's.
    All,
    /// These groups'; at least one.
    Named(Vec<String>),
}

impl GroupSet {
    /// Whether the group is one of them.
    pub fn contains(&self, group: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name == group),
        }
    }

    /// Whether each group of `other` is one of these.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Named(_), Self::All) => false,
            (_, Self::Named(names)) => names.iter().all(|name| self.contains(name)),
        }
    }

    /// Whether a group is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => true,
            (_, Self::Named(names)) => names.iter().any(|name| self.contains(name)),
        }
    }
}

impl fmt::Display for GroupSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => out.write_str("all"),
            Self::Named(names) => out.write_str(&names.join(",")),
        }
    }
}

impl Serialize for GroupSet {
    /// A list of names; `null` for all groups.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => to.serialize_none(),
            Self::Named(names) => names.serialize(to),
        }
    }
}

const LONGEST_METHOD: usize = 32;

/// Refuses methods that are no upper-case token. Methods are case-sensitive
/// (RFC 9110, 9.1), but some origins take `post` for `POST`, and so would pass
/// by a rule.
pub fn check_method(method: &str) -> Result<(), Problem> {
    let rest = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let good = method.starts_with(|c: char| c.is_ascii_uppercase())
        && method.len() <= LONGEST_METHOD
        && method.bytes().all(rest);
    if good {
        return Ok(());
    }
    let shown: String = method.chars().take(LONGEST_METHOD).collect();
    Err(Problem(format!(
        "`{}` is no method: a method has upper-case letters, digits, - and _, at most {LONGEST_METHOD}",
        crate::error::printable(&shown)
    )))
}

/// A method in a rule; upper case, however it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Method(pub String);

impl TryFrom<String> for Method {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        let upper = text.to_ascii_uppercase();
        check_method(&upper)?;
        if upper == "CONNECT" {
            return Err(Problem::new(
                "CONNECT is not judged: what is asked for inside a tunnel is; for another protocol write [[tcp]]",
            ));
        }
        Ok(Self(upper))
    }
}

/// How many requests in how much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate {
    /// So many; at least 1.
    pub count: u32,
    /// In any window of this length; 1 s to 31 days.
    pub per: Duration,
}

const UNITS: [(&str, u64); 4] = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400)];
const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 86_400);

impl TryFrom<String> for Rate {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        let shown = crate::error::printable(&text);
        let problem = |why: &str| Problem(format!("`{shown}` is no rate: {why}; write for example 10/minute or 3/30s"));
        let (count, per) = text.split_once('/').ok_or_else(|| problem("there is no `/`"))?;
        if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(problem("a whole number stands before the `/`"));
        }
        let count: u32 = count.parse().map_err(|_| problem("the number is too large"))?;
        if count == 0 {
            return Err(problem("0 would refuse all; action = \"deny\" does that"));
        }
        let unit = UNITS.iter().find(|(unit, _)| *unit == per).map(|(_, seconds)| Duration::from_secs(*seconds));
        let timed = || per.bytes().any(|b| b.is_ascii_alphabetic()).then(|| parse_duration(per).ok()).flatten();
        let per = unit.or_else(timed).ok_or_else(|| problem("second, minute, hour, day or a time follows the `/`"))?;
        if per < Duration::from_secs(1) || per > LONGEST_WINDOW {
            return Err(problem("the time is from 1 second to 31 days"));
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == self.per) {
            Some((unit, _)) => write!(out, "{}/{unit}", self.count),
            None => write!(out, "{}/{}", self.count, humantime::format_duration(self.per)),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A time of day, local; may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Window {
    /// Minutes after midnight; belongs to it.
    from: u16,
    /// Minutes after midnight; no longer belongs to it.
    to: u16,
}

impl Window {
    /// Whether the local time of day lies in it.
    pub fn contains(&self, now: &Zoned) -> bool {
        self.contains_minute(u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs()))
    }

    /// Where it begins and ends, in minutes after midnight.
    pub fn borders(&self) -> [u16; 2] {
        [self.from, self.to]
    }

    /// Whether this minute after midnight lies in it.
    pub fn contains_minute(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl TryFrom<String> for Window {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        let shown = crate::error::printable(&text);
        let problem = |why: &str| Problem(format!("`{shown}` is no time of day: {why}; write for example 08:00-20:00"));
        let (from, to) = text.split_once('-').ok_or_else(|| problem("there is no `-`"))?;
        let read = |text: &str| minutes(text).ok_or_else(|| problem("each time is HH:MM"));
        let (from, to) = (read(from)?, if to == "24:00" { 0 } else { read(to)? });
        if from == to {
            return Err(problem(
                "begin and end are the same, the whole day or no time at all; leave `between` out for the whole day",
            ));
        }
        Ok(Self { from, to })
    }
}

fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, below: u16| -> Option<u16> {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|number| digits && *number < below)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

impl fmt::Display for Window {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(out, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A `[[rule]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name; no two are alike.
    pub name: String,
    /// Where it stands in the file, from 1.
    pub line: usize,
    /// Whose requests.
    pub groups: GroupSet,
    /// To which hosts.
    pub host: HostPattern,
    /// With which methods; `None` for all.
    pub methods: Option<Vec<Method>>,
    /// To which paths.
    pub path: PathPattern,
    /// What happens.
    pub action: Action,
    /// How often, over all runs of a group.
    pub rate: Option<Rate>,
    /// At which time of day; at other times the rule is skipped.
    pub between: Option<Window>,
    /// From then on the rule is skipped.
    pub until: Option<Timestamp>,
}

impl Rule {
    /// Whether the rule holds at this time.
    pub fn in_force(&self, now: &Zoned) -> bool {
        self.until.is_none_or(|until| now.timestamp() < until) && self.between.is_none_or(|window| window.contains(now))
    }

    /// Whether the rule is for this method.
    pub fn has_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|Method(one)| one == method))
    }
}

/// An `[[allow_private]]`: a place that may be dialled although its address is
/// not public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AllowPrivate {
    /// Where it stands in the file, from 1.
    pub line: usize,
    /// The host as it is asked for.
    pub host: HostPattern,
    /// The port.
    pub port: u16,
}

/// A `[[tcp]]`: a raw tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TcpRule {
    /// Where it stands in the file, from 1.
    pub line: usize,
    /// To which hosts.
    pub host: HostPattern,
    /// To which port.
    pub port: u16,
    /// For whom.
    pub groups: GroupSet,
}
