//! Promise: a secret that was injected does not come back: not in headers,
//! bodies, trailers or error texts, in none of the forms that it is written
//! down in, wherever the borders of chunks fall.

mod harness;
mod world;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use harness::text::answers;
use world::{CANARY, TOKEN, World, header};

/// Forms that must not appear in what the agent got: at least eight characters
/// of the value in a row are a leak too.
fn leaks(text: &[u8]) -> Vec<String> {
    let mut forms = vec![CANARY.to_owned(), serde_json::json!(CANARY).to_string().trim_matches('"').to_owned()];
    let percent: String = CANARY
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    forms.extend([percent.to_lowercase(), percent]);
    let escape =
        |one: char| if one.is_ascii_alphanumeric() { one.to_string() } else { format!("\\u{:04X}", one as u32) };
    forms.push(CANARY.chars().map(escape).collect());
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        forms.push(engine.encode(CANARY));
        // What of it every alignment has for certain.
        for before in 1..3 {
            let shifted = engine.encode(format!("{}{CANARY}", "x".repeat(before)));
            forms.push(shifted[4..shifted.len() - 4].to_owned());
        }
    }
    let text = String::from_utf8_lossy(text).into_owned();
    let mut found: Vec<String> = forms.into_iter().filter(|form| text.contains(form.as_str())).collect();
    let pieces = CANARY.as_bytes().windows(12).map(|piece| String::from_utf8_lossy(piece).into_owned());
    found.extend(pieces.filter(|piece| text.contains(piece.as_str())));
    found
}

const DRESSES: [&str; 22] = [
    "echo",
    "echo-secret",
    "echo-b64",
    "echo-b64-shifted",
    "echo-b64-url",
    "echo-url",
    "echo-url-lower",
    "echo-json",
    "echo-json-escaped",
    "echo-json-slash",
    "echo-header",
    "echo-reason",
    "echo-error",
    "echo-trailer",
    "echo-split",
    "echo-split?size=3",
    "echo-split?size=7",
    "echo-gzip",
    "echo-deflate",
    "echo-sse",
    "echo-range",
    "echo-unknown-coding",
];

#[test]
fn no_echo_brings_it_back_in_any_dress_over_either_protocol() {
    let Some(world) = World::new() else { return };
    world.secret("odd", &["--host", "a.test", "--header", "X-Key: {value}"], CANARY);
    let paths = DRESSES.join(" ");
    let script = format!(
        "for path in {paths}; do for version in --http1.1 --http2; do \
         echo \"== $path $version\"; curl -sS -i $version --max-time 20 \"https://a.test/$path\" -H 'TE: trailers' \
         -H 'Accept-Encoding: identity' 2>&1; echo; \
         curl -sSv $version --compressed --max-time 20 \"https://a.test/$path\" 2>&1; done; done"
    );
    let out = world.sh(&script);
    for section in out.out().split("== ") {
        assert_eq!(leaks(section.as_bytes()), Vec::<String>::new(), "{}", section.lines().next().unwrap_or_default());
    }
    for request in world.requests() {
        assert_eq!(header(&request, "x-key").as_deref(), Some(CANARY), "it was sent each time");
    }
    assert!(world.requests().len() >= 4 * 20, "{} requests came", world.requests().len());
    // The record counts what was masked.
    let record = world.record();
    let masked = record.iter().filter(|line| line["redacted"].as_u64().is_some_and(|count| count > 0)).count();
    assert!(masked > 30, "masked in {masked} of {} answers", record.len());
    assert!(record.iter().all(|line| line["secret"].is_null() || line["secret"] == "odd"));
    assert_eq!(leaks(format!("{record:?}").as_bytes()), Vec::<String>::new());
    // The control: the same echoes, with the value sent by hand, bring it back.
    let control = world.outside("curl", &["-sS", "-H", &format!("X-Key: {CANARY}"), "https://a.test/echo-secret"]);
    assert_ne!(leaks(&control.stdout), Vec::<String>::new(), "{}", control.out());
}

#[test]
fn it_does_not_come_back_of_the_other_ways_to_send_it() {
    let Some(world) = World::new() else { return };
    world.secret("bearer", &["--host", "a.test", "--bearer"], CANARY);
    world.secret("basic", &["--host", "b.test", "--basic", "me"], CANARY);
    world.secret("query", &["--host", "c.test", "--query", "key"], CANARY);
    let script = "for host in a b c; do for path in echo echo-secret echo-header echo-error echo-reason echo-trailer echo-gzip \
        echo-split; do curl -sSi \"https://$host.test/$path\" 2>&1; done; done";
    let out = world.sh(script);
    let credential = STANDARD.encode(format!("me:{CANARY}"));
    assert_eq!(leaks(&out.stdout), Vec::<String>::new(), "{}", out.out());
    assert!(!out.out().contains(&credential[8..24]), "the pair of basic authentication: {}", out.out());
    assert_eq!(world.requests().len(), 24);
}

#[test]
fn a_value_is_masked_wherever_the_chunks_break_and_nothing_else_is_changed() {
    let Some(world) = World::new() else { return };
    world.secret("odd", &["--host", "a.test", "--header", "X-Key: {value}"], CANARY);
    // A body around the secret, of many sizes of chunks.
    let script = "
for size in range(1, 40):
    answer = exchange(proxied('a.test'), get('a.test', '/echo-split?size=%d' % size, 'X-Mark: before-and-after\\r\\n'))
    body = answer.split(b'\\r\\n\\r\\n', 1)[1]
    text = b''
    while body:
        length, body = body.split(b'\\r\\n', 1)
        length = int(length.split(b';')[0], 16)
        if not length: break
        text, body = text + body[:length], body[length + 2:]
    print(text.decode('latin-1').strip())
";
    let out = world.python(&[], script).success();
    assert_eq!(leaks(&out.stdout), Vec::<String>::new(), "{}", out.out());
    assert_eq!(out.out().lines().count(), 39, "{}", out.out());
    for line in out.out().lines() {
        let echo: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(echo["headers"].to_string().contains("before-and-after"), "the rest is as it was: {line}");
    }
}

#[test]
fn pieces_of_an_echo_cannot_be_asked_for() {
    let Some(world) = World::new() else { return };
    world.secret("odd", &["--host", "a.test", "--header", "X-Key: {value}"], CANARY);
    let script = "
for at in range(0, 400, 5):
    answer = exchange(proxied('a.test'), get('a.test', '/echo-range', 'Range: bytes=%d-%d\\r\\nIf-Range: x\\r\\n' % (at, at + 4)), 3)
    tell(str(at), str(statuses(answer)))
stream = proxied('a.test')
answer = exchange(stream, 'GET /ws HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n'
    'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\nSec-WebSocket-Extensions: permessage-deflate\\r\\n\\r\\n', 1)
tell('ws', answer.decode('latin-1'))
stream.settimeout(3)
stream.sendall(bytes([0x81, 0x87, 0, 0, 0, 0]) + b'headers')
tell('frame', rest(stream).decode('latin-1'))
";
    let out = world.python(&[], script).success();
    assert_eq!(leaks(&out.stdout), Vec::<String>::new(), "{}", out.out());
    let found = answers(&out.out());
    assert!(found["0"].contains("200"), "the whole came instead: {found:?}");
    for request in world.requests_to("/echo-range") {
        assert_eq!(header(&request, "range"), None);
        assert_eq!(header(&request, "accept-encoding").filter(|coding| coding != "identity"), None);
    }
    let handshake = world.received("/ws");
    assert_eq!(header(&handshake, "x-key").as_deref(), Some(CANARY), "the handshake is injected");
    assert_eq!(header(&handshake, "sec-websocket-extensions"), None);
    assert!(found["ws"].contains("101") && found["frame"].contains("sec-websocket-key"), "{found:?}");
}

/// An agent has an origin echo guesses that end where a piece of the answer ends,
/// and looks at how much of the piece comes at once.
#[test]
fn what_waits_does_not_tell_a_good_guess_from_a_bad_one() {
    let Some(world) = World::new() else { return };
    world.secret("token", &["--host", "raw.test", "--bearer"], TOKEN);
    let good = &TOKEN[..10];
    let bad = format!("{}~", &TOKEN[..9]);
    let measure = |guess: &str| {
        let piece = format!("not found: {guess}");
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{piece}\r\n", piece.len());
        std::fs::write(world.internet("raw-answer"), answer).expect("write a file");
        let script = "
stream = proxied('raw.test')
stream.sendall(get('raw.test', '/guess').encode())
head(stream)
data = b''
stream.settimeout(4)
while data.count(b'\\r\\n') < 4:
    data += stream.recv(65536)
tell('sizes', str([int(size, 16) for size in re.findall(rb'(?:^|\\r\\n)([0-9a-fA-F]+)\\r\\n', data)]))
";
        answers(&world.python(&[], script).success().out())["sizes"].clone()
    };
    let (of_good, of_bad) = (measure(good), measure(&bad));
    assert_eq!(of_good, of_bad);
    // The control: the measure sees what waits, and that it comes after a while.
    assert_eq!(of_good, format!("[{}, {}]", "not found: ".len(), good.len()));
}

#[test]
fn names_of_headers_and_other_hosts_do_not_bring_it_either() {
    let Some(world) = World::new() else { return };
    let lower = "c4n4ry-5ecret-0123456789abcdef";
    world.secret("lower", &["--host", "raw.test", "--header", "X-Key: {value}"], lower);
    std::fs::write(
        world.internet("raw-answer"),
        format!("HTTP/1.1 200 OK\r\nX-{lower}: 1\r\nX-Fine: {lower}\r\nContent-Length: 2\r\n\r\nok"),
    )
    .expect("write a file");
    // The world's own echo says what it is sent, here by another host.
    std::fs::write(world.jar.path("project/said"), lower).expect("write a file");
    let script = "curl -sS -i https://raw.test/name; for url in https://b.test/echo http://c.test/echo; do \
        curl -sS -i --data-binary @/workspace/project/said $url; echo; done";
    let out = world.sh(script).success().out();
    assert!(!out.to_lowercase().contains(lower), "{out}");
    assert!(out.to_lowercase().contains("x-fine: **") && out.matches(&"*".repeat(lower.len())).count() >= 3, "{out}");
    let control = world
        .outside("curl", &["-sS", "--cacert", &world.jar.text("world/ca.pem"), "-d", lower, "https://b.test/echo"]);
    assert!(control.out().contains(lower), "{} {}", control.out(), control.err());
}

#[test]
fn frames_of_an_extension_that_nobody_agreed_on_end_the_socket() {
    let Some(world) = World::new() else { return };
    world.secret("token", &["--host", "raw.test", "--bearer"], TOKEN);
    let handshake = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".as_bytes();
    for (name, frame) in [("rsv", [&[0xc1, TOKEN.len() as u8][..], TOKEN.as_bytes()].concat()), ("bare", TOKEN.into())]
    {
        std::fs::write(world.internet("raw-answer"), [handshake, &frame].concat()).expect("write a file");
        let script = "
stream = proxied('raw.test')
stream.sendall(b'GET /ws HTTP/1.1\\r\\nHost: raw.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n'
    b'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n\\r\\n')
stream.settimeout(4)
tell('got', rest(stream).decode('latin-1'))
";
        let out = world.python(&[], script).success().out();
        assert!(out.contains("101"), "{name}: {out}");
        assert!(!out.contains(&TOKEN[..8]), "{name}: {out}");
    }
}

#[test]
fn it_streams_while_it_masks() {
    let Some(world) = World::new() else { return };
    world.secret("odd", &["--host", "a.test", "--header", "X-Key: {value}"], CANARY);
    // An event is not held back until the next one comes.
    let script = "
stream = proxied('a.test')
stream.settimeout(10)
begun = time.time()
stream.sendall(get('a.test', '/sse?n=3&ms=1500').encode())
data, when = b'', []
while b'event 2' not in data:
    piece = stream.recv(65536)
    if not piece: break
    data += piece
    for number in range(3):
        if len(when) == number and b'event %d' % number in data: when.append(time.time() - begun)
tell('first', str(when[0] < 1.2)); tell('second', str(when[1] < 2.7)); tell('all', str(len(when))); tell('when', str(when))
";
    let found = answers(&world.python(&[], script).success().out());
    assert_eq!(found["first"], "True", "{found:?}");
    assert_eq!(found["second"], "True", "{found:?}");
    assert_eq!(found["all"], "3", "{found:?}");
}

#[test]
fn a_message_that_ends_like_a_secret_begins_is_not_held_back() {
    let Some(world) = World::new() else { return };
    world.secret("token", &["--host", "a.test", "--bearer"], TOKEN);
    let script = "
def one(text):
    stream = proxied('a.test'); stream.settimeout(4)
    stream.sendall(b'GET /ws HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n'
        b'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n\\r\\n')
    head(stream); stream.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    got = b''
    while len(got) < 2 + len(text): got += stream.recv(1000)
    return got[2:].decode()
attempt('x', lambda: one(b'hello x')); attempt('t', lambda: one(b'hello t')); attempt('d', lambda: one(b'hello d'))
";
    let found = answers(&world.python(&[], script).success().out());
    for last in ["x", "t", "d"] {
        assert_eq!(found[last], format!("hello {last}"), "{found:?}");
    }
}
