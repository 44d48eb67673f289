//! Patterns of paths: which paths a rule or a secret is for.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::path::{decoded, folded, stripped};
use super::{NormalPath, Problem, Reading};

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// This text.
    Text(String),
    /// `*`: any one segment.
    One,
}

/// What may follow the segments.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tail {
    /// Nothing.
    End,
    /// `/*`: anything below, or nothing.
    Rest,
    /// `/send*`: a segment that begins so, and anything below.
    Prefix(String),
}

/// A pattern as it is compared with one kind of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Form {
    segments: Vec<Segment>,
    tail: Tail,
}

/// Which paths a rule or a secret is for.
///
/// `*` as a whole segment is any one segment; at the end it is the rest:
/// `/a/*` is `/a` and all below, `/v1/send*` whatever begins so. A slash at the
/// end of a path means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PathPattern {
    text: String,
    /// By how often a reading was decoded; the last one is for all deeper ones.
    forms: Vec<[Form; 2]>,
}

/// Whether a path is a pattern's in each of its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// In each one.
    Every,
    /// In none.
    Never,
    /// It depends on how the origin reads the path: refuse.
    Ambiguous,
}

impl PathPattern {
    /// Every path.
    pub fn any() -> Self {
        let form = Form { segments: Vec::new(), tail: Tail::Rest };
        Self { text: "/*".to_owned(), forms: vec![[form.clone(), form]] }
    }

    /// Reads a pattern. It is normalised like a path, and must itself read the
    /// same in each way: `;`, encoded dots behind an encoded slash and the like
    /// are refused.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if !text.starts_with('/') {
            return Err(Problem::new("a path pattern begins with `/`"));
        }
        check_stars(text)?;
        // A star is a path character and stays where it is.
        let normal = NormalPath::normalise(text)?;
        let text = normal.as_str();
        check_stars(text)?;
        let mut forms = Vec::new();
        // A star that was encoded is a character, not a wildcard.
        let mut next = Some(text.replace('*', "\0"));
        while let Some(plain) = next {
            if stripped(&plain) != plain || has_dots(&plain) {
                return Err(Problem::new(
                    "a path pattern has no `;`, no `?` or `#`, no dot or space at the end of a segment and no encoded dot segment",
                ));
            }
            forms.push([Form::new(&plain), Form::new(&folded(&plain))]);
            next = decoded(&plain);
        }
        Ok(Self { text: text.to_owned(), forms })
    }

    /// Whether the pattern is for the path as it is read here.
    pub fn matches(&self, reading: &Reading) -> bool {
        let level = usize::from(reading.decoded).min(self.forms.len() - 1);
        self.forms[level][usize::from(reading.folded)].matches(&reading.text)
    }

    /// Whether the pattern is for the path in each of its readings.
    pub fn covers(&self, path: &NormalPath) -> Coverage {
        let mut readings = path.readings().map(|reading| self.matches(&reading));
        let exact = readings.next().unwrap_or(false);
        match readings.all(|other| other == exact) {
            false => Coverage::Ambiguous,
            true if exact => Coverage::Every,
            true => Coverage::Never,
        }
    }

    /// Whether the pattern is for every path.
    pub fn is_any(&self) -> bool {
        let form = self.exact();
        form.segments.is_empty() && form.tail == Tail::Rest
    }

    /// Whether each path of `other` is one of this pattern.
    pub fn includes(&self, other: &Self) -> bool {
        self.exact().includes(other.exact())
    }

    /// Whether there is a path that both patterns are for.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.exact().overlaps(other.exact())
    }

    fn exact(&self) -> &Form {
        &self.forms[0][0]
    }
}

/// A star is a whole segment, or the last character of all.
fn check_stars(text: &str) -> Result<(), Problem> {
    let last = text.len() - 1;
    for (at, _) in text.match_indices('*') {
        let whole = text[..at].ends_with('/') && text[at + 1..].starts_with('/');
        if at != last && !whole {
            return Err(Problem::new("a `*` in a path is a whole segment, or the last character"));
        }
    }
    if text.ends_with("*/") {
        return Err(Problem::new("a path pattern does not end in `*/`: write `*` for all that follows"));
    }
    Ok(())
}

fn has_dots(text: &str) -> bool {
    text.split('/').any(|segment| matches!(segment, "." | ".."))
}

impl Form {
    /// From normal text in which `\0` stands for the wildcard.
    fn new(plain: &str) -> Self {
        let (body, wild) = match plain.strip_suffix('\0') {
            Some(body) => (body, true),
            None => (plain, false),
        };
        let mut texts: Vec<&str> = body.split('/').filter(|segment| !segment.is_empty()).collect();
        let tail = match wild {
            false => Tail::End,
            true if body.ends_with('/') => Tail::Rest,
            true => texts.pop().map_or(Tail::Rest, |text| Tail::Prefix(text.to_owned())),
        };
        let segment = |text: &str| if text == "\0" { Segment::One } else { Segment::Text(text.to_owned()) };
        Self { segments: texts.into_iter().map(segment).collect(), tail }
    }

    fn matches(&self, text: &str) -> bool {
        let mut rest = text.split('/').filter(|segment| !segment.is_empty());
        for wanted in &self.segments {
            match (wanted, rest.next()) {
                (_, None) => return false,
                (Segment::One, Some(_)) => {}
                (Segment::Text(wanted), Some(found)) if wanted == found => {}
                (Segment::Text(_), Some(_)) => return false,
            }
        }
        match &self.tail {
            Tail::End => rest.next().is_none(),
            Tail::Rest => true,
            Tail::Prefix(prefix) => rest.next().is_some_and(|found| found.starts_with(prefix)),
        }
    }

    fn includes(&self, other: &Self) -> bool {
        for (at, wanted) in self.segments.iter().enumerate() {
            match (wanted, other.segments.get(at)) {
                (Segment::One, Some(_)) => {}
                (Segment::One, None) if matches!(other.tail, Tail::Prefix(_)) && at == other.segments.len() => {}
                (Segment::Text(wanted), Some(Segment::Text(found))) if wanted == found => {}
                _ => return false,
            }
        }
        let next = other.segments.get(self.segments.len());
        match (&self.tail, next, &other.tail) {
            (Tail::Rest, _, _) => true,
            // The other's prefix was spent on a star, and anything follows it.
            _ if other.segments.len() < self.segments.len() => false,
            (Tail::End, None, Tail::End) => true,
            (Tail::Prefix(prefix), Some(Segment::Text(found)), _) => found.starts_with(prefix),
            (Tail::Prefix(prefix), None, Tail::Prefix(other)) => other.starts_with(prefix),
            _ => false,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        let agree = |(a, b): (&Segment, &Segment)| match (a, b) {
            (Segment::Text(a), Segment::Text(b)) => a == b,
            _ => true,
        };
        if !self.segments.iter().zip(&other.segments).all(agree) {
            return false;
        }
        let (short, long) = if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        match (&short.tail, long.segments.get(short.segments.len()), &long.tail) {
            (Tail::Rest, _, _) | (Tail::End, None, Tail::End | Tail::Rest) => true,
            (Tail::End, _, _) => false,
            (Tail::Prefix(_), Some(Segment::One), _) | (Tail::Prefix(_), None, Tail::Rest) => true,
            (Tail::Prefix(prefix), Some(Segment::Text(found)), _) => found.starts_with(prefix),
            (Tail::Prefix(_), None, Tail::End) => false,
            (Tail::Prefix(a), None, Tail::Prefix(b)) => a.starts_with(b) || b.starts_with(a),
        }
    }
}

impl TryFrom<String> for PathPattern {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text).map_err(|problem| {
            let shown = crate::error::printable(&text);
            Problem(format!("`{shown}` is no path pattern: {problem}"))
        })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    #[test]
    fn coverage() {
        use Coverage::{Ambiguous, Every, Never};
        for (text, path, expected) in [
            ("/*", "/", Every),
            ("/*", "/a%2f..%2fb;c/D", Every),
            ("/a/*", "/a", Every),
            ("/a/*", "/a/", Every),
            ("/a/*", "/a/b/c", Every),
            ("/a/*", "/ab", Never),
            ("/a/*", "/A/b", Ambiguous),
            ("/A/*", "/a/b", Ambiguous),
            ("/a/*", "/a/..%2fb", Ambiguous),
            ("/a/*", "/a/..;/b", Ambiguous),
            ("/a/*", "/a;x/b", Ambiguous),
            ("/a/*", "/a/b;x", Every),
            ("/a/*", "/b/../a/c", Every),
            ("/a/*", "//a//c", Every),
            ("/a", "/a/", Every),
            ("/a/", "/a", Every),
            ("/a", "/a/b", Never),
            ("/a/*/c", "/a/b/c", Every),
            ("/a/*/c", "/a/c", Never),
            ("/a/*/c", "/a/b/b/c", Never),
            ("/a/*/c", "/a/b%2fb/c", Ambiguous),
            ("/a/*/c", "/a/b%2Fc", Ambiguous),
            ("/v1/send*", "/v1/sendmail/x", Every),
            ("/v1/send*", "/v1/send", Every),
            ("/v1/send*", "/v1/sen", Never),
            ("/v1/send*", "/v1", Never),
            ("/a%20b", "/a%20b", Every),
            ("/%7euser", "/~user", Every),
            ("/@scope%2f*", "/@scope%2fname", Every),
            ("/@scope/*", "/@scope%2fname", Ambiguous),
            ("/x", "/@scope%2fname", Never),
            ("/a%2Ab", "/a%2ab", Every),
            ("/a%2Ab", "/a*b", Ambiguous),
            ("/a%3Ab", "/a:b", Ambiguous),
            ("/a%3Ab", "/a%3ab", Every),
            ("/a:b", "/a%3ab", Ambiguous),
            ("/a%2Fb", "/a/b", Ambiguous),
            ("/a%2540b", "/a@b", Ambiguous),
        ] {
            let covered = pattern(text).covers(&NormalPath::normalise(path).unwrap());
            assert_eq!(covered, expected, "{text} {path}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "*",
            "a",
            "/a*b",
            "/a*/b",
            "/*a",
            "/**",
            "/a/**",
            "/a/*/",
            "/a;b",
            "/a%3bb",
            "/a?b",
            "/a%3fb",
            "/a#",
            "/a b",
            "/a.",
            "/a%20",
            "/a%2f..%2fb",
            "/../a",
            "/a\\b",
            "/é",
            "/%",
            "/a/../../*",
            "/*/../..",
            "/%252e%252e",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(pattern("/a/./b//%7e/../*").to_string(), "/a/b/*");
    }

    #[test]
    fn inclusion_and_overlap() {
        for (one, other, includes, overlaps) in [
            ("/*", "/a", true, true),
            ("/a", "/*", false, true),
            ("/a/*", "/a", true, true),
            ("/a/*", "/a/*/b", true, true),
            ("/a/*/b", "/a/x/b", true, true),
            ("/a/*/b", "/a/*", false, true),
            ("/a/x*", "/a/xy*", true, true),
            ("/a/xy*", "/a/x*", false, true),
            ("/a/x*", "/a/y*", false, false),
            ("/a/x*", "/a/xyz/b", true, true),
            ("/a/x*", "/a/*/b", false, true),
            ("/a/*/*", "/a/x*", true, true),
            ("/a/*/b/*", "/a/x*", false, true),
            ("/a", "/b", false, false),
            ("/a", "/a/b", false, false),
            ("/a/x*", "/a", false, false),
            ("/a/x*", "/a/*", false, true),
            ("/a/*", "/a/x*", true, true),
            ("/*/b", "/a/*", false, true),
            ("/*/x*", "/a*", false, true),
        ] {
            assert_eq!(pattern(one).includes(&pattern(other)), includes, "{one} includes {other}");
            assert_eq!(pattern(one).overlaps(&pattern(other)), overlaps, "{one} overlaps {other}");
            assert_eq!(pattern(other).overlaps(&pattern(one)), overlaps, "{other} overlaps {one}");
        }
    }
}
