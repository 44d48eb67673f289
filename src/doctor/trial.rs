//! One real run, which shows what no other check tried: a filter may refuse any
//! of the calls that a run makes.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Finding, State, said};
use crate::config::{Config, Dirs};
use crate::error::{Context, Error, Result};

/// It takes some tens of milliseconds with crun, seconds with podman.
const WITHIN: &str = "--timeout=60";

/// Runs `true` in a home of its own, with the configured backend and runtime.
pub fn examine(dirs: &Dirs) -> Finding {
    let name = "a trial run";
    let place = match tempfile::Builder::new().prefix("belljar-doctor-").tempdir() {
        Ok(place) => place,
        Err(error) => {
            let (matters, mend) = ("what no other check tries, only a run shows", "TMPDIR=/var/tmp belljar doctor");
            return Finding::new(name, State::Limited, format!("not tried: {error}"), matters, Some(mend));
        }
    };
    match attempt(dirs, place.path()) {
        Ok(()) => Finding::new(name, State::Ok, "`true` ran in a belljar of its own, and nothing is left", "", None),
        Err(error) => {
            Finding::new(name, State::Missing, said(&error), "it was made as every run is", error.hint.as_deref())
        }
    }
}

fn attempt(dirs: &Dirs, place: &Path) -> Result<()> {
    let (home, project) = (place.join("belljar"), place.join("project"));
    let config = home.join("config");
    for directory in [&config, &project] {
        fs::create_dir_all(directory).step(|| format!("make directory {}", directory.display()))?;
    }
    // Something to hide, as most projects have.
    fs::write(project.join(".env"), "A=1\n").step(|| "write a project".to_owned())?;
    // Nobody asked for a run, so no log tells of one.
    fs::write(config.join("config.toml"), "[log]\nto = \"none\"\n").step(|| "write a configuration".to_owned())?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["run", "--no-tty", WITHIN]);
    let own = Config::load(&dirs.config_file())?.run;
    command.args(own.backend.map(|backend| format!("--backend={backend:?}").to_lowercase()));
    command.args(own.runtime.map(|runtime| format!("--runtime={runtime}")));
    command.args(["--", "true"]).env("BELLJAR_HOME", &home).current_dir(&project);
    let output = command.stdin(Stdio::null()).output().step(|| "start belljar run".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    Err(Error::read_back(&printed).unwrap_or_else(|| {
        let how = match output.status.signal() {
            Some(signal) => format!("signal {signal} ended it (31: a seccomp filter that kills)"),
            None => format!("it exited with {}", output.status.code().unwrap_or_default()),
        };
        Error::failed("belljar run -- true").because(how).because(printed.trim()).hint("belljar run -v -- true")
    }))
}
