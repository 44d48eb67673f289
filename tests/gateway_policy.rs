//! Promise: each request is judged by policy.toml, a refusal says which rule,
//! why and what to do, a rate is exact for a group, and what left is recorded.

mod harness;
mod world;

use std::fs;
use std::time::Duration;

use harness::text::answers;
use harness::{Live, finish, slowly};
use serde_json::Value;
use world::{TOKEN, World, header};

/// The refusal that an agent is given.
fn refusal(text: &str) -> Value {
    let body = text.split("\r\n\r\n").last().unwrap_or_default();
    let value: Value = serde_json::from_str(body.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    value["error"].clone()
}

#[test]
fn the_first_rule_that_matches_decides_by_host_path_method_and_group() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales"]);
    world.policy(
        r#"default = "deny"
[[rule]]
name = "not this"
host = "a.test"
path = "/r1/secret*"
action = "deny"
[[rule]]
name = "read"
host = "a.test"
methods = ["GET"]
path = "/r1/*"
action = "allow"
[[rule]]
name = "sales may post"
groups = ["sales"]
host = "*.a.test"
methods = ["POST"]
action = "allow"
[[rule]]
name = "over"
host = "b.test"
until = 2020-01-01T00:00:00Z
action = "allow"
[[rule]]
name = "too late"
host = "a.test"
path = "/r1/secret/again"
action = "allow"
"#,
    );
    let script = "try() { curl -sS -o /dev/null -w '%{http_code} ' \"$@\"; }; \
        try https://a.test/r1/x; try https://a.test/r1/secret/again; try -d x https://a.test/r1/x; try https://a.test/r2/x; \
        try -d x https://api.a.test/r1/x; try https://b.test/r1/x; try http://a.test/r1/x; try -I https://a.test/r1/x";
    assert_eq!(world.run(&[], &["sh", "-c", script]).out(), "200 403 403 403 403 403 200 403 ");
    assert_eq!(world.run(&["--group", "sales"], &["sh", "-c", script]).out(), "200 403 403 403 200 403 200 403 ");
    assert_eq!(world.requests().len(), 5, "{:?}", world.requests());
    // The same, told beforehand.
    let told = |method: &str, url: &str| world.call(&["policy", "test", "--group", "main", method, url]).out();
    assert!(told("GET", "https://a.test/r1/secret/x").contains("not this"));
    assert!(told("GET", "https://a.test/r1/y").contains("read"));
    assert!(told("GET", "https://b.test/r1/y").contains("deny"));
    let checked = world.call(&["policy", "check"]);
    assert!(checked.out().contains("too late") || checked.err().contains("too late"), "an unreachable rule is told");
}

#[test]
fn a_refusal_names_rule_reason_and_way_out_in_json() {
    let Some(world) = World::new() else { return };
    world.policy("[[rule]]\nname = \"no evil \\u202e\\u001b[31m\"\nhost = \"b.test\"\naction = \"deny\"\n");
    let first = world.sh("curl -sSi --http1.1 --noproxy '*' https://b.test/x");
    // A name with control characters is refused, or printed escaped.
    assert!(!first.out().contains('\u{1b}') && !first.err().contains('\u{1b}'));
    world.policy("[[rule]]\nname = \"no b\"\nhost = \"b.test\"\naction = \"deny\"\n");
    for command in ["curl -sSi --http1.1 --noproxy '*' https://b.test/x", "curl -sSi http://b.test/x"] {
        let out = world.sh(command).success().out();
        assert!(out.starts_with("HTTP/1.1 403"), "{out}");
        assert!(out.to_lowercase().contains("content-type: application/json"), "{out}");
        let refusal = refusal(&out);
        assert_eq!(refusal["rule"], "no b");
        assert!(
            refusal["message"].as_str().is_some_and(|text| text.contains("no b") || text.contains("b.test")),
            "{refusal}"
        );
        assert!(
            refusal["hint"].as_str().is_some_and(|hint| hint.contains("policy")),
            "what a person could do: {refusal}"
        );
    }
    // By default denied: no rule, and how to write one.
    world.policy("default = \"deny\"\n");
    let refusal = refusal(&world.sh("curl -sSi http://a.test/x").success().out());
    assert_eq!(refusal["rule"], Value::Null);
    assert!(refusal["hint"].as_str().is_some_and(|hint| hint.contains("[[rule]]")), "{refusal}");
    assert!(world.requests().is_empty());
}

/// Forty requests take more than a minute on such a machine.
fn is_slow() -> bool {
    slowly(Duration::from_secs(1)) > Duration::from_secs(1)
}

#[test]
fn exactly_ten_a_minute_pass_from_five_runs_of_a_group() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales", "others"]);
    world.policy(
        &"[[rule]]\nname = \"slowly\"\nhost = \"a.test\"\naction = \"allow\"\nrate = \"RATE\"\n"
            .replace("RATE", if is_slow() { "10/hour" } else { "10/minute" }),
    );
    let script = "for n in 1 2 3 4 5 6 7 8; do curl -sS -o answer.$$ -w '%{http_code} %header{retry-after}\\n' https://a.test/rated || true; done; cat answer.$$ >&2";
    let script = script.replace("%header{retry-after}", "");
    let runs: Vec<Live> = (0..5).map(|_| world.start(&["--group", "sales"], &["sh", "-c", &script])).collect();
    let others = world.start(&["--group", "others"], &["sh", "-c", &script]);
    let (mut codes, mut told): (Vec<String>, String) = Default::default();
    for run in runs {
        let out = run.wait().success();
        codes.extend(out.out().lines().map(|line| line.trim().to_owned()));
        told.push_str(&out.err());
    }
    assert!(told.contains("slowly") && told.contains("retry_after_seconds"), "{told}");
    assert_eq!(codes.iter().filter(|code| *code == "200").count(), 10, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| *code == "429").count(), 30, "{codes:?}");
    let others = others.wait().success().out();
    assert_eq!(others.matches("200").count(), 8, "another group has ten of its own: {others}");
    assert_eq!(world.requests_to("/rated").len(), 18);
    let out =
        world.run(&["--group", "sales"], &["sh", "-c", "curl -sSi --http1.1 https://a.test/rated"]).success().out();
    let retry = out.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("a header").trim().to_owned();
    let seconds: u64 = retry.parse().expect("seconds");
    assert!((1..=if is_slow() { 3600 } else { 60 }).contains(&seconds), "{retry}");
}

#[test]
fn the_record_has_a_line_for_each_request_and_no_query_body_or_value() {
    let Some(world) = World::new() else { return };
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    world.policy("[[rule]]\nname = \"no b\"\nhost = \"b.test\"\naction = \"deny\"\n");
    let script = "curl -sS 'https://a.test/x/../one?query-mark=1' -d body-mark -o /dev/null; curl -sS -H 'X-Header: header-mark' http://b.test/two; \
        curl -sS http://c.test/three; curl -sS 'https://u:password-mark@a.test/four'; curl -sS -g \"https://a.test/$(printf '[31m%%e2%%80%%ae')\"";
    world.sh(script).success();
    let record = world.record();
    let at =
        |path: &str| record.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("{path}: {record:?}"));
    let one = at("/one");
    for (name, value) in
        [("method", "POST"), ("host", "a.test"), ("secret", "key"), ("group", "main"), ("scheme", "https")]
    {
        assert_eq!(one[name], value, "{one}");
    }
    assert_eq!(one["status"], 200);
    assert_eq!(one["bytes_out"], 9, "{one}");
    assert!(one["bytes_in"].as_u64().is_some_and(|bytes| bytes > 10) && one["ms"].is_u64(), "{one}");
    let two = at("/two");
    assert_eq!((two["rule"].as_str(), two["status"].as_u64()), (Some("no b"), Some(403)), "{two}");
    assert_eq!(at("/three")["secret"], Value::Null);
    let text = format!("{record:?}");
    for mark in ["query-mark", "body-mark", "header-mark", "password-mark", TOKEN] {
        assert!(!text.contains(mark), "{mark} is in the record: {text}");
    }
    let run = world.jar.receipts()[0]["run"].as_str().map(str::to_owned).expect("a run");
    let printed = world.call(&["log", &run]).success().out();
    assert!(!printed.contains('\u{1b}') && !printed.contains('\u{202e}'), "{printed:?}");
    assert!(printed.contains("/one") && printed.contains("key"), "{printed}");
    world.call(&["log", &run, "--verify"]).success();
    // A line changed, taken away or added is seen.
    let file = fs::read_dir(world.jar.path("belljar/data/receipts"))
        .expect("a directory")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".requests.jsonl"))
        .expect("a record");
    let text = fs::read_to_string(&file).expect("read the record");
    for changed in [
        text.replace("\"POST\"", "\"GET\""),
        text.lines().skip(1).collect::<Vec<_>>().join("\n"),
        format!("{text}{text}"),
    ] {
        fs::write(&file, changed).expect("write");
        assert_ne!(world.call(&["log", &run, "--verify"]).code, 0);
        let all = world.call(&["log", "--verify"]);
        assert!(
            all.code == 1 && all.out().lines().any(|line| line.starts_with(&run) && line.contains("broken")),
            "{}",
            all.out()
        );
    }
    fs::write(&file, &text).expect("write");
    world.call(&["log", &run, "--verify"]).success();
    let all = world.call(&["log", "--verify"]).success().out();
    assert!(all.lines().any(|line| line.starts_with(&run) && line.contains("intact")), "{all}");
}

#[test]
fn without_a_rule_or_a_secret_tls_is_a_tunnel_that_is_recorded() {
    let Some(world) = World::new() else { return };
    // The origin's own certificate is what the agent sees.
    let script = "curl -sS 'https://a.test/tunnel?x=1' -o /dev/null -w '%{http_code}\\n'; \
        /usr/bin/python3 -c 'import ssl; print(ssl.get_server_certificate((\"a.test\", 443)))' > c.pem; openssl x509 -in c.pem -noout -issuer";
    let out = world.sh(script).success().out();
    assert!(out.contains("200") && (out.contains("belljar tests: origins") || !out.contains("issuer")), "{out}");
    let record = world.record();
    let line = record.iter().find(|line| line["kind"] == "tunnel").unwrap_or_else(|| panic!("{record:?}"));
    assert_eq!((line["host"].as_str(), line["port"].as_u64()), (Some("a.test"), Some(443)), "{line}");
    assert!(line["bytes_in"].as_u64().is_some_and(|bytes| bytes > 100), "{line}");
    // A tunnel has names too: the hello must name what was asked for.
    let fronting = "
attempt('front', lambda: str(statuses(exchange(proxied('a.test', 443, 'b.test', False), get('b.test', '/front'), 3))))
attempt('not tls', lambda: str(statuses(exchange(connect('a.test:443')[0], get('a.test', '/plain-on-443'), 3))))
";
    let found = answers(&world.python(&[], fronting).success().out());
    assert_ne!(found["front"], "[200]", "{found:?}");
    assert!(world.requests_to("/front").is_empty(), "{found:?}");
    // With a rule, or inspect = "all", it is opened.
    world.config("inspect = \"all\"\n");
    world.sh("curl -sS 'https://a.test/opened?x=1'").success();
    assert!(world.record().iter().any(|line| line["path"] == "/opened" && line["kind"] == "request"));
}

#[test]
fn a_policy_that_does_not_parse_stops_new_runs_and_names_the_line() {
    let Some(world) = World::new() else { return };
    for (text, line) in [
        ("default = \"deny\"\n[[rule]\n", ":2"),
        ("\n\ndefualt = \"deny\"\n", ":3"),
        ("[[rule]]\nname = \"x\"\nhost = \"a.test\"\naction = \"alow\"\n", ":4"),
        ("[[rule]]\nname = \"x\"\nhost = \"a.test\"\naction = \"allow\"\nrate = \"ten\"\n", ":5"),
        ("[[rule]]\nname = \"x\"\nhost = \"http://a.test\"\naction = \"allow\"\n", ":3"),
    ] {
        world.policy(text);
        let out = world.run(&[], &["true"]).exits(125);
        assert!(out.err().contains(&format!("policy.toml{line}")), "{text}: {}", out.err());
    }
    world.policy("");
    world.run(&[], &["true"]).success();
}

#[test]
fn a_run_goes_by_the_policy_that_it_began_with_and_the_next_by_the_new_one() {
    let Some(world) = World::new() else { return };
    let script = "curl -sS -o /dev/null https://a.test/before; echo began; sleep 2; curl -sS -o /dev/null -w '%{http_code}' https://a.test/after";
    let live = world.start(&[], &["sh", "-c", script]);
    live.wait_for("began");
    world.policy("this is not TOML");
    let out = live.wait().success().out();
    assert!(out.ends_with("200") || out.ends_with("403"), "{out}");
    world.run(&[], &["true"]).exits(125);
}

#[test]
fn plain_requests_are_judged_one_by_one_on_a_kept_connection() {
    let Some(world) = World::new() else { return };
    world.policy("[[rule]]\nname = \"no admin\"\nhost = \"*\"\npath = \"/admin*\"\naction = \"deny\"\n");
    let script = "
def three(stream, host, prefix=''):
    data = ''.join('GET %s%s HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n' % (prefix, path, host) for path in ('/ok', '/admin', '/ok'))
    return str(statuses(exchange(stream, data, 3)))
attempt('tls', lambda: three(proxied('a.test'), 'a.test'))
attempt('proxy', lambda: three(tcp('127.0.0.1', 3128), 'b.test', 'http://b.test'))
attempt('transparent', lambda: three(tcp('b.test', 80), 'b.test'))
def hosts():
    data = ''.join(get(host, 'http://%s/ok' % host).replace('close', 'keep-alive') for host in ('a.test', 'b.test', 'c.test'))
    return str(statuses(exchange(tcp('127.0.0.1', 3128), data, 3)))
attempt('hosts', hosts)
";
    let found = answers(&world.python(&[], script).success().out());
    for name in ["tls", "proxy", "transparent"] {
        assert_eq!(found[name], "[200, 403, 200]", "{found:?}");
    }
    assert_eq!(found["hosts"], "[200, 200, 200]", "{found:?}");
    assert!(world.requests_to("/admin").is_empty());
    let hosts: Vec<String> = world.requests().iter().filter_map(|one| header(one, "host")).collect();
    assert!(hosts.contains(&"c.test".to_owned()), "{hosts:?}");
}

#[test]
fn secrets_can_be_added_while_policy_denies_and_show_in_the_plan() {
    let Some(world) = World::new() else { return };
    world.secret("key", &["--host", "a.test", "--bearer", "--env", "A_KEY"], TOKEN);
    let explained = finish(world.belljar(["explain", "--json", "--", "true"]), b"").success();
    let plan = explained.json().to_string();
    assert!(plan.contains("a.test") && plan.contains("A_KEY") && !plan.contains(TOKEN), "{plan}");
}
