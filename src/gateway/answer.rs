//! The way back: an answer without what is for one connection only, and with
//! the run's secrets masked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::header::{
    ACCEPT_RANGES, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderValue, PROXY_AUTHENTICATE,
    SEC_WEBSOCKET_EXTENSIONS, TRANSFER_ENCODING, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode, Version};

use super::body::{Body, BodyError, Counted};
use super::exchange::{Direction, Exchange};
use super::headers::{is_chunked, message_coding, strip_hop_by_hop};
use super::redact::{Coding, Decoded, Needles, RedactedBody, mask_headers};
use super::refusal::Refusal;
use super::shared::{Place, Shared};
use super::websocket;

/// How an answer is searched for the run's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Of a host that a secret goes to: what could not be searched is refused.
    Whole,
    /// Of any other, which may have got one from there: as far as it is plain.
    AsItComes,
}

/// The way back: masked.
pub fn come_back(
    mut response: Response<Incoming>,
    agent_side: Option<(OnUpgrade, Place)>,
    search: Search,
    shared: &Arc<Shared>,
    exchange: &Arc<Exchange>,
) -> Result<Response<Body>, Refusal> {
    let all = shared.secrets.needles();
    let needles = (search == Search::Whole).then_some(all);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched {
        let Some((agent_side, place)) = agent_side else {
            return Err(Refusal::upstream("the origin changed the protocol unasked"));
        };
        if needles.is_some() && response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return Err(Refusal::upstream(
                "the origin compresses the WebSocket unasked, in which a secret could not be masked",
            ));
        }
        let origin_side = hyper::upgrade::on(&mut response);
        let plain = !response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS) && !all.is_empty();
        websocket::start((agent_side, place), origin_side, plain.then(|| all.clone()), exchange);
    } else if response.status().is_informational() {
        return Err(Refusal::upstream("the origin ended with an interim answer"));
    }
    let (mut parts, body) = response.into_parts();
    // Any coding but `chunked` (RFC 9112, 6.1) would hide what it carries.
    if let Some(odd) = parts.headers.get_all(TRANSFER_ENCODING).iter().find(|value| !is_chunked(value)) {
        return Err(Refusal::upstream(format!("the origin sends its answer with transfer-encoding {odd:?}, unasked")));
    }
    // Extensions carry the origin's own reason phrase, which nothing masks.
    parts.extensions.clear();
    let upgrade = parts.headers.get(UPGRADE).cloned();
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(PROXY_AUTHENTICATE);
    if switched {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(upgrade) = upgrade {
            parts.headers.insert(UPGRADE, upgrade);
        }
    }
    parts.version = Version::HTTP_11;
    if parts.status == StatusCode::NO_CONTENT {
        // It must not be there (RFC 9110, 8.6), and HTTP/2 takes it by its word.
        parts.headers.remove(CONTENT_LENGTH);
    }
    if parts.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(Refusal::upstream(match shared.parent {
            Some(_) => "OneCLI does not accept belljar's agent token",
            None => "the origin answered 407, which only a proxy may",
        }));
    }
    let Some(needles) = needles else {
        return Ok(masked_as_it_comes(Response::from_parts(parts, body), all, exchange));
    };
    if parts.status == StatusCode::PARTIAL_CONTENT {
        return Err(Refusal::upstream(
            "the origin sends a part of its answer, unasked, in which a secret could not be masked",
        ));
    }
    let masked = mask_headers(&mut parts.headers, needles);
    exchange.redacted().fetch_add(masked, Ordering::Relaxed);
    let counter = Arc::clone(exchange.redacted());
    if let Some(coding) = message_coding(&parts.headers) {
        return Err(Refusal::upstream(format!(
            "the origin compresses its messages ({coding:?}) unasked, in which a secret could not be masked"
        )));
    }
    let codings: Vec<HeaderValue> = parts.headers.get_all(CONTENT_ENCODING).iter().cloned().collect();
    let coding = match codings.as_slice() {
        [] => Some(Coding::Identity),
        [one] => Coding::of(one),
        _ => None,
    };
    let Some(coding) = coding else {
        return Err(Refusal::upstream(format!(
            "the origin sends its answer as {codings:?} unasked, in which a secret could not be masked"
        )));
    };
    if coding != Coding::Identity {
        for name in [CONTENT_ENCODING, CONTENT_LENGTH, ETAG, ACCEPT_RANGES] {
            parts.headers.remove(name);
        }
    }
    let body = RedactedBody::new(Decoded::new(body.map_err(BodyError::from), coding), needles.clone(), counter)
        .after(&parts.headers);
    Ok(Response::from_parts(parts, counted(body, exchange)))
}

/// Counted on its way back.
fn counted<B>(body: B, exchange: &Arc<Exchange>) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    Body::new(Counted::new(body, Arc::clone(exchange), Direction::Back))
}

/// An answer of a host that no secret goes to.
fn masked_as_it_comes(response: Response<Incoming>, all: &Needles, exchange: &Arc<Exchange>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let masked = mask_headers(&mut parts.headers, all);
    exchange.redacted().fetch_add(masked, Ordering::Relaxed);
    let coded = parts.headers.contains_key(CONTENT_ENCODING);
    if all.is_empty() || coded {
        return Response::from_parts(parts, counted(body, exchange));
    }
    let counter = Arc::clone(exchange.redacted());
    let body = RedactedBody::new(body.map_err(BodyError::from), all.clone(), counter).after(&parts.headers);
    Response::from_parts(parts, counted(body, exchange))
}
