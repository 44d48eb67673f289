//! The root filesystem's own directories, as mounts.

use std::path::Path;

use super::mounts::{Mounts, Options, Surroundings, join};
use super::source::{Source, check_characters};
use super::submounts::below;
use super::{MountKind, RootAccess};
use crate::error::{Error, Result};

impl Mounts {
    /// A directory or file of the root filesystem, read-only or under a layer.
    /// Mounts of the host below it come along read-only, each as a line of the
    /// plan: by themselves where root calls. An ordinary user cannot copy a mount
    /// without those below it (mount_namespaces(7), locked mounts).
    pub fn add_system(&mut self, around: &Surroundings<'_>, path: &Path, target: &str, reason: &str) -> Result<()> {
        let source = Source::open(path)?;
        around.own.check(&source)?;
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
            let source = Source::open(&parent.join(&submount))?;
            around.own.check(&source)?;
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

    /// /etc of a root directory, under the files that belljar makes.
    pub fn add_etc(&mut self, around: &Surroundings<'_>, path: &Path) -> Result<()> {
        let source = Source::open(path)?;
        around.own.check(&source)?;
        if let Some(submount) = below(&around.host_mounts, &source.path).first() {
            return Err(Error::refused(format!("mount {}", path.display()))
                .because(format!("another file system is mounted below it, at {submount}")));
        }
        if self.root_access == RootAccess::Writable {
            self.add_layered(source, "/etc", "the root directory's, under belljar's own files");
            return Ok(());
        }
        let kind = MountKind::Merged { source: source.path.clone(), id: source.id, shadows: Vec::new() };
        self.add("/etc", kind, Options::RO, "the root directory's, under belljar's own files", Some(source));
        Ok(())
    }
}
