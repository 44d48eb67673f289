//! What was measured, as JSON.

use std::time::Duration;

use serde::Serialize;

/// Times of many of the same, in milliseconds, and how many a second.
#[derive(Serialize)]
pub struct Figures {
    /// With those that came too early or too late to be counted.
    all: usize,
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Figures {
    /// Of `times`, taken within `whole`, out of `all` that were made.
    pub fn of(mut times: Vec<Duration>, whole: Duration, all: usize) -> Self {
        times.sort_unstable();
        let at = |part: f64| {
            let place = (times.len() as f64 * part) as usize;
            times.get(place.min(times.len().saturating_sub(1))).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
        };
        Self { all, per_second: times.len() as f64 / whole.as_secs_f64(), p50: at(0.50), p99: at(0.99) }
    }
}
