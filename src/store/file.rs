//! The file: made privately, refused when it is not what it should be.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::config::{Dirs, create_private};
use crate::error::{Context, Error, Result};

const NAME: &str = "belljar.db";
/// `application_id` in the file's header: "bjar".
const APPLICATION: i64 = 0x626a_6172;
/// Tables by version: what each one adds to the one before. Never changed once released.
const VERSIONS: [&str; 2] = [TABLES, super::tables::HOST];
/// Version of the tables that this program knows.
const VERSION: i64 = VERSIONS.len() as i64;
/// How long one process waits for another to finish writing.
const PATIENCE: Duration = Duration::from_secs(10);

const TABLES: &str = "
CREATE TABLE take (
    seq INTEGER PRIMARY KEY,
    grp TEXT NOT NULL, rule TEXT NOT NULL,
    boot TEXT NOT NULL, since_boot INTEGER NOT NULL, wall INTEGER NOT NULL,
    per INTEGER NOT NULL
) STRICT;
CREATE INDEX take_rule ON take (grp, rule, boot, since_boot);
CREATE TABLE approval (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    run TEXT NOT NULL, grp TEXT NOT NULL, rule TEXT NOT NULL,
    method TEXT NOT NULL, scheme TEXT NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL,
    path TEXT NOT NULL, query TEXT, content_type TEXT, secret TEXT,
    body BLOB, held INTEGER NOT NULL, size INTEGER, whole INTEGER NOT NULL, sha256 TEXT NOT NULL,
    boot TEXT NOT NULL, created INTEGER NOT NULL, created_wall INTEGER NOT NULL,
    expires INTEGER NOT NULL, expires_wall INTEGER NOT NULL,
    decided_wall INTEGER, decided_by TEXT
) STRICT;
CREATE INDEX approval_state ON approval (state);
CREATE TABLE permit (
    approval TEXT NOT NULL PRIMARY KEY,
    grp TEXT NOT NULL, rule TEXT NOT NULL, method TEXT NOT NULL,
    scheme TEXT NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL, path TEXT NOT NULL,
    boot TEXT NOT NULL, until INTEGER NOT NULL, until_wall INTEGER NOT NULL,
    given_by TEXT NOT NULL
) STRICT;
CREATE INDEX permit_scope ON permit (grp, rule, method, host, path);
";

/// Opens the file, which is made when it is missing.
pub(super) fn open(dirs: &Dirs) -> Result<(Connection, PathBuf)> {
    create_private(&dirs.data)?;
    // SQLite refuses a symbolic link anywhere in the path; those above are the
    // person's own.
    let directory = fs::canonicalize(&dirs.data).step(|| format!("resolve {}", dirs.data.display()))?;
    check_directory(&directory)?;
    let path = directory.join(NAME);
    make(&directory, &path)?;
    for beside in ["-wal", "-shm", "-journal"] {
        check(&directory.join(format!("{NAME}{beside}")))?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(|error| failure(&path, "open", error))?;
    prepare(&mut connection, &path)?;
    Ok((connection, path))
}

/// Where others can write, they can put another file in its place.
fn check_directory(directory: &Path) -> Result<()> {
    let meta = fs::metadata(directory).step(|| format!("look at {}", directory.display()))?;
    // A group of the person's own is as good as the person (umask 002).
    let group_writes = meta.mode() & 0o020 != 0 && meta.gid() != nix::unistd::getegid().as_raw();
    if meta.uid() != geteuid().as_raw() || meta.mode() & 0o002 != 0 || group_writes {
        return Err(Error::refused(format!("others can write in {}", directory.display()))
            .hint(format!("chown and chmod 700 {}", directory.display())));
    }
    Ok(())
}

/// Makes an empty file of the right mode, unless there is one already.
///
/// Closing a descriptor of the file drops every lock that this process has on
/// it (fcntl(2)), also those of another [`super::Store`]. So it is never opened
/// here under its name: it gets the name when it is closed.
fn make(directory: &Path, path: &Path) -> Result<()> {
    if check(path)? {
        return Ok(());
    }
    let temporary = tempfile::Builder::new()
        .prefix(".belljar-db-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .step(|| format!("make a file in {}", directory.display()))?
        .into_temp_path();
    match temporary.persist_noclobber(path) {
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => check(path).map(|_| ()),
        made => made.map_err(|error| error.error).step(|| format!("make {}", path.display())),
    }
}

/// Whether the file is there. Refuses one that others can read, or have made.
fn check(path: &Path) -> Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).step(|| format!("look at {}", path.display())),
    };
    match problem(&meta) {
        None => Ok(true),
        Some((problem, mend)) => {
            Err(Error::refused(format!("{} {problem}", path.display())).hint(format!("{mend} {}", path.display())))
        }
    }
}

fn problem(meta: &Metadata) -> Option<(&'static str, &'static str)> {
    if !meta.is_file() {
        return Some(("is not a plain file", "rm"));
    }
    if meta.uid() != geteuid().as_raw() {
        return Some(("belongs to another user", "ls -l"));
    }
    if meta.nlink() > 1 {
        return Some(("has another name too", "ls -li"));
    }
    (meta.mode() & 0o077 != 0).then_some(("can be read by others", "chmod 600"))
}

/// Waits a moment each time. SQLite's own handler waits longer and longer, so
/// that one who has waited long is passed by all who have just come.
fn wait_for_another(times: i32) -> bool {
    const MOMENT: Duration = Duration::from_millis(1);
    thread::sleep(MOMENT);
    u128::try_from(times).unwrap_or(u128::MAX) < PATIENCE.as_millis()
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<()> {
    let failed = |error| failure(path, "prepare", error);
    connection.busy_handler(Some(wait_for_another)).map_err(failed)?;
    // SQLite does not wait when two processes change a new file's journal mode
    // at the same time.
    let begun = Instant::now();
    loop {
        match settle(connection, path) {
            Err(Fault::Sqlite(error)) if is_busy(&error) && begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            settled => return settled.map_err(|fault| fault.at(path, "prepare")),
        }
    }
}

/// What can go wrong within a transaction.
pub(crate) enum Fault {
    /// SQLite's part.
    Sqlite(rusqlite::Error),
    /// Ours.
    Said(Box<Error>),
}

impl Fault {
    /// In belljar's words.
    pub fn at(self, path: &Path, step: &str) -> Error {
        match self {
            Self::Sqlite(error) => failure(path, step, error),
            Self::Said(error) => *error,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Said(Box::new(error))
    }
}

fn settle(connection: &mut Connection, path: &Path) -> Result<(), Fault> {
    // A file from elsewhere cannot run functions through its schema.
    connection.pragma_update(None, "trusted_schema", false)?;
    // Previews that were removed do not stay in free pages.
    connection.pragma_update(None, "secure_delete", true)?;
    // What was granted or revoked holds after a power loss too. Each rate bounds
    // how often it is paid for.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The file is small, and a gateway is to stay so.
    connection.pragma_update(None, "cache_size", -256)?;
    let number = |connection: &Connection, pragma: &str| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, pragma, |row| row.get(0))
    };
    if number(connection, "user_version")? != VERSION {
        // Without effect on a file that has tables: bodies of a megabyte come and go.
        connection.pragma_update(None, "auto_vacuum", "FULL")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (version, owner) = (number(&transaction, "user_version")?, number(&transaction, "application_id")?);
        let objects: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        match version {
            VERSION => {}
            0 if owner == 0 && objects == 0 => migrate(&transaction, 0)?,
            older @ 1..VERSION if owner == APPLICATION => migrate(&transaction, older)?,
            newer if owner == APPLICATION => {
                let what = format!("{} has version {newer}; this belljar knows {VERSION}", path.display());
                return Err(Error::refused(what).hint("use the belljar that made it").into());
            }
            _ => return Err(foreign(path).into()),
        }
        transaction.commit()?;
    }
    if number(connection, "application_id")? != APPLICATION {
        return Err(foreign(path).into());
    }
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        connection.pragma_update(None, "journal_mode", "WAL")?;
    }
    Ok(())
}

/// Brings the tables from a version to this program's, in the caller's transaction: all of it or nothing.
fn migrate(transaction: &Transaction<'_>, from: i64) -> rusqlite::Result<()> {
    for version in VERSIONS.iter().skip(usize::try_from(from).unwrap_or_default()) {
        transaction.execute_batch(version)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)
}

fn foreign(path: &Path) -> Error {
    Error::refused(format!("{} is another program's database", path.display()))
        .hint(format!("mv {0} {0}.other", path.display()))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// A failure of SQLite in belljar's words.
pub(super) fn failure(path: &Path, step: &str, error: rusqlite::Error) -> Error {
    let shown = path.display();
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            format!("it is damaged; with no run live: mv {shown} {shown}.damaged (rates begin anew, grants are gone)")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another process holds it: belljar ps".to_owned(),
        Some(ErrorCode::DiskFull) => format!("df {shown}"),
        _ => format!("ls -l {shown}*"),
    };
    Error::failed(format!("{step} {shown}")).because(error).hint(hint)
}
