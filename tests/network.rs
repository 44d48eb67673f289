//! Promise: nothing leaves a run but through the gateway, and nothing at all where
//! there is none. What counts is what the kernel answers inside, and what the
//! host's own listeners saw; the same program reaches those from outside.

mod harness;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use harness::Jar;
use harness::text::answers;

/// Tries every way out that a program has without rights, each once, and prints
/// what the kernel answered. Nothing is sent to an address of a real host: those
/// are of the documentation's ranges (RFC 5737, RFC 3849), of the host's own, and
/// of ranges that lead nowhere.
const WAYS_OUT: &str = r#"
import errno, json, socket, sys
host, tcp, udp = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def say(name, call):
    try:
        answer = call() or 'ok'
    except socket.timeout:
        answer = 'silence'
    except OSError as error:
        answer = errno.errorcode.get(error.errno, str(error))
    print(json.dumps({'name': name, 'answer': answer}))
def connect(address, port):
    kind = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(kind) as stream:
        stream.settimeout(20)
        stream.connect((address, port))
def send(address, port):
    kind = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(2)
        datagrams.connect((address, port))
        datagrams.send(b'no query')
        datagrams.recv(100)
for address in sys.argv[4].split():
    for port in [1, 22, 25, 853, 3128, 5432, 8080, 8443, 9443]:
        say(f'tcp {address} {port}', lambda: connect(address, port))
    for port in [80, 443, 53]:
        say(f'gateway {address} {port}', lambda: connect(address, port))
    for port in [1, 123, 443, 3128, 5353, 8443]:
        say(f'udp {address} {port}', lambda: send(address, port))
for address in host.split():
    say(f'host tcp {address}', lambda: connect(address, tcp))
    say(f'host udp {address}', lambda: send(address, udp))
for kind, name in [(socket.SOCK_RAW, 'raw'), (socket.SOCK_DGRAM, 'ping')]:
    say(f'icmp {name}', lambda: socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).close())
    say(f'icmp6 {name}', lambda: socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6).close())
say('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300).close())
say('interfaces', lambda: ' '.join(name for _, name in socket.if_nameindex()))
"#;

/// Somebody on the host who counts what arrives, by TCP and by UDP, on every
/// address of the host.
struct Somebody {
    tcp: std::net::TcpListener,
    udp: std::net::UdpSocket,
}

impl Somebody {
    fn listen() -> Self {
        let tcp = std::net::TcpListener::bind("0.0.0.0:0").expect("listen");
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
        tcp.set_nonblocking(true).expect("do not wait");
        udp.set_nonblocking(true).expect("do not wait");
        Self { tcp, udp }
    }

    fn ports(&self) -> [String; 2] {
        [self.tcp.local_addr(), self.udp.local_addr()].map(|address| address.expect("it is bound").port().to_string())
    }

    /// How many connections and datagrams have come since the last time.
    fn came(&self) -> (usize, usize) {
        let connections = std::iter::from_fn(|| self.tcp.accept().ok()).count();
        let datagrams = std::iter::from_fn(|| self.udp.recv_from(&mut [0; 100]).ok()).count();
        (connections, datagrams)
    }
}

/// The loopback, and the address that the host has toward the world, if any.
/// Connecting a UDP socket sends nothing.
fn addresses_of_the_host() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
    let outward = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    let outward = outward.map(|address| address.ip().to_string()).unwrap_or_default();
    format!("127.0.0.1 {outward}").trim().to_owned()
}

/// What the program finds inside; nothing of it arrives on the host, where the
/// same program does reach who listens.
fn ways_out(options: &[&str], addresses: &str) -> Option<BTreeMap<String, String>> {
    if harness::system_program("python3").is_none() {
        harness::skip("python3, which tries the ways out");
        return None;
    }
    let (jar, somebody) = (Jar::new(), Somebody::listen());
    let (own, [tcp, udp]) = (addresses_of_the_host(), somebody.ports());
    let tail = [own.as_str(), &tcp, &udp];
    let mut line = vec!["/usr/bin/python3", "-c", WAYS_OUT];
    line.extend(tail);
    line.push(addresses);
    let tried = answers(&jar.run(options, &line).success().out());
    assert_eq!(somebody.came(), (0, 0), "the host was reached from inside");
    assert!(tried.keys().any(|name| name.starts_with("host tcp")), "{tried:?}");
    for (name, answer) in &tried {
        let of_the_host = name.starts_with("host ") || name.starts_with("icmp") || name == "packet";
        assert!(!of_the_host || answer != "ok" && answer != "silence", "{name}: {answer}");
    }
    assert_eq!(tried["interfaces"], "lo", "another interface than the loopback");
    // The control: outside the same program reaches who listens.
    let mut control = Command::new("/usr/bin/python3");
    control.args(["-c", WAYS_OUT]).args(tail).arg("");
    jar.surround(&mut control);
    harness::finish(control, b"").success();
    let count = own.split(' ').count();
    assert_eq!(somebody.came(), (count, count), "the control did not reach who listens");
    Some(tried)
}

#[test]
fn nothing_leaves_through_the_network() {
    let Some(tried) = ways_out(&[], "192.0.2.1 10.255.255.1 169.254.169.254 127.0.0.1 2001:db8::1 fd00::1") else {
        return;
    };
    let v6 = Path::new("/proc/net/if_inet6").exists();
    for (name, answer) in tried.iter().filter(|(name, _)| v6 || !name.contains(':')) {
        let expected = match name.split(' ').next() {
            // The proxy is on the loopback only.
            Some("tcp") if name == "tcp 127.0.0.1 3128" => "ok",
            // Answered at once by the run's own kernel: a packet that had left
            // would have met silence, or another host's answer.
            Some("tcp" | "udp") => "ECONNREFUSED",
            // Every address is the gateway's own.
            Some("gateway") => "ok",
            _ => continue,
        };
        assert_eq!(answer, expected, "{name}");
    }
    assert!(tried.len() > 100, "only {} ways were tried", tried.len());
}

/// Whoever answers on an address that is none of the host's is the gateway, and
/// it does not go where only the host may.
#[test]
fn what_answers_is_the_gateway_and_it_does_not_reach_the_host() {
    if harness::system_program("curl").is_none() {
        harness::skip("curl");
        return;
    }
    let (jar, somebody) = (Jar::new(), Somebody::listen());
    let [tcp, _] = somebody.ports();
    let show = "-sS -m 20 -o /dev/null -w '%{http_code} %header{x-belljar-refused}\\n'";
    let mut script = format!("curl {show} --noproxy '*' http://10.255.255.1/; ");
    let own = addresses_of_the_host();
    for address in own.split(' ') {
        script += &format!("curl {show} http://{address}:{tcp}/; curl {show} -p http://{address}:{tcp}/; ");
    }
    let out = jar.sh(&script).success().out();
    assert_eq!(out.lines().count(), 1 + 2 * own.split(' ').count(), "{out}");
    for line in out.lines() {
        assert_eq!(line, "403 address_not_public", "{out}");
    }
    assert_eq!(somebody.came(), (0, 0), "the host was reached through the gateway");
    let mut control = Command::new("curl");
    control.args(["-sS", "-m", "1", "--noproxy", "*"]).arg(format!("http://127.0.0.1:{tcp}/"));
    jar.surround(&mut control);
    harness::finish(control, b"").exits(28);
    assert_eq!(somebody.came().0, 1, "the control did not reach who listens");
}

#[test]
fn without_egress_nothing_is_even_listened_on() {
    let Some(tried) = ways_out(&["--egress", "none"], "192.0.2.1 169.254.169.254 127.0.0.1 2001:db8::1") else {
        return;
    };
    for (name, answer) in &tried {
        let expected = match name.split(' ').collect::<Vec<_>>()[..] {
            ["tcp" | "udp" | "gateway", "127.0.0.1", _] => "ECONNREFUSED",
            ["tcp" | "udp" | "gateway", ..] if !name.contains(':') => "ENETUNREACH",
            ["tcp" | "udp" | "gateway", ..] => {
                assert_ne!(answer, "ok", "{name}");
                continue;
            }
            _ => continue,
        };
        assert_eq!(answer, expected, "{name}");
    }
    let jar = Jar::new();
    let sockets = "cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 2>/dev/null | grep -vc local_address";
    assert_eq!(jar.run(&["--egress", "none"], &["sh", "-c", sockets]).out(), "0\n");
    let with_gateway = jar.run(&[], &["sh", "-c", sockets]).success().out();
    assert_ne!(with_gateway, "0\n", "the control has listeners");
}

/// Either there is such a network, or the run is refused and says what is missing.
#[test]
fn open_is_a_network_of_its_own_without_the_hosts_loopback_and_leaves_nothing() {
    let (jar, somebody) = (Jar::new(), Somebody::listen());
    let [tcp, _] = somebody.ports();
    let script = format!(
        "touch /workspace/group/ran; cut -d: -f1 /proc/net/dev | tail -n +3; \
         curl -s -m 5 --noproxy '*' -o /dev/null http://127.0.0.1:{tcp}/; echo curl $?; \
         curl -s -o /dev/null -w '%{{http_code}} %header{{x-belljar-refused}}\\n' http://127.0.0.1:{tcp}/"
    );
    let outcome = jar.run(&["--egress", "open"], &["sh", "-c", &script]);
    let own = jar.text("belljar/run");
    harness::eventually("no pasta is left", harness::SOON, || harness::processes_with(&own).is_empty());
    assert!(jar.live_runs().is_empty());
    assert_eq!(somebody.came(), (0, 0), "the host's loopback was reached");
    if outcome.code == 125 {
        outcome.says(&["--egress open", "pasta", "hint: "]);
        assert!(!jar.group("main").join("ran").exists(), "refused, and ran");
        return;
    }
    let out = outcome.success().out();
    let interfaces = out.lines().take_while(|line| !line.starts_with("curl")).count();
    assert_eq!(interfaces, 2, "the loopback and pasta's: {out}");
    // The loopback there is the run's own; the gateway goes on beside it, and
    // does not lead to the host's either.
    assert!(out.contains("curl 7\n403 address_not_public"), "{out}");
}

#[test]
fn open_leaves_nothing_when_the_supervisor_is_killed() {
    let jar = Jar::new();
    let mut live = jar.start(&["--egress", "open"], &["sh", "-c", "touch /workspace/group/ran; sleep 1000"]);
    let own = jar.text("belljar/run");
    harness::eventually("the agent runs, or the run is refused", harness::DEADLINE, || {
        jar.group("main").join("ran").exists() || !live.is_running()
    });
    if live.is_running() {
        assert!(!harness::processes_with(&own).is_empty(), "what is looked for is not there while the agent runs");
        live.signal(nix::sys::signal::Signal::SIGKILL);
    }
    harness::eventually("no pasta is left", harness::SOON, || harness::processes_with(&own).is_empty());
    harness::eventually("no run directory is left", harness::SOON, || jar.live_runs().is_empty());
}
