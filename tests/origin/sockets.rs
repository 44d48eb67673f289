//! Which sockets listen, and what each does.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio_rustls::LazyConfigAcceptor;

use crate::certificates::{Authority, Kind};
use crate::dns;
use crate::records::{Records, hex};
use crate::serve::{Facts, http};

/// TLS.
const SECURE: [u16; 3] = [443, 8443, 9443];
/// Plain HTTP.
const PLAIN: [u16; 3] = [80, 8080, 3000];
/// Echo of raw bytes.
const RAW: [u16; 5] = [22, 25, 5432, 6379, 853];
/// Datagrams that nobody may send.
const SINKS: [u16; 4] = [443, 123, 5353, 8443];
/// The address whose requests are recorded verbatim.
const VERBATIM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 70);
/// The address that answers a connection with silence.
const SILENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 71);

/// What every connection needs.
pub struct World {
    /// The logs.
    pub records: Arc<Records>,
    authority: Arc<Authority>,
}

/// Listens everywhere and serves for ever.
pub async fn serve(shared: &Path, own: &Path) -> io::Result<()> {
    let records = Arc::new(Records::of(own)?);
    let world = Arc::new(World { records: records.clone(), authority: Arc::new(Authority::of(shared)?) });
    for port in SECURE.into_iter().chain(PLAIN).chain(RAW) {
        tokio::spawn(accept(listen(port)?, port, world.clone()));
    }
    for port in SINKS {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await;
        let socket = match socket {
            Ok(socket) => socket,
            Err(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await?,
        };
        let records = records.clone();
        tokio::spawn(async move {
            let mut buffer = [0u8; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                records.packet("udp", json!({"port": port, "from": from, "hex": hex(&buffer[..length])}));
            }
        });
    }
    dns::serve(own, records).await?;
    println!("listening");
    // Whoever started it kills it.
    loop {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}

/// One listener for both families; for the older alone where the machine has
/// no other.
fn listen(port: u16) -> io::Result<TcpListener> {
    let bind = |socket: TcpSocket, address: IpAddr| {
        socket.set_reuseaddr(true)?;
        socket.bind((address, port).into())?;
        socket.listen(4096)
    };
    TcpSocket::new_v6()
        .and_then(|socket| bind(socket, Ipv6Addr::UNSPECIFIED.into()))
        .or_else(|_| bind(TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()))
}

async fn accept(listener: TcpListener, port: u16, world: Arc<World>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                tokio::spawn(connection(stream, from, port, world.clone()));
            }
            // Too many descriptors: somebody will close one.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, port: u16, world: Arc<World>) {
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let number = world.records.number();
    let ip = local.ip().to_canonical();
    world.records.packet("tcp", json!({"connection": number, "dialled": ip, "port": port, "from": from}));
    if ip == SILENT {
        tokio::time::sleep(Duration::from_secs(600)).await;
    } else if RAW.contains(&port) {
        echo(stream, number, &world.records).await;
    } else if PLAIN.contains(&port) {
        let facts = Facts { connection: number, dialled: (ip, port).into(), sni: None, alpn: None, secure: false };
        if ip == VERBATIM {
            verbatim(stream, number, &world.records).await;
        } else {
            http(stream, facts, world).await;
        }
    } else {
        secure(stream, (ip, port).into(), number, world).await;
    }
}

fn kind(ip: IpAddr) -> Kind {
    let IpAddr::V4(ip) = ip else {
        return Kind::Good;
    };
    match ip.octets() {
        [203, 0, 113, 66] => Kind::SelfSigned,
        [203, 0, 113, 67] => Kind::Expired,
        [203, 0, 113, 68] => Kind::WrongName,
        [203, 0, 113, 69] => Kind::Old,
        _ if ip == VERBATIM => Kind::Raw,
        _ => Kind::Good,
    }
}

async fn secure(stream: TcpStream, dialled: SocketAddr, number: u64, world: Arc<World>) {
    let kind = kind(dialled.ip());
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = match acceptor.await {
        Ok(start) => start,
        Err(error) => {
            world.records.packet("no-tls", json!({"connection": number, "error": error.to_string()}));
            return;
        }
    };
    let sni = start.client_hello().server_name().map(str::to_owned);
    let offered: Vec<String> = start
        .client_hello()
        .alpn()
        .map(|names| names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
        .unwrap_or_default();
    world.records.packet("hello", json!({"connection": number, "sni": sni, "alpn": offered}));
    let Ok(config) = world.authority.server(kind, dialled.ip().to_string()) else {
        return;
    };
    let stream = match start.into_stream(Arc::new(config)).await {
        Ok(stream) => stream,
        Err(error) => {
            world.records.packet("no-tls", json!({"connection": number, "sni": sni, "error": error.to_string()}));
            return;
        }
    };
    if kind == Kind::Raw {
        verbatim(stream, number, &world.records).await;
        return;
    }
    let alpn = stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    http(stream, Facts { connection: number, dialled, sni, alpn, secure: true }, world).await;
}

/// Gives every byte back.
async fn echo(mut stream: TcpStream, number: u64, records: &Records) {
    let mut buffer = vec![0u8; 64 << 10];
    let mut total = 0;
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        total += length;
        records.packet("bytes", json!({"connection": number, "hex": hex(&buffer[..length.min(256)])}));
        if stream.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    records.packet("end", json!({"connection": number, "length": total}));
}

/// Keeps every byte in `raw-N.bin` and answers each end of a header with the
/// bytes of `raw-answer`, or with a small 200. It parses nothing else.
async fn verbatim(mut stream: impl AsyncRead + AsyncWrite + Unpin, number: u64, records: &Records) {
    const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let file = records.directory().join(format!("raw-{number}.bin"));
    let (mut seen, mut answered) = (Vec::new(), 0);
    let mut buffer = vec![0u8; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..length]);
        let _ = std::fs::write(&file, &seen);
        let ends = seen.windows(4).filter(|window| window == b"\r\n\r\n").count();
        while answered < ends {
            answered += 1;
            let answer = std::fs::read(records.directory().join("raw-answer")).unwrap_or_else(|_| SMALL.to_vec());
            if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}
