//! The mounts of a plan, each with its reason; what is refused, is refused here.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::beneath::open_without_links;
use super::own::OwnPlaces;
use super::request::{Access, MountArgument};
use super::source::{FileId, Source, absolute, check_characters};
use super::submounts::{MountEntry, below};
use super::walk;
use super::{Allowlist, Blocked, Mount, MountKind, RootAccess, Shadow, ShadowKind, Shadowed, Trust};
use crate::config::Caller;
use crate::error::{Context, Error, Result};

/// Mounts that a kernel allows in one mount namespace (fs.mount-max) leave room
/// for many more; beyond this a start would take seconds.
const MOST_SHADOWS: usize = 20_000;

/// What the checks of a mount need to know.
pub struct Surroundings<'a> {
    /// Who called.
    pub caller: &'a Caller,
    /// Where belljar's own directories are.
    pub own: OwnPlaces,
    /// The allowlist.
    pub allowlist: &'a Allowlist,
    /// Names that hold credentials.
    pub blocked: Blocked,
    /// The host's mount table.
    pub host_mounts: Vec<MountEntry>,
    /// The group's trust.
    pub trust: Trust,
}

/// The mounts so far.
#[derive(Debug, Default)]
pub struct Mounts {
    /// In the order in which they are made.
    pub list: Vec<Mount>,
    /// The pinned source of each, by its place in the list.
    pub sources: Vec<Option<Source>>,
    /// What is hidden, counted.
    pub shadowed: Shadowed,
    /// What a person should know.
    pub notes: Vec<String>,
    pub(super) root_access: RootAccess,
    linked: Vec<(FileId, PathBuf)>,
}

impl Mounts {
    /// None yet, for a root of this access.
    pub fn new(root_access: RootAccess) -> Self {
        Self { root_access, ..Self::default() }
    }

    /// Adds a mount without a source on the host.
    pub fn push(&mut self, target: &str, kind: MountKind, options: Options, reason: &str) {
        self.add(target, kind, options, reason, None);
    }

    /// Adds one without a source before those that come from `index` on.
    pub fn insert(&mut self, index: usize, target: &str, kind: MountKind, options: Options, reason: &str) {
        self.list.insert(index, options.mount(target, kind, reason));
        self.sources.insert(index, None);
    }

    pub(super) fn add(
        &mut self,
        target: &str,
        kind: MountKind,
        options: Options,
        reason: &str,
        source: Option<Source>,
    ) {
        self.list.push(options.mount(target, kind, reason));
        self.sources.push(source);
    }

    /// One of belljar's own directories of the group, made before the run.
    pub fn add_own(&mut self, path: PathBuf, target: &str, access: Access, reason: &str) {
        let kind = MountKind::Bind { source: path, id: None, directory: true, submounts: Vec::new() };
        let options = if access == Access::ReadOnly { Options::RO } else { Options::RW };
        self.push(target, kind, options, reason);
    }

    /// The package of the program, read-only at the same path; refused when it
    /// holds a blocked name.
    pub fn add_package(&mut self, around: &Surroundings<'_>, path: &Path, reason: &str) -> Result<()> {
        let source = self.open(around, path)?;
        let target = source.path.to_string_lossy().into_owned();
        if source.directory {
            let found = walk::search(&source.file, &around.blocked);
            if let Some(shadow) = found.shadows.first() {
                return Err(Error::refused(format!("mount {target}: {reason}"))
                    .because(format!("it holds {}, which is blocked by {}", shadow.path.display(), shadow.rule))
                    .hint("install the program below /usr/local, where all users may read it"));
            }
        }
        let kind = MountKind::Bind {
            source: source.path.clone(),
            id: Some(source.id),
            directory: source.directory,
            submounts: Vec::new(),
        };
        self.add(&target, kind, Options::RO, reason, Some(source));
        Ok(())
    }

    /// The project directory.
    pub fn add_project(&mut self, around: &Surroundings<'_>, path: &Path, access: Access, reason: &str) -> Result<()> {
        let source = self.open(around, path)?;
        if !source.directory {
            return Err(Error::refused(format!("--project {}: it is not a directory", path.display())));
        }
        match access {
            Access::ReadOnly => self.add_merged(around, source, "/workspace/project", reason, &[Path::new(".env")]),
            Access::ReadWrite => self.add_writable(around, source, "/workspace/project", reason),
        }
    }

    /// An extra mount, which the allowlist must allow.
    pub fn add_extra(&mut self, around: &Surroundings<'_>, argument: &MountArgument) -> Result<()> {
        let path = absolute(&argument.source, &around.caller.home, None)?;
        let target = extra_target(argument, &path)?;
        let source = self.open(around, &path)?;
        let verdict = around.allowlist.judge(&source.path, argument.access, around.trust)?;
        match verdict.access {
            Access::ReadWrite => self.add_writable(around, source, &target, &verdict.reason),
            Access::ReadOnly if source.directory => self.add_merged(around, source, &target, &verdict.reason, &[]),
            Access::ReadOnly => {
                self.check_single_file(around, &source)?;
                let kind = MountKind::Bind {
                    source: source.path.clone(),
                    id: Some(source.id),
                    directory: false,
                    submounts: Vec::new(),
                };
                self.add(&target, kind, Options::RO, &verdict.reason, Some(source));
                Ok(())
            }
        }
    }

    /// Opens and checks what holds for everything that a person has mounted.
    fn open(&mut self, around: &Surroundings<'_>, path: &Path) -> Result<Source> {
        check_characters(&path.to_string_lossy())?;
        let source = Source::open(path)?;
        let shown = source.path.display();
        around.own.check(&source)?;
        if let Some(pattern) = around.blocked.in_path(&source.path) {
            return Err(Error::refused(format!("mount {shown}"))
                .because(format!("its path is blocked by the pattern `{pattern}`"))
                .hint(format!("belljar mounts check '{shown}'")));
        }
        for system in ["/proc", "/sys", "/dev"] {
            if source.path.starts_with(system) || source.path == Path::new("/") {
                return Err(Error::refused(format!("mount {shown}"))
                    .because("a run never sees the host's root, /proc, /sys or /dev"));
            }
        }
        let submounts = below(&around.host_mounts, &source.path);
        if let Some(first) = submounts.first() {
            // An ordinary user cannot leave a mount out (it is locked to what it
            // covers, mount_namespaces(7)), and an overlay of what holds one is refused.
            if !around.caller.is_root {
                return Err(Error::refused(format!("mount {shown}"))
                    .because(format!("another file system is mounted below it, at {}, and without root it can be neither left out nor shadowed", source.path.join(first).display()))
                    .hint(format!("umount '{}', or mount directories beside it", source.path.join(first).display())));
            }
            self.notes.push(format!("left out of {shown}: what is mounted below it at {}", submounts.join(", ")));
        }
        Ok(source)
    }

    /// Refuses a file that would be hidden if it lay below a mount.
    fn check_single_file(&self, around: &Surroundings<'_>, source: &Source) -> Result<()> {
        let (Some(parent), Some(name)) = (source.path.parent(), source.path.file_name()) else {
            return Ok(());
        };
        let directory = open_without_links(parent).refuse(|| format!("open {}", parent.display()))?;
        let name = name.as_bytes();
        match around.blocked.by_name(name).or_else(|| around.blocked.by_content(directory.as_fd(), name)) {
            Some(rule) => {
                Err(Error::refused(format!("mount {}", source.path.display()))
                    .because(format!("it is blocked by {rule}")))
            }
            None => Ok(()),
        }
    }

    /// A read-only directory with shadows that hold for the whole run.
    fn add_merged(
        &mut self,
        around: &Surroundings<'_>,
        source: Source,
        target: &str,
        reason: &str,
        always: &[&Path],
    ) -> Result<()> {
        let found = walk::search(&source.file, &around.blocked);
        let mut shadows = found.shadows;
        for name in always {
            if !shadows.iter().any(|shadow| shadow.path == *name) {
                shadows.push(Shadow {
                    path: (*name).to_owned(),
                    kind: ShadowKind::Absent,
                    rule: "kept free for the whole run".to_owned(),
                });
            }
        }
        shadows.sort();
        if shadows.len() > MOST_SHADOWS {
            return Err(Error::refused(format!(
                "mount {}: {} names would have to be hidden",
                source.path.display(),
                shadows.len()
            ))
            .hint("mount a smaller directory"));
        }
        self.linked.extend(found.linked.into_iter().map(|(id, path)| (id, source.path.join(path))));
        for shadow in &shadows {
            match shadow.kind {
                ShadowKind::File | ShadowKind::Absent => self.shadowed.files += 1,
                ShadowKind::Directory => self.shadowed.directories += 1,
                ShadowKind::Special => self.shadowed.special += 1,
            }
        }
        let covers: Vec<(String, MountKind, String)> =
            shadows.iter().filter_map(|shadow| cover(target, shadow)).collect();
        let kind = MountKind::Merged { source: source.path.clone(), id: source.id, shadows };
        self.add(target, kind, Options::RO, reason, Some(source));
        for (target, kind, reason) in covers {
            let options = if matches!(kind, MountKind::DevNull) { Options::NULL } else { Options::RO };
            self.push(&target, kind, options, &reason);
        }
        Ok(())
    }

    /// A read-write directory or file: refused when anything in it would have to
    /// be hidden, because the agent could undo a shadow's surroundings there.
    fn add_writable(&mut self, around: &Surroundings<'_>, source: Source, target: &str, reason: &str) -> Result<()> {
        let mut git = Vec::new();
        if source.directory {
            let found = walk::search(&source.file, &around.blocked);
            if let Some(shadow) = found.shadows.first() {
                return Err(Error::refused(format!("mount {} read-write", source.path.display()))
                    .because(format!(
                        "it holds {}, which is blocked by {} ({} such names)",
                        shadow.path.display(),
                        shadow.rule,
                        found.shadows.len()
                    ))
                    .hint("mount it read-only (:ro), where blocked names are shadowed"));
            }
            git.extend(found.git_directories);
        }
        let root = source.path.clone();
        let kind = MountKind::Bind {
            source: root.clone(),
            id: Some(source.id),
            directory: source.directory,
            submounts: Vec::new(),
        };
        self.add(target, kind, Options::RW, reason, Some(source));
        self.protect_git(&root, target, &git)
    }

    /// Hooks and configuration of git directories run as the person: read-only.
    /// The directories on the way become mounts too, because a mount cannot be
    /// renamed, and with it what lies in it.
    fn protect_git(&mut self, root: &Path, target: &str, git: &[PathBuf]) -> Result<()> {
        let mut fixed: HashSet<PathBuf> = HashSet::from([PathBuf::new()]);
        for directory in git {
            let mut way = walk::ancestors_of(directory);
            way.push(directory.clone());
            for step in way {
                if fixed.insert(step.clone()) {
                    self.add_within(
                        root,
                        target,
                        &step,
                        Options::RW,
                        "so that the git directory in it cannot be renamed away",
                    )?;
                }
            }
            for name in ["config", "hooks", "config.worktree"] {
                let path = directory.join(name);
                if name == "config.worktree" && !root.join(&path).exists() {
                    continue;
                }
                self.add_within(root, target, &path, Options::RO, "git runs what it says as the person").map_err(
                    |error| {
                        error.hint(format!(
                            "mkdir -p '{}', or mount it read-only",
                            root.join(directory).join("hooks").display()
                        ))
                    },
                )?;
            }
        }
        Ok(())
    }

    fn add_within(&mut self, root: &Path, target: &str, path: &Path, options: Options, reason: &str) -> Result<()> {
        let source = Source::open(&root.join(path))?;
        let shown = path.to_str().ok_or_else(|| Error::refused(format!("mount {}: not UTF-8", path.display())))?;
        let kind = MountKind::Bind {
            source: source.path.clone(),
            id: Some(source.id),
            directory: source.directory,
            submounts: Vec::new(),
        };
        self.add(&join(target, shown), kind, options, reason, Some(source));
        Ok(())
    }

    /// Refuses a shadowed file that has another name in a mount: a hard link is
    /// the same file. `own` are belljar's own directories that are mounted too.
    pub fn check_links(&self, own: &[PathBuf]) -> Result<()> {
        if self.linked.is_empty() {
            return Ok(());
        }
        let wanted: HashSet<FileId> = self.linked.iter().map(|(id, _)| *id).collect();
        let mut seen = Vec::new();
        for (mount, source) in self.list.iter().zip(&self.sources) {
            let is_directory = matches!(
                mount.kind,
                MountKind::Bind { directory: true, .. } | MountKind::Merged { .. } | MountKind::Layered { .. }
            );
            if let Some(source) = source.as_ref().filter(|_| is_directory) {
                seen.extend(
                    walk::names_of(&source.file, &wanted).into_iter().map(|(id, path)| (id, source.path.join(path))),
                );
            } else if let Some(source) = source.as_ref().filter(|source| wanted.contains(&source.id)) {
                seen.push((source.id, source.path.clone()));
            }
        }
        for directory in own {
            if let Ok(file) = open_without_links(directory) {
                seen.extend(walk::names_of(&file, &wanted).into_iter().map(|(id, path)| (id, directory.join(path))));
            }
        }
        let hidden: HashSet<&PathBuf> = self.linked.iter().map(|(_, path)| path).collect();
        for (id, path) in &seen {
            if !hidden.contains(path) && !self.is_below_hidden(path) {
                let secret =
                    self.linked.iter().find(|(linked, _)| linked == id).map_or(Path::new("?"), |(_, path)| path);
                return Err(Error::refused(format!(
                    "{} is blocked, but the same file is also {}",
                    secret.display(),
                    path.display()
                ))
                .because("a hard link is the same file under another name, and that name lies in a mount")
                .hint(format!("rm '{}', or copy it instead of linking it", path.display())));
            }
        }
        Ok(())
    }

    fn is_below_hidden(&self, path: &Path) -> bool {
        self.list.iter().any(|mount| match &mount.kind {
            MountKind::Merged { source, shadows, .. } => {
                shadows.iter().any(|shadow| path.starts_with(source.join(&shadow.path)))
            }
            _ => false,
        })
    }

    /// Refuses two mounts of a person's at the same place, or one in the other.
    pub fn check_targets(&self, persons: &[String]) -> Result<()> {
        for (index, target) in persons.iter().enumerate() {
            let others =
                persons.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, target)| target.as_str());
            for other in others.chain(["/run/belljar", "/proc", "/sys", "/dev"]) {
                if Path::new(target).starts_with(other) {
                    return Err(Error::refused(format!("two mounts meet at {target}"))
                        .because(format!("{other} is mounted there too, and one would cover the other"))
                        .hint("give one of them another name: --mount SRC:NAME"));
                }
            }
        }
        Ok(())
    }
}

/// Restrictions of a mount; `nosuid` holds for all.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Cannot be written.
    pub readonly: bool,
    /// Device nodes do not work.
    pub nodev: bool,
    /// Programs cannot be executed.
    pub noexec: bool,
}

impl Options {
    /// Read-only files and programs.
    pub const RO: Self = Self { readonly: true, nodev: true, noexec: false };
    /// Read-write files and programs.
    pub const RW: Self = Self { readonly: false, nodev: true, noexec: false };
    /// Read-write data.
    pub const DATA: Self = Self { readonly: false, nodev: true, noexec: true };
    /// `/dev/null`, which `nodev` would make unusable.
    pub const NULL: Self = Self { readonly: true, nodev: false, noexec: true };
    /// A device of the host, as the runtime binds it.
    pub const DEVICE: Self = Self { readonly: false, nodev: false, noexec: true };

    fn mount(self, target: &str, kind: MountKind, reason: &str) -> Mount {
        let Self { readonly, nodev, noexec } = self;
        Mount { target: target.to_owned(), kind, readonly, nodev, noexec, reason: reason.to_owned() }
    }
}

/// `below` joined to `target`.
pub fn join(target: &str, below: &str) -> String {
    format!("{}/{below}", target.trim_end_matches('/'))
}

/// What is mounted over a shadow. A path that is not UTF-8 cannot be named in
/// an OCI bundle: there the overlay's own empty file hides it.
fn cover(target: &str, shadow: &Shadow) -> Option<(String, MountKind, String)> {
    let path = join(target, shadow.path.to_str()?);
    let reason = format!("hidden: {}", shadow.rule);
    Some((path, if shadow.kind == ShadowKind::Directory { MountKind::Empty } else { MountKind::DevNull }, reason))
}

/// The path inside of an extra mount: relative, without `..` and `:`.
fn extra_target(argument: &MountArgument, source: &Path) -> Result<String> {
    let below = match &argument.target {
        Some(target) => target.clone(),
        None => source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    check_characters(&below)?;
    let good = !below.starts_with('/') && below.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !good {
        return Err(Error::refused(format!("--mount {}: the path inside, `{below}`, is not allowed", argument.source))
            .because("it is taken below /workspace/extra, and must be relative, without `..`")
            .hint("for example --mount /srv/notes:notes"));
    }
    Ok(join("/workspace/extra", &below))
}
