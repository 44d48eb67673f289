//! Questions to the kernel about routes (rtnetlink(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// Bytes of a message's header (struct nlmsghdr), and of what follows it in
/// those about routes (struct rtmsg).
const HEADER: usize = 16;
const ROUTE: usize = 12;

/// One route, as far as belljar speaks of it.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// `AF_INET` or `AF_INET6`.
    pub family: AddressFamily,
    /// Where to; everywhere when absent.
    pub to: Option<IpAddr>,
    /// Table, protocol, scope and type.
    pub kind: [u8; 4],
    /// Attributes: number and four bytes of value.
    pub attributes: &'a [(u16, [u8; 4])],
}

/// Sends a request about a route, and returns the answer's route type
/// (`RTN_UNICAST`, …), or 0 for a mere acknowledgement.
pub fn ask(message: u16, flags: i32, route: Route<'_>) -> io::Result<u8> {
    let to = route.to.map(|address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    });
    let bits = to.as_ref().map_or(0, |octets| octets.len() as u8 * 8);
    let [table, protocol, scope, kind] = route.kind;
    let family = u8::try_from(route.family as i32).unwrap_or_default();
    let mut body = vec![family, bits, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0];
    let values = route.attributes.iter().map(|(number, value)| (*number, value.as_slice()));
    for (number, value) in values.chain(to.iter().map(|octets| (libc::RTA_DST, octets.as_slice()))) {
        body.extend((value.len() as u16 + 4).to_ne_bytes());
        body.extend(number.to_ne_bytes());
        body.extend_from_slice(value);
    }
    let mut request = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    request.extend(message.to_ne_bytes());
    request.extend(u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or_default().to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0u8; 4096];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    understand(answer.get(..length).unwrap_or_default())
}

/// The route type of an answer; an error as the kernel tells it: a negative
/// errno, 0 for success.
fn understand(answer: &[u8]) -> io::Result<u8> {
    let short = || io::Error::other("the kernel's answer was cut short");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(short)?;
    let body = &answer[HEADER.min(answer.len())..];
    if i32::from(kind) == libc::NLMSG_ERROR {
        let errno = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes).ok_or_else(short)?;
        return if errno == 0 { Ok(0) } else { Err(Errno::from_raw(-errno).into()) };
    }
    body.get(7).filter(|_| body.len() >= ROUTE).copied().ok_or_else(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_which_way_leads_here() {
        let kind = |address: &str| {
            let to: IpAddr = address.parse().expect("an address");
            let route = Route { family: AddressFamily::Inet, to: Some(to), kind: [0; 4], attributes: &[] };
            ask(libc::RTM_GETROUTE, 0, route)
        };
        assert_eq!(kind("127.0.0.1").expect("a route"), libc::RTN_LOCAL);
        assert_eq!(kind("127.9.9.9").expect("a route"), libc::RTN_LOCAL);
        // Elsewhere, or nowhere.
        assert_ne!(kind("203.0.113.9").unwrap_or(libc::RTN_UNICAST), libc::RTN_LOCAL);
    }
}
