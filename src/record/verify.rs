//! Checking the record: which line does not follow from the one before, and why.

use std::collections::HashMap;
use std::fmt::{self, Display};

use serde::Deserialize;

use super::{Head, first, link};

/// How a record is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// A line is not what was written.
    Changed,
    /// Lines are missing.
    Removed,
    /// A line was added.
    Inserted,
    /// A line is at another place than it was.
    Reordered,
    /// The end is missing.
    Truncated,
    /// It is a chain, but not the one that the receipt names.
    Replaced,
}

/// What checking found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Every line follows from the one before, down to the end line.
    Intact(Head),
    /// Every line follows from the one before; there is no end line.
    Unfinished(Head),
    /// It does not.
    Broken {
        /// The first line that is wrong, from 1.
        line: usize,
        /// How.
        how: Break,
        /// In words.
        why: String,
    },
}

impl Display for Break {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Inserted => "inserted",
            Self::Reordered => "reordered",
            Self::Truncated => "truncated",
            Self::Replaced => "replaced",
        })
    }
}

/// What each line has, whatever it is about.
#[derive(Deserialize)]
struct Member {
    seq: u64,
    run: String,
    group: String,
    kind: String,
    #[serde(default)]
    count: Option<u64>,
}

struct Line<'a> {
    /// Without its `chain`, as it was hashed.
    text: String,
    chain: &'a str,
    member: Member,
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    let (open, rest) = line.rsplit_once(",\"chain\":\"")?;
    let chain = rest.strip_suffix("\"}")?;
    let is_hash = chain.len() == 64 && chain.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let text = format!("{open}}}");
    let member = serde_json::from_str(&text).ok()?;
    is_hash.then_some(Line { text, chain, member })
}

/// Checks the record of a run, and against the head in its receipt, if that has
/// one.
pub fn verify(text: &[u8], run: &str, group: &str, receipt: Option<&Head>) -> Finding {
    let broken = |line: usize, how, why: String| Finding::Broken { line, how, why };
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let lines: Vec<Option<Line<'_>>> = text[..whole]
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| parse(line.strip_suffix(b"\n").unwrap_or(line)))
        .collect();
    let start = first(run, group);
    let mut head = Head { count: 0, chain: start.clone() };
    let mut ended = false;
    for (index, line) in lines.iter().enumerate() {
        if ended {
            return broken(index + 1, Break::Inserted, "it comes after the end line".to_owned());
        }
        let follows = line.as_ref().filter(|line| link(&head.chain, &line.text) == line.chain);
        let Some(line) = follows else {
            let (how, why) = diagnose(&lines, index, &head, &start);
            return broken(index + 1, how, why);
        };
        // The chain holds: what contradicts itself was written so on purpose.
        let member = &line.member;
        ended = member.kind == "end";
        let counted = if ended { member.count == Some(head.count) } else { member.count.is_none() };
        if member.seq != head.count + 1 || member.run != run || member.group != group || !counted {
            let why = "its number, run or group is not the one that belongs here";
            return broken(index + 1, Break::Replaced, why.to_owned());
        }
        head.count += u64::from(!ended);
        line.chain.clone_into(&mut head.chain);
    }
    let after = lines.len() + 1;
    if whole < text.len() {
        let why = "it ends in the middle: the run was killed while it wrote, or the file was cut";
        return broken(after, Break::Truncated, why.to_owned());
    }
    match receipt {
        Some(receipt) if *receipt == head && ended => Finding::Intact(head),
        Some(receipt) if receipt.count > head.count || (!ended && receipt.count == head.count) => {
            let why = format!("the receipt counts {} requests and an end line", receipt.count);
            broken(after, Break::Truncated, why)
        }
        Some(receipt) => {
            let why = format!("the chain ends otherwise than the receipt says ({} requests)", receipt.count);
            broken(lines.len().max(1), Break::Replaced, why)
        }
        None if ended => Finding::Intact(head),
        None => Finding::Unfinished(head),
    }
}

/// Why the line at `index` does not follow from `head`.
fn diagnose(lines: &[Option<Line<'_>>], index: usize, head: &Head, start: &str) -> (Break, String) {
    let expected = head.count + 1;
    // The values that lines can follow from, each with the number of its line.
    let places: HashMap<&str, usize> = std::iter::once((start, 0))
        .chain(lines.iter().enumerate().filter_map(|(at, line)| Some((line.as_ref()?.chain, at + 1))))
        .collect();
    let follows = |line: &Line<'_>, previous: &str| link(previous, &line.text) == line.chain;
    let next_true =
        lines[index + 1..].iter().position(|line| line.as_ref().is_some_and(|line| follows(line, &head.chain)));
    let Some(line) = &lines[index] else {
        return match next_true {
            Some(distance) => (Break::Inserted, format!("the line that belongs here is line {}", index + 2 + distance)),
            None => (Break::Changed, "it is no line of a record".to_owned()),
        };
    };
    let after = places.iter().find(|(previous, _)| follows(line, previous)).map(|(_, place)| *place);
    match (next_true, after) {
        (Some(distance), Some(place)) if place > index => {
            (Break::Reordered, format!("it belongs after line {place}; line {} belongs here", index + 2 + distance))
        }
        (Some(distance), Some(place)) => {
            (Break::Inserted, format!("it follows from line {place}; line {} belongs here", index + 2 + distance))
        }
        (Some(distance), None) => (Break::Inserted, format!("line {} belongs here", index + 2 + distance)),
        // The one that belongs here is nowhere.
        (None, Some(place)) if place > index => (Break::Reordered, format!("it belongs after line {place}")),
        (None, Some(place)) => (Break::Inserted, format!("it follows from line {place} already")),
        (None, None) if line.member.seq > expected => {
            let last = line.member.seq - 1;
            let numbers = if last == expected { format!("{last}") } else { format!("{expected} to {last}") };
            (Break::Removed, format!("request {numbers} is missing before it"))
        }
        (None, None) => {
            let next_follows =
                lines.get(index + 1).and_then(Option::as_ref).is_some_and(|next| follows(next, line.chain));
            if next_follows || index + 1 == lines.len() {
                (Break::Changed, "it is not what was written".to_owned())
            } else {
                (Break::Changed, "it is not what was written, or the line before it is not".to_owned())
            }
        }
    }
}
