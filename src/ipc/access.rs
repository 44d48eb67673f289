//! `request_access`: a person is asked, and the call waits for the answer.

use std::sync::Arc;
use std::time::Duration;

use hyper::http::request::Parts;
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::RequestContext;
use serde_json::json;
use tokio::time::Instant;

use super::Operation;
use super::mcp::{Bench, OnApproval};
use super::perform::Answer;
use crate::error::{Error, Result, printable};
use crate::store::{self, State};

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// How often the client is told that it still waits: some give up after a minute
/// without a word.
const WORD: Duration = Duration::from_secs(10);

/// Asks, and waits until somebody has decided, the time is up, or the client goes.
pub async fn ask(bench: &Arc<Bench>, operation: Operation, context: RequestContext<RoleServer>) -> Result<Answer> {
    let Operation::RequestAccess { host, secret, .. } = &operation else {
        return Err(Error::failed("ask a person for access"));
    };
    let what = match (host, secret) {
        (Some(host), _) => Wanted::Host(host.clone()),
        (None, secret) => Wanted::Secret(secret.clone().unwrap_or_default()),
    };
    let Ok(_place) = Arc::clone(&bench.waiting).try_acquire_owned() else {
        return Err(Error::refused("too many requests of this run wait for a person already")
            .hint("ask again when one of them has been answered"));
    };
    let answer = bench.at_desk(operation).await?;
    let id = answer.value["approval"].as_str().unwrap_or_default().to_owned();
    let note = context.extensions.get::<Parts>().and_then(|parts| parts.extensions.get::<OnApproval>()).cloned();
    let note = |state: State| note.iter().for_each(|OnApproval(tell)| tell(&id, state));
    note(State::Pending);
    let told = id.clone();
    bench.blocking(move |bench| tell_person(bench, &told)).await?;
    let state = wait(bench, &id, &context).await?;
    note(state);
    conclude(bench, what, id, state).await
}

/// What is asked for.
enum Wanted {
    Host(String),
    Secret(String),
}

/// By the command that the person configured.
fn tell_person(bench: &Bench, id: &str) -> Result<()> {
    let command = &bench.setup.config.gateway.approval_command;
    if !command.is_empty() {
        let approval = bench.setup.store.approval(id)?;
        // The request waits also when nobody could be told.
        if let Err(error) = store::notify(command, &approval) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

/// The store keeps the deadline: its word is also the one that the person gets.
async fn wait(bench: &Arc<Bench>, id: &str, context: &RequestContext<RoleServer>) -> Result<State> {
    let token = context.meta.get_progress_token();
    let begun = Instant::now();
    let mut words = 0u32;
    loop {
        let asked = id.to_owned();
        match bench.blocking(move |bench| bench.setup.store.state(&asked)).await? {
            State::Pending => {}
            state => return Ok(state),
        }
        if let Some(token) = &token
            && begun.elapsed() >= WORD * words
        {
            words += 1;
            still_waits(context, token.clone(), (id, begun.elapsed())).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = context.ct.cancelled() => {
                let gone = id.to_owned();
                return bench.blocking(move |bench| bench.setup.store.cancel(&gone, "the agent went away")).await;
            }
        }
    }
}

/// Progress, which also makes the answer a stream: its head is sent at once.
async fn still_waits(context: &RequestContext<RoleServer>, token: ProgressToken, (id, since): (&str, Duration)) {
    let word = ProgressNotificationParam::new(token, since.as_secs_f64())
        .with_message(format!("request {id} waits for a person"));
    // A client that has gone is noticed by the token.
    let _ = context.peer.notify_progress(word).await;
}

async fn conclude(bench: &Arc<Bench>, what: Wanted, id: String, state: State) -> Result<Answer> {
    let shown = match &what {
        Wanted::Host(host) => format!("host {}", printable(host)),
        Wanted::Secret(secret) => format!("secret `{}`", printable(secret)),
    };
    match state {
        State::Approved => {}
        State::Denied => {
            return Err(Error::refused(format!("denied: a person has denied request {id} for {shown}"))
                .hint("do not ask for the same again; go on without it"));
        }
        State::Expired => {
            return Err(Error::refused(format!("expired: nobody decided in time on request {id} for {shown}"))
                .hint("ask again later, or go on without it"));
        }
        State::Pending | State::Cancelled => {
            return Err(Error::refused(format!("request {id} for {shown} does not wait any more")).hint("ask again"));
        }
    }
    let group = bench.identity.group.clone();
    match what {
        Wanted::Host(host) => {
            let asked = id.clone();
            let permit = bench.blocking(move |bench| bench.setup.store.permit_of(&asked)).await?;
            let until = permit.map(|permit| permit.until);
            let time = until.as_deref().unwrap_or("a moment that has passed");
            let text = format!(
                "approved: a person lets group {group} reach {} on ports 443 and 80 until {time}; \
                 what a rule of the policy denies by name stays denied",
                printable(&host)
            );
            let value = json!({ "approval": id, "state": state.name(), "host": host, "until": until });
            Ok(Answer { text, value })
        }
        Wanted::Secret(secret) => {
            let text = format!(
                "approved: a person agrees that group {group} gets {shown}. They have to add it themselves, on the \
                 host, for this group (belljar secret add … --group {group}); it is there from the next run on"
            );
            Ok(Answer { text, value: json!({ "approval": id, "state": state.name(), "secret": secret }) })
        }
    }
}
