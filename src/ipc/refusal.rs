//! What a refusal says: it quotes what an agent wrote, which is as long and as hostile
//! as the agent likes, to a log, a store and a person's terminal.

use crate::error::{Error, printable};

/// Longest part of a refusal, in characters.
const LONGEST: usize = 400;

/// The same refusal, with each part shortened and nothing in it that a terminal obeys.
pub fn bounded(error: Error) -> Error {
    let bound = |text: String| {
        let mut out = printable(&text.chars().take(LONGEST).collect::<String>());
        if text.chars().nth(LONGEST).is_some() {
            out.push('…');
        }
        out
    };
    Error {
        what: bound(error.what),
        causes: error.causes.into_iter().map(bound).collect(),
        hint: error.hint.map(bound),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_short_and_obeyed_by_no_terminal() {
        let long = format!("no such thing: {}", "\u{1b}[2J\u{202e}ü".repeat(100_000));
        let error = bounded(Error::refused(long.clone()).because(long).hint("say\nless"));
        assert!(error.with_causes().len() < 10_000 && error.what.ends_with('…'));
        let all = format!("{}{:?}", error.with_causes(), error.hint);
        assert_eq!(printable(&all), all);
        let plain = Error::refused("a").because("b").hint("c");
        assert_eq!(bounded(plain.clone()), plain);
    }
}
