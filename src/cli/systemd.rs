//! `belljar systemd`.

use std::env;

use clap::{Args, Subcommand};

use super::options::PlanOptions;
use super::{print, surroundings};
use crate::error::{Context, Error, Result};
use crate::systemd::install::{Installation, Job, Wanted};
use crate::systemd::unit::{Force, Schedule, Scope, check_calendar, check_name};

/// More than systemd can count is ignored there (systemd.time(7)); nobody means it.
const LONGEST_DELAY: std::time::Duration = std::time::Duration::from_secs(366 * 24 * 3600);

/// Write systemd units: for the host process, for runs of groups, for named jobs and their timers.
///
/// The units are hardened, say why each directive is there, and are told apart
/// from those that somebody else has written or changed. What you put into
/// drop-ins (systemctl edit) stays.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Install(Install),
    Remove(Remove),
    Unit(Unit),
    Timer(Timer),
}

#[derive(Debug, Args)]
struct Place {
    /// Units of your own service manager [default, but for root]
    #[arg(long, conflicts_with = "system")]
    user: bool,
    /// Units of the host's service manager [default for root]
    #[arg(long)]
    system: bool,
    /// Show what would be written; nothing is done
    #[arg(long)]
    dry_run: bool,
    /// Write over units of belljar's that were changed by hand, or remove them
    #[arg(long)]
    force: bool,
    /// Write the units only; nothing is enabled or started
    #[arg(long)]
    no_enable: bool,
}

/// Write the host process (belljar.service, belljar.socket) and the template for runs (belljar@GROUP.service).
///
/// The socket is enabled: the host process starts when it is spoken to. `systemctl
/// --user start belljar@sales` runs the command of [group.sales] in config.toml.
#[derive(Debug, Args)]
struct Install {
    #[command(flatten)]
    place: Place,
    /// The user that units of the host's service manager run as [default: root]
    #[arg(long, value_name = "NAME")]
    as_user: Option<String>,
    /// Move the vault's master key out of its file into an encrypted credential of systemd
    #[arg(long)]
    encrypt_key: bool,
}

/// Remove what install, unit and timer wrote; drop-ins stay.
#[derive(Debug, Args)]
struct Remove {
    #[command(flatten)]
    place: Place,
    /// A job and its timer [default: the host process and the template]
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    name: Option<String>,
    /// The host process, the template, and every job
    #[arg(long)]
    all: bool,
}

/// Write a unit for a named job, belljar-NAME.service: one run with these options.
///
/// The run is planned first, as the unit will do it; a run that would be refused
/// is refused here.
#[derive(Debug, Args)]
struct Unit {
    #[command(flatten)]
    place: Place,
    /// The job's name
    #[arg(long, value_name = "NAME")]
    name: String,
    #[command(flatten)]
    options: PlanOptions,
}

/// Write a timer for a named job, and the job too when a command is given; the timer is enabled.
#[derive(Debug, Args)]
struct Timer {
    #[command(flatten)]
    place: Place,
    /// The job's name
    #[arg(long, value_name = "NAME")]
    name: String,
    /// When, as systemd.time(7) has it, for example `Mon..Fri 03:00`; may be repeated
    #[arg(long, value_name = "TIME", required = true)]
    on_calendar: Vec<String>,
    /// Make up for what was missed while the machine was off
    #[arg(long)]
    persistent: bool,
    /// Wait up to this long, each time anew, for example 30m
    #[arg(long, value_name = "TIME", value_parser = crate::plan::parse_duration)]
    randomized_delay: Option<std::time::Duration>,
    #[command(flatten)]
    options: PlanOptions,
}

impl Arguments {
    /// Writes or removes, and says what was done.
    pub fn execute(self) -> Result<u8> {
        let done = match self.command {
            Command::Install(arguments) => arguments.execute(),
            Command::Remove(arguments) => arguments.execute(),
            Command::Unit(arguments) => arguments.execute(),
            Command::Timer(arguments) => arguments.execute(),
        };
        print(&done?)?;
        Ok(0)
    }
}

impl Place {
    fn installation(&self, user: Option<String>) -> Result<Installation> {
        let (caller, dirs) = surroundings()?;
        let scope = match (self.user, self.system) {
            (true, _) => Scope::User,
            (_, true) => Scope::System,
            _ if caller.uid == 0 => Scope::System,
            _ => Scope::User,
        };
        let wanted = match (self.dry_run, self.no_enable) {
            (true, _) => Wanted::Shown,
            (false, true) => Wanted::Written,
            (false, false) => Wanted::Enabled,
        };
        let force = if self.force { Force::Yes } else { Force::No };
        Installation::new(scope, user, (wanted, force), (caller, dirs))
    }
}

impl Install {
    fn execute(self) -> Result<String> {
        let installation = self.place.installation(self.as_user)?;
        if self.encrypt_key { installation.install_with_key() } else { installation.install() }
    }
}

impl Remove {
    fn execute(self) -> Result<String> {
        let installation = self.place.installation(None)?;
        match &self.name {
            Some(name) => {
                check_name(name)?;
                installation.remove_job(name)
            }
            None if self.all => installation.remove_all(),
            None => installation.remove(),
        }
    }
}

impl Unit {
    fn execute(mut self) -> Result<String> {
        check_name(&self.name)?;
        let installation = self.place.installation(self.options.take_user())?;
        let job = Job { name: self.name, run: Some(in_unit(self.options)?), schedule: None };
        installation.write_job(&job)
    }
}

impl Timer {
    fn execute(mut self) -> Result<String> {
        check_name(&self.name)?;
        self.on_calendar.iter().try_for_each(|calendar| check_calendar(calendar))?;
        let schedule = Schedule {
            calendar: self.on_calendar,
            persistent: self.persistent,
            randomized_delay: self.randomized_delay.map(|delay| delay.as_secs().max(1)),
        };
        if let Some(delay) = self.randomized_delay.filter(|delay| *delay > LONGEST_DELAY) {
            return Err(Error::usage(format!("--randomized-delay of {} s: more than a year", delay.as_secs()))
                .hint("for example --randomized-delay 30m"));
        }
        let installation = self.place.installation(self.options.take_user())?;
        // Without a run of its own it is for a job that is there.
        let run = match self.options.names_a_run() {
            false if installation.has_job(&self.name) => None,
            _ => Some(in_unit(self.options)?),
        };
        installation.write_job(&Job { name: self.name, run, schedule: Some(schedule) })
    }
}

fn in_unit(options: PlanOptions) -> Result<Vec<String>> {
    let base = env::current_dir().refuse(|| "read the current directory".to_owned())?;
    let words = options.in_unit(&base)?;
    if words.iter().any(|word| word.contains('\0')) {
        return Err(Error::refused("an argument holds a NUL byte"));
    }
    Ok(words)
}
