//! An unpacked root: each of its top-level directories is bound read-only into
//! a generated root. Nothing in it decides where a mount goes.

use std::fs;
use std::path::Path;

use super::RootBuilder;
use crate::error::{Context, Error, Result};
use crate::plan::{Content, Mounts, RootKind, Source, Surroundings};

/// Where mounts or generated files go: a link there would lead them elsewhere.
const TARGETS: [&str; 9] = ["proc", "sys", "dev", "run", "tmp", "home", "workspace", "etc", "usr"];
/// What the generated root has instead of the directory's.
const REPLACED: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "home", "workspace"];

pub fn resolve(path: &Path, around: &Surroundings<'_>, mounts: &mut Mounts) -> Result<RootBuilder> {
    let source = Source::open(path)?;
    let shown = source.path.display();
    let refuse = |why: String| {
        Err(Error::refused(format!("--rootfs {shown}"))
            .because(why)
            .hint("unpack the root into a directory of its own"))
    };
    if !source.directory {
        return refuse("it is not a directory".to_owned());
    }
    if source.path == Path::new("/") {
        return refuse("it is the host's own root; the default, --rootfs host, shows only its /usr".to_owned());
    }
    let home = fs::canonicalize(&around.caller.home).unwrap_or_else(|_| around.caller.home.clone());
    for home in [home.as_path(), &around.caller.home, Path::new("/root"), Path::new("/home")] {
        if home.starts_with(&source.path) {
            return refuse(format!("it contains {}, where people's files are", home.display()));
        }
    }
    around.own.check(&source)?;
    let mut root = RootBuilder::new(RootKind::Directory { path: source.path.clone() });
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(&source.path).refuse(|| format!("read --rootfs {shown}"))? {
        let entry = entry.refuse(|| format!("read --rootfs {shown}"))?;
        match entry.file_name().into_string() {
            Ok(name) => names.push(name),
            Err(name) => return refuse(format!("its entry {} is not UTF-8", name.to_string_lossy())),
        }
    }
    names.sort();
    let has_etc = names.iter().any(|name| name == "etc");
    for name in &names {
        let entry = source.path.join(name);
        let meta = fs::symlink_metadata(&entry).refuse(|| format!("stat {}", entry.display()))?;
        let inside = format!("/{name}");
        if meta.is_symlink() {
            let target = fs::read_link(&entry).refuse(|| format!("read the link {}", entry.display()))?;
            if TARGETS.contains(&name.as_str()) {
                return refuse(format!(
                    "its /{name} is a link to {}, and a mount there would follow it",
                    target.display()
                ));
            }
            if let Some(target) = target.to_str() {
                root.link(&inside, target);
            }
        } else if meta.is_dir() && name == "etc" {
            mounts.add_etc(around, &entry)?;
        } else if meta.is_dir() && !REPLACED.contains(&name.as_str()) {
            mounts.add_system(around, &entry, &inside, "the root directory's")?;
        }
    }
    root.add_users("/bin/sh");
    if !has_etc {
        root.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
    }
    if !names.iter().any(|name| name == "var") {
        root.add("/var/lib", Content::Directory);
        root.link("/var/tmp", "../tmp");
    }
    Ok(root)
}
