//! Paths as they are judged and as they are sent: the same text. And the
//! looser ways in which an origin may read that text, because a rule that
//! holds for one reading only could be passed by.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use super::Problem;

/// Longer paths are refused; no origin takes them either. In bytes.
const LONGEST: usize = 8 * 1024;
/// An origin behind a proxy decodes twice; deeper encoding is refused.
const DEEPEST: u8 = 3;

/// The path of a request, in its one normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath(String);

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
        let Resolved { path, above } = resolve(&collapse(&spelled));
        if above > 0 {
            return Err(Problem::new("the path has `..` above the root"));
        }
        Ok(Self(path))
    }

    /// What is judged, and what is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as it is, then each other reading of it. They are made here and
    /// not kept: there can be many, and most policies have no path rule.
    pub fn readings(&self) -> impl Iterator<Item = Reading> {
        readings(&self.0).into_iter()
    }
}

impl fmt::Display for NormalPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
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

/// What compatibility normalisation (NFKC, UAX 15), and the best-fit tables of
/// Windows, turn into slashes and dots.
const LOOKALIKES: [char; 10] = [
    '\u{ff0f}', '\u{ff3c}', '\u{ff0e}', '\u{2024}', '\u{2025}', '\u{2044}', '\u{2215}', '\u{29f5}', '\u{fe52}',
    '\u{fe68}',
];

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
        if let Some(c) = decoded.chars().find(|c| LOOKALIKES.contains(c)) {
            return Err(Problem::new(format!(
                "the path has {}, which some origins take for a slash or a dot",
                c.escape_unicode()
            )));
        }
        // Origins that trim blanks would see `..` or `.` there.
        let blurred = |segment: &str| {
            segment.contains('.') && segment.contains(' ') && segment.chars().all(|c| matches!(c, '.' | ' '))
        };
        if decoded.split('/').any(blurred) {
            return Err(Problem::new("the path has a segment of dots and blanks"));
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

/// A path without `.` and `..`.
struct Resolved {
    path: String,
    /// How many `..` were above the root; they stay there, as origins have it.
    above: usize,
}

/// Resolves `.` and `..` (RFC 3986, 5.2.4); an empty segment counts as one.
fn resolve(text: &str) -> Resolved {
    let mut kept: Vec<&str> = Vec::new();
    let mut above = 0;
    let mut ends_in_dots = false;
    for segment in text.strip_prefix('/').unwrap_or(text).split('/') {
        ends_in_dots = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => above += usize::from(kept.pop().is_none()),
            _ => kept.push(segment),
        }
    }
    let mut path = kept.iter().fold(String::with_capacity(text.len()), |path, segment| path + "/" + segment);
    if ends_in_dots || path.is_empty() {
        path.push('/');
    }
    Resolved { path, above }
}

/// `text` decoded once more, backslashes as slashes; `None` when nothing was
/// encoded.
pub(super) fn decoded(text: &str) -> Option<String> {
    // check_decoded knows that each level is UTF-8.
    let next = String::from_utf8_lossy(&decode_once(text)).into_owned();
    (next != text).then(|| next.replace('\\', "/"))
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
/// (dotless i, long s, the Kelvin sign) becomes one; full-width letters are
/// letters for origins that normalise.
pub(super) fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let narrow = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        c => c,
    };
    text.chars().map(narrow).collect::<String>().to_uppercase().to_lowercase()
}

/// Each way to read `text`, the exact one first. What an origin does, it does in
/// rounds: drop what it does not read, resolve, decode, and begin again.
fn readings(text: &str) -> Vec<Reading> {
    let mut all = vec![Reading { text: text.to_owned(), decoded: 0, folded: false }];
    let mut round = BTreeSet::from([text.to_owned()]);
    for level in 0..=DEEPEST {
        let mut here = BTreeSet::new();
        for text in &round {
            for text in [text.clone(), stripped(text)] {
                // Origins differ in whether slashes collapse before `..` or after.
                here.insert(resolve(&collapse(&text)).path);
                here.insert(collapse(&resolve(&text).path));
                here.insert(text);
            }
        }
        round = BTreeSet::new();
        for text in here {
            if level > 0 || text != all[0].text {
                all.push(Reading { text: text.clone(), decoded: level, folded: false });
            }
            all.push(Reading { text: folded(&text), decoded: level, folded: true });
            match decoded(&text) {
                Some(next) => drop(round.insert(next)),
                // Plain already: what a pattern means when it is decoded as well.
                None if level < DEEPEST => {
                    all.push(Reading { text: folded(&text), decoded: DEEPEST, folded: true });
                    all.push(Reading { text, decoded: DEEPEST, folded: false });
                }
                None => {}
            }
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn normal(raw: &str) -> String {
        NormalPath::normalise(raw).unwrap_or_else(|problem| panic!("{raw}: {problem}")).to_string()
    }

    #[test]
    fn one_form() {
        for (raw, form) in [
            ("/", "/"),
            ("//", "/"),
            ("/a//b///c/", "/a/b/c/"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%2e/a", "/a"),
            ("/a//../b", "/b"),
            ("/%41%5a%7e%2d%5F%30", "/AZ~-_0"),
            ("/a%2fb%3a%C3%a9", "/a%2Fb%3A%C3%A9"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/a%20b%2520", "/a%20b%2520"),
            ("/..a/...", "/..a/..."),
            ("/a..;/b;v=1", "/a..;/b;v=1"),
            ("/{a}|\"<>^`[b]", "/%7Ba%7D%7C%22%3C%3E%5E%60%5Bb%5D"),
            ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
            ("/100%25", "/100%25"),
        ] {
            assert_eq!(normal(raw), form, "{raw}");
            assert_eq!(normal(form), form, "{raw} is not stable");
        }
    }

    #[test]
    fn refused() {
        let long = format!("/{}", "a".repeat(LONGEST));
        for raw in [
            "",
            "*",
            "a",
            "a/b",
            "http://a/",
            "/a\\b",
            "/a%5cb",
            "/a%5C..",
            "/a\0",
            "/a%00",
            "/a%0a",
            "/a%0D%0A",
            "/a%7f",
            "/a\u{7f}",
            "/a\r\n",
            "/a b",
            "/a\tb",
            "/é",
            "/a#b",
            "/a?b",
            "/%",
            "/%2",
            "/%zz",
            "/%u002e",
            "/%+1",
            "/a%c0%ae",
            "/%c0%af",
            "/%e0%80%af",
            "/%ff",
            "/%c3",
            "/%c3;%a9",
            "/..",
            "/../a",
            "/a/../../b",
            "/%2e%2e/a",
            "/a/%2e%2e/..",
            "/%2500",
            "/%250a",
            "/%25c0%25ae",
            "/%2525252525",
            "/%C2%85",
            "/%ED%A0%80",
            &long,
        ] {
            assert!(NormalPath::normalise(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn looser_readings() {
        for (raw, seen) in [
            ("/pub/..%2fadmin", "/admin"),
            ("/pub%2f..%2fadmin", "/admin"),
            ("/pub/..;/admin", "/admin"),
            ("/pub/..;x=y/admin", "/admin"),
            ("/pub/..%3b/admin", "/admin"),
            ("/pub/%252e%252e/admin", "/admin"),
            ("/pub/%252e%252e%252fadmin", "/admin"),
            ("/pub/..%255cadmin", "/admin"),
            ("/admin;x", "/admin"),
            ("/admin%3Bx", "/admin"),
            ("/admin%3Fx", "/admin"),
            ("/admin%23", "/admin"),
            ("/admin%20", "/admin"),
            ("/admin.", "/admin"),
            ("/;/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%2561dmin", "/admin"),
            ("/ADMIN", "/admin"),
            ("/%2fadmin", "/admin"),
            ("/..%2fadmin", "/admin"),
            ("/a%2f%2f..%2fadmin", "/admin"),
            ("/a;x%2f..%2fadmin", "/a"),
            ("/a;x%2f..%2fadmin", "/admin"),
            ("/a%252Fb%2F..%2Fadmin%252Fx%252F..", "/admin/"),
            ("/%E2%84%AAey", "/key"),
        ] {
            let path = NormalPath::normalise(raw).unwrap();
            let all: Vec<String> = path.readings().map(|reading| reading.text).collect();
            assert!(all.iter().any(|text| text == seen), "{raw}: {seen} is not in {all:?}");
        }
    }

    #[test]
    fn lookalikes_of_dots_and_slashes_are_refused_or_folded() {
        for bad in
            ["/pub/..%20/admin", "/pub/%20../admin", "/a/%20.%20/b", "/a%EF%BC%8Fb", "/%E2%80%A5/x", "/%252e%2520%252e"]
        {
            assert!(NormalPath::normalise(bad).is_err(), "{bad}");
        }
        let path = NormalPath::normalise("/%EF%BD%81dmin").expect("a path");
        assert!(path.readings().any(|reading| reading.folded && reading.text == "/admin"));
        assert!(NormalPath::normalise("/My%20file%20...%20v1.%20txt").is_ok());
    }

    #[test]
    fn a_hostile_path_has_few_readings() {
        let hostile =
            ["/%25252f..%25253b%252e%252e;%2f.".repeat(200), "/a;b%2f%2f..%252f%252f..%25252f%25252f..".repeat(190)];
        for raw in hostile {
            let count = NormalPath::normalise(&raw).unwrap().readings().count();
            assert!(count < 600, "{count}");
        }
    }
}
