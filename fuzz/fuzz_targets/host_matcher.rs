//! Hosts and their patterns. The first line is a pattern, the second a host.
#![no_main]

use belljar::policy::{Host, HostPattern};
use libfuzzer_sys::fuzz_target;

/// Label by label, from the right.
fn reference(pattern: &str, host: &Host) -> bool {
    let labels = |text: &str| -> Vec<String> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        text.split('.').rev().map(str::to_owned).collect()
    };
    if pattern == "*" {
        return true;
    }
    let Host::Name(name) = host else {
        let Ok(wanted) = Host::parse(pattern) else { return false };
        return wanted.ip().is_some() && wanted.ip().map(|ip| ip.to_canonical()) == host.ip().map(|ip| ip.to_canonical());
    };
    let (wanted, found) = (labels(pattern), labels(name));
    for (at, label) in wanted.iter().enumerate() {
        if label == "*" {
            return found.len() > at;
        }
        if found.get(at) != Some(label) {
            return false;
        }
    }
    wanted.len() == found.len()
}

fuzz_target!(|text: &str| {
    let (pattern, host) = text.split_once('\n').unwrap_or(("*", text));
    let Ok(host) = Host::parse(host) else { return };
    let shown = host.to_string();
    assert_eq!(Host::parse(&shown).as_ref(), Ok(&host), "not stable");
    if let Host::Name(name) = &host {
        assert!(name.len() <= 253 && !name.is_empty());
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
        assert!(name.split('.').all(|label| (1..=63).contains(&label.len())));
        // No resolver may take it for an address.
        let last = name.rsplit('.').next().unwrap();
        assert!(!last.bytes().all(|b| b.is_ascii_digit()));
        assert!(name.parse::<std::net::IpAddr>().is_err());
    }
    let Ok(parsed) = HostPattern::parse(pattern) else { return };
    assert_eq!(parsed.matches(&host), reference(pattern, &host), "{pattern} {host}");
    assert_eq!(HostPattern::parse(&parsed.to_string()).as_ref(), Ok(&parsed));
    let exact = HostPattern::Exact(host);
    assert!(exact.includes(&exact) && HostPattern::Any.includes(&exact));
    assert_eq!(parsed.includes(&exact), reference(pattern, match &exact { HostPattern::Exact(host) => host, _ => return }));
});
