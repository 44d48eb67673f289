//! How the host process hears at once that something was changed in the store by
//! another process: a run's listener, or a person's command. The store alone counts;
//! a bell that nobody hears loses nothing.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::Store;
use crate::config::Dirs;

/// The file that is closed after writing: inotify(7), IN_CLOSE_WRITE.
pub fn bell(dirs: &Dirs) -> PathBuf {
    dirs.data.join("bell")
}

impl Store {
    /// Says that something was changed.
    pub fn ring(&self) {
        let path = bell(&self.dirs);
        // What cannot be rung is found at the host's next look.
        drop(File::options().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path));
    }
}
