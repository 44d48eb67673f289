//! Rates: at most so many in any span of a length, over all runs of a group.

use std::time::Duration;

use rusqlite::params;

use super::Store;
use super::clock::{Moment, nanoseconds};
use crate::error::Result;

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// One more may pass, and has been counted.
    Granted,
    /// None may pass now; nothing was counted.
    Exhausted {
        /// How long until one may, if nobody else takes it.
        retry_after: Duration,
    },
}

/// Whole seconds for a `retry-after` header (RFC 9110, 10.2.3): rounded up, at
/// least one.
pub fn retry_seconds(retry_after: Duration) -> u64 {
    retry_after.as_nanos().div_ceil(1_000_000_000).clamp(1, u128::from(u64::MAX)) as u64
}

impl Store {
    /// Takes one of `count` that may pass in any span of length `per`, for a
    /// group and a rule.
    ///
    /// Exact over processes, and when the wall clock is set: each grant is a row
    /// with its moment, read while no one else can write. Across a reboot the
    /// wall clock is believed, but the age is never less than the uptime.
    pub fn take(&self, group: &str, rule: &str, count: u32, per: Duration) -> Result<Taken> {
        let per = nanoseconds(per);
        self.write("count a request in", |transaction| {
            // Read when the lock is held, so that the order of rows is that of time.
            let now = Moment::now(&self.boot)?;
            let mut ages = transaction
                .prepare("SELECT boot, since_boot, wall FROM take WHERE grp = ?1 AND rule = ?2")?
                .query_map(params![group, rule], |row| {
                    let at = Moment { boot: row.get(0)?, since_boot: row.get(1)?, wall: row.get(2)? };
                    Ok(now.age_of(&at))
                })?
                .collect::<rusqlite::Result<Vec<i64>>>()?;
            ages.retain(|age| *age <= per);
            ages.sort_unstable();
            // The count-th youngest has to leave the window first.
            let blocking = match usize::try_from(count).unwrap_or(usize::MAX).checked_sub(1) {
                Some(last) => ages.get(last).copied(),
                None => Some(0),
            };
            if let Some(age) = blocking {
                let left = per.saturating_sub(age).saturating_add(1).max(1);
                return Ok(Taken::Exhausted { retry_after: Duration::from_nanos(left.unsigned_abs()) });
            }
            forget(transaction, &now)?;
            transaction
                .prepare("INSERT INTO take (grp, rule, boot, since_boot, wall, per) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![group, rule, now.boot, now.since_boot, now.wall, per])?;
            Ok(Taken::Granted)
        })
    }
}

/// Removes what is older than its window, of every rule.
fn forget(transaction: &rusqlite::Transaction<'_>, now: &Moment) -> rusqlite::Result<()> {
    transaction
        .prepare("DELETE FROM take WHERE boot = ?1 AND since_boot < ?2 - per")?
        .execute(params![now.boot, now.since_boot])?;
    // Of another boot: older by the uptime alone, or by the wall clock.
    transaction
        .prepare("DELETE FROM take WHERE boot <> ?1 AND (per < ?2 OR wall < ?3 - per / 1000000 - 1)")?
        .execute(params![now.boot, now.since_boot, now.wall])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(retry_seconds(Duration::from_millis(milliseconds)), seconds);
        }
        assert_eq!(retry_seconds(Duration::MAX), u64::MAX);
    }
}
