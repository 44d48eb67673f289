//! One run that was asked for by the API, to its end.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::Host;
use super::child::{self, Kept, Order, Run, Streams};
use crate::config::MAIN;
use crate::error::{Error, Result};
use crate::journal::Priority;

/// Of each stream so many bytes are kept.
const KEPT: usize = 1 << 20;

/// The body of `POST /runs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Whose agent it is; main unless said.
    group: Option<String>,
    /// Program and arguments; those of the group in config.toml unless said.
    #[serde(default)]
    command: Vec<String>,
    /// What the agent reads.
    stdin: Option<String>,
    /// The run's name.
    name: Option<String>,
}

impl Asked {
    fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(MAIN)
    }
}

/// How it ended.
#[derive(Debug, Serialize)]
pub struct Ended {
    run: Value,
    exit_code: Value,
    cause: Value,
    limits_reached: Value,
    stdout: String,
    stderr: String,
    /// Whether one of them was longer.
    truncated: bool,
}

/// What came of it.
pub enum Told {
    /// The agent began, and ended.
    Ended(Box<Ended>),
    /// belljar refused.
    Refused {
        /// In belljar's words.
        message: String,
        /// What can be done.
        hint: Option<String>,
    },
    /// It could not be started.
    Failed(Error),
}

/// Runs it to its end.
pub async fn carry_out(host: &Rc<Host>, asked: Asked) -> Told {
    let told = begin(host, &asked).await.unwrap_or_else(Told::Failed);
    // What became of a run that was started, the run itself tells.
    if let Told::Failed(error) = &told {
        host.events.tell("failed", Priority::Error, &error.what, &[("GROUP", asked.group().into())]);
    }
    told
}

async fn begin(host: &Rc<Host>, asked: &Asked) -> Result<Told> {
    if asked.command.iter().chain(&asked.group).chain(&asked.name).any(|word| word.contains('\0')) {
        let message = "a NUL byte in the command, group or name".to_owned();
        return Ok(Told::Refused { message, hint: Some("leave \\u0000 out of the body".to_owned()) });
    }
    let order =
        Order { group: asked.group(), name: asked.name.as_deref(), environment: Vec::new(), command: &asked.command };
    let (mut run, streams) = Run::start(host, &order)?;
    let (stdout, stderr) = converse(streams, asked.stdin.as_deref().unwrap_or_default()).await;
    let (stdout, stderr) = (stdout.text(), stderr.text());
    let receipt = match run.end().await? {
        child::Ended::Ran(receipt) => receipt,
        child::Ended::Refused => {
            let error = child::refusal(&stderr.0);
            return Ok(Told::Refused { message: error.with_causes(), hint: error.hint });
        }
    };
    let field = |name: &str| receipt.get(name).cloned().unwrap_or_default();
    Ok(Told::Ended(Box::new(Ended {
        run: field("run"),
        exit_code: field("exit_code"),
        cause: field("cause"),
        limits_reached: field("limits_reached"),
        truncated: stdout.1 || stderr.1,
        stdout: stdout.0,
        stderr: stderr.0,
    })))
}

/// Gives the agent what it is to read, and takes what it writes, side by side.
async fn converse(streams: Streams, stdin: &str) -> (Kept, Kept) {
    let Streams { stdin: to, stdout, stderr } = streams;
    let write = async move {
        if let Some(mut to) = to {
            // An agent that does not read is not waited for.
            let _ = to.write_all(stdin.as_bytes()).await;
        }
    };
    let read = async { tokio::join!(Kept::read(stdout, KEPT), Kept::read(stderr, KEPT)) };
    tokio::pin!(write);
    tokio::pin!(read);
    let mut written = false;
    loop {
        tokio::select! {
            () = &mut write, if !written => written = true,
            both = &mut read => return both,
        }
    }
}
