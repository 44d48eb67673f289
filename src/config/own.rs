//! Reading the files that decide what agents may do.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::{getegid, geteuid};

use crate::error::{Context, Error, Result};

/// Longest file, in bytes.
const LONGEST: u64 = 16 << 20;

/// The text of a file; `None` when it is not there. Refused when it is a link to
/// nothing, no file, too long, or can be written by others: whoever writes it
/// decides what agents may do.
pub fn read_own(path: &Path) -> Result<Option<String>> {
    let what = || format!("read {}", path.display());
    // Whoever can write the directory can take the file away.
    if let Some(directory) = path.parent()
        && let Ok(meta) = fs::metadata(directory)
    {
        check_owner(directory, &meta).map_err(|error| Error { what: what(), ..error })?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.refuse(what)?,
    };
    // A FIFO would be waited for otherwise (open(2), O_NONBLOCK).
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| {
        Error::refused(what()).because(error).hint(format!("ls -l {0}; mend it, or rm {0}", path.display()))
    })?;
    let meta = file.metadata().refuse(what)?;
    if !meta.is_file() {
        return Err(Error::refused(what())
            .because("it is not a file")
            .hint(format!("ls -ld {0}; mend it, or remove it", path.display())));
    }
    check_owner(path, &meta).map_err(|error| Error { what: what(), ..error })?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).refuse(what)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::refused(what()).because("it is larger than 16 MiB").hint("make it smaller"));
    }
    String::from_utf8(bytes).map(Some).refuse(what)
}

/// Refuses what others than the caller and root can write.
fn check_owner(path: &Path, meta: &Metadata) -> Result<()> {
    let (uid, mode) = (geteuid().as_raw(), meta.mode());
    if meta.uid() != uid && meta.uid() != 0 {
        return Err(Error::refused("")
            .because(format!("{} belongs to uid {}, who could change what agents may do", path.display(), meta.uid()))
            .hint(format!("chown {uid} {}", path.display())));
    }
    // A group of the person's own is as good as the person (umask 002).
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && meta.gid() != getegid().as_raw()) {
        return Err(Error::refused("")
            .because(format!(
                "others can write {} (mode {:04o}), and change what agents may do",
                path.display(),
                mode & 0o7777
            ))
            .hint(format!("chmod go-w {}", path.display())));
    }
    Ok(())
}
