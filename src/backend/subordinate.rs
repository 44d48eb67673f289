//! Subordinate ids (subuid(5), subgid(5)): more ids than its own that an
//! ordinary user may map, by newuidmap and newgidmap.

use std::fs;

use nix::unistd::{Uid, User};

use super::find::search;
use crate::config::Caller;
use crate::error::{Error, Result};

/// The first ranges of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subordinate {
    /// First uid on the host.
    pub uid: u32,
    /// First gid on the host.
    pub gid: u32,
}

/// The caller's ranges, which must hold as many ids as `needed`; an error says
/// why they cannot be used by `what`.
pub fn ranges(caller: &Caller, what: &str, needed: u64) -> Result<Subordinate> {
    let user = User::from_uid(Uid::from_raw(caller.uid)).ok().flatten();
    let name = user.map(|user| user.name).unwrap_or_default();
    let refused = |why: String| {
        Error::refused(format!("{what} cannot be used by {name}")).because(why).hint(format!(
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}, or use crun, which needs none"
        ))
    };
    let first = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let mut found = owned(&text, &[&name, &caller.uid.to_string()]);
        let count: u64 = found.iter().map(|(_, count)| count).sum();
        if count < needed || found.is_empty() {
            return Err(refused(format!("{file} gives {name} {count} subordinate ids; {needed} are needed")));
        }
        Ok(found.remove(0).0)
    };
    let ranges = Subordinate { uid: first("/etc/subuid")?, gid: first("/etc/subgid")? };
    if search("newuidmap").is_none() || search("newgidmap").is_none() {
        return Err(refused("newuidmap and newgidmap are not installed".to_owned()).hint("apt-get install uidmap"));
    }
    Ok(ranges)
}

/// `(first, count)` of each range of one of the owners.
fn owned(text: &str, owners: &[&str]) -> Vec<(u32, u64)> {
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (owners.contains(&owner) && count > 0).then_some((first, count))
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_or_by_number() {
        let text = "ann:100000:65536\n1001:300000:10\nbob:1:x\nann:7:0\n";
        assert_eq!(owned(text, &["ann", "1000"]), [(100_000, 65536)]);
        assert_eq!(owned(text, &["eve", "1001"]), [(300_000, 10)]);
        assert_eq!(owned(text, &["bob", "1002"]), []);
    }
}
