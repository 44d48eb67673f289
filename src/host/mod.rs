//! The host process: the trusted half. It takes messages from people, gives them to
//! the agents of their groups, does what agents may ask for, and tasks when they are
//! due; and it starts runs for those who ask on its Unix socket. Each run is a
//! `belljar run` of its own, so that what is promised of runs needs nothing of this
//! process, which an agent's end or a request's cannot hurt.
//!
//! What it must not forget is in the store. In here is only what goes on now.

mod agent;
mod api;
mod board;
mod channels;
mod child;
pub mod client;
mod conversation;
mod format;
mod lines;
mod messages;
mod place;
mod queue;
mod router;
mod run;
mod trigger;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, sleep_until, timeout};

use crate::config::{Caller, Config, Dirs, Groups};
use crate::error::{Context, Error, Result};
use crate::ipc::{Desk, Done, Place, Spool};
use crate::journal::{Events, Priority};
use crate::runs;
use crate::store::Store;
use crate::systemd::notify;

pub use format::{for_people, prompt};
pub use place::{Socket, is_served, socket_path};

/// Connections that are served at once.
const CONNECTIONS: usize = 64;
/// How long a client may take for the head of a request, or stay without one.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Threads that use the store.
const BLOCKING_THREADS: usize = 4;
/// How long runs may take to end when the host does: more than their own grace.
const RUNS_END_WITHIN: Duration = Duration::from_secs(8);

/// What requests share.
pub(crate) struct Host {
    dirs: Dirs,
    program: std::path::PathBuf,
    store: Arc<Store>,
    /// Places for runs.
    places: Arc<Semaphore>,
    most_runs: usize,
    /// Supervisors of the runs that were started here.
    children: RefCell<BTreeSet<i32>>,
    connections: Cell<usize>,
    /// Something has begun or ended.
    changed: Notify,
    stopping: Cell<bool>,
    events: Events,
    queue: queue::Queue,
    /// Counts what was changed in the store.
    rung: watch::Sender<u64>,
    /// Counts how often channels were to be asked for their chats.
    refresh: watch::Sender<u64>,
    /// The IPC directories of groups.
    groups: RefCell<HashMap<String, Rc<Place>>>,
    /// What each group's agent was shown last.
    shown: RefCell<HashMap<String, u64>>,
}

/// What `belljar serve` asks for.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Runs at once.
    pub most_runs: usize,
    /// End when nobody has asked for anything for so long.
    pub idle_exit: Option<Duration>,
}

/// Serves until it is told to stop; all runs that it started have ended then.
pub fn serve(caller: &Caller, dirs: &Dirs, options: Options) -> Result<()> {
    let config = Config::load(&dirs.config_file())?;
    let events = Events::of_host(config.log.to);
    let program = std::env::current_exe().step(|| "find belljar's own file".to_owned())?;
    for name in config.channel.keys() {
        channels::check_name(name)?;
    }
    let socket = Socket::open(caller, dirs)?;
    let store = Arc::new(Store::open(dirs)?);
    store.recover()?;
    // It may be the first of belljar since the power went.
    if let Err(error) = runs::bury_dead(dirs, runs::STOPPED) {
        events.tell_error("cleanup", &error);
    }
    place::step_aside(caller)?;
    let runtime = crate::event_loop::builder()
        .and_then(|mut builder| builder.max_blocking_threads(BLOCKING_THREADS).build())
        .step(|| "start the event loop".to_owned())?;
    let host = Rc::new(Host {
        dirs: dirs.clone(),
        program,
        store,
        places: Arc::new(Semaphore::new(options.most_runs)),
        most_runs: options.most_runs,
        children: RefCell::default(),
        connections: Cell::new(0),
        changed: Notify::new(),
        stopping: Cell::new(false),
        events,
        queue: queue::Queue::default(),
        rung: watch::Sender::new(0),
        refresh: watch::Sender::new(0),
        groups: RefCell::default(),
        shown: RefCell::default(),
    });
    let local = LocalSet::new();
    let served = local.block_on(&runtime, async {
        let listener = UnixListener::from_std(socket.listener()?).step(|| "listen on the socket".to_owned())?;
        let (tell, told) = unbounded_channel();
        let spool = Spool::start(dirs, Desk::new(dirs, &config), tell)?;
        host.events.tell("serving", Priority::Info, &format!("belljar serves on {}", socket.name()), &[]);
        board::refresh(&host).await;
        tokio::task::spawn_local(listen_to_agents(Rc::clone(&host), told));
        tokio::task::spawn_local(queue::work(Rc::clone(&host)));
        for (name, channel) in &config.channel {
            tokio::task::spawn_local(channels::supervise(Rc::clone(&host), name.clone(), channel.clone()));
        }
        // A channel hears what people say only while somebody serves.
        let idle_exit = options.idle_exit.filter(|_| config.channel.is_empty());
        let served = listen(&host, listener, idle_exit).await;
        drop(spool);
        stop(&host).await;
        served
    });
    host.events.tell("stopped", Priority::Info, "belljar serves no longer", &[]);
    served
}

/// What agents have asked for, and others have changed.
async fn listen_to_agents(host: Rc<Host>, mut told: UnboundedReceiver<Done>) {
    let mut next = None;
    loop {
        let done = match next.take() {
            Some(done) => done,
            None => match told.recv().await {
                Some(done) => done,
                None => return,
            },
        };
        match done {
            Done::Rung => {
                // Those that came meanwhile are heard with it.
                loop {
                    match told.try_recv() {
                        Ok(Done::Rung) => {}
                        other => {
                            next = other.ok();
                            break;
                        }
                    }
                }
                host.ring();
                if matches!(host.with_store(|store| store.take_refresh()).await, Ok(true)) {
                    host.refresh.send_modify(|count| *count += 1);
                }
                board::refresh(&host).await;
            }
            Done::Refused { group, message } => {
                host.events.tell("ipc", Priority::Notice, &message, &[("GROUP", group.into())]);
            }
            Done::Failed { group, error } => {
                let event = if group.is_some() { "ipc" } else { "failed" };
                host.events.tell_error(event, &error);
            }
        }
    }
}

async fn listen(host: &Rc<Host>, listener: UnixListener, idle_exit: Option<Duration>) -> Result<()> {
    let on = |kind| signal(kind).step(|| "listen for signals".to_owned());
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    // A terminal that goes takes nobody's agents with it.
    let mut hangup = on(SignalKind::hangup())?;
    let beat = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |patience| patience / 2);
    let mut beat = interval(beat.max(Duration::from_millis(1)));
    notify::ready("waiting for requests");
    let mut quiet_since = Instant::now();
    loop {
        let idle_at = idle_exit.filter(|_| host.is_idle()).map(|patience| quiet_since + patience);
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    take(host, stream);
                } else {
                    // Out of descriptors, for one; those that are open go on.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            () = host.changed.notified() => {
                quiet_since = Instant::now();
                notify::status(&format!("{} runs", host.children.borrow().len()));
            }
            _ = beat.tick() => notify::alive(),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {}
            () = async { match idle_at { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                // Nobody else would see to what is due, or waits.
                let waits = host.with_store(|store| Ok(store.next_due()?.is_some() || store.has_waiting()?)).await;
                if matches!(waits, Ok(false)) {
                    return Ok(());
                }
                quiet_since = Instant::now();
            }
        }
    }
}

fn take(host: &Rc<Host>, stream: UnixStream) {
    let own = nix::unistd::geteuid().as_raw();
    let is_own = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
    let crowded = host.connections.get() >= CONNECTIONS;
    host.connections.set(host.connections.get() + 1);
    host.changed.notify_one();
    let host = Rc::clone(host);
    tokio::task::spawn_local(async move {
        let answer = service_fn(|request: Request<Incoming>| {
            let host = Rc::clone(&host);
            async move {
                let answer = if !is_own {
                    api::refusal(
                        StatusCode::FORBIDDEN,
                        "this socket is for its owner",
                        Some("call as the owner, or as root"),
                    )
                } else if crowded {
                    api::refusal(StatusCode::SERVICE_UNAVAILABLE, "too many connections", None)
                } else {
                    api::answer(&host, request).await
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        // A client that went away, or spoke no HTTP, is its own business.
        let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        host.connections.set(host.connections.get() - 1);
        host.changed.notify_one();
    });
}

/// Ends the runs, and waits for their ends and the last answers.
async fn stop(host: &Rc<Host>) {
    notify::stopping();
    host.stopping.set(true);
    host.end_runs(Signal::SIGTERM);
    let all_ended = async {
        while !host.is_idle() {
            host.end_runs(Signal::SIGTERM);
            let _ = timeout(Duration::from_millis(200), host.changed.notified()).await;
        }
    };
    if timeout(RUNS_END_WITHIN, all_ended).await.is_err() {
        host.end_runs(Signal::SIGKILL);
    }
}

impl Host {
    /// Uses the store, without holding others up.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(Error::failed("use the store").because(error)))
    }

    /// Something was changed in the store: whoever waits for it looks.
    fn ring(&self) {
        self.rung.send_modify(|count| *count += 1);
        self.queue.wake();
    }

    /// The IPC directory of a group.
    fn place(&self, group: &str) -> Result<Rc<Place>> {
        if let Some(place) = self.groups.borrow().get(group).filter(|place| place.is_there()) {
            return Ok(Rc::clone(place));
        }
        let place = Rc::new(Place::open(&self.dirs, &Groups::new(&self.dirs).find(group)?)?);
        self.groups.borrow_mut().insert(group.to_owned(), Rc::clone(&place));
        Ok(place)
    }

    fn is_idle(&self) -> bool {
        self.children.borrow().is_empty() && (self.stopping.get() || self.connections.get() == 0)
    }

    fn end_runs(&self, how: Signal) {
        for child in self.children.borrow().iter() {
            // It may have ended; then nobody is left to be told, and it is not reaped yet.
            let _ = kill(Pid::from_raw(*child), how);
        }
    }
}
