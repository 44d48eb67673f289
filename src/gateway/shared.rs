//! What all connections of a run's gateway work with.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::authority::Authority;
use super::dns::Answers;
use super::inject::Secrets;
use super::internal::Internal;
use super::names::Names;
use super::onecli::ParentProxy;
use super::times::Times;
use super::upstream::{Network, Pools};
use crate::error::Error;
use crate::policy::{Host, Policy};
use crate::record::{Entry, Log};
use crate::store::Store;

/// A connection's place among those that are served at once; free again when
/// all that came of the connection has ended, tunnels and WebSockets too.
pub type Place = Arc<OwnedSemaphorePermit>;

/// Whether TLS is opened in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspection {
    /// Every host's.
    All,
    /// None: nothing could be passed by, and tunnels are recorded.
    None,
}

/// What all connections of a run's gateway work with.
pub struct Shared {
    /// The run's id.
    pub run: String,
    /// Its group.
    pub group: String,
    /// What may leave.
    pub policy: Arc<Policy>,
    /// Whether TLS is opened.
    pub inspection: Inspection,
    /// What is put into requests.
    pub secrets: Secrets,
    /// Signs certificates for hosts.
    pub authority: Authority,
    /// Reaches origins without TLS.
    pub network: Arc<Network>,
    /// Reaches origins with TLS and HTTP.
    pub pools: Pools,
    /// How DNS is answered.
    pub answers: Answers,
    /// Real name lookups at once.
    pub lookups: Arc<Semaphore>,
    /// Rate counters and approvals.
    pub store: Arc<Store>,
    /// The record.
    pub log: Log,
    /// How long is waited for whom.
    pub times: Times,
    /// Called for each held request.
    pub approval_command: Vec<String>,
    /// Answers for the gateway's own host.
    pub internal: Internal,
    /// OneCLI's proxy, when it is the vault.
    pub parent: Option<ParentProxy>,
    /// Requests held at once.
    pub held: Arc<Semaphore>,
    /// Requests served at once.
    pub requests: Arc<Semaphore>,
    /// Connections served at once.
    pub places: Arc<Semaphore>,
    pub(super) names: Mutex<Names>,
    /// Rules whose rate is used up, and until when.
    pub(super) used_up: Mutex<HashMap<String, Instant>>,
    pub(super) fatal: UnboundedSender<Error>,
}

impl Shared {
    /// The names that stand-in addresses were given for.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host that an address of a raw connection stands for.
    pub fn host_at(&self, address: IpAddr) -> Option<Host> {
        let names = self.names();
        names.name_of(address).and_then(|name| Host::parse(name).ok())
    }

    /// How long the rate of a rule is known to be used up: others can only take
    /// more of it.
    pub fn used_up(&self, rule: &str) -> Option<Duration> {
        let used_up = self.used_up.lock().unwrap_or_else(PoisonError::into_inner);
        used_up.get(rule)?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// The store has said so.
    pub fn note_used_up(&self, rule: &str, retry_after: Duration) {
        let mut used_up = self.used_up.lock().unwrap_or_else(PoisonError::into_inner);
        used_up.insert(rule.to_owned(), Instant::now() + retry_after);
    }

    /// Writes one line of the record. Without the record nothing may leave, so
    /// the run ends when it cannot be written.
    pub fn record(&self, entry: Entry) {
        if let Err(error) = self.log.append(&entry) {
            let _ = self.fatal.send(error);
        }
    }
}
