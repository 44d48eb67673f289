//! The gateway: what is served on the listeners that the launcher opened
//! inside the sealed network namespace.
//!
//! One gateway serves one run, in a thread of the supervisor's process with an
//! event loop of its own: what one run does cannot hold up another, and what
//! arrives on a listener came from that run. Runs share the store only.

mod access;
mod answer;
mod approval;
mod authority;
mod body;
mod dial;
mod dns;
mod endpoints;
mod exchange;
mod forward;
mod frames;
mod greedy;
mod headers;
mod inject;
mod interim;
mod internal;
mod names;
mod onecli;
mod patient;
pub mod redact;
mod refusal;
mod roots;
mod send;
mod serve;
mod shared;
mod sniff;
mod times;
mod trust;
mod truststore;
mod upstream;
mod websocket;
mod writes;

use std::net::TcpListener as StdListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};

pub use authority::Files as AuthorityFiles;
pub use dial::judge_literal;
pub use dns::Answers;
pub use endpoints::{Endpoints, reason as endpoint_reason};
pub use onecli::{Fetched, ParentProxy, fetch};
pub use roots::Roots;
pub(crate) use roots::{platform as platform_roots, provider as cryptography};
pub use shared::Inspection;
pub use trust::Trust;
pub use truststore::PASSWORD as TRUSTSTORE_PASSWORD;

use authority::Authority;
use inject::Secrets;
use internal::Internal;
use serve::Destination;
use shared::{Place, Shared};
pub use times::APPROVAL_WAIT;
use times::Times;
use upstream::{Network, Pools};
use writes::{length_of, writes_through};

use crate::config::{Config, Dirs};
use crate::error::{Context, Error, Result};
use crate::event_loop;
use crate::plan::{ListenerPurpose, Opened, Transport};
use crate::policy::Policy;
use crate::record::{Head, Log};
use crate::store::Store;
use crate::vault::{Master, Vault};

/// Connections of a run, and requests, that are served at once, unless configured. The rest
/// waits in the kernel's backlog, so that memory stays bounded.
const CONNECTIONS: usize = 128;
/// Requests of a run that may wait for a person at once, each with up to 1 MiB
/// of its body.
const HELD: usize = 8;
/// Threads for name lookups and the store.
const BLOCKING_THREADS: usize = 8;
/// Real name lookups at once, for runs with a network of their own.
const LOOKUPS: usize = 16;

/// What a run's gateway needs; resolved before the run.
pub struct Setup {
    /// The group whose agent it is.
    pub group: String,
    /// What may leave.
    pub policy: Arc<Policy>,
    /// Whether TLS is opened.
    pub inspection: Inspection,
    /// How DNS is answered.
    pub answers: Answers,
    /// The configuration.
    pub config: Config,
    /// Where secrets are sealed.
    pub vault: Vault,
    /// belljar's directories.
    pub dirs: Dirs,
    /// Where events are told.
    pub log: crate::journal::To,
    /// Files with authorities beside the platform's.
    pub extra_roots: Vec<PathBuf>,
    /// Our authority, and OneCLI's after it, when that is the vault.
    pub ours: Vec<CertificateDer<'static>>,
    /// OneCLI's proxy, when it is the vault.
    pub parent: Option<ParentProxy>,
}

/// What the gateway's thread says.
#[derive(Debug)]
pub enum Said {
    /// It serves; this is what the agent's programs are to trust.
    Serving(Trust),
    /// It cannot go on; nothing leaves any more.
    Failed(Error),
}

/// A run's gateway, in its thread.
pub struct Gateway {
    listeners: Option<oneshot::Sender<Vec<(Opened, OwnedFd)>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: JoinHandle<Option<Head>>,
}

impl Gateway {
    /// Begins to prepare it; `master` opens the secrets. `say` is called from
    /// the gateway's thread.
    pub fn start(setup: Setup, run: &str, master: Master, say: impl Fn(Said) + Send + 'static) -> Self {
        let (listeners, listeners_receiver) = oneshot::channel();
        let (stop, stop_receiver) = oneshot::channel();
        let run = run.to_owned();
        let thread = std::thread::spawn(move || {
            let work = || {
                let (fatal, fatal_receiver) = unbounded_channel();
                let (shared, trust) = prepare(setup, run, &master, fatal)?;
                let shared = Arc::new(shared);
                drop(master);
                let serving = || say(Said::Serving(trust));
                serve_until(&shared, listeners_receiver, stop_receiver, fatal_receiver, serving)?;
                shared.store.cancel_run(&shared.run, "the run has ended")?;
                shared.log.finish()
            };
            // Also a panic is told: without a gateway the run has to end.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            match ended.unwrap_or_else(|_| Err(Error::failed("the gateway has panicked"))) {
                Ok(head) => Some(head),
                Err(error) => {
                    say(Said::Failed(error));
                    None
                }
            }
        });
        Self { listeners: Some(listeners), stop: Some(stop), thread }
    }

    /// Hands the listeners over; `Said::Serving` follows.
    pub fn serve(&mut self, listeners: Vec<(Opened, OwnedFd)>) {
        if let Some(sender) = self.listeners.take() {
            // A gateway that has failed has said so.
            let _ = sender.send(listeners);
        }
    }

    /// Ends it, and the record; returns the record's head.
    pub fn stop(mut self) -> Result<Option<Head>> {
        drop(self.listeners.take());
        drop(self.stop.take());
        self.thread.join().map_err(|_| Error::failed("the gateway's thread has panicked"))
    }
}

/// Everything that can fail before the first connection.
fn prepare(
    setup: Setup,
    run: String,
    master: &Master,
    fatal: tokio::sync::mpsc::UnboundedSender<Error>,
) -> Result<(Shared, Trust)> {
    let secrets = match &setup.parent {
        Some(_) => Vec::new(),
        None => setup.vault.open(master, &setup.group)?,
    };
    let more = setup.parent.as_ref().map(ParentProxy::needles).unwrap_or_default();
    let secrets = Secrets::new(secrets, &more)?;
    let authority = Authority::open(&AuthorityFiles::new(&setup.dirs), &setup.vault, master)?;
    let mut roots = Roots::load(&setup.extra_roots)?;
    let trust = Trust::new(&roots, &setup.ours);
    // Origins behind OneCLI show certificates of its authority.
    for authority in setup.ours.iter().skip(1) {
        roots.add(authority.clone());
    }
    let times = Times::new(&setup.config.gateway);
    let network = Arc::new(Network::new(
        Arc::clone(&setup.policy),
        &roots,
        authority.certificate(),
        times,
        setup.parent.clone(),
    )?);
    let at_once = setup.config.gateway.connections.unwrap_or(CONNECTIONS).max(1);
    let shared = Shared {
        log: Log::create(&setup.dirs, &run, &setup.group, setup.log)?,
        store: Arc::new(Store::open(&setup.dirs)?),
        run,
        group: setup.group,
        policy: setup.policy,
        inspection: setup.inspection,
        secrets,
        authority,
        pools: Pools::new(Arc::clone(&network), times.idle),
        network,
        answers: setup.answers,
        lookups: Arc::new(Semaphore::new(LOOKUPS)),
        times,
        approval_command: setup.config.gateway.approval_command.clone(),
        internal: Internal::new(setup.dirs, setup.config),
        parent: setup.parent,
        held: Arc::new(Semaphore::new(HELD)),
        requests: Arc::new(Semaphore::new(at_once)),
        places: Arc::new(Semaphore::new(at_once)),
        names: Mutex::default(),
        used_up: Mutex::default(),
        fatal,
    };
    Ok((shared, trust))
}

fn serve_until(
    shared: &Arc<Shared>,
    listeners: oneshot::Receiver<Vec<(Opened, OwnedFd)>>,
    stop: oneshot::Receiver<()>,
    mut fatal: UnboundedReceiver<Error>,
    serving: impl FnOnce(),
) -> Result<()> {
    let runtime = event_loop::builder()
        .and_then(|mut builder| builder.max_blocking_threads(BLOCKING_THREADS).build())
        .step(|| "start the gateway's event loop".to_owned())?;
    let result = runtime.block_on(async {
        let Ok(listeners) = listeners.await else {
            return Ok(());
        };
        let mut tasks = tokio::task::JoinSet::new();
        for (opened, socket) in listeners {
            listen(&mut tasks, opened, socket, shared)?;
        }
        serving();
        tokio::select! {
            _ = stop => Ok(()),
            Some(error) = fatal.recv() => Err(error),
            Some(ended) = tasks.join_next() => Err(match ended {
                Ok(Ok(())) => Error::failed("a listener of the gateway has ended"),
                Ok(Err(error)) => error,
                Err(error) => Error::failed("a listener of the gateway has failed").because(error),
            }),
        }
    });
    // Connections that are still there go with it, each with its line of the
    // record. A name lookup that hangs is not waited for.
    runtime.shutdown_background();
    result
}

/// Serves one listener.
fn listen(
    tasks: &mut tokio::task::JoinSet<Result<()>>,
    opened: Opened,
    socket: OwnedFd,
    shared: &Arc<Shared>,
) -> Result<()> {
    let shared = Arc::clone(shared);
    let listener = opened.listener;
    if listener.transport == Transport::Udp {
        tasks.spawn(dns::serve_udp(socket, shared));
        return Ok(());
    }
    let step = move || format!("serve port {}", listener.port);
    let socket = TcpListener::from_std(StdListener::from(socket)).step(step)?;
    tasks.spawn(async move {
        loop {
            // A place first: what cannot be served stays in the backlog.
            let place = Arc::new(Arc::clone(&shared.places).acquire_owned().await.step(step)?);
            match socket.accept().await {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    tokio::spawn(async move {
                        let _ = stream.set_nodelay(true);
                        one(stream, listener.purpose, shared, place).await;
                    });
                }
                // A connection that was gone before it was accepted, or no
                // descriptors for the moment (accept(2)).
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    });
    Ok(())
}

/// One connection, by what its listener is for.
async fn one(stream: TcpStream, purpose: ListenerPurpose, shared: Arc<Shared>, place: Place) {
    match purpose {
        ListenerPurpose::Proxy => serve::proxy(stream, shared, place).await,
        ListenerPurpose::Dns => dns::serve_tcp(stream, shared).await,
        ListenerPurpose::Http | ListenerPurpose::Https | ListenerPurpose::Tcp => {
            // The address that was meant: every address is local in there.
            if let Ok(meant) = stream.local_addr() {
                let destination = Destination::of_address(meant.ip(), meant.port(), &shared);
                serve::connection(stream, destination, shared, place).await;
            }
        }
    }
}
