//! What CONNECT and the absolute form name.
#![no_main]

use belljar::policy::{Authority, Host, NormalPath, Scheme, Target};
use libfuzzer_sys::fuzz_target;

fn check(text: &str, authority: &Authority) {
    assert_eq!(Authority::parse(&authority.to_string()).as_ref(), Ok(authority), "not stable");
    assert!(authority.port != Some(0));
    assert!(text.bytes().all(|b| (0x21..0x7f).contains(&b) && !b"@%\\/?#,".contains(&b)), "{text:?}");
    // A port is what stands behind the last colon, and nothing else.
    let host = match authority.port {
        Some(port) => text.strip_suffix(&format!(":{port}")).unwrap(),
        None => text,
    };
    assert_eq!(Host::parse(host).as_ref(), Ok(&authority.host));
    assert!(!matches!(authority.host, Host::V6(_)) || host.starts_with('['));
}

fuzz_target!(|text: &str| {
    if let Ok(authority) = Authority::parse(text) {
        check(text, &authority);
    }
    let Ok(target) = Target::parse(text) else { return };
    let scheme = match target.scheme {
        Scheme::Http => "http://",
        Scheme::Https => "https://",
    };
    let (prefix, rest) = text.split_at(scheme.len());
    assert!(prefix.eq_ignore_ascii_case(scheme));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    check(&rest[..end], &target.authority);
    assert!(target.path.starts_with('/') && !target.path.contains('?'));
    let joined = match target.query {
        Some(query) => format!("{}?{query}", target.path),
        None => target.path.to_owned(),
    };
    assert!(joined == rest[end..] || joined.strip_prefix('/') == Some(&rest[end..]), "{text:?}");
    assert!(target.port() > 0);
    let _ = NormalPath::normalise(target.path);
});
