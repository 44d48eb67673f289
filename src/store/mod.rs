//! What runs and the host process share, in one SQLite file: rate counters, approvals and grants,
//! chats, messages and tasks.
//!
//! Each run's gateway, and each command of a person, opens the file for itself:
//! there is no process that all depend on. What is read in order to be written
//! is read while no one else can write. Calls block, for milliseconds, or up to
//! ten seconds when others write: not for a thread that serves connections.
//!
//! Nothing secret may come in here: previews are made before injection.

mod approval;
pub mod bell;
pub(crate) mod chats;
mod clock;
mod decide;
pub(crate) mod decisions;
mod file;
mod messages;
mod notify;
pub(crate) mod outgoing;
mod permit;
mod rate;
mod tables;
mod task_runs;
pub(crate) mod tasks;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::config::Dirs;
use crate::error::{Error, Result};

pub use approval::{Access, Approval, BODY_LIMIT, Body, Held, Preview, State};
pub use chats::{Binding, Chat, LOCAL};
pub use clock::{rfc3339, wall_now};
pub use decide::Verdict;
pub(crate) use decide::hold_in;
pub use decisions::Decision;
pub use messages::{Heard, Message, Turn, Wakes};
pub use notify::notify;
pub use outgoing::{Outgoing, Sent};
pub use permit::{Permit, Scope};
pub use rate::{Taken, retry_seconds};
pub use task_runs::{TaskEnd, TaskRun};
pub use tasks::{Changes, NewTask, Pause, Task, TaskContext};

pub(crate) use file::Fault;

/// The store, opened by this process. Can be shared between threads, one of
/// which uses it at a time.
pub struct Store {
    connection: Mutex<Connection>,
    path: PathBuf,
    boot: String,
    dirs: Dirs,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens `belljar.db` among the data, which is made when it is missing; one
    /// that is damaged, newer, readable by others or no plain file is refused.
    pub fn open(dirs: &Dirs) -> Result<Store> {
        let boot = clock::boot()?;
        let (connection, path) = file::open(dirs)?;
        Ok(Self { connection: Mutex::new(connection), path, boot, dirs: dirs.clone() })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked within a transaction has rolled it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, as it was at one moment.
    fn read<T>(&self, step: &str, reading: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        self.within(step, TransactionBehavior::Deferred, reading)
    }

    /// Reads and writes while no one else can write.
    pub(crate) fn write<T>(&self, step: &str, writing: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        self.within(step, TransactionBehavior::Immediate, writing)
    }

    fn within<T>(
        &self,
        step: &str,
        behavior: TransactionBehavior,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T> {
        let mut connection = self.connection();
        let attempt = || {
            let transaction = connection.transaction_with_behavior(behavior)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        attempt().map_err(|fault: Fault| fault.at(&self.path, step))
    }
}

/// No approval has that id.
fn unknown(id: &str) -> Error {
    Error::refused(format!("no approval is called `{id}`")).hint("belljar approvals")
}
