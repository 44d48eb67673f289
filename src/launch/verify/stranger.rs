//! Programs that a runtime runs in the place of the init, before it reports.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::super::staging::staged;
use super::Stamp;

/// While the init has not reported: the process that is to become PID 1 of
/// podman's container executes neither of the programs that it may.
pub fn stranger_as(pid: Pid, programs: &[Stamp; 2]) -> Option<String> {
    let exe = PathBuf::from(format!("/proc/{pid}/exe"));
    let stamp = Stamp::of(&exe).ok().filter(|stamp| !programs.contains(stamp))?;
    let name = fs::read_link(&exe).unwrap_or_default();
    // Not while it executes the next one.
    (Stamp::of(&exe).ok()? == stamp).then(|| found(&name))
}

fn found(name: &Path) -> String {
    format!("program of PID 1: the plan has belljar's init, the kernel {}", name.display())
}

/// Bytes of two files that are compared at once.
const PIECE: usize = 1 << 16;

/// Programs by device and inode.
pub type Programs = Vec<(u64, u64)>;

/// While the init has not reported: a PID 1 of a process namespace below ours
/// that runs neither the init nor what the runtime itself runs (it is a copy of
/// the runtime until it executes the init) is a cheat. `ours` are the runtime's
/// programs; it may end before that copy executes the init, so they are kept.
/// runc also runs itself from a copy in memory (memfd_create(2)), which counts
/// as the file whose bytes it has.
pub fn stranger_as_pid_1(ours: &mut Programs) -> Option<String> {
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let init = identity(&staged("belljar/init"))?;
    ours.extend(identity(&staged("runtime")));
    let mut first = Vec::new();
    let mut files = vec![staged("runtime")];
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let process = entry.path();
        let Ok(status) = fs::read_to_string(process.join("status")) else { continue };
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let pids: Vec<&str> = pids.split_whitespace().collect();
        let Some(exe) = identity(&process.join("exe")) else { continue };
        match pids.as_slice() {
            [_] => {
                ours.push(exe);
                files.push(process.join("exe"));
            }
            [.., "1"] => first.push((exe, process.join("exe"))),
            _ => {}
        }
    }
    ours.sort_unstable();
    ours.dedup();
    for (exe, path) in first {
        if exe == init || ours.contains(&exe) {
            continue;
        }
        let name = fs::read_link(&path).unwrap_or_default();
        if name.as_os_str().as_bytes().starts_with(b"/memfd:") && files.iter().any(|file| same_bytes(&path, file)) {
            ours.push(exe);
            continue;
        }
        return Some(found(&name));
    }
    None
}

/// Whether two files have the same content.
fn same_bytes(one: &Path, other: &Path) -> bool {
    let (Ok(mut one), Ok(mut other)) = (File::open(one), File::open(other)) else { return false };
    let length = |file: &File| file.metadata().map(|meta| meta.len()).ok();
    if length(&one) != length(&other) {
        return false;
    }
    let (mut its, mut others) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let Ok(read) = one.read(&mut its) else { return false };
        if other.read_exact(&mut others[..read]).is_err() || its[..read] != others[..read] {
            return false;
        }
        if read == 0 {
            return true;
        }
    }
}
