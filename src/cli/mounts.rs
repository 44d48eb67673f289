//! `belljar mounts`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use clap::{Args, Subcommand};

use super::{print, surroundings};
use crate::config::{Config, Dirs, create_private};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{
    Access, Allowlist, AllowlistState, Blocked, MountArgument, Mounts, Surroundings, Trust, read_mountinfo,
};

/// Manage the allowlist of extra mounts.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write an allowlist that allows nothing yet
    Init,
    /// Say whether a path could be mounted, which rule decides, and why
    Check {
        /// The path on the host
        path: String,
        /// As a group other than main
        #[arg(long)]
        untrusted: bool,
        /// Read-write
        #[arg(long)]
        rw: bool,
    },
    /// Show the allowlist as it is understood
    List,
}

const EMPTY: &str = "{\n  \"allowedRoots\": [],\n  \"blockedPatterns\": [],\n  \"nonMainReadOnly\": true\n}\n";

impl Arguments {
    /// Does what was asked.
    pub fn execute(self) -> Result<u8> {
        let (caller, dirs) = surroundings()?;
        match self.action {
            Action::Init => init(&dirs),
            Action::List => list(&Allowlist::load(&dirs.allowlist_file(), &caller.home)?),
            Action::Check { path, untrusted, rw } => {
                let allowlist = Allowlist::load(&dirs.allowlist_file(), &caller.home)?;
                let around = Surroundings {
                    caller: &caller,
                    own: crate::plan::OwnPlaces::new(
                        &dirs,
                        &crate::plan::key_files(&Config::load(&dirs.config_file())?, &caller, &dirs),
                    ),
                    allowlist: &allowlist,
                    blocked: Blocked::new(&allowlist.blocked_patterns)?,
                    host_mounts: read_mountinfo(Path::new("/proc/self/mountinfo"))?,
                    trust: if untrusted { Trust::Untrusted } else { Trust::Trusted },
                };
                let access = if rw { Access::ReadWrite } else { Access::ReadOnly };
                check(&around, MountArgument { source: path, target: None, access })
            }
        }
    }
}

fn init(dirs: &Dirs) -> Result<u8> {
    let path = dirs.allowlist_file();
    create_private(&dirs.config)?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .refuse(|| format!("make {}", path.display()))
        .map_err(|error| error.hint("belljar mounts list shows the one that is there"))?;
    file.write_all(EMPTY.as_bytes()).step(|| format!("write {}", path.display()))?;
    print(&format!(
        "wrote {}; add entries such as {{\"path\": \"~/projects\", \"allowReadWrite\": false}} to allowedRoots\n",
        path.display()
    ))?;
    Ok(0)
}

fn list(allowlist: &Allowlist) -> Result<u8> {
    let file = allowlist.path.display();
    if allowlist.state == AllowlistState::Missing {
        print(&format!("no allowlist at {file}: no extra mounts\nhint: belljar mounts init\n"))?;
        return Ok(0);
    }
    let mut text = format!("allowlist  {file}\n");
    for root in &allowlist.roots {
        let access = if root.read_write { "rw" } else { "ro" };
        let real = match &root.real {
            Some(real) => real.display().to_string(),
            None => "warning: it does not exist".to_owned(),
        };
        text.push_str(&format!(
            "root       {:<30} {access} {real} {}\n",
            root.written,
            root.description.as_deref().unwrap_or("")
        ));
    }
    let others = if allowlist.non_main_read_only { "read-only" } else { "as the root allows" };
    text.push_str(&format!("others     groups but main get every mount {others}\n"));
    let patterns: Vec<&str> = crate::plan::DEFAULT_PATTERNS
        .into_iter()
        .chain(allowlist.blocked_patterns.iter().map(String::as_str))
        .collect();
    text.push_str(&format!("blocked    {}\n", patterns.join(" ")));
    print(&text)?;
    Ok(0)
}

fn check(around: &Surroundings<'_>, argument: MountArgument) -> Result<u8> {
    let mut mounts = Mounts::default();
    match mounts.add_extra(around, &argument).and_then(|()| mounts.check_links(&[])) {
        Ok(()) => {
            let mount = &mounts.list[0];
            let access = if mount.readonly { "read-only" } else { "read-write" };
            let hidden = mounts.shadowed.files + mounts.shadowed.directories + mounts.shadowed.special;
            print(&format!(
                "allowed    {} {access}\nreason     {}\nhidden     {hidden} names\n",
                mount.target, mount.reason
            ))?;
            Ok(0)
        }
        Err(error) if error.kind == Kind::Refused => {
            let refusal: Error = error;
            print(&format!("refused    {}\n", refusal.what))?;
            for cause in &refusal.causes {
                print(&format!("reason     {cause}\n"))?;
            }
            if let Some(hint) = &refusal.hint {
                print(&format!("hint       {hint}\n"))?;
            }
            Ok(1)
        }
        Err(error) => Err(error),
    }
}
