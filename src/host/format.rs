//! From messages to a prompt, and from an answer to what people read. What people
//! wrote is data in the prompt: it cannot end its element, nor look like another
//! message, sender or time (XML 1.0, 2.4: Character Data and Markup).

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::store::Message;

/// The messages as the agent reads them, with times in a zone.
pub fn prompt(messages: &[Message], zone: &str) -> String {
    let time_zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    let mut text = format!("<context timezone=\"{}\" />\n<messages>\n", escaped(zone));
    for message in messages {
        let time = message.time.parse::<Timestamp>().map(|at| local(&at.to_zoned(time_zone.clone())));
        let time = time.unwrap_or_else(|_| message.time.clone());
        text.push_str(&format!(
            "<message sender=\"{}\" time=\"{}\">{}</message>\n",
            escaped(&message.sender),
            escaped(&time),
            escaped(&message.text)
        ));
    }
    text.push_str("</messages>");
    text
}

fn local(at: &Zoned) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Text that means itself in an element and in an attribute. Line ends stay in
/// text as they are; other controls, which XML does not have, are shown as U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// What people read of an answer: without `<internal>…</internal>`, and without
/// what follows an `<internal>` that is not closed. `None` when nothing is left.
pub fn for_people(answer: &str) -> Option<String> {
    let mut out = String::with_capacity(answer.len());
    let mut rest = answer;
    while let Some(begin) = find_tag(rest, "<internal>") {
        out.push_str(&rest[..begin]);
        rest = match find_tag(&rest[begin..], "</internal>") {
            Some(end) => &rest[begin + end + "</internal>".len()..],
            None => "",
        };
    }
    out.push_str(rest);
    let trimmed = out.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

fn find_tag(text: &str, tag: &str) -> Option<usize> {
    let wanted = tag.as_bytes();
    text.as_bytes().windows(wanted.len()).position(|window| window.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(sender: &str, text: &str) -> Message {
        Message {
            seq: 1,
            chat: "c".to_owned(),
            sender: sender.to_owned(),
            text: text.to_owned(),
            time: "2027-01-01T12:00:00.000Z".to_owned(),
        }
    }

    #[test]
    fn a_prompt_is_what_it_should_be() {
        let text = prompt(&[message("Ann", "a < b & \"c\""), message("B\"ob", "x")], "Europe/Berlin");
        assert_eq!(
            text,
            "<context timezone=\"Europe/Berlin\" />\n<messages>\n\
             <message sender=\"Ann\" time=\"2027-01-01 13:00:00\">a &lt; b &amp; &quot;c&quot;</message>\n\
             <message sender=\"B&quot;ob\" time=\"2027-01-01 13:00:00\">x</message>\n</messages>"
        );
    }

    /// Reads a prompt back as an XML parser would: sender, time and text of each message.
    fn read_back(text: &str) -> Vec<(String, String, String)> {
        let plain =
            |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
        let mut found = Vec::new();
        for part in text.split("<message ").skip(1) {
            let (head, body) = part.split_once('>').expect("an end of the tag");
            let (body, _) = body.split_once('<').expect("a closing tag");
            let mut values = head.split('"').skip(1).step_by(2).map(plain);
            found.push((values.next().expect("a sender"), values.next().expect("a time"), plain(body)));
        }
        found
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_looks_like_another_message(
            said in proptest::collection::vec((".{0,40}", r#"(</?messages?( sender="x" time="y")?>|&[a-z]{1,4};|["'<>&\PC\n]){0,30}"#), 1..5)
        ) {
            let messages: Vec<Message> = said.iter().map(|(sender, text)| message(sender, text)).collect();
            let text = prompt(&messages, "UTC");
            prop_assert_eq!(text.matches("<message ").count(), messages.len());
            prop_assert_eq!(text.matches("</message>").count(), messages.len());
            prop_assert_eq!(text.matches("</messages>").count(), 1);
            prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
            let clean = |text: &str| -> String {
                text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
            };
            let wanted: Vec<_> = messages
                .iter()
                .map(|one| (clean(&one.sender), "2027-01-01 12:00:00".to_owned(), clean(&one.text)))
                .collect();
            prop_assert_eq!(read_back(&text), wanted);
        }

        #[test]
        fn nothing_internal_goes_out(parts in proptest::collection::vec(
            prop_oneof!["<internal>", "</internal>", "<INTERNAL>", "secret", "a ", "é", "<"], 0..20)) {
            let all = parts.concat();
            let shown = for_people(&all).unwrap_or_default();
            prop_assert!(find_tag(&shown, "<internal>").is_none(), "{}", shown);
        }
    }

    #[test]
    fn what_is_internal_is_taken_out() {
        for (answer, shown) in [
            ("a<internal>b</internal>c", Some("ac")),
            ("<internal>\nall\n</internal>", None),
            ("yes <Internal>x", Some("yes")),
            ("a<internal>b</internal><internal>c</INTERNAL>d", Some("ad")),
            ("  ", None),
            ("no tags", Some("no tags")),
        ] {
            assert_eq!(for_people(answer).as_deref(), shown, "{answer}");
        }
    }
}
