//! Promise: whatever one run sends, memory stays bounded, and other runs are
//! served.

mod harness;
mod world;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::text::answers;
use harness::{Live, load, slowly};
use nix::unistd::Pid;
use world::{TOKEN, World, prelude};

/// What a run's supervisor may take, in KiB.
const LIMIT: u64 = 64 << 10;

/// Watches the resident memory of a process until it is told to stop.
struct Watch {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    fn of(pid: Pid) -> Self {
        let (peak, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (peaks, stops) = (peak.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !stops.load(Ordering::Relaxed) {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let kib = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmRSS:"))
                    .and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
                peaks.fetch_max(kib.unwrap_or(0), Ordering::Relaxed);
                thread::sleep(slowly(Duration::from_millis(20)));
            }
        });
        Self { peak, stop, thread: Some(thread) }
    }

    fn peak(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watch does not panic");
        }
        self.peak.load(Ordering::Relaxed)
    }
}

/// Runs an attack, watches its supervisor, and meanwhile asks from another run.
fn attack(world: &World, script: &str) -> (u64, String) {
    let attacker = world.start(&[], &["/usr/bin/python3", "-c", &format!("{}\n{script}", prelude())]).within(LONG);
    attacker.wait_for("attacking");
    let watch = Watch::of(attacker.pid());
    for _ in 0..3 {
        let begun = Instant::now();
        let other = world.sh("curl -sS -o /dev/null -w '%{http_code}' --max-time 10 https://b.test/other");
        assert_eq!(other.out(), "200", "another run is served: {}", other.err());
        assert!(begun.elapsed() < slowly(Duration::from_secs(8)), "another run is served soon: {:?}", begun.elapsed());
    }
    attacker.wait_for("\"end\"");
    let out = attacker.wait().out();
    let peak = watch.peak();
    assert!(peak > 1000, "the watch saw something");
    assert!(peak < LIMIT, "{peak} KiB resident: {out}");
    (peak, out)
}

/// What so many chunks may take in programs that were not optimised, on a machine with other work.
const LONG: Duration = Duration::from_secs(600);

fn opened() -> Option<World> {
    let world = World::new()?;
    world.config("inspect = \"all\"\n");
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    Some(world)
}

#[test]
fn ten_thousand_connections() {
    let Some(world) = opened() else { return };
    let script = "
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
print('attacking', flush=True)
kept, failed = [], 0
want = min(10000, hard - 50)
for number in range(want):
    link = socket.socket(); link.setblocking(False)
    try: link.connect(('127.0.0.1', 3128) if number % 2 else ('127.%d.0.1' % (number % 200 + 1), 80 if number % 4 else 443))
    except BlockingIOError: pass
    except OSError: failed += 1
    kept.append(link)
time.sleep(1)
sent = 0
for link in kept:
    try: sent += link.send(b'GET http://b.test/flood HTTP/1.1\\r\\nHost: b.test\\r\\n') > 0
    except OSError: pass
time.sleep(4)
for link in kept: link.close()
time.sleep(1)
tell('open', '%d %d %d' % (len(kept), failed, sent))
attempt('after', lambda: str(statuses(exchange(proxied('a.test'), get('a.test', '/after'), 10 * SLOW))))
tell('end', 'ok')
";
    let (_, out) = attack(&world, script);
    let found = answers(&out.lines().skip(1).collect::<Vec<_>>().join("\n"));
    assert_eq!(found["after"], "[200]", "{found:?}");
}

#[test]
fn slow_headers_and_headers_without_end() {
    let Some(world) = opened() else { return };
    let script = "
print('attacking', flush=True)
slow = []
for number in range(300):
    try:
        link = tcp('127.0.0.1', 3128); link.settimeout(1 * SLOW); link.sendall(b'GET http://b.test/slow HTTP/1.1\\r\\n'); slow.append(link)
    except OSError: break
for second in range(3):
    for link in slow:
        try: link.sendall(b'X-%d: y\\r\\n' % second)
        except OSError: pass
    time.sleep(.5)
def endless(stream, line):
    sent = 0
    stream.settimeout(5 * SLOW)
    try:
        stream.sendall(b'GET http://b.test/endless HTTP/1.1\\r\\nHost: b.test\\r\\n')
        while sent < 200 << 20:
            stream.sendall(line); sent += len(line)
        return 'all was taken'
    except OSError as error:
        return 'stopped at %d' % sent if sent < 64 << 20 else 'too late at %d' % sent
for link in slow: link.close()
attempt('many', lambda: endless(tcp('127.0.0.1', 3128), b'X-Header: value\\r\\n' * 1000))
attempt('one', lambda: endless(tcp('127.0.0.1', 3128), b'x' * 65536))
attempt('target', lambda: endless(tcp('127.0.0.1', 3128), b'/' * 65536))
attempt('inside', lambda: endless(proxied('a.test'), b'X-Header: value\\r\\n' * 1000))
tell('end', 'ok')
";
    let (_, out) = attack(&world, script);
    let found = answers(&out.lines().skip(1).collect::<Vec<_>>().join("\n"));
    for name in ["many", "one", "target", "inside"] {
        assert!(found[name].starts_with("stopped"), "{name}: {found:?}");
    }
    assert!(world.requests_to("/endless").is_empty());
}

#[test]
fn a_body_of_gigabytes_in_both_directions() {
    let Some(world) = opened() else { return };
    // As large as time allows with a debug build: what counts is that memory
    // does not grow with it.
    let size: u64 =
        std::env::var("BELLJAR_LOAD_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(load(300 << 20, 8 << 20));
    let script = format!(
        "
print('attacking', flush=True)
size = {size}
stream = proxied('a.test'); stream.settimeout(30 * SLOW)
stream.sendall(b'POST /count HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n' % size)
piece, sent = b'x' * 65536, 0
while sent < size:
    stream.sendall(piece[:size - sent]); sent += len(piece[:size - sent])
tell('up', rest(stream).split(b'\\r\\n\\r\\n')[-1].decode())
stream = proxied('a.test'); stream.settimeout(30 * SLOW)
stream.sendall(get('a.test', '/big?size=%d' % size).encode())
total = 0
while True:
    piece = stream.recv(1 << 18)
    if not piece: break
    total += len(piece)
tell('down', str(total >= size))
tell('end', 'ok')
"
    );
    let (_, out) = attack(&world, &script);
    let found = answers(&out.lines().skip(1).collect::<Vec<_>>().join("\n"));
    assert!(found["up"].contains(&format!("\"length\":{size}")), "{found:?}");
    assert_eq!(found["down"], "True", "{found:?}");
}

#[test]
fn hundreds_of_thousands_of_tiny_chunks_in_both_directions() {
    let Some(world) = opened() else { return };
    let (blocks, down) = (load(25, 4), load(50_000, 8000));
    let script = "
print('attacking', flush=True)
def up(ready):
    stream = proxied('a.test'); stream.settimeout(300 * SLOW)
    stream.sendall(b'POST /count HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: close\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n')
    block = b'1\\r\\nx\\r\\n' * 10000
    for _ in range(BLOCKS): stream.sendall(block)
    stream.sendall(b'0\\r\\n\\r\\n')
    return rest(stream).split(b'\\r\\n\\r\\n')[-1].decode()
attempt('up', lambda: up(None))
stream = proxied('a.test'); stream.settimeout(30 * SLOW)
stream.sendall(get('a.test', '/chunks?n=DOWN').encode())
head(stream); total = 0
while True:
    piece = stream.recv(1 << 18)
    if not piece: break
    total += piece.count(b'x')
tell('down', str(total))
tell('end', 'ok')
";
    let script = script.replace("BLOCKS", &blocks.to_string()).replace("DOWN", &down.to_string());
    let (_, out) = attack(&world, &script);
    let found = answers(&out.lines().skip(1).collect::<Vec<_>>().join("\n"));
    assert!(found["up"].contains(&format!("\"length\":{}", blocks * 10_000)), "{found:?}");
    assert_eq!(found["down"], down.to_string(), "{found:?}");
}

#[test]
fn answers_that_nobody_reads_and_streams_over_http_2() {
    if !world::has("node") {
        return;
    }
    let Some(world) = opened() else { return };
    let script = r#"
const http2 = require('http2'), net = require('net'), tls = require('tls'), fs = require('fs');
const ca = fs.readFileSync(process.env.SSL_CERT_FILE);
console.log('attacking');
let done = 0;
for (let n = 0; n < 20; n++) {
  const socket = net.connect(3128, '127.0.0.1', () => socket.write('CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n'));
  socket.on('error', () => {});
  socket.once('data', () => {
    const secure = tls.connect({socket, servername: 'a.test', ca, ALPNProtocols: ['h2']}); secure.on('error', () => {});
    const session = http2.connect('https://a.test', {createConnection: () => secure}); session.on('error', () => {});
    for (let m = 0; m < 50; m++) { const request = session.request({':path': '/big?size=100000000'}); request.on('error', () => {}); request.pause(); request.end();
      if (m % 3 === 0) setTimeout(() => request.close(8), 50); }
  });
}
setTimeout(() => { console.log(JSON.stringify({name: 'end', answer: 'ok'})); process.exit(0); }, 8000);
"#;
    let live: Live = world.start(&[], &["node", "-e", script]);
    live.wait_for("attacking");
    let watch = Watch::of(live.pid());
    let other = world.sh("curl -sS -o /dev/null -w '%{http_code}' --max-time 10 https://b.test/other");
    assert_eq!(other.out(), "200", "{}", other.err());
    live.wait_for("end");
    live.wait();
    let peak = watch.peak();
    assert!(peak < LIMIT, "{peak} KiB resident");
}
