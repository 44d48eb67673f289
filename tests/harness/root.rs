//! A root to unpack: for `--rootfs DIR`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Jar, system_program};

/// What the promises of most tests need.
const PROGRAMS: [&str; 5] = ["sh", "ls", "cat", "id", "touch"];

/// Unpacks a small root into the jar: a few of the host's programs with their
/// libraries, and `more` of them.
pub fn unpacked_root(jar: &Jar, more: &[&str]) -> PathBuf {
    let root = jar.path("root");
    let mut files = BTreeSet::new();
    for name in PROGRAMS.iter().chain(more) {
        let program = system_program(name).expect("every host has it");
        let libraries = Command::new("ldd").arg(&program).output().expect("ldd is there");
        let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
        files.extend(libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        files.insert(Path::new("/bin").join(name));
    }
    for file in files {
        let to = root.join(file.strip_prefix("/").expect("it is absolute"));
        fs::create_dir_all(to.parent().expect("it has one")).expect("make a directory");
        fs::copy(fs::canonicalize(&file).expect("it is there"), to).expect("copy a file");
    }
    jar.write("root/etc/os-release", "NAME=small\n");
    jar.write("root/etc/passwd", "planted\n");
    jar.write("root/srv/data", "of the root\n");
    root
}
