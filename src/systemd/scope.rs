//! Transient scopes (org.freedesktop.systemd1(5), StartTransientUnit): a cgroup
//! that a service manager gives away, for a run that is in none of its own.

use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use zbus::connection::Builder;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, Message};

use crate::config::Caller;
use crate::error::{Context, Error, Result};
use crate::plan::own_cgroup;

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// Units that hold processes.
const KINDS: [&str; 2] = ["org.freedesktop.systemd1.Service", "org.freedesktop.systemd1.Scope"];
/// How long the manager may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);
/// How long it may take to move a process into its scope.
const MOVED_WITHIN: Duration = Duration::from_secs(10);
/// How long a scope's processes may take to end when the manager stops: longer
/// than belljar gives its agent.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Which service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManagerKind {
    /// That of the host.
    System,
    /// That of the caller (user@.service(5)).
    User,
}

/// A service manager that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manager {
    /// Which.
    pub kind: ManagerKind,
    /// The socket by which it is reached: that of a bus, or the manager's own.
    socket: PathBuf,
    /// Its cgroup, below the mount of the hierarchy: `/` for the host's.
    pub cgroup: PathBuf,
}

impl Manager {
    /// The caller's manager, or for root the host's; asked for its cgroup, so
    /// that it is known to answer. In words why there is none.
    pub fn find(caller: &Caller) -> std::result::Result<Self, String> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err("systemd is not running here".to_owned());
        }
        let (kind, directory) = match caller.uid {
            0 => (ManagerKind::System, PathBuf::from("/run")),
            uid => (ManagerKind::User, PathBuf::from(format!("/run/user/{uid}"))),
        };
        if kind == ManagerKind::User && !fs::metadata(&directory).is_ok_and(|meta| meta.uid() == caller.uid) {
            return Err(format!("the user's service manager is not running: there is no {}", directory.display()));
        }
        let sockets = match kind {
            ManagerKind::System => ["dbus/system_bus_socket", "systemd/private"],
            ManagerKind::User => ["bus", "systemd/private"],
        };
        let mut reasons = Vec::new();
        for socket in sockets.map(|name| directory.join(name)) {
            let mut manager = Self { kind, socket, cgroup: PathBuf::new() };
            match manager.ask_for_cgroup() {
                Ok(cgroup) => {
                    manager.cgroup = cgroup;
                    return Ok(manager);
                }
                Err(reason) => reasons.push(format!("{}: {reason}", manager.socket.display())),
            }
        }
        Err(format!("the service manager does not answer: {}", reasons.join("; ")))
    }

    /// As a person calls it.
    pub fn name(&self) -> &'static str {
        match self.kind {
            ManagerKind::System => "the system's service manager",
            ManagerKind::User => "the user's service manager",
        }
    }

    fn ask_for_cgroup(&self) -> std::result::Result<PathBuf, String> {
        let cgroup: String = self.property(OBJECT, INTERFACE, "ControlGroup")?;
        Ok(PathBuf::from(if cgroup.is_empty() { "/".to_owned() } else { cgroup }))
    }

    /// The cgroup of the unit that this process is in, when the unit gives it
    /// away (systemd.resource-control(5), Delegate=).
    pub fn delegated_unit(&self) -> Option<PathBuf> {
        let own = Pid::this().as_raw().unsigned_abs();
        let answer = self.call(OBJECT, (INTERFACE, "GetUnitByPID"), &(own,)).ok()?;
        let unit: OwnedObjectPath = answer.body().deserialize().ok()?;
        // A unit is of one kind; the others have no such property.
        let kind = KINDS.iter().find(|kind| self.property(&unit, kind, "Delegate") == Ok(true))?;
        self.property::<String>(&unit, kind, "ControlGroup").ok().map(PathBuf::from)
    }

    fn property<T>(&self, object: &str, interface: &str, name: &str) -> std::result::Result<T, String>
    where
        T: TryFrom<OwnedValue>,
        T::Error: std::fmt::Display,
    {
        let answer = self.call(object, ("org.freedesktop.DBus.Properties", "Get"), &(interface, name))?;
        let value: OwnedValue = answer.body().deserialize().map_err(|error| error.to_string())?;
        value.try_into().map_err(|error: T::Error| error.to_string())
    }

    /// Starts a scope for a process, with a cgroup that is given away to the
    /// caller (systemd's "Control Group APIs and Delegation"); returns the
    /// cgroup, below the mount of the hierarchy.
    pub fn start_scope(&self, unit: &str, process: Pid, description: &str) -> Result<PathBuf> {
        let step = || format!("start {unit} with {}", self.name());
        let pids = vec![process.as_raw().unsigned_abs()];
        let microseconds = u64::try_from(STOP_TIMEOUT.as_micros()).unwrap_or(u64::MAX);
        let properties = vec![
            ("PIDs", Value::from(pids)),
            ("Description", Value::from(description)),
            ("Delegate", Value::from(true)),
            ("CollectMode", Value::from("inactive-or-failed")),
            // The run has a limit of its own.
            ("TasksMax", Value::from(u64::MAX)),
            ("TimeoutStopUSec", Value::from(microseconds)),
        ];
        let nothing: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        self.call(OBJECT, (INTERFACE, "StartTransientUnit"), &(unit, "fail", properties, nothing)).step(step)?;
        let begun = Instant::now();
        loop {
            let own = own_cgroup(process).step(step)?;
            if own.file_name().is_some_and(|name| name == unit) {
                return Ok(own);
            }
            if begun.elapsed() > MOVED_WITHIN {
                return Err(Error::failed(step())
                    .because(format!("the launcher is still in {} after {} s", own.display(), MOVED_WITHIN.as_secs()))
                    .hint(format!("journalctl -u {unit}")));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// One call. The event loop ends with it, and so does every thread.
    fn call<B>(&self, object: &str, (interface, method): (&str, &str), body: &B) -> std::result::Result<Message, String>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        let runtime = crate::event_loop::start().map_err(|error| error.to_string())?;
        let talk = async {
            let connection = self.connect().await?;
            connection.call_method(Some(NAME), object, Some(interface), method, body).await
        };
        runtime.block_on(in_time(talk))
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_nonblocking(true)?;
        let builder = Builder::unix_stream(tokio::net::UnixStream::from_std(stream)?);
        // The manager's own socket has no bus behind it.
        let builder = if self.socket.ends_with("private") { builder.p2p() } else { builder };
        builder.build().await
    }
}

async fn in_time<T>(talk: impl Future<Output = zbus::Result<T>>) -> std::result::Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, talk).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}
