//! Attempts to reach the host: its processes, sockets, FIFOs, ports and IPC.

// SysV IPC has no safe wrapper.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{answer, tell};

/// Tries everything; `facts` say where the host's things are. Each attempt that
/// needs a fact which is not there is left out.
pub fn attempt(facts: &BTreeMap<String, String>) -> io::Result<()> {
    first_process();
    if let Some(path) = facts.get("socket") {
        tell("connect to a socket", &answer(UnixStream::connect(path)));
    }
    if let Some(path) = facts.get("fifo") {
        let open = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path);
        tell("write to a FIFO", &answer(open.and_then(|mut fifo| fifo.write_all(b"hello"))));
    }
    if let Some(name) = facts.get("abstract") {
        let address = UnixAddress::from_abstract_name(name)?;
        tell("connect to an abstract socket", &answer(UnixStream::connect_addr(&address)));
    }
    if let Some(port) = facts.get("port").and_then(|port| port.parse::<u16>().ok()) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2));
        tell("connect to a port of the host", &answer(stream));
    }
    if let Some(key) = facts.get("shm_key").and_then(|key| key.parse::<c_int>().ok()) {
        // SAFETY: no pointer is passed.
        let id = unsafe { libc::shmget(key, 0, 0) };
        let result = if id < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        tell("open System V shared memory", &answer(result));
    }
    if let Some(name) = facts.get("shm_name") {
        tell("open POSIX shared memory", &answer(File::open(format!("/dev/shm/{name}"))));
    }
    if let Some(pid) = facts.get("pid").and_then(|pid| pid.parse::<i32>().ok()) {
        let sent = kill(Pid::from_raw(pid), Signal::SIGUSR1).map_err(io::Error::from);
        tell("signal a process of the host", &answer(sent));
        tell("read a process of the host", &answer(fs::read(format!("/proc/{pid}/cmdline"))));
    }
    Ok(())
}

/// What PID 1 would give away: its memory, its environment, its descriptors.
fn first_process() {
    for name in ["environ", "cmdline", "maps", "mem", "status", "mountinfo"] {
        let path = format!("/proc/1/{name}");
        let read = if name == "mem" { File::open(&path).map(drop) } else { fs::read(&path).map(drop) };
        tell(&path, &answer(read));
    }
    for name in ["root", "cwd", "fd"] {
        let path = format!("/proc/1/{name}/");
        tell(&path, &answer(fs::read_dir(&path)));
    }
    tell("/proc/1/exe", &answer(fs::read_link("/proc/1/exe")));
    tell("write to /proc/1/mem", &answer(File::options().write(true).open("/proc/1/mem")));
}
