//! What is none of the host process's business.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Host, files_with, message};

/// In what must neither be read nor written; valid as a message, too.
pub const OUTSIDE: &str = "outside-secret-7c41ee";

/// Something that is none of the host process's business.
pub struct Outside {
    /// Where it is.
    pub file: PathBuf,
    content: Vec<u8>,
    meta: (i64, i64, u64, u64),
}

impl Outside {
    /// Makes it.
    pub fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.parent().expect("it has one")).expect("make a directory");
        fs::write(&path, message(OUTSIDE)).expect("write a file");
        Self { content: fs::read(&path).expect("read it"), meta: Self::look(&path), file: path }
    }

    fn look(path: &Path) -> (i64, i64, u64, u64) {
        let meta = fs::symlink_metadata(path).expect("look at it");
        (meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len())
    }

    /// It is as it was, and what it holds is nowhere among the data but where it was.
    pub fn is_untouched(&self, host: &Host) {
        assert_eq!(Self::look(&self.file), self.meta, "it was written");
        assert_eq!(fs::read(&self.file).expect("read it"), self.content);
        let found = files_with(&host.jar.path("belljar"), OUTSIDE.as_bytes());
        assert!(found.iter().all(|path| *path == self.file), "{found:?}");
        assert!(!host.log().contains(OUTSIDE), "{}", host.log());
    }
}

/// A hostile group and an honest one.
pub fn world() -> (Host, Outside) {
    let host = Host::start(&["bad", "good"]);
    let outside = Outside::new(host.jar.path("outside/host.json"));
    (host, outside)
}
