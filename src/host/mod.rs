//! The host process: it listens on a Unix socket, and starts runs for those who
//! ask. Each run is a `belljar run` of its own, so that what is promised of runs
//! needs nothing of this process, which an agent's end or a request's cannot hurt.

mod api;
mod place;
mod run;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::rc::Rc;
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
use tokio::sync::{Notify, Semaphore};
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, sleep_until, timeout};

use crate::config::{Caller, Config, Dirs};
use crate::error::{Context, Result};
use crate::journal::{Events, Priority};
use crate::runs;
use crate::systemd::notify;

pub use place::is_served;

/// Connections that are served at once.
const CONNECTIONS: usize = 64;
/// How long a client may take for the head of a request, or stay without one.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long runs may take to end when the host does: more than their own grace.
const RUNS_END_WITHIN: Duration = Duration::from_secs(8);

/// What requests share.
pub(crate) struct Host {
    dirs: Dirs,
    program: std::path::PathBuf,
    /// Places for runs.
    places: Semaphore,
    most_runs: usize,
    /// Supervisors of the runs that were started here.
    children: std::cell::RefCell<BTreeSet<i32>>,
    connections: Cell<usize>,
    /// Something has begun or ended.
    changed: Notify,
    stopping: Cell<bool>,
    events: Events,
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
    let socket = place::Socket::open(caller, dirs)?;
    // It may be the first of belljar since the power went.
    if let Err(error) = runs::bury_dead(dirs, runs::STOPPED) {
        events.tell_error("cleanup", &error);
    }
    place::step_aside(caller)?;
    let runtime = crate::event_loop::start().step(|| "start the event loop".to_owned())?;
    let host = Rc::new(Host {
        dirs: dirs.clone(),
        program,
        places: Semaphore::new(options.most_runs),
        most_runs: options.most_runs,
        children: std::cell::RefCell::default(),
        connections: Cell::new(0),
        changed: Notify::new(),
        stopping: Cell::new(false),
        events,
    });
    let local = LocalSet::new();
    let served = local.block_on(&runtime, async {
        let listener = UnixListener::from_std(socket.listener()?).step(|| "listen on the socket".to_owned())?;
        host.events.tell("serving", Priority::Info, &format!("belljar serves on {}", socket.name()), &[]);
        listen(&host, listener, options.idle_exit).await?;
        stop(&host).await;
        Ok(())
    });
    host.events.tell("stopped", Priority::Info, "belljar serves no longer", &[]);
    served
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
            () = async { match idle_at { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => return Ok(()),
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
