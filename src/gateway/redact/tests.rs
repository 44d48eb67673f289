//! Values in all kinds of dresses, in one piece and in chunks.
#![allow(clippy::unwrap_used, missing_docs)]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::body::Bytes;

use super::needles::tests::Numbers;
use super::{Needles, Redactor};

const VALUE: &str = "c4/n+a ry&<\"'\\>é\u{1f511}%z";

fn needles(value: &[u8]) -> Needles {
    Needles::new([value].into_iter())
}

/// What comes out in chunks of random lengths; it must be what comes out of the whole.
fn streamed(needles: &Needles, text: &[u8], numbers: &mut Numbers) -> (Vec<u8>, u64) {
    let mut whole = text.to_vec();
    let count = needles.mask_bytes(&mut whole);
    let longest = [2, 5, 20, 400][numbers.below(4)];
    let mut redactor = Redactor::new(needles.clone());
    let (mut out, mut seen) = (Vec::new(), 0);
    while seen < text.len() {
        let end = text.len().min(seen + 1 + numbers.below(longest));
        out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(&text[seen..end])));
        seen = end;
        assert_eq!(out.len() + redactor.held(), seen);
    }
    out.extend_from_slice(&redactor.finish());
    let shown = String::from_utf8_lossy(text);
    assert!(out == whole, "{shown}\n{}\n{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&whole));
    assert_eq!(redactor.count(), count, "{shown}");
    (whole, count)
}

#[track_caller]
fn hidden(value: &str, form: &str) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let text = format!("<<{form}>>");
    let expected = format!("<<{}>>", "*".repeat(form.len()));
    for _ in 0..8 {
        let (masked, count) = streamed(&needles(value.as_bytes()), text.as_bytes(), &mut numbers);
        assert_eq!((String::from_utf8(masked).unwrap(), count), (expected.clone(), 1), "{value:?} as {form:?}");
    }
}

#[track_caller]
fn shown(value: &str, text: &str) {
    assert_eq!(needles(value.as_bytes()).mask_text(text), (text.to_owned(), 0));
}

#[test]
fn encoders() {
    let encoded = serde_json::to_string("c4/n+a\n\t\u{1}ry").unwrap();
    hidden("c4/n+a\n\t\u{1}ry", &encoded[1..encoded.len() - 1]);
    hidden(VALUE, "c4%2Fn%2Ba%20ry%26%3C%22%27%5C%3E%C3%A9%F0%9F%94%91%25z"); // RFC 3986
    hidden(VALUE, "c4%2fn%2ba+ry%26%3c%22%27%5c%3e%c3%a9%f0%9f%94%91%25z"); // form
    hidden(VALUE, "c4/n+a%20ry&%3C%22'%5C%3E%C3%A9%F0%9F%94%91%25z"); // encodeURI
    hidden(VALUE, r#"c4/n+a ry&<\"'\\>é🔑%z"#);
    hidden(VALUE, r#"c4/n+a ry&<\"'\\>\u00e9\ud83d\udd11%z"#); // Python
    hidden(VALUE, r#"c4\/n+a ry&<\"'\\>\u00e9\ud83d\udd11%z"#); // PHP
    hidden(VALUE, r#"c4/n+a ry\u0026\u003c\"'\\\u003eé🔑%z"#); // Go
    hidden(VALUE, r#"c4/n\u002Ba ry\u0026\u003C\u0022\u0027\\\u003E\u00E9\uD83D\uDD11%z"#); // .NET
    hidden(VALUE, "c4/n+a ry&amp;&lt;&quot;&#x27;\\&gt;é🔑%z");
    hidden(VALUE, "c4/n+a ry&amp;&lt;&#34;&#039;\\&gt;&eacute;é🔑%z".replace("&eacute;", "").as_str());
}

#[test]
fn mixes_and_nested_escapes() {
    hidden("can\"a+ry", r#"can\"a\u002bry"#);
    hidden("can\"a+ry", r#"\u0063\u0061\u006E\u0022\u0061\u002B\u0072\u0079"#);
    hidden("c4n+ry", "%63%34%6E%2b%72%79");
    hidden("can+ary", r"can\x2bary");
    hidden("can+ary", r"can\\u002bary");
    hidden("can+ary", r"can\\\\\\\\u002bary");
    hidden("can\"ary", r#"can\\\"ary"#);
    hidden("can+ary", "can%252Bary");
    hidden("can+ary", "can%25252Bary");
    hidden("can+ary", "can&#43;ary");
    hidden("can+ary", "can&#x2b;a&#x72;y");
    hidden("can+ary", "can&#X002B;ary");
    hidden("can&ary", "can&amp;amp;ary");
    hidden("can\"ary", "can&amp;quot;ary");
    hidden("can\"ary", "can&amp;amp;#34;ary");
    // Two kinds of encoders, one after the other.
    hidden("can\"a+ry", "can%5C%22a%5Cu002bry");
    hidden("can<ary", r"can\u0026lt;ary");
    hidden("can<ary", "can%26lt%3Bary");
    hidden("can\"ary", r"can\&quot;ary");
    hidden("can\\ary", r"can\\\\\\\\ary");
    hidden("can\\\"ary", r#"can\\\\\\\"ary"#);
    hidden("\\\\\\\\\\\\x", r"\\\\\\\\\\\\\\\\\\\\\\\\x");
    hidden("%41%41%41", "%41%41%41");
    hidden("%41%41%41", "%2541%2541%2541");
    hidden("a b c d e", "a+b%20c d+e");
    hidden("++++++", "%2B+%252B+++");
    hidden("&amp;&amp;", "&amp;amp;&amp;amp;");
}

/// `text` cut into lines.
fn folded(text: &str, columns: usize, end: &str) -> String {
    let lines: Vec<_> = text.as_bytes().chunks(columns).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(end)
}

#[test]
fn base64_in_lines() {
    let mut numbers = Numbers(0xdead_beef_cafe_f00d);
    let value = b"canary\xff\xfe\xfb?~-0123456789-abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGHIJKLMNOPQ";
    for before in ["", "u", "me", "me:", "someone with a name that fills a line, and more:"] {
        for end in ["\n", "\r\n", "\\n", "\\r\\n", "\\\\n", "%0A", "%0d%0a", "\r\n ", "\n\t", "&#10;", "\\u000a"] {
            for columns in [1, 10, 64, 76] {
                let text = [before.as_bytes(), value].concat();
                for encoded in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
                    let text = format!("x: \"{}\"", folded(&encoded, columns, end));
                    let (masked, count) = streamed(&needles(value), text.as_bytes(), &mut numbers);
                    assert_eq!(count, 1, "{text}");
                    let rest = String::from_utf8(masked).unwrap().replace('*', "");
                    // What is left is of what stood before, or of padding and bits of others.
                    let most = 4 + 2 + (before.len() * 8 / 6 + 2) * (1 + end.len()) + 3 + 3 * end.len();
                    assert!(rest.len() <= most, "{text}\n{rest}");
                }
            }
        }
    }
    let encoded = STANDARD.encode("\u{fb}\u{ff}??>>~~aaa").replace('=', "");
    assert!(encoded.contains(['+', '/']));
    for plus in ["%2B", "\\u002b", "&#43;", "%252b"] {
        for slash in ["\\/", "%2F", "&#x2f;", "\\\\/"] {
            let text = folded(&encoded, 3, "\n").replace('+', plus).replace('/', slash);
            assert_eq!(needles("\u{fb}\u{ff}??>>~~aaa".as_bytes()).mask_bytes(&mut text.into_bytes()), 1);
        }
    }
}

/// `c` in some way to write it.
fn written(c: char, numbers: &mut Numbers) -> String {
    let mixed = |text: String, numbers: &mut Numbers| -> String {
        text.chars().map(|c| if numbers.below(2) == 0 { c.to_ascii_uppercase() } else { c }).collect()
    };
    let slashes = "\\".repeat(1 + numbers.below(if c == '\\' { 7 } else { 8 }));
    let again = "25".repeat(numbers.below(5));
    let amp = "amp;".repeat(numbers.below(5));
    match numbers.below(9) {
        0 => {
            let one =
                |unit: &u16| format!("{slashes}u{}", mixed(format!("{unit:04x}"), &mut Numbers(7 + u64::from(*unit))));
            c.encode_utf16(&mut [0; 2]).iter().map(one).collect()
        }
        1 => {
            let bytes = c.to_string().into_bytes();
            bytes.iter().map(|byte| format!("%{again}{}", mixed(format!("{byte:02x}"), numbers))).collect()
        }
        2 => format!("&{amp}#{};", c as u32),
        3 => format!("&{amp}#x{};", mixed(format!("{:x}", c as u32), numbers)),
        4 if c.is_ascii() => format!("{slashes}x{:02X}", c as u32),
        5 if !c.is_ascii_alphanumeric() => format!("{slashes}{c}"),
        6 => match c {
            '"' => format!("&{amp}quot;"),
            '&' => format!("&{amp}amp;"),
            '<' => format!("&{amp}lt;"),
            '+' => format!("&{amp}plus;"),
            ' ' => "+".into(),
            c => c.into(),
        },
        _ => c.into(),
    }
}

#[test]
fn random_mixes_and_random_chunks() {
    let mut numbers = Numbers(0x0123_4567_89ab_cdef);
    let kinds: Vec<char> = "abcu25x0nrt%\\&+ \"';#<é\u{1f511}".chars().collect();
    for round in 0..2000 {
        let length = if round % 500 == 0 { 300 } else { 6 + numbers.below(30) };
        let value: String = (0..length).map(|_| kinds[numbers.below(kinds.len())]).collect();
        let value = value.trim();
        if value.len() < 6 {
            continue;
        }
        let noise = |numbers: &mut Numbers| -> String {
            let length = numbers.below(30);
            (0..length).map(|_| kinds[numbers.below(kinds.len())]).collect()
        };
        let form: String = value.chars().map(|c| written(c, &mut numbers)).collect();
        let before = noise(&mut numbers);
        let text = format!("{before}{form}{}", noise(&mut numbers));
        let (masked, count) = streamed(&needles(value.as_bytes()), text.as_bytes(), &mut numbers);
        assert!(count > 0, "{value:?}\n{text}");
        let span = before.len()..before.len() + form.len();
        assert!(
            masked[span.clone()].iter().all(|byte| *byte == b'*'),
            "{value:?}\n{text}\n{}",
            String::from_utf8_lossy(&masked)
        );
    }
}

#[test]
fn a_part_of_the_value_is_not_masked() {
    let mut numbers = Numbers(0xfeed_f00d_1234_5678);
    let value: Vec<char> = "C4nary+value/\"of\"&a\\key %é🔑 ~END".chars().collect();
    let secret: String = value.iter().collect();
    for _ in 0..800 {
        // Without the last character, or the first, or with another in the middle.
        let mut part = value.clone();
        match numbers.below(3) {
            0 => drop(part.pop()),
            1 => drop(part.remove(0)),
            _ => part[10] = 'y',
        }
        let text: String = part.into_iter().map(|c| written(c, &mut numbers)).collect();
        let (masked, count) = streamed(&needles(secret.as_bytes()), text.as_bytes(), &mut numbers);
        assert_eq!((String::from_utf8(masked).unwrap(), count), (text, 0));
    }
    shown("can+ary", "can ary can%2ary can%2bar can\\u002ary can&#4;3ary can&plusary");
    shown("canary-value", "Y2Fu YXJ5 LXZh bHVl canary value");
}

#[test]
fn what_waits_is_the_last_word_or_lines_of_base64() {
    let needles = needles(b"hunter2-canary");
    let held = |text: &str| needles.hold(text.as_bytes());
    for text in ["", "done. ", "data: {\"a\": \"b\"}\n\n", "data: yes\n\n", "data: [DONE]\r\n\r\n", "event (a)\n"] {
        assert_eq!(held(text), 0, "{text:?}");
    }
    for (text, expected) in [
        ("the end", 3),
        ("100 %", 1),
        ("{\"delta\": \"yes h", 1),
        ("a hunter2%2", 9),
        ("\u{1f600}", 4),
        // It may be base64 in lines.
        ("event a\n", 2),
        ("x Y2FuYXJ5\n", 9),
        ("x Y2FuYXJ5\r\n\t", 11),
        ("x Y2Fu\nYXJ5\nZm9", 13),
        ("data: understood\n\n", 12),
        ("data: understood\n\n\n\n\n\n\n\n\n", 0),
        ("x Y2Fu\\n YXJ5", 11),
    ] {
        assert_eq!(held(text), expected, "{text:?}");
    }
    let most = held(&"x".repeat(100_000));
    assert!((14 * 10..1024).contains(&most), "{most}");
    assert_eq!(held(&"QUJD\n".repeat(10_000)), most);
    // Where a secret has a space, a space ends nothing.
    let spaced = Needles::new([&b"correct horse"[..]].into_iter());
    assert_eq!(spaced.hold(b"a line\nthe correct ho"), 14);
}

#[test]
fn a_walk_that_is_too_long_is_no_encoders_and_what_waits_is_bounded() {
    let value = "k".repeat(4096) + &"z".repeat(4096);
    let text = "%252525256B".repeat(4096) + &"%252525257a".repeat(4096) + "!";
    let mut redactor = Redactor::new(needles(value.as_bytes()));
    let (mut out, mut most) = (Vec::new(), 0);
    for chunk in text.as_bytes().chunks(8192) {
        out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(chunk)));
        most = most.max(redactor.held());
    }
    out.extend_from_slice(&redactor.finish());
    assert!(most < 200 * 1024, "{most}");
    assert_eq!(out, ["*".repeat(text.len() - 1).as_bytes(), b"!"].concat());
    // Nothing is said of how far it came.
    let long: String = "&amp;amp;amp;amp;#000107;".repeat(8192);
    assert_eq!(needles(value.as_bytes()).mask_text(&long), (long, 0));
}
