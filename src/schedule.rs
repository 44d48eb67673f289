//! When a task is due: cron with a time zone (croner), an interval without drift,
//! or once. Pure: what the time is, the caller says.

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};

/// Shortest interval, in milliseconds.
const SHORTEST: i64 = 100;
/// Longest interval, in milliseconds: ten years.
const LONGEST: i64 = 10 * 366 * 24 * 60 * 60 * 1000;
/// Longest text of a schedule, in bytes.
const LONGEST_TEXT: usize = 256;

/// What kind of schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Five fields, or six with seconds first; or `@daily` and its kin.
    Cron,
    /// So many milliseconds after the time before, whenever that run ended.
    Interval,
    /// At one time.
    Once,
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cron => "cron",
            Self::Interval => "interval",
            Self::Once => "once",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Cron, Self::Interval, Self::Once].into_iter().find(|kind| kind.name() == name)
    }
}

/// When a task is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What kind.
    pub kind: Kind,
    /// As it was written; an interval in milliseconds.
    pub value: String,
    /// The time zone's name (IANA), in which cron's fields and local times are.
    pub zone: String,
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    Cron(Box<Cron>, TimeZone),
    Interval(i64),
    Once(i64),
}

/// The host's own time zone, by name; UTC where it has none.
pub fn host_zone() -> String {
    TimeZone::system().iana_name().unwrap_or("UTC").to_owned()
}

impl Schedule {
    /// Understands what was written.
    pub fn parse(kind: Kind, value: &str, zone: &str) -> Result<Self> {
        let refused = |why: String, hint: &str| {
            let shown = printable(value.get(..64).unwrap_or(value));
            Error::refused(format!("the schedule `{} {shown}` is not understood", kind.name())).because(why).hint(hint)
        };
        if value.len() > LONGEST_TEXT {
            return Err(refused(format!("it is longer than {LONGEST_TEXT} bytes"), "cron: five fields"));
        }
        let time_zone = TimeZone::get(zone).map_err(|error| {
            Error::refused(format!("there is no time zone `{}`", printable(zone)))
                .because(error)
                .hint("for example Europe/Berlin; timedatectl list-timezones")
        })?;
        let value = value.trim();
        let rule = match kind {
            Kind::Cron => {
                let parser = CronParser::builder().seconds(Seconds::Optional).build();
                let cron = parser
                    .parse(value)
                    .map_err(|error| refused(error.to_string(), "for example `0 9 * * 1-5`: at nine on workdays"))?;
                Rule::Cron(Box::new(cron), time_zone)
            }
            Kind::Interval => {
                let milliseconds = match value.parse::<i64>() {
                    Ok(number) => number,
                    Err(_) => crate::plan::parse_duration(value)
                        .ok()
                        .and_then(|time| i64::try_from(time.as_millis()).ok())
                        .ok_or_else(|| refused("it is no time".to_owned(), "milliseconds, or for example 10m"))?,
                };
                if !(SHORTEST..=LONGEST).contains(&milliseconds) {
                    let why = format!("an interval has {SHORTEST} to {LONGEST} milliseconds");
                    return Err(refused(why, "milliseconds, or for example 10m"));
                }
                Rule::Interval(milliseconds)
            }
            Kind::Once => {
                let at = match value.parse::<Timestamp>() {
                    Ok(at) => at,
                    Err(_) => value
                        .parse::<DateTime>()
                        .and_then(|local| local.to_zoned(time_zone))
                        .map_err(|error| refused(error.to_string(), "for example 2027-02-01T15:30:00"))?
                        .timestamp(),
                };
                Rule::Once(at.as_millisecond())
            }
        };
        let value = match rule {
            Rule::Interval(milliseconds) => milliseconds.to_string(),
            _ => value.to_owned(),
        };
        Ok(Self { kind, value, zone: zone.to_owned(), rule })
    }

    /// The first time that it is due, from `now` on; all in milliseconds since 1970.
    pub fn first(&self, now: i64) -> Result<i64> {
        let next = match &self.rule {
            Rule::Once(at) => Some(*at),
            _ => self.after(now, now),
        };
        next.ok_or_else(|| {
            Error::refused(format!("the schedule `{} {}` is never due", self.kind.name(), printable(&self.value)))
                .hint("for example `0 9 * * 1-5`: at nine on workdays")
        })
    }

    /// The next time after `now`, where it was due at `due` before: intervals are
    /// counted from there, so that they do not drift, and what was missed in between
    /// is left out.
    pub fn after(&self, due: i64, now: i64) -> Option<i64> {
        match &self.rule {
            Rule::Once(_) => None,
            Rule::Interval(length) => {
                let missed = (now.saturating_sub(due)).max(0) / length;
                due.checked_add(length.checked_mul(missed + 1)?)
            }
            Rule::Cron(cron, zone) => {
                let now = Timestamp::from_millisecond(now).ok()?;
                let next = cron.find_next_occurrence(&Zoned::new(now, zone.clone()), false).ok()?;
                Some(next.timestamp().as_millisecond())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a time").as_millisecond()
    }

    fn all(kind: Kind, value: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(kind, value, "Europe/Berlin").expect("a schedule");
        let mut now = at(from);
        let mut times = Vec::new();
        for _ in 0..count {
            let Some(next) = schedule.after(now, now) else { break };
            times.push(Timestamp::from_millisecond(next).expect("a time").to_string());
            now = next;
        }
        times
    }

    #[test]
    fn a_daily_time_that_summer_takes_away_is_moved_and_one_that_comes_twice_is_due_once() {
        // In Berlin the clock goes from 02:00 to 03:00 on 2027-03-28, and back at 03:00 on 2027-10-31.
        let spring = all(Kind::Cron, "30 2 * * *", "2027-03-26T12:00:00Z", 3);
        assert_eq!(spring[0], "2027-03-27T01:30:00Z");
        assert!(spring[1].starts_with("2027-03-28T01:"), "{spring:?}");
        assert_eq!(spring[2], "2027-03-29T00:30:00Z");
        let autumn = all(Kind::Cron, "30 2 * * *", "2027-10-30T12:00:00Z", 2);
        assert_eq!(autumn, ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]);
    }

    #[test]
    fn every_half_hour_is_every_half_hour_also_when_the_clock_is_set() {
        for (from, count) in [("2027-10-30T23:45:00Z", 8), ("2027-03-27T23:45:00Z", 8)] {
            let times = all(Kind::Cron, "*/30 * * * *", from, count);
            let steps: Vec<i64> = times.windows(2).map(|pair| at(&pair[1]) - at(&pair[0])).collect();
            assert!(steps.iter().all(|step| *step == 30 * 60 * 1000), "{times:?}");
        }
    }

    #[test]
    fn an_interval_does_not_drift_and_leaves_out_what_was_missed() {
        let schedule = Schedule::parse(Kind::Interval, "10m", "UTC").expect("a schedule");
        assert_eq!(schedule.value, "600000");
        assert_eq!(schedule.first(1000).expect("due"), 601_000);
        assert_eq!(schedule.after(600_000, 600_050), Some(1_200_000));
        assert_eq!(schedule.after(600_000, 3_000_001), Some(3_600_000));
        assert_eq!(schedule.after(600_000, 1_200_000), Some(1_800_000));
    }

    #[test]
    fn once_is_a_moment_or_a_local_time() {
        for (text, moment) in [
            ("2027-02-01T15:30:00", "2027-02-01T14:30:00Z"),
            ("2027-02-01T15:30", "2027-02-01T14:30:00Z"),
            ("2027-02-01T15:30:00Z", "2027-02-01T15:30:00Z"),
            ("2027-02-01T15:30:00+05:00", "2027-02-01T10:30:00Z"),
        ] {
            let schedule = Schedule::parse(Kind::Once, text, "Europe/Berlin").expect(text);
            assert_eq!((schedule.first(0).expect("due"), schedule.after(0, 0)), (at(moment), None), "{text}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_and_what_is_never_due_too() {
        for (kind, value) in [
            (Kind::Cron, "99 * * * *"),
            (Kind::Cron, ""),
            (Kind::Cron, "* * *"),
            (Kind::Interval, "0"),
            (Kind::Interval, "-5"),
            (Kind::Interval, "soon"),
            (Kind::Interval, "9223372036854775807"),
            (Kind::Once, "tomorrow"),
            (Kind::Once, "2027-13-01T00:00:00"),
        ] {
            assert!(Schedule::parse(kind, value, "UTC").is_err(), "{value}");
        }
        assert!(Schedule::parse(Kind::Cron, "0 0 * * *", "Mars/Olympus").is_err());
        let never = Schedule::parse(Kind::Cron, "0 0 30 2 *", "UTC").expect("it can be written");
        assert!(never.first(0).is_err());
    }
}
