//! Promise: the gateway dials public addresses only, and what it has judged:
//! loopback, private, link-local, metadata and its own addresses are refused in
//! every dress, unless policy.toml names host and port. Controls show that each
//! of them would have been reached.

mod harness;
mod world;

use harness::text::answers;
use world::{TOKEN, World};

/// Names that stand for addresses that must be refused.
const NAMES: [&str; 17] = [
    "private.test",
    "private172.test",
    "lan.test",
    "meta.test",
    "metadata.google.internal",
    "cgnat.test",
    "own.test",
    "loop.test",
    "loop6.test",
    "zero.test",
    "ula.test",
    "meta6.test",
    "site.test",
    "mapped.test",
    "nat64.test",
    "sixtofour.test",
    "localhost",
];

/// The same as an agent would write addresses.
const LITERALS: [&str; 30] = [
    "10.0.0.5",
    "172.16.0.5",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "127.0.0.1",
    "127.1",
    "0.0.0.0",
    "0",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0x7f.1",
    "167772165",
    "10.5",
    "0xa.0.0.5",
    "012.0.0.5",
    "198.51.100.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[fd00::1]",
    "[fe80::1]",
    "[::ffff:10.0.0.5]",
    "[::ffff:a00:5]",
    "[64:ff9b::a00:5]",
    "[2002:a00:5::1]",
    "[fec0::1]",
    "[::127.0.0.1]",
];

fn script(hosts: &[&str]) -> String {
    format!(
        "
for host in {hosts:?}:
    plain = host[1:-1] if host.startswith('[') else host
    def absolute():
        return str(statuses(exchange(tcp('127.0.0.1', 3128), get(host, 'http://%s/guard-a' % host), 3))[:1])
    def tunnel():
        return connect(host + ':443')[1]
    def transparent_plain():
        return str(statuses(exchange(tcp('203.0.113.10', 80), get(host, '/guard-t'), 3))[:1])
    def secure():
        # Through the proxy with TLS, a client that checks nothing.
        stream, line = connect(host + ':443')
        if ' 200' not in line: return line
        return str(statuses(exchange(tls(stream, plain, verify=False), get(host, '/guard-s'), 3))[:1])
    def resolved():
        return str(statuses(exchange(tcp(plain, 80), get(host, '/guard-r'), 3))[:1])
    for kind in (absolute, tunnel, transparent_plain, secure, resolved):
        attempt(host + ' ' + kind.__name__, kind)
"
    )
}

fn refused(world: &World, hosts: &[&str]) {
    let found = answers(&world.python(&[], &script(hosts)).success().out());
    for (name, answer) in &found {
        assert!(!answer.contains("[200]"), "{name}: {answer}");
    }
    let reached = world.requests_to("/guard");
    assert!(reached.is_empty(), "{reached:?}");
    let host = world::text_of(&world.jar.path("world/host/packets.jsonl"));
    assert!(host.is_empty(), "nobody dialled the host: {host}");
    let private: Vec<_> = world.packets("tcp").into_iter().filter(|one| one["dialled"] != "203.0.113.10").collect();
    assert!(private.is_empty(), "not even a connection: {private:?}");
}

#[test]
fn names_that_lead_to_addresses_that_are_not_public_are_refused() {
    let Some(world) = World::with_host_origin() else { return };
    refused(&world, &NAMES);
    for name in NAMES {
        if name == "zero.test" || name == "site.test" {
            continue;
        }
        let control = world.outside("curl", &["-sS", "--max-time", "5", &format!("http://{name}/control")]);
        assert!(control.out().contains("origin"), "the control reaches {name}: {}", control.err());
    }
}

#[test]
fn addresses_that_are_not_public_are_refused_however_they_are_written() {
    let Some(world) = World::with_host_origin() else { return };
    refused(&world, &LITERALS);
    for literal in
        ["10.0.0.5", "169.254.169.254", "167772165", "012.0.0.5", "[::ffff:10.0.0.5]", "[fd00::1]", "[64:ff9b::a00:5]"]
    {
        let control = world.outside("curl", &["-sS", "--max-time", "5", &format!("http://{literal}/control")]);
        assert!(control.out().contains("origin"), "the control reaches {literal}: {}", control.err());
    }
}

/// As load balancers' agents, anycast and transparent proxies make them.
#[test]
fn an_address_that_is_local_by_a_route_only_is_refused() {
    let Some(world) = World::with_host_origin() else { return };
    let literals = ["203.0.113.201", "[2606:4700::9999]"];
    refused(&world, &literals);
    for literal in literals {
        let control = world.outside("curl", &["-gsS", "--max-time", "5", &format!("http://{literal}:8080/control")]);
        assert!(control.out().contains("origin"), "the control reaches {literal}: {}", control.err());
    }
}

#[test]
fn the_same_holds_when_tls_is_opened_and_a_secret_is_bound_there() {
    let Some(world) = World::with_host_origin() else { return };
    world.secret("p", &["--host", "private.test", "--bearer"], TOKEN);
    world.secret("m", &["--host", "*.google.internal", "--bearer"], TOKEN);
    refused(&world, &["private.test", "metadata.google.internal", "10.0.0.5", "[::ffff:10.0.0.5]"]);
    assert!(!world.everything().contains(TOKEN));
}

#[test]
fn a_name_with_a_public_and_a_private_address_reaches_no_private_one() {
    let Some(world) = World::new() else { return };
    for _ in 0..3 {
        world
            .sh("curl -sS --max-time 5 http://mixed.test/mixed; curl -sS --max-time 5 https://mixed.test/mixed; true")
            .success();
    }
    let private: Vec<_> = world.packets("tcp").into_iter().filter(|one| one["dialled"] == "10.0.0.5").collect();
    assert!(private.is_empty(), "{private:?}");
}

#[test]
fn a_name_that_is_rebound_is_dialled_where_it_was_judged() {
    let Some(world) = World::new() else { return };
    world.secret("r", &["--host", "*.zone.test", "--bearer"], TOKEN);
    // First public, then private: whatever answers, the private one does not.
    let script = "for name in rebind1 rebind2 rebind3; do for n in 1 2 3 4; do \
        curl -sS --max-time 5 http://$name.zone.test/rebound; curl -sS --max-time 5 https://$name.zone.test/rebound; done; done; true";
    world.sh(script).success();
    let dialled: Vec<String> =
        world.packets("tcp").iter().map(|one| one["dialled"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(!dialled.contains(&"10.0.0.5".to_owned()), "{dialled:?}");
    assert!(dialled.contains(&"203.0.113.10".to_owned()), "the public answer was used: {dialled:?}");
    for request in world.requests_to("/rebound") {
        assert_eq!(request["dialled"], "203.0.113.10", "{request}");
    }
    // The control: a client that asks twice goes to the private address.
    let control = "curl -sS http://rebind9.test/control; curl -sS http://rebind9.test/control";
    world.outside("sh", &["-c", control]).success();
    assert!(world.requests_to("/control").iter().any(|one| one["dialled"] == "10.0.0.5"));
}

#[test]
fn allow_private_opens_that_host_and_port_and_nothing_beside_it() {
    let Some(world) = World::with_host_origin() else { return };
    world.policy(
        "[[allow_private]]\nhost = \"private.test\"\nport = 443\n[[allow_private]]\nhost = \"lan.test\"\nport = 8080\n",
    );
    let script = "try() { curl -sS -o /dev/null -w \"$1 %{http_code}\\n\" --max-time 5 $1; }; \
        try https://private.test/open; try http://private.test/shut; try https://10.0.0.5/shut; try http://lan.test:8080/open; \
        try http://lan.test/shut; try https://meta.test/shut; try https://mapped.test/shut; true";
    let out = world.sh(script).success();
    assert_eq!(world.requests_to("/open").len(), 2, "{} {}", out.out(), out.err());
    assert_eq!(world.requests_to("/shut").len(), 0, "{}", out.out());
}

#[test]
fn public_addresses_are_reached_over_both_families_and_by_number() {
    let Some(world) = World::new() else { return };
    let script = "for url in https://a.test/ok https://v6.test/ok https://dual.test/ok http://203.0.113.11/ok 'http://[2606:4700::1112]/ok' \
        https://tls12.test/ok http://b.test:8080/ok https://c.test:8443/ok; do curl -sS -g -o /dev/null -w '%{http_code} ' --max-time 8 \"$url\"; done";
    let out = world.sh(script);
    assert_eq!(out.out(), "200 200 200 200 200 200 200 200 ", "{}", out.err());
    assert_eq!(world.requests_to("/ok").len(), 8);
}

#[test]
fn a_refused_address_is_told_with_a_way_out_and_recorded() {
    let Some(world) = World::new() else { return };
    let out = world.sh("curl -sS -i http://private.test/x").success().out();
    assert!(out.contains("HTTP/1.1 403"), "{out}");
    assert!(out.contains("allow_private"), "{out}");
    assert!(!out.contains("HTTP/1.1 407"), "{out}");
    let record = world.record();
    let line = record.iter().find(|line| line["host"] == "private.test").expect("a line of the record");
    assert_eq!(line["status"], 403, "{line}");
}
