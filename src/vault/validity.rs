//! What may be a secret: names, hosts, paths, headers, variables and values,
//! and two secrets that would get into each other's way.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::record::{Binding, Injection, Record, Target};
use crate::error::{Context, Error, Result};
use crate::policy::{HostPattern, PathPattern};

/// The shortest value, in bytes.
const SHORTEST: usize = 8;
/// The longest value, in bytes.
pub const LONGEST: usize = 8192;
/// Headers that say how a request is sent; a value in one would change that.
const NOT_FOR_VALUES: [&str; 9] =
    ["host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "trailer", "keep-alive", "expect"];
/// Variables without which nothing runs, or that belljar sets itself.
const NOT_FOR_PLACEHOLDERS: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "SHELL",
    "TERM",
    "LANG",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NO_PROXY",
];

/// Refuses a value that cannot be injected like that, or that could not be
/// found again in an answer. Says why; never what the value is.
pub fn check_value(value: &[u8], injection: &Injection) -> Result<()> {
    let refused = |why: &str| Err(Error::refused("the value cannot be used").because(why));
    let Ok(text) = std::str::from_utf8(value) else {
        return refused("it is not UTF-8");
    };
    if value.len() > LONGEST {
        return refused(&format!("it is longer than {LONGEST} bytes"));
    }
    if text.is_empty() {
        return refused("it is empty");
    }
    if text.chars().any(char::is_control) {
        return refused("it has a line feed, NUL or other control character in it, and cannot stand in a header");
    }
    if text.trim() != text {
        return refused("it begins or ends with a blank");
    }
    if value.len() < SHORTEST {
        return refused(&format!(
            "it is shorter than {SHORTEST} bytes, and masking so short a text in answers would mask ordinary words"
        ));
    }
    if text == super::PLACEHOLDER {
        return refused("it is the placeholder that the agent gets");
    }
    if *injection == Injection::Bearer && !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refused("a bearer token has no blanks and only ASCII characters (RFC 6750)");
    }
    Ok(())
}

/// Refuses a record that is off in itself.
pub(super) fn check_record(record: &Record) -> Result<()> {
    check_name(&record.name)?;
    if record.groups.is_empty() || record.bindings.is_empty() {
        return Err(Error::refused(format!("secret `{}` has no group or no host", record.name)));
    }
    for binding in &record.bindings {
        check_host(&binding.host)?;
        check_path(&binding.path)?;
        // As the gateway will read them.
        HostPattern::parse(&binding.host).refuse(|| format!("the host `{}`", binding.host))?;
        PathPattern::parse(&binding.path).refuse(|| format!("the path `{}`", binding.path))?;
        check_injection(&binding.injection)?;
        if binding.port == 0 {
            return Err(Error::refused("port 0 is not a port"));
        }
    }
    for endpoint in &record.denied {
        check_host(&endpoint.host)?;
        check_path(&endpoint.path)?;
        HostPattern::parse(&endpoint.host).refuse(|| format!("the denied host `{}`", endpoint.host))?;
        PathPattern::parse(&endpoint.path).refuse(|| format!("the denied path `{}`", endpoint.path))?;
    }
    record.variables.iter().try_for_each(|(name, _)| check_variable(name))
}

fn check_name(name: &str) -> Result<()> {
    let good = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if good {
        return Ok(());
    }
    // Whoever types the value in the place of the name does not want it shown.
    Err(Error::refused("that is not a name for a secret")
        .because("a name has 1 to 64 letters, digits, _, . and -, and begins with a letter or digit"))
}

fn check_host(host: &str) -> Result<()> {
    let refused = |why: &str| Err(Error::refused(format!("`{host}` is not a host for a secret")).because(why));
    if host.parse::<Ipv6Addr>().is_ok_and(|address| address.to_string() == host) || host.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    let labels: Vec<&str> = name.split('.').collect();
    let good = |label: &&str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !labels.iter().all(good) {
        return refused("a host is a name in small ASCII letters (punycode for others), without scheme, port or path");
    }
    if labels.last().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()) || last.starts_with("0x")) {
        return refused("it ends in a number and is no address in dotted decimal form");
    }
    if host.starts_with("*.") && labels.len() < 2 {
        return refused("a secret for all of a top-level domain would go to strangers");
    }
    Ok(())
}

fn check_path(path: &str) -> Result<()> {
    let refused = |why: &str| Err(Error::refused(format!("`{path}` is not a path for a secret")).because(why));
    let Some(rest) = path.strip_prefix('/') else {
        return refused("a path begins with /");
    };
    if !path.bytes().all(|c| c.is_ascii_graphic() && !b"?#%\\;".contains(&c)) {
        return refused("it has a blank, a ?, #, ;, % or backslash, or a character that is not ASCII");
    }
    let segments: Vec<&str> = rest.split('/').collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        if segment.ends_with('.') || segment.is_empty() && !last {
            return refused("it has an empty segment, or one with a dot at its end, which no request that is sent has");
        }
        if *segment == "*" && !last && segments[at + 1].is_empty() {
            return refused("it ends in */, where a * means all that follows");
        }
        let stars = segment.matches('*').count();
        if stars > 1 || stars == 1 && *segment != "*" && !(last && segment.ends_with('*')) {
            return refused("a * is one whole segment, or stands at the end");
        }
    }
    Ok(())
}

fn check_injection(injection: &Injection) -> Result<()> {
    match injection {
        Injection::Header { name, format } => {
            let refused = |why: &str| Err(Error::refused(format!("header `{name}` cannot be used")).because(why));
            if !is_token(name) || name.bytes().any(|c| c.is_ascii_uppercase()) {
                return refused("it is not the name of a header (RFC 9110, section 5.1)");
            }
            if NOT_FOR_VALUES.contains(&name.as_str()) || name.starts_with("proxy-") {
                return refused("it says how a request is sent");
            }
            if format.matches("{value}").count() != 1 {
                return refused("its value must have {value} in it exactly once");
            }
            if !format.bytes().all(|c| c == b' ' || c.is_ascii_graphic()) || format.trim() != format {
                return refused("its value has a character that is not printable ASCII, or blanks at an end");
            }
            Ok(())
        }
        Injection::Bearer => Ok(()),
        Injection::Basic { user } => {
            if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
                return Err(Error::refused("that user cannot be used")
                    .because("a user of basic authentication has no colon and no control characters (RFC 7617)"));
            }
            Ok(())
        }
        Injection::Query { name } => {
            if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.~".contains(&c)) {
                return Err(Error::refused("that query parameter cannot be used")
                    .because("its name may have letters, digits, _, -, . and ~"));
            }
            Ok(())
        }
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

fn check_variable(name: &str) -> Result<()> {
    let refused = |why: &str| Err(Error::refused(format!("variable `{name}` cannot be used")).because(why));
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if !good {
        return refused("a variable has letters, digits and _, and does not begin with a digit");
    }
    let upper = name.to_ascii_uppercase();
    if NOT_FOR_PLACEHOLDERS.contains(&upper.as_str())
        || ["LD_", "BELLJAR_"].iter().any(|prefix| upper.starts_with(prefix))
        || upper.ends_with("_PROXY")
    {
        return refused("programs or belljar need what stands in it");
    }
    Ok(())
}

/// Refuses two secrets of one group that set the same variable, or of which a
/// request could not say which is meant.
pub(super) fn check_pair(new: &Record, old: &Record) -> Result<()> {
    let Some(group) = new.groups.iter().find(|group| old.groups.contains(group)) else {
        return Ok(());
    };
    let both = |what: &str| {
        Error::refused(format!("secrets `{}` and `{}` of group {group} {what}", new.name, old.name))
            .hint(format!("choose another --group, or belljar secret remove {}", old.name))
    };
    let variable = new.variables.iter().find(|(name, _)| old.variables.iter().any(|(used, _)| used == name));
    if let Some((name, _)) = variable {
        return Err(both(&format!("both set the variable {name}")).because("the agent's tool could use one only"));
    }
    for a in &new.bindings {
        for b in old.bindings.iter().filter(|b| hosts_meet(a, b) && paths_meet(&a.path, &b.path)) {
            let (to, from) = (a.injection.target(), b.injection.target());
            let strips = |binding: &Binding, target: &Target| matches!(target, Target::Header(name) if binding.strip.contains(name));
            if to == from || strips(a, &from) || strips(b, &to) {
                return Err(both(&format!("go into the same part of a request to {}{}", b.host, b.path))
                    .because("a request could not carry both"));
            }
        }
    }
    Ok(())
}

fn hosts_meet(a: &Binding, b: &Binding) -> bool {
    let below = |name: &str, pattern: &str| {
        let parent = pattern.strip_prefix("*.");
        parent.is_some_and(|parent| name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')))
    };
    a.port == b.port && (a.host == b.host || below(&a.host, &b.host) || below(&b.host, &a.host))
}

/// Whether some path matches both patterns. `/a/*` is `/a` too, and a slash at
/// the end means nothing.
fn paths_meet(a: &str, b: &str) -> bool {
    let segments = |path| -> Vec<_> { str::trim_end_matches(path, '/').split('/').collect() };
    let (a, b) = (segments(a), segments(b));
    for at in 0..a.len().max(b.len()) {
        match (a.get(at), b.get(at)) {
            (Some(x), Some(y)) => {
                let rest = |list: &[&str]| at + 1 == list.len() && list[at].ends_with('*');
                let (x_begins, y_begins) = (x.trim_end_matches('*'), y.trim_end_matches('*'));
                let prefix = x_begins.starts_with(y_begins) || y_begins.starts_with(x_begins);
                match (rest(&a), rest(&b)) {
                    (true, true) => return prefix,
                    (true, false) => return *y == "*" || y.starts_with(x_begins),
                    (false, true) => return *x == "*" || x.starts_with(y_begins),
                    (false, false) if *x == "*" || *y == "*" || x == y => {}
                    (false, false) => return false,
                }
            }
            (Some(&"*"), None) => return at + 1 == a.len(),
            (None, Some(&"*")) => return at + 1 == b.len(),
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in
            ["api.example.com", "localhost", "*.example.com", "10.0.0.1", "::1", "xn--bcher-kva.example", "a_b.c"]
        {
            assert!(check_host(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.com",
            "*.*.com",
            "a.*",
            "A.example",
            "a.example.",
            "a..b",
            "https://a",
            "a:443",
            "u@a",
            "a/b",
            "ä.de",
            "0x7f.1",
            "127.1",
            "2130706433",
            "010.0.0.1",
            "1.2.3.4.5",
            "[::1]",
            "::0001",
            "-a.b",
            "a b",
            "a%2e",
            "a\n",
        ] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        for good in ["/", "/*", "/v1/*", "/v1/send*", "/*/x", "/a/*/b/*", "/a/", "/@scope/x"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in [
            "", "a", "*", "//", "/a//b", "/a/../b", "/./a", "/a*b", "/a*/b", "/**", "/a?x", "/%2e", "/a b", "/\\",
            "/a;b", "/a./b", "/a/*/",
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_that_meet() {
        for (a, b) in [
            ("/*", "/x"),
            ("/*", "/a/b/c"),
            ("/a/*", "/a/b"),
            ("/a*", "/ab/c"),
            ("/*/x", "/y/*"),
            ("/a/*/c", "/*/b/c"),
            ("/a/*", "/a"),
            ("/a/", "/a"),
            ("/*", "/"),
        ] {
            assert!(paths_meet(a, b) && paths_meet(b, a), "{a} {b}");
        }
        for (a, b) in [("/a", "/b"), ("/a/*", "/b/*"), ("/a/b", "/a/b/c"), ("/*/x", "/y/z"), ("/ab*", "/ac*")] {
            assert!(!paths_meet(a, b) && !paths_meet(b, a), "{a} {b}");
        }
    }

    #[test]
    fn values() {
        let bearer = |value: &str| check_value(value.as_bytes(), &Injection::Bearer).is_ok();
        assert!(bearer("sk-12345678"));
        for bad in [
            "",
            "short",
            "1234567",
            "with blank",
            " 12345678",
            "12345678\n",
            "1234\r\n5678",
            "1234\u{0}5678",
            "12345678\u{7f}",
            "пароль-пароль",
        ] {
            assert!(!bearer(bad), "{bad:?}");
        }
        assert!(!bearer(&"x".repeat(LONGEST + 1)) && bearer(&"x".repeat(LONGEST)));
        let basic = Injection::Basic { user: "u".into() };
        assert!(check_value("пароль и слово".as_bytes(), &basic).is_ok());
        assert!(check_value(b"\xff\xfe12345678", &basic).is_err());
    }

    #[test]
    fn injections() {
        let header = |name: &str, format: &str| {
            check_injection(&Injection::Header { name: name.into(), format: format.into() }).is_ok()
        };
        assert!(header("x-key", "{value}") && header("authorization", "token {value}"));
        for name in [
            "",
            "X-Key",
            "a b",
            "a:b",
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "te",
            "proxy-authorization",
        ] {
            assert!(!header(name, "{value}"), "{name}");
        }
        for format in ["", "x", "{value}{value}", "{value}\r\nx: y", " {value}"] {
            assert!(!header("x-key", format), "{format:?}");
        }
        assert!(check_injection(&Injection::Basic { user: "a:b".into() }).is_err());
        assert!(check_injection(&Injection::Query { name: "a&b".into() }).is_err());
    }
}
