//! podman's configuration for a run: the caller's (containers.conf(5)), without
//! what it gives to every container. Of mounts, devices, namespaces and limits
//! that come from there the plan knows nothing, and verify would end the run.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::{Context, Result};

/// The variable by which podman reads one file and no other.
pub const ONLY: &str = "CONTAINERS_CONF";
/// The variable by which later versions read a file on top of it.
pub const ON_TOP: &str = "CONTAINERS_CONF_OVERRIDE";
/// What holds for every container.
const LEFT_OUT: &str = "containers";

/// Writes what podman would have read with this environment to `file`.
pub fn write(environment: &[(OsString, OsString)], file: &Path) -> Result<()> {
    let mut merged = Table::new();
    for source in sources(environment) {
        let text = match fs::read_to_string(&source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.step(|| format!("read podman's configuration {}", source.display()))?,
        };
        let table: Table = text.parse().step(|| format!("read podman's configuration {}", source.display()))?;
        merge(&mut merged, table);
    }
    merged.remove(LEFT_OUT);
    let text = toml::to_string(&merged).step(|| "render podman's configuration".to_owned())?;
    fs::write(file, text).step(|| format!("write {}", file.display()))
}

/// The files that podman reads, each over those before it.
fn sources(environment: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let mut sources = match variable(environment, ONLY) {
        Some(only) => vec![only],
        None => places(environment).iter().flat_map(|place| below(place)).collect(),
    };
    sources.extend(variable(environment, ON_TOP));
    sources
}

/// Whether a mounts.conf would have podman mount something into each container.
pub fn has_default_mounts(environment: &[(OsString, OsString)]) -> bool {
    places(environment).iter().any(|place| place.join("mounts.conf").exists())
}

/// Directories of podman's configuration: the system's, and the caller's, which
/// root's podman does not have.
fn places(environment: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("/usr/share/containers"), PathBuf::from("/etc/containers")];
    if variable(environment, "_CONTAINERS_ROOTLESS_UID").is_some() {
        let home = || variable(environment, "HOME").map(|home| home.join(".config"));
        let own = variable(environment, "XDG_CONFIG_HOME").or_else(home);
        places.extend(own.map(|own| own.join("containers")));
    }
    places
}

fn variable(environment: &[(OsString, OsString)], name: &str) -> Option<PathBuf> {
    let found = environment.iter().find(|(its, value)| its == name && !value.is_empty());
    found.map(|(_, value)| PathBuf::from(value))
}

fn below(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.join("containers.conf.d")).into_iter().flatten().flatten();
    let mut more: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    more.retain(|path| path.extension() == Some(OsStr::new("conf")));
    more.sort();
    let mut files = vec![place.join("containers.conf")];
    files.append(&mut more);
    files
}

/// The values of `over` take the place of those in `under`, table by table.
fn merge(under: &mut Table, over: Table) {
    for (name, value) in over {
        match (under.get_mut(&name), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_win_and_what_every_container_gets_is_left_out() {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        fs::write(path("only"), "[containers]\ntz = 'local'\n[engine]\na = 1\nb = 1\n").expect("write");
        fs::write(path("top"), "[engine]\nb = 2\n[engine.runtimes]\nown = ['/x']\n").expect("write");
        let variable = |name: &str, value: &str| (OsString::from(name), path(value).into_os_string());
        write(&[variable(ONLY, "only"), variable(ON_TOP, "top")], &path("merged")).expect("merge");
        let merged: Table = fs::read_to_string(path("merged")).expect("read").parse().expect("TOML");
        let expected = "[engine]\na = 1\nb = 2\nruntimes = { own = ['/x'] }";
        assert_eq!(merged, expected.parse::<Table>().expect("TOML"));
    }

    #[test]
    fn a_broken_file_is_named() {
        let place = tempfile::tempdir().expect("a directory");
        let broken = place.path().join("broken");
        fs::write(&broken, "[containers").expect("write");
        let error = write(&[(ONLY.into(), broken.clone().into())], &place.path().join("merged")).expect_err("broken");
        assert!(error.what.contains(&broken.display().to_string()), "{}", error.what);
    }
}
