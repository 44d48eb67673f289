//! How long the gateway waits for whom. No time is set for a body that streams.

use std::time::Duration;

use crate::config::GatewayConfig;

/// How long a held request waits for a person, unless configured.
pub const APPROVAL_WAIT: Duration = Duration::from_secs(180);

/// The timeouts of `[gateway]`.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Name lookup and TCP connect together.
    pub connect: Duration,
    /// A TLS handshake.
    pub tls: Duration,
    /// The agent's request head, from the first wait for it.
    pub header: Duration,
    /// The origin's response head, from the last byte that was sent to it.
    pub response: Duration,
    /// A kept connection without a request.
    pub idle: Duration,
    /// A person's answer.
    pub approval: Duration,
}

impl Times {
    /// As configured, or the defaults.
    pub fn new(config: &GatewayConfig) -> Self {
        let or = |configured: Option<Duration>, seconds: u64| configured.unwrap_or(Duration::from_secs(seconds));
        Self {
            connect: or(config.connect_timeout, 10),
            tls: or(config.tls_timeout, 10),
            header: or(config.header_timeout, 30),
            response: or(config.response_timeout, 600),
            idle: or(config.idle_timeout, 90),
            approval: config.approval_timeout.unwrap_or(APPROVAL_WAIT),
        }
    }
}
