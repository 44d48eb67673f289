//! Hosts as they are judged. There is one spelling for each host; whatever
//! another program could read as a different host is refused, not guessed at.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use super::Problem;

/// RFC 1035, 2.3.4.
const LONGEST_LABEL: usize = 63;
/// RFC 1035, 2.3.4, without the length octets of a name's text.
const LONGEST_NAME: usize = 253;

/// A host as judged; the only form in which the gateway knows hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Lower case, no trailing dot, labels of letters, digits, `-` and `_`
    /// (RFC 1123, 2.1, and what DNS carries besides); punycode as it was sent.
    Name(String),
    /// A dotted quad.
    V4(Ipv4Addr),
    /// Mapped and translated addresses stay what they are; the dial guard
    /// looks through them.
    V6(Ipv6Addr),
}

impl Host {
    /// Reads `name`, `192.0.2.1`, `::1` or `[::1]`. Refuses userinfo, ports,
    /// percent-encoding, zones, empty and long labels, and each number that
    /// `inet_aton` reads as an address although it is no dotted quad
    /// (WHATWG URL, "ends in a number").
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(|| Problem::new("an IPv6 address lacks its `]`"))?;
            return v6(inner);
        }
        if text.contains(':') {
            return v6(text);
        }
        Self::name_or_v4(text)
    }

    pub(super) fn name_or_v4(text: &str) -> Result<Self, Problem> {
        allowed_characters(text)?;
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(Problem::new("the host is empty"));
        }
        if name.len() > LONGEST_NAME {
            return Err(Problem::new(format!("the host is longer than {LONGEST_NAME} characters")));
        }
        for label in name.split('.') {
            check_label(label)?;
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        let hex = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if hex || last.bytes().all(|b| b.is_ascii_digit()) {
            return name.parse().map(Self::V4).map_err(|_| {
                Problem::new(
                    "the host ends in a number but is no IPv4 address of four decimal numbers, such as 192.0.2.1",
                )
            });
        }
        Ok(Self::Name(name))
    }

    /// The address, when the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::V4(address) => Some(IpAddr::V4(*address)),
            Self::V6(address) => Some(IpAddr::V6(*address)),
        }
    }
}

fn v6(text: &str) -> Result<Host, Problem> {
    text.parse().map(Host::V6).map_err(|_| Problem::new("the host has a `:` but is no IPv6 address"))
}

fn allowed_characters(text: &str) -> Result<(), Problem> {
    for c in text.chars() {
        let problem = match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => continue,
            '@' => "the host has an `@`: a user name before it is not accepted".to_owned(),
            '%' => "the host has a `%`: percent-encoding and zones are not accepted".to_owned(),
            '*' => "the host has a `*`: it stands only for whole labels at the front, as in *.example".to_owned(),
            '/' => "the host has a `/`: give the host alone, without scheme and path".to_owned(),
            c if c.is_control() || c.is_whitespace() => "the host has a control character or a space".to_owned(),
            c if !c.is_ascii() => "the host is not ASCII: write it in its xn-- form".to_owned(),
            c => format!("the host has a `{c}`"),
        };
        return Err(Problem(problem));
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), Problem> {
    if label.is_empty() {
        return Err(Problem::new("the host has an empty label"));
    }
    if label.len() > LONGEST_LABEL {
        return Err(Problem::new(format!("a label of the host is longer than {LONGEST_LABEL} characters")));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(Problem::new("a label of the host begins or ends with `-`"));
    }
    Ok(())
}

impl fmt::Display for Host {
    /// As in a URL: IPv6 in brackets. [`Host::parse`] reads it back.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::V4(address) => write!(out, "{address}"),
            Self::V6(address) => write!(out, "[{address}]"),
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Host and port, as in CONNECT, `Host` and `:authority` (RFC 9110, 7.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, when it was written; never 0.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host`, `host:443` or `[v6]:443`. IPv6 needs its brackets here.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let (host, port) = if text.starts_with('[') {
            match text.split_once(']') {
                Some((_, "")) => (text, None),
                Some((inner, rest)) => {
                    let port = rest.strip_prefix(':');
                    let port = port.ok_or_else(|| Problem::new("something other than a port follows the `]`"))?;
                    (&text[..=inner.len()], Some(port))
                }
                None => (text, None),
            }
        } else {
            match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => {
                    return Err(Problem::new("the host has more than one `:`: an IPv6 address needs brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        Ok(Self { host: Host::parse(host)?, port: port.map(parse_port).transpose()? })
    }
}

/// One spelling for each port: digits without a leading zero.
fn parse_port(text: &str) -> Result<u16, Problem> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && !text.starts_with('0') => Ok(port),
        _ => Err(Problem::new("the port is no number from 1 to 65535")),
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(out, "{}:{port}", self.host),
            None => write!(out, "{}", self.host),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each_host() {
        for (text, shown) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.example", "_dmarc.example"),
            ("localhost", "localhost"),
            ("1.example", "1.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1.", "192.0.2.1"),
            ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
            ("::1", "[::1]"),
            ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
            ("0xcafe.example", "0xcafe.example"),
            ("a.0xg", "a.0xg"),
        ] {
            let host = Host::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!(host.to_string(), shown);
            assert_eq!(Host::parse(shown), Ok(host));
        }
        assert_eq!(Host::parse("localhost"), Ok(Host::Name("localhost".to_owned())));
    }

    #[test]
    fn what_could_be_read_as_another_host_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "a.".repeat(124));
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.b..",
            "user@host",
            "host:80",
            "a b",
            " a",
            "a\t",
            "a\n",
            "a\0b",
            "a%2eb",
            "%61.example",
            "a/b",
            "a\\b",
            "a?b",
            "a#b",
            "bücher.example",
            "ａ.example",
            "a。b",
            "-a.example",
            "a-.example",
            "*",
            "*.example",
            "a,b",
            "1",
            "127.1",
            "2130706433",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "127.0.0.0x1",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.1.1.1",
            "a.1",
            "a.0x",
            "a.08",
            "[::1",
            "::1]",
            "[]",
            "[a]",
            "[127.0.0.1]",
            "[::1]x",
            "[::1%25eth0]",
            "::1%eth0",
            "fe80::1%1",
            "[[::1]]",
            "1:2",
            "::ffff:0177.0.0.1",
            "[v1.a]",
            "localhost:",
            &long_label,
            &long_name,
        ] {
            assert!(Host::parse(text).is_err(), "{text:?} was read as {:?}", Host::parse(text));
        }
    }

    #[test]
    fn authorities() {
        for (text, shown) in [
            ("a.example:443", "a.example:443"),
            ("A.example", "a.example"),
            ("a.example.:1", "a.example:1"),
            ("[::1]:65535", "[::1]:65535"),
            ("[::1]", "[::1]"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(Authority::parse(text).map(|a| a.to_string()), Ok(shown.to_owned()));
        }
        for text in [
            "",
            ":",
            ":443",
            "a:",
            "a:0",
            "a:+443",
            "a:-1",
            "a: 443",
            "a:443 ",
            "a:65536",
            "a:0443",
            "a:99999999",
            "a:4４3",
            "a:443:",
            "a:1:2",
            "::1",
            "::1:443",
            "[::1]443",
            "[::1]:",
            "[::1]:0",
            "[::1]:443]",
            "u@a:443",
            "u:p@a",
            "u:p@a:443",
            "a@",
            "@a",
            "a:443/",
            "a/b:443",
            "a:443#",
            "a\r\n:443",
            "[::1]:443:1",
            "[::1",
            "[a.example]:443",
        ] {
            assert!(Authority::parse(text).is_err(), "{text:?}");
        }
    }
}
