//! The redactor: chunks as they come, against the whole text and against a
//! search that knows nothing of streams. And how much comes at once does not
//! tell one secret from another.
//!
//! The first byte is the length of the secret, the next bytes are the secret,
//! then one byte says how the rest is cut. A `\x01` in the rest stands for the
//! secret, so that mutations keep it whole.
#![no_main]

use belljar::gateway::redact::{Needles, Redactor, SHORTEST};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The characters that the value alone decides, when it begins a text.
fn base64(value: &[u8]) -> Vec<u8> {
    let bit = |at: usize| value[at / 8] >> (7 - at % 8) & 1;
    (0..value.len() * 8 / 6)
        .map(|at| BASE64[(0..6).fold(0, |number, next| number << 1 | usize::from(bit(at * 6 + next)))])
        .collect()
}

fn percent(value: &[u8]) -> Vec<u8> {
    value
        .iter()
        .flat_map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => vec![*byte],
            _ => format!("%{byte:02X}").into_bytes(),
        })
        .collect()
}

/// Every byte escaped, in two ways by turns.
fn mixed(value: &[u8]) -> Vec<u8> {
    let one = |(at, byte): (usize, &u8)| match at % 2 {
        0 => format!("%25{byte:02x}"),
        _ => format!("\\\\x{byte:02X}"),
    };
    value.iter().enumerate().flat_map(|numbered| one(numbered).into_bytes()).collect()
}

/// In lines of ten characters.
fn lines(base64: &[u8]) -> Vec<u8> {
    base64.chunks(10).collect::<Vec<_>>().join(&b"\r\n"[..])
}

/// Each byte that lies in an occurrence of `needle`.
fn mark(text: &[u8], needle: &[u8], marks: &mut [bool]) {
    if needle.len() < SHORTEST {
        return;
    }
    for (at, window) in text.windows(needle.len()).enumerate() {
        if window == needle {
            marks[at..at + needle.len()].fill(true);
        }
    }
}

/// Another secret of the same length, with its white space at the same places.
fn another(secret: &[u8]) -> Vec<u8> {
    let other = |byte: &u8| if byte.is_ascii_whitespace() || (byte ^ 1).is_ascii_whitespace() { *byte } else { byte ^ 1 };
    secret.iter().map(other).collect()
}

/// How much comes with each chunk, and what is let go after every third.
fn sizes(needles: &Needles, text: &[u8], chunk: usize) -> Vec<usize> {
    let mut redactor = Redactor::new(needles.clone());
    let mut sizes = Vec::new();
    for (number, piece) in text.chunks(chunk).enumerate() {
        sizes.push(redactor.push(Bytes::copy_from_slice(piece)).len());
        if number % 3 == 2 {
            sizes.push(usize::from(redactor.waits_after_a_line()));
            sizes.push(redactor.let_go().len());
        }
    }
    sizes.push(redactor.finish().len());
    sizes
}

fuzz_target!(|data: &[u8]| {
    let Some((&length, rest)) = data.split_first() else { return };
    let Some((secret, rest)) = rest.split_at_checked(usize::from(length % 40)) else { return };
    let Some((&cut, rest)) = rest.split_first() else { return };
    let secret = secret.trim_ascii();
    let mut text = Vec::new();
    for &byte in rest {
        match byte {
            1 => text.extend_from_slice(secret),
            2 => text.extend(base64(secret)),
            3 => text.extend(percent(secret)),
            4 => text.extend(mixed(secret)),
            5 => text.extend(lines(&base64(secret))),
            _ => text.push(byte),
        }
    }

    let needles = Needles::new(std::iter::once(secret));
    let mut redactor = Redactor::new(needles.clone());
    let mut masked = Vec::new();
    for chunk in text.chunks(usize::from(cut % 17) + 1) {
        masked.extend_from_slice(&redactor.push(Bytes::copy_from_slice(chunk)));
    }
    masked.extend_from_slice(&redactor.finish());

    let mut whole = text.clone();
    let count = needles.mask_bytes(&mut whole);
    assert_eq!(masked, whole, "the borders of chunks matter");
    assert_eq!(redactor.count(), count);

    assert_eq!(masked.len(), text.len());
    assert!(masked.iter().zip(&text).all(|(new, old)| new == old || *new == b'*'));
    let mut marks = vec![false; text.len()];
    // What is too short to look for has no other form either.
    if secret.len() >= SHORTEST {
        for form in [secret.to_vec(), base64(secret), percent(secret), mixed(secret), lines(&base64(secret))] {
            mark(&text, &form, &mut marks);
        }
    } else {
        assert_eq!(masked, text);
    }
    for (at, marked) in marks.iter().enumerate() {
        assert!(!marked || masked[at] == b'*', "byte {at} of a secret got through");
    }

    // Wide text of other alphabets has bytes that look like white space.
    if secret.is_ascii() {
        let other = Needles::new(std::iter::once(another(secret).as_slice()));
        let chunk = usize::from(cut % 17) + 1;
        assert_eq!(sizes(&needles, &text, chunk), sizes(&other, &text, chunk), "sizes tell of the secret");
    }
});
