//! Paths as they are judged and as they are sent: the same text. And the
//! looser ways in which an origin may read that text, because a rule that
//! holds for one reading only could be passed by.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use super::Problem;

/// Longer paths are refused; no origin takes them either. In bytes.
const LONGEST: usize = 16 * 1024;
/// An origin behind a proxy decodes twice; deeper encoding is refused.
const DEEPEST: u8 = 4;

/// The path of a request, in its one normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath {
    text: String,
    readings: Vec<Reading>,
}

/// One way to read a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What such an origin sees.
    pub text: String,
    /// How often it was percent-decoded.
    pub decoded: u8,
    /// Case was folded: patterns are compared folded as well.
    pub folded: bool,
}

/// What is done to a path in a reading, before case is folded.
type Loosening = fn(&str) -> String;

impl NormalPath {
    /// Normalises the path of a request-target, without its query.
    ///
    /// Unreserved characters are decoded, other percent-encodings get upper
    /// case, what is no path character is encoded (RFC 3986, 2.3, 3.3 and
    /// 6.2.2); doubled slashes collapse, then `.` and `..` are resolved.
    /// Refused: no leading slash, backslashes, control characters, text that is
    /// not ASCII, `#`, `?` and spaces, broken encodings, `..` above the root,
    /// and the encoded forms of these as far as they could mean something.
    pub fn normalise(raw: &str) -> Result<Self, Problem> {
        if raw.len() > LONGEST {
            return Err(Problem::new(format!("the path is longer than {LONGEST} bytes")));
        }
        if !raw.starts_with('/') {
            return Err(Problem::new("the path does not begin with `/`"));
        }
        let spelled = respell(raw)?;
        check_decoded(&spelled)?;
        let text = resolve(&collapse(&spelled), Above::Refuse)
            .ok_or_else(|| Problem::new("the path has `..` above the root"))?;
        let readings = readings(&text);
        Ok(Self { text, readings })
    }

    /// What is judged, and what is sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path as it is, then each other reading of it.
    pub fn readings(&self) -> impl Iterator<Item = &Reading> {
        self.readings.iter()
    }
}

impl fmt::Display for NormalPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Checks each character and gives it its one spelling.
fn respell(raw: &str) -> Result<String, Problem> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        if c == '%' {
            let byte = escaped(rest.as_bytes())
                .ok_or_else(|| Problem::new("the path has a `%` without two hexadecimal digits"))?;
            match byte {
                b'\\' => return Err(Problem::new("the path has an encoded backslash")),
                _ if byte.is_ascii_control() => return Err(Problem::new("the path has an encoded control character")),
                _ if unreserved(byte) => text.push(char::from(byte)),
                _ => encode(byte, &mut text),
            }
            rest = &rest[3..];
            continue;
        }
        match c {
            '\\' => return Err(Problem::new("the path has a backslash")),
            '#' | '?' => return Err(Problem::new(format!("the path has a `{c}`"))),
            c if c.is_control() || c.is_whitespace() => {
                return Err(Problem::new("the path has a control character or a space"));
            }
            c if !c.is_ascii() => return Err(Problem::new("the path is not ASCII: percent-encode it")),
            c if path_character(c) => text.push(c),
            c => encode(c as u8, &mut text),
        }
        rest = &rest[1..];
    }
    Ok(text)
}

/// The byte of a leading `%XX`.
fn escaped(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|&b| char::from(b).to_digit(16));
    let (high, low) = (digit(1)?, digit(2)?);
    u8::try_from(high * 16 + low).ok().filter(|_| text[0] == b'%')
}

fn encode(byte: u8, text: &mut String) {
    write!(text, "%{byte:02X}").expect("a String takes all that is written");
}

/// RFC 3986, 2.3.
fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986, 3.3: pchar, and the slash.
fn path_character(c: char) -> bool {
    u8::try_from(c).is_ok_and(unreserved)
        || matches!(c, '/' | ':' | '@' | '!' | '$' | '&' | '\'' | '(' | ')' | '*' | '+' | ',' | ';' | '=')
}

/// Decodes as often as anything changes. Refuses what no level may hold: bytes
/// that are no UTF-8 (overlong forms), control characters, too many levels.
fn check_decoded(spelled: &str) -> Result<(), Problem> {
    let mut text = Cow::Borrowed(spelled);
    for _ in 0..=DEEPEST {
        let decoded = String::from_utf8(decode_once(&text))
            .map_err(|_| Problem::new("the path decodes to bytes that are no UTF-8 text"))?;
        if decoded.chars().any(char::is_control) {
            return Err(Problem::new("the path has an encoded control character"));
        }
        if decoded == *text {
            return Ok(());
        }
        text = Cow::Owned(decoded);
    }
    Err(Problem::new(format!("the path is percent-encoded more than {DEEPEST} times")))
}

/// Decodes each `%XX`; a `%` without two digits stays.
fn decode_once(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escaped(&bytes[at..]) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// One slash for several.
fn collapse(text: &str) -> String {
    let mut single = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '/' || !single.ends_with('/') {
            single.push(c);
        }
    }
    single
}

/// What `..` at the root does.
#[derive(Clone, Copy)]
enum Above {
    Refuse,
    Clamp,
}

/// Resolves `.` and `..` (RFC 3986, 5.2.4). An empty segment counts as one.
fn resolve(text: &str, above: Above) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in text.strip_prefix('/').unwrap_or(text).split('/') {
        ends_in_slash = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => match (kept.pop(), above) {
                (None, Above::Refuse) => return None,
                _ => {}
            },
            _ => kept.push(segment),
        }
    }
    let mut resolved = kept.iter().fold(String::with_capacity(text.len()), |path, segment| path + "/" + segment);
    if ends_in_slash || resolved.is_empty() {
        resolved.push('/');
    }
    Some(resolved)
}

/// `text` decoded `level` times, backslashes as slashes; `None` when there is
/// nothing left to decode at that level.
pub(super) fn decoded(text: &str, level: u8) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..level {
        // Only an encoded path is changed; check_decoded knows that it is UTF-8.
        let next = String::from_utf8(decode_once(&text)).ok()?;
        if next == text {
            return None;
        }
        text = next;
    }
    Some(text.replace('\\', "/"))
}

/// Each segment without what some origins drop: parameters (`;…`), and dots
/// and spaces at its end. A decoded `?` or `#` ends the path for some.
pub(super) fn stripped(text: &str) -> String {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let strip = |segment: &str| -> String {
        let name = segment.split(';').next().unwrap_or_default();
        if name.bytes().all(|b| b == b'.') { name.to_owned() } else { name.trim_end_matches(['.', ' ']).to_owned() }
    };
    path.split('/').map(strip).collect::<Vec<_>>().join("/")
}

/// Case folded in both directions, so that what has two lower-case forms
/// (dotless i, long s, the Kelvin sign) becomes one.
pub(super) fn folded(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_uppercase().to_lowercase() }
}

/// The exact text, then each looser reading that differs from those before.
fn readings(text: &str) -> Vec<Reading> {
    let mut all = vec![Reading { text: text.to_owned(), decoded: 0, folded: false }];
    let mut add = |text: String, level: u8, folded: bool| {
        let reading = Reading { text, decoded: level, folded };
        if !all.contains(&reading) {
            all.push(reading);
        }
    };
    let mut loose = |text: &str, level: u8| {
        // Origins differ in whether slashes collapse before or after `..`.
        let clamped = |text: &str| resolve(text, Above::Clamp).unwrap_or_else(|| "/".to_owned());
        for text in [clamped(&collapse(text)), collapse(&clamped(text))] {
            add(folded(&text), level, true);
            add(text, level, false);
        }
    };
    let keep: Loosening = str::to_owned;
    for level in 0..=DEEPEST {
        for first in [keep, stripped] {
            let Some(text) = decoded(&first(text), level) else { continue };
            loose(&text, level);
            loose(&stripped(&text), level);
        }
    }
    all
}
