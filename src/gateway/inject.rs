//! Which secrets a request gets, and how they get into it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::endpoints::{self, Endpoints, not_understood};
use super::forward::Scheme;
use super::redact::Needles;
use super::refusal::Refusal;
use crate::error::{Context, Result};
use crate::policy::{Coverage, Host, HostPattern, NormalPath, PathPattern, Problem};
use crate::vault::{Injection, Record, Secret};

/// The secrets of the run's group, ready to be matched.
pub struct Secrets {
    armed: Vec<Armed>,
    needles: Needles,
    /// Something that every host could send back: OneCLI's token.
    everywhere: bool,
    endpoints: Endpoints,
}

struct Armed {
    secret: Secret,
    bindings: Vec<Bound>,
}

struct Bound {
    host: HostPattern,
    port: u16,
    path: PathPattern,
    injection: Injection,
    strip: Vec<HeaderName>,
}

/// The secrets that one request gets.
#[derive(Default)]
pub struct Choice<'a> {
    chosen: Vec<(&'a Secret, &'a Bound)>,
}

impl Secrets {
    /// Prepares the secrets; a binding that cannot be understood is an error.
    /// `more` is to be masked as well.
    pub fn new(secrets: Vec<Secret>, more: &[Zeroizing<Vec<u8>>]) -> Result<Self> {
        let endpoints = Endpoints::of(secrets.iter().map(|secret| &secret.record))?;
        let armed = secrets.into_iter().map(arm).collect::<Result<Vec<_>>>()?;
        let mut values: Vec<Zeroizing<Vec<u8>>> = more.to_vec();
        for one in &armed {
            let value = one.secret.value.expose_secret();
            values.push(Zeroizing::new(value.to_vec()));
            for bound in &one.bindings {
                if let Injection::Basic { user } = &bound.injection {
                    // And what is put into the header is as good as the value.
                    values.push(Zeroizing::new(STANDARD.encode(pair(user, value).as_slice()).into_bytes()));
                    values.push(pair(user, value));
                }
            }
        }
        let needles = Needles::new(values.iter().map(|value| value.as_slice()));
        Ok(Self { armed, needles, everywhere: !more.is_empty(), endpoints })
    }

    /// Whether a secret may go to the host: its answers are had in a form in
    /// which it is found for certain. No secret goes in clear.
    pub fn go_to(&self, host: &Host, scheme: Scheme) -> bool {
        let bound = |bound: &Bound| scheme == Scheme::Https && bound.host.matches(host);
        self.everywhere || self.armed.iter().flat_map(|one| &one.bindings).any(bound)
    }

    /// Whether a secret of the run goes into this header, or takes its place.
    pub fn concern(&self, name: &HeaderName) -> bool {
        let is = |bound: &Bound| match &bound.injection {
            Injection::Header { name: header, .. } => name.as_str().eq_ignore_ascii_case(header),
            Injection::Bearer | Injection::Basic { .. } => *name == AUTHORIZATION,
            Injection::Query { .. } => false,
        };
        self.armed.iter().flat_map(|one| &one.bindings).any(|bound| is(bound) || bound.strip.contains(name))
    }

    /// What must not be in any text.
    pub fn needles(&self) -> &Needles {
        &self.needles
    }

    /// Refuses an endpoint that would mint or show credentials.
    pub fn check_endpoint(&self, host: &Host, method: &str, path: &NormalPath) -> Result<(), Refusal> {
        match self.endpoints.denied_by(host, method, path) {
            None => Ok(()),
            Some(name) => Err(Refusal {
                rule: Some(format!("preset of secret {name}")),
                ..Refusal::denied("credential_endpoint", endpoints::reason(method, path, host, name))
            }
            .hint("a person can do this outside belljar")),
        }
    }

    /// The secrets for a request over verified TLS.
    pub fn choose(&self, host: &Host, port: u16, path: &NormalPath) -> Result<Choice<'_>, Refusal> {
        let mut chosen = Vec::new();
        for one in &self.armed {
            for bound in one.bindings.iter().filter(|bound| bound.port == port && bound.host.matches(host)) {
                match bound.path.covers(path) {
                    Coverage::Every => {
                        chosen.push((&one.secret, bound));
                        break;
                    }
                    Coverage::Never => {}
                    _ => {
                        let name = &one.secret.record.name;
                        return Err(Refusal::malformed(format!(
                            "ambiguous path: {path} is a path of secret `{name}` in some readings and not in others"
                        ))
                        .hint("send the path in its plain form, without encoded slashes, `;` and other case"));
                    }
                }
            }
        }
        Ok(Choice { chosen })
    }
}

impl Choice<'_> {
    /// Whether the request gets none.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Their names, for the record, and to keep connections apart.
    pub fn names(&self) -> String {
        self.chosen.iter().map(|(secret, _)| secret.record.name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Puts them into the request: whatever the agent has sent in their place,
    /// or as another credential for the same service, is taken out.
    pub fn apply(&self, headers: &mut HeaderMap, query: &mut Option<String>) -> Result<(), Refusal> {
        for (_, bound) in &self.chosen {
            for name in &bound.strip {
                headers.remove(name);
            }
        }
        for (secret, bound) in &self.chosen {
            let value = secret.value.expose_secret();
            let put = |headers: &mut HeaderMap, name: HeaderName, text: &[u8]| -> Result<(), Refusal> {
                let mut value = HeaderValue::from_bytes(text).map_err(|_| {
                    Refusal::upstream(format!("secret `{}` cannot stand in a header", secret.record.name))
                        .hint(format!("belljar secret rotate {}", secret.record.name))
                })?;
                value.set_sensitive(true);
                headers.insert(name, value);
                Ok(())
            };
            match &bound.injection {
                Injection::Header { name, format } => {
                    let name = HeaderName::from_bytes(name.as_bytes())
                        .map_err(|_| Refusal::upstream("the secret's header has no valid name"))?;
                    let (before, after) = format.split_once("{value}").unwrap_or((format, ""));
                    let text = Zeroizing::new([before.as_bytes(), value, after.as_bytes()].concat());
                    put(headers, name, &text)?;
                }
                Injection::Bearer => {
                    let text = Zeroizing::new([b"Bearer ", value].concat());
                    put(headers, hyper::header::AUTHORIZATION, &text)?;
                }
                Injection::Basic { user } => {
                    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair(user, value).as_slice())));
                    put(headers, hyper::header::AUTHORIZATION, text.as_bytes())?;
                }
                Injection::Query { name } => *query = Some(with_parameter(query.as_deref(), name, value)),
            }
        }
        Ok(())
    }
}

fn arm(secret: Secret) -> Result<Armed> {
    let record: &Record = &secret.record;
    let bad = |problem: Problem| not_understood(record, problem);
    let mut bindings = Vec::new();
    for binding in &record.bindings {
        let strip = binding
            .strip
            .iter()
            .map(|name| HeaderName::from_bytes(name.as_bytes()))
            .collect::<Result<_, _>>()
            .refuse(|| format!("secret `{}`: a header to take out", record.name))?;
        bindings.push(Bound {
            host: HostPattern::parse(&binding.host).map_err(bad)?,
            port: binding.port,
            path: PathPattern::parse(&binding.path).map_err(bad)?,
            injection: binding.injection.clone(),
            strip,
        });
    }
    Ok(Armed { secret, bindings })
}

/// `user:value` (RFC 7617).
fn pair(user: &str, value: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([user.as_bytes(), b":", value].concat())
}

/// The query with the parameter set to the value, and nothing else of its name.
fn with_parameter(query: Option<&str>, name: &str, value: &[u8]) -> String {
    let mut parts: Vec<String> = query
        .unwrap_or_default()
        .split('&')
        .filter(|part| {
            let key = part.split('=').next().unwrap_or_default();
            !part.is_empty() && !decoded(key).eq_ignore_ascii_case(name.as_bytes())
        })
        .map(str::to_owned)
        .collect();
    parts.push(format!("{}={}", encoded(name.as_bytes()), encoded(value)));
    parts.join("&")
}

/// Percent-encoded but for unreserved characters (RFC 3986, 2.3).
fn encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match (bytes[at], hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_replaces_whatever_stands_in_its_place() {
        assert_eq!(with_parameter(None, "key", b"v"), "key=v");
        assert_eq!(with_parameter(Some("a=1&key=x&KEY=y&k%65y=z&key"), "key", b"a b&c"), "a=1&key=a%20b%26c");
    }
}
