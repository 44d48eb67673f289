//! Messages between supervisor and launcher: JSON over a SEQPACKET pair, with
//! descriptors where a message says so.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg,
    socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::outcome::Ended;
use crate::error::{Context, Error, Result};
use crate::plan::Opened;
use crate::sys;

/// Longest message, in bytes; below the kernel's default send buffer.
const LONGEST: usize = 128 << 10;
/// Most descriptors in one message (SCM_MAX_FD is 253).
pub const MOST_DESCRIPTORS: usize = 100;

/// What the supervisor says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToLauncher {
    /// The id maps are written: begin. The way into the run's cgroup comes with
    /// this message, where it has one.
    Begin,
    /// Detached mounts for these places of the plan come with this message.
    Mounts(Vec<usize>),
    /// All detached mounts are sent.
    MountsEnd,
    /// The gateway serves: the agent may begin. Files of these names for
    /// /run/belljar come with this message.
    Proceed(Vec<String>),
    /// Pass the signal on to the agent.
    Signal(i32),
    /// Kill the container.
    Kill,
    /// Names below the merged mount at this place of the plan have changed.
    Refresh(usize),
}

/// What the launcher says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromLauncher {
    /// The listening sockets of the sealed network come with this message.
    Listeners(Vec<Opened>),
    /// The terminal's master side comes with this message.
    Terminal,
    /// The container is as planned, and the agent has the word to go on.
    Started(Report),
    /// The init could not execute the agent, with this errno.
    NotExecuted(i32),
    /// The container has ended.
    Ended(Ended),
    /// A step failed; nothing ran.
    Failed(Error),
}

/// What verify found, for the receipt.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Number of mounts compared.
    pub mounts: usize,
    /// Kernel facts compared beyond the mounts.
    pub facts: usize,
    /// Milliseconds of each step of the launcher, in order.
    pub steps: Vec<(String, f64)>,
}

/// One end of the pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Channel {
    /// Both ends.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .step(|| "make a socket pair".to_owned())?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a message, with descriptors.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let text = serde_json::to_vec(message).step(|| "render a message".to_owned())?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(&text)], control, MsgFlags::MSG_NOSIGNAL, None)
            .step(|| "send a message between supervisor and launcher".to_owned())?;
        Ok(())
    }

    /// Receives a message and its descriptors; `None` when the other end is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let step = || "receive a message between supervisor and launcher".to_owned();
        let mut buffer = vec![0u8; LONGEST];
        let mut control = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let raw = self.0.as_raw_fd();
        let got = loop {
            match recvmsg::<UnixAddr>(raw, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                // The other end has gone without reading all of ours. That is said
                // first, before its own last messages, which still wait (unix(7)).
                Err(Errno::ECONNRESET | Errno::EINTR) => {}
                got => break got.step(step)?,
            }
        };
        let mut descriptors = Vec::new();
        for message in got.cmsgs().step(step)? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                descriptors.extend(raw.into_iter().map(sys::own));
            }
        }
        let length = got.bytes;
        if length == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&buffer[..length]).step(step)?;
        Ok(Some((message, descriptors)))
    }
}
