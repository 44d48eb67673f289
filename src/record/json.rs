//! JSON that can be shown on a terminal as it is.

use std::fmt::Write as _;

use serde::Serialize;

use crate::error::{Context, Result, is_hostile};

/// A value as one line of JSON, without a newline. What a terminal would obey is
/// written as `\uXXXX`, which means the same (RFC 8259, section 7).
pub fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).step(|| "render JSON".to_owned())?;
    Ok(text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
        out
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left_and_the_meaning_stays() {
        let text = "a\u{1b}[2J\u{9b}\u{7f}\u{202e}\u{2028}\u{61c}\u{200b}\u{e0041}\n\"\\ é 漢";
        let line = json_line(&text).expect("it can be rendered");
        assert!(!line.chars().any(is_hostile), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).expect("it is JSON"), text);
    }
}
