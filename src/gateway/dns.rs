//! The DNS stub (RFC 1035): answers for every name from the gateway's own range,
//! so that a raw connection has a name to judge. No query leaves.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
};
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};

use super::shared::Shared;
use crate::error::{Context, Result};
use crate::ipc::HOST;
use crate::policy::Host;

/// Seconds that a program may remember an answer.
const TTL: u32 = 30;
/// Longest query that is read, in bytes; queries have one question.
const LONGEST: usize = 1500;

/// Who is to answer a query.
pub enum Answers {
    /// Stand-in addresses: the network is sealed.
    StandIns,
    /// The system's resolver: the agent has a network of its own (`open`).
    Real,
}

/// Serves the UDP socket until the runtime ends.
pub async fn serve_udp(socket: OwnedFd, shared: Arc<Shared>) -> Result<()> {
    let socket = std::net::UdpSocket::from(socket);
    let socket = Arc::new(UdpSocket::from_std(socket).step(|| "serve DNS over UDP".to_owned())?);
    loop {
        let received = socket.async_io(Interest::READABLE, || receive(&socket)).await;
        // A query that cannot be read is dropped, as on any network.
        let Some((query, from, to)) = received.step(|| "wait for a DNS query".to_owned())? else {
            continue;
        };
        match shared.answers {
            Answers::StandIns => {
                if let Some(reply) = answer(&query, &shared).await {
                    let _ = send(&socket, &reply, &from, to);
                }
            }
            // The system's resolver may take seconds: others must not wait.
            Answers::Real => {
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                let Ok(permit) = Arc::clone(&shared.lookups).try_acquire_owned() else {
                    continue;
                };
                tokio::spawn(async move {
                    if let Some(reply) = answer(&query, &shared).await {
                        let _ = send(&socket, &reply, &from, to);
                    }
                    drop(permit);
                });
            }
        }
    }
}

/// Serves one TCP connection: queries with a length before each (RFC 7766).
pub async fn serve_tcp(mut stream: TcpStream, shared: Arc<Shared>) {
    let patience = Duration::from_secs(10);
    let mut exchange = async || -> Option<()> {
        let length = stream.read_u16().await.ok()?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.ok()?;
        let reply = answer(&query, &shared).await?;
        // In one piece, as clients expect it (RFC 7766, 8).
        let length = u16::try_from(reply.len()).ok()?;
        stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat()).await.ok()
    };
    while let Ok(Some(())) = tokio::time::timeout(patience, exchange()).await {}
}

async fn answer(query: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    if query.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    let [question] = query.questions.as_slice() else {
        *reply.rcode_mut() = RCODE::FormatError;
        return reply.build_bytes_vec().ok();
    };
    reply.questions.push(question.clone());
    let in_class = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    let Ok(Host::Name(name)) = Host::parse(&question.qname.to_string()) else {
        *reply.rcode_mut() = RCODE::NameError;
        return reply.build_bytes_vec().ok();
    };
    let (v4, v6) = match question.qtype {
        QTYPE::TYPE(TYPE::A) | QTYPE::ANY => (in_class, false),
        QTYPE::TYPE(TYPE::AAAA) => (false, in_class),
        _ => (false, false),
    };
    let addresses: Vec<IpAddr> = match shared.answers {
        // Only IPv4, and nothing for any other type, so that no program asks
        // for HTTP/3, service records or keys that nobody has.
        Answers::StandIns if v4 => vec![shared.names().address_of(&name).into()],
        Answers::StandIns => Vec::new(),
        // Stand-ins are not local there, and this name is nobody else's to answer for:
        // it is served on the loopback.
        Answers::Real if name == HOST => vec![Ipv4Addr::LOCALHOST.into()],
        Answers::Real => match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(_) => {
                *reply.rcode_mut() = RCODE::NameError;
                Vec::new()
            }
        },
    };
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) if v4 => RData::A(A::from(address)),
            IpAddr::V6(address) if v6 => RData::AAAA(AAAA::from(address)),
            _ => continue,
        };
        reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data));
    }
    reply.build_bytes_vec().ok()
}

/// One datagram, who sent it, and the address that it was sent to; nothing when
/// the kernel does not tell.
fn receive(socket: &UdpSocket) -> std::io::Result<Option<(Vec<u8>, SocketAddr, IpAddr)>> {
    let mut buffer = [0u8; LONGEST];
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
    let mut to = None;
    for message in got.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                to = Some(IpAddr::from(u32::from_be(info.ipi_addr.s_addr).to_be_bytes()));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => {}
        }
    }
    let from = got.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|address| SocketAddr::from(*address));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::from(*address)))
    });
    let length = got.bytes;
    Ok(from.zip(to).map(|(from, to)| (buffer[..length].to_vec(), from, to)))
}

/// Sends the reply from the address that was asked.
fn send(socket: &UdpSocket, reply: &[u8], to: &SocketAddr, from: IpAddr) -> nix::Result<usize> {
    let slices = [IoSlice::new(reply)];
    let raw = socket.as_raw_fd();
    match (to, from) {
        (SocketAddr::V4(to), IpAddr::V4(from)) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(raw, &slices, &control, MsgFlags::empty(), Some(&SockaddrIn::from(*to)))
        }
        (SocketAddr::V6(to), IpAddr::V6(from)) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(raw, &slices, &control, MsgFlags::empty(), Some(&SockaddrIn6::from(*to)))
        }
        _ => Err(nix::errno::Errno::EAFNOSUPPORT),
    }
}
