//! Promise: bodies stream both ways with backpressure, chunk by chunk, in both
//! versions of HTTP, and nothing that streams is cut off.

mod harness;
mod world;

use std::time::Instant;

use harness::text::answers;
use harness::{SOON, eventually, load};
use world::{TOKEN, World, has, header};

/// Each test runs with TLS opened, and without.
fn both(test: impl Fn(&World, &str)) {
    for inspect in ["needed", "all"] {
        let Some(world) = World::new() else { return };
        world.config(&format!("inspect = \"{inspect}\"\n"));
        test(&world, inspect);
    }
}

#[test]
fn events_come_one_by_one() {
    both(|world, inspect| {
        for (version, url) in
            [("--http1.1", "https://a.test"), ("--http2", "https://a.test"), ("--http1.1", "http://b.test")]
        {
            let command = format!("curl -sSN {version} '{url}/sse?n=4&ms=600'");
            let begun = Instant::now();
            let live = world.start(&[], &["sh", "-c", &command]);
            live.wait_for("event 0");
            let first = begun.elapsed();
            live.wait_for("event 1");
            let second = begun.elapsed();
            live.wait().success();
            assert!(second - first > SOON / 20, "{inspect} {version} {url}: {first:?} {second:?}");
            assert!(
                begun.elapsed() - first > std::time::Duration::from_millis(1200),
                "the first came with the rest: {inspect} {version}"
            );
        }
    });
}

#[test]
fn large_bodies_arrive_whole_in_both_directions() {
    both(|world, inspect| {
        let (up, down) = (load(30_000_000, 3_000_000), load(20_000_000, 2_000_000));
        let script = "head -c UP /dev/urandom > body; sha256sum < body; \
            for version in --http1.1 --http2; do for url in https://a.test https://a.test:8443 http://b.test; do \
            curl -sS $version -T body $url/count; curl -sS $version -X POST -H 'Transfer-Encoding: chunked' -H 'Expect:' -T - $url/count < body; \
            curl -sS $version \"$url/big?size=DOWN\" | sha256sum; curl -sS $version \"$url/big?size=DOWN&chunked\" | sha256sum; done; done";
        let script = script.replace("UP", &up.to_string()).replace("DOWN", &down.to_string());
        let out = world.sh(&script).success();
        let text = out.out();
        let sum = text.split(' ').next().expect("a sum").to_owned();
        let sums: Vec<&str> = text.lines().skip(1).filter(|line| line.ends_with("  -")).collect();
        assert_eq!(sums.len(), 12, "{text}");
        assert!(sums.iter().all(|line| *line == sums[0]), "{inspect}: {text}");
        for request in world.requests_to("/count") {
            let body = world.body_of(&request).expect("it has ended");
            assert_eq!((body["end"].as_str(), body["length"].as_u64()), (Some("complete"), Some(up)), "{body}");
            assert_eq!(body["sha256"], *sum, "{inspect}: {body}");
        }
        assert_eq!(world.requests_to("/count").len(), 12, "{}", out.err());
    });
}

#[test]
fn an_upload_arrives_while_it_is_sent() {
    both(|world, inspect| {
        let script = "
stream = proxied('a.test')
stream.settimeout(10)
stream.sendall(b'POST /grpc.x/echo HTTP/1.1\\r\\nHost: a.test\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n')
got = b''
for number in range(3):
    piece = b'piece %d' % number
    stream.sendall(b'%x\\r\\n%s\\r\\n' % (len(piece), piece))
    while piece not in got:
        more = stream.recv(65536)
        if not more: break
        got += more
    tell(str(number), str(piece in got))
stream.sendall(b'0\\r\\n\\r\\n')
tell('end', rest(stream)[-60:].decode('latin-1'))
";
        let found = answers(&world.python(&[], script).success().out());
        for number in ["0", "1", "2"] {
            assert_eq!(found[number], "True", "{inspect}: each piece comes back before the next is sent: {found:?}");
        }
    });
}

const GRPC: &str = r#"
const http2 = require('http2'), net = require('net'), tls = require('tls'), fs = require('fs');
const ca = fs.readFileSync(process.env.SSL_CERT_FILE);
const socket = net.connect(3128, '127.0.0.1', () => socket.write('CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n'));
socket.once('data', () => {
  const secure = tls.connect({socket, servername: 'a.test', ca, ALPNProtocols: ['h2']});
  const session = http2.connect('https://a.test', {createConnection: () => secure});
  const call = session.request({':method': 'POST', ':path': '/grpc.test/Talk', 'content-type': 'application/grpc', 'te': 'trailers'});
  let sent = 0, got = '';
  const next = () => { if (sent < 3) call.write('message ' + sent++ + ';'); else call.end(); };
  call.on('response', h => console.log('status', h[':status'], h['content-type']));
  call.on('data', d => { got += d; if (got.split(';').length - 1 === sent) next(); });
  call.on('trailers', t => console.log('trailers', t['grpc-status'], t['grpc-message']));
  call.on('end', () => { console.log(got); session.close(); socket.destroy(); });
  next();
  setTimeout(() => { console.log('too late', got); process.exit(1); }, 15000).unref();
});
"#;

#[test]
fn a_two_way_call_over_http_2_ends_with_its_trailers() {
    if !has("node") {
        return;
    }
    both(|world, inspect| {
        let out = world.run(&[], &["node", "-e", GRPC]).success();
        assert!(out.out().contains("status 200 application/grpc"), "{inspect}: {}", out.out());
        assert!(out.out().contains("message 0;message 1;message 2;"), "{inspect}: {}", out.out());
        assert!(out.out().contains("trailers 0 fine"), "{inspect}: {}", out.out());
        let request = world.received("/grpc.test/Talk");
        assert_eq!(request["version"], "HTTP/2.0");
        assert_eq!(header(&request, "te").as_deref(), Some("trailers"));
    });
}

#[test]
fn trailers_head_continue_and_informational_answers_pass() {
    both(|world, inspect| {
        let script = "for version in --http1.1 --http2; do \
            echo '== trailers'; curl -sSv --raw $version -H 'TE: trailers' https://a.test/trailers 2>&1 | grep -i 'x-sum: 42'; \
            echo '== head'; curl -sSI $version 'https://a.test/big?size=12345' | grep -i content-length; \
            echo '== expect'; head -c 3000000 /dev/zero | curl -sSv $version -H 'Expect: 100-continue' --expect100-timeout 5 -T - https://a.test/count 2>&1 | grep -E '^< HTTP.* 100|length'; \
            echo '== codes'; for code in 204 304 404 500 503; do curl -sS $version -o /dev/null -w '%{http_code} ' https://a.test/status/$code; done; echo; done";
        let out = world.sh(script).success().out();
        assert_eq!(out.matches("x-sum: 42").count(), 2, "{inspect}: {out}");
        assert_eq!(out.to_lowercase().matches("content-length: 12345").count(), 2, "{inspect}: {out}");
        assert_eq!(out.matches("\"length\":3000000").count(), 2, "{inspect}: {out}");
        assert!(out.contains("< HTTP/1.1 100"), "{inspect}: {out}");
        assert_eq!(out.matches("204 304 404 500 503").count(), 2, "{inspect}: {out}");
    });
}

#[test]
fn early_hints_do_not_confuse_the_answer() {
    both(|world, inspect| {
        std::fs::write(
            world.internet("raw-answer"),
            "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal",
        )
        .expect("write a file");
        let out = world.sh("curl -sS https://raw.test/hints; curl -sS --http2 https://raw.test/hints; curl -sS http://raw.test/hints").success();
        assert_eq!(out.out(), "finalfinalfinal", "{inspect}: {}", out.err());
        // Over HTTP/1.1 they are passed on, in their order; a 100 nobody asked for is not.
        for url in ["https://raw.test/hints", "http://raw.test/hints"] {
            let out = world.sh(&format!("curl -sS -i --suppress-connect-headers --http1.1 {url}")).success().out();
            let heads: Vec<&str> = out.lines().filter(|line| line.starts_with("HTTP/1.1 ")).map(str::trim).collect();
            let expected: &[&str] = match (inspect, url.starts_with("https")) {
                // In a tunnel everything passes as it is.
                ("needed", true) => &["HTTP/1.1 103 Early Hints", "HTTP/1.1 100 Continue", "HTTP/1.1 200 OK"],
                _ => &["HTTP/1.1 103 Early Hints", "HTTP/1.1 200 OK"],
            };
            assert_eq!(heads, expected, "{inspect} {url}: {out}");
            assert!(out.to_lowercase().contains("link: </a>; rel=preload"), "{inspect} {url}: {out}");
        }
    });
}

#[test]
fn a_body_that_is_held_back_goes_when_the_origin_wants_it() {
    both(|world, inspect| {
        // An origin that refuses at once never gets the body.
        std::fs::write(
            world.internet("raw-answer"),
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
        )
        .expect("write a file");
        let script = "head -c 2000000 /dev/zero >body; for n in 1 2 3 4 5; do curl -sS -o /dev/null --http1.1 --expect100-timeout 10 \
            -H 'Expect: 100-continue' -T body -w '%{http_code} %{size_upload} %{exitcode}\\n' https://raw.test/upload; done";
        let out = world.sh(script).out();
        assert_eq!(out.lines().collect::<Vec<_>>(), ["401 0 0"; 5], "{inspect}: {out}");
        // One that says nothing gets it after a while.
        std::fs::write(world.internet("raw-answer"), "").expect("write a file");
        let silent = world.start(&[], &["sh", "-c", "curl -sS --http1.1 -m 8 --expect100-timeout 10 -H 'Expect: 100-continue' -d 'the body came' https://raw.test/silent; true"]);
        eventually("the body came without a word of the origin", 3 * SOON, || {
            std::fs::read_dir(world.internet("")).expect("a directory").flatten().any(|entry| {
                entry.file_name().to_string_lossy().starts_with("raw-")
                    && String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default())
                        .contains("the body came")
            }) || inspect == "needed"
        });
        silent.wait();
    });
}

#[test]
fn a_kept_connection_and_a_slow_head_have_times_of_their_own() {
    let Some(world) = World::new() else { return };
    world.config("inspect = \"all\"\nheader_timeout = \"1s\"\nidle_timeout = \"4s\"\n");
    let script = "
def closed_after(stream, before, after=b''):
    stream.settimeout(12)
    stream.sendall(before)
    data, begun = b'', time.time()
    while True:
        piece = stream.recv(65536)
        if not piece: return time.time() - begun
        if not data:
            begun = time.time()
            if after: stream.sendall(after)
        data += piece
keep = b'GET /ok HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n'
tell('idle tls', str(closed_after(proxied('a.test'), keep % b'a.test')))
tell('idle plain', str(closed_after(tcp('b.test', 80), keep % b'b.test')))
tell('idle proxy', str(closed_after(tcp('127.0.0.1', 3128), b'GET http://b.test/ok HTTP/1.1\\r\\nHost: b.test\\r\\n\\r\\n')))
tell('head', str(closed_after(proxied('a.test'), keep % b'a.test', b'GET /')))
tell('tunnel', str(closed_after(proxied('a.test'), b'GET /slow?ms=6000 HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: close\\r\\n\\r\\n')))
";
    let found = answers(&world.python(&[], script).success().out());
    let seconds = |name: &str| found[name].parse::<f64>().expect("seconds");
    for name in ["idle tls", "idle plain", "idle proxy"] {
        assert!((3.5..9.0).contains(&seconds(name)), "{found:?}");
    }
    assert!(seconds("head") < 3.5, "{found:?}");
}

const SOCKET: &str = r#"
def frame(data, code=1):
    head = bytes([0x80 | code])
    head += bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0xfe]) + struct.pack('!H', len(data)) if len(data) < 65536 else bytes([0xff]) + struct.pack('!Q', len(data))
    return head + b'\0\0\0\0' + data
def exactly(stream, count):
    data = b''
    while len(data) < count:
        piece = stream.recv(count - len(data))
        if not piece: raise OSError('closed')
        data += piece
    return data
def receive(stream):
    first, length = exactly(stream, 2)
    if length == 126: length = struct.unpack('!H', exactly(stream, 2))[0]
    elif length == 127: length = struct.unpack('!Q', exactly(stream, 8))[0]
    return exactly(stream, length)
def talk(stream, host):
    stream.settimeout(10)
    stream.sendall(('GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n'
        'Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: chat\r\n\r\n' % host).encode())
    answer = head(stream)
    if b' 101 ' not in answer: return answer.decode('latin-1')
    for size in (1, 125, 126, 70000, 1000000):
        data = os.urandom(size)
        stream.sendall(frame(data, 2))
        if receive(stream) != data: return 'changed at %d' % size
    time.sleep(1.5)
    stream.sendall(frame(b'after a pause'))
    late = receive(stream).decode()
    stream.sendall(frame(b'', 8))
    receive(stream)
    return late + ' ' + str(rest(stream))
attempt('secure', lambda: talk(proxied('a.test'), 'a.test'))
attempt('transparent', lambda: talk(transparent('a.test'), 'a.test'))
attempt('plain', lambda: talk(tcp('b.test', 80), 'b.test'))
attempt('tunnel to 80', lambda: talk(connect('b.test:80')[0], 'b.test'))
"#;

#[test]
fn a_web_socket_carries_frames_of_every_size_both_ways() {
    both(|world, inspect| {
        let found = answers(&world.python(&[], SOCKET).success().out());
        for name in ["secure", "transparent", "plain", "tunnel to 80"] {
            assert_eq!(found[name], "after a pause b''", "{inspect}: {found:?}");
        }
    });
    let Some(world) = World::new() else { return };
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    let found = answers(&world.python(&[], SOCKET).success().out());
    assert_eq!(found["secure"], "after a pause b''", "with a secret: {found:?}");
    for request in world.requests_to("/ws").iter().filter(|one| one["sni"] == "a.test") {
        assert_eq!(header(request, "authorization"), Some(format!("Bearer {TOKEN}")));
        assert_eq!(header(request, "sec-websocket-protocol").as_deref(), Some("chat"));
    }
}

#[test]
fn a_client_that_goes_away_is_gone_for_the_origin_too_and_the_other_way_round() {
    both(|world, inspect| {
        let script = "curl -sSN --max-time 2 'https://a.test/sse?n=1000&ms=50' -o /dev/null; \
            (head -c 100000; sleep 2) < /dev/zero | timeout 1 curl -sS --http1.1 -T - -H 'Transfer-Encoding: chunked' https://a.test/count; \
            curl -sS --max-time 3 https://noserver.test/x; sleep 5; true";
        let live = world.start(&[], &["sh", "-c", script]);
        eventually("the stream of events began", SOON, || !world.requests_to("/sse").is_empty());
        eventually("the upload ended without its end", 3 * SOON, || {
            let uploads = world.requests_to("/count");
            uploads.first().and_then(|request| world.body_of(request)).is_some_and(|body| body["end"] != "complete")
        });
        live.wait().success();
        // A short answer is told as such, not as a whole one.
        std::fs::write(world.internet("raw-answer"), "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
            .expect("write");
        let cut = "import sys
stream = proxied('raw.test')
stream.settimeout(3)
stream.sendall(get('raw.test', '/cut').encode())
time.sleep(0.5)
tell('got', rest(stream).decode('latin-1')[-5:])";
        let found = answers(&world.python(&[], cut).success().out());
        assert_eq!(found["got"], "short", "{inspect}");
    });
}

#[test]
fn a_slow_reader_holds_the_origin_back_instead_of_filling_memory() {
    let Some(world) = World::new() else { return };
    world.config("inspect = \"all\"\n");
    let script = "
stream = proxied('a.test')
stream.settimeout(20)
stream.sendall(get('a.test', '/big?size=2000000000').encode())
stream.recv(1000)
print('began', flush=True)
time.sleep(6)
total = 0
while total < 3000000:
    total += len(stream.recv(65536))
print('still comes', flush=True)
";
    let live = world.start(&[], &["/usr/bin/python3", "-c", &format!("{}\n{script}", world::prelude())]);
    live.wait_for("began");
    std::thread::sleep(std::time::Duration::from_secs(3));
    let status = std::fs::read_to_string(format!("/proc/{}/status", live.pid())).expect("a status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 64 << 10, "{kib} KiB while a reader sleeps");
    live.wait().success();
}

#[test]
fn no_timeout_kills_a_long_quiet_stream_but_connects_and_headers_have_one() {
    let Some(world) = World::new() else { return };
    // All the times that there are, as short as they can be.
    world.config("inspect = \"all\"\nconnect_timeout = \"1s\"\ntls_timeout = \"1s\"\nheader_timeout = \"1s\"\nresponse_timeout = \"2s\"\nidle_timeout = \"1s\"\n");
    let script = "echo '== stream'; curl -sSN 'https://a.test/sse?n=3&ms=3000'; echo '== hang'; curl -sS -o /dev/null -w '%{http_code}' https://a.test/hang; \
        echo '== tls'; curl -sS -o /dev/null -w '%{http_code}' https://noserver.test/; echo '== connect'; curl -sS -o /dev/null -w '%{http_code}' http://203.0.113.200/";
    let begun = Instant::now();
    let out = world.sh(script).out();
    assert!(begun.elapsed().as_secs() < 25, "{:?}", begun.elapsed());
    let sections: Vec<&str> = out.split("== ").collect();
    assert!(sections[1].contains("event 2"), "{out}");
    for section in &sections[2..] {
        assert!(section.contains("504") || section.contains("502"), "{section}");
    }
    let slow = "
stream = tcp('127.0.0.1', 3128); stream.sendall(b'GET http://b.test/ HTTP/1.1\\r\\nHost:'); begun = time.time(); stream.settimeout(10); rest(stream)
tell('header', str(time.time() - begun < 5))
stream = proxied('a.test'); exchange(stream, 'GET /x HTTP/1.1\\r\\nHost: a.test\\r\\n\\r\\n', .5); begun = time.time(); stream.settimeout(10); rest(stream)
tell('idle', str(time.time() - begun < 5))
stream, line = connect('a.test:443'); begun = time.time(); stream.settimeout(10); rest(stream)
tell('hello', str(time.time() - begun < 5))
";
    let found = answers(&world.python(&[], slow).success().out());
    assert!(found.values().all(|value| value == "True"), "{found:?}");
}
