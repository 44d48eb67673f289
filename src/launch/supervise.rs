//! The supervisor's loop: messages of the launcher, signals, clock, output.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::disk::{Guard, Watch};
use super::outcome::{Cause, End, Ended, Outcome};
use super::outgoing::Outgoing;
use super::pasta::Pasta;
use super::protocol::{Channel, FromLauncher, Report, ToLauncher};
use super::refresh::{self, Watched};
use super::relay::{self, Budget, OwnSide, Relays};
use super::terminal::AgentTerminal;
use crate::error::{Context, Error, Result};
use crate::gateway::{Gateway, Said, Trust};
use crate::plan::{MountKind, Resolved};
use crate::record::Head;
use crate::systemd::notify;

/// How long the agent may take to end after a signal, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What other threads tell the loop.
#[derive(Debug)]
pub enum Event {
    /// The agent has written all that it may.
    OutputLimit,
    /// The agent has filled the disk as far as it may, or cannot be measured.
    Disk(String),
    /// A signal came for the run.
    Signal(Signal),
    /// The caller's window has another size.
    Resize,
    /// The gateway serves, or cannot go on.
    Gateway(Said),
    /// A message of the launcher with its descriptors; `None` when it is gone.
    Launcher(Result<Option<(FromLauncher, Vec<OwnedFd>)>>),
}

/// What a run has beside its plan.
pub struct Around<'a> {
    /// The launcher's process id.
    pub launcher: Pid,
    /// The run's id.
    pub run: &'a str,
    /// What its gateway works by.
    pub outgoing: Option<Outgoing>,
    /// What gives it a network of its own.
    pub pasta: Option<&'a Pasta>,
    /// The guard of the disk.
    pub guard: Option<Guard>,
}

/// Supervises the container to its end, and returns when all of its output has
/// been passed on.
pub fn supervise(resolved: &Resolved, channel: Channel, stdio: Option<OwnSide>, around: Around<'_>) -> Result<Outcome> {
    let Around { launcher, run, outgoing, pasta, guard } = around;
    let runtime = crate::event_loop::start().step(|| "start the event loop".to_owned())?;
    let (sender, events) = unbounded_channel();
    let result = runtime.block_on(async {
        listen(&sender, resolved.plan.terminal)?;
        signals().thread_unblock().step(|| "let signals in".to_owned())?;
        let gateway = outgoing.and_then(|outgoing| outgoing.start(run, sender.clone()));
        let watch = guard.map(|guard| guard.watch(launcher, sender.clone()));
        let mut supervisor = Supervisor::new(resolved, channel, stdio, (gateway, pasta), (run, sender))?;
        let ended = supervisor.run(resolved, events).await;
        if ended.is_err() {
            // What holds the agent's pipes open would be waited for otherwise.
            let _ = kill(launcher, Signal::SIGKILL);
        }
        let full = watch.and_then(Watch::end);
        let requests = supervisor.finish();
        let mut outcome = ended?;
        if let Some(full) = full.filter(|_| outcome.cause != Cause::Disk) {
            eprintln!("belljar: {full}; the agent had ended by then");
            outcome.reached.push("disk");
        }
        Ok(Outcome { requests: requests?, ..outcome })
    });
    runtime.shutdown_background();
    result
}

/// Passes the launcher's messages on as events. A thread, because the pair's
/// messages carry descriptors, which the event loop's sockets do not.
fn hear_launcher(channel: Arc<Channel>, sender: UnboundedSender<Event>) {
    std::thread::spawn(move || {
        loop {
            let said = channel.receive::<FromLauncher>();
            let last = !matches!(said, Ok(Some(_)));
            if sender.send(Event::Launcher(said)).is_err() || last {
                return;
            }
        }
    });
}

/// The signals that are for the run.
pub fn signals() -> SigSet {
    let all = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
    all.into_iter().collect()
}

/// Passes signals on as events.
fn listen(sender: &UnboundedSender<Event>, terminal: bool) -> Result<()> {
    let mut kinds = vec![
        (SignalKind::interrupt(), Signal::SIGINT),
        (SignalKind::terminate(), Signal::SIGTERM),
        (SignalKind::hangup(), Signal::SIGHUP),
        (SignalKind::quit(), Signal::SIGQUIT),
        (SignalKind::user_defined1(), Signal::SIGUSR1),
        (SignalKind::user_defined2(), Signal::SIGUSR2),
    ];
    if terminal {
        kinds.push((SignalKind::window_change(), Signal::SIGWINCH));
    }
    for (kind, name) in kinds {
        let mut stream = signal(kind).step(|| format!("listen for {name}"))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                let event = if name == Signal::SIGWINCH { Event::Resize } else { Event::Signal(name) };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

struct Supervisor<'a> {
    channel: Arc<Channel>,
    relays: Option<Relays>,
    /// How much output is left; none without a limit.
    budget: Option<Arc<Budget>>,
    /// For threads that begin later.
    events: UnboundedSender<Event>,
    terminal: Option<AgentTerminal>,
    report: Option<Report>,
    /// Why belljar itself is ending the run, if it is.
    ending: Option<Cause>,
    /// A signal that came before the agent began.
    early: Option<Signal>,
    /// One that is no order to end: the agent's first output can be seen before
    /// the launcher's word that it has begun is heard.
    early_word: Option<Signal>,
    not_executed: Option<i32>,
    kill_at: Option<Instant>,
    /// Since when the run has been told to end.
    told: Option<Instant>,
    watched: Vec<Watched>,
    gateway: Option<Gateway>,
    /// What gives the run a network of its own.
    pasta: Option<&'a Pasta>,
    /// Why the gateway cannot go on; the run is ended then.
    gateway_failed: Option<Error>,
}

impl<'a> Supervisor<'a> {
    fn new(
        resolved: &Resolved,
        channel: Channel,
        stdio: Option<OwnSide>,
        (gateway, pasta): (Option<Gateway>, Option<&'a Pasta>),
        (run, events): (&str, UnboundedSender<Event>),
    ) -> Result<Self> {
        let channel = Arc::new(channel);
        hear_launcher(Arc::clone(&channel), events.clone());
        let budget = resolved.plan.limits.output_bytes.as_ref().map(|limit| Arc::new(Budget::new(limit.value)));
        let relays =
            stdio.map(|own| relay::start(own, budget.clone(), (run, &resolved.plan.group), &events)).transpose()?;
        let mut watched = Vec::new();
        for (index, mount) in resolved.plan.mounts.iter().enumerate() {
            let (MountKind::Merged { .. }, Some(source)) = (&mount.kind, resolved.sources.get(&index)) else {
                continue;
            };
            let source: OwnedFd = source.try_clone().step(|| "duplicate a mount source".to_owned())?;
            watched.push(Watched { index, source });
        }
        Ok(Self {
            channel,
            relays,
            budget,
            events,
            terminal: None,
            report: None,
            ending: None,
            early: None,
            early_word: None,
            not_executed: None,
            kill_at: None,
            told: None,
            watched,
            gateway,
            pasta,
            gateway_failed: None,
        })
    }

    async fn run(&mut self, resolved: &Resolved, mut events: UnboundedReceiver<Event>) -> Result<Outcome> {
        let mut timeout = resolved
            .plan
            .limits
            .timeout_seconds
            .as_ref()
            .map(|limit| Instant::now() + Duration::from_secs_f64(limit.value));
        loop {
            tokio::select! {
                biased;
                Some(event) = events.recv() => match event {
                    Event::Launcher(said) => if let Some(outcome) = self.hear(resolved, said?)? {
                        return Ok(outcome);
                    },
                    event => self.answer(event)?,
                },
                () = until(timeout) => {
                    timeout = None;
                    self.end_because(Cause::Timeout, Signal::SIGTERM)?;
                }
                () = until(self.kill_at) => {
                    self.kill_at = None;
                    self.ending.get_or_insert(Cause::Killed);
                    self.say(&ToLauncher::Kill)?;
                }
            }
        }
    }

    /// One message of the launcher; the outcome when it was the last.
    fn hear(&mut self, resolved: &Resolved, said: Option<(FromLauncher, Vec<OwnedFd>)>) -> Result<Option<Outcome>> {
        let Some((message, descriptors)) = said else {
            if let Some(error) = self.gateway_failed.take() {
                return Err(error);
            }
            if self.ending.is_some() {
                return Ok(Some(self.conclude_early(resolved)));
            }
            return Err(Error::failed("the launcher ended without a word")
                .hint("it may have been killed for want of memory: dmesg"));
        };
        match message {
            FromLauncher::Listeners(opened) => {
                if let Some(pasta) = self.pasta {
                    pasta.start()?;
                }
                let listeners = opened.into_iter().zip(descriptors).collect();
                if let Some(gateway) = &mut self.gateway {
                    gateway.serve(listeners);
                }
            }
            FromLauncher::Terminal => {
                let master =
                    descriptors.into_iter().next().ok_or_else(|| Error::failed("the launcher sent no terminal"))?;
                self.terminal = Some(AgentTerminal::start(master, self.budget.clone(), self.events.clone())?);
            }
            FromLauncher::Started(report) => {
                self.report = Some(report);
                notify::ready("the agent has been started");
                refresh::start(std::mem::take(&mut self.watched), Arc::clone(&self.channel));
                if let Some(signal) = self.early_word.take() {
                    self.say(&ToLauncher::Signal(signal as i32))?;
                }
                if let Some(signal) = self.early.take() {
                    self.pass_on(signal)?;
                }
            }
            FromLauncher::NotExecuted(errno) => self.not_executed = Some(errno),
            FromLauncher::Ended(_) if self.gateway_failed.is_some() => {
                return self.gateway_failed.take().map_or(Ok(None), Err);
            }
            FromLauncher::Ended(ended) => return Ok(Some(self.conclude(resolved, ended))),
            // The clock runs from the beginning, not from the agent's first instruction.
            FromLauncher::Failed(_) if self.ending == Some(Cause::Timeout) || self.early.is_some() => {
                self.ending.get_or_insert(Cause::Killed);
                return Ok(Some(self.conclude_early(resolved)));
            }
            FromLauncher::Failed(error) => return Err(error),
        }
        Ok(None)
    }

    fn answer(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Resize => self.terminal.as_ref().map_or(Ok(()), |terminal| {
                terminal.resize();
                Ok(())
            }),
            Event::OutputLimit => {
                self.ending.get_or_insert(Cause::OutputLimit);
                self.say(&ToLauncher::Kill)
            }
            Event::Disk(how) => {
                eprintln!("belljar: {how}; the run was ended");
                self.ending.get_or_insert(Cause::Disk);
                self.say(&ToLauncher::Kill)
            }
            Event::Launcher(_) => Ok(()),
            Event::Gateway(Said::Serving(trust)) => self.proceed(&trust),
            Event::Gateway(Said::Failed(error)) if self.report.is_none() => Err(error),
            Event::Gateway(Said::Failed(error)) => {
                let failed = Error::failed("the gateway cannot go on; the run was ended").because(&error.what);
                let failed = error.causes.iter().fold(failed, Error::because);
                self.gateway_failed.get_or_insert(Error { hint: error.hint, ..failed });
                self.say(&ToLauncher::Kill)
            }
            Event::Signal(signal @ (Signal::SIGUSR1 | Signal::SIGUSR2)) if self.report.is_none() => {
                self.early_word = Some(signal);
                Ok(())
            }
            Event::Signal(signal) if self.report.is_none() => {
                self.early = Some(signal);
                self.arm();
                Ok(())
            }
            Event::Signal(signal @ (Signal::SIGUSR1 | Signal::SIGUSR2)) => self.say(&ToLauncher::Signal(signal as i32)),
            Event::Signal(signal) => self.pass_on(signal),
        }
    }

    /// Gives the agent's programs whom to trust, and the word to go on.
    fn proceed(&self, trust: &Trust) -> Result<()> {
        let mut files = Vec::new();
        for (name, content) in trust.files() {
            let step = || format!("pass {name} on");
            let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).step(step)?);
            file.write_all(content).and_then(|()| file.rewind()).step(step)?;
            files.push(file);
        }
        let names = trust.files().map(|(name, _)| name.to_owned()).into();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        // A launcher that has ended has its last message waiting.
        let _ = self.channel.send(&ToLauncher::Proceed(names), &borrowed);
        Ok(())
    }

    fn end_because(&mut self, cause: Cause, signal: Signal) -> Result<()> {
        self.ending.get_or_insert(cause);
        self.pass_on(signal)
    }

    fn pass_on(&mut self, signal: Signal) -> Result<()> {
        self.arm();
        self.say(&ToLauncher::Signal(signal as i32))
    }

    fn arm(&mut self) {
        notify::stopping();
        let told = *self.told.get_or_insert_with(Instant::now);
        self.kill_at.get_or_insert(told + GRACE);
    }

    /// Tells the launcher; one that has ended has its last message waiting.
    fn say(&self, message: &ToLauncher) -> Result<()> {
        let _ = self.channel.send(message, &[]);
        Ok(())
    }

    fn conclude(&mut self, resolved: &Resolved, ended: Ended) -> Outcome {
        let end = End { ending: self.ending.take(), not_executed: self.not_executed, ended };
        end.conclude(&resolved.plan, self.report.take())
    }

    /// The outcome of a run that was told to end before the agent began: what told
    /// it ended it.
    fn conclude_early(&mut self, resolved: &Resolved) -> Outcome {
        let wait_status = self.early.take().map(|signal| signal as i32);
        self.conclude(resolved, Ended { wait_status, ..Ended::default() })
    }

    /// Passes on what is left, and ends the gateway; the head of its record. Output
    /// that nobody reads does not keep a run that was told to end.
    fn finish(self) -> Result<Option<Head>> {
        let until = self.told.map(|told| (told + GRACE).into_std());
        if let Some(relays) = self.relays {
            relays.finish(until);
        }
        if let Some(terminal) = self.terminal {
            terminal.finish(until);
        }
        self.gateway.map_or(Ok(None), Gateway::stop)
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
