//! `belljar secret`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretBox};

use super::{print, surroundings};
use crate::config::{Config, MAIN, Provider};
use crate::error::{Context, Error, Result, printable};
use crate::vault::presets::{self, Expanded};
use crate::vault::{self, Binding, IfMissing, Injection, PLACEHOLDER, Record, Vault, keep_out_of_dumps};

/// Manage the credentials that the gateway adds on the host side.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a secret; its value comes from a prompt, stdin or a file
    Add(Box<Add>),
    /// List the secrets, without values
    List {
        /// As JSON, with the denied endpoints
        #[arg(long)]
        json: bool,
        /// Open each value, to see that the key is right and nothing was changed
        #[arg(long, conflicts_with = "json")]
        check: bool,
    },
    /// Replace the value of a secret, or the master key
    #[command(group = ArgGroup::new("what").required(true).args(["name", "key"]))]
    Rotate {
        /// The secret
        name: Option<String>,
        /// Read the new value from this file
        #[arg(long, value_name = "FILE", conflicts_with = "key")]
        value_file: Option<PathBuf>,
        /// Make a new master key and seal everything with it
        #[arg(long)]
        key: bool,
        /// The new key for systemd, or the new passphrase
        #[arg(long, value_name = "FILE", requires = "key")]
        new_key_file: Option<PathBuf>,
    },
    /// Remove a secret
    Remove {
        /// The secret
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("injection").args(["header", "bearer", "basic", "query"]))]
struct Add {
    /// A name for it: letters, digits, _, . and -
    name: String,
    /// Host, header, variable and denied endpoints of a vendor: anthropic, openai, github,
    /// gitlab, npm, pypi; or generic, which needs --host
    #[arg(long, value_name = "PRESET")]
    preset: Option<String>,
    /// The host that gets the value, or *.example for all below it
    #[arg(long, required_unless_present = "preset")]
    host: Option<String>,
    /// The host's port
    #[arg(long, default_value_t = 443)]
    port: u16,
    /// The paths that get it: * is one segment, a trailing * the rest [default: /*]
    #[arg(long)]
    path: Option<String>,
    /// In this header, such as 'X-Key: {value}'
    #[arg(long, value_name = "HEADER")]
    header: Option<String>,
    /// In the header Authorization: Bearer
    #[arg(long)]
    bearer: bool,
    /// In basic authentication, as the password of this user
    #[arg(long, value_name = "USER")]
    basic: Option<String>,
    /// In this query parameter
    #[arg(long, value_name = "NAME")]
    query: Option<String>,
    /// A group that may use it [default: main]
    #[arg(short, long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The variable in which the agent gets a placeholder
    #[arg(long, value_name = "VAR")]
    env: Option<String>,
    /// Read the value from this file
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
}

impl Arguments {
    /// Does what was asked.
    pub fn execute(self) -> Result<u8> {
        keep_out_of_dumps()?;
        let (_, dirs) = surroundings()?;
        let config = Config::load(&dirs.config_file())?.vault;
        if config.provider == Provider::Onecli {
            return Err(Error::refused("the secrets are those of OneCLI, as config.toml says")
                .hint("use OneCLI for them, or set provider = \"builtin\" in [vault]"));
        }
        let vault = Vault::new(&dirs, &config);
        match self.action {
            Action::Add(add) => add.execute(&vault),
            Action::List { check: true, .. } => check(&vault),
            Action::List { json, .. } => list(&vault.records()?, json),
            Action::Rotate { name: Some(name), value_file, .. } => {
                let value = read_value(value_file.as_deref())?;
                let record = vault.replace(&name, &value)?;
                print(&format!("replaced the value of {}\n", record.name))?;
                Ok(0)
            }
            Action::Rotate { new_key_file, .. } => {
                let changed = vault.change_key(new_key_file.as_deref())?;
                let authority = if changed.authority { " and the certificate authority's key" } else { "" };
                print(&format!("changed the master key; sealed {} secrets{authority} with it\n", changed.secrets))?;
                Ok(0)
            }
            Action::Remove { name } => {
                let record = vault.remove(&name)?;
                print(&format!("removed {}\n", record.name))?;
                Ok(0)
            }
        }
    }
}

impl Add {
    fn execute(self, vault: &Vault) -> Result<u8> {
        // What is wrong on the command line is told before the value is asked for.
        let injection = self.injection()?;
        if injection.is_some() != self.is_explicit() {
            return Err(if self.is_explicit() {
                Error::usage("a secret for --host needs --header, --bearer, --basic or --query")
            } else {
                Error::usage("a preset says itself how the value is injected").hint("use --host without --preset")
            });
        }
        if !self.is_explicit() && self.path.is_some() {
            return Err(Error::usage("a preset says itself which paths get the value"));
        }
        let value = read_value(self.value_file.as_deref())?;
        let record = self.record(injection, value.expose_secret())?;
        let record = vault.add(record, &value)?;
        let mut text = format!("added {} for {}: {}", record.name, record.groups.join(", "), places(&record));
        let variables: Vec<String> = record.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if variables.is_empty() {
            text.push_str("; the agent gets no variable");
        } else {
            let _ = write!(text, "; the agent gets {}", variables.join(" "));
        }
        print(&format!("{}\n", printable(&text)))?;
        Ok(0)
    }

    fn is_explicit(&self) -> bool {
        self.preset.as_deref().is_none_or(|preset| preset == "generic")
    }

    fn injection(&self) -> Result<Option<Injection>> {
        if let Some(header) = &self.header {
            let (name, format) = header.split_once(':').ok_or_else(|| {
                Error::usage("--header wants a name, a colon and a value").hint("--header 'X-Key: {value}'")
            })?;
            let format = format.trim_matches(' ').to_owned();
            return Ok(Some(Injection::Header { name: name.to_ascii_lowercase(), format }));
        }
        let basic = self.basic.clone().map(|user| Injection::Basic { user });
        let query = self.query.clone().map(|name| Injection::Query { name });
        let generic = self.preset.as_deref() == Some("generic");
        let chosen = basic.or(query).or(self.bearer.then_some(Injection::Bearer));
        Ok(chosen.or(generic.then_some(Injection::Bearer)))
    }

    fn record(self, injection: Option<Injection>, value: &[u8]) -> Result<Record> {
        let host = self.host.map(|host| host.to_ascii_lowercase());
        let expanded = match (injection, &self.preset) {
            (None, Some(preset)) => presets::expand(preset, host.as_deref(), self.port, value)?,
            (injection, _) => {
                let host = host.ok_or_else(|| Error::usage("--preset generic needs --host"))?;
                let injection = injection.unwrap_or(Injection::Bearer);
                let path = self.path.unwrap_or_else(|| "/*".to_owned());
                let binding = Binding { host, port: self.port, path, injection, strip: Vec::new() };
                Expanded { bindings: vec![binding], denied: Vec::new(), variables: Vec::new() }
            }
        };
        let Expanded { bindings, denied, mut variables } = expanded;
        if let Some(variable) = self.env {
            variables.retain(|(_, text)| text != PLACEHOLDER);
            variables.push((variable, PLACEHOLDER.to_owned()));
        }
        let mut groups = if self.groups.is_empty() { vec![MAIN.to_owned()] } else { self.groups };
        groups.sort();
        groups.dedup();
        let (created, rotated) = (Timestamp::now(), None);
        Ok(Record { name: self.name, groups, preset: self.preset, bindings, denied, variables, created, rotated })
    }
}

/// The value from the file, from stdin when that is not a terminal, or asked
/// for without echo. One line feed at the end is not part of it.
fn read_value(file: Option<&Path>) -> Result<SecretBox<[u8]>> {
    let longest = vault::LONGEST + 2;
    let mut value = match file {
        Some(path) => {
            let opened = File::open(path).refuse(|| format!("open {}", path.display()))?;
            vault::read_bounded(opened, longest).refuse(|| format!("read {}", path.display()))?
        }
        None if io::stdin().is_terminal() => vault::hidden("value: ")
            .refuse(|| "ask for the value on the terminal".to_owned())
            .map_err(|error| error.hint("give it on stdin, or name a file with --value-file"))?,
        None => vault::read_bounded(io::stdin(), longest).refuse(|| "read the value from stdin".to_owned())?,
    };
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    Ok(SecretBox::new(value.as_slice().into()))
}

/// Hosts, paths and injections on one line.
fn places(record: &Record) -> String {
    let place = |binding: &Binding| {
        let how = match &binding.injection {
            Injection::Header { name, format } => format!("{name}: {format}"),
            Injection::Bearer => "bearer".to_owned(),
            Injection::Basic { user } => format!("basic {user}"),
            Injection::Query { name } => format!("?{name}={{value}}"),
        };
        let port = if binding.port == 443 { String::new() } else { format!(":{}", binding.port) };
        format!("{}{port}{} ({how})", binding.host, binding.path)
    };
    record.bindings.iter().map(place).collect::<Vec<_>>().join(", ")
}

fn list(records: &[Record], json: bool) -> Result<u8> {
    if json {
        let text = serde_json::to_string_pretty(records).step(|| "render the secrets".to_owned())?;
        print(&format!("{text}\n"))?;
        return Ok(0);
    }
    let mut text = String::new();
    for record in records {
        let mut line = |what: &str, value: &str| {
            let _ = writeln!(text, "{what:<11} {}", printable(value));
        };
        line("secret", &record.name);
        line("groups", &record.groups.join(" "));
        line("preset", record.preset.as_deref().unwrap_or("-"));
        for binding in &record.bindings {
            line("goes to", &places(&Record { bindings: vec![binding.clone()], ..record.clone() }));
        }
        line("denied", &format!("{} endpoints", record.denied.len()));
        for (name, value) in &record.variables {
            line("variable", &format!("{name}={value}"));
        }
        line("added", &record.created.to_string());
        line("rotated", &record.rotated.map_or_else(|| "-".to_owned(), |time| time.to_string()));
        text.push('\n');
    }
    if records.is_empty() {
        text.push_str("no secrets\nhint: belljar secret add NAME --preset PRESET\n");
    }
    print(&text)?;
    Ok(0)
}

fn check(vault: &Vault) -> Result<u8> {
    if vault.records()?.is_empty() {
        return list(&[], false);
    }
    let master = vault.master(IfMissing::Refuse)?;
    let mut failures = Vec::new();
    for (name, opened) in vault.check(&master)? {
        match opened {
            Ok(()) => print(&format!("ok          {}\n", printable(&name)))?,
            Err(error) => failures.push(error),
        }
    }
    let Some(mut first) = failures.first().cloned() else {
        return Ok(0);
    };
    for other in &failures[1..] {
        first = first.because(format!("and: {}", other.what));
    }
    Err(first)
}
