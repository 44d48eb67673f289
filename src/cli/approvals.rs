//! `belljar approvals`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::time::Duration;

use clap::{Args, Subcommand};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::rows::print_rows;
use super::{print, surroundings};
use crate::error::{Context, Result, printable};
use crate::record::json_line;
use crate::store::{Access, Approval, Permit, State, Store};

/// How often `watch` looks.
const PERIOD: u16 = 300;
/// Characters of a body in a list.
const GLIMPSE: usize = 160;

/// List, watch and show the requests that wait for a person.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the requests that wait, and the grants that are in force
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print each new one as it comes, and what became of it, until Ctrl-C
    Watch {
        /// As JSON, one line each
        #[arg(long)]
        json: bool,
    },
    /// Show one, with the whole of what was held of its body
    Show {
        /// Its id
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take back the grant that `belljar approve ID --for` gave
    Revoke {
        /// The id of the approval
        id: String,
    },
}

impl Arguments {
    /// Does what was asked.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let store = Store::open(&dirs)?;
        match self.action.unwrap_or(Action::List { json: self.json }) {
            Action::List { json: true } => {
                let pending: Vec<_> = store.pending()?.iter().map(Approval::to_json).collect();
                let lists = serde_json::json!({ "pending": pending, "grants": store.permits()? });
                print(&(json_line(&lists)? + "\n"))?;
            }
            Action::List { json: false } => print_rows(&list(&store.pending()?, &store.permits()?))?,
            Action::Watch { json } => watch(&store, if json { Form::Json } else { Form::Text })?,
            Action::Show { id, json } => {
                let approval = store.approval(&id)?;
                if json {
                    print(&(json_line(&approval.to_json())? + "\n"))?;
                } else {
                    print_rows(&whole(&approval))?;
                }
            }
            Action::Revoke { id } => {
                store.revoke(&id)?;
                print(&format!("revoked the grant of {}\n", id.to_lowercase()))?;
            }
        }
        Ok(0)
    }
}

/// In which form `watch` prints.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
}

fn list(pending: &[Approval], permits: &[Permit]) -> String {
    let mut text = String::new();
    if pending.is_empty() {
        text.push_str("no request waits\n");
    }
    for approval in pending {
        let _ = writeln!(text, "{}", line(approval));
        let _ = writeln!(text, "        {}", body_line(approval));
    }
    for permit in permits {
        let scope = &permit.scope;
        let what = if scope.is_access() {
            format!("may reach {}", printable(&scope.host))
        } else {
            format!("{} {} (any query and body)", printable(&scope.method), printable(&scope.url()))
        };
        let _ = writeln!(
            text,
            "grant   {} {} {what} for {} more; from {}, rule {}",
            permit.approval,
            printable(&scope.group),
            time_left(permit.left),
            printable(&permit.by),
            printable(&scope.rule)
        );
    }
    text
}

/// One request in one line. What is the agent's comes last, so that it can be
/// taken for nothing else.
fn line(approval: &Approval) -> String {
    let scope = &approval.scope;
    let what = match approval.access() {
        Some(access) => format!("asks {}", wanted(access)),
        None => format!("{} {}", printable(&scope.method), short(&printable(&approval.url()), &approval.id)),
    };
    format!(
        "{}  {} left  group {}  rule {}  {what}",
        approval.id,
        time_left(approval.left),
        printable(&scope.group),
        printable(&scope.rule),
    )
}

/// What an agent asks for, in words.
pub(super) fn wanted(access: Access<'_>) -> String {
    match access {
        Access::Host(host) => format!("to reach {}", printable(host)),
        Access::Secret(name) => format!("for the secret `{}`", printable(name)),
    }
}

/// The beginning of an address: a long one would push the others, and its own
/// body, off the screen.
fn short(url: &str, id: &str) -> String {
    match url.char_indices().nth(GLIMPSE) {
        Some((at, _)) => format!("{} … see: belljar approvals show {id}", &url[..at]),
        None => url.to_owned(),
    }
}

/// `type/subtype` without its parameters (RFC 9110, 8.3.1). The header is the
/// agent's, and could pretend to be the size and the text that follow it.
fn essence(content_type: Option<&str>) -> String {
    const LONGEST: usize = 60;
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let Some(text) = content_type else { return "untyped".to_owned() };
    let essence = text.split(';').next().unwrap_or_default().trim();
    match essence.split_once('/') {
        Some((kind, subtype)) if token(kind) && token(subtype) && essence.len() <= LONGEST => essence.to_owned(),
        _ => "of an odd type".to_owned(),
    }
}

/// Type, size and beginning of the body.
fn body_line(approval: &Approval) -> String {
    let body = &approval.body;
    // What an agent says for itself is its reason.
    let what = match approval.access() {
        Some(_) => "its reason".to_owned(),
        None => format!("body {}", essence(approval.content_type.as_deref())),
    };
    let bytes = body.bytes.as_deref().unwrap_or_default();
    // Four bytes a character at most, and one more to see whether there are more.
    let shown = printable(&text_of(&bytes[..bytes.len().min(4 * GLIMPSE + 4)]));
    let glimpse: String = shown.chars().take(GLIMPSE).collect();
    let more = if glimpse.len() < shown.len() || bytes.len() > 4 * GLIMPSE + 4 || !body.whole {
        format!(" … see: belljar approvals show {}", approval.id)
    } else {
        String::new()
    };
    match body.held {
        0 if body.whole => "no body".to_owned(),
        _ => format!("{what}, {}: {glimpse}{more}", size(approval)),
    }
}

/// How much there is of the body, and how much was held.
fn size(approval: &Approval) -> String {
    let body = &approval.body;
    match (body.whole, body.size) {
        (true, _) => format!("{} bytes", body.held),
        (false, Some(size)) => format!("CUT: {} of {size} bytes held", body.held),
        (false, None) => format!("CUT: {} bytes held, nobody knows how many come", body.held),
    }
}

/// The text of a body; what is no UTF-8 is escaped.
fn text_of(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::with_capacity(bytes.len()), |mut text, chunk| {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
        text
    })
}

/// One request with all that is known.
fn whole(approval: &Approval) -> String {
    let scope = &approval.scope;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<8} {}", printable(value));
    };
    line("id", &approval.id);
    match approval.state {
        State::Pending => line("state", &format!("pending, {} left", time_left(approval.left))),
        state => line("state", &outcome(approval, state)),
    }
    line("run", &approval.run);
    line("group", &scope.group);
    line("rule", &scope.rule);
    match approval.access() {
        Some(access) => {
            line("asks", &wanted(access));
            line("granted", outcome_of(access));
            line("reason", &size(approval));
        }
        None => {
            line("secret", approval.secret.as_deref().unwrap_or("none will be added"));
            line("method", &scope.method);
            line("url", &approval.url());
            line("type", approval.content_type.as_deref().unwrap_or("none was said"));
            line("body", &size(approval));
        }
    }
    line("sha256", &approval.body.sha256);
    match &approval.body.bytes {
        None => line("content", "was removed when it was decided"),
        Some(bytes) if bytes.is_empty() => {}
        Some(bytes) => {
            // The mark before each line is belljar's: no line of the body can
            // look like one of belljar's own.
            for part in text_of(bytes).split_inclusive('\n') {
                let _ = writeln!(text, "| {}", printable(part.strip_suffix('\n').unwrap_or(part)));
            }
            if !approval.body.whole {
                let _ = writeln!(text, "cut      {}", size(approval));
            }
        }
    }
    text
}

/// What it means to say yes.
fn outcome_of(access: Access<'_>) -> &'static str {
    match access {
        Access::Host(_) => {
            "every request of the group to it, ports 443 and 80, for an hour or as --for says; not what a rule denies"
        }
        Access::Secret(_) => "nothing by itself: belljar secret add is yours to do",
    }
}

fn outcome(approval: &Approval, state: State) -> String {
    let by = approval.by.as_deref().unwrap_or_default();
    let how = match state {
        State::Approved | State::Denied => format!(" by {by}"),
        _ => format!(": {by}"),
    };
    format!("{}{how}, {}", state.name(), approval.decided.as_deref().unwrap_or_default())
}

/// Whole seconds, for people.
pub(super) fn time_left(left: Duration) -> String {
    humantime::format_duration(Duration::from_secs(left.as_secs())).to_string()
}

/// Follows what comes and goes until the reader of stdout has gone.
fn watch(store: &Store, form: Form) -> Result<()> {
    let mut waiting: BTreeSet<String> = BTreeSet::new();
    let mut last = store.after(None)?.pop();
    for approval in store.pending()? {
        tell(&approval, form)?;
        waiting.insert(approval.id.clone());
    }
    loop {
        let still = store.waiting()?;
        for approval in store.after(last.as_ref())? {
            if !waiting.contains(&approval.id) {
                tell(&approval, form)?;
                if approval.state == State::Pending {
                    waiting.insert(approval.id.clone());
                }
            }
            last = Some(approval);
        }
        let gone: Vec<String> = waiting.difference(&still).cloned().collect();
        for id in gone {
            let approval = store.approval(&id)?;
            // It may have come after the look at those that wait.
            if approval.state != State::Pending {
                tell(&approval, form)?;
                waiting.remove(&id);
            }
        }
        if reader_has_gone(PERIOD)? {
            return Ok(());
        }
    }
}

fn tell(approval: &Approval, form: Form) -> Result<()> {
    match (form, approval.state) {
        (Form::Json, _) => print(&(json_line(&approval.to_json())? + "\n")),
        (Form::Text, State::Pending) => print_rows(&format!("{}  {}\n", line(approval), body_line(approval))),
        (Form::Text, state) => print_rows(&format!("{}  {}\n", approval.id, printable(&outcome(approval, state)))),
    }
}

/// Waits so many milliseconds, or until nobody reads stdout any more.
pub(super) fn reader_has_gone(milliseconds: u16) -> Result<bool> {
    let stdout = std::io::stdout();
    // An error of a pipe or a terminal is reported unasked (poll(2)).
    let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    match poll(&mut watched, PollTimeout::from(milliseconds)) {
        Ok(0) | Err(Errno::EINTR) => Ok(false),
        Ok(_) => Ok(true),
        Err(errno) => Err(errno).step(|| "wait for stdout".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_in_a_body_is_escaped() {
        assert_eq!(text_of("é\n".as_bytes()), "é\n");
        assert_eq!(text_of(b"a\xff\xfe\nz\xc3"), "a\\xff\\xfe\nz\\xc3");
    }

    #[test]
    fn a_type_cannot_pretend_to_be_a_body() {
        assert_eq!(essence(Some("application/json; charset=utf-8")), "application/json");
        assert_eq!(essence(None), "untyped");
        let long = format!("text/{}", "x".repeat(80));
        for odd in ["application/json, 3 bytes: {}", "text/plain approved", "text", "/", "a/b/c", "\u{e9}/x", &long] {
            assert_eq!(essence(Some(odd)), "of an odd type", "{odd}");
        }
    }
}
