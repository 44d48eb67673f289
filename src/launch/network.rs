//! The sealed network namespace: a loopback, a route that makes every address
//! local, and the listening sockets, which the supervisor serves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Result};
use crate::plan::{Listener, Opened, Transport};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen,
    recv, sendto, setsockopt, socket, sockopt,
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

/// One RTM_NEWROUTE request (rtnetlink(7)): type local, table local, to
/// everywhere, by the loopback.
fn add_local_route(family: AddressFamily) -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    let family = u8::try_from(family as i32).unwrap_or_default();
    let mut request = Vec::with_capacity(36);
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    request.extend(36u32.to_ne_bytes());
    request.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    request.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
    request.extend([0; 8]);
    // struct rtmsg: family, lengths of destination and source, tos, table,
    // protocol, scope, type, flags.
    let (table, protocol) = (libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT);
    request.extend([family, 0, 0, 0, table, protocol, libc::RT_SCOPE_HOST, libc::RTN_LOCAL]);
    request.extend([0; 4]);
    request.extend(8u16.to_ne_bytes());
    request.extend(libc::RTA_OIF.to_ne_bytes());
    request.extend(LOOPBACK.to_ne_bytes());
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0u8; 512];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // NLMSG_ERROR: the header's 16 bytes, then the errno, negative, 0 for success.
    let errno = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(Errno::from_raw(-errno).into()),
        None => Err(io::Error::other("the kernel's answer was cut short")),
    }
}
