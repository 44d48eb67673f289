//! `belljar group`.

use clap::{Args, Subcommand};

use super::{print, surroundings};
use crate::config::{Config, Dirs, Group, Groups, MAIN};
use crate::error::{Error, Result, printable};
use crate::plan::Trust;
use crate::runs;
use crate::store::{Binding, Store};

/// Decisions that are shown.
const SHOWN: i64 = 100;

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
    /// Bind a chat to a group, or take it away
    Set(Set),
    /// Show what agents asked the host for, and what was decided, the last one first
    Decisions {
        /// Of this group only
        name: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a group out of the registry; its data stay, and are named
    Remove {
        /// The group
        name: String,
    },
}

#[derive(Debug, Args)]
struct Set {
    /// The group
    name: String,
    /// The chat, as its channel names it: irc:#ops
    #[arg(long, value_name = "JID", required_unless_present = "no_chat", conflicts_with = "no_chat")]
    chat: Option<String>,
    /// What people call the chat
    #[arg(long, value_name = "NAME")]
    chat_name: Option<String>,
    /// How a message must begin to wake the agent; @ and the assistant's name unless said
    #[arg(long, value_name = "@NAME", requires = "chat", conflicts_with = "no_trigger")]
    trigger: Option<String>,
    /// Each message wakes the agent; so it is for main, unless a trigger is said
    #[arg(long, requires = "chat")]
    no_trigger: bool,
    /// Take the group's chat away
    #[arg(long)]
    no_chat: bool,
}

impl Set {
    fn execute(self, dirs: &Dirs) -> Result<()> {
        let group = Groups::new(dirs).find(&self.name)?;
        let store = Store::open(dirs)?;
        let Some(chat) = self.chat else {
            let had = store.unbind(group.name.as_str())?;
            store.ring();
            let said = if had { "has no chat any more" } else { "had no chat" };
            return print(&format!("group {} {said}\n", group.name));
        };
        let good = |text: &str| !text.trim().is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
        for (what, text) in
            [("--chat", Some(&chat)), ("--trigger", self.trigger.as_ref()), ("--chat-name", self.chat_name.as_ref())]
        {
            if text.is_some_and(|text| !good(text)) {
                return Err(Error::refused(format!("{what}: 1 to 256 bytes, none of them a control character"))
                    .hint("belljar group set sales --chat irc:#sales --trigger @jar"));
            }
        }
        let config = Config::load(&dirs.config_file())?;
        let always = self.no_trigger || (group.trust() == Trust::Trusted && self.trigger.is_none());
        let trigger = (!always).then(|| self.trigger.unwrap_or_else(|| config.host.trigger()));
        let binding = Binding {
            group: group.name.to_string(),
            name: self.chat_name.unwrap_or_else(|| chat.clone()),
            chat,
            trigger,
        };
        store.bind(&binding)?;
        store.ring();
        print(&format!("group {} has the chat {}; {}\n", group.name, printable(&binding.chat), wakes(&binding)))
    }
}

fn wakes(binding: &Binding) -> String {
    match &binding.trigger {
        Some(trigger) => format!("messages that begin with {} wake its agent", printable(trigger)),
        None => "each message wakes its agent".to_owned(),
    }
}

fn decisions(dirs: &Dirs, name: Option<&str>, json: bool) -> Result<()> {
    let decisions = Store::open(dirs)?.decisions(name, SHOWN)?;
    if json {
        return print(&(serde_json::json!(decisions).to_string() + "\n"));
    }
    let mut text = String::new();
    for one in decisions {
        let verdict = if one.allowed { "allowed" } else { "refused" };
        let reason = if one.reason.is_empty() { String::new() } else { format!("  [{}]", printable(&one.reason)) };
        text.push_str(&format!(
            "{}  {:<12} {verdict}  {:<14} {}  by {}: {}{reason}\n",
            one.time,
            one.group,
            one.operation,
            printable(&one.target),
            one.way,
            one.permission
        ));
    }
    print(&text)
}

/// The line of a group's chat.
fn chat_line(dirs: &Dirs, group: &Group) -> Result<String> {
    let name = group.name.as_str();
    Ok(match Store::open(dirs)?.binding_of(name)? {
        Some(bound) => format!("chat       {}; {}\n", printable(&bound.chat), wakes(&bound)),
        None => format!("chat       none but local:{name} (belljar send -g {name})\n"),
    })
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
                Store::open(&dirs)?.ring();
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
                text.push_str(&chat_line(&dirs, &group)?);
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
            Action::Set(set) => set.execute(&dirs)?,
            Action::Decisions { name, json } => decisions(&dirs, name.as_deref(), json)?,
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
                // What waits for it would be another's who gets its name.
                let store = Store::open(&dirs)?;
                store.forget_group(group.name.as_str())?;
                store.ring();
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
