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
    /// How many bytes of it have gone on already: masked, whatever comes, or
    /// let go.
    gone: usize,
    /// How many of those were let go, as they are.
    let_go: usize,
    count: u64,
}

impl Redactor {
    /// For a new stream.
    pub fn new(needles: Needles) -> Self {
        Self { needles, tail: Zeroizing::default(), gone: 0, let_go: 0, count: 0 }
    }

    /// Takes the next chunk and gives what may go on now. A chunk that has
    /// nothing in it is passed on without a copy.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.needles.is_empty() || chunk.is_empty() {
            return chunk;
        }
        if self.tail.is_empty() {
            let (found, unfinished) = self.needles.scan(&chunk);
            if found.is_empty() {
                let end = chunk.len() - unfinished;
                self.tail.extend_from_slice(&chunk[end..]);
                return chunk.slice(..end);
            }
        }
        let mut text = Vec::with_capacity(self.tail.len() + chunk.len());
        text.extend_from_slice(&self.tail);
        text.extend_from_slice(&chunk);
        self.advance(text)
    }

    /// Gives what waits, when nothing more has come for a while: a message may
    /// end like a secret begins, and its reader waits for the end. Only a tail
    /// of `most` bytes, so that a slow sender shows no more of a secret; the rest
    /// of one that follows is masked still.
    pub fn let_go(&mut self, most: usize) -> Bytes {
        if self.tail.len() > most {
            return Bytes::new();
        }
        let held = Bytes::copy_from_slice(&self.tail[self.gone..]);
        self.let_go += held.len();
        self.gone = self.tail.len();
        held
    }

    /// The end of the stream: what was held back goes on.
    pub fn finish(&mut self) -> Bytes {
        let mut text = std::mem::take(&mut *self.tail);
        let found = self.needles.find(&text);
        self.count += found.iter().filter(|range| range.start >= self.gone - self.let_go).count() as u64;
        self.let_go = 0;
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
        let (found, unfinished) = self.needles.scan(&text);
        let keep = text.len() - unfinished;
        let mut end = keep.max(self.gone);
        let mut covered = self.gone - self.let_go;
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
        // Of a tail that still begins as it did; another one was not let go.
        self.let_go = if keep == 0 { self.let_go } else { 0 };
        text.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::SHORTEST;
    use super::super::needles::tests::{Numbers, reference};
    use super::*;

    const VALUE: &str = "hunter2-canary";

    fn redactor() -> Redactor {
        Redactor::new(Needles::new([VALUE.as_bytes()].into_iter()))
    }

    #[test]
    fn any_chunks_give_what_the_reference_gives_and_no_more_waits_than_must() {
        let mut numbers = Numbers(0xdead_beef_0bad_cafe);
        for _ in 0..6000 {
            let kinds = 1 + numbers.below(3);
            let values: Vec<_> = (0..1 + numbers.below(5))
                .map(|_| {
                    let spread = [60, 4, 4, 4][numbers.below(4)];
                    let length = SHORTEST + numbers.below(spread);
                    numbers.letters(length, kinds)
                })
                .collect();
            let mut text = numbers.letters(numbers.0 as usize % 150, kinds);
            for value in &values {
                let at = numbers.below(text.len() + 1);
                text.splice(at..at, value.iter().copied());
            }
            let needles = Needles::exactly(&values);
            let mut redactor = Redactor::new(needles.clone());
            let (mut out, mut seen) = (Vec::new(), 0);
            while seen < text.len() {
                let end = text.len().min(seen + 1 + numbers.below(20));
                out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(&text[seen..end])));
                seen = end;
                assert!(redactor.held() <= needles.scan(&text[..seen]).1);
                assert_eq!(out.len() + redactor.held(), seen);
            }
            out.extend_from_slice(&redactor.finish());
            let (expected, count) = reference(&values, &text);
            assert!(out == expected, "{values:?}\n{text:?}\n{out:?}");
            assert_eq!(redactor.count(), count, "{values:?}\n{text:?}");
        }
    }

    #[test]
    fn every_border_of_two_chunks() {
        let text = format!("GET /?key={VALUE} and more");
        for border in 0..=text.len() {
            let mut redactor = redactor();
            let mut out = redactor.push(Bytes::copy_from_slice(&text.as_bytes()[..border])).to_vec();
            out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(&text.as_bytes()[border..])));
            out.extend_from_slice(&redactor.finish());
            assert_eq!(String::from_utf8(out).unwrap(), "GET /?key=************** and more");
            assert_eq!(redactor.count(), 1);
        }
    }

    #[test]
    fn what_ends_in_no_beginning_goes_on_at_once_and_uncopied() {
        let mut redactor = redactor();
        let chunk = Bytes::from_static(b"data: {\"delta\": \"nothing\"}\n\n");
        let out = redactor.push(chunk.clone());
        assert_eq!(out.as_ptr(), chunk.as_ptr());
        assert_eq!((out.len(), redactor.held()), (chunk.len(), 0));
    }

    #[test]
    fn only_a_beginning_waits_and_it_comes_at_the_end() {
        let mut redactor = redactor();
        assert_eq!(redactor.push(Bytes::from_static(b"the hunter2")), "the ");
        assert_eq!(redactor.held(), 7);
        assert_eq!(redactor.push(Bytes::from_static(b"-")), "");
        assert_eq!(redactor.push(Bytes::from_static(b" hunt")), "hunter2- ");
        assert_eq!(redactor.finish(), "hunt");
        assert_eq!((redactor.held(), redactor.count()), (0, 0));
    }

    #[test]
    fn what_is_masked_whatever_comes_does_not_wait() {
        let values = [b"abcdef".to_vec(), b"abcdefghijkl".to_vec()];
        let mut redactor = Redactor::new(Needles::exactly(&values));
        assert_eq!(redactor.push(Bytes::from_static(b"-abcdef")), "-******");
        assert_eq!(redactor.push(Bytes::from_static(b"ghij")), "");
        assert_eq!(redactor.push(Bytes::from_static(b"kl.")), "******.");
        assert_eq!(redactor.count(), 1);
    }

    #[test]
    fn a_short_end_can_be_let_go_and_the_rest_of_a_secret_is_masked_still() {
        let mut redactor = redactor();
        assert_eq!(redactor.push(Bytes::from_static(b"yes h")), "yes ");
        assert_eq!((redactor.let_go(4), redactor.held()), (Bytes::from_static(b"h"), 0));
        assert_eq!(redactor.let_go(4), "");
        assert_eq!(redactor.push(Bytes::from_static(b"unter2")), "");
        assert_eq!(redactor.let_go(4), "", "no more of it");
        assert_eq!(redactor.push(Bytes::from_static(b"-canary!")), "*************!");
        assert_eq!(redactor.count(), 1);
        assert_eq!(redactor.push(Bytes::from_static(b"hu")), "");
        assert_eq!(redactor.let_go(4), "hu");
        assert_eq!(redactor.push(Bytes::from_static(b"man")), "man");
        assert_eq!(redactor.finish(), "");
    }

    #[test]
    fn without_secrets_all_passes() {
        let mut redactor = Redactor::new(Needles::default());
        assert_eq!(redactor.push(Bytes::from_static(b"text")), "text");
        assert_eq!(redactor.finish(), "");
    }
}
