//! OneCLI's Agent Vault instead of belljar's own: the container configuration
//! is fetched for the group, and our listener adds the proxy authorization, so
//! that not even OneCLI's agent token is inside.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::dial::DialError;
use super::roots::Roots;
use super::upstream::Stream;
use crate::config::{Provider, VaultConfig};
use crate::error::{Context, Error, Result};
use crate::plan::{expanded, hex};
use crate::policy::{Authority, Host};

/// Longest answer of OneCLI that is read, in bytes.
const LONGEST: usize = 1 << 20;
/// How long OneCLI may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest identifier of an agent.
const LONGEST_IDENTIFIER: usize = 50;

/// What OneCLI gives for a group.
pub struct Fetched {
    /// Variables of the agent: placeholders, never a token.
    pub environment: Vec<(String, String)>,
    /// OneCLI's authority, which signs the certificates that the agent sees.
    pub authority: Option<CertificateDer<'static>>,
    /// The way to OneCLI's proxy.
    pub proxy: ParentProxy,
}

/// OneCLI's proxy, and what it is told about who asks. Without Debug: it holds
/// the token.
#[derive(Clone)]
pub struct ParentProxy {
    host: String,
    port: u16,
    authorization: HeaderValue,
}

impl ParentProxy {
    /// A connection to the proxy itself.
    pub async fn dial(&self, patience: Duration) -> Result<TcpStream, DialError> {
        let unreachable =
            |why: String| DialError::Unreachable(format!("OneCLI's gateway at {}:{}: {why}", self.host, self.port));
        match timeout(patience, TcpStream::connect((self.host.as_str(), self.port))).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no answer within {} s", patience.as_secs()))),
        }
    }

    /// A tunnel to the host through the proxy.
    pub async fn tunnel(&self, host: &Host, port: u16, patience: Duration) -> Result<Box<dyn Stream>, DialError> {
        let stream = self.dial(patience).await?;
        let unreachable = |why: String| DialError::Unreachable(format!("OneCLI's gateway: {why}"));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.to_string()))?;
        tokio::spawn(connection.with_upgrades());
        let target = match host {
            Host::V6(address) => format!("[{address}]:{port}"),
            other => format!("{other}:{port}"),
        };
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(target.as_str())
            .header(HOST, target.as_str())
            .header(PROXY_AUTHORIZATION, self.authorization.clone())
            .body(Empty::<Bytes>::new())
            .map_err(|error| unreachable(error.to_string()))?;
        let response = match timeout(patience, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {} s", patience.as_secs()))),
        };
        if response.status() != StatusCode::OK {
            return Err(unreachable(format!("it answered {} for {target}", response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| unreachable(error.to_string()))?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    /// Adds the authorization to a request that goes to the proxy itself.
    pub fn authorize(&self, headers: &mut HeaderMap) {
        headers.insert(PROXY_AUTHORIZATION, self.authorization.clone());
    }

    /// The token must not come back either: both of its forms.
    pub fn needles(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let basic = self.authorization.as_bytes().strip_prefix(b"Basic ").unwrap_or_default();
        let pair = Zeroizing::new(STANDARD.decode(basic).unwrap_or_default());
        let token = pair.split(|byte| *byte == b':').nth(1).unwrap_or_default().to_vec();
        vec![Zeroizing::new(token), pair]
    }
}

/// Fetches the group's configuration; nothing when OneCLI is not the vault.
pub fn fetch(config: &VaultConfig, extra: &[std::path::PathBuf], group: &str, home: &Path) -> Result<Option<Fetched>> {
    if config.provider != Provider::Onecli {
        return Ok(None);
    }
    let missing = |key: &str| {
        Error::refused(format!("[vault] provider is onecli, and {key} is missing"))
            .hint("[vault] provider = \"onecli\", url = \"http://127.0.0.1:10254\", api_key_file = \"~/.config/belljar/onecli.key\"")
    };
    let url = config.url.as_deref().ok_or_else(|| missing("url"))?;
    let file = config.api_key_file.as_deref().ok_or_else(|| missing("api_key_file"))?;
    let path = expanded(file, home);
    let key = Zeroizing::new(std::fs::read_to_string(&path).refuse(|| format!("read {}", path.display()))?);
    let client = Client { url: url.trim_end_matches('/'), key: key.trim(), extra };
    let runtime = crate::event_loop::start().step(|| "start the event loop".to_owned())?;
    let fetched = runtime.block_on(async {
        timeout(PATIENCE, client.fetch(group))
            .await
            .unwrap_or_else(|_| Err(Error::refused(format!("{url} did not answer within {} s", PATIENCE.as_secs()))))
    });
    fetched.map(Some).map_err(|error| {
        let failed = Error::refused(format!("fetch the configuration of group `{group}` from OneCLI at {url}"));
        error
            .causes
            .iter()
            .fold(failed.because(&error.what), Error::because)
            .hint("start OneCLI, or mend [vault] in config.toml; the run does not start without its credentials")
    })
}

/// The group's identifier at OneCLI (`^[a-z0-9][a-z0-9-]{0,49}$`). A name that
/// has to be changed gets a part of its hash, so that no two groups share one.
pub fn identifier(group: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if group.len() <= LONGEST_IDENTIFIER && group.chars().all(fits) && !group.starts_with('-') {
        return group.to_owned();
    }
    let plain: String = group
        .to_ascii_lowercase()
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .take(LONGEST_IDENTIFIER - 9)
        .collect();
    format!("{}-{}", plain.trim_start_matches('-'), &hex(&Sha256::digest(group))[..8])
}

struct Client<'a> {
    url: &'a str,
    key: &'a str,
    extra: &'a [std::path::PathBuf],
}

impl Client<'_> {
    async fn fetch(&self, group: &str) -> Result<Fetched> {
        let agent = identifier(group);
        let (status, answer) =
            self.ask(Method::POST, "/v1/agents", Some(json!({ "name": group, "identifier": agent }))).await?;
        // 409: the agent is there already.
        if !status.is_success() && status != StatusCode::CONFLICT {
            return Err(refused_by_onecli("POST /v1/agents", status, &answer));
        }
        let path = format!("/v1/container-config?agent={agent}");
        let (status, answer) = self.ask(Method::GET, &path, None).await?;
        if !status.is_success() {
            return Err(refused_by_onecli(&path, status, &answer));
        }
        understand(&answer)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let uri: Uri = format!("{}{path}", self.url).parse().refuse(|| format!("[vault] url {}", self.url))?;
        let host = uri.host().ok_or_else(|| Error::refused(format!("[vault] url {} has no host", self.url)))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(Error::refused(format!("[vault] url {} is not http:// or https://", self.url))),
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream =
            TcpStream::connect((bare.as_str(), port)).await.refuse(|| format!("connect to {host} port {port}"))?;
        let stream: Box<dyn Stream> = if tls {
            let name = ServerName::try_from(bare.clone()).refuse(|| format!("[vault] url {}", self.url))?;
            let roots = Roots::load(self.extra)?;
            let config = roots.client_config(&CertificateDer::from(Vec::new()))?;
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            Box::new(connector.connect(name, stream).await.refuse(|| format!("TLS with {host}"))?)
        } else {
            Box::new(stream)
        };
        let step = || format!("{method} {path}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.refuse(step)?;
        tokio::spawn(connection);
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.key)).refuse(|| "the API key".to_owned())?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, uri.authority().map(|authority| authority.as_str()).unwrap_or(host))
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))
            .refuse(step)?;
        let response = sender.send_request(request).await.refuse(step)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await.refuse(step)?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

fn refused_by_onecli(what: &str, status: StatusCode, answer: &Value) -> Error {
    let said = ["error", "message"].iter().find_map(|key| answer.get(key)).map(Value::to_string).unwrap_or_default();
    Error::refused(format!("{what}: {status} {said}"))
}

/// Takes the answer apart; nothing with the token in it goes on to the agent.
fn understand(answer: &Value) -> Result<Fetched> {
    let wrong = |what: &str| Error::refused(format!("the container configuration has no {what}"));
    let variables = answer.get("env").and_then(Value::as_object).ok_or_else(|| wrong("env"))?;
    let text = |key: &str| variables.get(key).and_then(Value::as_str);
    let proxy = text("HTTPS_PROXY").or_else(|| text("https_proxy")).ok_or_else(|| wrong("HTTPS_PROXY"))?;
    let rest = proxy.strip_prefix("http://").ok_or_else(|| wrong("HTTPS_PROXY that begins with http://"))?;
    let (credentials, place) =
        rest.trim_end_matches('/').rsplit_once('@').ok_or_else(|| wrong("credentials in HTTPS_PROXY"))?;
    let place = Authority::parse(place).map_err(|problem| Error::refused(format!("HTTPS_PROXY: {problem}")))?;
    let token = credentials.split_once(':').map_or(credentials, |(_, token)| token);
    if token.is_empty() {
        return Err(wrong("token in HTTPS_PROXY"));
    }
    let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials)));
    let mut authorization = HeaderValue::from_str(&basic).refuse(|| "the token of HTTPS_PROXY".to_owned())?;
    authorization.set_sensitive(true);
    // What names the way out, and whom to trust, is ours to say.
    let ours = |name: &str| {
        let name = name.to_ascii_uppercase();
        name.ends_with("_PROXY") || name.contains("_CA") || name.contains("CERT") || name == "JAVA_TOOL_OPTIONS"
    };
    let environment = variables
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .filter(|(name, value)| !ours(name) && !value.contains(token))
        .collect();
    let authority = match answer.get("caCertificate").and_then(Value::as_str) {
        Some(pem) => Some(CertificateDer::from_pem_slice(pem.as_bytes()).refuse(|| "caCertificate".to_owned())?),
        None => None,
    };
    let host = match &place.host {
        // Docker's name for the host means the host that we are on.
        Host::Name(name) if name == "host.docker.internal" => "127.0.0.1".to_owned(),
        Host::V6(address) => address.to_string(),
        other => other.to_string(),
    };
    let proxy = ParentProxy { host, port: place.port.unwrap_or(10255), authorization };
    Ok(Fetched { environment, authority, proxy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_groups_have_one_identifier() {
        assert_eq!(identifier("sales"), "sales");
        let all = ["Sales", "sales", "sAles", "s_les", "s-les", "S_les"].map(identifier);
        let mut unique = all.to_vec();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), all.len(), "{all:?}");
        for one in all.iter().chain([&identifier(&"x_".repeat(32))]) {
            assert!(
                one.len() <= LONGEST_IDENTIFIER
                    && one.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            );
        }
    }

    #[test]
    fn no_variable_with_the_token_goes_on() {
        let answer = json!({ "env": {
            "HTTPS_PROXY": "http://x:aoc_secret1@localhost:10255", "HTTP_PROXY": "http://x:aoc_secret1@localhost:10255",
            "ANTHROPIC_API_KEY": "placeholder", "SNEAKY": "x aoc_secret1 y", "NODE_EXTRA_CA_CERTS": "/tmp/ca.pem",
        } });
        let fetched = understand(&answer).expect("a configuration");
        assert_eq!(fetched.environment, [("ANTHROPIC_API_KEY".to_owned(), "placeholder".to_owned())]);
        assert_eq!(fetched.proxy.needles()[0].as_slice(), b"aoc_secret1");
        assert!(understand(&json!({ "env": { "HTTPS_PROXY": "http://localhost:1" } })).is_err());
    }
}
