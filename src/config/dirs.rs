//! Where belljar's files lie, and who called it.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use caps::{CapSet, Capability};
use nix::unistd::{User, getegid, geteuid, initgroups, setresgid, setresuid};

use crate::error::{Context, Error, Result};

/// Who called belljar.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Real root: uid 0 with the capabilities to make id maps and mounts.
    pub is_root: bool,
    /// The home directory.
    pub home: PathBuf,
}

impl Caller {
    /// Reads the caller's identity from the kernel, and the home from `$HOME`
    /// or the user database.
    pub fn current() -> Result<Self> {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let is_root = is_real_root();
        let home = find_home(uid)?;
        Ok(Self { uid, gid, is_root, home })
    }
}

/// Whether this process is uid 0 with the capabilities to make id maps and mounts.
pub fn is_real_root() -> bool {
    let able = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    geteuid().is_root()
        && [Capability::CAP_SYS_ADMIN, Capability::CAP_SETUID, Capability::CAP_SETGID].into_iter().all(able)
}

/// `$HOME`, or what the user database has. A user that a unit made up has none,
/// or `/` (systemd.exec(5), DynamicUser=); what it has is the unit's StateDirectory=.
fn find_home(uid: u32) -> Result<PathBuf> {
    let given = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = match given {
        Some(home) => Some(home),
        None => User::from_uid(geteuid())
            .step(|| format!("look up uid {uid} in the user database"))?
            .map(|user| user.dir)
            .filter(|home| home.is_absolute()),
    };
    let nowhere = home.as_deref().is_none_or(|home| home == Path::new("/"));
    let state = env::var("STATE_DIRECTORY").ok().and_then(|given| given.split(':').next().map(PathBuf::from));
    match (home, state.filter(|state| nowhere && state.is_absolute())) {
        (_, Some(state)) => Ok(state),
        (Some(home), None) => Ok(home),
        (None, None) => Err(Error::refused("HOME is not set and the user database has no home for this user")
            .hint("export HOME=/path/to/your/home; in a unit with DynamicUser=yes: StateDirectory=belljar")),
    }
}

/// Where belljar's files lie.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// `config.toml`, `mount-allowlist.json`, `policy.toml`.
    pub config: PathBuf,
    /// Groups, sessions, IPC, receipts.
    pub data: PathBuf,
    /// One directory for each live run, and nothing else.
    pub run: PathBuf,
}

impl Dirs {
    /// Resolves the three places: `$BELLJAR_HOME/{config,data,run}`, or those of
    /// the systemd unit that belljar runs in (systemd.exec(5), RuntimeDirectory=),
    /// or XDG (Base Directory Specification); nothing is created.
    pub fn resolve(caller: &Caller) -> Result<Self> {
        if let Some(home) = env::var_os("BELLJAR_HOME").filter(|home| !home.is_empty()) {
            let home = PathBuf::from(home);
            if !home.is_absolute() {
                return Err(Error::refused(format!("BELLJAR_HOME={} is not absolute", home.display()))
                    .hint("export BELLJAR_HOME=/an/absolute/path"));
            }
            return Ok(Self { config: home.join("config"), data: home.join("data"), run: home.join("run") });
        }
        let xdg = |variable: &str, default: &str| {
            env::var_os(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .unwrap_or_else(|| caller.home.join(default))
                .join("belljar")
        };
        let data = of_unit("STATE_DIRECTORY").unwrap_or_else(|| xdg("XDG_DATA_HOME", ".local/share"));
        let config = of_unit("CONFIGURATION_DIRECTORY").unwrap_or_else(|| xdg("XDG_CONFIG_HOME", ".config"));
        if let Some(run) = of_unit("RUNTIME_DIRECTORY") {
            return Ok(Self { config, data, run });
        }
        // `su` and `runuser` leave that of who called them, which is not to be used (XDG Base
        // Directory Specification: "MUST be owned by the user").
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let run = match runtime.filter(|path| path.is_absolute() && !is_of_another(path, caller.uid)) {
            Some(runtime) => runtime.join("belljar"),
            None if caller.is_root => PathBuf::from("/run/belljar"),
            None => {
                let user = PathBuf::from(format!("/run/user/{}", caller.uid));
                match fs::metadata(&user) {
                    Ok(meta) if meta.uid() == caller.uid => user.join("belljar"),
                    _ => data.join("run"),
                }
            }
        };
        Ok(Self { config, data, run })
    }

    /// `config.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// `mount-allowlist.json`.
    pub fn allowlist_file(&self) -> PathBuf {
        self.config.join("mount-allowlist.json")
    }

    /// One file for each run, live or past.
    pub fn receipts(&self) -> PathBuf {
        self.data.join("receipts")
    }

    /// One file for each live run.
    pub fn live(&self) -> PathBuf {
        self.data.join("live")
    }

    /// The three places, for checks that no mount contains them.
    pub fn all(&self) -> [&Path; 3] {
        [&self.config, &self.data, &self.run]
    }
}

/// belljar's place in a directory that a unit was given: the first of several,
/// as it is when it was made for belljar, by its name.
fn of_unit(variable: &str) -> Option<PathBuf> {
    let given = env::var(variable).ok()?;
    let directory = PathBuf::from(given.split(':').next()?);
    let own = directory.file_name()?.to_string_lossy().starts_with("belljar");
    directory.is_absolute().then(|| if own { directory } else { directory.join("belljar") })
}

/// Starts over as another user, for `--as-user`: this program again, with that
/// user's ids, groups and home, and of root's environment only what says how to
/// print, and what is named in `keep`. It is executed again because the old
/// process keeps root's environment in its memory. Only root can.
pub fn start_over_as(name: &str, keep: &[String]) -> Result<Infallible> {
    const HARMLESS: [&str; 6] = ["PATH", "TERM", "LANG", "LC_ALL", "TZ", "COLUMNS"];
    if !geteuid().is_root() {
        return Err(Error::refused("--as-user is for root").hint("run as that user"));
    }
    let user = User::from_name(name)
        .step(|| format!("look up user {name}"))?
        .ok_or_else(|| Error::refused(format!("--as-user {name}: there is no such user")).hint("getent passwd"))?;
    let c_name = CString::new(name).refuse(|| format!("--as-user {name}"))?;
    let change = || -> nix::Result<()> {
        initgroups(&c_name, user.gid)?;
        setresgid(user.gid, user.gid, user.gid)?;
        setresuid(user.uid, user.uid, user.uid)
    };
    change().step(|| format!("become user {name}"))?;
    let mut command = Command::new("/proc/self/exe");
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    // The option comes before the command, which may have one of the same name.
    let is_option = |argument: &OsString| argument.to_string_lossy().starts_with("--as-user");
    if let Some(at) = arguments.iter().position(is_option) {
        let with_value = if arguments[at] == "--as-user" { 2 } else { 1 };
        arguments.drain(at..at + with_value);
    }
    let kept = env::vars_os().filter(|(variable, _)| {
        HARMLESS.iter().any(|harmless| variable == harmless) || keep.iter().any(|named| variable == named.as_str())
    });
    command.args(arguments).env_clear().envs(kept).env("HOME", &user.dir).env("USER", name).env("LOGNAME", name);
    Err(command.exec()).step(|| format!("start over as user {name}"))
}

/// Creates a directory and its parents, each with mode 0700; those that are
/// there stay as they are.
pub fn create_private(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).step(|| format!("create directory {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Gives the owner's permissions back to a directory of the caller's, where an agent that
/// can write it has taken them away. No link is followed.
pub fn open_again(path: &Path) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
    let step = || format!("give {} its mode back", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = match openat(CWD, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        held => held.step(step)?,
    };
    let stat = fstat(&held).step(step)?;
    if stat.st_mode & 0o700 == 0o700 || stat.st_uid != geteuid().as_raw() {
        return Ok(());
    }
    let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    fs::set_permissions(by_descriptor, std::os::unix::fs::PermissionsExt::from_mode(stat.st_mode & 0o7777 | 0o700))
        .step(step)
}

/// Makes names in the path's directory last, as fsync(2) of the file does not.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether it is somebody else's than `uid`'s.
pub fn is_of_another(path: &Path, uid: u32) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.uid() != uid)
}
