//! What the plan says about what may leave.

use std::path::PathBuf;

use serde::Serialize;

use super::EgressMode;

/// What may leave.
#[derive(Debug, Clone, Serialize)]
pub struct Egress {
    /// The mode.
    pub mode: EgressMode,
    /// What it means for this run.
    pub means: String,
    /// What the launcher listens on in the sealed network, for the gateway.
    pub listeners: Vec<Listener>,
    /// Whether TLS is opened, and why; `None` without a gateway.
    pub inspection: Option<Inspected>,
    /// The group's secrets, without values.
    pub secrets: Vec<EgressSecret>,
    /// The program that gives a network of its own (`open`).
    pub helper: Option<PathBuf>,
}

/// Whether TLS is opened.
#[derive(Debug, Clone, Serialize)]
pub struct Inspected {
    /// Opened for every host, or for none.
    pub opened: bool,
    /// Why.
    pub reason: String,
}

/// A secret of the group, as far as it may be shown.
#[derive(Debug, Clone, Serialize)]
pub struct EgressSecret {
    /// Its name.
    pub name: String,
    /// Host, port and path of each binding.
    pub goes_to: Vec<String>,
}

/// One port of the sealed network that the gateway serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Listener {
    /// What it is for.
    pub purpose: ListenerPurpose,
    /// TCP or UDP.
    pub transport: Transport,
    /// The port.
    pub port: u16,
    /// On every address; otherwise on the loopback's own.
    pub everywhere: bool,
}

/// One listener, as its descriptor is handed from the launcher to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Opened {
    /// What it is for.
    pub listener: Listener,
    /// On IPv6; otherwise on IPv4.
    pub v6: bool,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerPurpose {
    /// The proxy that the proxy variables name.
    Proxy,
    /// HTTP of programs that ignore them.
    Http,
    /// HTTPS of programs that ignore them.
    Https,
    /// The DNS stub.
    Dns,
    /// A port of `[[tcp]]`.
    Tcp,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}
