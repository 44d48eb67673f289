//! policy.toml: whatever it holds, it is understood or refused with a line, and
//! what is understood decides without contradiction.
#![no_main]

use std::path::Path;

use belljar::policy::{Action, Host, NormalPath, Policy, Query, check};
use jiff::{Timestamp, tz::TimeZone};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let now = Timestamp::from_second(1_800_000_000).unwrap().to_zoned(TimeZone::UTC);
    let policy = match Policy::parse(text, Path::new("policy.toml")) {
        Ok(policy) => policy,
        Err(error) => {
            let line = error.what.strip_prefix("policy.toml:").and_then(|rest| rest.split_once(':'));
            let line: usize = line.and_then(|(line, _)| line.parse().ok()).expect("an error names its line");
            assert!((1..=text.matches('\n').count() + 1).contains(&line));
            return;
        }
    };
    let findings = check(&policy, &["main".to_owned()], &now);
    let host = Host::parse("api.example").unwrap();
    for path in ["/", "/v1/send", "/V1/a%2f..%2fsend;x", "/@a%2fb"] {
        let path = NormalPath::normalise(path).unwrap();
        let query = Query { group: "main", method: "POST", host: &host, path: &path, now: &now };
        let decision = policy.decide(&query);
        let rule = decision.rule.as_ref().map(|name| policy.rules.iter().find(|rule| rule.name == *name).unwrap());
        if let Some(rule) = rule {
            assert_eq!(rule.action, decision.action);
            assert!(policy.needs_inspection("main"));
            // A rule that decides is not one that is never reached.
            let reached = |text: &str| !text.contains("is never reached") && !text.contains("contradicts");
            assert!(findings.iter().all(|finding| finding.line != rule.line || reached(&finding.text)), "{text}");
        }
        assert_eq!(decision.hint.is_empty(), decision.action == Action::Allow);
        assert_eq!(policy.decide(&query), decision);
    }
});
