//! The options that run, explain and bundle share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::backend::ImagePlace;
use crate::config::{Backend, MAIN, start_over_as};
use crate::error::{Error, Result};
use crate::launch::caller_has_terminal;
use crate::plan::{
    Access, EgressMode, MountArgument, ProjectArgument, Request, parse_cpus, parse_duration, parse_rate, parse_size,
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
    /// Whose agent it is.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// What was typed. Becomes another user first, where that was asked for.
    pub fn request(self) -> Result<Request> {
        if let Some(name) = &self.as_user {
            let passed_on = self.environment.iter().filter(|variable| !variable.contains('=')).cloned();
            start_over_as(name, &passed_on.collect::<Vec<_>>())?;
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            return Err(
                Error::refused("the command holds a NUL byte").hint("leave it out: no command line can hold one")
            );
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
            of_unit: false,
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

impl PlanOptions {
    /// The user named by `--as-user`, who is not become.
    pub fn take_user(&mut self) -> Option<String> {
        self.as_user.take()
    }

    /// Whether a command or a group was typed.
    pub fn names_a_run(&self) -> bool {
        !self.command.is_empty() || self.group != MAIN
    }

    /// The same options for a call from somewhere else, without a caller's
    /// environment and terminal: what is relative is below `base`.
    pub fn in_unit(self, base: &Path) -> Result<Vec<String>> {
        // All of them, so that a new one is not forgotten.
        let Self {
            group,
            project,
            mounts,
            environment,
            rootfs,
            image,
            writable_root,
            backend,
            runtime,
            egress,
            timeout,
            memory,
            cpus,
            pids,
            io,
            disk,
            output_limit,
            tty,
            no_tty: _,
            workdir,
            as_user: _,
            command,
        } = self;
        if tty {
            return Err(Error::usage("--tty: a unit has no terminal").hint("leave it away"));
        }
        if let Some(name) = environment.iter().find(|variable| !variable.contains('=')) {
            return Err(Error::usage(format!("--env {name}: a unit has no caller whose variable could be passed on"))
                .hint(format!("--env {name}=VALUE; a credential: belljar secret add NAME --env {name}")));
        }
        let mut words: Vec<String> = Vec::new();
        let mut add = |option: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("{option}={value}")));
        };
        let project = match project {
            None if group == MAIN => Some(format!("{}:ro", text_of(base)?)),
            None => None,
            Some(given) => Some(format!("{}{}", from_base(base, &given.directory)?, suffix(given.access))),
        };
        add("--group", Some(group));
        add("--project", project);
        for mount in mounts {
            let source = from_base(base, &mount.source)?;
            let target = mount.target.map_or(String::new(), |target| format!(":{target}"));
            add("--mount", Some(format!("{source}{target}{}", suffix(mount.access))));
        }
        environment.into_iter().for_each(|variable| add("--env", Some(variable)));
        let is_directory = |root: &String| root != "host";
        let rootfs = match rootfs.filter(is_directory) {
            Some(directory) => Some(from_base(base, &directory)?),
            None => None,
        };
        add("--rootfs", rootfs);
        add("--image", image);
        add("--backend", backend.and_then(|backend| Some(backend.to_possible_value()?.get_name().to_owned())));
        let runtime = match runtime {
            Some(path) if path.contains('/') => Some(from_base(base, &path)?),
            name => name,
        };
        add("--runtime", runtime);
        add("--egress", egress.map(|mode| mode.name().to_owned()));
        add("--timeout", timeout.map(|time| humantime::format_duration(time).to_string().replace(' ', "")));
        add("--memory", memory.map(|bytes| bytes.to_string()));
        add("--cpus", cpus.map(|cpus| cpus.to_string()));
        add("--pids", pids.map(|pids| pids.to_string()));
        add("--io", io.map(|bytes| bytes.to_string()));
        add("--disk", disk.map(|bytes| bytes.to_string()));
        add("--output-limit", output_limit.map(|bytes| bytes.to_string()));
        add("--workdir", workdir);
        if writable_root {
            words.push("--writable-root".to_owned());
        }
        if !command.is_empty() {
            words.push("--".to_owned());
            words.extend(command);
        }
        Ok(words)
    }
}

fn suffix(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => ":ro",
        Access::ReadWrite => ":rw",
    }
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::refused(format!("{} is not valid UTF-8", path.display())).hint("mv it"))
}

/// A typed path from anywhere; `~` stays what it is for the run.
fn from_base(base: &Path, typed: &str) -> Result<String> {
    if typed.starts_with('~') || typed.starts_with('/') {
        return Ok(typed.to_owned());
    }
    let whole: PathBuf = base.join(typed).components().collect();
    text_of(&whole).map(str::to_owned)
}
