//! What belljar tells the host's log: records with fields, so that
//! `journalctl BELLJAR_GROUP=sales` finds them; without a journal lines or JSON
//! on stderr. Nothing that is told here is needed for a run: a log that cannot
//! be written never stops one. The record of the gateway and the receipt are
//! files of their own.

mod output;
mod wire;

use std::borrow::Cow;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, printable};
use crate::sys;
pub use output::{Output, stream};
use wire::Socket;

/// How long an event may wait for a journal that does not read.
const EVENT_WITHIN: Duration = Duration::from_millis(200);

/// Says to a run that its descriptor 3 is the host process's log.
const HOST_LOG: &str = "BELLJAR_HOST_LOG";

/// How long a journal that did not read is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// Where events go; `[log] to` of config.toml.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum To {
    /// To the journal, where there is one.
    #[default]
    Auto,
    /// To the journal.
    Journal,
    /// To stderr, a line each.
    Stderr,
    /// To stderr, a JSON object each.
    Json,
    /// Nowhere.
    None,
}

/// How much an event matters (syslog(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Something failed, or was refused.
    Error,
    /// Somebody should look some day.
    Notice,
    /// As it should be.
    Info,
    /// For those who look for something.
    Debug,
}

impl Priority {
    fn digit(self) -> &'static str {
        match self {
            Self::Error => "3",
            Self::Notice => "5",
            Self::Info => "6",
            Self::Debug => "7",
        }
    }
}

#[derive(Debug)]
enum Way {
    Journal(Box<Mutex<Journal>>),
    Lines(Form),
    Nowhere,
}

/// How an event is written where there is no journal.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Json,
}

#[derive(Debug)]
struct Journal {
    socket: Socket,
    /// Events that could not be told.
    lost: u64,
    /// Nothing is sent before: each try holds up who tells.
    again_at: Option<Instant>,
}

/// The log of one run, or of what belljar does outside of one.
#[derive(Debug)]
pub struct Events {
    way: Way,
    run: Option<String>,
    group: Option<String>,
}

impl Events {
    /// Of a run of a group, or of neither.
    pub fn new(to: To, run: Option<&str>, group: Option<&str>) -> Self {
        let way = match to {
            To::Auto | To::Journal => match Socket::open(EVENT_WITHIN) {
                Ok(socket) => Way::Journal(Box::new(Mutex::new(Journal { socket, lost: 0, again_at: None }))),
                Err(_) if to == To::Auto && host_log().is_some() => Way::Lines(Form::Text),
                Err(_) => Way::Nowhere,
            },
            To::Stderr => Way::Lines(Form::Text),
            To::Json => Way::Lines(Form::Json),
            To::None => Way::Nowhere,
        };
        Self { way, run: run.map(str::to_owned), group: group.map(str::to_owned) }
    }

    /// Of the host process, whose stderr is its log where there is no journal.
    pub fn of_host(to: To) -> Self {
        let events = Self::new(to, None, None);
        match (to, &events.way) {
            (To::Auto, Way::Nowhere) => Self::new(To::Stderr, None, None),
            _ => events,
        }
    }

    /// Tells an event. `more` are further fields, without `BELLJAR_`.
    pub fn tell(&self, event: &str, priority: Priority, message: &str, more: &[(&str, Cow<'_, str>)]) {
        let own = [("RUN", self.run.as_deref()), ("GROUP", self.group.as_deref()), ("EVENT", Some(event))];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, Cow::Borrowed(value?))));
        let fields = own.chain(more.iter().cloned());
        match &self.way {
            Way::Journal(journal) => {
                let mut entry = wire::Entry::new(priority.digit(), message.as_bytes());
                fields.for_each(|(name, value)| entry.add(name, value.as_bytes()));
                // A thread that panicked in here has left nothing half done.
                let mut journal = journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if journal.lost > 0 {
                    entry.add("LOST_EVENTS", journal.lost.to_string().as_bytes());
                }
                let mut lost = journal.lost + 1;
                if journal.again_at.is_none_or(|at| Instant::now() >= at) {
                    match journal.socket.send(&entry) {
                        Ok(()) => lost = 0,
                        Err(_) => journal.again_at = Some(Instant::now() + PAUSE),
                    }
                }
                journal.lost = lost;
            }
            Way::Lines(Form::Text) => {
                let fields: String =
                    fields.map(|(name, value)| format!(" {}={}", name.to_lowercase(), one_word(&value))).collect();
                let message = printable(message.strip_prefix("belljar ").unwrap_or(message)).replace('\n', "\\n");
                write_line(&format!("belljar: {message} [{}]", fields.trim_start()));
            }
            Way::Lines(Form::Json) => {
                let mut object: Map<String, Value> =
                    fields.map(|(name, value)| (name.to_lowercase(), Value::from(value.as_ref()))).collect();
                object.insert("message".into(), message.into());
                object.insert("priority".into(), priority.digit().into());
                object.insert("time".into(), jiff::Timestamp::now().to_string().into());
                write_line(&Value::Object(object).to_string());
            }
            Way::Nowhere => {}
        }
    }

    /// Tells that something was refused, or failed, in the error's own words.
    pub fn tell_error(&self, event: &str, error: &Error) {
        let mut more: Vec<(&str, Cow<'_, str>)> = vec![("EXIT_CODE", error.exit_code().to_string().into())];
        if let Some(hint) = &error.hint {
            more.push(("HINT", hint.as_str().into()));
        }
        self.tell(event, Priority::Error, &error.with_causes(), &more);
    }
}

/// Gives a `belljar run` below the host process that one's log: what the run says
/// on stderr is taken for the agent's there.
pub fn give_log(command: &mut Command) -> std::io::Result<()> {
    sys::pass_as_descriptor_3(command, std::io::stderr().as_fd().try_clone_to_owned()?);
    command.env(HOST_LOG, "3");
    Ok(())
}

/// What [`give_log`] gave.
fn host_log() -> Option<&'static File> {
    static LOG: OnceLock<Option<File>> = OnceLock::new();
    let take = || std::env::var_os(HOST_LOG).and_then(|_| sys::take_descriptor_3()).map(File::from);
    LOG.get_or_init(take).as_ref()
}

/// In one write, so that lines of several processes do not mix.
fn write_line(line: &str) {
    let line = format!("{line}\n");
    let _ = match host_log() {
        Some(mut log) => log.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// A value that ends where its next blank is: in quotes, with JSON's escapes, where
/// it could be taken for another field or the line's end.
fn one_word(value: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !"\"\\[]".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) && printable(value) == value {
        return value.to_owned();
    }
    printable(&Value::from(value).to_string())
}
