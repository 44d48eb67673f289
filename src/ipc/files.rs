//! Reading and writing in directories that an agent can write, through held
//! descriptors: nothing that was planted there is followed, waited for, or read
//! beyond its limit (openat2(2), RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, fstat, openat2, renameat, statat, unlinkat,
};

/// Beneath a directory, and by no link.
const SAFELY: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Opens a directory below another.
pub fn directory(at: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat2(at, name, flags, Mode::empty(), SAFELY)?)
}

/// What keeps a file from being read.
#[derive(Debug)]
pub enum Unreadable {
    /// It is not what it should be: in words.
    Not(String),
    /// The system says no.
    System(io::Error),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Opens a plain file of `owner`'s that has one name and at most `limit` bytes.
pub fn plain(at: BorrowedFd<'_>, name: &OsStr, (owner, limit): (u32, u64)) -> Result<File, Unreadable> {
    let not = |why: String| Err(Unreadable::Not(why));
    // To open a device can do something already (watchdog(4), st(4)).
    let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return not(format!("it is not a plain file, but {}", called(kind)));
    }
    // It can be another one by now. A FIFO would be waited for otherwise, and a
    // terminal would become ours.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat2(at, name, flags, Mode::empty(), SAFELY).map_err(io::Error::from)?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return not("it is not a plain file".to_owned());
    }
    if meta.uid() != owner {
        return not(format!("it belongs to uid {}, not to {owner}", meta.uid()));
    }
    if meta.nlink() != 1 {
        return not("it has another name too: a hard link".to_owned());
    }
    if meta.len() > limit {
        return not(format!("it has {} bytes, more than {limit}", meta.len()));
    }
    Ok(file)
}

fn called(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::Directory => "a directory",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

/// Reads what [`plain`] opened, as it is at this moment.
pub fn read(file: &mut File, limit: u64) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Unreadable::Not(format!("it grew to more than {limit} bytes while it was read")));
    }
    Ok(bytes)
}

/// Writes a file below a directory, all of it or nothing; what has the name is
/// replaced, and never written into. It belongs to who has the directory.
pub fn write(at: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut random = [0u8; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no random bytes"))?;
    let temporary = format!(".belljar-{:016x}.tmp", u64::from_ne_bytes(random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat2(at, &temporary, flags, Mode::from(0o600), SAFELY)?);
    let result = (|| {
        let owner = fstat(at)?;
        let made = fstat(&file)?;
        if (made.st_uid, made.st_gid) != (owner.st_uid, owner.st_gid) {
            fchown(file.as_fd(), Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))?;
        }
        file.write_all(bytes)?;
        renameat(at, &temporary, at, name)?;
        Ok(())
    })();
    if result.is_err() {
        // What the agent has put in its place meanwhile goes too.
        let _ = unlinkat(at, &temporary, AtFlags::empty());
    }
    result
}
