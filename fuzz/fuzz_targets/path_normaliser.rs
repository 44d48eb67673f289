//! The path normaliser against a reference that is written from the other end:
//! it tokenises the path into characters once and never looks at text again.
#![no_main]

use belljar::policy::{Coverage, NormalPath, PathPattern};
use libfuzzer_sys::fuzz_target;

/// A character of a path, after its spelling is forgotten.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    /// Stands for itself.
    Plain(u8),
    /// Was, or has to be, percent-encoded.
    Encoded(u8),
}

fn units(raw: &[u8]) -> Option<Vec<Unit>> {
    let mut units = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let byte = raw[at];
        if byte == b'%' {
            let digits = std::str::from_utf8(raw.get(at + 1..at + 3)?).ok()?;
            if digits.starts_with('+') {
                return None;
            }
            let byte = u8::from_str_radix(digits, 16).ok()?;
            if byte < 0x20 || byte == 0x7f || byte == b'\\' {
                return None;
            }
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            units.push(if plain { Unit::Plain(byte) } else { Unit::Encoded(byte) });
            at += 3;
        } else {
            if !(0x21..0x7f).contains(&byte) || b"\\#?".contains(&byte) {
                return None;
            }
            let plain = byte.is_ascii_alphanumeric() || b"-._~/:@!$&'()*+,;=".contains(&byte);
            units.push(if plain { Unit::Plain(byte) } else { Unit::Encoded(byte) });
            at += 1;
        }
    }
    Some(units)
}

/// Decodes round by round; `None` when a round is no text or there are too many.
fn is_text_all_the_way(units: &[Unit]) -> bool {
    let mut bytes: Vec<u8> = units.iter().map(|unit| match unit { Unit::Plain(b) | Unit::Encoded(b) => *b }).collect();
    // Decoded once already; three levels are allowed, and nothing below them.
    for _ in 0..3 {
        let Ok(text) = std::str::from_utf8(&bytes) else { return false };
        if text.chars().any(|c| c.is_control() || "／＼．․‥⁄∕⧵﹒﹨".contains(c)) {
            return false;
        }
        // `..` with blanks in it or around it is `..` for some.
        let of_dots = |segment: &str| {
            segment.chars().filter(|c| *c == '.').count() + segment.chars().filter(|c| *c == ' ').count()
                == segment.chars().count()
        };
        if text.split('/').any(|segment| of_dots(segment) && segment.contains('.') && segment.contains(' ')) {
            return false;
        }
        let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
        let mut next = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
                (b'%', Some(high), Some(low)) => {
                    next.push((high * 16 + low) as u8);
                    at += 3;
                }
                (byte, ..) => {
                    next.push(byte);
                    at += 1;
                }
            }
        }
        if next.len() == bytes.len() {
            return true;
        }
        bytes = next;
    }
    false
}

fn reference(raw: &str) -> Option<String> {
    if !raw.starts_with('/') || raw.len() > 8192 {
        return None;
    }
    let units = units(raw.as_bytes())?;
    if !is_text_all_the_way(&units) {
        return None;
    }
    let mut stack: Vec<&[Unit]> = Vec::new();
    let mut slash_at_end = true;
    for segment in units.split(|unit| *unit == Unit::Plain(b'/')) {
        let dot = Unit::Plain(b'.');
        slash_at_end = segment.is_empty() || segment == [dot] || segment == [dot, dot];
        if segment == [dot, dot] {
            stack.pop()?;
        } else if !slash_at_end {
            stack.push(segment);
        }
    }
    let mut text = String::new();
    for segment in &stack {
        text.push('/');
        for unit in *segment {
            match unit {
                Unit::Plain(byte) => text.push(*byte as char),
                Unit::Encoded(byte) => text += &format!("%{byte:02X}"),
            }
        }
    }
    if slash_at_end || text.is_empty() {
        text.push('/');
    }
    Some(text)
}

fuzz_target!(|raw: &str| {
    let normal = NormalPath::normalise(raw).ok();
    assert_eq!(normal.as_ref().map(|path| path.as_str().to_owned()), reference(raw), "{raw:?}");
    let Some(path) = normal else { return };
    let text = path.as_str();
    assert_eq!(NormalPath::normalise(text).as_ref(), Ok(&path), "not stable");
    assert!(text.bytes().all(|b| (0x21..0x7f).contains(&b)) && !text.contains("//"));
    assert!(!text.split('/').any(|segment| segment == "." || segment == ".."));
    let readings: Vec<_> = path.readings().collect();
    assert_eq!(readings[0].text, text);
    assert!(readings.iter().all(|reading| reading.text.starts_with('/')));
    assert_eq!(PathPattern::any().covers(&path), Coverage::Every);
    // What a pattern says in one spelling, it says of the path itself.
    if let Ok(pattern) = PathPattern::parse(text) {
        assert!(pattern.matches(&readings[0]) , "{text}");
        assert!(pattern.includes(&pattern) && pattern.overlaps(&pattern));
        assert_eq!(PathPattern::parse(&pattern.to_string()), Ok(pattern));
    }
});
