//! The byte strings to look for, and the search for all of them at once. What
//! is not raw is found by `walk`.
//!
//! A body is megabytes without a secret, so the search is made for that case.
//! Each needle has a window of `stride + 3` bytes; a text is sampled at every
//! `stride`-th position, four bytes each, so that any occurrence of a window
//! has exactly one sample inside. A sample that no window contains, as one bit
//! of a table says, is done with; the others are looked up and compared. The
//! samples do not depend on each other, so the processor works on many of them
//! at a time.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroize;

use super::forms::{self, Form};
use super::hold::Hold;
use super::walk::{Kind, LONGEST_RUN, Walker};

/// Shorter forms are not looked for, in bytes: they would be found in texts
/// that have nothing to do with the secret.
pub const SHORTEST: usize = 6;

/// Bytes of a sample.
const GRAM: usize = 4;
/// Longer windows would fill the table without making the search faster.
const LONGEST_WINDOW: usize = 32;
/// Logarithm of the number of bits of the table: 32 KiB, the size of a
/// processor's nearest cache.
const TABLE: u32 = 18;

/// The secrets of a run, ready to be looked for. Cheap to clone.
///
/// It holds the secrets in clear, overwritten when the last clone goes; the
/// process that has it must not be dumpable.
#[derive(Clone, Default)]
pub struct Needles(Option<Arc<Set>>);

struct Set {
    walker: Walker,
    hold: Hold,
    /// Sorted, no two the same.
    needles: Vec<Form>,
    longest: usize,
    stride: usize,
    /// Of each sample that a window contains, sorted by the sample.
    grams: Vec<Gram>,
    /// One bit for the hash of each of them.
    table: Vec<u64>,
    /// One bit for the first two bytes of each needle.
    begins: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gram {
    bytes: u32,
    needle: usize,
    /// Where in the needle.
    offset: usize,
}

impl Needles {
    /// Looks for every form of `values`, each without the white space around
    /// it. A value shorter than [`SHORTEST`] is not looked for.
    pub fn new<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut needles, mut patterns) = (Vec::new(), Vec::new());
        for value in values.map(<[u8]>::trim_ascii).filter(|value| value.len() >= SHORTEST) {
            needles.append(&mut forms::of(value));
            patterns.push((Form::new(value.to_vec()), Kind::Text));
            patterns.extend(forms::base64(value).into_iter().map(|form| (form, Kind::Base64)));
        }
        Self(Set::new(needles, patterns).map(Arc::new))
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// `text` with each occurrence overwritten, and how many there were.
    pub fn mask_text(&self, text: &str) -> (String, u64) {
        let mut bytes = text.as_bytes().to_vec();
        let count = self.mask_bytes(&mut bytes);
        // Only a value that is not UTF-8 itself can cut a character.
        let text = String::from_utf8(bytes).unwrap_or_else(|cut| String::from_utf8_lossy(cut.as_bytes()).into_owned());
        (text, count)
    }

    /// Overwrites each occurrence with `*`; how many there were. Occurrences
    /// that overlap count as one.
    pub fn mask_bytes(&self, bytes: &mut [u8]) -> u64 {
        let found = self.find(bytes);
        for range in &found {
            bytes[range.clone()].fill(b'*');
        }
        found.len() as u64
    }

    /// Whether one is in a name that has no case, as the names of headers.
    pub(super) fn are_in_name(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let is_in = |needle: &Form| name.windows(needle.len()).any(|part| part.eq_ignore_ascii_case(needle));
        self.0.as_ref().is_some_and(|set| set.needles.iter().any(is_in))
    }

    /// Where needles occur in `text`, in order; those that overlap are one.
    pub(super) fn find(&self, text: &[u8]) -> Vec<Range<usize>> {
        let (found, unfinished) = self.scan(text);
        debug_assert!(unfinished <= self.hold(text), "{unfinished} bytes should wait");
        found
    }

    /// How many bytes at the end of `text` wait for the next ones: at least
    /// those that the next ones may make an occurrence, or a part of one.
    pub(super) fn hold(&self, text: &[u8]) -> usize {
        self.0.as_ref().map_or(0, |set| set.hold.of(text))
    }

    /// Beside what [`Self::find`] gives, how many bytes at the end the next
    /// ones may make an occurrence, or a part of one. That depends on the
    /// secrets: nobody may see it.
    pub(super) fn scan(&self, text: &[u8]) -> (Vec<Range<usize>>, usize) {
        let Some(set) = &self.0 else { return (Vec::new(), 0) };
        let mut found = Vec::new();
        set.search(text, |range| found.push(range));
        let cut = set.walker.search(text, |range| found.push(range));
        found.sort_unstable_by_key(|range| range.start);
        found.dedup_by(|next, before| {
            let overlap = next.start < before.end;
            if overlap {
                before.end = before.end.max(next.end);
            }
            overlap
        });
        let unfinished = set.unfinished(text).max(cut.map_or(0, |start| text.len() - start));
        (found, unfinished)
    }
}

impl fmt::Debug for Needles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Needles({})", self.0.as_ref().map_or(0, |set| set.needles.len()))
    }
}

impl Set {
    /// The needles and the patterns, each also as it is. None without any.
    fn new(mut needles: Vec<Form>, mut patterns: Vec<(Form, Kind)>) -> Option<Self> {
        patterns.retain(|(form, _)| form.len() >= SHORTEST);
        patterns.sort_unstable_by(|one, other| one.0.as_slice().cmp(&other.0));
        patterns.dedup_by(|one, other| one.0 == other.0 && one.1 == other.1);
        needles.extend(patterns.iter().map(|(form, _)| form.clone()));
        needles.retain(|needle| needle.len() >= SHORTEST);
        needles.sort_unstable_by(|one, other| one.as_slice().cmp(other));
        needles.dedup();
        let shortest = needles.iter().map(|needle| needle.len()).min()?;
        let longest = needles.iter().map(|needle| needle.len()).max()?;
        let window = shortest.min(LONGEST_WINDOW);
        let walker = Walker::new(patterns);
        let mut set = Self {
            hold: Hold::new(&needles, longest.max(walker.longest() + LONGEST_RUN)),
            walker,
            longest,
            stride: window - GRAM + 1,
            grams: Vec::new(),
            table: vec![0; (1 << TABLE) / 64],
            begins: vec![0; (1 << 16) / 64],
            needles,
        };
        for (number, needle) in set.needles.iter().enumerate() {
            // From the middle: many secrets begin, or end, like many texts.
            let from = (needle.len() - window) / 2;
            for offset in from..from + set.stride {
                let bytes = gram(needle, offset).expect("a window has room for its samples");
                set.grams.push(Gram { bytes, needle: number, offset });
                mark(&mut set.table, hash(bytes));
            }
            mark(&mut set.begins, pair(needle[0], needle[1]));
        }
        set.grams.sort_unstable();
        Some(set)
    }

    /// Calls `found` for each occurrence, in no order.
    fn search(&self, text: &[u8], mut found: impl FnMut(Range<usize>)) {
        // The first sample position is the last one that the first window can have.
        let mut at = self.stride - 1;
        while let Some(bytes) = gram(text, at) {
            if marked(&self.table, hash(bytes)) {
                self.compare(text, at, bytes, &mut found);
            }
            at += self.stride;
        }
    }

    #[cold]
    fn compare(&self, text: &[u8], at: usize, bytes: u32, found: &mut impl FnMut(Range<usize>)) {
        let first = self.grams.partition_point(|gram| gram.bytes < bytes);
        for gram in self.grams[first..].iter().take_while(|gram| gram.bytes == bytes) {
            let needle = &self.needles[gram.needle];
            if let Some(start) = at.checked_sub(gram.offset)
                && text[start..].starts_with(needle)
            {
                found(start..start + needle.len());
            }
        }
    }

    fn unfinished(&self, text: &[u8]) -> usize {
        let from = text.len().saturating_sub(self.longest - 1);
        let possible = |at: &usize| match text[*at..] {
            [first, second, ..] => marked(&self.begins, pair(first, second)),
            _ => true,
        };
        let begins = |at: &usize| {
            let suffix = &text[*at..];
            let first = self.needles.partition_point(|needle| needle.as_slice() < suffix);
            // The first may be the suffix itself; what has it as its beginning follows.
            let longer = |needle: &Form| needle.len() > suffix.len() && needle.starts_with(suffix);
            self.needles[first..].iter().take(2).any(longer)
        };
        (from..text.len()).filter(possible).find(begins).map_or(0, |at| text.len() - at)
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        // The forms overwrite themselves.
        self.grams.iter_mut().for_each(|gram| gram.bytes.zeroize());
        self.table.zeroize();
        self.begins.zeroize();
    }
}

fn gram(text: &[u8], at: usize) -> Option<u32> {
    text.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes)
}

fn hash(bytes: u32) -> usize {
    (bytes.wrapping_mul(0x9e37_79b1) >> (32 - TABLE)) as usize
}

fn pair(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

fn mark(bits: &mut [u64], number: usize) {
    bits[number / 64] |= 1 << (number % 64);
}

fn marked(bits: &[u64], number: usize) -> bool {
    bits[number / 64] >> (number % 64) & 1 != 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, missing_docs)]
pub(super) mod tests {
    use super::*;

    /// A small generator of numbers that look random (xorshift).
    pub struct Numbers(pub u64);

    impl Numbers {
        pub fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % limit
        }

        pub fn letters(&mut self, length: usize, kinds: usize) -> Vec<u8> {
            (0..length).map(|_| b'a' + self.below(kinds) as u8).collect()
        }
    }

    impl Needles {
        /// Looks for these and no other forms of them.
        pub fn exactly(values: &[Vec<u8>]) -> Self {
            Self(Set::new(values.iter().cloned().map(Form::new).collect(), Vec::new()).map(Arc::new))
        }
    }

    /// What the search must find, said without any cleverness.
    pub fn reference(needles: &[Vec<u8>], text: &[u8]) -> (Vec<u8>, u64) {
        let mut masked = text.to_vec();
        let (mut count, mut end) = (0, 0);
        for at in 0..text.len() {
            let Some(length) = needles.iter().filter(|needle| text[at..].starts_with(needle)).map(Vec::len).max()
            else {
                continue;
            };
            count += u64::from(at >= end);
            end = end.max(at + length);
            masked[at..at + length].fill(b'*');
        }
        (masked, count)
    }

    #[test]
    fn the_search_finds_what_the_reference_finds() {
        let mut numbers = Numbers(0x1234_5678_9abc_def1);
        let mut all = 0;
        for _ in 0..4000 {
            let kinds = 1 + numbers.below(3);
            let values: Vec<_> = (0..1 + numbers.below(5))
                .map(|_| {
                    let spread = [80, 4, 4, 4][numbers.below(4)];
                    let length = SHORTEST + numbers.below(spread);
                    numbers.letters(length, kinds)
                })
                .collect();
            let mut text = numbers.letters(numbers.0 as usize % 200, kinds);
            for value in &values {
                let at = numbers.below(text.len() + 1);
                text.splice(at..at, value.iter().copied());
            }
            let (expected, count) = reference(&values, &text);
            let mut masked = text.clone();
            assert_eq!(Needles::exactly(&values).mask_bytes(&mut masked), count, "{values:?} {text:?}");
            assert!(masked == expected, "{values:?} {text:?}");
            all += count;
        }
        assert!(all > 4000);
    }

    #[test]
    fn what_is_unfinished_is_the_longest_beginning_and_no_longer() {
        let mut numbers = Numbers(0x0f1e_2d3c_4b5a_6978);
        for _ in 0..4000 {
            let values: Vec<_> = (0..1 + numbers.below(4))
                .map(|_| {
                    let length = SHORTEST + numbers.below(10);
                    numbers.letters(length, 2)
                })
                .collect();
            let text = numbers.letters(numbers.0 as usize % 40, 2);
            let expected = (0..text.len())
                .find(|at| values.iter().any(|value| value.len() > text.len() - at && value.starts_with(&text[*at..])))
                .map_or(0, |at| text.len() - at);
            assert_eq!(Needles::exactly(&values).scan(&text).1, expected, "{values:?} {text:?}");
        }
    }

    #[test]
    fn text_is_masked_and_keeps_its_length() {
        let needles = Needles::new([&b" hunter2-canary\n"[..]].into_iter());
        let (text, count) = needles.mask_text("before hunter2-canary, Aladdin:hunter2-canary é");
        assert_eq!((text.as_str(), count), ("before **************, Aladdin:************** é", 2));
        assert_eq!(needles.mask_text("hunter2-canar"), ("hunter2-canar".into(), 0));
        assert_eq!(needles.mask_text(""), (String::new(), 0));
    }

    #[test]
    fn short_and_missing_values_are_not_looked_for() {
        for values in [vec![], vec![&b""[..]], vec![b"  \n"], vec![b" five5 "]] {
            let needles = Needles::new(values.into_iter());
            assert!(needles.is_empty());
            assert_eq!(needles.mask_text("five5").1, 0);
        }
        assert!(!Needles::new([&b"sixsix"[..]].into_iter()).is_empty());
    }

    #[test]
    fn a_value_is_not_printed() {
        let needles = Needles::new([&b"hunter2-canary"[..]].into_iter());
        assert!(!format!("{needles:?}").contains("canary"));
    }
}
