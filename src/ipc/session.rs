//! What Claude Code finds in its session: the server with belljar's tools, and that
//! they may be used. The agent can write there too, so nothing is trusted that is
//! read, and nothing is followed.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, fstat, open};
use serde_json::{Map, Value, json};

use super::files::{self, Unreadable};
use crate::config::Dirs;
use crate::error::{Context, Error, Result};

/// The name that the gateway itself answers to.
pub const HOST: &str = "belljar.internal";
/// Where the tools are served, inside.
pub const URL: &str = "http://belljar.internal/mcp";
/// Claude Code's own record of what it was asked, which lies in the same file, grows.
const LONGEST: u64 = 16 << 20;

/// Makes Claude Code find belljar's tools in the group's session; what else is
/// there stays.
pub fn offer_mcp(dirs: &Dirs, group: &str) -> Result<()> {
    let shown = dirs.data.join("sessions").join(group).join(".claude");
    let step = || format!("open the session {}", shown.display());
    let sessions =
        open(dirs.data.join("sessions"), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .step(step)?;
    let session = files::directory(sessions.as_fd(), group).step(step)?;
    let session = files::directory(session.as_fd(), ".claude").step(step)?;
    let at = session.as_fd();
    let owner = fstat(at).step(step)?.st_uid;
    // Claude Code's places for servers and for permissions (its documentation: "MCP", "Settings").
    let server = change(at, (".claude.json", owner), |all| {
        let servers = all.entry("mcpServers").or_insert_with(|| json!({}));
        // The model's first turn waits for the tools, instead of going without them.
        let ours = json!({ "type": "http", "url": URL, "alwaysLoad": true });
        servers.as_object_mut()?.insert("belljar".to_owned(), ours);
        Some(())
    });
    let permission = change(at, ("settings.json", owner), |all| {
        let permissions = all.entry("permissions").or_insert_with(|| json!({}));
        let allow = permissions.as_object_mut()?.entry("allow").or_insert_with(|| json!([])).as_array_mut()?;
        let ours = Value::from("mcp__belljar");
        if !allow.contains(&ours) {
            allow.push(ours);
        }
        Some(())
    });
    server.and(permission)
}

/// Changes an object in a file, if it is one; a file that is none is the agent's
/// own affair, and Claude Code says so itself.
fn change(
    at: std::os::fd::BorrowedFd<'_>,
    (name, owner): (&str, u32),
    change: impl FnOnce(&mut Map<String, Value>) -> Option<()>,
) -> Result<()> {
    let step = || format!("write {name} of the session");
    let before = match files::plain(at, OsStr::new(name), (owner, LONGEST))
        .and_then(|mut file| files::read(&mut file, LONGEST))
    {
        Ok(bytes) => match serde_json::from_slice::<Value>(&bytes) {
            Ok(Value::Object(object)) => object,
            _ => return Err(Error::failed(step()).because("it is there, and is no JSON object").hint("remove it")),
        },
        Err(Unreadable::System(error)) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(Unreadable::System(error)) => return Err(error).step(step),
        Err(Unreadable::Not(why)) => return Err(Error::failed(step()).because(why).hint("remove it")),
    };
    let mut after = before.clone();
    if change(&mut after).is_none() {
        return Err(Error::failed(step()).because("it has another form than Claude Code's").hint("remove it"));
    }
    if after == before {
        return Ok(());
    }
    files::write(at, name, Value::Object(after).to_string().as_bytes()).step(step)
}
