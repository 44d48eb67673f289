//! What agents are shown of tasks and chats: written when it is another one than
//! before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use super::Host;
use crate::config::Groups;
use crate::error::Result;
use crate::ipc::Snapshot;
use crate::store::{rfc3339, wall_now};

/// Writes what has changed, for each group.
pub async fn refresh(host: &Rc<Host>) {
    if let Err(error) = write(host).await {
        host.events.tell_error("snapshots", &error);
    }
}

async fn write(host: &Rc<Host>) -> Result<()> {
    let (tasks, chats) = host.with_store(|store| Ok((store.tasks(None)?, store.chats()?))).await?;
    let time = rfc3339(wall_now());
    let groups = Groups::new(&host.dirs).list()?;
    // One that is added again may have new directories.
    let is_there = |name: &str| groups.iter().any(|group| group.name.as_str() == name);
    host.shown.borrow_mut().retain(|name, _| is_there(name));
    host.groups.borrow_mut().retain(|name, _| is_there(name));
    for group in &groups {
        let name = group.name.as_str();
        let snapshot = Snapshot::of(name, &tasks, &chats);
        let mut hasher = DefaultHasher::new();
        (snapshot.tasks.to_string(), snapshot.groups.to_string()).hash(&mut hasher);
        let shown = hasher.finish();
        if host.shown.borrow().get(name) == Some(&shown) {
            continue;
        }
        let written = host.place(name).and_then(|place| {
            place.put_snapshot("current_tasks.json", &snapshot.tasks)?;
            place.put_snapshot("available_groups.json", &snapshot.available(&time))
        });
        match written {
            Ok(()) => drop(host.shown.borrow_mut().insert(name.to_owned(), shown)),
            // One group's directory does not keep the others waiting.
            Err(error) => host.events.tell_error("snapshots", &error),
        }
    }
    Ok(())
}
