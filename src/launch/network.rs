//! The sealed network namespace: a loopback, a route that makes every address
//! local, and the listening sockets, which the supervisor serves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Result};
use crate::netlink::{self, Route};
use crate::plan::{Listener, Opened, Transport};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

/// Connections that may wait for the gateway; the kernel caps it at
/// net.core.somaxconn (listen(2)).
const WAITING: i32 = 4096;

/// Makes every address local (`ip route add local 0.0.0.0/0 dev lo`, and
/// `::/0`), so that a connection to any address arrives at the listeners.
pub fn catch_all() -> Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        if family == AddressFamily::Inet6 && !has_v6() {
            continue;
        }
        add_local_route(family).step(|| format!("make every {family:?} address local in the sealed network"))?;
    }
    Ok(())
}

/// Opens the listeners; the caller passes them on.
pub fn open(listeners: &[Listener]) -> Result<Vec<(Opened, OwnedFd)>> {
    let mut all = Vec::new();
    for listener in listeners {
        for v6 in [false, true] {
            if v6 && !has_v6() {
                continue;
            }
            let address: IpAddr = match (listener.everywhere, v6) {
                (true, false) => Ipv4Addr::UNSPECIFIED.into(),
                (true, true) => Ipv6Addr::UNSPECIFIED.into(),
                (false, false) => Ipv4Addr::LOCALHOST.into(),
                (false, true) => Ipv6Addr::LOCALHOST.into(),
            };
            let address = SocketAddr::new(address, listener.port);
            let socket = open_one(listener.transport, address)
                .step(|| format!("listen on {address} in the sealed network"))
                .map_err(|error| error.hint("belljar run --egress none, for a run without a network"))?;
            all.push((Opened { listener: *listener, v6 }, socket));
        }
    }
    Ok(all)
}

/// Whether the kernel has IPv6 here: it lists the loopback's address then.
fn has_v6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

fn open_one(transport: Transport, address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kind = match transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if transport == Transport::Udp {
        // An answer must come from the address that was asked (ip(7), IP_PKTINFO).
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if transport == Transport::Tcp {
        listen(&socket, Backlog::new(WAITING)?)?;
    }
    Ok(socket)
}

/// Type local, in the table local, to everywhere, by the loopback.
fn add_local_route(family: AddressFamily) -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    let kind = [libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT, libc::RT_SCOPE_HOST, libc::RTN_LOCAL];
    let attributes = [(libc::RTA_OIF, LOOPBACK.to_ne_bytes())];
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    netlink::ask(libc::RTM_NEWROUTE, flags, Route { family, to: None, kind, attributes: &attributes }).map(drop)
}
