//! Nicknames and channels: which texts are such names, and which of them are the
//! same. A name that passed here is one argument of one command and one target.

/// Longest name, in bytes; servers allow 9 to 64 and say so with an error.
const LONGEST: usize = 200;

/// Which characters a server takes for the same (RPL_ISUPPORT, CASEMAPPING).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum CaseMapping {
    /// A to Z.
    Ascii,
    /// Also `[]\^` and `{}|~` (RFC 1459, section 2.2). What a server means that says nothing.
    #[default]
    Rfc1459,
    /// Also `[]\` and `{}|`.
    Rfc1459Strict,
}

impl CaseMapping {
    /// By its name; none for one that is not known, which stays what it was.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "ascii" => Some(Self::Ascii),
            "rfc1459" => Some(Self::Rfc1459),
            "rfc1459-strict" | "strict-rfc1459" => Some(Self::Rfc1459Strict),
            _ => None,
        }
    }

    /// The name in lower case: the same text for the same nickname or channel.
    pub(super) fn lower(self, name: &str) -> String {
        name.chars()
            .map(|c| match (c, self) {
                ('[', Self::Rfc1459 | Self::Rfc1459Strict) => '{',
                (']', Self::Rfc1459 | Self::Rfc1459Strict) => '}',
                ('\\', Self::Rfc1459 | Self::Rfc1459Strict) => '|',
                ('^', Self::Rfc1459) => '~',
                _ => c.to_ascii_lowercase(),
            })
            .collect()
    }

    /// Whether both are the same nickname or channel.
    pub(super) fn is_same(self, one: &str, other: &str) -> bool {
        self.lower(one) == self.lower(other)
    }
}

/// Why this is no channel's name.
pub(super) fn check_channel(name: &str) -> Result<(), &'static str> {
    if !is_channel(name) {
        return Err("a channel begins with #, &, + or !");
    }
    check_word(name)
}

/// Why this is no nickname. What a server has besides, masks and services on other
/// servers, is none either.
pub(super) fn check_nick(name: &str) -> Result<(), &'static str> {
    let is_special = |c: char| "[]\\`_^{|}".contains(c) || !c.is_ascii();
    match name.chars().next() {
        Some(first) if first.is_ascii_alphabetic() || is_special(first) => {}
        _ => return Err("a nickname begins with a letter or one of []\\`_^{|}"),
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || is_special(c)) {
        return Err("a nickname is of letters, digits, - and []\\`_^{|}");
    }
    check_word(name)
}

/// Whether it is meant for a channel.
pub(super) fn is_channel(name: &str) -> bool {
    name.starts_with(['#', '&', '+', '!'])
}

fn check_word(name: &str) -> Result<(), &'static str> {
    if name.len() > LONGEST {
        return Err("it is longer than 200 bytes");
    }
    // A comma is between two targets.
    if name.chars().any(|c| c == ',' || c.is_whitespace() || c.is_control()) {
        return Err("there is a space, a comma or a control character in it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_target() {
        for good in ["#ops", "&local", "#a:b", "#ö"] {
            assert_eq!(check_channel(good), Ok(()), "{good}");
        }
        for bad in ["ops", "", "#a,#b", "#a b", "#a\r\nQUIT", "#a\u{7}", "#a\0", ":#a", "@#a"] {
            assert!(check_channel(bad).is_err(), "{bad:?}");
        }
        for good in ["alice", "[x]", "_", "a-1", "Zoë"] {
            assert_eq!(check_nick(good), Ok(()), "{good}");
        }
        for bad in ["", "1a", "-a", "a b", "a,b", "$*", "a!b@c", "a@c", ":a", "a\n", "a\u{85}", "*"] {
            assert!(check_nick(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_case_is_the_servers() {
        use CaseMapping::{Ascii, Rfc1459, Rfc1459Strict};
        assert!(Rfc1459.is_same("#A[\\]^", "#a{|}~"));
        assert!(Rfc1459Strict.is_same("#A[\\]", "#a{|}") && !Rfc1459Strict.is_same("^", "~"));
        assert!(Ascii.is_same("ABZ", "abz") && !Ascii.is_same("[", "{"));
    }
}
