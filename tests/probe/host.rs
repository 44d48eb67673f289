//! The host's side: things that must be out of an agent's reach, and a count of
//! who reached them. `count` on stdin prints the counts; the end of stdin ends it.

// System V IPC and a signal handler have no safe wrapper that fits here.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

static SOCKET: AtomicU64 = AtomicU64::new(0);
static ABSTRACT: AtomicU64 = AtomicU64::new(0);
static PORT: AtomicU64 = AtomicU64::new(0);
static FIFO: AtomicU64 = AtomicU64::new(0);
static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// Makes a socket and a FIFO in `directory`, an abstract socket, a TCP port, and
/// shared memory; tells where they are.
pub fn serve(directory: &Path) -> io::Result<()> {
    let own = std::process::id();
    let name = format!("belljar-probe-{own}");
    let socket = directory.join("host.sock");
    let fifo = directory.join("host.fifo");
    let listener = UnixListener::bind(&socket)?;
    thread::spawn(move || listener.incoming().for_each(|_| count(&SOCKET)));
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    thread::spawn(move || listener.incoming().for_each(|_| count(&ABSTRACT)));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || listener.incoming().for_each(|_| count(&PORT)));
    mkfifo(&fifo, Mode::from_bits_truncate(0o666))?;
    let reader = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo)?;
    thread::spawn(move || listen_to_fifo(reader));
    // SAFETY: the handler only adds to an atomic.
    unsafe { signal(Signal::SIGUSR1, SigHandler::Handler(count_signal)) }?;
    let key = 0x0be1_0000 | (own as libc::c_int & 0xffff);
    // SAFETY: no pointer is passed.
    let shm = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o600) };
    let posix = Path::new("/dev/shm").join(&name);
    fs::write(&posix, "shared")?;
    println!("{}", serde_json::json!({"pid": own, "abstract": name, "port": port, "shm_key": key, "shm_name": name}));
    for line in io::stdin().lock().lines() {
        if line? == "count" {
            let of = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
            // What has arrived is on its way to the threads that count it.
            thread::sleep(Duration::from_millis(100));
            println!(
                "{}",
                serde_json::json!({
                    "socket": of(&SOCKET), "abstract": of(&ABSTRACT), "port": of(&PORT),
                    "fifo": of(&FIFO), "signals": of(&SIGNALS), "counted": true,
                })
            );
        }
    }
    // SAFETY: IPC_RMID takes no buffer.
    unsafe { libc::shmctl(shm, libc::IPC_RMID, std::ptr::null_mut()) };
    fs::remove_file(posix)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn listen_to_fifo(mut reader: File) {
    let mut buffer = [0u8; 64];
    loop {
        match reader.read(&mut buffer) {
            Ok(length @ 1..) => {
                FIFO.fetch_add(length as u64, Ordering::SeqCst);
            }
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}
