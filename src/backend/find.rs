//! Which runtime and backend a run gets, and why.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::runtime::{RootId, RuntimeKind};
use super::subordinate;
use crate::config::{Backend, Caller};
use crate::error::{Error, Result};
use crate::plan::Runtime;

/// Where runtimes lie that are not on an ordinary user's PATH.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the image of a run was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImagePlace {
    /// In belljar's cache; or the run has none.
    #[default]
    Cache,
    /// In podman's store, and not in belljar's cache.
    OnlyPodman,
}

/// Who makes the container, resolved: the backend, and the OCI runtime that it
/// uses: a path, or a name on PATH.
pub fn resolve(backend: Backend, asked: Option<&str>, image: ImagePlace, caller: &Caller) -> Result<Runtime> {
    let podman = search("podman");
    if let (Backend::Auto, Some(podman), None, ImagePlace::OnlyPodman) = (backend, &podman, asked, image) {
        // An ordinary user's podman may be unable to run anything; crun is not.
        if let Ok(runtime) = below_podman(podman.clone(), "only podman has the image", asked, caller) {
            return Ok(runtime);
        }
    }
    match (backend, podman) {
        (Backend::Podman, None) => {
            Err(Error::refused("the backend podman is not installed").hint("apt-get install podman, or --backend crun"))
        }
        (Backend::Podman, Some(podman)) => below_podman(podman, "asked for", asked, caller),
        (Backend::Auto, Some(podman)) if asked.is_none() && search("crun").is_none() => {
            below_podman(podman, "crun is not installed", asked, caller)
                .map_err(|error| error.because("crun, which needs none of that, is not installed").hint(INSTALL))
        }
        (Backend::Auto, None) if asked.is_none() && search("crun").is_none() => {
            Err(Error::refused("neither crun nor podman is installed").hint(INSTALL))
        }
        _ => find(asked, caller),
    }
}

const INSTALL: &str = "apt-get install crun";
/// Ids that podman maps for a container with user 1000.
const PODMAN_IDS: u64 = 1001;

/// podman, and the runtime that it is told to use.
fn below_podman(podman: PathBuf, reason: &str, asked: Option<&str>, caller: &Caller) -> Result<Runtime> {
    if !caller.is_root {
        subordinate::ranges(caller, "the backend podman", PODMAN_IDS)?;
    }
    let installed = || ["crun", "runc"].into_iter().find(|name| search(name).is_some());
    let name = asked
        .or_else(installed)
        .ok_or_else(|| Error::refused("podman has neither crun nor runc to make containers with").hint(INSTALL))?;
    let path = program(name, INSTALL)?;
    let kind = RuntimeKind::of(&path);
    let known = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !["crun", "runc"].contains(&known) {
        return Err(Error::refused(format!("runtime {}: podman does not run it without a cgroup", path.display()))
            .because("it does so with runtimes whose file is called crun, and runc gets a cgroup")
            .hint("belljar run --backend crun, or leave --runtime out"));
    }
    let reason = format!("podman: {reason}; it uses {name}");
    Ok(Runtime { backend: Backend::Podman, podman: Some(podman), kind, path, reason, staged: false })
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
    let kind = RuntimeKind::of(&path);
    if !caller.is_root && kind.runtime().root_id() == RootId::Mapped {
        subordinate::ranges(caller, &format!("the runtime {}", kind.runtime().name()), 1)?;
    }
    let reason = match asked {
        Some(_) => "asked for".to_owned(),
        None => "crun, found on PATH".to_owned(),
    };
    let staged = is_program(&path) || (caller.is_root && !reachable_by_all(&path));
    Ok(Runtime { backend: Backend::Crun, podman: None, kind, path, reason, staged })
}

/// The executable file of this name: in the system's directories, then on PATH.
pub fn search(name: &str) -> Option<PathBuf> {
    let typed = env::var_os("PATH").unwrap_or_default();
    env::split_paths(SYSTEM_PATH)
        .chain(env::split_paths(&typed).filter(|path| path.is_absolute()))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
}

/// Whether it is a program, not a script, which may look for files beside it.
pub fn is_program(path: &Path) -> bool {
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
