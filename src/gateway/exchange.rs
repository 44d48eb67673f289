//! One request and its answer, for the record: written when both have ended,
//! whatever way they ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyper::header::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::headers::strip_trailers;
use super::shared::Shared;
use crate::record::Entry;

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the agent to the origin.
    Out,
    /// From the origin to the agent.
    Back,
}

/// What is known of one request so far.
pub struct Exchange {
    shared: Arc<Shared>,
    begun: Instant,
    entry: Mutex<Entry>,
    out: AtomicU64,
    back: AtomicU64,
    redacted: Arc<AtomicU64>,
    /// The request's place among those that are served at once.
    _place: Option<OwnedSemaphorePermit>,
}

impl Exchange {
    /// Begins with what is known at first.
    pub fn begin(shared: &Arc<Shared>, entry: Entry, place: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            begun: Instant::now(),
            entry: Mutex::new(entry),
            out: AtomicU64::new(0),
            back: AtomicU64::new(0),
            redacted: Arc::default(),
            _place: place,
        })
    }

    /// Adds what has become known.
    pub fn note(&self, change: impl FnOnce(&mut Entry)) {
        change(&mut self.entry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// So many bytes went this way.
    pub fn passed(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::Out => &self.out,
            Direction::Back => &self.back,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Takes out of the request's trailers what its head was judged and changed for.
    pub fn strip_trailers(&self, trailers: &mut HeaderMap) {
        strip_trailers(trailers);
        let names: Vec<_> = trailers.keys().filter(|name| self.shared.secrets.concern(name)).cloned().collect();
        names.iter().for_each(|name| drop(trailers.remove(name)));
    }

    /// The body of this direction broke off.
    pub fn broke(&self, direction: Direction, error: &dyn std::fmt::Display) {
        let who = match direction {
            Direction::Out => "the agent's body",
            Direction::Back => "the origin's body",
        };
        let (text, _) = self.shared.secrets.needles().mask_text(&format!("{who} broke off: {error}"));
        self.note(|entry| {
            entry.reason.get_or_insert(text);
        });
    }

    /// Counts what was masked.
    pub fn redacted(&self) -> &Arc<AtomicU64> {
        &self.redacted
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut entry = self.entry.get_mut().unwrap_or_else(PoisonError::into_inner).clone();
        // As a person sees it from outside: what left, and what came in.
        entry.bytes_out = self.out.load(Ordering::Relaxed);
        entry.bytes_in = self.back.load(Ordering::Relaxed);
        entry.redacted = self.redacted.load(Ordering::Relaxed);
        entry.took = self.begun.elapsed();
        self.shared.record(entry);
    }
}
