//! Who the agent is on the host.

use std::fs;

use super::{AGENT_ID, FileOwnership, IdMap, Identity, Runtime};
use crate::backend::{self, RootId};
use crate::config::{Backend, Caller, Group};
use crate::error::{Error, Result};

/// The launcher's id to which the container's 0 is mapped, where it must be.
const SPARE: u32 = 1;
/// First host id of the range for runs by root. The range lies above what
/// distributions, systemd (Users, Groups, UIDs and GIDs on systemd Systems) and
/// container tools hand out, and below 2^31.
pub const HOST_ID_BASE: u32 = 1_900_000_000;
/// Ids of each group in the range: one for the runtime, one for the agent, and
/// one that owns nothing, for runtimes that need the container's id 0 mapped.
const GROUP_ID_STEP: u32 = 3;

/// Resolves the id maps. As an ordinary user the agent is the caller, whatever
/// the caller's uid; as root it is an unprivileged id of the group's own, and so
/// is the runtime.
pub fn resolve(caller: &Caller, group: &Group, runtime: &Runtime) -> Result<Identity> {
    if caller.uid == 0 && !caller.is_root {
        return Err(Error::refused("the caller is uid 0 without the capabilities SYS_ADMIN, SETUID and SETGID")
            .because("the agent would be uid 0 on the host, and no other id can be mapped")
            .hint(
                "call belljar as an ordinary user, or as root with its capabilities (podman run --cap-add SYS_ADMIN)",
            ));
    }
    let root_id = runtime.kind.runtime().root_id();
    if caller.is_root { of_root(group, runtime.backend, root_id) } else { of_user(caller, runtime, root_id) }
}

fn one(inside: u32, outside: u32) -> IdMap {
    IdMap { inside, outside, count: 1 }
}

fn of_user(caller: &Caller, runtime: &Runtime, root_id: RootId) -> Result<Identity> {
    let (mut uids, mut gids) = (vec![one(0, caller.uid)], vec![one(0, caller.gid)]);
    let mut container = vec![one(AGENT_ID, 0)];
    let mut reason = "the agent's host id is the caller's; no other id is mapped".to_owned();
    if runtime.backend == Backend::Podman {
        // podman's own map, in podman's own user namespace.
        (uids, gids, container) = (Vec::new(), Vec::new(), Vec::new());
        reason = "the agent's host id is the caller's; podman maps subordinate ids around it (keep-id)".to_owned();
    } else if root_id == RootId::Mapped {
        let name = runtime.kind.runtime().name();
        let spare = backend::ranges(caller, &format!("the runtime {name}"), 1)?;
        uids.push(one(SPARE, spare.uid));
        gids.push(one(SPARE, spare.gid));
        container.insert(0, one(0, SPARE));
        reason = format!(
            "the agent's host id is the caller's; {name} needs the container's id 0 mapped: it is the subordinate id {}, which owns nothing",
            spare.uid
        );
    }
    Ok(Identity {
        inside: AGENT_ID,
        host_uid: caller.uid,
        host_gid: caller.gid,
        launcher_uids: uids,
        launcher_gids: gids,
        container,
        in_launcher: 0,
        spare: None,
        files: FileOwnership::Caller,
        reason,
    })
}

fn of_root(group: &Group, backend: Backend, root_id: RootId) -> Result<Identity> {
    let runtime = HOST_ID_BASE + group.number * GROUP_ID_STEP;
    let (agent, spare) = (runtime + 1, runtime + 2);
    for id in [runtime, agent, spare] {
        check_unused(id)?;
    }
    let mut maps = vec![one(0, runtime), one(AGENT_ID, agent)];
    let mut container = vec![one(AGENT_ID, AGENT_ID)];
    if backend == Backend::Podman {
        container.clone_from(&maps);
    } else if root_id == RootId::Mapped {
        maps.push(one(SPARE, spare));
        container.insert(0, one(0, SPARE));
    }
    Ok(Identity {
        inside: AGENT_ID,
        host_uid: agent,
        host_gid: agent,
        launcher_uids: maps.clone(),
        launcher_gids: maps,
        container,
        // Below podman the launcher stays in the host's own user namespace.
        in_launcher: if backend == Backend::Podman { agent } else { AGENT_ID },
        spare: Some(spare),
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
        if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1))
            && uid.parse() == Ok(id)
        {
            return taken(format!("user {name}"));
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
