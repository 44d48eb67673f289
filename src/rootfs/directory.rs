//! An unpacked root: each of its top-level directories and files is bound read-only
//! into a generated root. Nothing in it decides where a mount goes.

use std::fs;
use std::path::Path;

use super::RootBuilder;
use crate::error::{Context, Error, Result, printable};
use crate::plan::{Content, Mounts, Origin, RootKind, Source, Surroundings};

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
    fill(&mut root, &source.path, Unpacked { what: "the root directory's", origin: Origin::Host }, around, mounts)?;
    Ok(root)
}

/// An unpacked root.
#[derive(Debug, Clone, Copy)]
pub struct Unpacked {
    /// Whose its directories are.
    pub what: &'static str,
    /// Who unpacked it.
    pub origin: Origin,
}

/// Puts the top-level entries of the root at `path` into the generated one. A
/// link where something is mounted or generated is refused in a directory of a
/// person's; of an image it is not taken.
pub fn fill(
    root: &mut RootBuilder,
    path: &Path,
    unpacked: Unpacked,
    around: &Surroundings<'_>,
    mounts: &mut Mounts,
) -> Result<()> {
    let Unpacked { what, origin } = unpacked;
    let names = names(path)?;
    let has_etc = names.iter().any(|name| name == "etc");
    for name in &names {
        let entry = path.join(name);
        let meta = fs::symlink_metadata(&entry).refuse(|| format!("stat {}", entry.display()))?;
        let inside = format!("/{name}");
        if meta.is_symlink() {
            let target = fs::read_link(&entry).refuse(|| format!("read the link {}", entry.display()))?;
            let replaced = REPLACED.contains(&name.as_str());
            if TARGETS.contains(&name.as_str()) && !(origin == Origin::Cache && replaced) {
                let why = format!(
                    "its /{name} is a link to {}, and a mount there would follow it",
                    printable(&target.to_string_lossy())
                );
                let hint = match origin {
                    Origin::Cache => format!("build the image with a directory at /{name}"),
                    _ => format!("rm {0} && mkdir {0}", entry.display()),
                };
                return Err(Error::refused(format!("the root {}", path.display())).because(why).hint(hint));
            }
            if replaced {
                mounts.notes.push(format!("/{name} of the image is a link; the run has a directory of its own there"));
            } else if let Some(target) = target.to_str() {
                root.link(&inside, target);
            }
        } else if meta.is_dir() && name == "etc" {
            mounts.add_etc(around, &entry, what, origin)?;
        } else if meta.is_dir() && !REPLACED.contains(&name.as_str())
            // An entrypoint often lies at the top.
            || meta.is_file() && !TARGETS.contains(&name.as_str())
        {
            mounts.add_system(around, &entry, (&inside, what), origin)?;
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
    Ok(())
}

/// Each entry at the top is a mount.
const MOST_ENTRIES: usize = 256;

/// The names in the root, sorted.
fn names(path: &Path) -> Result<Vec<String>> {
    let read = || format!("read the root {}", path.display());
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(path).refuse(read)? {
        match entry.refuse(read)?.file_name().into_string() {
            Ok(name) => names.push(name),
            Err(name) => {
                let name = printable(&name.to_string_lossy());
                return Err(Error::refused(read()).because(format!("its entry {name} is not UTF-8")));
            }
        }
    }
    if names.len() > MOST_ENTRIES {
        let why = format!("it has {} entries at its top; a root has {MOST_ENTRIES} at most", names.len());
        return Err(Error::refused(read()).because(why).hint("put them into a directory of the root"));
    }
    names.sort();
    Ok(names)
}
