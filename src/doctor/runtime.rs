//! OCI runtimes and podman: which are there, which versions, with which known
//! trouble, and whether this caller can use them.

use super::{Finding, State};
use crate::backend::{self, ImagePlace, RootId, RuntimeKind, Trouble, find_program, version_of};
use crate::config::{Backend, Caller};

const INSTALL: &str = "apt-get install crun    (dnf, pacman, zypper: the package has the same name)";

pub fn examine(caller: &Caller) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RuntimeKind::ALL.into_iter().filter_map(|kind| runtime(kind, caller)).collect();
    findings.push(podman(caller));
    findings.push(images());
    // One of the two is enough.
    if let Err(error) = backend::resolve(Backend::Auto, None, ImagePlace::Cache, caller) {
        let matters = "an OCI runtime or podman makes the container";
        findings.insert(0, Finding::new("runtime", State::Missing, error.what, matters, Some(INSTALL)));
    }
    findings
}

/// A runtime that is installed; crun also when it is not.
fn runtime(kind: RuntimeKind, caller: &Caller) -> Option<Finding> {
    let runtime = kind.runtime();
    let name = runtime.name();
    let matters = if kind == RuntimeKind::Crun { "it makes the container" } else { "belljar run --runtime takes it" };
    let Some(path) = find_program(name) else {
        let found = "not installed; podman would be used where it can be";
        return (kind == RuntimeKind::Crun).then(|| Finding::new(name, State::Limited, found, matters, Some(INSTALL)));
    };
    let shown = path.display();
    if let Some(unseen) = runtime.unseen() {
        let found = format!("{shown}; belljar run does not run what it cannot verify: {unseen}");
        return Some(Finding::new(
            name,
            State::Limited,
            found,
            matters,
            Some("belljar bundle --output DIR, and run that with it"),
        ));
    }
    let Some((text, version)) = version_of(&path) else {
        return Some(Finding::new(
            name,
            State::Limited,
            format!("{shown} does not say its version"),
            matters,
            Some(INSTALL),
        ));
    };
    let trouble = runtime.troubles().iter().find(|trouble| version < trouble.before);
    if runtime.root_id() == RootId::Mapped
        && !caller.is_root
        && let Err(error) = backend::ranges(caller, name, 1)
    {
        let found = format!("{shown} {text}; {}", error.causes.join("; "));
        return Some(Finding::new(name, State::Limited, found, matters, error.hint.as_deref()));
    }
    let state = match trouble {
        Some(Trouble { usable: false, .. }) => State::Missing,
        _ => State::Ok,
    };
    let remark = trouble.map(|trouble| format!("; {}", trouble.what)).unwrap_or_default();
    Some(Finding::new(name, state, format!("{shown} {text}{remark}"), matters, Some(INSTALL)))
}

fn podman(caller: &Caller) -> Finding {
    let matters = "the backend podman, and images of its store";
    match backend::resolve(Backend::Podman, None, ImagePlace::Cache, caller) {
        Ok(found) => {
            let path = found.podman.unwrap_or_default();
            let version = version_of(&path).map_or_else(|| "of no known version".to_owned(), |(text, _)| text);
            Finding::new("podman", State::Ok, format!("{} {version}, {}", path.display(), found.reason), matters, None)
        }
        Err(error) if find_program("podman").is_some() => {
            let found = [vec![error.what], error.causes].concat().join("; ");
            Finding { mend: error.hint, ..Finding::new("podman", State::Limited, found, matters, None) }
        }
        Err(_) => Finding::new("podman", State::Ok, "not installed, and not needed with crun", matters, None),
    }
}

fn images() -> Finding {
    let there: Vec<&str> =
        ["podman", "buildah", "skopeo"].into_iter().filter(|name| find_program(name).is_some()).collect();
    let found = match there.as_slice() {
        [] => "archives and OCI layouts only; for registries one of podman and skopeo is needed".to_owned(),
        there => format!("archives, OCI layouts, and what {} can fetch", there.join(" and ")),
    };
    Finding::new("images", State::Ok, found, "belljar run --image", None)
}
