//! The dial: a name is resolved once, every address is judged, and what was
//! judged is dialled. Nothing here asks twice, so that an answer which changes
//! between the questions (DNS rebinding) changes nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockaddrLike};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::netlink::{self, Route};
use crate::policy::{Host, Policy};

/// Why a host could not be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialError {
    /// Its addresses are not public, and no `[[allow_private]]` names it.
    NotPublic(String),
    /// It has no address, or none answered, or TLS failed.
    Unreachable(String),
}

impl fmt::Display for DialError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPublic(why) | Self::Unreachable(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for DialError {}

/// Judges a host that somebody else will resolve and dial: as far as it can be
/// seen from here. A name that only the other one can resolve passes.
pub async fn judge_for_another(host: &Host, port: u16, policy: &Policy, patience: Duration) -> Result<(), DialError> {
    match resolve(host, port, policy, Instant::now() + patience).await {
        Err(DialError::NotPublic(why)) => Err(DialError::NotPublic(why)),
        Ok(_) | Err(DialError::Unreachable(_)) => Ok(()),
    }
}

/// Judges a host that is an address, without asking anybody but this machine;
/// why it would not be dialled.
pub fn judge_literal(host: &Host, port: u16, policy: &Policy) -> Result<(), String> {
    let Some(address) = host.ip().filter(|_| !policy.allows_private(host, port)) else {
        return Ok(());
    };
    judge_with_routes(address, &own_addresses()).map_err(|why| format!("{address} is {why}"))
}

/// Resolves by the system's resolver, judges, and connects.
pub async fn dial(host: &Host, port: u16, policy: &Policy, patience: Duration) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + patience;
    let good = resolve(host, port, policy, deadline).await?;
    let mut last = String::from("no address answered");
    for (index, address) in good.iter().enumerate() {
        // A part of the time for each, so that one silent address does not use
        // up that of the others.
        let left = deadline.saturating_duration_since(Instant::now());
        let until = Instant::now() + left / u32::try_from(good.len() - index).unwrap_or(1);
        match timeout_at(until, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => {
                // Nagle with delayed acknowledgements stalls chunked bodies by 40 ms.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = format!("{address} port {port}: {error}"),
            Err(_) => last = format!("{address} port {port}: no answer within {} s", patience.as_secs()),
        }
    }
    Err(DialError::Unreachable(format!("connect to {host}: {last}")))
}

/// The addresses of the host that may be dialled; at least one.
async fn resolve(host: &Host, port: u16, policy: &Policy, deadline: Instant) -> Result<Vec<IpAddr>, DialError> {
    let found: Vec<IpAddr> = match host {
        Host::V4(address) => vec![(*address).into()],
        Host::V6(address) => vec![(*address).into()],
        Host::Name(name) => match timeout_at(deadline, tokio::net::lookup_host((name.as_str(), port))).await {
            Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
            Ok(Err(error)) => return Err(DialError::Unreachable(format!("{name} cannot be resolved: {error}"))),
            Err(_) => {
                return Err(DialError::Unreachable(format!("{name} was not resolved in time")));
            }
        },
    };
    let private_allowed = policy.allows_private(host, port);
    let own = own_addresses();
    let judged: Vec<_> = found.iter().map(|address| (*address, judge_with_routes(*address, &own))).collect();
    let good: Vec<IpAddr> =
        judged.iter().filter(|(_, verdict)| private_allowed || verdict.is_ok()).map(|(address, _)| *address).collect();
    if good.is_empty() {
        let why = judged.first().map_or_else(
            || format!("{host} has no address"),
            |(address, verdict)| {
                format!("{host} is at {address}, which is {}", verdict.as_ref().err().copied().unwrap_or("not public"))
            },
        );
        return Err(DialError::NotPublic(why));
    }
    Ok(good)
}

/// Whether the address is public, and leads away from this machine; the reason
/// when not.
fn judge_with_routes(address: IpAddr, own: &BTreeSet<IpAddr>) -> Result<(), &'static str> {
    match judge(address, own) {
        Ok(()) if leads_here(address) => Err("an address of this machine, by its routes"),
        verdict => verdict,
    }
}

/// Whether the address is public; the reason when it is not. The ranges are
/// those of the IANA special-purpose registries (RFC 6890) that lead to
/// somebody in particular; documentation ranges lead to nobody.
fn judge(address: IpAddr, own: &BTreeSet<IpAddr>) -> Result<(), &'static str> {
    if own.contains(&address.to_canonical()) {
        return Err("an address of this machine");
    }
    match address {
        IpAddr::V4(address) => judge_v4(address),
        IpAddr::V6(address) => judge_v6(address, own),
    }
}

fn judge_v4(address: Ipv4Addr) -> Result<(), &'static str> {
    match address.octets() {
        [0, ..] => Err("an unspecified address"),
        [127, ..] => Err("a loopback address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Err("a private address"),
        [100, 64..=127, ..] => Err("a shared address of a carrier or overlay network"),
        [169, 254, ..] => Err("a link-local or metadata address"),
        [192, 0, 0, _] => Err("an address of protocol assignments"),
        [192, 88, 99, _] => Err("a 6to4 relay"),
        [198, 18..=19, ..] => Err("an address for benchmarks, and belljar's own range"),
        [224..=239, ..] => Err("a multicast address"),
        [240..=255, ..] => Err("a reserved or broadcast address"),
        _ => Ok(()),
    }
}

fn judge_v6(address: Ipv6Addr, own: &BTreeSet<IpAddr>) -> Result<(), &'static str> {
    // The dresses of IPv4 are judged by what they wear.
    let embedded = |high: u16, low: u16| {
        let v4 = Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
        if own.contains(&IpAddr::V4(v4)) { Err("an address of this machine") } else { judge_v4(v4) }
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Err("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Err("a loopback address"),
        // Mapped (RFC 4291, 2.5.5.2).
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        // NAT64 (RFC 6052); the local prefix (RFC 8215) leads to anybody.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo (RFC 4380), and other protocol assignments (RFC 2928).
        [0x2001, 0..=0x1ff, ..] => Err("an address of protocol assignments"),
        // ISATAP (RFC 5214) carries an IPv4 address in any prefix.
        [.., 0 | 0x200, 0x5efe, high, low] => embedded(high, low),
        [0x2000..=0x3fff, ..] => Ok(()),
        [0xfe80..=0xfebf, ..] => Err("a link-local address"),
        [0xfec0..=0xfeff, ..] | [0xfc00..=0xfdff, ..] => Err("a private address"),
        [0xff00..=0xffff, ..] => Err("a multicast address"),
        _ => Err("no global unicast address"),
    }
}

/// Whether the kernel would deliver to this machine itself, or to everybody near
/// it, what is sent there: a route can make an address local that no interface
/// has (ip-route(8), `local`). Without a route there is no way to anybody.
fn leads_here(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let route = Route { family, to: Some(address), kind: [0; 4], attributes: &[] };
    let kind = netlink::ask(libc::RTM_GETROUTE, 0, route);
    kind.is_ok_and(|kind| {
        [libc::RTN_LOCAL, libc::RTN_BROADCAST, libc::RTN_ANYCAST, libc::RTN_MULTICAST].contains(&kind)
    })
}

/// The addresses of this machine's interfaces, as they are now (getifaddrs(3)).
fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| match address.family()? {
            AddressFamily::Inet => address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())),
            AddressFamily::Inet6 => address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_pass_in_every_dress() {
        let own = BTreeSet::from(["8.8.4.4".parse().expect("an address"), "2600::5".parse().expect("an address")]);
        let judged = |text: &str| judge(text.parse().expect("an address"), &own).is_ok();
        for good in ["8.8.8.8", "203.0.113.7", "100.63.255.255", "172.32.0.1", "2606:4700::1", "2001:db8::1"] {
            assert!(judged(good), "{good}");
        }
        for good in ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"] {
            assert!(judged(good), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "169.254.169.254",
            "192.0.0.192",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "8.8.4.4",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:8.8.4.4",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:1::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::127.0.0.1",
            "2600::5",
            "2600::5efe:10.0.0.1",
            "2600:0:0:0:200:5efe:a00:1",
            "4000::1",
            "100::1",
        ] {
            assert!(!judged(bad), "{bad}");
        }
    }
}
