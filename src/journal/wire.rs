//! The journal's native protocol (systemd, "Native Journal Protocol"): one
//! datagram for each entry, or a sealed memfd where that is too large.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

const SOCKET: &str = "/run/systemd/journal/socket";

/// One entry, as it is sent.
pub struct Entry {
    bytes: Vec<u8>,
}

impl Entry {
    /// With what every entry of belljar's has.
    pub fn new(priority: &str, message: &[u8]) -> Self {
        let mut entry = Self { bytes: Vec::with_capacity(256 + message.len()) };
        entry.field("MESSAGE", message);
        entry.field("PRIORITY", priority.as_bytes());
        entry.field("SYSLOG_IDENTIFIER", b"belljar");
        entry
    }

    /// A field `BELLJAR_NAME`. The names are belljar's own.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        self.field(&format!("BELLJAR_{name}"), value);
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            // With its length, so that no line in it is taken for a field.
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }
}

/// A way to the journal.
#[derive(Debug)]
pub struct Socket {
    socket: UnixDatagram,
}

impl Socket {
    /// To a journal that is there. A send waits `within` for one that does not read.
    pub fn open(within: Duration) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(within))?;
        // As large as the journal's own stream has it, within what the host allows (net.core.wmem_max).
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &(8 << 20));
        socket.connect(SOCKET)?;
        Ok(Self { socket })
    }

    /// Sends an entry; once more where the journal was started anew meanwhile.
    pub fn send(&mut self, entry: &Entry) -> io::Result<()> {
        match self.send_once(entry) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOTCONN)) => {
                self.socket.connect(SOCKET)?;
                self.send_once(entry)
            }
            sent => sent,
        }
    }

    fn send_once(&self, entry: &Entry) -> io::Result<()> {
        match self.socket.send(&entry.bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => self.send_file(entry),
            Err(error) => Err(error),
        }
    }

    fn send_file(&self, entry: &Entry) -> io::Result<()> {
        let file = memfd_create("belljar-entry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(file);
        file.write_all(&entry.bytes)?;
        let file = OwnedFd::from(file);
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let descriptors = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let nothing: [IoSlice<'_>; 0] = [];
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &nothing, &rights, MsgFlags::empty(), None)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_a_value_is_no_field() {
        let mut entry = Entry::new("6", b"a=b\nBELLJAR_GROUP=main");
        entry.add("GROUP", b"sales");
        let wanted = [
            b"MESSAGE\n\x16\0\0\0\0\0\0\0a=b\nBELLJAR_GROUP=main\n".as_slice(),
            b"PRIORITY=6\nSYSLOG_IDENTIFIER=belljar\nBELLJAR_GROUP=sales\n",
        ];
        assert_eq!(entry.bytes, wanted.concat());
    }
}
