//! How long each step of a run took: for `--verbose`, the receipt, the bench.

use std::time::Instant;

/// The steps so far.
#[derive(Debug)]
pub struct Steps {
    last: Instant,
    done: Vec<(String, f64)>,
}

impl Steps {
    /// The first step begins now.
    pub fn begin() -> Self {
        Self { last: Instant::now(), done: Vec::new() }
    }

    /// The step of this name ends now, and the next one begins.
    pub fn end(&mut self, name: &str) {
        let now = Instant::now();
        self.done.push((name.to_owned(), now.duration_since(self.last).as_secs_f64() * 1000.0));
        self.last = now;
    }

    /// Name and milliseconds of each, in order.
    pub fn into_list(self) -> Vec<(String, f64)> {
        self.done
    }
}
