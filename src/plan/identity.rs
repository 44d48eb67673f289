//! Who the agent is on the host.

use std::fs;

use super::{AGENT_ID, FileOwnership, IdMap, Identity};
use crate::config::{Backend, Caller, Group};
use crate::error::{Error, Result};

/// First host id of the range for runs by root. The range lies above what
/// distributions, systemd (Users, Groups, UIDs and GIDs on systemd Systems) and
/// container tools hand out, and below 2^31.
const HOST_ID_BASE: u32 = 1_900_000_000;
/// Ids of each group in the range: one for the runtime, one for the agent.
const GROUP_ID_STEP: u32 = 2;

/// Resolves the id maps. As an ordinary user the agent is the caller, whatever
/// the caller's uid; as root it is an unprivileged id of the group's own, and so
/// is the runtime.
pub fn resolve(caller: &Caller, group: &Group, backend: Backend) -> Result<Identity> {
    if caller.uid == 0 && !caller.is_root {
        return Err(Error::refused("the caller is uid 0 without the capabilities SYS_ADMIN, SETUID and SETGID")
            .because("the agent would be uid 0 on the host, and no other id can be mapped")
            .hint("call belljar as an ordinary user, or as root with its capabilities"));
    }
    if !caller.is_root {
        let one = |outside| vec![IdMap { inside: 0, outside, count: 1 }];
        return Ok(Identity {
            inside: AGENT_ID,
            host_uid: caller.uid,
            host_gid: caller.gid,
            launcher_uids: one(caller.uid),
            launcher_gids: one(caller.gid),
            in_launcher: 0,
            files: FileOwnership::Caller,
            reason: "the agent's host id is the caller's; no other id is mapped".to_owned(),
        });
    }
    let runtime = HOST_ID_BASE + group.number * GROUP_ID_STEP;
    let agent = runtime + 1;
    for id in [runtime, agent] {
        check_unused(id)?;
    }
    let maps =
        vec![IdMap { inside: 0, outside: runtime, count: 1 }, IdMap { inside: AGENT_ID, outside: agent, count: 1 }];
    Ok(Identity {
        inside: AGENT_ID,
        host_uid: agent,
        host_gid: agent,
        launcher_uids: maps.clone(),
        launcher_gids: maps,
        // Below podman the launcher stays in the host's own user namespace.
        in_launcher: if backend == Backend::Podman { agent } else { AGENT_ID },
        files: FileOwnership::Idmapped,
        reason: format!(
            "called by root: the agent is host id {agent}, the runtime {runtime}; id-mapped mounts give files to the owner of the mounted directory"
        ),
    })
}

/// Refuses an id that a user or a range of subordinate ids has (subuid(5)).
fn check_unused(id: u32) -> Result<()> {
    let taken = |by: String| {
        Err(Error::refused(format!("host id {id} is taken by {by}"))
            .because("runs by root use a reserved range that nobody else may have")
            .hint("belljar run --as-user NAME, or take the id out of that range"))
    };
    for line in fs::read_to_string("/etc/passwd").unwrap_or_default().lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) {
            if uid.parse() == Ok(id) {
                return taken(format!("user {name}"));
            }
        }
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let mut fields = line.split(':');
            let (Some(owner), Some(Ok(start)), Some(Ok(count))) =
                (fields.next(), fields.next().map(str::parse::<u64>), fields.next().map(str::parse::<u64>))
            else {
                continue;
            };
            if (start..start.saturating_add(count)).contains(&u64::from(id)) {
                return taken(format!("{owner} in {file}"));
            }
        }
    }
    Ok(())
}
