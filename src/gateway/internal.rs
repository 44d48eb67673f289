//! `belljar.internal`: what the gateway itself answers to, before any policy and
//! without dialling: the tools for agents, at one address.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::body::{Body, BodyError, Counted};
use super::exchange::{Direction, Exchange};
use super::forward::{Judged, Scheme};
use super::patient::Phase;
use super::refusal::Refusal;
use super::shared::Shared;
use crate::config::{Config, Dirs};
use crate::ipc::{self, mcp};
use crate::policy::Host;

/// Where the tools are.
const PATH: &str = "/mcp";
const PORT: u16 = 80;
/// Calls of a run that are served at once, each with up to 1 MiB of its body.
const CALLS: usize = 8;
/// How long one more waits for a place.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the host is the gateway's own.
pub fn is_own(host: &Host) -> bool {
    matches!(host, Host::Name(name) if name == ipc::HOST)
}

/// What is needed to answer.
pub struct Internal {
    dirs: Dirs,
    config: Config,
    /// Made at the first call: a run whose agent calls nothing pays nothing.
    service: OnceLock<mcp::Service>,
    calls: Arc<Semaphore>,
}

impl Internal {
    /// Nothing is made yet.
    pub fn new(dirs: Dirs, config: Config) -> Self {
        Self { dirs, config, service: OnceLock::new(), calls: Arc::new(Semaphore::new(CALLS)) }
    }

    fn service(&self, shared: &Arc<Shared>) -> &mcp::Service {
        self.service.get_or_init(|| {
            let needles = shared.secrets.needles().clone();
            mcp::service(mcp::Setup {
                dirs: self.dirs.clone(),
                config: self.config.clone(),
                store: Arc::clone(&shared.store),
                group: shared.group.clone(),
                run: shared.run.clone(),
                mask: Box::new(move |text| needles.mask_text(text).0),
            })
        })
    }
}

/// Answers a request to the gateway's own host.
pub async fn answer(
    request: Request<Incoming>,
    judged: &Judged,
    shared: &Arc<Shared>,
    exchange: &Arc<Exchange>,
) -> Result<Response<Body>, Refusal> {
    if (judged.scheme, judged.port, judged.path.as_str()) != (Scheme::Http, PORT, PATH) {
        return Err(Refusal {
            status: StatusCode::NOT_FOUND,
            ..Refusal::denied("not_found", format!("{} has nothing there", ipc::HOST))
        }
        .hint(format!("belljar's tools, by MCP: {}", ipc::URL)));
    }
    let Ok(Ok(place)) = timeout(PATIENCE, Arc::clone(&shared.internal.calls).acquire_owned()).await else {
        return Err(Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(10)),
            ..Refusal::denied("too_many_calls", format!("{CALLS} calls of this run are served already"))
        });
    };
    exchange.note(|entry| entry.action = Some("allow".to_owned()));
    let (mut parts, body) = request.into_parts();
    // It would be kept by what is called.
    parts.extensions.remove::<Phase>();
    let of_call = Arc::clone(exchange);
    parts.extensions.insert(mcp::OnApproval(Arc::new(move |id, state| {
        of_call.note(|entry| entry.approval = Some((id.to_owned(), state)));
    })));
    let body = Counted::new(body, Arc::clone(exchange), Direction::Out);
    let response = shared.internal.service(shared).handle(Request::from_parts(parts, body)).await;
    let inner = |body| Body::new(Counted::new(body, Arc::clone(exchange), Direction::Back));
    Ok(response.map(|body| Body::new(Occupying { inner: inner(body), _place: place })))
}

/// An answer that keeps its place to its end.
struct Occupying {
    inner: Body,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Occupying {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    super::length_of!(inner);
}
