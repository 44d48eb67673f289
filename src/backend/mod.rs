//! Who makes the container from a bundle: an OCI runtime with crun's command
//! line. The runtime is trusted to start it, and not believed: see
//! `launch::verify`.

mod crun;
pub mod podman;

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::config::{Backend, Caller};
use crate::error::{Error, Result};
use crate::plan::Runtime;

pub use crun::{Start, command, host_environment, inherited_environment};

/// Where runtimes lie that are not on an ordinary user's PATH.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who makes the container, resolved: the backend, and the OCI runtime that it
/// uses: a path, or a name on PATH.
pub fn resolve(backend: Backend, asked: Option<&str>, caller: &Caller) -> Result<Runtime> {
    let podman = search("podman");
    match (backend, podman) {
        (Backend::Podman, None) => {
            Err(Error::refused("the backend podman is not installed").hint("apt-get install podman, or --backend crun"))
        }
        (Backend::Podman, Some(podman)) => below_podman(podman, "asked for", asked, caller),
        (Backend::Auto, Some(podman)) if asked.is_none() && search("crun").is_none() => {
            below_podman(podman, "crun is not installed", asked, caller)
        }
        (Backend::Auto, None) if asked.is_none() && search("crun").is_none() => {
            Err(Error::refused("neither crun nor podman is installed").hint("apt-get install crun"))
        }
        _ => find(asked, caller),
    }
}

/// podman, and the runtime that it is told to use.
fn below_podman(podman: PathBuf, reason: &str, asked: Option<&str>, caller: &Caller) -> Result<Runtime> {
    if !caller.is_root {
        has_subordinate_ids(caller)?;
    }
    let name = asked.unwrap_or(if search("crun").is_some() { "crun" } else { "runc" });
    let path = program(name, "apt-get install crun")?;
    let reason = format!("podman: {reason}; it uses {name}");
    Ok(Runtime { backend: Backend::Podman, podman: Some(podman), path, reason, staged: false })
}

/// podman maps ids 0 to 1000 and more, which an ordinary user may only with
/// subordinate ids (subuid(5)) and the programs that map them.
pub fn has_subordinate_ids(caller: &Caller) -> Result<()> {
    const NEEDED: u64 = 1001;
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(caller.uid)).ok().flatten();
    let name = user.map(|user| user.name).unwrap_or_default();
    let refused = |why: String| {
        Error::refused("the backend podman cannot be used")
            .because(why)
            .hint(format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}, or --backend crun, which needs none"))
    };
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let owned = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let counts = owned.filter_map(|fields| match fields.as_slice() {
            [owner, _, count] if *owner == name || *owner == caller.uid.to_string() => count.trim().parse::<u64>().ok(),
            _ => None,
        });
        let count: u64 = counts.sum();
        if count < NEEDED {
            return Err(refused(format!("{file} gives user {name} {count} subordinate ids; {NEEDED} are needed")));
        }
    }
    if search("newuidmap").is_none() || search("newgidmap").is_none() {
        return Err(refused("newuidmap and newgidmap are not installed".to_owned()).hint("apt-get install uidmap"));
    }
    Ok(())
}

/// The executable file that `name`, a path or a name on PATH, means.
fn program(name: &str, install: &str) -> Result<PathBuf> {
    let path = if name.contains('/') {
        fs::canonicalize(name)
            .map_err(|error| Error::refused(format!("runtime {name}")).because(error).hint(install))?
    } else {
        search(name)
            .ok_or_else(|| Error::refused(format!("the OCI runtime `{name}` is not installed")).hint(install))?
    };
    if !path.is_file() || access(&path, AccessFlags::X_OK).is_err() {
        return Err(Error::refused(format!("runtime {} is not an executable file", path.display())).hint(install));
    }
    Ok(path)
}

/// Finds the runtime: a path, or a name on PATH; `crun` when not asked for.
pub fn find(asked: Option<&str>, caller: &Caller) -> Result<Runtime> {
    let name = asked.unwrap_or("crun");
    let install = "apt-get install crun, or name one: --runtime PATH";
    let path = program(name, install)?;
    if let Some(known @ ("runc" | "podman" | "docker" | "youki" | "runsc")) =
        path.file_name().and_then(|name| name.to_str())
    {
        return Err(Error::refused(format!(
            "runtime {}: this version speaks crun's command line only, not {known}'s",
            path.display()
        ))
        .hint(install));
    }
    let reason = match asked {
        Some(_) => "asked for".to_owned(),
        None => "crun, found on PATH".to_owned(),
    };
    let staged = is_program(&path) || (caller.is_root && !reachable_by_all(&path));
    Ok(Runtime { backend: Backend::Crun, podman: None, path, reason, staged })
}

fn search(name: &str) -> Option<PathBuf> {
    let typed = env::var_os("PATH").unwrap_or_default();
    env::split_paths(SYSTEM_PATH)
        .chain(env::split_paths(&typed).filter(|path| path.is_absolute()))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
}

/// Whether it is a program, not a script, which may look for files beside it.
fn is_program(path: &Path) -> bool {
    let mut start = [0u8; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"\x7fELF"
}

/// Whether a process that owns nothing on the host can execute the file: each
/// directory on the way lets others search, and the file lets others read and
/// execute (path_resolution(7)).
pub fn reachable_by_all(path: &Path) -> bool {
    let others = |path: &Path, bits: u32| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & bits == bits);
    others(path, 0o005) && path.ancestors().skip(1).all(|directory| others(directory, 0o001))
}
