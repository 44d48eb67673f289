//! Promise: one request in is one request out. Headers that are doubled, folded
//! or cut, and bodies whose length can be read in two ways, do not carry a
//! second request past the judgement, nor a credential to the wrong place.

mod harness;
mod world;

use std::collections::BTreeMap;

use harness::names_in;
use harness::text::answers;
use world::{TOKEN, World, all_headers};

const POLICY: &str = "[[rule]]\nname = \"no admin\"\nhost = \"*\"\npath = \"/admin*\"\naction = \"deny\"\n";

/// The bytes that the verbatim origin got, one text for each connection.
fn verbatim(world: &World) -> Vec<String> {
    names_in(&world.internet(""))
        .into_iter()
        .filter(|name| name.starts_with("raw-") && name.ends_with(".bin"))
        .map(|name| world::text_of(&world.internet(&name)))
        .collect()
}

const FRAMES: &str = r#"
evil = 'GET /admin/smuggled HTTP/1.1\r\nHost: raw.test\r\nX-Smuggled: yes\r\n\r\n'
def post(headers, body, path='/post', version='1.1'):
    return 'POST %s HTTP/%s\r\nHost: raw.test\r\n%s\r\n%s' % (path, version, headers, body)
cl = 'Content-Length: %d\r\n'
te = 'Transfer-Encoding: chunked\r\n'
cases = {
  'cl.te': post(cl % (5 + len(evil)) + te, '0\r\n\r\n' + evil),
  'te.cl': post(te + cl % 4, '%x\r\n%s\r\n0\r\n\r\n' % (len(evil), evil)),
  'te.te': post(te + 'Transfer-Encoding: identity\r\n' + cl % 4, '0\r\n\r\n' + evil),
  'te twice': post(te + te, '0\r\n\r\n' + evil),
  'te list': post('Transfer-Encoding: chunked, identity\r\n', '0\r\n\r\n' + evil),
  'te gzip chunked': post('Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n' + evil),
  'te xchunked': post('Transfer-Encoding: xchunked\r\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'te space': post('Transfer-Encoding : chunked\r\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'te tab': post('Transfer-Encoding:\tchunked\r\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'te vt': post('Transfer-Encoding: \x0bchunked\r\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'te fold': post('Transfer-Encoding:\r\n chunked\r\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'te quoted': post('Transfer-Encoding: "chunked"\r\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'te 1.0': post(te + cl % (5 + len(evil)), '0\r\n\r\n' + evil, version='1.0'),
  'cl twice': post(cl % 0 + cl % len(evil), evil),
  'cl twice same': post(cl % len(evil) + cl % len(evil), evil),
  'cl list': post('Content-Length: 0, %d\r\n' % len(evil), evil),
  'cl plus': post('Content-Length: +%d\r\n' % len(evil), evil),
  'cl minus': post('Content-Length: -1\r\n', evil),
  'cl hex': post('Content-Length: 0x%x\r\n' % len(evil), evil),
  'cl zeros': post('Content-Length: 000%d\r\n' % len(evil), evil),
  'cl space': post('Content-Length : %d\r\n' % len(evil), evil),
  'cl huge': post('Content-Length: 18446744073709551617\r\n', evil),
  'cl empty': post('Content-Length: \r\n', evil),
  'get with body': 'GET /post HTTP/1.1\r\nHost: raw.test\r\n' + cl % len(evil) + '\r\n' + evil,
  'chunk extension': post(te, '0;%s\r\n\r\n' % evil.replace('\r\n', ' ')),
  'chunk extension lf': post(te, '1;a\nb\r\nx\r\n0\r\n\r\n' + evil),
  'chunk huge': post(te, '10000000000000000\r\n' + evil),
  'chunk minus': post(te, '-1\r\n' + evil),
  'chunk 0x': post(te, '0x1\r\nx\r\n0\r\n\r\n' + evil),
  'chunk lf': post(te, '1\nx\n0\n\n' + evil),
  'chunk no crlf': post(te, '1\r\nxx0\r\n\r\n' + evil),
  'chunk trailer': post(te, '0\r\nContent-Length: 10\r\nHost: evil\r\n\r\n' + evil),
  'chunk spaces': post(te, ' 1 \r\nx\r\n0\r\n\r\n' + evil),
  'lf only': post('X: y\nTransfer-Encoding: chunked\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'cr only': post('X: y\rTransfer-Encoding: chunked\r\n' + cl % (5 + len(evil)), '0\r\n\r\n' + evil),
  'nul in header': post('X: y\x00\r\n' + cl % len(evil), evil),
  'request line tab': 'GET\t/admin/tab\tHTTP/1.1\r\nHost: raw.test\r\n\r\n',
  'request line spaces': 'GET  /admin/spaces  HTTP/1.1\r\nHost: raw.test\r\n\r\n',
  'request line two': 'GET /ok /admin/two HTTP/1.1\r\nHost: raw.test\r\n\r\n',
  'http 0.9': 'GET /admin/09\r\n',
  'http 2.0': 'GET /admin/20 HTTP/2.0\r\nHost: raw.test\r\n\r\n',
  'prior knowledge': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'leading lines': '\r\n\r\nGET /admin/leading HTTP/1.1\r\nHost: raw.test\r\n\r\n',
  'pipelined': 'GET /post HTTP/1.1\r\nHost: raw.test\r\n\r\n' + evil,
  'upgrade h2c': 'GET /post HTTP/1.1\r\nHost: raw.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n' + evil,
  'upgrade other': 'GET /post HTTP/1.1\r\nHost: raw.test\r\nConnection: Upgrade\r\nUpgrade: anything\r\n\r\n' + evil,
  'expect': post('Expect: 100-continue\r\n' + cl % 0, evil),
  'expect odd': post('Expect: 200-ok\r\n' + cl % 0, evil),
}
def plain(): return tcp('127.0.0.1', 3128)
for name, data in cases.items():
    attempt(name, lambda: str(statuses(exchange(proxied('raw.test'), data, 2))))
    absolute = re.sub(r'^(\s*\w+\s+)/', lambda match: match.group(1) + 'http://raw.test/', data, count=1)
    attempt(name + ' plain', lambda: str(statuses(exchange(plain(), absolute, 2))))
"#;

#[test]
fn no_second_request_hides_in_the_framing_of_the_first() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    let found = answers(&world.python(&[], FRAMES).success().out());
    let streams = verbatim(&world);
    assert!(!streams.is_empty(), "something came: {found:?}");
    for stream in &streams {
        for request in requests_in(stream) {
            let line = request.lines().next().unwrap_or_default();
            assert!(!line.contains("/admin"), "{line} was sent\n{stream}");
            let lower = request.to_lowercase();
            let lengths = lower.lines().filter(|line| line.starts_with("content-length")).count();
            let encodings = lower.lines().filter(|line| line.starts_with("transfer-encoding")).count();
            assert!(lengths + encodings <= 1, "two readings were sent on:\n{request}");
            assert!(!lower.lines().any(|line| line.starts_with([' ', '\t'])), "a folded line was sent on:\n{request}");
        }
    }
    // What is plainly one request, passed.
    assert!(found["cl twice same"].contains("200") || found["cl twice same"].contains("400"), "{found:?}");
    assert!(found["pipelined"].contains("200"), "{found:?}");
    assert!(!found["cl.te"].contains("200, 200"), "{found:?}");
}

/// The requests that a careful server reads out of a stream of bytes.
fn requests_in(stream: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = stream;
    while let Some((head, tail)) = rest.split_once("\r\n\r\n") {
        found.push(head.to_owned());
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|text| text.trim().parse::<usize>().ok());
        rest = if lower.contains("transfer-encoding:") {
            tail.find("0\r\n\r\n").map_or("", |end| &tail[end + 5..])
        } else {
            tail.get(length.unwrap_or(0)..).unwrap_or_default()
        };
    }
    if !rest.trim().is_empty() {
        found.push(rest.to_owned());
    }
    found
}

#[test]
fn headers_reach_the_origin_once_and_hop_by_hop_ones_do_not() {
    let Some(world) = World::new() else { return };
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    let script = r#"
def ask(path, headers, host='Host: a.test\r\n'):
    return str(statuses(exchange(proxied('a.test'), 'GET %s HTTP/1.1\r\n%s%s\r\n' % (path, host, headers), 2)))
cases = {
  'two hosts': ('', 'Host: a.test\r\nHost: c.test\r\n'), 'two same': ('', 'Host: a.test\r\nHost: a.test\r\n'), 'no host': ('', ''),
  'host folded': ('', 'Host: a.test\r\n .evil\r\n'), 'host space': ('', 'Host : a.test\r\n'), 'host empty': ('', 'Host:\r\n'),
  'connection lists authorization': ('Connection: close, Authorization, X-Api-Key\r\nAuthorization: Bearer mine\r\n', None),
  'connection lists host': ('Connection: Host\r\n', None), 'connection lists length': ('Connection: Content-Length\r\nContent-Length: 0\r\n', None),
  'hop': ('Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nTrailer: x\r\n', None),
  'two authorizations': ('Authorization: Bearer mine\r\nauthorization: Bearer other\r\n', None),
  'authorization space': ('Authorization : Bearer mine\r\n', None), 'authorization fold': ('Authorization: Bearer\r\n mine\r\n', None),
  'crlf': ('X-A: b%0d%0aX-Evil: 1\r\n', None), 'bare cr': ('X-A: b\rX-Evil: 1\r\n', None), 'bare lf': ('X-A: b\nX-Evil: 1\r\n', None),
  'nul': ('X-A: b\x00c\r\n', None), 'no colon': ('X-A\r\n', None), 'empty name': (': x\r\n', None), 'space first': (' X-A: b\r\n', None),
  'forwarded': ('X-Forwarded-Host: c.test\r\nForwarded: host=c.test\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\nX-Forwarded-For: 127.0.0.1\r\n', None),
}
for name, (headers, host) in cases.items():
    path = '/h-' + name.replace(' ', '-')
    attempt(name, lambda: ask(path, headers) if host is None else ask(path, headers, host))
attempt('head', lambda: ask('/h-head', 'X-A: b\r\n'))
"#;
    let found = answers(&world.python(&[], script).success().out());
    assert_eq!(found["head"], "[200]", "{found:?}");
    for name in
        ["two hosts", "host folded", "host space", "host empty", "authorization space", "nul", "no colon", "empty name"]
    {
        assert!(!found[name].contains("200"), "{name}: {found:?}");
    }
    let got: BTreeMap<String, serde_json::Value> = world
        .requests_to("/h-")
        .into_iter()
        .map(|one| (one["path"].as_str().unwrap_or_default().trim_start_matches("/h-").to_owned(), one))
        .collect();
    for (name, one) in &got {
        assert_eq!(all_headers(one, "authorization"), [format!("Bearer {TOKEN}")], "{name}: {one}");
        assert!(all_headers(one, "host").iter().all(|host| host == "a.test"), "{name}: {one}");
        // A lone line feed ends a line (RFC 9112, section 2.2): what follows is
        // a header like any other, sent on as one.
        let evil = if name == "bare-lf" { "x-hop" } else { "x-evil" };
        for hop in ["x-hop", "keep-alive", "proxy-authorization", "proxy-connection", evil] {
            assert!(all_headers(one, hop).is_empty(), "{name} sent {hop}: {one}");
        }
        assert!(all_headers(one, "te").iter().all(|te| te == "trailers"), "{name}: {one}");
    }
    assert!(got.contains_key("connection-lists-authorization"), "{found:?}");
    assert!(got.contains_key("hop") && got.contains_key("two-authorizations"), "{found:?}");
}

#[test]
fn nothing_before_the_answer_to_connect_becomes_a_request() {
    let Some(world) = World::new() else { return };
    world.policy(POLICY);
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    let script = r#"
evil = b'GET http://b.test/admin/early HTTP/1.1\r\nHost: b.test\r\n\r\n'
def early(target, data):
    stream, line = connect(target, data)
    stream.settimeout(2)
    return line + ' ' + repr(rest(stream)[:200])
attempt('plain request', lambda: early('a.test:443', evil))
attempt('for port 80', lambda: early('b.test:80', b'GET /admin/early HTTP/1.1\r\nHost: b.test\r\n\r\n'))
attempt('garbage', lambda: early('a.test:443', b'\x00' * 64))
def body():
    stream = tcp('127.0.0.1', 3128)
    return exchange(stream, b'CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\nContent-Length: %d\r\n\r\n' % len(evil) + evil, 2).decode('latin-1')
attempt('body', body)
def chunked():
    return exchange(tcp('127.0.0.1', 3128), b'CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' + evil, 2).decode('latin-1')
attempt('chunked', chunked)
def early_hello():
    # A hello that comes in the same packet as CONNECT is allowed, and judged.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = context().wrap_bio(incoming, outgoing, server_hostname='b.test')
    try: made.do_handshake()
    except ssl.SSLWantReadError: pass
    stream, line = connect('b.test:443', outgoing.read())
    stream.settimeout(3)
    while True:
        try: made.do_handshake(); break
        except ssl.SSLWantReadError:
            waiting = outgoing.read()
            if waiting: stream.sendall(waiting)
            incoming.write(stream.recv(65536))
    made.write(get('b.test', '/early-hello').encode())
    stream.sendall(outgoing.read())
    answer = b''
    while b'origin' not in answer:
        try: answer += made.read()
        except ssl.SSLWantReadError:
            piece = stream.recv(65536)
            if not piece: break
            incoming.write(piece)
    return str(statuses(answer))
attempt('hello', early_hello)
for line in ('CONNECT a.test HTTP/1.1', 'CONNECT http://a.test:443 HTTP/1.1', 'CONNECT /a.test:443 HTTP/1.1', 'CONNECT a.test:443/x HTTP/1.1',
             'CONNECT * HTTP/1.1', 'connect a.test:443 HTTP/1.1', 'CONNECT a.test:443 HTTP/1.0', 'CONNECT b.test:443 HTTP/1.1\r\nHost: a.test:443'):
    attempt(line, lambda: exchange(tcp('127.0.0.1', 3128), line + '\r\n\r\n', 1).split(b'\r\n')[0].decode())
attempt('post to proxy', lambda: exchange(tcp('127.0.0.1', 3128), 'POST /admin HTTP/1.1\r\nHost: 127.0.0.1:3128\r\nContent-Length: 0\r\n\r\n', 1).split(b'\r\n')[0].decode())
attempt('https absolute', lambda: exchange(tcp('127.0.0.1', 3128), get('a.test', 'https://a.test/admin/absolute'), 1).split(b'\r\n')[0].decode())
attempt('ftp absolute', lambda: exchange(tcp('127.0.0.1', 3128), get('a.test', 'ftp://a.test/admin/absolute'), 1).split(b'\r\n')[0].decode())
"#;
    let found = answers(&world.python(&[], script).success().out());
    assert_eq!(found["hello"], "[200]", "{found:?}");
    assert_eq!(world.requests_to("/admin").len(), 0, "{:?} {found:?}", world.requests());
    for one in world.requests() {
        assert!(!one.to_string().contains(TOKEN), "{one}");
    }
    assert!(!format!("{found:?}").contains("407"), "{found:?}");
}

#[test]
fn what_an_origin_smuggles_into_its_answer_stays_in_it() {
    let Some(world) = World::new() else { return };
    world.config("inspect = \"all\"\n");
    // Two answers to one request, a body longer than it says, odd framings.
    let cases = [
        (
            "two",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil",
        ),
        ("both", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\nok"),
        ("folded", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok"),
        ("long head", &format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 2\r\n\r\nok", "x".repeat(3_000_000))),
        ("no http", "SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        ("101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET /x"),
        (
            "407",
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n\r\nok",
        ),
    ];
    for (name, answer) in &cases {
        std::fs::write(world.internet("raw-answer"), answer).expect("write a file");
        let script = "
stream = proxied('raw.test')
answer = exchange(stream, 'GET /one HTTP/1.1\\r\\nHost: raw.test\\r\\n\\r\\nGET /two HTTP/1.1\\r\\nHost: raw.test\\r\\nConnection: close\\r\\n\\r\\n', 3)
print(repr(answer[:600]))
";
        let mut run = world.run_command(&[], &["/usr/bin/python3", "-c", &format!("{}\n{script}", world::prelude())]);
        run.env("PYTHONDONTWRITEBYTECODE", "1");
        let out = harness::finish(run, b"").success().out();
        assert!(!out.contains("X-Evil") && !out.contains("x-evil"), "{name}: {out}");
        assert!(!out.contains("evilHTTP") && out.len() < 3000, "{name}: {out}");
    }
}
