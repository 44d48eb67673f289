//! `belljar group`.

use clap::{Args, Subcommand};

use super::{print, surroundings};
use crate::config::{Groups, MAIN};
use crate::error::{Error, Result};
use crate::plan::Trust;
use crate::runs;

/// Manage groups.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add an untrusted group and make its directories
    Add {
        /// Letters, digits, _ and -, at most 64
        name: String,
    },
    /// List the groups, main first
    List,
    /// Show a group's trust and directories
    Show {
        /// The group
        name: String,
    },
    /// Take a group out of the registry; its data stay, and are named
    Remove {
        /// The group
        name: String,
    },
}

impl Arguments {
    /// Does what was asked.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let groups = Groups::new(&dirs);
        let trust = |trust| {
            if trust == Trust::Trusted { "trusted" } else { "untrusted" }
        };
        match self.action {
            Action::Add { name } => {
                let group = groups.add(name.parse()?)?;
                print(&format!(
                    "added group {}, untrusted; its folder is {}\n",
                    group.name,
                    group.directories(&dirs.data)[0].display()
                ))?;
            }
            Action::List => {
                for group in groups.list()? {
                    print(&format!("{:<24} {}\n", group.name, trust(group.trust())))?;
                }
            }
            Action::Show { name } => {
                let group = groups.find(&name)?;
                let [folder, session, messages, tasks, input] = group.directories(&dirs.data);
                let mut text = format!("group      {}\ntrust      {}\n", group.name, trust(group.trust()));
                let inside = [
                    "/workspace/group",
                    "/home/node/.claude",
                    "/workspace/ipc/messages",
                    "/workspace/ipc/tasks",
                    "/workspace/ipc/input",
                ];
                for (inside, outside) in inside.iter().zip([folder, session, messages, tasks, input]) {
                    text.push_str(&format!("{inside:<24} {}\n", outside.display()));
                }
                print(&text)?;
            }
            Action::Remove { name } => {
                if name == MAIN {
                    return Err(Error::refused("the group `main` cannot be removed"));
                }
                let group = groups.find(&name)?;
                if let Some(run) = runs::live(&dirs)?.into_iter().find(|run| run.group == name) {
                    return Err(Error::refused(format!("group `{name}` has a live run, {}", run.run))
                        .hint(format!("belljar stop {}", run.run)));
                }
                groups.remove(&group.name)?;
                let kept: Vec<String> = group
                    .directories(&dirs.data)
                    .iter()
                    .filter(|path| path.exists())
                    .map(|path| path.display().to_string())
                    .collect();
                print(&format!(
                    "removed group {name}; its data stay until you remove them:\n  {}\n",
                    kept.join("\n  ")
                ))?;
            }
        }
        Ok(0)
    }
}
