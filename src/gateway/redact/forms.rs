//! What a value looks like when an encoder has had it: each form is a byte
//! string to search for. An encoder is a row of a table.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use zeroize::{Zeroize, Zeroizing};

/// A form; it is as sensitive as the value.
pub(super) type Form = Zeroizing<Vec<u8>>;

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// What percent-encoders leave as it is, beside letters and digits.
const LEFT_BY_PERCENT: [&[u8]; 7] = [
    b"-._~",                           // RFC 3986, unreserved
    b"*-._",                           // application/x-www-form-urlencoded, WHATWG URL
    b"-_.!~*'()",                      // JavaScript's encodeURIComponent
    b"-._~/",                          // Python's quote
    b"-_.!~*'();,/?:@&=+$#",           // JavaScript's encodeURI
    b"-_.!~*'();,/?:@&=+$[]\\^`{|}%",  // the query of a WHATWG URL
    b"-_.!~*'();,/:@&=+$[]\\|%\"<>^`", // Go's and others' laxer query
];

/// How an encoder writes JSON strings.
struct Json {
    /// Printable ASCII that gets a backslash.
    slashed: &'static str,
    /// Printable ASCII that becomes `\u00XX`.
    numbered: &'static str,
    /// Whether what is not ASCII becomes `\uXXXX`.
    wide: Wide,
    /// The digits of `\uXXXX`.
    digits: &'static [u8; 16],
}

#[derive(PartialEq)]
enum Wide {
    Raw,
    Numbered,
}

const JSON: [Json; 9] = [
    // serde_json, JSON.stringify
    Json { slashed: "\"\\", numbered: "", wide: Wide::Raw, digits: LOWER },
    // PHP with JSON_UNESCAPED_UNICODE
    Json { slashed: "\"\\/", numbered: "", wide: Wide::Raw, digits: LOWER },
    // Python's json.dumps
    Json { slashed: "\"\\", numbered: "", wide: Wide::Numbered, digits: LOWER },
    // PHP
    Json { slashed: "\"\\/", numbered: "", wide: Wide::Numbered, digits: LOWER },
    // Jackson with ESCAPE_NON_ASCII
    Json { slashed: "\"\\", numbered: "", wide: Wide::Numbered, digits: UPPER },
    // Go, Rails
    Json { slashed: "\"\\", numbered: "<>&", wide: Wide::Raw, digits: LOWER },
    // Gson
    Json { slashed: "\"\\", numbered: "<>&='", wide: Wide::Raw, digits: LOWER },
    // PHP with all of JSON_HEX_*
    Json { slashed: "\\/", numbered: "<>&'\"", wide: Wide::Numbered, digits: UPPER },
    // .NET's System.Text.Json
    Json { slashed: "\\", numbered: "<>&'\"+`", wide: Wide::Numbered, digits: UPPER },
];

/// What an encoder of HTML or XML writes for `"` and for `'`; all write
/// `&amp;`, `&lt;` and `&gt;`.
const HTML: [(&str, &str); 7] = [
    ("\"", "'"),          // text between tags
    ("&quot;", "'"),      // PHP before 8.1, attributes in double quotes
    ("&quot;", "&#39;"),  // JavaScript's libraries, Jinja's kin, Ruby
    ("&quot;", "&#x27;"), // Python, OWASP
    ("&quot;", "&#039;"), // PHP
    ("&quot;", "&apos;"), // XML
    ("&#34;", "&#39;"),   // Go, markupsafe
];

/// Every form of `value`, in no order and with duplicates.
pub(super) fn of(value: &[u8]) -> Vec<Form> {
    let mut forms = vec![plain(value), hex(value, LOWER), hex(value, UPPER)];
    for alphabet in [&STANDARD, &URL_SAFE] {
        forms.extend((0..3).map(|before| base64_after(before, value, alphabet)));
    }
    // Base64 is text that is encoded again when it stands in a query or in JSON.
    let mut escaped = Vec::new();
    for form in forms.iter().filter(|form| form.iter().any(|byte| !byte.is_ascii_alphanumeric())) {
        for left in LEFT_BY_PERCENT {
            for space in ["%20", "+"] {
                for digits in [UPPER, LOWER] {
                    escaped.push(percent(form, left, space, digits));
                }
            }
        }
        if let Ok(text) = std::str::from_utf8(form) {
            escaped.extend(JSON.iter().map(|encoder| json(text, encoder)));
            escaped.extend(HTML.iter().map(|quotes| html(text, *quotes)));
        }
    }
    if let Ok(text) = std::str::from_utf8(value) {
        escaped.push(gathered(text.encode_utf16().flat_map(u16::to_le_bytes), value.len() * 2));
    }
    forms.append(&mut escaped);
    forms
}

fn plain(value: &[u8]) -> Form {
    Zeroizing::new(value.to_vec())
}

/// Collects without growing: a vector that grows leaves a copy behind.
fn gathered(bytes: impl Iterator<Item = u8>, most: usize) -> Form {
    let mut form = Zeroizing::new(Vec::with_capacity(most));
    form.extend(bytes);
    form
}

fn hex(value: &[u8], digits: &[u8; 16]) -> Form {
    let digit = |number: u8| digits[usize::from(number & 15)];
    gathered(value.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]), value.len() * 2)
}

/// The base64 of a text in which `before` bytes (modulo 3) stand before the
/// value: only the characters that the value alone decides, so that what
/// follows it does not matter either.
fn base64_after(before: usize, value: &[u8], alphabet: &Alphabet) -> Form {
    let mut text = Zeroizing::new(vec![0; before]);
    text.reserve_exact(value.len());
    text.extend_from_slice(value);
    let mut encoded = Zeroizing::new(GeneralPurpose::new(alphabet, NO_PAD).encode(&*text).into_bytes());
    let fixed = (before * 8).div_ceil(6)..(text.len() * 8 / 6);
    encoded.truncate(fixed.end);
    let form = encoded.get(fixed.start..).unwrap_or_default().to_vec();
    encoded.zeroize();
    Zeroizing::new(form)
}

fn percent(value: &[u8], left: &[u8], space: &str, digits: &[u8; 16]) -> Form {
    let mut form = Zeroizing::new(Vec::with_capacity(value.len() * 3));
    for byte in value {
        match byte {
            b' ' => form.extend_from_slice(space.as_bytes()),
            byte if byte.is_ascii_alphanumeric() || left.contains(byte) => form.push(*byte),
            byte => form.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]),
        }
    }
    form
}

fn json(text: &str, encoder: &Json) -> Form {
    // The longest is six bytes for one, `\u0000`.
    let mut form = Zeroizing::new(Vec::with_capacity(text.len() * 6));
    let mut units = [0; 2];
    for c in text.chars() {
        let short = match c {
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            '\u{8}' => Some('b'),
            '\u{c}' => Some('f'),
            c if encoder.slashed.contains(c) => Some(c),
            _ => None,
        };
        let numbered = c < ' ' || encoder.numbered.contains(c) || (encoder.wide == Wide::Numbered && !c.is_ascii());
        if let Some(short) = short {
            form.extend([b'\\', short as u8]);
        } else if numbered {
            for unit in c.encode_utf16(&mut units) {
                form.extend(b"\\u");
                form.extend((0..4).rev().map(|digit| encoder.digits[usize::from(*unit >> (4 * digit) & 15)]));
            }
        } else {
            form.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    form
}

fn html(text: &str, (double, single): (&str, &str)) -> Form {
    let mut form = Zeroizing::new(Vec::with_capacity(text.len() * 6));
    for c in text.chars() {
        match c {
            '&' => form.extend(b"&amp;"),
            '<' => form.extend(b"&lt;"),
            '>' => form.extend(b"&gt;"),
            '"' => form.extend(double.as_bytes()),
            '\'' => form.extend(single.as_bytes()),
            c => form.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    form
}
