//! The master key as an encrypted credential of systemd (systemd-creds(1)):
//! bound to the machine, its TPM where it has one, and to the user. It is
//! decrypted by the manager for a unit that loads it, and else by systemd-creds.
//!
//! The second way is also for the units of users: before version 258 their
//! manager cannot decrypt (systemd issue 35913), while systemd-creds can.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use zeroize::Zeroizing;

use super::document::write_whole;
use super::file::{key_text, parse_key, read_bounded, read_private};
use super::seal::Key;
use crate::config::{Dirs, create_private};
use crate::error::{Context, Error, Result};

/// The credential's name.
pub const CREDENTIAL: &str = "belljar.key";
/// Where the host's manager looks for it.
const OF_THE_HOST: &str = "/etc/credstore.encrypted";
/// A key in each of its forms is shorter, in bytes.
const LONGEST: usize = 4096;

/// Where the encrypted credential of this installation lies: for root where the
/// host's manager looks, for users beside their configuration.
pub fn credential_file(dirs: &Dirs) -> PathBuf {
    let own_home = env::var_os("BELLJAR_HOME").is_some_and(|home| !home.is_empty());
    if is_root() && !own_home {
        return Path::new(OF_THE_HOST).join(CREDENTIAL);
    }
    dirs.config.join("credstore.encrypted").join(CREDENTIAL)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The credential that the unit was given.
fn given(name: &str) -> Option<PathBuf> {
    let directory = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute())?;
    Some(directory.join(name)).filter(|path| path.symlink_metadata().is_ok())
}

/// Whether there is such a credential, given or encrypted.
pub(super) fn exists(name: &str, encrypted: &Path) -> bool {
    given(name).is_some() || (name == CREDENTIAL && encrypted.exists())
}

/// The key in the credential, where there is one.
pub(super) fn read(name: &str, encrypted: &Path) -> Result<Option<Key>> {
    if let Some(path) = given(name) {
        return parse_key(&read_private(&path)?, &path).map(Some);
    }
    if name != CREDENTIAL || !encrypted.exists() {
        return Ok(None);
    }
    decrypt(encrypted).map(Some)
}

fn systemd_creds(verb: &str) -> Command {
    let mut command = Command::new("systemd-creds");
    if !is_root() {
        command.arg("--user");
    }
    command.args([verb, "--quiet", &format!("--name={CREDENTIAL}")]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn decrypt(encrypted: &Path) -> Result<Key> {
    let step = || format!("decrypt {} with systemd-creds", encrypted.display());
    let mut command = systemd_creds("decrypt");
    command.arg(encrypted).arg("-").stdin(Stdio::null());
    let child = command.spawn().map_err(|error| not_there(error, step()))?;
    let text = output(child, step)?;
    parse_key(&text, encrypted)
}

fn not_there(error: std::io::Error, step: String) -> Error {
    Error::refused(step).because(error).hint("apt-get install systemd; for users version 256 or later is needed")
}

/// What the child writes, kept out of growing buffers.
fn output(mut child: Child, step: impl Fn() -> String) -> Result<Zeroizing<Vec<u8>>> {
    let stdout = child.stdout.take().ok_or_else(|| Error::failed(step()))?;
    let text = read_bounded(stdout, LONGEST).step(&step)?;
    let ended = child.wait_with_output().step(&step)?;
    if ended.status.success() {
        return Ok(text);
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let mut error = Error::refused(step());
    for line in said.lines().filter(|line| !line.trim().is_empty()).take(3) {
        error = error.because(line.trim());
    }
    Err(error.hint("systemd-creds --version; for users version 256 or later is needed, and the key is this machine's"))
}

/// Encrypts the key into `encrypted`, and makes sure that it comes out again.
pub(super) fn encrypt(key: &Key, encrypted: &Path) -> Result<()> {
    let step = || format!("encrypt the master key into {}", encrypted.display());
    let mut command = systemd_creds("encrypt");
    // The key goes through pipes only.
    command.args(["-", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_there(error, step()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // An early end of systemd-creds is told by its exit code.
        let _ = stdin.write_all(&key_text(key));
    }
    let sealed = output(child, step)?;
    if let Some(directory) = encrypted.parent() {
        create_private(directory)?;
    }
    write_whole(encrypted, &sealed)?;
    let back = decrypt(encrypted)?;
    if back.id == key.id { Ok(()) } else { Err(Error::failed(step()).because("another key comes out again")) }
}

/// Takes a key away that lay in clear: its bytes first, then its name. What a
/// file system with a journal or a flash disk keeps of it is not in reach.
pub(super) fn shred(path: &Path) -> Result<()> {
    let step = || format!("remove {}", path.display());
    let length = path.symlink_metadata().step(step)?.len().min(LONGEST as u64);
    let mut file = std::fs::File::options().write(true).open(path).step(step)?;
    file.write_all(&vec![0; usize::try_from(length).unwrap_or(LONGEST)]).and_then(|()| file.sync_all()).step(step)?;
    std::fs::remove_file(path).step(step)?;
    crate::config::sync_directory(path).step(step)
}
