//! The absolute form of a request-target (RFC 9112, 3.2.2), as proxies get it
//! and as a person types it for `belljar policy test`.

use super::{Authority, Problem};

/// The two schemes that the gateway speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// The port when none is written.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A URL, taken apart and not yet normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// The scheme.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
    /// The raw path for [`super::NormalPath::normalise`]; `/` when there is none.
    pub path: &'a str,
    /// What follows the first `?`, without it.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads `http://host[:port][/path][?query]`. Refuses other schemes,
    /// userinfo and fragments, which no request-target has.
    pub fn parse(text: &'a str) -> Result<Self, Problem> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| Problem::new("there is no `://`"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(Problem::new("the scheme is neither http nor https")),
        };
        if rest.contains('#') {
            return Err(Problem::new("the address has a `#`: fragments are not sent"));
        }
        let (before, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (rest, None),
        };
        // A backslash or a control character ends up in host, path or query,
        // and is refused there; the query is checked here.
        if query.is_some_and(|query| query.bytes().any(|b| b <= b' ' || b >= 0x7f)) {
            return Err(Problem::new("the query has a space, a control character or text that is not ASCII"));
        }
        let end = before.find('/').unwrap_or(before.len());
        let (authority, path) = before.split_at(end);
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { scheme, authority: Authority::parse(authority)?, path, query })
    }

    /// The port that is written, or the scheme's.
    pub fn port(&self) -> u16 {
        self.authority.port.unwrap_or(self.scheme.port())
    }
}
