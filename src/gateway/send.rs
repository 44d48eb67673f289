//! Sends a request, and waits for the head of its answer.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use tokio::time::sleep;

use super::body::{Body, BodyError};
use super::dial::DialError;
use super::refusal::Refusal;
use super::upstream::Pool;

/// Sends; `patience` begins anew with each part of the body that goes out, so
/// that a long upload is not cut off.
pub async fn send(pool: Pool, request: Request<Body>, patience: Duration) -> Result<Response<Incoming>, Refusal> {
    let progress = Arc::new(AtomicU64::new(0));
    let request = request.map(|inner| Body::new(Watched { inner, progress: Arc::clone(&progress) }));
    let mut answer = pin!(pool.request(request));
    loop {
        let before = progress.load(Ordering::Relaxed);
        tokio::select! {
            answered = &mut answer => return answered.map_err(|error| explain(&error)),
            () = sleep(patience) => if progress.load(Ordering::Relaxed) == before {
                return Err(Refusal {
                    status: StatusCode::GATEWAY_TIMEOUT,
                    ..Refusal::upstream(format!("the origin did not answer within {} s", patience.as_secs()))
                }
                .hint("a person can set [gateway] response_timeout in config.toml"));
            },
        }
    }
}

/// The gateway's own words where it has some.
fn explain(error: &hyper_util::client::legacy::Error) -> Refusal {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(inner) = cause {
        match inner.downcast_ref::<DialError>() {
            Some(DialError::NotPublic(why)) => {
                return Refusal::denied("address_not_public", why.clone())
                    .hint("a person can allow it in policy.toml: [[allow_private]] with its host and port");
            }
            Some(DialError::Unreachable(why)) => return Refusal::upstream(why.clone()),
            None => {}
        }
        last = inner.to_string();
        cause = inner.source();
    }
    Refusal::upstream(format!("the request to the origin failed: {last}"))
}

/// A body whose progress can be seen.
struct Watched {
    inner: Body,
    progress: Arc<AtomicU64>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if frame.is_ready() {
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        frame
    }

    super::length_of!(inner);
}
