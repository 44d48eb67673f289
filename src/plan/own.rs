//! No mount may contain belljar's own directories or key files, or lie in them.

use std::path::{Path, PathBuf};

use super::beneath::open_without_links;
use super::source::{FileId, Source, identify};
use crate::config::Dirs;
use crate::error::{Error, Result};

/// belljar's own directories, by path and by identity.
#[derive(Debug)]
pub struct OwnPlaces {
    places: Vec<(PathBuf, Vec<FileId>)>,
}

impl OwnPlaces {
    /// Reads where the directories and key files are now; those that are not there yet are
    /// compared by path, and by the identity of the parents that exist.
    pub fn new(dirs: &Dirs, key_files: &[PathBuf]) -> Self {
        let places = dirs.all().into_iter().chain(key_files.iter().map(PathBuf::as_path)).map(|place| {
            let real = real_path(place);
            let identities =
                real.ancestors().filter_map(|ancestor| identify(open_without_links(ancestor).ok()?).ok()).collect();
            (real, identities)
        });
        Self { places: places.collect() }
    }

    /// Refuses a source that contains one of them or lies in one, also when it
    /// is reached by another path (a bind mount of the host).
    pub fn check(&self, source: &Source) -> Result<()> {
        for (place, identities) in &self.places {
            let contains = place.starts_with(&source.path) || identities.contains(&source.id);
            let refusal = if contains {
                "contains"
            } else if source.path.starts_with(place) {
                "lies in"
            } else {
                continue;
            };
            return Err(Error::refused(format!("mount {}", source.path.display()))
                .because(format!("it {refusal} belljar's own {}, which no agent may see", place.display()))
                .hint("mount a directory below it, or one elsewhere"));
        }
        Ok(())
    }
}

/// `path` with the longest part that exists made real.
pub fn real_path(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}
