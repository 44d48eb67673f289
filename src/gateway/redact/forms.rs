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
const LEFT_BY_PERCENT: [&[u8]; 9] = [
    b"-._~",                          // RFC 3986, unreserved
    b"*-._",                          // application/x-www-form-urlencoded
    b"-_.!~*'()",                     // JavaScript's encodeURIComponent
    b"-._~/",                         // Python's quote
    b"-_.!~*'();,/?:@&=+$#",          // JavaScript's encodeURI
    b"-_.!~*'();,/?:@&=+$[]\\^`{|}%", // WHATWG URL: query
    b"-_.!~*();,/?:@&=+$[]\\^`{|}%",  // query of http and https
    b"-_.!~*'();,/:@&=+$[]\\|%",      // path
    b"-_.!~*'(),&+$%",                // user and password
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

/// All of ASCII's punctuation, for encoders that leave only letters and digits.
const PUNCTUATION: &str = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

const JSON: [Json; 11] = [
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
    // OWASP's encoders for JavaScript, and whoever wants to be safe
    Json { slashed: "", numbered: PUNCTUATION, wide: Wide::Numbered, digits: UPPER },
    Json { slashed: "", numbered: PUNCTUATION, wide: Wide::Numbered, digits: LOWER },
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

    use super::*;

    const VALUE: &str = "s3/cr+e t&<\"'\\>é\u{1f511}";

    fn has(value: &str, form: &str) {
        assert!(of(value.as_bytes()).iter().any(|known| known.as_slice() == form.as_bytes()), "{value:?} as {form:?}");
    }

    /// Whether one of the forms is found in `text`.
    fn found(value: &[u8], text: &[u8]) -> bool {
        of(value).iter().any(|form| form.len() >= 6 && text.windows(form.len()).any(|part| part == form.as_slice()))
    }

    #[test]
    fn base64_is_found_in_longer_texts_of_every_alignment() {
        for value in [
            &b"secret"[..],
            b"a longer value",
            b"\xfb\xff\xfe\xfb\xff\xfe\xfb\xff",
            b"0123456789abcdef0123456789abcdef",
        ] {
            for before in ["", "u", "us", "use", "user:", "someone:", "some.one:"] {
                for after in ["", "x", "yz", "\n and so on"] {
                    let text = [before.as_bytes(), value, after.as_bytes()].concat();
                    for encoded in
                        [STANDARD.encode(&text), STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)]
                    {
                        assert!(found(value, encoded.as_bytes()), "{encoded}");
                    }
                }
            }
        }
    }

    #[test]
    fn base64_of_the_value_alone_is_a_form_but_for_a_last_character_that_others_decide() {
        for length in 6..40 {
            let value = vec![0x7e; length];
            let encoded = STANDARD_NO_PAD.encode(&value);
            let longest =
                of(&value).into_iter().filter(|form| encoded.as_bytes().starts_with(form)).map(|form| form.len()).max();
            assert_eq!(longest, Some(length * 8 / 6));
        }
    }

    #[test]
    fn percent_encodings_of_common_encoders() {
        has(VALUE, "s3%2Fcr%2Be%20t%26%3C%22%27%5C%3E%C3%A9%F0%9F%94%91"); // RFC 3986
        has(VALUE, "s3%2fcr%2be%20t%26%3c%22%27%5c%3e%c3%a9%f0%9f%94%91");
        has(VALUE, "s3%2Fcr%2Be+t%26%3C%22%27%5C%3E%C3%A9%F0%9F%94%91"); // form
        has(VALUE, "s3%2Fcr%2Be%20t%26%3C%22'%5C%3E%C3%A9%F0%9F%94%91"); // encodeURIComponent
        has(VALUE, "s3/cr%2Be%20t%26%3C%22%27%5C%3E%C3%A9%F0%9F%94%91"); // Python's quote
        has(VALUE, "s3/cr+e%20t&%3C%22'%5C%3E%C3%A9%F0%9F%94%91"); // encodeURI
    }

    #[test]
    fn json_of_common_encoders() {
        let encoded = serde_json::to_string(VALUE).unwrap();
        has(VALUE, &encoded[1..encoded.len() - 1]);
        has(VALUE, r#"s3/cr+e t&<\"'\\>é🔑"#);
        has(VALUE, r#"s3/cr+e t&<\"'\\>\u00e9\ud83d\udd11"#); // Python
        has(VALUE, r#"s3\/cr+e t&<\"'\\>\u00e9\ud83d\udd11"#); // PHP
        has(VALUE, r#"s3\/cr+e t&<\"'\\>é🔑"#);
        has(VALUE, r#"s3/cr+e t\u0026\u003c\"'\\\u003eé🔑"#); // Go
        has(VALUE, r#"s3/cr\u002Be t\u0026\u003C\u0022\u0027\\\u003E\u00E9\uD83D\uDD11"#); // .NET
        has("two\nlines\t\u{1}", r"two\nlines\t\u0001");
    }

    #[test]
    fn html_hex_and_wide_text() {
        has(VALUE, "s3/cr+e t&amp;&lt;&quot;&#x27;\\&gt;é🔑");
        has(VALUE, "s3/cr+e t&amp;&lt;&#34;&#39;\\&gt;é🔑");
        has(VALUE, "s3/cr+e t&amp;&lt;&quot;&#039;\\&gt;é🔑");
        has(VALUE, "s3/cr+e t&amp;&lt;\"'\\&gt;é🔑");
        has("secret", "736563726574");
        has("sekrét~", "73656B72C3A9747E");
        has("secret", "s\0e\0c\0r\0e\0t\0");
    }

    #[test]
    fn base64_that_is_encoded_again() {
        let value = "\u{fb}\u{ff}??>>~~".as_bytes();
        let encoded = STANDARD.encode(value);
        let encoded = encoded.trim_end_matches('=');
        assert!(encoded.contains('/') || encoded.contains('+'), "{encoded}");
        assert!(found(value, encoded.replace('+', "%2B").replace('/', "%2F").as_bytes()));
        assert!(found(value, encoded.replace('/', "\\/").as_bytes()));
    }

    #[test]
    fn bytes_that_are_no_text_have_forms_too() {
        let value = b"\xff\xfe\0\x01\x80secret";
        assert!(found(value, b"fffe000180736563726574"));
        assert!(found(value, b"%FF%FE%00%01%80secret"));
    }
}
