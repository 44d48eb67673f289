//! Installing and removing units: all that can be refused is, then files are
//! written, then the manager is told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::unistd::User;

use super::job::{is_in_shared_tmp, make_places, needs_of_configuration, needs_of_run, own_places};
use super::unit::{self, Change, Control, Force, Needs, Planned, Schedule, Scope, Setting};
use crate::config::{Caller, Config, Dirs, KeySource, MAIN};
use crate::error::{Context, Error, Result};
use crate::vault::{credential_file, hand_over};

/// PATH of an ordinary user who logs in (Debian's /etc/profile, ENV_PATH of login.defs(5)).
const LOGIN_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";
/// The first version whose user managers decrypt credentials (systemd issue 35913).
const DECRYPTS_FOR_USERS: u32 = 258;

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Show what would be written.
    Shown,
    /// Write it, and tell the manager if it is there.
    Written,
    /// Enable what is to start by itself, too.
    Enabled,
}

/// A named job.
#[derive(Debug)]
pub struct Job {
    /// Its name, checked.
    pub name: String,
    /// Options and command of its run; `None` leaves its unit as it is.
    pub run: Option<Vec<String>>,
    /// Its timer.
    pub schedule: Option<Schedule>,
}

/// Where units are written to and for whom.
#[derive(Debug)]
pub struct Installation {
    scope: Scope,
    user: Option<User>,
    wanted: Wanted,
    force: Force,
    caller: Caller,
    dirs: Dirs,
    directory: PathBuf,
    control: Control,
}

impl Installation {
    /// Checks who may write where.
    pub fn new(
        scope: Scope,
        user: Option<String>,
        (wanted, force): (Wanted, Force),
        (caller, dirs): (Caller, Dirs),
    ) -> Result<Self> {
        let user = match &user {
            None => None,
            Some(name) if scope == Scope::User => {
                return Err(Error::usage("--as-user is for units of the host's service manager")
                    .hint(format!("sudo belljar systemd install --system --as-user {name}")));
            }
            Some(name) => {
                let found = User::from_name(name).step(|| format!("look up user {name}"))?;
                Some(found.ok_or_else(|| {
                    Error::refused(format!("--as-user {name}: there is no such user")).hint("getent passwd")
                })?)
            }
        };
        if scope == Scope::System && caller.uid != 0 && wanted != Wanted::Shown {
            return Err(Error::refused("units of the host's service manager are root's to write")
                .hint("sudo belljar systemd install --system --as-user $USER    (or unit, or timer); or --user, for your own service manager"));
        }
        let (directory, control) = (scope.directory(&caller), Control::new(scope, &caller));
        if wanted == Wanted::Enabled && !control.answers() {
            let hint = match scope {
                Scope::User => format!(
                    "sudo loginctl enable-linger {0}, so that your service manager runs; or add --no-enable",
                    caller.uid
                ),
                Scope::System => "add --no-enable, to write the units only".to_owned(),
            };
            return Err(
                Error::refused(format!("systemctl {}: the service manager does not answer", scope.option())).hint(hint)
            );
        }
        Ok(Self { scope, user, wanted, force, caller, dirs, directory, control })
    }

    fn setting(&self, needs: Needs) -> Result<Setting> {
        let program = std::env::current_exe().step(|| "find belljar's own file".to_owned())?;
        let needs = Needs { shared_tmp: needs.shared_tmp || is_in_shared_tmp(&program), ..needs };
        let setting = Setting {
            scope: self.scope,
            user: self.user.as_ref().map(|user| user.name.clone()),
            places: own_places(self.user.as_ref(), &self.dirs),
            program,
            environment: self.environment()?,
            needs,
            manual: unit::find_manual(),
            credential: self.credential()?,
        };
        setting.check()?;
        Ok(setting)
    }

    /// The variables that decide what belljar finds where, as they are now: a
    /// service manager has its own PATH, and knows nothing of a shell's.
    fn environment(&self) -> Result<Vec<(String, String)>> {
        // Another user's belljar finds nothing where root's does.
        let own: &[&str] =
            if self.user.is_some() { &[] } else { &["BELLJAR_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "PATH"] };
        let mut environment = Vec::new();
        for name in own {
            let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else { continue };
            // A relative one counts for nothing (XDG Base Directory Specification).
            if name.starts_with("XDG_") && Path::new(&value).is_relative() {
                continue;
            }
            let value = value.into_string().map_err(|_| unit::not_held(name, "is not UTF-8"))?;
            environment.push(((*name).to_owned(), value));
        }
        if self.user.is_some() {
            environment.push(("PATH".to_owned(), LOGIN_PATH.to_owned()));
        }
        Ok(environment)
    }

    /// The credential that the unit is to load, where its manager can decrypt it.
    /// Else belljar asks systemd-creds(1) at each run.
    fn credential(&self) -> Result<Option<PathBuf>> {
        if self.user.is_some() {
            let of_the_host = PathBuf::from("/etc/credstore.encrypted/belljar.key");
            return Ok(Some(of_the_host).filter(|path| path.exists()));
        }
        if Config::load(&self.dirs.config_file())?.vault.key != KeySource::Systemd {
            return Ok(None);
        }
        let able = self.scope == Scope::System || unit::version().is_some_and(|version| version >= DECRYPTS_FOR_USERS);
        Ok(able.then(|| credential_file(&self.dirs)))
    }

    fn needs(&self) -> Result<Needs> {
        match &self.user {
            // Another user's configuration is not read with root's rights.
            Some(_) => Ok(Needs::default()),
            None => needs_of_configuration(&self.caller, &self.dirs),
        }
    }

    /// The host process and the template.
    pub fn install(&self) -> Result<String> {
        let setting = self.setting(self.needs()?)?;
        let [service, socket] = unit::host(&setting);
        let files = [service, socket.clone(), unit::template(&setting)];
        let mut said = self.write(files.to_vec())?;
        if self.wanted == Wanted::Enabled {
            self.control.call(&["enable", "--now", &socket.0])?;
            let _ = writeln!(said, "enabled {}: the host process starts when somebody speaks to it", socket.0);
            let _ = writeln!(said, "one run of a group: {} start belljar@GROUP", self.scope.systemctl());
            self.retold(unit::HOST, &mut said);
        }
        Ok(said + &self.notes())
    }

    /// The same, after systemd has got the master key.
    pub fn install_with_key(&self) -> Result<String> {
        if let Some(user) = &self.user {
            return Err(Error::usage(format!("--encrypt-key: the key is {0}'s, and is encrypted for {0}", user.name))
                .hint(format!("as {}: belljar systemd install --user --encrypt-key", user.name)));
        }
        if self.scope == Scope::System && self.caller.uid != 0 {
            return Err(Error::usage("--encrypt-key: your key is for your own units").hint("leave --system away"));
        }
        if self.wanted == Wanted::Shown {
            return self.install();
        }
        let done = hand_over(&self.dirs, &Config::load(&self.dirs.config_file())?.vault)?;
        let mut said = String::new();
        let parts = [
            (&done.credential, "encrypted the vault's master key into"),
            (&done.configuration, "wrote key = \"systemd\" into"),
            (&done.removed, "removed the key in clear, which was"),
        ];
        for (path, what) in parts {
            if let Some(path) = path {
                let _ = writeln!(said, "{what} {}", path.display());
            }
        }
        Ok(said + &self.install()?)
    }

    /// Whether there is a unit of belljar's for this job.
    pub fn has_job(&self, name: &str) -> bool {
        self.directory.join(unit::job_name(name)).is_file()
    }

    /// `belljar explain` makes do without a command; a job does not.
    fn refuse_no_command(&self, run: &[String]) -> Result<()> {
        let group = run.iter().find_map(|word| word.strip_prefix("--group=")).unwrap_or(MAIN);
        let configured = || -> Result<bool> {
            // Another user's configuration says at the run whether there is one.
            let config = Config::load(&self.dirs.config_file())?;
            Ok(self.user.is_some() || config.for_group(group).command.is_some())
        };
        if run.iter().any(|word| word == "--") || configured()? {
            return Ok(());
        }
        Err(Error::usage("no command to run")
            .hint(format!("-- COMMAND, or command = [\"…\"] in [group.{group}] of config.toml")))
    }

    /// A named job, its timer, or both.
    pub fn write_job(&self, job: &Job) -> Result<String> {
        let mut files = Vec::new();
        let mut absent = None;
        let needs = match &job.run {
            Some(run) => {
                self.refuse_no_command(run)?;
                let of_run;
                (of_run, absent) = needs_of_run(&self.setting(Needs::default())?, run, &self.caller)?;
                let shared_tmp = of_run.shared_tmp || self.needs()?.shared_tmp;
                Needs { shared_tmp, ..of_run }
            }
            None => Needs::default(),
        };
        let setting = self.setting(needs)?;
        if let Some(run) = &job.run {
            let words = ["run".to_owned(), format!("--name={}", job.name)].into_iter().chain(run.iter().cloned());
            files.push(unit::job(&setting, &job.name, &words.collect::<Vec<_>>()));
        }
        let timer = job.schedule.as_ref().map(|schedule| unit::timer(&setting, &job.name, schedule));
        let timer_name = timer.as_ref().map(|(name, _)| name.clone());
        files.extend(timer);
        let mut said = self.write(files)?;
        match timer_name {
            Some(timer) if self.wanted == Wanted::Enabled => {
                self.control.call(&["enable", "--now", &timer])?;
                // One that was active keeps its old time otherwise.
                self.control.call(&["restart", &timer])?;
                let _ = writeln!(said, "enabled {timer}: {} list-timers {timer}", self.scope.systemctl());
            }
            _ if self.wanted == Wanted::Shown => {}
            _ => {
                let _ = writeln!(said, "run it now: {} start {}", self.scope.systemctl(), unit::job_name(&job.name));
            }
        }
        if let Some(program) = absent {
            let _ = writeln!(said, "note: {program} is not on this host yet; the job ends with 127 until it is");
        }
        Ok(said + &self.notes())
    }

    /// Removes the host process and the template.
    pub fn remove(&self) -> Result<String> {
        let names = [unit::HOST, unit::SOCKET, unit::TEMPLATE].map(str::to_owned);
        let mut said = self.take_away(&names)?;
        let left = unit::installed(&self.directory)?;
        if !left.is_empty() && self.wanted != Wanted::Shown {
            let _ = writeln!(said, "jobs that are left: {} (--name NAME, or --all)", left.join(" "));
        }
        Ok(said)
    }

    /// Removes a job and its timer.
    pub fn remove_job(&self, name: &str) -> Result<String> {
        let names = unit::names_of(name);
        if !names.iter().any(|name| self.directory.join(name).symlink_metadata().is_ok()) {
            return Err(Error::refused(format!("there is no job `{name}` in {}", self.directory.display()))
                .hint(format!("ls {}/belljar-*", self.directory.display())));
        }
        self.take_away(&names)
    }

    /// Removes everything that belljar has written here.
    pub fn remove_all(&self) -> Result<String> {
        self.take_away(&unit::installed(&self.directory)?)
    }

    fn take_away(&self, names: &[String]) -> Result<String> {
        let found = unit::plan_removal(&self.directory, names, self.force)?;
        let mut said = String::new();
        if self.wanted == Wanted::Shown {
            return Ok(found.iter().map(|path| format!("would remove {}\n", path.display())).collect());
        }
        let mut errors: Vec<Error> = Vec::new();
        if self.wanted == Wanted::Enabled {
            // Runs of the template are stopped too; each in its own unit.
            for path in &found {
                let name = path.file_name().unwrap_or_default().to_string_lossy().replace("@.", "@*.");
                errors.extend(self.control.call(&["stop", &name]).err());
                if !name.contains('*') {
                    errors.extend(self.control.call(&["disable", &name]).err());
                }
            }
        }
        for path in &found {
            match std::fs::remove_file(path).step(|| format!("remove {}", path.display())) {
                Ok(()) => said.push_str(&format!("removed {}\n", path.display())),
                Err(error) => errors.push(error),
            }
            let drop_in = PathBuf::from(format!("{}.d", path.display()));
            if drop_in.is_dir() {
                let _ = writeln!(said, "left your drop-ins in {}", drop_in.display());
            }
        }
        if self.wanted == Wanted::Enabled {
            errors.extend(self.control.call(&["daemon-reload"]).err());
        }
        if found.is_empty() {
            let _ = writeln!(said, "nothing of belljar's in {}", self.directory.display());
        }
        let mut errors = errors.into_iter();
        let Some(mut first) = errors.next() else { return Ok(said) };
        first.causes.extend(errors.map(|error| format!("{}: {}", error.what, error.causes.join("; "))));
        Err(first)
    }

    /// Looks at all files, then writes them; the manager reads them anew.
    fn write(&self, files: Vec<(String, String)>) -> Result<String> {
        let planned: Vec<Planned> =
            files.into_iter().map(|file| Planned::new(&self.directory, file, self.force)).collect::<Result<_>>()?;
        let mut said = String::new();
        if self.wanted != Wanted::Shown {
            make_places(self.user.as_ref(), &own_places(self.user.as_ref(), &self.dirs))?;
        }
        for file in &planned {
            if self.wanted == Wanted::Shown {
                let _ = writeln!(said, "# {}\n{}", file.path.display(), file.text());
                continue;
            }
            file.write()?;
            let what = match file.change {
                Change::New => "wrote",
                Change::Replaced => "wrote anew",
                Change::Same => "unchanged:",
            };
            let _ = writeln!(said, "{what} {}", file.path.display());
        }
        if self.wanted == Wanted::Enabled {
            self.control.call(&["daemon-reload"])?;
        }
        Ok(said)
    }

    /// A host process that is running is the one of before.
    fn retold(&self, name: &str, said: &mut String) {
        if self.control.is_active(name) {
            let _ = writeln!(said, "{name} is running as it was: {} restart {name}", self.scope.systemctl());
        }
    }

    fn notes(&self) -> String {
        let mut said = String::new();
        if self.wanted == Wanted::Shown {
            return said;
        }
        if self.scope == Scope::System && self.user.is_none() {
            said.push_str("note: these units run belljar as root; --as-user NAME has them run, hardened further, as an ordinary user\n");
        }
        let user = User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
        if let Some(name) = user.filter(|name| self.scope == Scope::User && !unit::lingers(name)) {
            let _ = writeln!(
                said,
                "note: your units end when you log out, and timers wait for you: sudo loginctl enable-linger {name}"
            );
        }
        said
    }
}
