//! What people write stays what it is in the prompt: no message looks like another
//! one, nor like another sender, time or end; and nothing internal of an answer is told.
#![no_main]

use belljar::host::{for_people, prompt};
use belljar::store::Message;
use libfuzzer_sys::fuzz_target;

/// As the prompt shows it: what XML does not have is replaced.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

fn plain(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

fuzz_target!(|data: (Vec<(String, String)>, String)| {
    let (said, answer) = data;
    let messages: Vec<Message> = said
        .iter()
        .map(|(sender, text)| Message {
            seq: 1,
            chat: "c".to_owned(),
            sender: sender.clone(),
            text: text.clone(),
            time: "2027-01-01T12:00:00.000Z".to_owned(),
        })
        .collect();
    let text = prompt(&messages, "UTC");
    let body = text.strip_prefix("<context timezone=\"UTC\" />\n<messages>\n").expect("the beginning");
    let body = body.strip_suffix("</messages>").expect("the end");
    let mut rest = body;
    for (sender, said) in &said {
        let (head, after) = rest.split_once('>').expect("the end of a tag");
        let head = head.strip_prefix("<message sender=\"").expect("a message");
        let (name, time) = head.split_once("\" time=\"").expect("two attributes");
        assert_eq!((plain(name), time), (shown(sender), "2027-01-01 12:00:00\""));
        let (inner, after) = after.split_once('<').expect("a closing tag");
        assert_eq!(plain(inner), shown(said));
        rest = after.strip_prefix("/message>\n").expect("the closing tag");
    }
    assert_eq!(rest, "");
    let told = for_people(&answer).unwrap_or_default().to_ascii_lowercase();
    assert!(!told.contains("<internal>"));
});
