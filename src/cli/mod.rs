//! The command line: one file a command. This room parses, calls the others and
//! prints; it decides nothing.

mod approvals;
mod approve;
mod bundle;
mod channel;
mod demo;
mod deny;
mod doctor;
mod explain;
mod group;
mod image;
mod log;
mod mounts;
mod options;
mod policy;
mod ps;
mod rows;
mod run;
mod secret;
mod send;
mod serve;
mod show;
mod stop;
mod systemd;
mod task;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Caller, Dirs};
use crate::error::{Error, Result};

/// Run an AI agent on a Linux box as if it were a stranger's program.
///
/// Each run gets one OCI bundle, built for that run and thrown away after it:
/// explicit mounts and nothing else, uid 1000, no capabilities, a seccomp
/// filter, a read-only root, and secrets shadowed by /dev/null. The kernel's
/// view of the container is compared with the plan before the agent's first
/// instruction.
#[derive(Debug, Parser)]
#[command(name = "belljar", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Explain(explain::Arguments),
    Bundle(bundle::Arguments),
    Doctor(doctor::Arguments),
    Demo(demo::Arguments),
    Group(group::Arguments),
    Image(image::Arguments),
    Mounts(mounts::Arguments),
    Policy(policy::Arguments),
    Secret(secret::Arguments),
    Ps(ps::Arguments),
    Stop(stop::Arguments),
    Show(show::Arguments),
    Log(log::Arguments),
    Approvals(approvals::Arguments),
    Approve(approve::Arguments),
    Deny(deny::Arguments),
    Serve(serve::Arguments),
    Send(send::Arguments),
    Task(task::Arguments),
    Channel(channel::Arguments),
    Systemd(systemd::Arguments),
}

/// Parses the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.execute() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

impl Cli {
    fn execute(self) -> Result<u8> {
        match self.command {
            Command::Run(arguments) => arguments.execute(),
            Command::Explain(arguments) => arguments.execute(),
            Command::Bundle(arguments) => arguments.execute(),
            Command::Doctor(arguments) => arguments.execute(),
            Command::Demo(arguments) => arguments.execute(),
            Command::Group(arguments) => arguments.execute(),
            Command::Image(arguments) => arguments.execute(),
            Command::Mounts(arguments) => arguments.execute(),
            Command::Policy(arguments) => arguments.execute(),
            Command::Secret(arguments) => arguments.execute(),
            Command::Ps(arguments) => arguments.execute(),
            Command::Stop(arguments) => arguments.execute(),
            Command::Show(arguments) => arguments.execute(),
            Command::Log(arguments) => arguments.execute(),
            Command::Approvals(arguments) => arguments.execute(),
            Command::Approve(arguments) => arguments.execute(),
            Command::Deny(arguments) => arguments.execute(),
            Command::Serve(arguments) => arguments.execute(),
            Command::Send(arguments) => arguments.execute(),
            Command::Task(arguments) => arguments.execute(),
            Command::Channel(arguments) => arguments.execute(),
            Command::Systemd(arguments) => arguments.execute(),
        }
    }
}

/// Who called, and where things lie.
fn surroundings() -> Result<(Caller, Dirs)> {
    let caller = Caller::current()?;
    let dirs = Dirs::resolve(&caller)?;
    Ok((caller, dirs))
}

/// Who decides, for those who look later.
fn person() -> String {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// Prints to stdout; a reader that has gone is not an error.
fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failed("write to stdout").because(error))
        }
        _ => Ok(()),
    }
}
