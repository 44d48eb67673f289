//! Who makes the container from a bundle: an OCI runtime with crun's command
//! line. The runtime is trusted to start it, and not believed: see
//! `launch::verify`.

mod crun;

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::config::{Backend, Caller};
use crate::error::{Error, Result};
use crate::plan::Runtime;

pub use crun::{Start, command, inherited_environment};

/// Where runtimes lie that are not on an ordinary user's PATH.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds the runtime: a path, or a name on PATH; `crun` when not asked for.
pub fn find(asked: Option<&str>, caller: &Caller) -> Result<Runtime> {
    let name = asked.unwrap_or("crun");
    let install = "apt-get install crun, or name one: --runtime PATH";
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
    Ok(Runtime { backend: Backend::Crun, path, reason, staged })
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
