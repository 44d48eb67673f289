//! A name server for names that are not in the world's hosts file. It writes
//! down each query. `rebind.test` is a public address when it is asked for the
//! first time, and a private one ever after; names of the file `zone` (lines of
//! `name address`) have that address, and nothing else exists.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::records::{Records, hex};

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

struct Server {
    zone: PathBuf,
    asked: HashMap<String, u32>,
    records: Arc<Records>,
}

/// Answers on port 53 of every address of the namespace. The reply leaves from
/// the address of the link, which is why that is the world's name server.
pub async fn serve(own: &Path, records: Arc<Records>) -> io::Result<()> {
    let mut server = Server { zone: own.join("zone"), asked: HashMap::new(), records: records.clone() };
    let socket = UdpSocket::bind("0.0.0.0:53").await?;
    tokio::spawn(async move {
        let mut buffer = [0u8; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = server.answer(&buffer[..length], from);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    let listener = TcpListener::bind("0.0.0.0:53").await?;
    tokio::spawn(async move {
        while let Ok((mut stream, from)) = listener.accept().await {
            let mut buffer = [0u8; 512];
            let length = stream.read(&mut buffer).await.unwrap_or(0);
            records.packet("tcp-dns", json!({"from": from, "hex": hex(&buffer[..length])}));
            let _ = stream.shutdown().await;
        }
    });
    Ok(())
}

impl Server {
    fn answer(&mut self, query: &[u8], from: SocketAddr) -> Vec<u8> {
        let Ok(packet) = Packet::parse(query) else {
            self.records.packet("udp", json!({"port": 53, "from": from, "hex": hex(query)}));
            return Vec::new();
        };
        let mut reply = Packet::new_reply(packet.id());
        for question in &packet.questions {
            let name = question.qname.to_string().to_ascii_lowercase();
            let addresses = self.addresses(&name, question.qtype);
            self.records.packet("dns", json!({"name": name, "type": format!("{:?}", question.qtype)}));
            match addresses {
                None => *reply.rcode_mut() = RCODE::NameError,
                Some(addresses) => {
                    for address in addresses {
                        let data = match address {
                            IpAddr::V4(v4) => RData::A(A::from(v4)),
                            IpAddr::V6(v6) => RData::AAAA(AAAA::from(v6)),
                        };
                        reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 0, data));
                    }
                }
            }
            reply.questions.push(question.clone());
        }
        reply.build_bytes_vec().unwrap_or_default()
    }

    /// `None`: there is no such name.
    fn addresses(&mut self, name: &str, kind: QTYPE) -> Option<Vec<IpAddr>> {
        let (v4, v6) = (kind == QTYPE::TYPE(TYPE::A), kind == QTYPE::TYPE(TYPE::AAAA));
        if name.starts_with("rebind") && name.ends_with(".test") {
            if !v4 {
                return Some(Vec::new());
            }
            let asked = self.asked.entry(name.to_owned()).or_default();
            *asked += 1;
            return Some(vec![if *asked == 1 { PUBLIC.into() } else { PRIVATE.into() }]);
        }
        let zone = fs::read_to_string(&self.zone).unwrap_or_default();
        let found: Vec<IpAddr> = zone
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(known, _)| *known == name)
            .filter_map(|(_, address)| address.trim().parse().ok())
            .collect();
        if found.is_empty() {
            return None;
        }
        Some(found.into_iter().filter(|address| if address.is_ipv4() { v4 } else { v6 }).collect())
    }
}
