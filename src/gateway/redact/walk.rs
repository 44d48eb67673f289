//! Values that are escaped in any mix, and base64 that is cut into lines.
//!
//! An occurrence of which every byte is raw is found by the search in
//! `needles`. Any other has a first place where it is not raw: an escape, or
//! the end of a line in base64. So only such places are looked at: where the
//! bytes before one are the beginning of a value, a walk begins. It goes on
//! through all readings of the text at once, as a set of positions in the
//! values, so that no text makes it try one thing after the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::Range;

use zeroize::Zeroize;

use super::forms::Form;
use super::hold::{BREAKS, SURE};
use super::reading::{Readings, begins_escape};

/// A walk through more text than this, in bytes, and [`Kind::expansion`] times
/// the value, is given up: no encoder writes so much for so little. (Masked as
/// far as it came, it would say how far that is.)
const LONGEST_WALK: usize = 256;

/// More backslashes than an escape whose backslashes are escapes can have, and
/// more bytes than any escape has.
pub(super) const LONGEST_RUN: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The value.
    Text,
    /// Base64 of it, which may be cut into lines.
    Base64,
}

impl Kind {
    fn expansion(self) -> usize {
        match self {
            Self::Text => 24,
            Self::Base64 => 10,
        }
    }
}

struct Pattern {
    bytes: Form,
    kind: Kind,
}

impl Pattern {
    /// Most bytes of an occurrence.
    fn longest(&self) -> usize {
        LONGEST_WALK + self.kind.expansion() * self.bytes.len()
    }
}

/// Two neighbours in a pattern, and where the second ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    bytes: u16,
    pattern: u32,
    index: u32,
}

/// What a byte can be, as bits.
const ESCAPE: u8 = 1;
const LINE_END: u8 = 2;
/// A pattern begins with it.
const FIRST: u8 = 4;

/// The patterns, ready to be looked for.
pub(super) struct Walker {
    patterns: Vec<Pattern>,
    /// Sorted by the bytes.
    pairs: Vec<Pair>,
    /// One bit for each pair of bytes that is in `pairs`.
    marked: Vec<u64>,
    classes: [u8; 256],
    /// Whether `+` may stand for a space of a value.
    spaces: bool,
}

/// How far one reading of the text has come. In the order in which the walks
/// go on; of those that differ in the start only, the earliest stands for all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Walk {
    at: usize,
    pattern: u32,
    /// How much of the pattern was found.
    index: u32,
    /// Bytes of white space that were just passed, and newlines among them.
    breaks: u8,
    lines: u8,
    start: usize,
}

impl Walk {
    fn same_but_for_the_start(&self, other: &Self) -> bool {
        Self { start: 0, ..*self } == Self { start: 0, ..*other }
    }
}

/// The walks that have not come to their ends.
type Walks = BinaryHeap<Reverse<Walk>>;

impl Walker {
    pub fn new(patterns: Vec<(Form, Kind)>) -> Self {
        let patterns: Vec<_> = patterns.into_iter().map(|(bytes, kind)| Pattern { bytes, kind }).collect();
        let mut walker = Self {
            spaces: patterns.iter().any(|pattern| pattern.bytes.contains(&b' ')),
            pairs: Vec::with_capacity(patterns.iter().map(|pattern| pattern.bytes.len()).sum()),
            marked: vec![0; (1 << 16) / 64],
            classes: [0; 256],
            patterns,
        };
        for (byte, class) in walker.classes.iter_mut().enumerate() {
            match byte as u8 {
                b'\r' | b'\n' => *class = LINE_END,
                b'+' if !walker.spaces => {}
                byte if begins_escape(byte) => *class = ESCAPE,
                _ => {}
            }
        }
        for (number, pattern) in walker.patterns.iter().enumerate() {
            walker.classes[usize::from(pattern.bytes[0])] |= FIRST;
            for (index, two) in pattern.bytes.windows(2).enumerate() {
                let bytes = u16::from_be_bytes([two[0], two[1]]);
                walker.pairs.push(Pair { bytes, pattern: number as u32, index: index as u32 + 2 });
                walker.marked[usize::from(bytes) / 64] |= 1 << (bytes % 64);
            }
        }
        walker.pairs.sort_unstable();
        walker
    }

    /// Most bytes of an occurrence.
    pub fn longest(&self) -> usize {
        self.patterns.iter().map(Pattern::longest).max().unwrap_or(0)
    }

    /// Calls `found` for occurrences that are not all raw, in no order. Where
    /// the first walk began that the text's end has cut short.
    pub fn search(&self, text: &[u8], mut found: impl FnMut(Range<usize>)) -> Option<usize> {
        let mut walks = Walks::new();
        let mut readings = Readings::default();
        let mut unfinished = None;
        let mut place = self.place(text, 0);
        loop {
            let at = match (place, walks.peek()) {
                (Some(place), Some(Reverse(walk))) => place.min(walk.at),
                (Some(place), None) => place,
                (None, Some(Reverse(walk))) => walk.at,
                (None, None) => return unfinished,
            };
            let escape = text.get(at).is_some_and(|byte| self.class(*byte) & ESCAPE != 0);
            let mut read = false;
            if place == Some(at) {
                self.begin(text, at, &mut walks);
                if escape && self.may_begin_a_value(text, at) {
                    readings.read(text, at);
                    read = true;
                    self.begin_here(at, &readings, &mut walks);
                }
                place = self.place(text, at + 1);
            }
            if walks.peek().is_none_or(|walk| walk.0.at != at) {
                continue;
            }
            if !read {
                readings.list.clear();
                readings.open = false;
                if escape {
                    readings.read(text, at);
                }
            }
            let mut last = None;
            while let Some(walk) = at_position(&mut walks, at) {
                if last.is_some_and(|last: Walk| last.same_but_for_the_start(&walk)) {
                    continue;
                }
                last = Some(walk);
                let pattern = &self.patterns[walk.pattern as usize];
                if at - walk.start > pattern.longest() {
                    continue;
                }
                if readings.open || at == text.len() {
                    unfinished = Some(unfinished.map_or(walk.start, |before: usize| before.min(walk.start)));
                }
                let mut step = |bytes: &[u8], end| {
                    if let Some(next) = pattern.step(&walk, bytes, end) {
                        if next.index as usize == pattern.bytes.len() {
                            found(next.start..end);
                        } else {
                            walks.push(Reverse(next));
                        }
                    }
                };
                if let Some(byte) = text.get(at) {
                    step(&[*byte], at + 1);
                }
                readings.list.iter().for_each(|reading| step(reading.bytes(), reading.end));
            }
        }
    }

    fn class(&self, byte: u8) -> u8 {
        self.classes[usize::from(byte)]
    }

    /// The first place from `at` on that is not raw and where a walk may begin.
    fn place(&self, text: &[u8], at: usize) -> Option<usize> {
        const BLOCK: usize = 16;
        let plus = if self.spaces { b'+' } else { b'\\' };
        let mut from = at;
        loop {
            // Whole blocks without a branch for each byte, which the compiler
            // turns into vector instructions.
            while let Some(block) = text.get(from..from + BLOCK)
                && !block.iter().fold(false, |any, byte| any | special(*byte) | (*byte == plus))
            {
                from += BLOCK;
            }
            let end = text.len().min(from + BLOCK);
            if from >= end {
                return None;
            }
            for place in from..end {
                if self.class(text[place]) & (ESCAPE | LINE_END) != 0
                    && (self.may_go_on(text, place) || self.may_begin_a_value(text, place))
                {
                    return Some(place);
                }
            }
            from = end;
        }
    }

    /// Quickly: whether a beginning of a pattern may stand before `at`.
    fn may_go_on(&self, text: &[u8], at: usize) -> bool {
        match text[..at] {
            [.., one, two] => {
                let bytes = u16::from_be_bytes([one, two]);
                self.class(two) & FIRST != 0 || self.marked[usize::from(bytes) / 64] >> (bytes % 64) & 1 != 0
            }
            [one] => self.class(one) & FIRST != 0,
            [] => false,
        }
    }

    /// Begins a walk for each beginning of a pattern that stands before `at`.
    fn begin(&self, text: &[u8], at: usize, walks: &mut Walks) {
        let escape = self.class(text[at]) & ESCAPE != 0;
        let mut push = |pattern: u32, index: u32| {
            if escape || self.patterns[pattern as usize].kind == Kind::Base64 {
                walks.push(Reverse(Walk { at, pattern, index, breaks: 0, lines: 0, start: at - index as usize }));
            }
        };
        let Some(before) = at.checked_sub(1).map(|before| text[before]) else { return };
        if self.class(before) & FIRST != 0 {
            for (number, pattern) in self.patterns.iter().enumerate() {
                if pattern.bytes[0] == before {
                    push(number as u32, 1);
                }
            }
        }
        let Some(two) = at.checked_sub(2) else { return };
        let bytes = u16::from_be_bytes([text[two], before]);
        if self.marked[usize::from(bytes) / 64] >> (bytes % 64) & 1 != 0 {
            let first = self.pairs.partition_point(|pair| pair.bytes < bytes);
            for pair in self.pairs[first..].iter().take_while(|pair| pair.bytes == bytes) {
                let index = pair.index as usize;
                let pattern = &self.patterns[pair.pattern as usize].bytes;
                if index < pattern.len() && text[..at].ends_with(&pattern[..index]) {
                    push(pair.pattern, pair.index);
                }
            }
        }
    }

    /// Quickly: false where the escape at `at` stands for no pattern's first byte.
    fn may_begin_a_value(&self, text: &[u8], at: usize) -> bool {
        // An escape may stand for what begins another one.
        let first = |byte: u8| self.class(byte) & FIRST != 0 || matches!(byte, b'\\' | b'%' | b'&' | b'+');
        let backslash = self.class(b'\\') & FIRST != 0;
        match text[at..] {
            [b'\r' | b'\n' | b'+', ..] => false,
            [b'\\', b'n', ..] => backslash || first(b'\n'),
            [b'\\', b't', ..] => backslash || first(b'\t'),
            [b'\\', b'r', ..] => backslash || first(b'\r'),
            [b'\\', other @ (b'"' | b'/' | b'\''), ..] => backslash || first(other),
            [b'\\', b'u', b'0', b'0', high, low, ..] => backslash || digits(high, low).is_none_or(first),
            // Too many to be an escape.
            [b'\\', b'\\', ..] => {
                backslash || text.get(at..at + LONGEST_RUN).is_none_or(|run| run.iter().any(|byte| *byte != b'\\'))
            }
            [b'\\', b'u' | b'x' | b'b' | b'f', ..] => true,
            [b'\\', other, ..] => backslash || (!other.is_ascii_alphanumeric() && first(other)),
            [b'%', other, ..] if !other.is_ascii_hexdigit() && !matches!(other, b'u' | b'\\' | b'%' | b'&') => false,
            [b'%', high, low, ..] => self.class(b'%') & FIRST != 0 || digits(high, low).is_none_or(first),
            [b'&', other, ..] => other.is_ascii_alphanumeric() || first(other) || other == b'#',
            _ => true,
        }
    }

    /// Begins a walk for each pattern that an escape at `at` may begin.
    fn begin_here(&self, at: usize, readings: &Readings, walks: &mut Walks) {
        let first = |byte: u8| readings.list.iter().any(|reading| reading.bytes()[0] == byte);
        if readings.open || readings.list.iter().any(|reading| self.class(reading.bytes()[0]) & FIRST != 0) {
            for (number, pattern) in self.patterns.iter().enumerate() {
                if readings.open || first(pattern.bytes[0]) {
                    let pattern = number as u32;
                    walks.push(Reverse(Walk { at, pattern, index: 0, breaks: 0, lines: 0, start: at }));
                }
            }
        }
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        // The patterns overwrite themselves.
        self.pairs.iter_mut().for_each(|pair| pair.bytes.zeroize());
        self.marked.zeroize();
        self.classes.zeroize();
    }
}

impl Pattern {
    /// Where `walk` is after `bytes`, which the text up to `end` stands for.
    fn step(&self, walk: &Walk, bytes: &[u8], end: usize) -> Option<Walk> {
        if self.bytes[walk.index as usize..].starts_with(bytes) {
            let index = walk.index + bytes.len() as u32;
            return Some(Walk { at: end, index, breaks: 0, lines: 0, ..*walk });
        }
        let &[byte] = bytes else { return None };
        if self.kind != Kind::Base64 || walk.index == 0 || walk.breaks == BREAKS {
            return None;
        }
        let unsure = walk.index < SURE;
        let allowed = match byte {
            b'\n' => !(unsure && walk.lines > 0),
            b'\r' => !(unsure && walk.breaks > 0),
            // White space folds a line, it does not cut a word.
            b' ' | b'\t' => walk.breaks > 0,
            _ => false,
        };
        let lines = walk.lines + u8::from(byte == b'\n');
        allowed.then_some(Walk { at: end, breaks: walk.breaks + 1, lines, ..*walk })
    }
}

/// The next walk, when it is at this position.
fn at_position(walks: &mut Walks, at: usize) -> Option<Walk> {
    let top = walks.peek_mut().filter(|walk| walk.0.at == at)?;
    Some(PeekMut::pop(top).0)
}

/// The byte of two plain hexadecimal digits; None too when it is no ASCII.
fn digits(high: u8, low: u8) -> Option<u8> {
    let number = char::from(high).to_digit(16)? << 4 | char::from(low).to_digit(16)?;
    u8::try_from(number).ok().filter(u8::is_ascii)
}

/// What is not raw, but for `+`.
fn special(byte: u8) -> bool {
    (byte == b'\\') | (byte == b'%') | (byte == b'&') | (byte == b'\n') | (byte == b'\r')
}
