//! What a text may stand for at one place: the escapes that begin there.
//!
//! JSON, JavaScript, percent and HTML escapes are read without asking which
//! encoder wrote them, so any mix of them is understood. Each kind may be
//! escaped again by its own kind (`\\u002b`, `%252B`, `&amp;#43;`), and the
//! characters of an escape may be escapes of any kind themselves (`%5Cu002b`,
//! `\u0026#43;`).

/// Longest run of backslashes of one escape: a string in a string in a string
/// in a string.
const BACKSLASHES: usize = 8;
/// How often `%` may have become `%25`, and `&` have become `&amp;`.
const NESTED: usize = 4;
/// Longest name or number of a character reference.
const NAME: usize = 8;

/// The named character references that encoders write for ASCII (HTML, section
/// 13.5).
const NAMED: [(&str, u8); 44] = [
    ("quot", b'"'),
    ("QUOT", b'"'),
    ("amp", b'&'),
    ("AMP", b'&'),
    ("lt", b'<'),
    ("LT", b'<'),
    ("gt", b'>'),
    ("GT", b'>'),
    ("apos", b'\''),
    ("plus", b'+'),
    ("sol", b'/'),
    ("bsol", b'\\'),
    ("equals", b'='),
    ("num", b'#'),
    ("percnt", b'%'),
    ("Tab", b'\t'),
    ("NewLine", b'\n'),
    ("excl", b'!'),
    ("dollar", b'$'),
    ("lpar", b'('),
    ("rpar", b')'),
    ("ast", b'*'),
    ("midast", b'*'),
    ("comma", b','),
    ("period", b'.'),
    ("colon", b':'),
    ("semi", b';'),
    ("quest", b'?'),
    ("commat", b'@'),
    ("lsqb", b'['),
    ("lbrack", b'['),
    ("rsqb", b']'),
    ("rbrack", b']'),
    ("Hat", b'^'),
    ("lowbar", b'_'),
    ("UnderBar", b'_'),
    ("grave", b'`'),
    ("lcub", b'{'),
    ("lbrace", b'{'),
    ("rcub", b'}'),
    ("rbrace", b'}'),
    ("verbar", b'|'),
    ("vert", b'|'),
    ("dash", b'-'),
];

/// What an escape stands for, and where the text goes on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    bytes: [u8; 4],
    length: usize,
    /// The first position after the escape.
    pub end: usize,
}

impl Reading {
    fn byte(byte: u8, end: usize) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1, end }
    }

    /// UTF-8, or one byte of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// All that the escapes at one position may stand for; the raw byte is not in it.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// In no order, perhaps with duplicates.
    pub list: Vec<Reading>,
    /// Whether the text ended before it was clear.
    pub open: bool,
}

/// How the characters of an escape are written.
#[derive(Clone, Copy)]
enum Written {
    Plainly,
    /// As escapes, where one is there.
    Escaped,
}

/// The text is at its end, or in the middle of an escape of a character.
struct Open;

/// A character of an escape and where the next one begins. What is no ASCII
/// character is one byte of another.
type Unit = Result<(u8, usize), Open>;

/// Whether an escape can begin with `byte`.
pub(super) fn begins_escape(byte: u8) -> bool {
    matches!(byte, b'\\' | b'%' | b'&' | b'+')
}

impl Readings {
    /// Reads at `at`. What is complete is the same however the text goes on.
    pub fn read(&mut self, text: &[u8], at: usize) {
        self.list.clear();
        self.open = false;
        if text.get(at).copied().is_some_and(begins_escape) {
            self.escapes(text, at, Written::Plainly);
            self.escapes(text, at, Written::Escaped);
        }
    }

    fn escapes(&mut self, text: &[u8], at: usize, written: Written) {
        let read = match unit(text, at, written) {
            Ok((b'\\', end)) => self.backslash(text, end, written),
            Ok((b'%', end)) => self.percent(text, end, written),
            Ok((b'&', end)) => self.reference(text, end, written),
            Ok((b'+', end)) => {
                self.byte(b' ', end);
                Ok(())
            }
            Ok(_) => {
                // An escaped character, which `Plainly` has found already.
                Ok(())
            }
            Err(open) => Err(open),
        };
        self.open |= read.is_err();
    }

    fn byte(&mut self, byte: u8, end: usize) {
        self.list.push(Reading::byte(byte, end));
    }

    fn character(&mut self, code: u32, end: usize) {
        if let Some(c) = char::from_u32(code) {
            let mut bytes = [0; 4];
            let length = c.encode_utf8(&mut bytes).len();
            self.list.push(Reading { bytes, length, end });
        }
    }

    /// After the first backslash.
    fn backslash(&mut self, text: &[u8], mut at: usize, written: Written) -> Result<(), Open> {
        for run in 1..=BACKSLASHES {
            // A backslash of the value is any number of them.
            self.byte(b'\\', at);
            let (next, end) = unit(text, at, written)?;
            match next {
                b'\\' if run < BACKSLASHES => {
                    at = end;
                    continue;
                }
                b'\\' => {}
                b'u' => self.utf16(text, end, written, b'\\')?,
                b'x' => {
                    if let Some((number, end)) = hex(text, end, 2, written)? {
                        // Python's bytes, or JavaScript's characters.
                        self.byte(number as u8, end);
                        self.character(number, end);
                    }
                }
                b'n' => self.byte(b'\n', end),
                b'r' => self.byte(b'\r', end),
                b't' => self.byte(b'\t', end),
                b'b' => self.byte(8, end),
                b'f' => self.byte(12, end),
                other if !other.is_ascii_alphanumeric() => self.byte(other, end),
                _ => {}
            }
            break;
        }
        Ok(())
    }

    /// After the `u`: one UTF-16 unit, or two, each with what `lead` begins.
    fn utf16(&mut self, text: &[u8], at: usize, written: Written, lead: u8) -> Result<(), Open> {
        let Some((first, end)) = hex(text, at, 4, written)? else { return Ok(()) };
        if !(0xd800..0xdc00).contains(&first) {
            self.character(first, end);
            return Ok(());
        }
        let (mut next, mut at) = unit(text, end, written)?;
        let mut run = 0;
        while next == lead && run < BACKSLASHES {
            run += 1;
            (next, at) = unit(text, at, written)?;
        }
        if run > 0
            && next == b'u'
            && let Some((second, end)) = hex(text, at, 4, written)?
            && (0xdc00..0xe000).contains(&second)
        {
            self.character(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00), end);
        }
        Ok(())
    }

    /// After the `%`.
    fn percent(&mut self, text: &[u8], mut at: usize, written: Written) -> Result<(), Open> {
        let (next, end) = unit(text, at, written)?;
        if next == b'u' {
            // JavaScript's escape().
            return self.utf16(text, end, written, b'%');
        }
        for _ in 0..=NESTED {
            let Some((number, end)) = hex(text, at, 2, written)? else { break };
            self.byte(number as u8, end);
            if number != u32::from(b'%') {
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// After the `&`.
    fn reference(&mut self, text: &[u8], mut at: usize, written: Written) -> Result<(), Open> {
        for _ in 0..=NESTED {
            let mut name = [0; NAME];
            let mut length = 0;
            loop {
                let (next, end) = unit(text, at, written)?;
                at = end;
                if next == b';' {
                    break;
                }
                if length == NAME || !(next.is_ascii_alphanumeric() || next == b'#') {
                    return Ok(());
                }
                name[length] = next;
                length += 1;
            }
            let name = &name[..length];
            match name {
                [b'#', b'x' | b'X', digits @ ..] => self.number(digits, 16, at),
                [b'#', digits @ ..] => self.number(digits, 10, at),
                name => {
                    if let Some((_, byte)) = NAMED.iter().find(|(known, _)| known.as_bytes() == name) {
                        self.byte(*byte, at);
                    }
                }
            }
            if name != b"amp" {
                break;
            }
        }
        Ok(())
    }

    fn number(&mut self, digits: &[u8], base: u32, end: usize) {
        let number = digits
            .iter()
            .try_fold(0u32, |number, digit| number.checked_mul(base)?.checked_add(char::from(*digit).to_digit(base)?));
        if let Some(number) = number.filter(|_| !digits.is_empty()) {
            self.character(number, end);
        }
    }
}

/// The character at `at`.
fn unit(text: &[u8], at: usize, written: Written) -> Unit {
    let raw = (*text.get(at).ok_or(Open)?, at + 1);
    match (written, raw.0) {
        (Written::Escaped, b'\\' | b'%' | b'&') => {
            let mut inner = Readings::default();
            inner.escapes(text, at, Written::Plainly);
            if inner.open {
                return Err(Open);
            }
            // The longest, which undoes all of it.
            let ascii = inner.list.iter().filter(|reading| reading.length == 1 && reading.bytes[0].is_ascii());
            Ok(ascii.max_by_key(|reading| reading.end).map_or(raw, |reading| (reading.bytes[0], reading.end)))
        }
        _ => Ok(raw),
    }
}

/// The number that `digits` hexadecimal digits make; None where others stand.
fn hex(text: &[u8], mut at: usize, digits: usize, written: Written) -> Result<Option<(u32, usize)>, Open> {
    let mut number = 0;
    for _ in 0..digits {
        let (next, end) = unit(text, at, written)?;
        let Some(digit) = char::from(next).to_digit(16) else { return Ok(None) };
        number = number << 4 | digit;
        at = end;
    }
    Ok(Some((number, at)))
}
