//! What lies in directories, and what processes hold of it that has no name any
//! more, in bytes.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::{fs, io};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::Pid;

use crate::launch::tasks::each_below;
use crate::sys;

/// A tree deeper than this is not measured, and ends the run that made it: the
/// descriptors would run out.
pub const DEEPEST: usize = 256;
/// When a process that is closed is looked at again.
const CLOSED_FOR: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];
/// Unit of `st_blocks` in bytes (inode(7)).
const BLOCK: u64 = 512;
/// Open files that are looked at in one measure: looking at more would keep the
/// guard from its work for seconds.
const MOST_OPEN: usize = 100_000;

/// What lies in the places.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// What it takes on disk.
    pub bytes: u64,
    /// Directories and processes that the caller may not look into, because the
    /// agent said so.
    pub closed: u64,
    /// Something lies deeper than is measured.
    pub deep: bool,
}

/// A measure that is being taken.
#[derive(Debug, Default)]
pub struct Walk {
    /// What was found so far.
    pub tally: Tally,
    /// Files with several names, or none, that were counted.
    seen: HashSet<(u64, u64)>,
    devices: HashSet<u64>,
}

impl Walk {
    /// What `root` is and holds.
    pub fn place(&mut self, root: &impl AsFd) -> nix::Result<()> {
        let stat = fstat(root)?;
        self.devices.insert(stat.st_dev);
        self.add(&stat);
        if is_directory(&stat) { self.directory(root, c".", (stat.st_dev, 0)) } else { Ok(()) }
    }

    fn add(&mut self, stat: &FileStat) {
        if is_directory(stat) || stat.st_nlink < 2 || self.seen.insert((stat.st_dev, stat.st_ino)) {
            self.tally.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
        }
    }

    /// What processes below `launcher` have open, on the places' devices, that has
    /// no name any more.
    pub fn processes(&mut self, launcher: Pid) -> std::result::Result<(), String> {
        let (mut looked, closed_before) = (0, self.tally.closed);
        let depth = namespaces_of(&status(launcher, launcher)).len();
        let mut tables = Tables::default();
        each_below(launcher, |process, threads| {
            // Threads may have tables of their own (clone(2), CLONE_FILES), and the first one may be gone.
            let new = threads.iter().filter(|thread| tables.is_new(**thread));
            let mut paths = vec![PathBuf::from(format!("/proc/{process}/exe"))];
            for thread in new {
                // One that is closed for good is enough to know.
                let patience = if self.tally.closed > closed_before { &[] as &[Duration] } else { &CLOSED_FOR };
                match open_files(process, *thread, depth, patience) {
                    Ok(files) => paths.extend(files),
                    Err(Closed) => self.tally.closed += 1,
                }
                if looked + paths.len() > MOST_OPEN {
                    break;
                }
            }
            looked += paths.len();
            for path in paths {
                let Ok(meta) = fs::metadata(path) else { continue };
                if meta.nlink() == 0 && self.devices.contains(&meta.dev()) && self.seen.insert((meta.dev(), meta.ino()))
                {
                    self.tally.bytes += meta.blocks() * BLOCK;
                }
            }
            looked <= MOST_OPEN
        });
        if looked > MOST_OPEN {
            return Err(format!(
                "the run has more than {MOST_OPEN} open files: what they hold cannot be measured (--disk)"
            ));
        }
        Ok(())
    }

    /// What is in the directory `name` of `parent`, on the same file system. No
    /// link is followed: the agent may change everything meanwhile.
    fn directory(
        &mut self,
        parent: &impl AsFd,
        name: &std::ffi::CStr,
        (device, depth): (u64, usize),
    ) -> nix::Result<()> {
        if depth > DEEPEST {
            self.tally.deep = true;
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut directory = match Dir::openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::EACCES | Errno::EPERM) => {
                self.tally.closed += 1;
                return Ok(());
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let names: Vec<_> = directory.iter().filter_map(|entry| Some(entry.ok()?.file_name().to_owned())).collect();
        for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            let Ok(stat) = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_dev != device {
                continue;
            }
            self.add(&stat);
            if is_directory(&stat) {
                self.directory(&directory, name, (device, depth + 1))?;
            }
        }
        Ok(())
    }
}

/// Tables of open files that were looked at, each by a thread that has it, in the
/// kernel's order.
#[derive(Default)]
struct Tables(Vec<Pid>);

impl Tables {
    /// Whether nobody has shown this thread's table before. One that cannot be
    /// compared is new: it is better looked at twice.
    fn is_new(&mut self, thread: Pid) -> bool {
        let mut failed = false;
        let place = self.0.binary_search_by(|known| {
            sys::compare_files(*known, thread).unwrap_or_else(|_| {
                failed = true;
                Ordering::Less
            })
        });
        match place {
            Ok(_) if !failed => return false,
            Err(at) if !failed => self.0.insert(at, thread),
            _ => {}
        }
        true
    }
}

/// Nobody may look into it.
struct Closed;

/// The names of what a thread has open; none of one that has ended. An ordinary
/// user's process can close itself to its user (prctl(2), PR_SET_DUMPABLE). A child
/// of init's is closed until it is the agent, so each is tried again for a moment;
/// whatever it opens itself for then, is seen.
fn open_files(
    process: Pid,
    thread: Pid,
    depth: usize,
    patience: &[Duration],
) -> std::result::Result<Vec<PathBuf>, Closed> {
    let mut pauses = patience.iter();
    loop {
        match fs::read_dir(format!("/proc/{process}/task/{thread}/fd")) {
            Ok(entries) => return Ok(entries.flatten().map(|entry| entry.path()).collect()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && has_closed(process, thread, depth) => {
                thread::sleep(*pauses.next().ok_or(Closed)?);
            }
            Err(_) => return Ok(Vec::new()),
        }
    }
}

/// Whether a thread that nobody may look into has memory, and so is not about to
/// end, and is the agent's: in the container's process namespace, deeper than the
/// launcher's, in which PID 1 is belljar's own.
fn has_closed(process: Pid, thread: Pid, depth: usize) -> bool {
    let status = status(process, thread);
    let ids = namespaces_of(&status);
    ids.len() > depth && ids.last() != Some(&"1") && status.lines().any(|line| line.starts_with("VmSize:"))
}

fn status(process: Pid, thread: Pid) -> String {
    fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).unwrap_or_default()
}

/// The ids in each process namespace, outermost first (proc_pid_status(5), NSpid).
fn namespaces_of(status: &str) -> Vec<&str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .map_or_else(Vec::new, |ids| ids.split_whitespace().collect())
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}
