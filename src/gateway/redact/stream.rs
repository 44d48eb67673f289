//! One stream: what is searched as it comes, and what must wait.

use std::ops::Range;

use hyper::body::Bytes;
use zeroize::{Zeroize, Zeroizing};

use super::Needles;

/// Redacts one stream of bytes, chunk by chunk. As many bytes come out as go
/// in; what is held back for the next chunk does not depend on the secrets.
#[derive(Debug)]
pub struct Redactor {
    needles: Needles,
    /// The end of what was seen, as it came: what waits, and what went on
    /// already when nothing came for a while.
    tail: Zeroizing<Vec<u8>>,
    /// How many bytes of it have gone on.
    gone: usize,
    /// How many bytes of it belong to an occurrence that began before it.
    masked: usize,
    count: u64,
}

impl Redactor {
    /// For a new stream.
    pub fn new(needles: Needles) -> Self {
        Self { needles, tail: Zeroizing::default(), gone: 0, masked: 0, count: 0 }
    }

    /// Takes the next chunk and gives what may go on now. A chunk that has
    /// nothing in it is passed on without a copy.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.needles.is_empty() || chunk.is_empty() {
            return chunk;
        }
        if self.tail.is_empty() && self.needles.find(&chunk).is_empty() {
            let end = chunk.len() - self.needles.hold(&chunk);
            self.tail.extend_from_slice(&chunk[end..]);
            return chunk.slice(..end);
        }
        let mut text = Vec::with_capacity(self.tail.len() + chunk.len());
        text.extend_from_slice(&self.tail);
        text.extend_from_slice(&chunk);
        let keep = text.len() - self.needles.hold(&text);
        self.advance(text, keep)
    }

    /// Gives what waits, when nothing more has come for a while: its reader may
    /// wait for it. The rest of an occurrence that it begins is masked still.
    pub fn let_go(&mut self) -> Bytes {
        let mut text = self.tail.to_vec();
        self.mask(&mut text);
        text.drain(..self.gone);
        self.gone = self.tail.len();
        text.into()
    }

    /// The end of the stream, or of a part of it over which no secret is cut:
    /// what was held back goes on.
    pub fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut *self.tail);
        let end = text.len();
        self.advance(text, end)
    }

    /// How many occurrences were masked; those that overlap count as one. Each
    /// counts when none of its beginning waits any more.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bytes wait for what comes next.
    pub fn held(&self) -> usize {
        self.tail.len() - self.gone
    }

    /// Whether what waits is whole lines.
    pub fn waits_after_a_line(&self) -> bool {
        self.tail.ends_with(b"\n")
    }

    /// Overwrites what is to be masked in `text`, which begins with the tail;
    /// where.
    fn mask(&self, text: &mut [u8]) -> Vec<Range<usize>> {
        let found = self.needles.find(text);
        text[..self.masked].fill(b'*');
        found.iter().for_each(|range| text[range.clone()].fill(b'*'));
        found
    }

    /// Passes `text`, which begins with the tail, on up to `keep`.
    fn advance(&mut self, mut text: Vec<u8>, keep: usize) -> Bytes {
        let tail = Zeroizing::new(text[keep..].to_vec());
        let mut covered = self.masked;
        for range in self.mask(&mut text) {
            // What begins later is found again with the next chunk.
            if range.start < keep {
                self.count += u64::from(range.start >= covered);
                covered = covered.max(range.end);
            }
        }
        self.tail = tail;
        self.masked = covered.saturating_sub(keep);
        text[keep..].zeroize();
        text.truncate(keep);
        text.drain(..self.gone.min(keep));
        self.gone = self.gone.saturating_sub(keep);
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
                assert!(redactor.held() <= needles.hold(&text[..seen]));
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
    fn what_ends_in_white_space_goes_on_at_once_and_uncopied() {
        let mut redactor = redactor();
        let chunk = Bytes::from_static(b"data: {\"delta\": \"nothing\"}\n\n");
        let out = redactor.push(chunk.clone());
        assert_eq!(out.as_ptr(), chunk.as_ptr());
        assert_eq!((out.len(), redactor.held()), (chunk.len(), 0));
    }

    #[test]
    fn a_word_waits_whatever_it_is() {
        let mut redactor = redactor();
        assert_eq!(redactor.push(Bytes::from_static(b"the hunter2")), "the ");
        assert_eq!(redactor.push(Bytes::from_static(b"-")), "");
        assert_eq!(redactor.held(), 8);
        assert_eq!(redactor.push(Bytes::from_static(b" nothing")), "hunter2- ");
        assert_eq!(redactor.finish(), "nothing");
        assert_eq!((redactor.held(), redactor.count()), (0, 0));
    }

    /// Guesses that end where a piece ends, as an agent can have them echoed.
    #[test]
    fn sizes_say_nothing_of_the_secret() {
        let mut numbers = Numbers(0x5eed_0f5e_ed0f_5eed);
        let other = Redactor::new(Needles::new([&b"another-canary"[..]].into_iter()));
        for length in 0..VALUE.len() {
            for form in
                [VALUE[..length].to_owned(), VALUE[..length].replace('e', "\\u0065"), format!("{}\n", &VALUE[..length])]
            {
                let text =
                    [numbers.letters(40, 3), b" pad".to_vec(), form.into_bytes(), b"x and more".to_vec()].concat();
                let (mut one, mut two) = (redactor(), Redactor::new(other.needles.clone()));
                for piece in text.chunks(1 + numbers.below(50)) {
                    let piece = Bytes::copy_from_slice(piece);
                    assert_eq!(one.push(piece.clone()).len(), two.push(piece).len(), "{text:?}");
                    if numbers.below(3) == 0 {
                        assert_eq!(one.waits_after_a_line(), two.waits_after_a_line());
                        assert_eq!(one.let_go().len(), two.let_go().len());
                    }
                }
                assert_eq!(one.finish(), two.finish());
                assert_eq!(one.count(), 0);
            }
        }
    }

    #[test]
    fn overlapping_secrets_count_once_wherever_the_text_is_cut() {
        let values = [b"abcdef".to_vec(), b"abcdefghijkl".to_vec(), b"klmnop".to_vec()];
        let text = "-abcdefghijklmnop, abcdef.";
        for border in 0..=text.len() {
            let mut redactor = Redactor::new(Needles::exactly(&values));
            let mut out = redactor.push(Bytes::copy_from_slice(&text.as_bytes()[..border])).to_vec();
            out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(&text.as_bytes()[border..])));
            out.extend_from_slice(&redactor.finish());
            assert_eq!(String::from_utf8(out).unwrap(), "-****************, ******.");
            assert_eq!(redactor.count(), 2);
        }
    }

    #[test]
    fn what_waits_can_be_let_go_and_the_rest_of_a_secret_is_masked_still() {
        let mut redactor = redactor();
        assert_eq!(redactor.push(Bytes::from_static(b"yes h")), "yes ");
        assert_eq!((redactor.let_go(), redactor.held()), (Bytes::from_static(b"h"), 0));
        assert_eq!(redactor.let_go(), "");
        assert_eq!(redactor.push(Bytes::from_static(b"unter2")), "");
        assert_eq!(redactor.push(Bytes::from_static(b"-canary! ")), "*************! ");
        assert_eq!(redactor.count(), 1);
        assert_eq!(redactor.push(Bytes::from_static(b"hunter2-canary")), "");
        assert_eq!(redactor.let_go(), "**************", "a whole one is masked");
        assert_eq!(redactor.push(Bytes::from_static(b"man ")), "man ");
        assert_eq!(redactor.count(), 2);
        assert_eq!(redactor.finish(), "");
    }

    #[test]
    fn without_secrets_all_passes() {
        let mut redactor = Redactor::new(Needles::default());
        assert_eq!(redactor.push(Bytes::from_static(b"text")), "text");
        assert_eq!(redactor.finish(), "");
    }
}
