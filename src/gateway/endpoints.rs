//! Endpoints that make or show credentials, which presets deny to the groups
//! that have their secrets.

use crate::error::{Error, Result};
use crate::policy::{Coverage, Host, HostPattern, NormalPath, PathPattern, Problem};
use crate::vault::Record;

/// What the secrets of a group deny.
pub struct Endpoints(Vec<Denied>);

struct Denied {
    secret: String,
    host: HostPattern,
    methods: Vec<String>,
    path: PathPattern,
}

impl Endpoints {
    /// Of these records; one that cannot be understood is an error.
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Result<Self> {
        let mut all = Vec::new();
        for record in records {
            for endpoint in &record.denied {
                all.push(Denied {
                    secret: record.name.clone(),
                    host: HostPattern::parse(&endpoint.host).map_err(|problem| not_understood(record, problem))?,
                    methods: endpoint.methods.clone(),
                    path: PathPattern::parse(&endpoint.path).map_err(|problem| not_understood(record, problem))?,
                });
            }
        }
        Ok(Self(all))
    }

    /// The name of the secret that denies the request, in any reading of its path.
    pub fn denied_by(&self, host: &Host, method: &str, path: &NormalPath) -> Option<&str> {
        let denies = |denied: &&Denied| {
            denied.host.matches(host)
                && (denied.methods.is_empty() || denied.methods.iter().any(|known| known == method))
                && denied.path.covers(path) != Coverage::Never
        };
        self.0.iter().find(denies).map(|denied| denied.secret.as_str())
    }
}

/// Why such a request is refused.
pub fn reason(method: &str, path: &NormalPath, host: &Host, secret: &str) -> String {
    format!("{method} {path} at {host} can make or show credentials, which secret `{secret}` must not do")
}

/// A record that says something impossible.
pub fn not_understood(record: &Record, problem: Problem) -> Error {
    Error::refused(format!("secret `{}`", record.name))
        .because(problem.0)
        .hint(format!("belljar secret remove {}, then add it again", record.name))
}
