//! Which names hold credentials.
//!
//! Two rules with different reach: a mount's own path is blocked when any of
//! its components *contains* a pattern (NanoClaw's rule); names below a mount
//! are matched whole, by glob, and private keys in `*.pem` and `*.key` by
//! content, because there a substring would hide half of a source tree.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{Mode, OFlags, openat};

use crate::error::{Context, Result};

/// NanoClaw's default patterns.
pub const DEFAULT_PATTERNS: [&str; 17] = [
    ".ssh",
    ".gnupg",
    ".gpg",
    ".aws",
    ".azure",
    ".gcloud",
    ".kube",
    ".docker",
    "credentials",
    ".env",
    ".netrc",
    ".npmrc",
    ".pypirc",
    "id_rsa",
    "id_ed25519",
    "private_key",
    ".secret",
];

/// Names below a mount that are blocked beyond the patterns as whole names.
const DEFAULT_PREFIXES: [&str; 4] = [".env.", "id_rsa", "id_ed25519", "id_ecdsa"];
const DEFAULT_NAMES: [&str; 3] = [".git-credentials", ".secrets", ".pgpass"];
const KEY_SUFFIXES: [&str; 2] = [".pem", ".key"];

/// How much of a file is searched for a private key, in bytes.
const KEY_SEARCH: u64 = 256 << 10;

/// Which names hold credentials.
#[derive(Debug, Clone)]
pub struct Blocked {
    user_patterns: Vec<String>,
    user_globs: GlobSet,
}

impl Blocked {
    /// The default patterns and the person's own.
    pub fn new(user_patterns: &[String]) -> Result<Self> {
        let mut globs = GlobSetBuilder::new();
        for pattern in user_patterns {
            let glob: Glob = GlobBuilder::new(pattern)
                .case_insensitive(true)
                .build()
                .refuse(|| format!("blocked pattern `{pattern}`"))?;
            globs.add(glob);
        }
        let user_globs = globs.build().refuse(|| "blocked patterns".to_owned())?;
        Ok(Self { user_patterns: user_patterns.to_vec(), user_globs })
    }

    /// The pattern that a component of the mount's own path contains, if any.
    pub fn in_path(&self, path: &Path) -> Option<String> {
        let patterns = || DEFAULT_PATTERNS.into_iter().chain(self.user_patterns.iter().map(String::as_str));
        path.iter().find_map(|component| {
            let component = component.to_string_lossy().to_lowercase();
            patterns().find(|pattern| component.contains(&pattern.to_lowercase())).map(str::to_owned)
        })
    }

    /// The rule that blocks a name below a mount, by the name alone.
    pub fn by_name(&self, name: &[u8]) -> Option<String> {
        let exact = |pattern: &&str| name.eq_ignore_ascii_case(pattern.as_bytes());
        let prefix = |pattern: &&str| {
            name.len() > pattern.len() && name[..pattern.len()].eq_ignore_ascii_case(pattern.as_bytes())
        };
        if let Some(pattern) = DEFAULT_PATTERNS.iter().chain(&DEFAULT_NAMES).find(|pattern| exact(pattern)) {
            return Some((*pattern).to_owned());
        }
        if let Some(pattern) = DEFAULT_PREFIXES.iter().find(|pattern| prefix(pattern) || exact(pattern)) {
            return Some(format!("{pattern}*"));
        }
        if self.user_patterns.is_empty() {
            return None;
        }
        let name = String::from_utf8_lossy(name);
        let hits = self.user_globs.matches(Path::new(name.as_ref()));
        hits.first().map(|&index| self.user_patterns[index].clone())
    }

    /// The rule that blocks a regular file below a mount by its content.
    pub fn by_content(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Option<String> {
        let suffix = KEY_SUFFIXES.iter().find(|suffix| {
            name.len() > suffix.len() && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
        })?;
        let rule = format!("*{suffix} with a private key");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        // What cannot be read cannot be judged, and the agent cannot read it either.
        let file = openat(directory, name, flags, Mode::empty()).ok()?;
        let mut start = Vec::new();
        File::from(file).take(KEY_SEARCH).read_to_end(&mut start).ok()?;
        let marker = b"PRIVATE KEY";
        start.windows(marker.len()).any(|window| window == marker).then_some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked() -> Blocked {
        Blocked::new(&["password".to_owned(), "*.kdbx".to_owned()]).expect("valid patterns")
    }

    #[test]
    fn below_a_mount_whole_names_and_globs_match() {
        for name in [
            ".env",
            ".ENV",
            ".env.local",
            "id_rsa",
            "id_rsa.pub",
            "id_ed25519_work",
            ".ssh",
            "credentials",
            "password",
            "a.kdbx",
        ] {
            assert!(blocked().by_name(name.as_bytes()).is_some(), "{name}");
        }
        for name in
            ["env", ".environment", "credentials.rs", "my_id_rsa", "passwords.rs", "README.md", "private_key.rs"]
        {
            assert!(blocked().by_name(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn in_its_own_path_a_part_of_a_component_matches() {
        assert_eq!(blocked().in_path(Path::new("/home/u/.ssh/x")).as_deref(), Some(".ssh"));
        assert_eq!(blocked().in_path(Path::new("/srv/my-credentials-old")).as_deref(), Some("credentials"));
        assert_eq!(blocked().in_path(Path::new("/srv/passwords")).as_deref(), Some("password"));
        assert_eq!(blocked().in_path(Path::new("/srv/project")), None);
    }
}
