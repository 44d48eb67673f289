//! Where the host process is reached, and which cgroup it is in.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::config::{Caller, Dirs, create_private};
use crate::error::{Context, Error, Result};
use crate::plan::{CgroupPlace, find_cgroup};

/// The socket that requests come by.
pub struct Socket {
    listener: UnixListener,
    /// Its name, where it was made here and is to be removed here.
    made: Option<PathBuf>,
    /// One host for one installation.
    _lock: Flock<File>,
}

impl Socket {
    /// Takes over what systemd listens on (sd_listen_fds(3)), or makes one.
    pub fn open(caller: &Caller, dirs: &Dirs) -> Result<Self> {
        create_private(&dirs.data)?;
        let lock = lock(&dirs.data.join("serve.lock"))?;
        let mut given = listenfd::ListenFd::from_env();
        if let Some(listener) = given.take_unix_listener(0).refuse(|| "take over the socket of the unit".to_owned())? {
            return Ok(Self { listener, made: None, _lock: lock });
        }
        let path = socket_path(caller, dirs);
        if let Some(directory) = path.parent() {
            create_private(directory)?;
        }
        clear(&path)?;
        let step = || format!("listen on {}", path.display());
        let listener = UnixListener::bind(&path).step(step)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).step(step)?;
        Ok(Self { listener, made: Some(path), _lock: lock })
    }

    /// For the event loop.
    pub fn listener(&self) -> Result<UnixListener> {
        let listener = self.listener.try_clone().step(|| "duplicate the socket".to_owned())?;
        listener.set_nonblocking(true).step(|| "set the socket up".to_owned())?;
        Ok(listener)
    }

    /// For people.
    pub fn name(&self) -> String {
        match &self.made {
            Some(path) => path.display().to_string(),
            None => "the socket of its unit".to_owned(),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Somebody may have removed it by hand.
            let _ = fs::remove_file(path);
        }
    }
}

/// Beside the directory of live runs, which holds nothing but those: where the
/// units' socket is, too.
pub fn socket_path(caller: &Caller, dirs: &Dirs) -> PathBuf {
    let beside = dirs.run.parent().unwrap_or(Path::new("/"));
    let given = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|given| beside == Path::new(&given));
    let is_own = given || beside.ends_with(format!("user/{}", caller.uid)) || beside == Path::new("/run");
    let in_unit = std::env::var_os("RUNTIME_DIRECTORY").is_some();
    if is_own && !in_unit { beside.join("belljar.sock") } else { dirs.data.join("belljar.sock") }
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let step = || format!("lock {}", path.display());
    let file = File::options().create(true).append(true).mode(0o600).open(path).step(step)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        let error = Error::refused("another belljar serves already");
        if errno == nix::errno::Errno::EWOULDBLOCK {
            error
                .because(format!("{} is locked", path.display()))
                .hint("systemctl --user stop belljar, or stop that one")
        } else {
            Error::failed(step()).because(errno)
        }
    })
}

/// Whether a host process serves: its lock is held. The kernel's list tells it
/// (proc_locks(5)); to try the lock would keep one that starts at this moment away.
pub fn is_served(dirs: &Dirs) -> bool {
    let Ok(meta) = fs::metadata(dirs.data.join("serve.lock")) else { return false };
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return true };
    // The device differs from stat's on some file systems (btrfs): the inode suffices.
    let inode = format!(":{}", meta.ino());
    locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"FLOCK") && fields.get(5).is_some_and(|file| file.ends_with(&inode))
    })
}

/// Removes a socket that nobody listens on; what is none stays.
fn clear(path: &Path) -> Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.step(|| format!("look at {}", path.display()))?,
    };
    let refused = |why: &str| {
        Err(Error::refused(format!("listen on {}", path.display()))
            .because(why)
            .hint(format!("ls -l {}", path.display())))
    };
    if !meta.file_type().is_socket() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return refused("something is there that is no socket of belljar's");
    }
    if UnixStream::connect(path).is_ok() {
        return refused("somebody listens on it already: systemd, or another program");
    }
    fs::remove_file(path).step(|| format!("remove {}", path.display()))
}

/// In a unit that gives its cgroup away runs get theirs beside this process,
/// which must then not be in the unit's own (cgroup-v2, "No Internal Process
/// Constraint"). The cgroup goes with the unit.
pub fn step_aside(caller: &Caller) -> Result<()> {
    let Ok(CgroupPlace::MoveDown(unit)) = find_cgroup(caller, &[]) else { return Ok(()) };
    let own = unit.join("host");
    let step = || format!("move into the cgroup {}", own.display());
    match fs::create_dir(&own) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).step(step),
        _ => {}
    }
    fs::write(own.join("cgroup.procs"), std::process::id().to_string()).step(step)
}
