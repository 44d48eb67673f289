//! `config.toml`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::read_own;
use crate::error::{Error, Result};
use crate::plan::{EgressMode, parse_cpus, parse_duration, parse_size};

/// `config.toml`, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[run]`: defaults of the run options.
    #[serde(default)]
    pub run: RunConfig,
    /// `[limits]`: defaults of the limits.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// `[gateway]`: how the gateway works.
    #[serde(default)]
    pub gateway: GatewayConfig,
    /// `[vault]`: where secrets come from.
    #[serde(default)]
    pub vault: VaultConfig,
    /// `[log]`: where belljar says what happens.
    #[serde(default)]
    pub log: LogConfig,
    /// `[host]`: how the host process works.
    #[serde(default)]
    pub host: HostConfig,
    /// `[channel.NAME]`: programs that connect chat networks.
    #[serde(default)]
    pub channel: BTreeMap<String, ChannelConfig>,
    /// `[group.NAME]`: what differs for a group.
    #[serde(default)]
    pub group: BTreeMap<String, GroupConfig>,
}

/// Defaults of the run options.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// `--backend`.
    pub backend: Option<Backend>,
    /// `--runtime`.
    pub runtime: Option<String>,
    /// `--rootfs`.
    pub rootfs: Option<String>,
    /// `--image`.
    pub image: Option<String>,
    /// `--writable-root`.
    pub writable_root: Option<bool>,
    /// `--egress`.
    pub egress: Option<EgressMode>,
}

/// Who makes the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The one that suffices: crun, or podman where the root is an image that only podman has.
    #[default]
    Auto,
    /// An OCI runtime, called by belljar itself: crun, or what --runtime names.
    Crun,
    /// podman.
    Podman,
}

/// Defaults of the limits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// `--timeout`.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// `--memory`, in bytes.
    #[serde(default, deserialize_with = "size")]
    pub memory: Option<u64>,
    /// `--cpus`.
    #[serde(default, deserialize_with = "cpus")]
    pub cpus: Option<f64>,
    /// `--pids`.
    pub pids: Option<u64>,
    /// `--io`, in bytes per second.
    #[serde(default, deserialize_with = "size")]
    pub io: Option<u64>,
    /// `--disk`, in bytes.
    #[serde(default, deserialize_with = "size")]
    pub disk: Option<u64>,
    /// `--output-limit`, in bytes.
    #[serde(default, deserialize_with = "size")]
    pub output_limit: Option<u64>,
    /// What happens when a limit cannot be enforced.
    pub enforce: Option<Enforce>,
}

/// What happens when a limit that was asked for cannot be enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforce {
    /// The run is refused.
    #[default]
    Strict,
    /// The run goes on; plan and receipt say which limits are not in force.
    BestEffort,
}

/// Where belljar says what happens.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The journal where there is one, unless set.
    #[serde(default)]
    pub to: crate::journal::To,
}

/// How the gateway works.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// PEM files with certificates that the gateway and the agent trust beside
    /// the platform's.
    #[serde(default)]
    pub extra_roots: Vec<String>,
    /// When TLS is opened.
    #[serde(default)]
    pub inspect: Inspect,
    /// How long a held request waits for a person; 180 s unless set.
    #[serde(default, deserialize_with = "duration")]
    pub approval_timeout: Option<Duration>,
    /// Called for each held request, with JSON on stdin; no shell.
    #[serde(default)]
    pub approval_command: Vec<String>,
    /// Name lookup and TCP connect; 10 s unless set.
    #[serde(default, deserialize_with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// TLS handshake, on either side; 10 s unless set.
    #[serde(default, deserialize_with = "duration")]
    pub tls_timeout: Option<Duration>,
    /// The agent's request headers; 30 s unless set.
    #[serde(default, deserialize_with = "duration")]
    pub header_timeout: Option<Duration>,
    /// The origin's response headers; 10 min unless set.
    #[serde(default, deserialize_with = "duration")]
    pub response_timeout: Option<Duration>,
    /// A kept connection without a request; 90 s unless set.
    #[serde(default, deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    /// Connections of a run that are served at once; 128 unless set.
    pub connections: Option<usize>,
}

/// When TLS is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inspect {
    /// When a rule or a secret could be passed by otherwise.
    #[default]
    Needed,
    /// Always.
    All,
}

/// Where secrets come from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// Whose vault.
    #[serde(default)]
    pub provider: Provider,
    /// OneCLI: its address, `http://127.0.0.1:10254`.
    pub url: Option<String>,
    /// OneCLI: the file with the API key.
    pub api_key_file: Option<String>,
    /// Where the master key comes from.
    #[serde(default)]
    pub key: KeySource,
    /// The key file, when it is not `vault.key` in the configuration directory.
    pub key_file: Option<String>,
    /// The file with the passphrase; asked for when absent.
    pub passphrase_file: Option<String>,
}

/// Whose vault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// belljar's own.
    #[default]
    Builtin,
    /// A OneCLI Agent Vault.
    Onecli,
}

/// Where the master key comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySource {
    /// A file with mode 0600.
    #[default]
    File,
    /// The credential `belljar.key` of the systemd unit.
    Systemd,
    /// A passphrase.
    Passphrase,
}

/// What differs for a group.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// `backend`.
    pub backend: Option<Backend>,
    /// `runtime`.
    pub runtime: Option<String>,
    /// `rootfs`.
    pub rootfs: Option<String>,
    /// `image`.
    pub image: Option<String>,
    /// `writable_root`.
    pub writable_root: Option<bool>,
    /// `egress`.
    pub egress: Option<EgressMode>,
    /// `timeout`.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// `memory`.
    #[serde(default, deserialize_with = "size")]
    pub memory: Option<u64>,
    /// `cpus`.
    #[serde(default, deserialize_with = "cpus")]
    pub cpus: Option<f64>,
    /// `pids`.
    pub pids: Option<u64>,
    /// `io`.
    #[serde(default, deserialize_with = "size")]
    pub io: Option<u64>,
    /// `disk`.
    #[serde(default, deserialize_with = "size")]
    pub disk: Option<u64>,
    /// `output_limit`.
    #[serde(default, deserialize_with = "size")]
    pub output_limit: Option<u64>,
    /// `enforce`.
    pub enforce: Option<Enforce>,
    /// `--project`, for main, where no `--project` is typed.
    pub project: Option<String>,
    /// Directories and files of the host for this group.
    #[serde(default)]
    pub mounts: Vec<ConfiguredMount>,
    /// The command when none is typed.
    pub command: Option<Vec<String>>,
    /// How the host process speaks with the command.
    pub agent: Option<AgentKind>,
}

/// How the host process speaks with an agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentKind {
    /// Claude Code, by its streams of JSON. With no command: `claude -p …`.
    #[default]
    Claude,
    /// A NanoClaw agent runner: one JSON on stdin, results between markers.
    Nanoclaw,
    /// Anything: the prompt on stdin, the answer on stdout.
    Script,
}

/// How the host process works.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// What the assistant is called, and how messages begin that wake it; `belljar` unless set.
    #[serde(default, deserialize_with = "one_name")]
    pub assistant: Option<String>,
    /// The time zone of schedules (IANA); the host's unless set.
    #[serde(default, deserialize_with = "zone")]
    pub time_zone: Option<String>,
    /// How long an agent that has answered waits for more; 60 s unless set.
    #[serde(default, deserialize_with = "duration")]
    pub idle_close: Option<Duration>,
    /// How long an agent may take for one answer; 30 min unless set.
    #[serde(default, deserialize_with = "duration")]
    pub turn_timeout: Option<Duration>,
    /// The wait after a first failure, doubled after each further one; 5 s unless set.
    #[serde(default, deserialize_with = "duration")]
    pub retry: Option<Duration>,
}

impl HostConfig {
    /// What the assistant is called.
    pub fn assistant(&self) -> &str {
        self.assistant.as_deref().unwrap_or("belljar")
    }

    /// The time zone of schedules, and of the times that agents read.
    pub fn zone(&self) -> String {
        self.time_zone.clone().unwrap_or_else(crate::schedule::host_zone)
    }

    /// How a message begins that wakes the agent, where nothing else is said.
    pub fn trigger(&self) -> String {
        format!("@{}", self.assistant())
    }
}

/// A program that connects a chat network: docs/channels.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// Program and arguments; no shell. `belljar` is this program.
    pub command: Vec<String>,
}

/// A mount of `[group.NAME]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredMount {
    /// The path on the host; `~` is the caller's home.
    pub host: String,
    /// The path below /workspace/extra; the source's last name when absent.
    pub container: Option<String>,
    /// Read-only unless said otherwise.
    #[serde(default = "yes")]
    pub readonly: bool,
}

fn yes() -> bool {
    true
}

fn parsed<'de, D, T>(from: D, parse: fn(&str) -> Result<T>) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(from)?;
    parse(&text).map(Some).map_err(|error| serde::de::Error::custom(error.what))
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parsed(from, parse_duration)
}

fn one_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    parsed(from, |text| match text.trim().is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
        true => Err(Error::refused("a name has 1 to 64 bytes, none of them a control character")),
        false => Ok(text.to_owned()),
    })
}

fn zone<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    parsed(from, |text| match jiff::tz::TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Error::refused(error.to_string())),
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText<N> {
    Number(N),
    Text(String),
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match NumberOrText::deserialize(from)? {
        NumberOrText::Number(bytes) => Ok(Some(bytes)),
        NumberOrText::Text(text) => parse_size(&text).map(Some).map_err(|error| serde::de::Error::custom(error.what)),
    }
}

fn cpus<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let text = match NumberOrText::<f64>::deserialize(from)? {
        NumberOrText::Number(cpus) => cpus.to_string(),
        NumberOrText::Text(text) => text,
    };
    parse_cpus(&text).map(Some).map_err(|error| serde::de::Error::custom(error.what))
}

impl Config {
    /// Reads the file; a missing one is the empty configuration. An invalid one
    /// is refused, with line and reason.
    pub fn load(path: &Path) -> Result<Self> {
        let Some(text) = read_own(path)? else {
            return Ok(Self::default());
        };
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::refused(format!("{}:{line}: {}", path.display(), error.message()))
                .hint(format!("mend line {line} of {}", path.display()))
        })
    }

    /// What differs for `group`, or nothing.
    pub fn for_group(&self, group: &str) -> GroupConfig {
        self.group.get(group).cloned().unwrap_or_default()
    }
}
