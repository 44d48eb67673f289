//! belljar's units: the host process and its socket, the template for single
//! runs, named jobs and their timers.

use super::hardening::harden;
use super::text::{Text, command_line, plain, quoted};
use super::{Scope, Setting};

/// The host process.
pub const HOST: &str = "belljar.service";
/// Its socket.
pub const SOCKET: &str = "belljar.socket";
/// The template for one run of a group.
pub const TEMPLATE: &str = "belljar@.service";

/// The unit's name of a job.
pub fn job_name(name: &str) -> String {
    format!("belljar-{name}.service")
}

/// The names of everything that belongs to a job.
pub fn names_of(name: &str) -> [String; 2] {
    [format!("belljar-{name}.timer"), job_name(name)]
}

fn wanted_by(setting: &Setting) -> &'static str {
    match setting.scope {
        Scope::User => "default.target",
        Scope::System => "multi-user.target",
    }
}

/// `belljar.service` and `belljar.socket`.
pub fn host(setting: &Setting) -> [(String, String); 2] {
    let mut unit = Text::default();
    unit.section("Unit")
        .set("Description", "belljar, host of agents")
        .set("Documentation", &setting.documentation(&["belljar-serve", "belljar"]))
        .why("The socket is there before the process and after it: nobody's request is refused.")
        .set("Requires", SOCKET)
        .set("After", SOCKET);
    service(&mut unit, setting, &["serve".to_owned()]);
    unit.why("Ready when it answers, and started again when it fails or no longer does.")
        .set("Type", "notify")
        .set("WatchdogSec", "60")
        .set("Restart", "on-failure");
    harden(&mut unit, setting);
    unit.section("Install").set("WantedBy", wanted_by(setting)).set("Also", SOCKET);
    let service = (HOST.to_owned(), unit.finish(HOST, setting.scope.systemctl()));

    let mut unit = Text::default();
    unit.section("Unit")
        .set("Description", "belljar, host of agents: its socket")
        .set("Documentation", &setting.documentation(&["belljar-serve"]))
        .section("Socket")
        .why("Below $XDG_RUNTIME_DIR, or below /run for the host's manager.")
        .set("ListenStream", "%t/belljar.sock")
        .why("For its owner alone: who speaks to it can start runs.")
        .set("SocketMode", "0600");
    if let Some(user) = &setting.user {
        unit.set("SocketUser", &plain(user));
    }
    unit.why("Nobody listens, and nothing is left there.")
        .set("RemoveOnStop", "yes")
        .section("Install")
        .set("WantedBy", "sockets.target");
    [service, (SOCKET.to_owned(), unit.finish(SOCKET, setting.scope.systemctl()))]
}

/// `belljar@.service`: one run of the group that the instance names, with the
/// command of its `[group.NAME]`.
pub fn template(setting: &Setting) -> (String, String) {
    let mut unit = Text::default();
    unit.section("Unit")
        .set("Description", "belljar run of group %i")
        .set("Documentation", &setting.documentation(&["belljar-run", "belljar-systemd"]));
    service(&mut unit, setting, &[]);
    unit.why("The group is the instance; its command, project and limits are those of [group.%i] in config.toml.")
        .set("ExecStart", &format!("{} run --group %i", command_line(&setting.program.to_string_lossy(), &[])))
        .why("Started when the agent is; an image may have to be fetched before.")
        .set("Type", "notify")
        .set("TimeoutStartSec", "15min");
    harden(&mut unit, setting);
    unit.section("Install").set("WantedBy", wanted_by(setting));
    (TEMPLATE.to_owned(), unit.finish(TEMPLATE, setting.scope.systemctl()))
}

/// The unit of a named job; `arguments` are belljar's.
pub fn job(setting: &Setting, name: &str, arguments: &[String]) -> (String, String) {
    let mut unit = Text::default();
    unit.section("Unit")
        .set("Description", &format!("belljar job {}", plain(name)))
        .set("Documentation", &setting.documentation(&["belljar-run", "belljar-systemd"]));
    service(&mut unit, setting, arguments);
    unit.why("`systemctl start` waits for the end, and fails when the agent does. --timeout ends what takes too long.")
        .set("Type", "oneshot")
        .set("TimeoutStartSec", "infinity");
    harden(&mut unit, setting);
    let name = job_name(name);
    let text = unit.finish(&name, setting.scope.systemctl());
    (name, text)
}

/// When a job is to run (systemd.timer(5)).
#[derive(Debug, Clone)]
pub struct Schedule {
    /// `OnCalendar=`, checked.
    pub calendar: Vec<String>,
    /// Whether what was missed while the machine was off is made up for.
    pub persistent: bool,
    /// `RandomizedDelaySec=`, in seconds.
    pub randomized_delay: Option<u64>,
}

/// The timer of a named job.
pub fn timer(setting: &Setting, name: &str, schedule: &Schedule) -> (String, String) {
    let mut unit = Text::default();
    unit.section("Unit")
        .set("Description", &format!("belljar job {}: when it runs", plain(name)))
        .set("Documentation", &setting.documentation(&["belljar-systemd"]))
        .section("Timer");
    for calendar in &schedule.calendar {
        unit.set("OnCalendar", &plain(calendar));
    }
    unit.why("At the time that was asked for, not within a minute of it.").set("AccuracySec", "1s");
    if schedule.persistent {
        unit.why("What was missed while the machine was off runs once when it is on again.").set("Persistent", "yes");
    }
    if let Some(seconds) = schedule.randomized_delay {
        unit.set("RandomizedDelaySec", &format!("{seconds}s"));
    }
    unit.section("Install").set("WantedBy", "timers.target");
    let name = format!("belljar-{name}.timer");
    let text = unit.finish(&name, setting.scope.systemctl());
    (name, text)
}

/// What every service of belljar's has; without `arguments` no ExecStart=.
fn service(unit: &mut Text, setting: &Setting, arguments: &[String]) {
    unit.section("Service");
    if !arguments.is_empty() {
        unit.set("ExecStart", &command_line(&setting.program.to_string_lossy(), arguments));
    }
    match (&setting.user, setting.scope) {
        (Some(user), _) => {
            unit.why("Whose agents they are: files, groups and secrets are this user's.").set("User", &plain(user));
        }
        // The only value that a user's manager takes.
        (None, Scope::User) => {
            unit.why("Who it is anyway: said so that systemd-analyze(1) does not take it for root's.")
                .set("User", "%u");
        }
        (None, Scope::System) => {}
    }
    if !setting.environment.is_empty() {
        unit.why("As it was when this was written: a service manager has its own.");
    }
    for (variable, value) in &setting.environment {
        unit.set("Environment", &quoted(&format!("{variable}={value}")));
    }
    if let Some(credential) = &setting.credential {
        unit.why("The vault's master key: encrypted on disk, decrypted by systemd for this unit alone.")
            .set("LoadCredentialEncrypted", &format!("belljar.key:{}", plain(&credential.to_string_lossy())));
    }
    unit.why("belljar makes a cgroup for each run, with its limits, below the unit's own.").set("Delegate", "yes");
    unit.why("A stop reaches belljar, which gives its agent 5 s; what is left after 15 s is killed.")
        .set("KillMode", "mixed")
        .set("TimeoutStopSec", "15");
    unit.why("An agent that ends of the stop has not failed.").set("SuccessExitStatus", "143");
}
