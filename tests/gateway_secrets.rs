//! Promise: real credentials never enter the container. The origin receives
//! them in the right place; the agent finds them nowhere, and cannot make the
//! gateway send them anywhere else.

mod harness;
mod world;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use harness::text::answers;
use harness::{DEADLINE, eventually, finish, is_root, names_in};
use world::{CANARY, TOKEN, World, all_headers, has, header};

/// Everything that an agent can read: environments, command lines, memory maps,
/// files. The mark is given in two halves, so that the search does not find
/// itself.
const SEARCH: &str = r#"
import os, sys
mark = (sys.argv[1] + sys.argv[2]).encode()
found, looked = [], 0
def look(path):
    global looked
    try:
        with open(path, 'rb') as file:
            looked += 1
            rest = b''
            for _ in range(64):
                piece = file.read(1 << 20)
                if not piece: break
                if mark in rest + piece:
                    found.append(path); break
                rest = piece[-len(mark):]
    except OSError: pass
for pid in os.listdir('/proc'):
    if pid.isdigit():
        for name in ('environ', 'cmdline', 'maps', 'status', 'mountinfo', 'comm', 'auxv', 'stack', 'net/unix'):
            look('/proc/%s/%s' % (pid, name))
for name in ('keys', 'net/tcp', 'net/unix', 'mounts', 'cmdline', 'sysvipc/shm'):
    look('/proc/' + name)
for top in ('/run', '/tmp', '/home', '/workspace', '/etc', '/dev/shm', '/var'):
    for directory, below, names in os.walk(top):
        for name in names: look(os.path.join(directory, name))
print('looked at', looked > 40, 'found', found)
"#;

fn search(mark: &str) -> String {
    let (first, second) = mark.split_at(mark.len() / 2);
    let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    format!("/usr/bin/python3 -c {} {} {}", quote(SEARCH), quote(first), quote(second))
}

#[test]
fn the_origin_gets_the_value_and_the_agent_finds_it_nowhere() {
    let Some(world) = World::new() else { return };
    world.secret("claude", &["--preset", "anthropic"], TOKEN);
    let script = format!(
        "echo key $ANTHROPIC_API_KEY; curl -sS https://api.anthropic.com/v1/messages -H \"x-api-key: $ANTHROPIC_API_KEY\" \
         -d '{{\"model\":\"m\"}}' -o answer; grep -c sealed answer; env > env.txt; {}",
        search(TOKEN)
    );
    let out = world.sh(&script).success();
    assert!(out.out().contains("key belljar-placeholder\n1\nlooked at True found []"), "{} {}", out.out(), out.err());
    let request = world.received("/v1/messages");
    assert_eq!(header(&request, "x-api-key").as_deref(), Some(TOKEN));
    assert_eq!(request["secure"], true);
    // Nor in anything that belljar printed, recorded or kept.
    for name in ["data/receipts", "data", "config", "run"] {
        let mut command = Command::new("grep");
        command.args(["-rlF", TOKEN]).arg(world.jar.path("belljar").join(name));
        world.jar.surround(&mut command);
        assert_eq!(finish(command, b"").out(), "", "in {name}");
    }
    let record = world.record();
    assert!(!format!("{record:?}").contains(TOKEN));
    // The control: what is looked for is found where it is.
    let control = format!("export LEAK='{TOKEN}'; {}", search(TOKEN));
    let out = world.sh(&control).success();
    assert!(out.out().contains("/environ"), "the search finds an environment: {}", out.out());
}

#[test]
fn nobody_but_root_can_look_into_the_process_that_holds_it() {
    let Some(world) = World::new() else { return };
    world.secret("claude", &["--preset", "anthropic"], TOKEN);
    let live = world.start(&[], &["sh", "-c", "curl -sS https://api.anthropic.com/v1/models; echo began; sleep 30"]);
    live.wait_for("began");
    let pid = live.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process has limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("a command line");
    assert!(!String::from_utf8_lossy(&line).contains(TOKEN));
    if is_root() {
        assert!(core.contains(" 0 "), "no core file: {core}");
        return;
    }
    // Seen from the person's own user namespace: the owner of a namespace above
    // it may do anything to it.
    let look = |pid: &str| {
        let script = format!(
            "for file in mem environ maps auxv; do (head -c 1 /proc/{pid}/$file >/dev/null && echo open) 2>&1; done"
        );
        world.outside("sh", &["-c", &script]).out()
    };
    assert!(!look(&pid.to_string()).contains("open\n"), "{}", look(&pid.to_string()));
    assert!(look("self").contains("open\n"), "the control");
}

#[test]
fn each_preset_puts_the_value_where_the_vendor_expects_it() {
    let Some(world) = World::new() else { return };
    for preset in ["anthropic", "openai", "github", "gitlab", "npm", "pypi"] {
        world.secret(preset, &["--preset", preset], &format!("{TOKEN}-{preset}"));
    }
    let basic = |user: &str, preset: &str| {
        use base64::Engine;
        let pair = format!("{user}:{TOKEN}-{preset}");
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    };
    let cases = [
        ("https://api.anthropic.com/v1/models", "x-api-key", format!("{TOKEN}-anthropic")),
        ("https://api.openai.com/v1/chat/completions", "authorization", format!("Bearer {TOKEN}-openai")),
        ("https://api.github.com/user", "authorization", format!("Bearer {TOKEN}-github")),
        ("https://github.com/o/private.git/info/refs", "authorization", basic("x-access-token", "github")),
        ("https://gitlab.com/api/v4/user", "private-token", format!("{TOKEN}-gitlab")),
        ("https://registry.npmjs.org/tiny-package", "authorization", format!("Bearer {TOKEN}-npm")),
        ("https://upload.pypi.org/legacy/", "authorization", basic("__token__", "pypi")),
    ];
    let urls: Vec<&str> = cases.iter().map(|case| case.0).collect();
    world.sh(&format!("env; for url in {}; do curl -sS -o answer $url; done", urls.join(" "))).success();
    for (url, name, value) in &cases {
        let (host, path) = url.trim_start_matches("https://").split_once('/').expect("a path");
        let all = world.requests();
        let request = all
            .iter()
            .find(|request| request["path"] == format!("/{path}") && request["sni"] == host)
            .unwrap_or_else(|| panic!("{url} never came: {all:?}"));
        assert_eq!(all_headers(request, name), std::slice::from_ref(value), "{url}");
    }
}

#[test]
fn an_explicit_binding_injects_a_header_a_bearer_a_password_or_a_query() {
    let Some(world) = World::new() else { return };
    world.secret("h", &["--host", "a.test", "--header", "X-Key: v1 {value}", "--env", "A_KEY"], TOKEN);
    world.secret("b", &["--host", "b.test", "--bearer"], TOKEN);
    world.secret("p", &["--host", "c.test", "--basic", "me"], TOKEN);
    world.secret("q", &["--host", "dual.test", "--query", "key"], TOKEN);
    let script = "echo $A_KEY; for host in a b c; do curl -sS https://$host.test/one; done; \
        curl -sS 'https://dual.test/two?a=1&key=mine&b=%20'; curl -sS https://dual.test/three; \
        curl -sS -H 'x-key: mine' -H 'X-Key: twice' -H 'authorization: Bearer other' https://a.test/four; \
        curl -sS -H 'Authorization: Basic b3duOm93bg==' https://b.test/five";
    let out = world.sh(script).success();
    assert!(out.out().starts_with("belljar-placeholder"), "{}", out.out());
    let to = |host: &str, path: &str| {
        world.requests_to(path).into_iter().find(|one| one["sni"] == host).unwrap_or_else(|| panic!("{host}{path}"))
    };
    assert_eq!(header(&to("a.test", "/one"), "x-key"), Some(format!("v1 {TOKEN}")));
    assert_eq!(header(&to("b.test", "/one"), "authorization"), Some(format!("Bearer {TOKEN}")));
    assert_eq!(header(&to("c.test", "/one"), "authorization").map(|value| value.starts_with("Basic ")), Some(true));
    let target = to("dual.test", "/two")["path"].as_str().map(str::to_owned).expect("a path");
    assert_eq!(target.matches("key=").count(), 1, "{target}");
    assert!(target.contains(&format!("key={TOKEN}")) && target.contains("a=1") && target.contains("b=%20"), "{target}");
    assert_eq!(to("dual.test", "/three")["path"], format!("/three?key={TOKEN}"));
    // What the agent put there is replaced, not joined.
    assert_eq!(all_headers(&to("a.test", "/four"), "x-key"), [format!("v1 {TOKEN}")]);
    assert_eq!(all_headers(&to("b.test", "/five"), "authorization"), [format!("Bearer {TOKEN}")]);
    // A query is never recorded.
    assert!(!format!("{:?}", world.record()).contains("key="));
}

#[test]
fn it_goes_to_the_bound_host_port_and_path_only_and_over_verified_tls_only() {
    let Some(world) = World::new() else { return };
    world.secret("a", &["--host", "a.test", "--path", "/v1/*", "--bearer"], TOKEN);
    world.secret("s", &["--host", "*.b.test", "--bearer"], TOKEN);
    for name in ["selfsigned", "expired", "wrongname"] {
        world.secret(name, &["--host", &format!("{name}.test"), "--bearer"], TOKEN);
    }
    let script = "try() { curl -sS -o /dev/null -w '%{http_code} ' \"$@\"; }; \
        try https://a.test/v1/yes; try https://a.test/v2/no; try https://a.test/v1x/no; try https://a.test:8443/v1/port; \
        try http://a.test/v1/plain; try http://a.test:8080/v1/plain; try https://c.test/v1/host; try https://api.a.test/v1/sub; \
        try https://b.test/v1/apex; \
        for name in selfsigned expired wrongname; do try https://$name.test/v1/tls; try -k https://$name.test/v1/tls; done; \
        try -L 'https://a.test/v1/../redirect?to=https://c.test/after'; try -L 'https://a.test/redirect?to=https://c.test/v1/after'; \
        try -L --location-trusted -H 'Authorization: Bearer x' 'https://a.test/redirect?to=http://c.test/v1/after2'";
    let out = world.sh(script);
    let all = world.requests();
    let with: Vec<&serde_json::Value> = all.iter().filter(|one| one.to_string().contains(TOKEN)).collect();
    let places: Vec<String> = with.iter().map(|one| format!("{}{}", one["sni"], one["path"])).collect();
    assert_eq!(places, ["\"a.test\"\"/v1/yes\""], "{}\n{}", out.out(), out.err());
    assert_eq!(world.requests_to("/v1/tls").len(), 0, "no request over TLS that cannot be verified");
    assert!(out.out().contains("502"), "a bad certificate is the gateway's 502: {}", out.out());
    assert_eq!(
        world.requests_to("/v1/after").len(),
        2,
        "the agent's own redirects are followed by the agent: {}",
        out.out()
    );
    assert_eq!(world.requests_to("/v1/plain").len(), 2, "plain HTTP goes, without it");
}

#[test]
fn group_b_cannot_use_the_secret_of_group_a_also_when_both_run_at_once() {
    let Some(world) = World::new() else { return };
    world.groups(&["ga", "gb"]);
    world.secret("a", &["--host", "a.test", "--bearer", "--group", "ga", "--env", "KEY"], &format!("{TOKEN}-ga"));
    world.secret("b", &["--host", "b.test", "--bearer", "--group", "gb", "--env", "KEY"], &format!("{TOKEN}-gb"));
    // 40 requests each, on kept connections, at the same time: what one run
    // keeps open must not serve the other.
    let run = |group: &str| {
        let script = format!(
            "cd /workspace/group; for n in $(seq 20); do curl -sS --max-time 20 -H 'Authorization: Bearer belljar-placeholder' \
             \"https://a.test/{group}?$n\" \"https://b.test/{group}?$n\" -o /dev/null -o /dev/null; done; echo done"
        );
        world.start(&["--group", group], &["sh", "-c", &script])
    };
    let runs = [run("ga"), run("gb"), run("ga")];
    for run in runs {
        assert!(run.wait().success().out().ends_with("done\n"));
    }
    for (path, host, expected) in [
        ("/ga", "a.test", format!("Bearer {TOKEN}-ga")),
        ("/gb", "b.test", format!("Bearer {TOKEN}-gb")),
        ("/ga", "b.test", "Bearer belljar-placeholder".to_owned()),
        ("/gb", "a.test", "Bearer belljar-placeholder".to_owned()),
    ] {
        let found: Vec<_> = world.requests_to(path).into_iter().filter(|one| one["sni"] == host).collect();
        let wanted = if path == "/ga" { 40 } else { 20 };
        assert_eq!(found.len(), wanted, "{path} to {host}");
        for request in found {
            assert_eq!(header(&request, "authorization").as_deref(), Some(expected.as_str()), "{path} to {host}");
        }
    }
}

#[test]
fn presets_deny_what_mints_or_shows_credentials_and_trace_is_refused() {
    let Some(world) = World::new() else { return };
    world.secret("claude", &["--preset", "anthropic"], TOKEN);
    world.secret("github", &["--preset", "github"], TOKEN);
    world.secret("own", &["--host", "a.test", "--bearer"], TOKEN);
    let script = "
def ask(method, host, path, more=''):
    return str(statuses(exchange(proxied(host), get(host, path, more, method)))[:1])
for method, host, path in [('POST', 'api.anthropic.com', '/v1/organizations/api_keys'), ('GET', 'api.anthropic.com', '/v1//organizations/x'),
        ('GET', 'api.anthropic.com', '/v1/%6frganizations/x'), ('POST', 'api.github.com', '/user/keys'), ('POST', 'api.github.com', '/USER/keys/'),
        ('TRACE', 'a.test', '/trace'), ('trace', 'a.test', '/trace'), ('TRACK', 'a.test', '/track')]:
    tell(method + path, ask(method, host, path))
tell('fine', ask('GET', 'api.github.com', '/user'))
";
    let found = answers(&world.python(&[], script).success().out());
    assert_eq!(found["fine"], "[200]", "{found:?}");
    for (name, answer) in &found {
        if name != "fine" && !name.starts_with("TRACK") && !name.contains("USER") {
            assert!(["[403]", "[400]", "[405]"].contains(&answer.as_str()), "{name}: {answer}");
        }
    }
    for path in ["/v1/organizations", "/v1/%6f", "/v1//", "/user/keys", "/trace"] {
        assert_eq!(world.requests_to(path).len(), 0, "{path} reached the origin");
    }
}

#[test]
fn it_is_removed_from_use_when_it_is_removed_and_replaced_when_it_is_rotated() {
    let Some(world) = World::new() else { return };
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    world.sh("curl -sS https://a.test/first").success();
    let rotated = finish(world.belljar(["secret", "rotate", "a"]), b"tok-new-value-71c3");
    rotated.success();
    world.sh("curl -sS https://a.test/second").success();
    world.call(&["secret", "remove", "a"]).success();
    world.sh("curl -sS https://a.test/third").success();
    let got = |path: &str| header(&world.received(path), "authorization");
    assert_eq!(got("/first"), Some(format!("Bearer {TOKEN}")));
    assert_eq!(got("/second").as_deref(), Some("Bearer tok-new-value-71c3"));
    assert_eq!(got("/third"), None);
}

#[test]
fn one_authority_for_the_installation_and_its_key_is_not_in_clear() {
    let Some(world) = World::new() else { return };
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    let issuer = "/usr/bin/python3 -c 'import ssl; print(ssl.get_server_certificate((\"a.test\", 443)))' > leaf.pem; \
        cat /run/belljar/ca.pem 2>/dev/null || ls /run/belljar; ls -l /run/belljar >&2";
    let first = world.sh(issuer).success();
    let second = world.sh(issuer).success();
    assert!(first.out().contains("BEGIN CERTIFICATE"), "{}", first.out());
    assert_eq!(first.out(), second.out(), "the authority stays");
    let files = names_in(&world.jar.path("belljar/data/ca"));
    assert!(!files.is_empty(), "{}", second.err());
    for name in files {
        let text = world::text_of(&world.jar.path("belljar/data/ca").join(&name));
        assert!(!text.contains("PRIVATE KEY"), "{name} holds a key in clear");
    }
    assert!(!world.sh("cat /run/belljar/* 2>/dev/null").out().contains("PRIVATE KEY"));
}

#[test]
fn every_tool_is_pointed_at_the_combined_bundle() {
    let Some(world) = World::new() else { return };
    let script = "for name in NODE_EXTRA_CA_CERTS REQUESTS_CA_BUNDLE SSL_CERT_FILE CURL_CA_BUNDLE GIT_SSL_CAINFO CARGO_HTTP_CAINFO \
        PIP_CERT DENO_CERT; do eval \"file=\\$$name\"; echo $name $(grep -c BEGIN.CERT \"$file\") $(grep -cFf own \"$file\"); done; \
        echo proxy $HTTPS_PROXY $HTTP_PROXY $https_proxy $http_proxy \"[$NO_PROXY$no_proxy]\" $NODE_USE_ENV_PROXY; echo $JAVA_TOOL_OPTIONS";
    std::fs::create_dir_all(world.jar.group("main")).expect("make the group's folder");
    let root = std::fs::read_to_string(world.jar.path("world/ca.pem")).expect("the origins' authority");
    let line = root.lines().nth(2).expect("a line of it");
    std::fs::write(world.jar.group("main").join("own"), line).expect("write a file");
    let out = world.sh(script).success().out();
    // None of what lies beside the distribution's bundle, as Debian's ssl-cert leaves it there.
    let platform = world::text_of(Path::new("/etc/ssl/certs/ca-certificates.crt"));
    let distinct: BTreeSet<&str> = platform.split("-----BEGIN CERTIFICATE-----").skip(1).map(str::trim).collect();
    assert!(distinct.len() > 2, "there are authorities");
    for line in out.lines().take(8) {
        let words: Vec<&str> = line.split(' ').collect();
        let count: usize = words[1].parse().unwrap_or_default();
        assert_eq!(count, distinct.len() + 2, "the platform's roots, the origins' and ours: {line}");
        assert_eq!(words[2], "1", "extra_roots are in it: {line}");
    }
    let proxy = "http://127.0.0.1:3128";
    assert!(out.contains(&format!("proxy {proxy} {proxy} {proxy} {proxy} [] 1\n")), "{out}");
    assert!(out.contains("trustStore="), "{out}");
}

#[test]
fn the_value_is_not_told_when_it_cannot_be_used() {
    let Some(world) = World::new() else { return };
    // A value with every awkward character, in a header as it is.
    world.secret("odd", &["--host", "a.test", "--header", "X-Key: {value}"], CANARY);
    world.sh("curl -sS https://a.test/odd").success();
    assert_eq!(header(&world.received("/odd"), "x-key").as_deref(), Some(CANARY));
    // And one that no header may hold is refused at once, without being shown.
    let mut command = world.belljar(["secret", "add", "bad", "--host", "b.test", "--bearer"]);
    command.stdin(std::process::Stdio::piped());
    let refused = finish(command, b"tok-canary\r\nX-Evil: 1\r\n\r\n");
    assert_ne!(refused.code, 0, "{}", refused.out());
    assert!(!refused.err().contains("tok-canary") && !refused.out().contains("tok-canary"), "{}", refused.err());
    eventually("nothing of it is listed", DEADLINE, || !world.call(&["secret", "list"]).out().contains("bad"));
    assert!(has("curl"));
}
