//! Promise: no request with two readings gets past: not by its path, its host,
//! its headers, its framing, or by names that disagree. What counts is what the
//! origin received, and that no credential and no denied path is among it.

mod harness;
mod world;

use std::time::Duration;

use harness::slowly;
use harness::text::answers;
use serde_json::Value;
use world::{TOKEN, World, all_headers};

/// What must never be reached.
const POLICY: &str = r#"
[[rule]]
name = "no admin"
host = "a.test"
path = "/admin*"
action = "deny"
[[rule]]
name = "no admin anywhere below"
host = "*.a.test"
path = "/admin*"
action = "deny"
[[rule]]
name = "no deletes"
host = "b.test"
methods = ["DELETE"]
action = "deny"
[[rule]]
name = "nothing at c"
host = "c.test"
action = "deny"
"#;

/// Ways to write `/admin/keys`.
const PATHS: &str = r"
/admin/keys /admin /admin/ /x/../admin/keys /x/../../admin/keys /./admin/keys //admin/keys ///admin//keys /x//../admin/keys
/%61dmin/keys /%61%64%6d%69%6e/keys /x/%2e%2e/admin/keys /x/%2E%2e/admin/keys /x/.%2e/admin/keys /x%2f..%2fadmin/keys
/x%2F%2e%2e%2Fadmin/keys /%2fadmin/keys /%2Fadmin /x/..%2fadmin/keys /x\..\admin\keys /x/..\admin/keys /\admin/keys /x%5c..%5cadmin/keys
/%5cadmin/keys /admin%2fkeys /admin%5ckeys /admin;x=y/keys /admin;/keys /;/admin/keys /x;/../admin/keys /x/..;/admin/keys /.;/admin/keys
/admin%3b/keys /ADMIN/keys /Admin/Keys /aDMIN /admin%00/keys /admin%00 /%00/../admin /admin./keys /admin%20/keys /admin%09/keys
/%252e%252e/admin/keys /x/%252e%252e/admin /%2561dmin/keys /admin?x /admin%3fx /admin%23/keys /admin#x /x/%c0%ae%c0%ae/admin/keys
/x/%e0%80%ae%e0%80%ae/admin/keys /x/%uff0e%uff0e/admin /%u0061dmin/keys /x/..%c0%af/admin /x/%2e%2e;/admin/keys /a/b/c/../../../admin/keys
/x/%2e/../admin/keys /%2e/admin/keys /%2e%2fadmin /x/...//../admin /.//admin /admin%e2%80%8b/keys /adm%69n/keys /ad%6Din/%6beys /admin%0a/keys
http://a.test/admin/keys http://b.test/admin/keys https://a.test/admin *";

#[test]
fn no_way_to_write_a_denied_path_reaches_it() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    let list = PATHS.replace('\\', "\\\\");
    let script = format!(
        "
for path in '''{list}'''.split():
    for host in ('a.test', 'api.a.test'):
        attempt('%s tls %s' % (path, host), lambda: str(statuses(exchange(proxied(host), get(host, path), 3))))
    plain = path if path.startswith('http') else 'http://a.test' + path
    attempt('%s absolute' % path, lambda: str(statuses(exchange(tcp('127.0.0.1', 3128), get('a.test', plain), 3))))
    attempt('%s transparent' % path, lambda: str(statuses(exchange(tcp('a.test', 80), get('a.test', path), 3))))
attempt('fine', lambda: str(statuses(exchange(proxied('a.test'), get('a.test', '/adminX/../y/./ok'), 3))))
"
    );
    let found = answers(&world.python(&[], &script).success().out());
    assert_eq!(found["/admin/keys tls a.test"], "[403]", "{found:?}");
    assert!(found["fine"] == "[200]" || found["fine"] == "[403]" || found["fine"] == "[400]", "{found:?}");
    for (name, answer) in &found {
        assert!(!answer.contains("407"), "{name}: {answer}");
    }
    // How a lenient server would read what it was sent: decoded until nothing
    // changes, in lower case, parameters cut off, both slashes the same.
    for request in world.requests() {
        if request["dialled"] != "203.0.113.10" {
            continue;
        }
        let path = request["path"].as_str().unwrap_or_default();
        let read = lenient(path);
        assert!(!(read == "/admin" || read.starts_with("/admin/")), "{path} was sent, which can be read as {read}");
    }
    assert_eq!(world.requests().iter().filter(|one| one["target"] == "*").count(), 0);
}

/// The most hostile reading of a path.
fn lenient(path: &str) -> String {
    let mut text = path.split(['?', '#']).next().unwrap_or_default().to_owned();
    loop {
        let decoded = decode(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    let text = text.replace('\\', "/").to_lowercase();
    let mut out: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        let segment = segment.split([';', '\0']).next().unwrap_or_default().trim_end_matches(['.', ' ', '\t', '\n']);
        match segment {
            "" => {}
            _ if segment.chars().all(|one| one == '.') => {}
            _ => out.push(segment),
        }
    }
    // `..` was trimmed to nothing above; count it on the raw segments instead.
    let mut folded: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                folded.pop();
            }
            other => folded.push(other),
        }
    }
    if folded.first() == Some(&"admin") { format!("/{}", folded.join("/")) } else { format!("/{}", out.join("/")) }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match digits.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn what_is_judged_is_what_is_sent_over_http_2_too() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    let script = "for path in /admin/keys /x/../admin/keys //admin/keys /%61dmin/keys /x/%2e%2e/admin /ok/./here; do \
        curl -sS --path-as-is --http2 -o /dev/null -w \"$path %{http_version} %{http_code}\\n\" \"https://a.test$path\"; done; \
        curl -sS --http2 -X DELETE -o /dev/null -w 'delete %{http_code}\\n' https://b.test/item; \
        curl -sS --http2 -X delete -o /dev/null -w 'lower %{http_code}\\n' https://b.test/item; \
        curl -sS --http2 -X POST -H 'X-HTTP-Method-Override: DELETE' -o /dev/null -w 'override %{http_code}\\n' https://b.test/override";
    let out = world.sh(script).success().out();
    assert!(out.contains("/admin/keys 2 403"), "{out}");
    assert!(out.contains("delete 403"), "{out}");
    for request in world.requests() {
        let path = request["path"].as_str().unwrap_or_default();
        assert!(!lenient(path).starts_with("/admin"), "{request}");
        assert!(request["method"].as_str().is_some_and(|method| !method.eq_ignore_ascii_case("delete")), "{request}");
    }
    assert_eq!(world.requests_to("/ok/here").len() + world.requests_to("/ok/./here").len(), 1, "{out}");
}

#[test]
fn a_host_with_two_readings_gets_no_credential_and_passes_no_rule() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    // Names that are, or look like, a.test (with a secret) or c.test (denied).
    let script = r#"
hosts = ['a.test.', 'A.TEST', 'a.test:443', 'a.test:0443', 'a.test:+443', 'a.test:', 'a.test:0', 'a.test:65979', 'a.test:443:443', 'u@a.test', 'u:p@a.test',
  'c.test@a.test', 'a.test@c.test', 'a.test%00.c.test', 'a.test\x00.c.test', 'a.test%2ec.test', 'a.test/.c.test', 'a.test?c.test', 'a.test#c.test', 'a.test\\c.test',
  'a.test;c.test', 'a.test,c.test', 'a.test c.test', 'c.test.', 'C.tEsT', 'c.test..', '.c.test', 'c%2etest', '%63.test', 'c.t\u00e9st', 'c\u3002test', '\uff43.test',
  'xn--c-.test', 'a_b.test', '[a.test]', '[203.0.113.12]', '203.0.113.12', '3405803788', '0xcb00710c', '0313.0.0161.014', '203.0.28940', '203.0.113.12.', '[::ffff:203.0.113.12]', '*', '']
for host in hosts:
    raw = host.encode('utf-8')
    def absolute():
        data = b'GET http://' + raw + b'/host-abs HTTP/1.1\r\nHost: ' + raw + b'\r\nConnection: close\r\n\r\n'
        return str(statuses(exchange(tcp('127.0.0.1', 3128), data, 3)))
    def header():
        data = b'GET /host-plain HTTP/1.1\r\nHost: ' + raw + b'\r\nConnection: close\r\n\r\n'
        return str(statuses(exchange(tcp('a.test', 80), data, 3)))
    def inner():
        data = b'GET /host-tls HTTP/1.1\r\nHost: ' + raw + b'\r\nConnection: close\r\n\r\n'
        return str(statuses(exchange(proxied('a.test'), data, 3)))
    def tunnel():
        stream, line = connect(raw + (b'' if b':' in raw and not raw.startswith(b'[') else b':443'))
        if ' 200' not in line: return line
        return str(statuses(exchange(tls(stream, 'a.test', verify=False), get('a.test', '/host-tunnel'), 3)))
    for kind in (absolute, header, inner, tunnel):
        attempt(repr(host) + ' ' + kind.__name__, kind)
"#;
    let found = answers(&world.python(&[], script).success().out());
    assert_eq!(found["'a.test:443' inner"], "[200]", "{found:?}");
    assert_eq!(found["'A.TEST' inner"], "[200]", "{found:?}");
    for one in world.requests() {
        let host = one["host"].as_str().or(one["authority"].as_str()).unwrap_or_default().to_lowercase();
        let name = host.split(':').next().unwrap_or_default();
        if one.to_string().contains(TOKEN) {
            assert!(one["secure"] == true && one["dialled"] == "203.0.113.10" && one["sni"] == "a.test", "{one}");
            assert!(["a.test", "a.test."].contains(&name), "{one}");
        }
        assert_ne!(name.trim_end_matches('.'), "c.test", "{one}");
    }
    // By address it is another host than by name: no rule names 203.0.113.12,
    // so that what arrives there carries no name of a rule.
    let at_c: Vec<Value> = world.requests().into_iter().filter(|one| one["dialled"] == "203.0.113.12").collect();
    for one in at_c {
        assert!(one["host"].as_str().is_some_and(|host| host.contains("203.0.113.12") || host.contains('[')), "{one}");
    }
}

#[test]
fn three_names_agree_or_nothing_is_sent() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    let script = "
names = ['a.test', 'b.test', 'dual.test']
for outer in names:
    for sni in names:
        for host in names:
            path = '/front-%s-%s-%s' % (outer, sni, host)
            attempt('proxy' + path, lambda: str(statuses(exchange(proxied(outer, 443, sni, False), get(host, path), 3))))
            attempt('transparent' + path, lambda: str(statuses(exchange(transparent(outer, 443, sni, False), get(host, path + '-t'), 3))))
# A second request on a connection that was judged for another host, and none at all.
def second():
    stream = proxied('b.test')
    return str(statuses(exchange(stream, 'GET /front-one HTTP/1.1\\r\\nHost: b.test\\r\\n\\r\\n' + get('a.test', '/front-two'), 3)))
attempt('second', second)
def nameless():
    stream, line = connect('a.test:443')
    made = ssl.create_default_context(); made.check_hostname = False; made.verify_mode = ssl.CERT_NONE
    return str(statuses(exchange(made.wrap_socket(stream), get('a.test', '/front-nameless'), 3)))
attempt('nameless', nameless)
def absolute_in_tunnel():
    return str(statuses(exchange(proxied('b.test'), get('b.test', 'https://a.test/front-absolute'), 3)))
attempt('absolute', absolute_in_tunnel)
def absolute_host():
    return str(statuses(exchange(tcp('127.0.0.1', 3128), get('a.test', 'http://b.test/front-disagree'), 3)))
attempt('disagree', absolute_host)
";
    let found = answers(&world.python(&[], script).success().out());
    for name in ["a.test", "b.test", "dual.test"] {
        assert_eq!(found[&format!("proxy/front-{name}-{name}-{name}")], "[200]", "{found:?}");
    }
    for one in world.requests() {
        let path = one["path"].as_str().unwrap_or_default().to_owned();
        let host = one["host"].as_str().or(one["authority"].as_str()).unwrap_or_default();
        assert_eq!(one["sni"], *host, "{one}");
        let parts: Vec<&str> = path.trim_start_matches("/front-").split('-').collect();
        if parts.len() >= 3 {
            assert!(parts[1] == parts[2], "names that disagree were sent: {one}");
            // Transparently, the outer name is only the address that a
            // look-up gave; through the proxy it is what was asked for.
            assert!(path.ends_with("-t") || parts[0] == parts[1], "names that disagree were sent: {one}");
        }
        assert_eq!(one.to_string().contains(TOKEN), host == "a.test", "{one}");
    }
    for path in ["/front-two", "/front-absolute", "/front-disagree"] {
        let sent = world.requests_to(path);
        assert!(sent.iter().all(|one| !one.to_string().contains(TOKEN)), "{sent:?}");
        assert!(sent.is_empty(), "{sent:?} {found:?}");
    }
}

#[test]
fn http_2_names_agree_too() {
    if !world::has("node") {
        return;
    }
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    let script = r#"
const http2 = require('http2'), net = require('net'), tls = require('tls'), fs = require('fs');
const ca = fs.readFileSync(process.env.SSL_CERT_FILE);
function dial(target) { return new Promise((done, fail) => { const s = net.connect(3128, '127.0.0.1', () => s.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`));
  s.once('data', d => String(d).includes(' 200') ? done(s) : fail(new Error(String(d).split('\r\n')[0]))); s.once('error', fail); }); }
async function ask(name, headers) { let answer;
  try { const socket = await dial('b.test:443');
    const secure = tls.connect({socket, servername: 'b.test', ca, ALPNProtocols: ['h2']});
    const session = http2.connect('https://b.test', {createConnection: () => secure}); session.on('error', () => {});
    answer = await new Promise((done) => { const request = session.request(headers); request.on('response', h => done(h[':status']));
      request.on('error', e => done('error ' + e.code)); setTimeout(() => done('silence'), MILLISECONDS); request.end(); });
    session.destroy();
  } catch (error) { answer = 'error ' + error.message; }
  console.log(JSON.stringify({name, answer: String(answer)})); }
(async () => {
  await ask('fine', {':path': '/two-fine', ':authority': 'b.test'});
  await ask('authority', {':path': '/two-authority', ':authority': 'a.test'});
  await ask('authority port', {':path': '/two-port', ':authority': 'b.test:8443'});
  await ask('host beside', {':path': '/two-beside', ':authority': 'b.test', 'host': 'a.test'});
  await ask('host alone', {':path': '/two-alone', ':authority': '', 'host': 'a.test'});
  await ask('userinfo', {':path': '/two-userinfo', ':authority': 'a.test@b.test'});
  await ask('scheme', {':path': '/two-scheme', ':authority': 'b.test', ':scheme': 'http'});
  await ask('absolute', {':path': 'https://a.test/two-absolute', ':authority': 'b.test'});
  process.exit(0);
})();
"#;
    let script = script.replace("MILLISECONDS", &slowly(Duration::from_secs(4)).as_millis().to_string());
    let found = answers(&world.run(&[], &["node", "-e", &script]).success().out());
    assert_eq!(found["fine"], "200", "{found:?}");
    for name in ["authority", "authority port", "host beside", "userinfo"] {
        assert_ne!(found[name], "200", "{name}: {found:?}");
    }
    for one in world.requests() {
        assert!(!one.to_string().contains(TOKEN), "{one}");
        let host = one["authority"].as_str().or(one["host"].as_str()).unwrap_or_default();
        assert_eq!(host, "b.test", "{one}");
        assert!(all_headers(&one, "host").iter().all(|host| host == "b.test"), "{one}");
    }
}
