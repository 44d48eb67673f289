//! What a value looks like when an encoder has had it that changes every byte:
//! each form is a byte string to search for. Escapes are read by `reading`.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use zeroize::{Zeroize, Zeroizing};

/// A form; it is as sensitive as the value.
pub(super) type Form = Zeroizing<Vec<u8>>;

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// The forms that are found only as they are: hexadecimal, wide text.
pub(super) fn of(value: &[u8]) -> Vec<Form> {
    let mut forms = vec![hex(value, LOWER), hex(value, UPPER)];
    if let Ok(text) = std::str::from_utf8(value) {
        forms.push(gathered(text.encode_utf16().flat_map(u16::to_le_bytes), value.len() * 2));
    }
    forms
}

/// The base64 of `value` in both alphabets, in texts of every alignment.
pub(super) fn base64(value: &[u8]) -> Vec<Form> {
    let one = |alphabet| (0..3).map(move |before| base64_after(before, value, alphabet));
    [&STANDARD, &URL_SAFE].into_iter().flat_map(one).collect()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

    use super::*;

    /// Whether one of the forms is found in `text`.
    fn found(value: &[u8], text: &[u8]) -> bool {
        base64(value).iter().any(|form| form.len() >= 6 && text.windows(form.len()).any(|part| part == form.as_slice()))
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
            let longest = base64(&value)
                .into_iter()
                .filter(|form| encoded.as_bytes().starts_with(form))
                .map(|form| form.len())
                .max();
            assert_eq!(longest, Some(length * 8 / 6));
        }
    }

    #[test]
    fn hex_and_wide_text() {
        let has = |value: &str, form: &[u8]| of(value.as_bytes()).iter().any(|known| known.as_slice() == form);
        assert!(has("secret", b"736563726574"));
        assert!(has("sekr\u{e9}t~", b"73656B72C3A9747E"));
        assert!(has("secret", b"s\0e\0c\0r\0e\0t\0"));
        assert_eq!(of(b"\xff\xfe\0\x01\x80secret")[0].as_slice(), b"fffe000180736563726574");
    }
}
