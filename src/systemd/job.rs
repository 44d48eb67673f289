//! A named job: belljar's command line in a unit, and what the plan of such a
//! run says that the unit must leave open.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::User;

use serde_json::Value;

use super::unit::{Needs, Setting};
use crate::config::{Caller, Config, Dirs, create_private};
use crate::error::{Context, Error, Result};
use crate::plan::{Allowlist, EgressMode, NOT_FOUND};

/// Where PrivateTmp= puts something else.
const SHARED_TMP: [&str; 2] = ["/tmp", "/var/tmp"];

/// Plans the run as the unit would: in `/`, with the unit's variables and
/// nothing else of the caller's. A refusal is the run's own. `arguments` are the
/// options and the command. Second, the program, where it will not be found.
pub fn needs_of_run(setting: &Setting, arguments: &[String], caller: &Caller) -> Result<(Needs, Option<String>)> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["explain", "--json"]);
    if let Some(user) = &setting.user {
        // Whose own manager and cgroup have nothing to do with it.
        command.args(["--in-unit", "--as-user", user]);
    }
    command.args(arguments).current_dir("/").env_clear().env("HOME", &caller.home);
    for variable in ["XDG_RUNTIME_DIR", "LANG", "LC_ALL"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command.envs(setting.environment.iter().map(|(variable, value)| (variable, value)));
    let output = command.stdin(Stdio::null()).output().step(|| "plan the run of the unit".to_owned())?;
    if !output.status.success() {
        let read = Error::read_back(&String::from_utf8_lossy(&output.stderr));
        return Err(read.unwrap_or_else(|| Error::refused("the run of the unit cannot be planned")));
    }
    let answer: Value = serde_json::from_slice(&output.stdout).step(|| "read the plan of the unit's run".to_owned())?;
    let plan = answer.get("plan").unwrap_or(&answer);
    Ok((needs_of_plan(plan), absent(plan)))
}

/// The program of a plan that is on the host's root, and is not there.
fn absent(plan: &Value) -> Option<String> {
    let text = |pointer: &str| plan.pointer(pointer).and_then(Value::as_str);
    let is_absent = text("/root/kind/kind") == Some("host") && text("/command_reason") == Some(NOT_FOUND);
    text("/command/0").filter(|_| is_absent).map(str::to_owned)
}

fn needs_of_plan(plan: &Value) -> Needs {
    let text = |pointer: &str| plan.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mounts = plan.get("mounts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let sources = mounts.iter().filter_map(|mount| {
        let source = mount.get("source").and_then(Value::as_str)?;
        Some((PathBuf::from(source), mount.get("readonly").and_then(Value::as_bool) == Some(false)))
    });
    let mut needs = Needs {
        more_ids: text("/runtime/backend") == "podman" || text("/runtime/kind") != "crun",
        tun: text("/egress/mode") == "open",
        ..Needs::default()
    };
    for (source, is_written) in sources {
        add(&mut needs, &source, is_written);
    }
    needs
}

/// Whether a path lies where PrivateTmp= puts something else.
pub fn is_in_shared_tmp(path: &Path) -> bool {
    SHARED_TMP.iter().any(|place| path.starts_with(place))
}

fn add(needs: &mut Needs, path: &Path, is_written: bool) {
    needs.shared_tmp |= is_in_shared_tmp(path);
    if is_written && !needs.writes.iter().any(|known| path.starts_with(known)) {
        needs.writes.push(path.to_owned());
    }
}

/// What any run of this configuration could need.
pub fn needs_of_configuration(caller: &Caller, dirs: &Dirs) -> Result<Needs> {
    let config = Config::load(&dirs.config_file())?;
    let groups = || config.group.values();
    let is_other = |runtime: &Option<String>| runtime.as_deref().is_some_and(|runtime| !runtime.ends_with("crun"));
    let is_podman = |backend| backend == Some(crate::config::Backend::Podman);
    let mut needs = Needs {
        more_ids: is_podman(config.run.backend)
            || is_other(&config.run.runtime)
            || groups().any(|group| is_podman(group.backend) || is_other(&group.runtime)),
        tun: config.run.egress == Some(EgressMode::Open)
            || groups().any(|group| group.egress == Some(EgressMode::Open)),
        ..Needs::default()
    };
    let path_of = |path: &str| crate::plan::absolute(path, &caller.home, None).ok();
    for root in Allowlist::load(&dirs.allowlist_file(), &caller.home)?.roots {
        root.real.into_iter().for_each(|path| add(&mut needs, &path, root.read_write));
    }
    for project in groups().filter_map(|group| group.project.as_deref()) {
        let (path, is_written) = match project.rsplit_once(':') {
            Some((path, access)) => (path, access == "rw"),
            None => (project, false),
        };
        path_of(path).into_iter().for_each(|path| add(&mut needs, &path, is_written));
    }
    let vault = &config.vault;
    let files = [&vault.key_file, &vault.passphrase_file, &vault.api_key_file].into_iter().flatten();
    for file in files.chain(&config.gateway.extra_roots) {
        path_of(file).into_iter().for_each(|path| add(&mut needs, &path, false));
    }
    for directory in dirs.all() {
        add(&mut needs, directory, false);
    }
    for mount in groups().flat_map(|group| &group.mounts) {
        path_of(&mount.host).into_iter().for_each(|path| add(&mut needs, &path, !mount.readonly));
    }
    Ok(needs)
}

/// What belljar itself writes, for a unit to leave open.
pub fn own_places(user: Option<&User>, dirs: &Dirs) -> Vec<PathBuf> {
    match user {
        None => vec![dirs.config.clone(), dirs.data.clone()],
        Some(user) => {
            let below_home = [".config/belljar", ".local/share/belljar"].map(|place| user.dir.join(place));
            below_home.into_iter().chain([PathBuf::from(format!("/run/user/{}", user.uid))]).collect()
        }
    }
}

/// Makes them, so that they are there when the unit's mounts are.
pub fn make_places(user: Option<&User>, places: &[PathBuf]) -> Result<()> {
    let Some(user) = user else {
        return places.iter().try_for_each(|directory| create_private(directory));
    };
    // With that user's rights: what lies in a home is not root's to trust.
    let mut make = Command::new("mkdir");
    make.args(["-p", "-m", "0700", "--"]).args(places.iter().filter(|place| place.starts_with(&user.dir)));
    make.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/").stdin(Stdio::null());
    let output = make.output().step(|| "start mkdir".to_owned())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::failed(format!("make belljar's directories for {}", user.name)).because(said.trim()));
    }
    Ok(())
}
