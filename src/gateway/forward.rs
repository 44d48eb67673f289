//! One request: agreement of names, the path as it will be sent, the rules, the
//! secrets, and the way to the origin and back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::access::{granted, is_denied_by_default};
use super::answer::{Search, come_back};
use super::approval;
use super::body::{Body, Counted};
use super::exchange::{Direction, Exchange};
use super::headers::{is_chunked, strip_hop_by_hop, without_pieces};
use super::inject::Choice;
use super::patient::Phase;
use super::refusal::Refusal;
use super::shared::{Place, Shared};
use super::upstream::Versions;
use super::{interim, internal, send};
use crate::policy::{Action, Authority, Host, NormalPath, Query, check_method};
use crate::record::{Entry, Kind};
use crate::store::Taken;

/// Headers that ask the origin to take the request for another method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// What the connection says of its requests.
#[derive(Debug, Clone)]
pub struct Scope {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// The host that the connection was made for; a request must name the same.
    /// `None` for a raw connection to an address on port 80: there the request
    /// says it.
    pub host: Option<Host>,
    /// The port that the connection was made for.
    pub port: u16,
    /// The connection's place.
    pub place: Place,
}

/// How the origin is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In clear; never with a secret.
    Http,
    /// Over verified TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A request that has been understood: where it goes, in one form.
pub struct Judged {
    /// The origin.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// The path as it is judged and sent.
    pub path: NormalPath,
    /// The query as the agent sent it.
    pub query: Option<String>,
    /// The method.
    pub method: Method,
}

impl Judged {
    /// `host`, or `host:port` where the port is not the scheme's.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host_text()
        } else {
            format!("{}:{}", self.host_text(), self.port)
        }
    }

    fn host_text(&self) -> String {
        match &self.host {
            Host::V6(address) => format!("[{address}]"),
            other => other.to_string(),
        }
    }
}

/// A method for the record; one that is longer is refused anyway.
pub fn shown(method: &Method) -> String {
    const LONGEST: usize = 32;
    // A method is ASCII (RFC 9110, 5.6.2).
    match method.as_str().get(..LONGEST + 1) {
        Some(_) => format!("{}…", &method.as_str()[..LONGEST]),
        None => method.to_string(),
    }
}

/// Answers one request of the agent.
pub async fn answer(
    request: Request<Incoming>,
    scope: Arc<Scope>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let entry = Entry {
        method: Some(shown(request.method())),
        scheme: Some(scope.scheme.name().to_owned()),
        host: scope.host.as_ref().map(Host::to_string),
        port: Some(scope.port),
        ..Entry::new(Kind::Request, SystemTime::now())
    };
    // One connection of HTTP/2 carries many requests: what waits of their answers
    // is bounded by their number.
    let place = Arc::clone(&shared.requests).acquire_owned().await.ok();
    let exchange = Exchange::begin(&shared, entry, place);
    let method = request.method().clone();
    let response = match pass(request, &scope, &shared, &exchange).await {
        Ok(response) => response,
        Err(mut refusal) => {
            (refusal.reason, _) = shared.secrets.needles().mask_text(&refusal.reason);
            exchange.note(|entry| {
                entry.action = Some(refusal.code.to_owned());
                entry.reason = Some(refusal.reason.clone());
                if entry.rule.is_none() {
                    entry.rule = refusal.rule.clone();
                }
            });
            refusal
                .response(&shared.run, &method)
                .map(|body| Body::new(Counted::new(body, Arc::clone(&exchange), Direction::Back)))
        }
    };
    exchange.note(|entry| entry.status = Some(response.status().as_u16()));
    Ok(response)
}

async fn pass(
    mut request: Request<Incoming>,
    scope: &Scope,
    shared: &Arc<Shared>,
    exchange: &Arc<Exchange>,
) -> Result<Response<Body>, Refusal> {
    let mut judged = understand(&request, scope)?;
    exchange.note(|entry| {
        entry.host = Some(judged.host.to_string());
        // A secret that the agent has come by elsewhere is no part of a record.
        entry.path = Some(shared.secrets.needles().mask_text(judged.path.as_str()).0);
    });
    if internal::is_own(&judged.host) {
        return internal::answer(request, &judged, shared, exchange).await;
    }
    let choice = match judged.scheme {
        Scheme::Https => shared.secrets.choose(&judged.host, judged.port, &judged.path)?,
        Scheme::Http => Choice::default(),
    };
    shared.secrets.check_endpoint(&judged.host, judged.method.as_str(), &judged.path)?;
    let held = decide(&mut request, (&judged, &choice.names()), shared, exchange).await?;

    let upgrade = wants_websocket(&request)?;
    let agent_side = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    let phase = parts.extensions.remove::<Phase>();
    // A body that was read has been asked for.
    if phase.is_none() || held.is_some() || !interim::is_expected(&parts.headers) {
        parts.headers.remove(EXPECT);
    }
    parts.headers.remove(HOST);
    let bound = shared.secrets.go_to(&judged.host, judged.scheme);
    if bound {
        without_pieces(&mut parts.headers);
    }
    choice.apply(&mut parts.headers, &mut judged.query)?;
    if upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if let (Some(parent), Scheme::Http) = (&shared.parent, judged.scheme) {
        parent.authorize(&mut parts.headers);
    }
    let version = std::mem::replace(&mut parts.version, Version::HTTP_11);
    parts.uri = target(&judged)?;
    parts.extensions.clear();
    exchange.note(|entry| entry.secret = (!choice.is_empty()).then(|| choice.names()));
    let body = match held {
        Some(read) => Body::new(Counted::new(read.followed_by(body), Arc::clone(exchange), Direction::Out)),
        None => Body::new(Counted::new(body, Arc::clone(exchange), Direction::Out)),
    };
    // The same version on both sides where it can be: nothing is translated.
    let versions = if version == Version::HTTP_2 { Versions::Any } else { Versions::Http1 };
    let pool = shared.pools.get(&choice.names(), versions);
    let mut request = Request::from_parts(parts, body);
    if let Some(phase) = phase {
        interim::watch(&mut request, phase, shared.secrets.needles().clone());
    }
    let response = send::send(pool, request, shared.times.response).await?;
    let agent_side = agent_side.map(|agent| (agent, Arc::clone(&scope.place)));
    let search = if bound { Search::Whole } else { Search::AsItComes };
    come_back(response, agent_side, search, shared, exchange)
}

/// The names agree, and path and method have one reading.
fn understand(request: &Request<Incoming>, scope: &Scope) -> Result<Judged, Refusal> {
    let method = request.method().clone();
    check_method(method.as_str()).map_err(|problem| Refusal::malformed(problem.to_string()))?;
    if method == Method::TRACE || method == Method::CONNECT {
        return Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Refusal::denied(
                "method_refused",
                format!("{method} is refused: it shows a request's own headers, or opens a tunnel"),
            )
        });
    }
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Refusal::malformed("the request has both Content-Length and Transfer-Encoding"));
    }
    if headers.get_all(TRANSFER_ENCODING).iter().any(|value| !is_chunked(value)) {
        return Err(Refusal::malformed("the request's Transfer-Encoding is not chunked"));
    }
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(Refusal::malformed("the request has two Content-Length"));
    }
    // Some frameworks take the method from here: a rule for it would be passed by.
    if let Some(name) = METHOD_OVERRIDES.iter().find(|name| headers.contains_key(**name)) {
        return Err(Refusal::malformed(format!("the request says another method than its own, in {name}"))
            .hint("send the method itself"));
    }
    let mut named: Option<Authority> = None;
    let hosts = headers.get_all(HOST).iter();
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(Refusal::malformed("the request has two Host headers"));
    }
    let host_header = hosts.map(|value| value.to_str().map_err(|_| Refusal::malformed("the Host header is not ASCII")));
    let in_target = request.uri().authority().map(|authority| Ok(authority.as_str()));
    for text in in_target.into_iter().chain(host_header) {
        let mut authority =
            Authority::parse(text?).map_err(|problem| Refusal::malformed(format!("the request's host: {problem}")))?;
        authority.port = Some(authority.port.unwrap_or(scope.scheme.default_port()));
        match &named {
            Some(first) if *first != authority => {
                return Err(Refusal::malformed(format!("the request names {first} and {authority}")));
            }
            _ => named = Some(authority),
        }
    }
    if let Some(scheme) = request.uri().scheme_str()
        && scheme != scope.scheme.name()
    {
        return Err(Refusal::malformed(format!(
            "the request's target says {scheme} on a connection for {}",
            scope.scheme.name()
        )));
    }
    let host = match (&scope.host, named) {
        (Some(expected), Some(named)) => {
            if named.host != *expected || named.port != Some(scope.port) {
                return Err(Refusal::denied(
                    "names_disagree",
                    format!("the connection is for {expected} port {}, and the request for {named}", scope.port),
                )
                .hint("open a connection of its own to each host"));
            }
            named.host
        }
        (None, Some(named)) if named.port == Some(scope.port) => named.host,
        (None, Some(named)) => {
            return Err(Refusal::denied(
                "names_disagree",
                format!("the connection is for port {}, and the request for {named}", scope.port),
            ));
        }
        (_, None) => return Err(Refusal::malformed("the request names no host")),
    };
    let uri = request.uri();
    let path = match uri.path() {
        "" => "/",
        "*" => return Err(Refusal::malformed("`*` as a target is for proxies, and goes no further")),
        path => path,
    };
    let path = NormalPath::normalise(path).map_err(|problem| Refusal::malformed(format!("the path: {problem}")))?;
    let query = uri.query().map(str::to_owned);
    if query.iter().flat_map(|query| query.bytes()).any(|byte| !byte.is_ascii_graphic()) {
        return Err(Refusal::malformed("the query has characters that must be percent-encoded"));
    }
    Ok(Judged { host, port: scope.port, scheme: scope.scheme, path, query, method })
}

/// The rules; returns the part of the body that was read for a person.
async fn decide(
    request: &mut Request<Incoming>,
    (judged, secrets): (&Judged, &str),
    shared: &Arc<Shared>,
    exchange: &Arc<Exchange>,
) -> Result<Option<approval::Read>, Refusal> {
    let now = jiff::Zoned::now();
    let query = Query {
        group: &shared.group,
        method: judged.method.as_str(),
        host: &judged.host,
        path: &judged.path,
        now: &now,
    };
    let mut decision = shared.policy.decide(&query);
    if decision.action == Action::Deny
        && let Some(granted) = granted(&query, judged, shared, exchange).await?
    {
        decision = granted;
    }
    exchange.note(|entry| {
        entry.rule = decision.rule.clone();
        entry.action = Some(decision.action.to_string());
    });
    if decision.action == Action::Deny {
        // Only what the default denies can be asked for.
        let ask = if is_denied_by_default(&query, &shared.policy) {
            format!("ask a person with the tool request_access ({}); or ", crate::ipc::URL)
        } else {
            String::new()
        };
        let refusal = Refusal { rule: decision.rule, ..Refusal::denied("denied_by_policy", decision.reason) };
        return Err(if decision.hint.is_empty() { refusal } else { refusal.hint(ask + &decision.hint) });
    }
    let rule = decision.rule.unwrap_or_default();
    if let Some(rate) = decision.rate {
        let over = |retry_after| {
            Refusal {
                status: StatusCode::TOO_MANY_REQUESTS,
                rule: Some(rule.clone()),
                retry_after: Some(retry_after),
                ..Refusal::denied("rate_limited", format!("rule `{rule}` lets {rate} pass, and they have passed"))
            }
            .hint("wait, or a person can raise the rule's rate in policy.toml")
        };
        // What is known to be used up is not asked again: others use the store too.
        if let Some(left) = shared.used_up(&rule) {
            return Err(over(left));
        }
        let (store, group, name) = (Arc::clone(&shared.store), shared.group.clone(), rule.clone());
        let taken = tokio::task::spawn_blocking(move || store.take(&group, &name, rate.count, rate.per)).await;
        match taken {
            Ok(Ok(Taken::Granted)) => {}
            Ok(Ok(Taken::Exhausted { retry_after })) => {
                shared.note_used_up(&rule, retry_after);
                return Err(over(retry_after));
            }
            // What cannot be counted is not let through.
            Ok(Err(error)) => return Err(Refusal { rule: Some(rule), ..unavailable("counter", &error) }),
            Err(error) => return Err(unavailable("counter", &error)),
        }
    }
    match decision.action {
        Action::Approve => approval::hold(request, judged, (&rule, secrets), shared, exchange).await.map(Some),
        _ => Ok(None),
    }
}

/// Something of the gateway's own fails. The person is told what; paths of the
/// host are not for the agent.
pub fn unavailable(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    eprintln!("{error}");
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        ..Refusal::denied("gateway_failed", format!("the gateway's {what} is not available"))
    }
    .hint("the person who called belljar sees why on stderr")
}

fn wants_websocket(request: &Request<Incoming>) -> Result<bool, Refusal> {
    let Some(upgrade) = request.headers().get(UPGRADE) else {
        return Ok(false);
    };
    let asked = upgrade.to_str().unwrap_or_default().trim().eq_ignore_ascii_case("websocket");
    if asked && request.method() != Method::GET {
        return Err(Refusal::malformed("a WebSocket begins with GET"));
    }
    let connection = request.headers().get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let listed = connection.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("upgrade"));
    Ok(asked && listed && request.version() == Version::HTTP_11)
}

fn target(judged: &Judged) -> Result<Uri, Refusal> {
    let mut path = judged.path.as_str().to_owned();
    if let Some(query) = &judged.query {
        path.push('?');
        path.push_str(query);
    }
    Uri::builder()
        .scheme(judged.scheme.name())
        .authority(judged.authority())
        .path_and_query(path)
        .build()
        .map_err(|error| Refusal::malformed(format!("the request's target: {error}")))
}
