//! When something happened, told by a clock that nobody can set.
//!
//! The wall clock can be set back, which would stretch a grant or a window.
//! `CLOCK_BOOTTIME` (clock_gettime(2)) only goes forward, counts suspended time
//! too, and is the same for every process; it means something within one boot,
//! so each moment names its boot.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::error::{Context, Result};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// Which boot of which machine (random(4): boot_id).
    pub boot: String,
    /// Nanoseconds since that boot.
    pub since_boot: i64,
    /// Milliseconds since 1970, UTC, as the wall clock said.
    pub wall: i64,
}

/// The boot that this process lives in.
pub(super) fn boot() -> Result<String> {
    let text = fs::read_to_string(BOOT_ID).step(|| format!("read {BOOT_ID}"))?;
    Ok(text.trim().to_owned())
}

impl Moment {
    /// Now, in the boot of that id.
    pub fn now(boot: &str) -> Result<Self> {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).step(|| "read CLOCK_BOOTTIME".to_owned())?;
        let since_boot = nanoseconds(Duration::from(time));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { boot: boot.to_owned(), since_boot, wall: milliseconds(wall) })
    }

    /// What passed since an earlier moment, in nanoseconds; at least so much
    /// when that moment is of another boot.
    ///
    /// Then only the wall clock knows, and it may have been set back since. But
    /// another boot ended before this one began.
    pub fn age_of(&self, earlier: &Moment) -> i64 {
        if self.boot == earlier.boot {
            return self.since_boot - earlier.since_boot;
        }
        let by_wall = self.wall.saturating_sub(earlier.wall).saturating_mul(1_000_000);
        by_wall.max(self.since_boot)
    }

    /// The moment that far ahead.
    pub fn plus(&self, time: Duration) -> Moment {
        Self {
            boot: self.boot.clone(),
            since_boot: self.since_boot.saturating_add(nanoseconds(time)),
            wall: self.wall.saturating_add(milliseconds(time)),
        }
    }

    /// What is left until a deadline; none when it has passed, or was set in
    /// another boot: what was promised then does not outlive the machine's going
    /// down.
    pub fn left_until(&self, deadline: &Moment) -> Option<Duration> {
        let left = deadline.since_boot.saturating_sub(self.since_boot);
        (self.boot == deadline.boot && left > 0).then(|| Duration::from_nanos(left.unsigned_abs()))
    }
}

/// Milliseconds since 1970, UTC, by the wall clock.
pub fn wall_now() -> i64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A span in nanoseconds; three hundred years when it is longer.
pub(super) fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A wall time as RFC 3339, UTC.
pub fn rfc3339(milliseconds: i64) -> String {
    // Year 9999 is the last that the form can say.
    let time = Duration::from_millis(milliseconds.clamp(0, 253_402_300_799_000).unsigned_abs());
    humantime::format_rfc3339_millis(UNIX_EPOCH + time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: &str, since_boot: i64, wall: i64) -> Moment {
        Moment { boot: boot.to_owned(), since_boot, wall }
    }

    #[test]
    fn the_wall_clock_does_not_matter_within_a_boot() {
        let earlier = moment("a", 1_000, 9_000_000);
        assert_eq!(moment("a", 5_000, 0).age_of(&earlier), 4_000);
        assert_eq!(moment("a", 5_000, i64::MAX).age_of(&earlier), 4_000);
    }

    #[test]
    fn across_boots_it_is_believed_but_not_below_the_uptime() {
        let earlier = moment("a", 1_000, 60_000);
        assert_eq!(moment("b", 5, 61_000).age_of(&earlier), 1_000_000_000);
        // Set back while the machine was down.
        assert_eq!(moment("b", 700, 1_000).age_of(&earlier), 700);
        assert_eq!(moment("b", 700, i64::MAX).age_of(&moment("a", 0, -1)), i64::MAX);
    }

    #[test]
    fn deadlines_end_with_the_boot() {
        let deadline = moment("a", 0, 0).plus(Duration::from_secs(1));
        assert_eq!(moment("a", 400_000_000, 77).left_until(&deadline), Some(Duration::from_millis(600)));
        assert_eq!(moment("a", 1_000_000_000, 0).left_until(&deadline), None);
        assert_eq!(moment("b", 0, 0).left_until(&deadline), None);
        assert!(moment("a", 5, 5).plus(Duration::MAX).since_boot > 0);
    }
}
