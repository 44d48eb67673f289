//! What the host process is asked, over HTTP/1.1 on its socket.

use std::rc::Rc;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::run::{Asked, Told};
use super::{Host, messages};
use crate::runs;

/// Longest body of a request, in bytes.
const LONGEST: usize = 1 << 20;

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub async fn answer(host: &Rc<Host>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let method = request.method().clone();
    match (method, path.as_str()) {
        (Method::GET, "/status") => status(host),
        (Method::GET, "/runs") => live(host),
        (Method::POST, "/runs") => start(host, request).await,
        (Method::DELETE, path) if path.starts_with("/runs/") => stop(host, &path["/runs/".len()..]),
        (Method::POST, "/messages") => messages::take(host, request).await,
        (Method::GET, "/messages") => messages::tell(host, &request).await,
        (_, "/status" | "/runs" | "/messages") => refusal(StatusCode::METHOD_NOT_ALLOWED, "no such method here", None),
        _ => refusal(
            StatusCode::NOT_FOUND,
            "there is nothing of this name",
            Some(
                "GET /status, GET /runs, POST /runs, DELETE /runs/ID, POST /messages, GET /messages; man belljar-serve",
            ),
        ),
    }
}

/// A refusal, with what can be done.
pub fn refusal(status: StatusCode, message: &str, hint: Option<&str>) -> Answer {
    reply(status, &json!({ "error": { "message": message, "hint": hint } }))
}

pub(super) fn reply(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value).unwrap_or_default() + "\n";
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn status(host: &Host) -> Answer {
    reply(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "runs": host.children.borrow().len(),
            "most_runs": host.most_runs,
            "failing": host.queue.failing(),
        }),
    )
}

fn live(host: &Host) -> Answer {
    match runs::live(&host.dirs) {
        Ok(live) => reply(StatusCode::OK, &live),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.what, error.hint.as_deref()),
    }
}

fn stop(host: &Host, run: &str) -> Answer {
    match runs::find_live(&host.dirs, run) {
        Ok(run) => match kill(Pid::from_raw(run.pid), Signal::SIGTERM) {
            Ok(()) => reply(StatusCode::ACCEPTED, &json!({ "run": run.run })),
            Err(errno) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &errno.to_string(), None),
        },
        Err(error) => refusal(StatusCode::NOT_FOUND, &error.what, error.hint.as_deref()),
    }
}

/// The body of a request, understood; or what is to be said instead.
pub(super) async fn body<T: DeserializeOwned>(request: Request<Incoming>, example: &str) -> Result<T, Answer> {
    let body = match Limited::new(request.into_body(), LONGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("the body is longer than {} MiB", LONGEST >> 20);
            let hint = "put long input into a file of the group's, and tell the agent its name";
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, &message, Some(hint)));
        }
        Err(error) => {
            let hint = "curl --data-binary @FILE sends a body as HTTP has it";
            return Err(refusal(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {error}"), Some(hint)));
        }
    };
    serde_json::from_slice(&body).map_err(|error| {
        refusal(StatusCode::BAD_REQUEST, &format!("the body is not understood: {error}"), Some(example))
    })
}

async fn start(host: &Rc<Host>, request: Request<Incoming>) -> Answer {
    let example = r#"{"group": "sales", "command": ["sh", "-c", "…"], "stdin": "…"}"#;
    let asked: Asked = match body(request, example).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    if host.stopping.get() {
        return refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "the host process is being stopped",
            Some("try again when it is back"),
        );
    }
    let Ok(place) = host.places.try_acquire() else {
        let message = format!("{} runs are going on, as many as may", host.most_runs);
        let mut answer = refusal(StatusCode::TOO_MANY_REQUESTS, &message, Some("try again later; --runs NUMBER"));
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return answer;
    };
    let told = super::run::carry_out(host, asked).await;
    drop(place);
    host.queue.wake();
    match told {
        Told::Ended(ended) => reply(StatusCode::OK, &ended),
        Told::Refused { message, hint } => refusal(StatusCode::UNPROCESSABLE_ENTITY, &message, hint.as_deref()),
        Told::Failed(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.what, error.hint.as_deref()),
    }
}
