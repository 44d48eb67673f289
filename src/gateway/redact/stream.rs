//! One stream: what is searched as it comes, and what must wait.

use hyper::body::Bytes;
use zeroize::{Zeroize, Zeroizing};

use super::Needles;

/// Redacts one stream of bytes, chunk by chunk. As many bytes come out as go
/// in; held back are only those that the next chunk may make a secret.
#[derive(Debug)]
pub struct Redactor {
    needles: Needles,
    /// The end of what was seen, as it came: where a needle may have begun.
    tail: Zeroizing<Vec<u8>>,
    /// How many bytes of it have gone on already, because they are masked
    /// whatever comes.
    gone: usize,
    count: u64,
}

impl Redactor {
    /// For a new stream.
    pub fn new(needles: Needles) -> Self {
        Self { needles, tail: Zeroizing::default(), gone: 0, count: 0 }
    }

    /// Takes the next chunk and gives what may go on now. A chunk that has
    /// nothing in it is passed on without a copy.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.needles.is_empty() || chunk.is_empty() {
            return chunk;
        }
        if self.tail.is_empty() {
            if self.needles.find(&chunk).is_empty() {
                let end = chunk.len() - self.needles.unfinished(&chunk);
                self.tail.extend_from_slice(&chunk[end..]);
                return chunk.slice(..end);
            }
        }
        let mut text = Vec::with_capacity(self.tail.len() + chunk.len());
        text.extend_from_slice(&self.tail);
        text.extend_from_slice(&chunk);
        self.advance(text)
    }

    /// The end of the stream: what was held back goes on.
    pub fn finish(&mut self) -> Bytes {
        let mut text = std::mem::take(&mut *self.tail);
        let found = self.needles.find(&text);
        self.count += found.iter().filter(|range| range.start >= self.gone).count() as u64;
        found.into_iter().for_each(|range| text[range].fill(b'*'));
        text.drain(..std::mem::take(&mut self.gone));
        text.into()
    }

    /// How many occurrences were masked; those that overlap count as one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bytes wait for what comes next.
    pub fn held(&self) -> usize {
        self.tail.len() - self.gone
    }

    /// Searches the tail and a chunk together.
    fn advance(&mut self, mut text: Vec<u8>) -> Bytes {
        let found = self.needles.find(&text);
        let keep = text.len() - self.needles.unfinished(&text);
        let mut end = keep.max(self.gone);
        let mut covered = self.gone;
        for range in &found {
            // What begins later is found again with the next chunk, and may have
            // become a part of something longer by then.
            if range.start >= end && range.start != keep {
                break;
            }
            self.count += u64::from(range.start >= covered);
            covered = covered.max(range.end);
            end = end.max(range.end);
        }
        self.tail.clear();
        self.tail.extend_from_slice(&text[keep..]);
        found.into_iter().for_each(|range| text[range].fill(b'*'));
        text[end..].zeroize();
        text.truncate(end);
        text.drain(..self.gone);
        self.gone = end - keep;
        text.into()
    }
}
