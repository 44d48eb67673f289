//! The options that run, explain and bundle share.

use std::time::Duration;

use clap::Args;

use crate::backend::ImagePlace;
use crate::config::{Backend, MAIN, start_over_as};
use crate::error::{Error, Result};
use crate::launch::caller_has_terminal;
use crate::plan::{
    EgressMode, MountArgument, ProjectArgument, Request, parse_cpus, parse_duration, parse_rate, parse_size,
};

/// What is to be run, and under which restrictions.
#[derive(Debug, Clone, Args)]
pub struct PlanOptions {
    /// Group whose agent it is; only main is trusted
    #[arg(short, long, value_name = "NAME", default_value = MAIN)]
    group: String,
    /// Project directory at /workspace/project, read-only unless :rw [default: the current directory, for main]
    #[arg(long, value_name = "DIR[:ro|:rw]")]
    project: Option<ProjectArgument>,
    /// Mount a path that the allowlist allows at /workspace/extra/DST
    #[arg(short, long = "mount", value_name = "SRC[:DST][:ro|:rw]")]
    mounts: Vec<MountArgument>,
    /// Set a variable, or pass the caller's on
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    environment: Vec<String>,
    /// Root filesystem: the host's /usr, or an unpacked directory [default: host]
    #[arg(long, value_name = "host|DIR")]
    rootfs: Option<String>,
    /// Root filesystem: an image's
    #[arg(long, value_name = "REF", conflicts_with = "rootfs")]
    image: Option<String>,
    /// Let the agent write in the root, into a layer that is thrown away
    #[arg(long)]
    writable_root: bool,
    /// Who makes the container [default: auto]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<Backend>,
    /// OCI runtime with crun's command line [default: crun]
    #[arg(long, value_name = "PATH")]
    runtime: Option<String>,
    /// How the run reaches the network: gateway, open or none [default: gateway]
    #[arg(long, value_name = "MODE")]
    egress: Option<EgressMode>,
    /// End the run after this time, with exit code 124
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Memory of the whole run, for example 2g
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// CPUs of the whole run, for example 1.5
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    cpus: Option<f64>,
    /// Processes and threads [default: 4096]
    #[arg(long, value_name = "NUMBER")]
    pids: Option<u64>,
    /// Bytes per second read from each disk, and as many written to it, for example 20m
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    io: Option<u64>,
    /// End the run when it has filled the disk by this much, for example 10g
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk: Option<u64>,
    /// End the run when it has written this much to its output, for example 64m
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    output_limit: Option<u64>,
    /// Give the agent a terminal [default: as the caller's]
    #[arg(short, long, overrides_with = "no_tty")]
    tty: bool,
    /// Give the agent no terminal
    #[arg(short = 'T', long, overrides_with = "tty")]
    no_tty: bool,
    /// Working directory inside [default: /workspace/group]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// As which user, for host root: everything is done with that user's rights
    #[arg(long, value_name = "NAME")]
    as_user: Option<String>,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl PlanOptions {
    /// What was typed. Becomes another user first, where that was asked for.
    pub fn request(self) -> Result<Request> {
        if let Some(name) = &self.as_user {
            let passed_on = self.environment.iter().filter(|variable| !variable.contains('=')).cloned();
            start_over_as(name, &passed_on.collect::<Vec<_>>())?;
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            return Err(Error::refused("the command holds a NUL byte"));
        }
        Ok(Request {
            group: self.group,
            project: self.project,
            mounts: self.mounts,
            environment: self.environment,
            rootfs: self.rootfs,
            image: self.image,
            writable_root: self.writable_root,
            backend: self.backend,
            image_place: ImagePlace::Cache,
            example: Vec::new(),
            runtime: self.runtime,
            egress: self.egress,
            timeout: self.timeout,
            memory: self.memory,
            cpus: self.cpus,
            pids: self.pids,
            io: self.io,
            disk: self.disk,
            output_limit: self.output_limit,
            terminal: self.tty || (!self.no_tty && caller_has_terminal()),
            workdir: self.workdir,
            command: self.command,
        })
    }
}
