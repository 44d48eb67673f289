//! The root filesystem's own directories, as mounts.

use std::path::Path;

use super::mounts::{Mounts, Options, Surroundings, join};
use super::source::{Source, check_characters};
use super::submounts::below;
use super::{MountKind, RootAccess};
use crate::error::{Error, Result};

/// Who made a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The host, or a person: it must not be one of belljar's own directories.
    Host,
    /// belljar, which unpacked an image into its cache.
    Cache,
}

fn open(around: &Surroundings<'_>, path: &Path, origin: Origin) -> Result<Source> {
    let source = Source::open(path)?;
    if origin == Origin::Host {
        around.own.check(&source)?;
    }
    Ok(source)
}

impl Mounts {
    /// A directory or file of the root filesystem, read-only or under a layer.
    /// Mounts of the host below it come along read-only, each as a line of the
    /// plan: by themselves where root calls. An ordinary user cannot copy a mount
    /// without those below it (mount_namespaces(7), locked mounts).
    pub fn add_system(
        &mut self,
        around: &Surroundings<'_>,
        path: &Path,
        (target, reason): (&str, &str),
        origin: Origin,
    ) -> Result<()> {
        let source = open(around, path, origin)?;
        let submounts = below(&around.host_mounts, &source.path);
        for submount in &submounts {
            check_characters(submount)?;
        }
        let (along, apart) = if around.caller.is_root { (Vec::new(), submounts) } else { (submounts, Vec::new()) };
        let parent = source.path.clone();
        if self.root_access == RootAccess::Writable && source.directory && along.is_empty() {
            self.add_layered(source, target, reason);
        } else {
            // An overlay cannot hold a mount.
            if let (RootAccess::Writable, Some(first)) = (self.root_access, along.first()) {
                let first = join(target, first);
                self.notes
                    .push(format!("{target} stays read-only: another file system is mounted below it, at {first}"));
            }
            self.add_read_only(source, target, reason, along);
        }
        for submount in apart {
            let source = open(around, &parent.join(&submount), origin)?;
            self.add_read_only(source, &join(target, &submount), "mounted there on the host", Vec::new());
        }
        Ok(())
    }

    fn add_read_only(&mut self, source: Source, target: &str, reason: &str, submounts: Vec<String>) {
        let (path, id, directory) = (source.path.clone(), Some(source.id), source.directory);
        let kind = MountKind::Bind { source: path, id, directory, submounts };
        self.add(target, kind, Options::RO, reason, Some(source));
    }

    fn add_layered(&mut self, source: Source, target: &str, reason: &str) {
        let kind = MountKind::Layered { source: source.path.clone(), id: source.id };
        self.add(target, kind, Options::RW, &format!("{reason}, under a layer of the run's own"), Some(source));
    }

    /// /etc of an unpacked root, under the files that belljar makes; `what` says
    /// whose it is.
    pub fn add_etc(&mut self, around: &Surroundings<'_>, path: &Path, what: &str, origin: Origin) -> Result<()> {
        let source = open(around, path, origin)?;
        let reason = format!("{what}, under belljar's own files");
        if let Some(submount) = below(&around.host_mounts, &source.path).first() {
            return Err(Error::refused(format!("mount {}", path.display()))
                .because(format!("another file system is mounted below it, at {submount}")));
        }
        if self.root_access == RootAccess::Writable {
            self.add_layered(source, "/etc", &reason);
            return Ok(());
        }
        let kind = MountKind::Merged { source: source.path.clone(), id: source.id, shadows: Vec::new() };
        self.add("/etc", kind, Options::RO, &reason, Some(source));
        Ok(())
    }
}
