//! How much of the end of what has come waits for more.
//!
//! It must be all that the next bytes may make an occurrence, or a part of
//! one. And it must not depend on the secret: an agent that makes an origin
//! echo its guesses sees how much of each piece comes at once, and would find
//! a value letter by letter if only the beginnings of that value waited. So
//! what waits is decided by the shape of the text alone: the last word, since
//! no form of a value goes on after white space, but for base64 that is cut
//! into lines. What of the secrets does show is how long the longest is, which
//! the stars say as well, and whether there is white space in them.

use super::forms::Form;

/// Most bytes of white space between two lines of base64.
pub(super) const BREAKS: u8 = 8;
/// With fewer characters before it, a line of base64 ends once: an empty line
/// after a short word ends an event of a stream, and that should not wait.
pub(super) const SURE: u32 = 8;

/// What waits, for a set of secrets.
pub(super) struct Hold {
    /// Never more than this, in bytes.
    most: usize,
    /// No occurrence goes on after these.
    separators: [bool; 256],
}

impl Hold {
    /// For occurrences of at most `most` bytes; `needles` are those that are
    /// found as they are.
    pub fn new(needles: &[Form], most: usize) -> Self {
        let mut separators = [false; 256];
        for byte in [b' ', b'\t', b'\r', b'\n'] {
            separators[usize::from(byte)] = !needles.iter().any(|needle| needle.contains(&byte));
        }
        Self { most, separators }
    }

    /// How many bytes at the end of `text` wait.
    pub fn of(&self, text: &[u8]) -> usize {
        let window = &text[text.len().saturating_sub(self.most)..];
        let word = window.iter().rev().take_while(|byte| !self.separators[usize::from(**byte)]).count();
        if word == window.len() {
            return word;
        }
        word.max(lines(window, word))
    }
}

/// How many bytes at the end may be base64 that is cut into lines; the last
/// word has `word` bytes.
fn lines(text: &[u8], word: usize) -> usize {
    let before = &text[..text.len() - word];
    let gap = before.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
    let last = before.len().checked_sub(gap + 1).map(|at| before[at]);
    if gap > usize::from(BREAKS) || !last.is_some_and(in_lines) {
        return 0;
    }
    let mut chain: Option<Chain> = None;
    for (at, byte) in text.iter().enumerate() {
        chain = match (chain, byte) {
            (Some(chain), b' ' | b'\t' | b'\r' | b'\n') => chain.white(*byte),
            (_, byte) if !in_lines(*byte) => None,
            (Some(chain), byte) => Some(chain.word(*byte)),
            // At the window's edge it may have begun before.
            (None, byte) => Some(Chain::begin(at, if at == 0 { SURE } else { 0 }).word(*byte)),
        };
    }
    chain.map_or(0, |chain| text.len() - chain.start)
}

/// Whether `byte` can be of a line of base64, or of an escape in it.
fn in_lines(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'\\' | b'%' | b'&' | b'#' | b';')
}

/// Lines that may be base64, so far.
#[derive(Clone, Copy)]
struct Chain {
    start: usize,
    /// At least as many as its characters.
    characters: u32,
    /// There was an escape since the last white space: an end of a line, perhaps.
    escape: bool,
    /// White space that was just passed, and newlines in it.
    breaks: u8,
    newlines: u8,
}

impl Chain {
    fn begin(start: usize, characters: u32) -> Self {
        Self { start, characters, escape: false, breaks: 0, newlines: 0 }
    }

    fn word(self, byte: u8) -> Self {
        let escape = (self.escape && self.breaks == 0) || matches!(byte, b'\\' | b'%' | b'&');
        Self { characters: self.characters.saturating_add(1), escape, breaks: 0, newlines: 0, ..self }
    }

    /// As the walk in `walk` has it, or more.
    fn white(self, byte: u8) -> Option<Self> {
        let unsure = self.characters < SURE;
        let allowed = match byte {
            b'\n' => !(unsure && self.newlines > 0),
            b'\r' => self.escape || !(unsure && self.breaks > 0),
            _ => self.escape || self.breaks > 0,
        };
        let newlines = self.newlines + u8::from(byte == b'\n');
        (allowed && self.breaks < BREAKS).then_some(Self { breaks: self.breaks + 1, newlines, ..self })
    }
}
