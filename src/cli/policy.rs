//! `belljar policy`.

use clap::{Args, Subcommand};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use serde_json::json;

use super::{print, surroundings};
use crate::config::{Config, Dirs, Groups, MAIN};
use crate::error::{Context, Error, Result, printable};
use crate::gateway::{Endpoints, endpoint_reason, judge_literal};
use crate::plan::{inspected, records_of};
use crate::policy::{
    Action as Outcome, Decision, DefaultAction, NormalPath, Policy, Problem, Query, Rule, Severity, Target, check,
};
use crate::vault::{Record, Vault};

/// Show, check and try the rules of what may leave.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the default and the rules in their order, as they are understood
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Find rules that are never reached, contradict each other or do nothing; exit code 1 when there are errors
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say which rule decides on a request; nothing is sent. Exit code 1 when it would be refused
    Test(Test),
}

#[derive(Debug, Args)]
struct Test {
    /// Whose request
    #[arg(short, long, default_value = MAIN)]
    group: String,
    /// At this time instead of now, such as 2026-12-31T18:00:00+01:00
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// GET, POST, …
    method: String,
    /// https://host/path
    url: String,
}

impl Arguments {
    /// Does what was asked.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        match self.action {
            Action::Show { json } => show(&dirs, json),
            Action::Check { json } => find(&dirs, json),
            Action::Test(test) => test.execute(&dirs),
        }
    }
}

fn load(dirs: &Dirs) -> Result<Policy> {
    Policy::load(&Policy::file(dirs))
}

fn rendered(value: &impl serde::Serialize) -> Result<u8> {
    let text = serde_json::to_string_pretty(value).step(|| "render the policy".to_owned())?;
    print(&format!("{text}\n"))?;
    Ok(0)
}

fn show(dirs: &Dirs, json: bool) -> Result<u8> {
    let policy = load(dirs)?;
    if json {
        return rendered(&policy);
    }
    let file = Policy::file(dirs);
    let state = if file.exists() { "" } else { "; it is not there, so every public host is allowed" };
    let default = if policy.default == DefaultAction::Allow { "allow" } else { "deny" };
    let mut text = format!("policy     {}{state}\ndefault    {default}\n", printable(&file.display().to_string()));
    if !policy.rules.is_empty() {
        let heads = ["RULE", "ACTION", "GROUPS", "HOST", "METHODS", "PATH", "LIMITS"].map(str::to_owned);
        text.push('\n');
        text.push_str(&table(std::iter::once(heads).chain(policy.rules.iter().map(row)).collect()));
    }
    for entry in &policy.allow_private {
        text.push_str(&format!("\nprivate    {} port {}", entry.host, entry.port));
    }
    for entry in &policy.tcp {
        text.push_str(&format!("\ntcp        {} port {}, groups {}", entry.host, entry.port, entry.groups));
    }
    print(&format!("{}\n", text.trim_end()))?;
    Ok(0)
}

fn row(rule: &Rule) -> [String; 7] {
    let methods = match &rule.methods {
        None => "all".to_owned(),
        Some(methods) => methods.iter().map(|method| method.0.as_str()).collect::<Vec<_>>().join(","),
    };
    [
        rule.name.clone(),
        rule.action.to_string(),
        rule.groups.to_string(),
        rule.host.to_string(),
        methods,
        rule.path.to_string(),
        limits(rule).join(" "),
    ]
}

fn limits(rule: &Rule) -> Vec<String> {
    let rate = rule.rate.map(|rate| rate.to_string());
    let between = rule.between.map(|window| window.to_string());
    let until = rule.until.map(|until| format!("until {until}"));
    [rate, between, until].into_iter().flatten().collect()
}

fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn find(dirs: &Dirs, json: bool) -> Result<u8> {
    let policy = load(dirs)?;
    let groups: Vec<String> = Groups::new(dirs).list()?.into_iter().map(|group| group.name.to_string()).collect();
    let findings = check(&policy, &groups, &Zoned::now());
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let code = u8::from(errors > 0);
    if json {
        rendered(&findings)?;
        return Ok(code);
    }
    let file = printable(&Policy::file(dirs).display().to_string());
    let mut text = String::new();
    for finding in &findings {
        let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
        text.push_str(&format!("{file}:{}: {severity}: {}\n", finding.line, finding.text));
    }
    let warnings = findings.len() - errors;
    text.push_str(&format!("{} rules, {errors} errors, {warnings} warnings\n", policy.rules.len()));
    print(&text)?;
    Ok(code)
}

impl Test {
    fn execute(self, dirs: &Dirs) -> Result<u8> {
        let policy = load(dirs)?;
        let group = Groups::new(dirs).find(&self.group)?.name;
        // A fragment is not sent (RFC 9110, 4.2.5).
        let url = self.url.split('#').next().unwrap_or_default();
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let no_url = if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            Some("it is neither http:// nor https://")
        } else if authority.is_empty() {
            Some("there is no host")
        } else if authority.contains('@') {
            Some("a user is sent in a header, not in the address")
        } else {
            None
        };
        if let Some(why) = no_url {
            return Err(Error::usage(format!("`{}` cannot be judged: {why}", self.url))
                .hint("write for example https://api.example/v1/items"));
        }
        let now = self.at.map_or_else(Zoned::now, |at| at.to_zoned(TimeZone::system()));
        let config = Config::load(&dirs.config_file())?;
        let records = records_of(&Vault::new(dirs, &config.vault), &config, group.as_str())?;
        let opened =
            scheme.eq_ignore_ascii_case("http") || inspected(&policy, &config, group.as_str(), &records).opened;
        let target = Target::parse(url);
        let path = target.as_ref().map_err(Clone::clone).and_then(|target| NormalPath::normalise(target.path));
        let (target, path) = match (target, path) {
            (Ok(target), Ok(path)) => (target, path),
            (Ok(_), Err(_)) if !opened => return self.in_a_tunnel(),
            (_, Err(problem)) | (Err(problem), _) => return self.refused_as_malformed(&problem),
        };
        let host = &target.authority.host;
        let query = Query { group: group.as_str(), method: &self.method, host, path: &path, now: &now };
        let decision = match before_rules(&query, opened, &records)? {
            Some(refused) => refused,
            None => at_the_dial(policy.decide(&query), &query, target.port(), &policy),
        };
        let rule = decision.rule.as_ref().and_then(|name| policy.rules.iter().find(|rule| rule.name == *name));
        let code = u8::from(decision.action == Outcome::Deny);
        if self.json {
            rendered(&json!({
                "group": group, "method": self.method, "host": host, "port": target.port(),
                "path": path.as_str(), "at": now.timestamp(), "decision": decision, "rule": rule,
            }))?;
            return Ok(code);
        }
        let by = match (rule, &decision.rule) {
            (Some(rule), _) => format!("{} (line {})", rule.name, rule.line),
            (None, name) => name.as_deref().map_or_else(|| "none".to_owned(), printable),
        };
        let mut lines = vec![
            ("action", decision.action.to_string()),
            ("rule", by),
            ("reason", printable(&decision.reason)),
            ("host", format!("{host}, port {}", target.port())),
            ("path", path.to_string()),
        ];
        if host.ip().is_none() && decision.action != Outcome::Deny {
            lines.push((
                "address",
                "judged when the name is resolved: only public ones, and [[allow_private]]".to_owned(),
            ));
        }
        if target.query.is_some() {
            lines.push(("query", "not judged".to_owned()));
        }
        let limits = rule.map(limits).unwrap_or_default();
        if !limits.is_empty() {
            lines.push(("limits", limits.join(" ")));
        }
        let hint = decision.hint.lines().map(printable).collect::<Vec<_>>().join("\n           ");
        if !hint.is_empty() {
            lines.push(("hint", hint));
        }
        let text: String = lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect();
        print(&text)?;
        Ok(code)
    }

    fn in_a_tunnel(&self) -> Result<u8> {
        let reason = "it passes in a tunnel that is not opened: no rule or secret needs to see the group's requests";
        self.say_short("allow", reason).map(|()| 0)
    }

    fn refused_as_malformed(&self, problem: &Problem) -> Result<u8> {
        self.say_short("deny", &printable(&format!("the gateway refuses it as malformed: {problem}"))).map(|()| 1)
    }

    fn say_short(&self, action: &str, reason: &str) -> Result<()> {
        if self.json {
            let decision = json!({ "action": action, "rule": null, "rate": null, "reason": reason, "hint": "" });
            return rendered(&json!({ "group": self.group, "method": self.method, "decision": decision })).map(drop);
        }
        print(&format!("{:<10} {action}\n{:<10} none\n{:<10} {reason}\n", "action", "rule", "reason"))
    }
}

fn refused(rule: Option<String>, reason: String, hint: String) -> Decision {
    Decision { action: Outcome::Deny, rule, rate: None, reason, hint }
}

/// What the gateway refuses before it asks the rules.
fn before_rules(query: &Query<'_>, opened: bool, records: &[Record]) -> Result<Option<Decision>> {
    let Query { method, host, path, .. } = query;
    if opened && matches!(*method, "TRACE" | "CONNECT") {
        let reason = format!("the gateway refuses {method}: it shows a request's own headers, or opens a tunnel");
        return Ok(Some(refused(None, reason, String::new())));
    }
    Ok(Endpoints::of(records.iter())?.denied_by(host, method, path).map(|secret| {
        let reason = endpoint_reason(method, path, host, secret);
        refused(Some(format!("preset of secret {secret}")), reason, "a person can do this outside belljar".to_owned())
    }))
}

/// The rules come first: an address is judged when it is dialled.
fn at_the_dial(decision: Decision, query: &Query<'_>, port: u16, policy: &Policy) -> Decision {
    let host = query.host;
    match judge_literal(host, port, policy) {
        Err(reason) if decision.action != Outcome::Deny => refused(
            None,
            reason,
            format!("a person can add to policy.toml:\n[[allow_private]]\nhost = \"{host}\"\nport = {port}"),
        ),
        _ => decision,
    }
}
