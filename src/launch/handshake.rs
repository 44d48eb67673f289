//! What the init says, and the terminal that the runtime hands over.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockFlag, UnixAddr, accept4, getsockopt, recvmsg, setsockopt, sockopt,
};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::sys;

/// The launcher's side of the handshake.
pub enum Line {
    /// The init has, or will be given, the other end.
    Open {
        /// This end.
        socket: OwnedFd,
        /// Who connected, from the kernel (unix(7), SO_PEERCRED); nobody did
        /// where the other end is inherited.
        peer: Option<Pid>,
    },
    /// The init has yet to connect to this socket.
    Awaited(OwnedFd),
}

impl Line {
    /// What to wait on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open { socket, .. } | Self::Awaited(socket) => socket.as_fd(),
        }
    }

    /// The init connects: the listening socket is given up.
    pub fn accept(&mut self) -> Result<()> {
        let Self::Awaited(listener) = self else { return Ok(()) };
        let step = || "meet the init".to_owned();
        let socket = sys::own(accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).step(step)?);
        setsockopt(&socket, sockopt::PassCred, &true).step(step)?;
        let peer = getsockopt(&socket, sockopt::PeerCredentials).step(step)?.pid();
        *self = Self::Open { socket, peer: Some(Pid::from_raw(peer)) };
        Ok(())
    }

    /// One message of the init.
    pub fn hear(&self) -> Result<InitSays> {
        match self {
            Self::Awaited(_) => Ok(InitSays::Gone),
            Self::Open { socket, peer } => hear(socket, *peer),
        }
    }
}

/// What the init reported.
pub struct Ready {
    /// Its pid in the launcher's process namespace, from the kernel.
    pub pid: Pid,
    /// What it found wrong.
    pub finding: Option<String>,
}

/// A message of the init.
pub enum InitSays {
    /// It waits for the word.
    Ready(Ready),
    /// The agent could not be executed, with this errno.
    NotExecuted(i32),
    /// The agent's wait status, and whether its processes were as many as may be.
    Exited(i32, bool),
    /// Nothing more will come.
    Gone,
}

/// One message of the init, with its pid as the kernel tells it (unix(7),
/// SCM_CREDENTIALS).
fn hear(handshake: &OwnedFd, peer: Option<Pid>) -> Result<InitSays> {
    let step = || "hear the init".to_owned();
    let mut buffer = [0u8; 512];
    let mut control = nix::cmsg_space!(libc::ucred, [RawFd; 4]);
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<UnixAddr>(handshake.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
    let got = match got {
        Err(nix::errno::Errno::ECONNRESET) => return Ok(InitSays::Gone),
        got => got.step(step)?,
    };
    let mut pid = 0;
    for message in got.cmsgs().step(step)? {
        match message {
            ControlMessageOwned::ScmCredentials(credentials) => pid = credentials.pid(),
            ControlMessageOwned::ScmRights(descriptors) => descriptors.into_iter().map(sys::own).for_each(drop),
            _ => {}
        }
    }
    let length = got.bytes;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let number = |text: &str| text.trim().parse::<i32>().unwrap_or(0);
    Ok(match text.split_once(' ').unwrap_or((&text, "")) {
        ("READY", rest) => {
            let pid = peer.unwrap_or(Pid::from_raw(pid));
            InitSays::Ready(Ready { pid, finding: (!rest.is_empty()).then(|| rest.to_owned()) })
        }
        ("EXEC", rest) => InitSays::NotExecuted(number(rest)),
        ("EXIT", rest) => match rest.strip_suffix(" full") {
            Some(rest) => InitSays::Exited(number(rest), true),
            None => InitSays::Exited(number(rest), false),
        },
        _ => InitSays::Gone,
    })
}

/// The terminal's master side, as the runtime sends it (runc's console socket
/// protocol, which crun shares). A message without it means that it failed.
pub fn receive_master(listener: &UnixListener) -> Result<OwnedFd> {
    let step = || "receive the terminal from the runtime".to_owned();
    let (stream, _) = listener.accept().step(step)?;
    let mut buffer = [0u8; 256];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
        .step(step)?;
    let mut descriptors = Vec::new();
    for message in got.cmsgs().step(step)? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            descriptors.extend(raw.into_iter().map(sys::own));
        }
    }
    descriptors.into_iter().next().ok_or_else(|| Error::failed("the runtime made no terminal"))
}
