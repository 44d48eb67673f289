//! Texts on their way in and out. What comes in is a stranger's, what goes out is an
//! agent's: neither is believed to be text only.

/// Longest text of a line that is sent, in bytes: what the server puts before it for
/// the others has to be in the same 512 bytes (RFC 2812, section 2.3).
const LONGEST: usize = 400;
/// What a server allows for a line with its CR LF.
const LINE: usize = 512;
/// No line is shorter than this for a long name's sake.
const SHORTEST: usize = 100;
/// A line is broken at a space when one is in its last bytes, so many.
const NEAR: usize = 80;

const CTCP: char = '\u{1}';
const COLOUR: char = '\u{3}';
const HEX_COLOUR: char = '\u{4}';
/// Bold, plain, fixed width, reverse, italic, struck out, underlined.
const FORMATS: [char; 7] = ['\u{2}', '\u{f}', '\u{11}', '\u{16}', '\u{1d}', '\u{1e}', '\u{1f}'];

/// What somebody said, as text: without colours and other formatting, without control
/// characters. None when it says nothing, or was for the program and not for people.
pub(super) fn said(nick: &str, raw: &str) -> Option<String> {
    let Some(request) = raw.strip_prefix(CTCP) else {
        return Some(plain(raw)).filter(|text| !text.trim().is_empty());
    };
    let action = request.strip_prefix("ACTION ")?;
    Some(format!("* {nick} {}", plain(action)))
}

/// Without formatting and control characters.
pub(super) fn plain(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            COLOUR => rest = after_colours(rest, 1..=2, |c| c.is_ascii_digit()),
            HEX_COLOUR => rest = after_colours(rest, 6..=6, |c| c.is_ascii_hexdigit()),
            '\t' => out.push(c),
            _ if c.is_control() => {}
            _ => out.push(c),
        }
    }
    out
}

/// What is after `FOREGROUND` or `FOREGROUND,BACKGROUND`, each of so many digits.
fn after_colours(text: &str, digits: std::ops::RangeInclusive<usize>, is_digit: impl Fn(char) -> bool) -> &str {
    let after_one = |text: &'_ str| {
        let count = text.chars().take(*digits.end()).take_while(|c| is_digit(*c)).count();
        // Digits are ASCII.
        digits.contains(&count).then_some(count)
    };
    let Some(foreground) = after_one(text) else { return text };
    let rest = &text[foreground..];
    match rest.strip_prefix(',').and_then(after_one) {
        Some(background) => &rest[1 + background..],
        None => rest,
    }
}

/// The longest text of a line to this target, in bytes. `source` is what the server
/// puts before it: `nick!user@host`, where it is known.
pub(super) fn room(source: Option<&str>, nick: &str, target: &str) -> usize {
    // RFC 2812: users have 10 characters at most, hosts 63.
    let source = source.map_or(nick.len() + 75, str::len);
    let around = ":".len() + source + " PRIVMSG ".len() + target.len() + " :".len() + "\r\n".len();
    LINE.saturating_sub(around).clamp(SHORTEST, LONGEST)
}

/// The lines that say this text, each at most `room` bytes, none of them empty.
///
/// What ends a line in IRC cannot be in one, nor what begins a request to programs
/// (CTCP), nor other control characters; bold and colours can.
pub(super) fn lines(text: &str, room: usize) -> Vec<String> {
    let is_good = |c: &char| !c.is_control() || *c == '\t' || *c == COLOUR || *c == HEX_COLOUR || FORMATS.contains(c);
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let line: String = line.chars().filter(is_good).collect();
        if line.trim().is_empty() {
            continue;
        }
        let mut rest = line.as_str();
        while rest.len() > room {
            let (line, more) = rest.split_at(break_before(rest, room));
            lines.push(line.to_owned());
            rest = more;
        }
        if !rest.is_empty() {
            lines.push(rest.to_owned());
        }
    }
    lines
}

/// Where to break a text that is longer than `room`: after a space near the end, or
/// between two characters.
fn break_before(text: &str, room: usize) -> usize {
    let boundary = |at: usize| (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let end = boundary(room);
    let near = boundary(end.saturating_sub(NEAR));
    match text[near..end].rfind(' ') {
        Some(space) => near + space + 1,
        None => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strangers_texts_are_text() {
        for (raw, text) in [
            ("hi", Some("hi")),
            ("\u{2}b\u{3}04,12red\u{3} \u{3}4,x\u{4}ff00ff,00FF00y\u{1f}\u{1d}\u{1b}[31m", Some("bred ,xy[31m")),
            ("\u{3}123\u{3},5", Some("3,5")),
            ("\u{3}", None),
            ("a\tb\0\u{7f}\u{85}", Some("a\tb")),
            ("\u{1}ACTION waves\u{1}", Some("* al waves")),
            ("\u{1}VERSION\u{1}", None),
            ("\u{1}DCC SEND x 1 2\u{1}", None),
            (" ", None),
        ] {
            assert_eq!(said("al", raw).as_deref(), text, "{raw:?}");
        }
    }

    #[test]
    fn a_text_cannot_be_more_than_text() {
        assert_eq!(lines("hi\r\nQUIT :x", 400), ["hi", "QUIT :x"]);
        assert_eq!(lines("\nJOIN #evil\0\r", 400), ["JOIN #evil"]);
        assert_eq!(lines("\u{1}DCC SEND\u{1}", 400), ["DCC SEND"]);
        assert_eq!(lines(" \n\r\n\t", 400), Vec::<String>::new());
        assert_eq!(lines(&"ab ".repeat(50), 100)[0].len(), 99);
        assert_eq!(lines(&"ä".repeat(100), 101), ["ä".repeat(50), "ä".repeat(50)]);
    }

    #[test]
    fn a_line_leaves_room_for_what_comes_before_it() {
        assert_eq!(room(Some("jar!~jar@localhost"), "jar", "#ops"), 400);
        assert_eq!(room(Some(&"x".repeat(120)), "jar", "#ops"), 512 - 138);
        assert_eq!(room(None, &"n".repeat(200), &"#".repeat(200)), 100);
    }

    proptest! {
        #[test]
        fn lines_are_short_and_whole(text in "(?s).{0,900}", room in 100usize..=400) {
            let lines = lines(&text, room);
            prop_assert!(lines.iter().all(|line| !line.is_empty() && line.len() <= room));
            let is_whole = lines.iter().all(|line| !line.contains(['\r', '\n', '\0', '\u{1}']));
            prop_assert!(is_whole);
            let letters = |text: &str| text.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }

        #[test]
        fn whatever_is_said_has_no_control_characters(raw in "(?s).{0,300}") {
            prop_assert!(plain(&raw).chars().all(|c| c == '\t' || !c.is_control()));
        }
    }
}
