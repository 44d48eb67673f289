//! Subordinate ids (subuid(5), subgid(5)): more ids than its own that an
//! ordinary user may map, by newuidmap and newgidmap.

use std::fs;

use nix::unistd::{Uid, User};

use super::find::search;
use crate::config::Caller;
use crate::error::{Error, Result};

/// Where useradd(8) begins, and how many ids it gives (login.defs(5), SUB_UID_MIN
/// and SUB_UID_COUNT).
const FIRST: u64 = 100_000;
const RANGE: u64 = 65_536;

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
        let text = |file| fs::read_to_string(file).unwrap_or_default();
        let free = free_range(&[text("/etc/subuid"), text("/etc/subgid")].concat());
        Error::refused(format!("{what} cannot be used by {name}")).because(why).hint(format!(
            "sudo usermod --add-subuids {free} --add-subgids {free} {name}, or use crun, which needs none"
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
    ranges_in(text).filter(|(owner, ..)| owners.contains(owner)).map(|(_, first, count)| (first, count)).collect()
}

/// `(owner, first, count)` of each line.
fn ranges_in(text: &str) -> impl Iterator<Item = (&str, u32, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0).then_some((owner, first, count))
    })
}

/// A range that nobody has, as usermod(8) takes it.
fn free_range(text: &str) -> String {
    let last = |first: u64| first + RANGE - 1;
    let taken = |first: &u64| {
        ranges_in(text).any(|(_, its, count)| u64::from(its) <= last(*first) && *first < u64::from(its) + count)
    };
    let first = (0..).map(|number| FIRST + number * RANGE).find(|first| !taken(first)).unwrap_or(FIRST);
    format!("{first}-{}", last(first))
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

    #[test]
    fn a_free_range_is_nobodys() {
        assert_eq!(free_range(""), "100000-165535");
        assert_eq!(free_range("ann:165535:1\nbob:300000:10\n"), "165536-231071");
        assert_eq!(free_range("ann:100000:65536\nbob:165536:65536\n"), "231072-296607");
    }
}
