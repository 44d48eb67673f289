//! Files with a key or a passphrase: who may read them, and their forms.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use super::seal::{KEY, Key};
use crate::error::{Context, Error, Result};

/// No key or passphrase is longer, in bytes.
const LONGEST: usize = 4096;

/// Reads all of it, at most `longest` bytes; a longer one is read one byte
/// further, so that the caller sees it. In place: a growing buffer would leave
/// copies behind.
pub fn read_bounded(mut from: impl Read, longest: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; longest + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Reads a file that nobody but the caller may read: a regular file, not a
/// symlink, the caller's own (or root's, as systemd makes them), mode 0600 or
/// stricter. All is judged on the opened file.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let refused = |why: &str| Error::refused(format!("{} is not fit for a key", path.display())).because(why);
    // Without O_NONBLOCK a FIFO would hold the caller up.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(refused("it is a symlink").hint("name the file itself"));
        }
        opened => opened.refuse(|| format!("open {}", path.display()))?,
    };
    let meta = file.metadata().step(|| format!("look at {}", path.display()))?;
    let uid = nix::unistd::geteuid().as_raw();
    if !meta.is_file() {
        return Err(refused("it is not a regular file"));
    }
    if meta.uid() != uid && meta.uid() != 0 {
        return Err(refused(&format!("it belongs to uid {}, and you are uid {uid}", meta.uid()))
            .hint(format!("chown {uid} {}", path.display())));
    }
    let mode = meta.permissions().mode() & 0o7777;
    // systemd gives a unit's user access with an access control list, whose
    // mask shows as the group's bits: 0440, in a directory of its own.
    let by_systemd = meta.uid() == 0 && mode == 0o440 && below_credentials(path);
    if mode & !0o600 != 0 && !by_systemd {
        return Err(refused(&format!("its mode is {mode:04o}, so that others may read it"))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let bytes = read_bounded(file, LONGEST).step(|| format!("read {}", path.display()))?;
    if bytes.len() > LONGEST { Err(refused("it is too long")) } else { Ok(bytes) }
}

fn below_credentials(path: &Path) -> bool {
    std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.parent() == Some(Path::new(&directory)))
}

/// A key from 32 raw bytes, 64 hexadecimal digits, or base64.
pub(super) fn parse_key(content: &[u8], path: &Path) -> Result<Key> {
    let wrong = || {
        Error::refused(format!("{} does not hold a key", path.display()))
            .because("a key is 32 bytes: raw, as 64 hexadecimal digits, or as base64")
    };
    if content.len() == KEY {
        return Ok(Key::from_bytes(|bytes| bytes.copy_from_slice(content)));
    }
    let text = content.trim_ascii();
    let mut bytes = Zeroizing::new([0; KEY]);
    if text.len() == 2 * KEY {
        for (at, pair) in text.chunks_exact(2).enumerate() {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(wrong);
            bytes[at] = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
    } else {
        // The decoder wants room for what the length could mean at most.
        let mut decoded = Zeroizing::new([0; 3 * KEY]);
        let length = STANDARD.decode_slice(text, decoded.as_mut_slice()).map_err(|_| wrong())?;
        bytes.copy_from_slice(decoded[..length].get(..KEY).filter(|_| length == KEY).ok_or_else(wrong)?);
    }
    let key = Key::from_bytes(|into| into.copy_from_slice(bytes.as_slice()));
    bytes.zeroize();
    Ok(key)
}

/// A key as it is written: hexadecimal digits and a line feed, because people
/// copy such files.
pub(super) fn key_text(key: &Key) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(2 * KEY + 1));
    for byte in key.expose() {
        text.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::seal::show;
    use super::*;

    #[test]
    fn a_key_has_three_forms() {
        let raw: Vec<u8> = (0..32).collect();
        let id = |content: &[u8]| parse_key(content, Path::new("k")).ok().map(|key| show(key.id));
        let wanted = id(&raw);
        assert!(wanted.is_some());
        let key = parse_key(&raw, Path::new("k")).expect("a key");
        assert_eq!(id(&key_text(&key)), wanted);
        assert_eq!(id(key_text(&key).to_ascii_uppercase().as_slice()), wanted);
        assert_eq!(id(format!(" {}\n", STANDARD.encode(&raw)).as_bytes()), wanted);
        for wrong in [b"".as_slice(), b"short", &[7; 31], &[7; 33], &[b'g'; 64], &[b'a'; 63], &[b'A'; 4096]] {
            assert!(id(wrong).is_none());
        }
    }
}
