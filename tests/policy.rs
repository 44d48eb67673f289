//! Promise: `belljar policy` says what policy.toml does, before it is needed:
//! what it is read as, what in it is doubtful, and which rule decides.

mod harness;

use harness::{Jar, Outcome, finish};

const POLICY: &str = r#"default = "deny"

[[rule]]
name = "no keys"
host = "api.example"
path = "/user/keys/*"
action = "deny"

[[rule]]
name = "mail needs a person"
groups = ["main"]
host = "api.mail.example"
methods = ["POST"]
path = "/v1/send*"
action = "approve"
rate = "10/hour"
between = "08:00-20:00"
until = 2099-12-31T00:00:00Z

[[rule]]
name = "reading"
host = "*.example"
methods = ["GET", "HEAD"]
action = "allow"

[[allow_private]]
host = "git.corp.example"
port = 8443

[[tcp]]
host = "db.example"
port = 5432
groups = ["main"]
"#;

fn jar(policy: &str) -> Jar {
    let jar = Jar::new();
    jar.write("belljar/config/policy.toml", policy);
    jar
}

/// In UTC, because `between` is local time.
fn in_utc(jar: &Jar, line: &[&str]) -> Outcome {
    let mut command = jar.belljar(line);
    command.env("TZ", "UTC0");
    finish(command, b"")
}

fn test(jar: &Jar, method: &str, url: &str) -> Outcome {
    jar.call(&["policy", "test", method, url])
}

fn has(outcome: &Outcome, wanted: &[&str]) {
    let text = outcome.out();
    for part in wanted {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn show_prints_what_is_in_force() {
    let jar = jar(POLICY);
    let shown = jar.call(&["policy", "show"]).success();
    has(&shown, &["default    deny", "mail needs a person", "10/hour 08:00-20:00 until 2099-12-31T00:00:00Z"]);
    has(&shown, &["private    git.corp.example port 8443", "tcp        db.example port 5432, groups main"]);
    let text = shown.out();
    assert!(text.find("no keys") < text.find("reading"), "the order of the file: {text}");
    let json = jar.call(&["policy", "show", "--json"]).success().json();
    assert_eq!(json["default"], "deny");
    assert_eq!(json["rules"][1]["methods"][0], "POST");
    assert_eq!(json["rules"][1]["line"], 9);
    assert!(json["rules"][0]["groups"].is_null());
}

#[test]
fn no_file_allows_every_public_host() {
    let jar = Jar::new();
    has(&jar.call(&["policy", "show"]).success(), &["not there", "default    allow"]);
    has(&jar.call(&["policy", "check"]).success(), &["0 rules, 0 errors, 0 warnings"]);
    has(&test(&jar, "GET", "https://a.example").success(), &["action     allow", "rule       none", "path       /\n"]);
}

#[test]
fn an_invalid_file_names_its_line() {
    for (text, says) in [
        ("default = \"deny\"\n[[rule]]\nhost = \"a\"\nacton = \"deny\"\n", "policy.toml:4: "),
        ("[[rule]]\nhost = \"*\"\naction = \"allow\"\nuntil = 2026-01-01\n", "policy.toml:4: "),
        ("[[rule]]\nname = \"\\u001b[2J\"\nhost = \"*\"\naction = \"allow\"\n", "policy.toml:2: "),
    ] {
        let jar = jar(text);
        for line in [&["policy", "show"][..], &["policy", "check"], &["policy", "test", "GET", "https://a/"]] {
            let outcome = jar.call(line).exits(125).says(&[says, "hint: mend line"]);
            assert!(!outcome.err().contains('\u{1b}') && outcome.out().is_empty());
        }
    }
}

#[test]
fn check_finds_what_is_never_reached() {
    has(&jar(POLICY).call(&["policy", "check"]).success(), &["3 rules, 0 errors, 0 warnings"]);
    let jar = jar("[[rule]]\nname = \"first\"\nhost = \"*.example\"\naction = \"deny\"\n\n\
         [[rule]]\nname = \"second\"\nhost = \"api.example\"\naction = \"approve\"\n\n\
         [[rule]]\nname = \"third\"\nhost = \"*.example\"\naction = \"allow\"\n\n\
         [[rule]]\nname = \"gone\"\ngroups = [\"salse\"]\nhost = \"x\"\naction = \"deny\"\n\n\
         [[rule]]\nname = \"old\"\nhost = \"y\"\naction = \"deny\"\nuntil = 2020-01-01T00:00:00Z\n");
    let found = jar.call(&["policy", "check"]).exits(1);
    has(&found, &[":6: error: rule `second` is never reached", ":11: error: rule `third` (allow) contradicts"]);
    has(&found, &[":16: error: there is no group `salse`", ":22: warning: rule `old` ended"]);
    let json = jar.call(&["policy", "check", "--json"]).exits(1).json();
    assert_eq!(json.as_array().map(Vec::len), Some(4));
    assert_eq!(json[0]["severity"], "error");
}

#[test]
fn test_says_which_rule_decides() {
    let jar = jar(POLICY);
    has(
        &test(&jar, "GET", "HTTPS://API.example.:8443//x/./%7Ey?token=1").success(),
        &[
            "action     allow",
            "rule       reading (line 20)",
            "host       api.example, port 8443",
            "path       /x/~y\n",
            "query      not judged",
        ],
    );
    has(
        &test(&jar, "GET", "https://api.example/user/keys").exits(1),
        &["rule       no keys (line 3)", "[[rule]]", "before rule `no keys`"],
    );
    has(
        &test(&jar, "POST", "https://api.example/").exits(1),
        &["rule       none", "default is deny", "methods = [\"POST\"]"],
    );
    let noon = ["policy", "test", "--at", "2030-06-01T12:00:00Z", "POST", "https://api.mail.example/v1/send"];
    let held = in_utc(&jar, &noon).success();
    has(&held, &["action     approve", "limits     10/hour 08:00-20:00 until", "belljar approve"]);
    for at in ["2030-06-01T20:00:00Z", "2030-06-01T07:59:59Z", "2100-01-01T12:00:00Z"] {
        let line = ["policy", "test", "--at", at, "POST", "https://api.mail.example/v1/send"];
        has(&in_utc(&jar, &line).exits(1), &["rule       none"]);
    }
    jar.call(&["group", "add", "other"]).success();
    let line = ["policy", "test", "-g", "other", "--json", "POST", "https://api.mail.example/v1/send"];
    let json = jar.call(&line).exits(1).json();
    assert_eq!(json["decision"]["action"], "deny");
    assert_eq!(json["path"], "/v1/send");
    jar.call(&["policy", "test", "-g", "nobody", "GET", "https://a/"]).exits(125).says(&["no group `nobody`"]);
}

/// docs/policy.md, "Paths": no spelling of a denied path passes.
#[test]
fn no_spelling_passes_by_a_rule() {
    let jar = jar(
        "[[rule]]\nhost = \"api.example\"\nmethods = [\"POST\", \"GET\"]\npath = \"/admin/*\"\naction = \"deny\"\n",
    );
    test(&jar, "GET", "https://api.example/public/admin").success();
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/%61dmin",
        "/Admin",
        "/ADMIN/x",
        "/admin;v=1",
        "/admin%3bv",
        "/x/..;/admin",
        "/x/..%2fadmin",
        "/x%2f..%2fadmin",
        "/%2fadmin",
        "/%2561dmin",
        "/x/%252e%252e/admin",
        "/x/..%255cadmin",
        "/admin%2fx",
        "/admin%20",
        "/admin.",
        "/admin%3f",
        "/;/admin",
    ] {
        let outcome = test(&jar, "GET", &format!("https://api.example{path}")).exits(1);
        has(&outcome, &["action     deny"]);
    }
    for (host, path) in [
        ("api.example", "/x/..\\admin"),
        ("api.example", "/admin%00"),
        ("api.example", "/x/..%5cadmin"),
        ("api.example", "/%c0%afadmin"),
        ("api.example", "/../admin"),
        ("api.example", "/admin\n"),
        ("api.example:0", "/"),
        ("api.example:+443", "/"),
        ("0x7f.1", "/"),
        ("2130706433", "/"),
        ("bücher.example", "/"),
        ("[::1%25lo]", "/"),
    ] {
        let outcome = test(&jar, "GET", &format!("https://{host}{path}")).exits(1);
        has(&outcome, &["action     deny", "malformed"]);
        assert_eq!(outcome.out().lines().count(), 3, "{}", outcome.out());
    }
    test(&jar, "GET", "https://api.example/admin#x").exits(1);
    test(&jar, "GET", "https://user@api.example/").exits(2).says(&["cannot be judged", "hint: "]);
    test(&jar, "GET", "https://api.example\\@b/").exits(2).says(&["cannot be judged"]);
    for method in ["post", "Post", "POST ", "G\u{1b}[31mT", ""] {
        let outcome = test(&jar, method, "https://api.example/admin").exits(1);
        assert!(!outcome.out().contains('\u{1b}'));
    }
    for url in ["ftp://a/", "a.example/", "//a/", "https:a", "file:///etc/passwd", "https://", "https:///x", ""] {
        test(&jar, "GET", url).exits(2).says(&["cannot be judged"]);
    }
}

#[test]
fn it_says_what_the_gateway_refuses_whatever_the_rules_say() {
    let jar = jar("");
    finish(jar.belljar(["secret", "add", "gh", "--preset", "github"].as_slice()), b"tok-github-0123456789").success();
    for (method, url, wanted) in [
        ("POST", "https://api.github.com/user/keys", "preset of secret gh"),
        ("TRACE", "https://a.example/x", "refuses TRACE"),
        ("CONNECT", "https://a.example/x", "refuses CONNECT"),
        ("GET", "http://10.0.0.5/", "allow_private"),
        ("GET", "http://[::ffff:169.254.169.254]/latest", "allow_private"),
        ("GET", "http://127.0.0.1:8080/", "address of this machine"),
        ("GET", "https://a.example/%00", "malformed"),
        ("GET", "https://a.example/../..", "malformed"),
    ] {
        let out = test(&jar, method, url).exits(1);
        assert!(out.out().contains(wanted) && out.out().starts_with("action     deny"), "{url}: {}", out.out());
        let json = jar.call(&["policy", "test", "--json", method, url]).exits(1).out();
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["decision"]["action"], "deny", "{url}: {json}");
    }
    // Another group does not have the secret; a fragment is not sent.
    jar.call(&["group", "add", "sales"]).success();
    jar.call(&["policy", "test", "--group", "sales", "POST", "https://api.github.com/user/keys"]).success();
    test(&jar, "GET", "https://a.example/x#part").success();
    test(&jar, "GET", "https://8.8.8.8/").success();
    for url in ["a.example/x", "https://user:pw@a.example/x"] {
        test(&jar, "GET", url).exits(2);
    }
}
