//! Headers that are for one connection only, or that would bring a secret back
//! in pieces.

use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE,
    EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, IF_RANGE, MAX_FORWARDS, PROXY_AUTHORIZATION, RANGE,
    SEC_WEBSOCKET_EXTENSIONS, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// How the messages of a gRPC or Connect stream are compressed: what a client
/// takes, and what a server says (gRPC over HTTP2; the Connect protocol).
const MESSAGE_CODINGS: [(&str, &str); 2] =
    [("grpc-accept-encoding", "grpc-encoding"), ("connect-accept-encoding", "connect-content-encoding")];

/// Fields that mean nothing good in trailers, where a server may merge them into
/// the head that was judged (RFC 9110, 6.5.1): authentication, routing, what
/// changes the request. Framing and connection fields go as everywhere.
const NOT_IN_TRAILERS: [HeaderName; 13] = [
    AUTHORIZATION,
    COOKIE,
    HOST,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    EXPECT,
    IF_RANGE,
    MAX_FORWARDS,
    RANGE,
    TE,
    TRAILER,
];

/// An older name of Range, which servers still honour.
const OLD_RANGE: &str = "request-range";

/// Takes out of a request's trailers what must not be there.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    NOT_IN_TRAILERS.iter().for_each(|name| drop(trailers.remove(name)));
    trailers.remove(OLD_RANGE);
}

/// The coding of an answer's messages, if it has one that hides anything.
pub fn message_coding(headers: &HeaderMap) -> Option<&HeaderValue> {
    let said = MESSAGE_CODINGS.iter().flat_map(|(_, said)| headers.get_all(*said));
    said.into_iter().find(|value| !value.to_str().is_ok_and(|value| value.trim().eq_ignore_ascii_case("identity")))
}

/// Takes out what would bring an echoed secret back in pieces, or hidden by a
/// compression.
pub fn without_pieces(headers: &mut HeaderMap) {
    for name in [RANGE, IF_RANGE, SEC_WEBSOCKET_EXTENSIONS] {
        headers.remove(name);
    }
    headers.remove(OLD_RANGE);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    MESSAGE_CODINGS.iter().for_each(|(asked, _)| drop(headers.remove(*asked)));
}

/// Takes out what is for this connection only (RFC 9110, 7.6.1), also what the
/// agent lists so that the next one would take it out.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let trailers = headers.get_all(TE).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("trailers")))
    });
    for name in listed {
        // Framing is not the agent's to take out.
        if name != CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The one transfer coding that hides nothing (RFC 9112, 7.1).
pub fn is_chunked(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|value| value.trim().eq_ignore_ascii_case("chunked"))
}
