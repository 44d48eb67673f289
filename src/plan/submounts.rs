//! The mount table, as in proc_pid_mountinfo(5).

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's id.
    pub id: u64,
    /// Id of the mount that it is mounted on.
    pub parent: u64,
    /// `major:minor` of the file system.
    pub device: String,
    /// Which directory of the file system is mounted.
    pub root: String,
    /// Where.
    pub target: String,
    /// Options of this mount: `ro`, `nosuid`, …
    pub options: Vec<String>,
    /// `shared:`, `master:` and so on.
    pub propagation: Vec<String>,
    /// File system type.
    pub fstype: String,
    /// What was mounted: a device, where there is one.
    pub source: String,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

impl MountEntry {
    /// Whether the mount has the option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|have| have == option)
    }
}

/// Reads a mountinfo file.
pub fn read_mountinfo(path: &Path) -> Result<Vec<MountEntry>> {
    let text = fs::read(path).step(|| format!("read {}", path.display()))?;
    String::from_utf8_lossy(&text)
        .lines()
        .map(|line| parse(line).ok_or_else(|| Error::failed(format!("{}: unexpected line: {line}", path.display()))))
        .collect()
}

fn parse(line: &str) -> Option<MountEntry> {
    let mut fields = line.split(' ');
    let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let (device, root, target, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let propagation = fields.by_ref().take_while(|field| *field != "-").map(str::to_owned).collect();
    let (fstype, source, super_options) = (fields.next()?, fields.next()?, fields.next().unwrap_or(""));
    let list = |options: &str| options.split(',').map(str::to_owned).collect();
    Some(MountEntry {
        id,
        parent,
        device: device.to_owned(),
        root: unescape(root),
        target: unescape(target),
        options: list(options),
        propagation,
        fstype: fstype.to_owned(),
        source: unescape(source),
        super_options: list(super_options),
    })
}

/// Undoes the octal escapes of blanks, tabs, line feeds and backslashes.
fn unescape(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The mounts strictly below `directory`, relative to it, each once.
pub fn below(mounts: &[MountEntry], directory: &Path) -> Vec<String> {
    let mut found: Vec<String> = mounts
        .iter()
        .filter_map(|mount| Path::new(&mount.target).strip_prefix(directory).ok())
        .filter(|rest| !rest.as_os_str().is_empty())
        .map(|rest: &Path| PathBuf::from(rest).to_string_lossy().into_owned())
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields() {
        let entry =
            parse(r"36 35 98:0 /a\040b /mnt/c\134d rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue")
                .expect("a line of proc(5)");
        assert_eq!((entry.root.as_str(), entry.target.as_str()), ("/a b", r"/mnt/c\d"));
        assert_eq!(entry.propagation, ["master:1", "shared:2"]);
        assert!(entry.has("noatime") && !entry.has("ro"));
        assert_eq!((entry.fstype.as_str(), entry.source.as_str()), ("ext3", "/dev/root"));
    }

    #[test]
    fn below_is_by_component() {
        let mount = |target: &str| MountEntry {
            id: 0,
            parent: 0,
            device: String::new(),
            root: "/".into(),
            target: target.into(),
            options: vec![],
            propagation: vec![],
            fstype: String::new(),
            source: String::new(),
            super_options: vec![],
        };
        let mounts = [mount("/a"), mount("/a/b"), mount("/ab"), mount("/a/b"), mount("/a/b/c")];
        assert_eq!(below(&mounts, Path::new("/a")), ["b", "b/c"]);
    }
}
