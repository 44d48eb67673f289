//! Images that other programs have: podman's and buildah's store, registries.
//! They are asked for an archive, which is then read like any other.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{From, Progress, Reference};
use crate::backend::{find_program, host_environment};
use crate::error::{Context, Error, Result};

/// Writes the image called `name` to `file`, as an OCI archive.
pub fn save(name: &str, from: From, file: &Path, progress: &Progress) -> Result<()> {
    let podman = find_program("podman");
    let mut causes = Vec::new();
    if from != From::Registry {
        let archive = format!("oci-archive:{}", file.display());
        if let Some(podman) = &podman {
            match call(podman, &["image", "exists", name]) {
                Ok(()) => return save_from_podman(podman, name, file, progress),
                Err(error) => causes.push(missing("podman's store", &error)),
            }
        }
        if let Some(buildah) = find_program("buildah") {
            progress.say(&format!("copying {name} from buildah's store"));
            match call(&buildah, &["push", name, &archive]) {
                Ok(()) => return Ok(()),
                Err(error) => causes.push(missing("buildah's store", &error)),
            }
        }
    }
    if from == From::Here {
        let error = Error::refused(format!("the image {name} is not on this machine"));
        return Err(causes.iter().fold(error, Error::because).hint(format!("belljar image pull {name}")));
    }
    match from_registry(name, file, podman.as_deref(), progress) {
        Err(error) => Err(causes.iter().fold(error, Error::because)),
        done => done,
    }
}

/// Whether podman's store has the image.
pub fn has_podman(reference: &Reference) -> bool {
    let Reference::Name(name) = reference else { return false };
    find_program("podman").is_some_and(|podman| call(&podman, &["image", "exists", name]).is_ok())
}

fn missing(place: &str, error: &Error) -> String {
    let said = error.causes.last().map(|said| format!(": {said}")).unwrap_or_default();
    format!("{place} does not have it{said}")
}

fn save_from_podman(podman: &Path, name: &str, file: &Path, progress: &Progress) -> Result<()> {
    progress.say(&format!("copying {name} from podman's store"));
    let file = file.to_string_lossy();
    call(podman, &["image", "save", "--quiet", "--uncompressed", "--format", "oci-archive", "--output", &file, name])
}

fn from_registry(name: &str, file: &Path, podman: Option<&Path>, progress: &Progress) -> Result<()> {
    progress.say(&format!("pulling {name}"));
    if let Some(podman) = podman {
        call(podman, &["pull", "--quiet", name]).map_err(|error| not_pulled(name, &error))?;
        return save_from_podman(podman, name, file, progress);
    }
    let skopeo = find_program("skopeo").ok_or_else(|| {
        Error::refused(format!("pull the image {name}"))
            .because("neither podman nor skopeo is installed, and belljar speaks to no registry itself")
            .hint("apt-get install skopeo")
    })?;
    call(&skopeo, &["copy", "--quiet", &format!("docker://{name}"), &format!("oci-archive:{}", file.display())])
        .map_err(|error| not_pulled(name, &error))
}

fn not_pulled(name: &str, error: &Error) -> Error {
    let of_access = ["unauthorized", "denied", "authentication", "forbidden"];
    let said = error.causes.join(" ").to_lowercase();
    let hint = match of_access.iter().any(|word| said.contains(word)) {
        true => "podman login REGISTRY",
        false => "is the registry there, and the name right?",
    };
    let pull = Error::failed(format!("pull the image {name}")).because(&error.what);
    error.causes.iter().fold(pull, Error::because).hint(hint)
}

/// Calls a program to its end; what it says on stderr is in the error.
fn call(program: &Path, arguments: &[&str]) -> Result<()> {
    let step = || format!("{} {}", program.display(), arguments[..arguments.len().min(2)].join(" "));
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(host_environment())
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .step(step)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said.lines().filter(|line| !line.trim().is_empty()).fold(Error::failed(step()), Error::because))
}
