//! What was typed, with nothing resolved.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::ImagePlace;
use crate::config::Backend;
use crate::error::{Error, Result};

/// What was typed.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `--group`.
    pub group: String,
    /// `--project`.
    pub project: Option<ProjectArgument>,
    /// `--mount`, in order.
    pub mounts: Vec<MountArgument>,
    /// `--env`, in order: `KEY=VALUE`, or `KEY` alone for the caller's value.
    pub environment: Vec<String>,
    /// `--rootfs`.
    pub rootfs: Option<String>,
    /// `--image`.
    pub image: Option<String>,
    /// `--writable-root`.
    pub writable_root: bool,
    /// `--backend`.
    pub backend: Option<Backend>,
    /// Where the image was when the run was asked for.
    pub image_place: ImagePlace,
    /// `--runtime`.
    pub runtime: Option<String>,
    /// `--egress`.
    pub egress: Option<EgressMode>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--memory`, in bytes.
    pub memory: Option<u64>,
    /// `--cpus`.
    pub cpus: Option<f64>,
    /// `--pids`.
    pub pids: Option<u64>,
    /// `--io`, in bytes per second.
    pub io: Option<u64>,
    /// `--disk`, in bytes.
    pub disk: Option<u64>,
    /// `--output-limit`, in bytes.
    pub output_limit: Option<u64>,
    /// Whether the agent gets a terminal.
    pub terminal: bool,
    /// `--workdir`.
    pub workdir: Option<String>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The command where nothing names one: to show a plan needs none.
    pub example: Vec<String>,
    /// The run is for a unit of the host's manager, which gives its cgroup away.
    pub of_unit: bool,
}

/// How a directory is given to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read-only.
    ReadOnly,
    /// Read-write.
    ReadWrite,
}

/// `--project DIR[:ro|:rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectArgument {
    /// The directory as typed.
    pub directory: String,
    /// The access; read-only unless asked for.
    pub access: Access,
}

impl FromStr for ProjectArgument {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (directory, access) = match text.rsplit_once(':') {
            Some((directory, "ro")) => (directory, Access::ReadOnly),
            Some((directory, "rw")) => (directory, Access::ReadWrite),
            Some(_) => {
                return Err(Error::usage(format!("--project {text}: after the colon comes ro or rw"))
                    .hint("a directory with a colon in its name cannot be mounted"));
            }
            None => (text, Access::ReadOnly),
        };
        if directory.is_empty() {
            return Err(Error::usage("--project: the directory is empty"));
        }
        Ok(Self { directory: directory.to_owned(), access })
    }
}

/// `--mount SRC[:DST][:ro|:rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountArgument {
    /// The path on the host as typed.
    pub source: String,
    /// The path below /workspace/extra; the source's last name when absent.
    pub target: Option<String>,
    /// The access; read-only unless asked for.
    pub access: Access,
}

impl FromStr for MountArgument {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts: Vec<&str> = text.split(':').collect();
        let access = match parts.last() {
            Some(&"rw") if parts.len() > 1 => Some(Access::ReadWrite),
            Some(&"ro") if parts.len() > 1 => Some(Access::ReadOnly),
            _ => None,
        };
        if access.is_some() {
            parts.pop();
        }
        let (source, target) = match parts.as_slice() {
            [source] => (*source, None),
            [source, target] => (*source, Some((*target).to_owned())),
            _ => {
                return Err(Error::usage(format!("--mount {text}: too many colons"))
                    .hint("the form is SRC[:DST][:ro|:rw]; a path with a colon cannot be mounted"));
            }
        };
        if source.is_empty() {
            return Err(Error::usage(format!("--mount {text}: the source is empty")));
        }
        Ok(Self { source: source.to_owned(), target, access: access.unwrap_or(Access::ReadOnly) })
    }
}

/// How a run reaches the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressMode {
    /// Only through belljar's gateway.
    #[default]
    Gateway,
    /// Not at all.
    None,
    /// By the gateway, and by a network of the run's own beside it.
    Open,
}

impl EgressMode {
    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::None => "none",
            Self::Open => "open",
        }
    }
}

impl FromStr for EgressMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "gateway" => Ok(Self::Gateway),
            "none" => Ok(Self::None),
            "open" => Ok(Self::Open),
            other => Err(Error::usage(format!("egress `{other}` is not known: gateway, open or none"))),
        }
    }
}
