//! A secret's public part: everything but the value. All of it is bound to the
//! sealed value, so that an edited record does not open.

use jiff::Timestamp;
use secrecy::SecretBox;
use serde::{Deserialize, Serialize};

/// What the agent sees instead of a value.
pub const PLACEHOLDER: &str = "belljar-placeholder";

/// How a value gets into a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Injection {
    /// In a header of its own.
    Header {
        /// The header's name, lower case.
        name: String,
        /// The header's value, with `{value}` once.
        format: String,
    },
    /// `Authorization: Bearer VALUE` (RFC 6750).
    Bearer,
    /// `Authorization: Basic base64(USER:VALUE)` (RFC 7617).
    Basic {
        /// The user name.
        user: String,
    },
    /// As a query parameter, percent-encoded.
    Query {
        /// The parameter's name.
        name: String,
    },
}

/// What part of a request an injection writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The header of this name, lower case.
    Header(String),
    /// The query parameter of this name.
    Query(String),
}

impl Injection {
    /// What part of a request it writes.
    pub fn target(&self) -> Target {
        match self {
            Self::Header { name, .. } => Target::Header(name.clone()),
            Self::Bearer | Self::Basic { .. } => Target::Header("authorization".to_owned()),
            Self::Query { name } => Target::Query(name.clone()),
        }
    }
}

/// Where a value goes. A record's bindings are tried in order, and the first
/// whose host, port and path match a request is the one that is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// An exact host, or `*.x` for one or more labels below x; lower case.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Segments; `*` is one segment, a trailing `*` the rest; `/*` is every path.
    pub path: String,
    /// How the value gets in.
    pub injection: Injection,
    /// Other headers that are taken out when the value goes in, lower case.
    pub strip: Vec<String>,
}

/// An endpoint that makes or shows credentials, and is therefore denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// A host as in [`Binding::host`].
    pub host: String,
    /// Methods, upper case; empty means all.
    pub methods: Vec<String>,
    /// A path as in [`Binding::path`].
    pub path: String,
}

/// A secret without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, unique.
    pub name: String,
    /// The groups that may use it.
    pub groups: Vec<String>,
    /// The preset that it was made with.
    pub preset: Option<String>,
    /// Where the value goes.
    pub bindings: Vec<Binding>,
    /// What is denied to the groups that have it.
    pub denied: Vec<Endpoint>,
    /// Variables of the agent, each with what stands in it: a placeholder, or a
    /// fixed word that the tool wants beside it.
    pub variables: Vec<(String, String)>,
    /// When it was added.
    pub created: Timestamp,
    /// When its value was last replaced.
    pub rotated: Option<Timestamp>,
}

impl Record {
    /// What the sealed value is bound to: the whole record in one canonical
    /// form. JSON of a structure has one order of fields, and quotes all text,
    /// so that two records never have the same form.
    pub fn identity(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("a record is text and numbers");
        format!("belljar secret 1\n{json}").into_bytes()
    }
}

/// A secret with its value. Without Debug, so that it cannot be printed.
pub struct Secret {
    /// The public part, as it was sealed.
    pub record: Record,
    /// The value; UTF-8, overwritten when dropped.
    pub value: SecretBox<[u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_one_fixed_text() {
        let record = Record {
            name: "n".into(),
            groups: vec!["main".into()],
            preset: None,
            bindings: vec![Binding {
                host: "a.example".into(),
                port: 443,
                path: "/*".into(),
                injection: Injection::Header { name: "x-key".into(), format: "{value}".into() },
                strip: vec![],
            }],
            denied: vec![],
            variables: vec![("A".into(), "b".into())],
            created: Timestamp::UNIX_EPOCH,
            rotated: None,
        };
        // Records that people have are sealed with this text: a change of it
        // needs a new version of the file.
        let expected = concat!(
            "belljar secret 1\n",
            r#"{"name":"n","groups":["main"],"preset":null,"bindings":[{"host":"a.example","port":443,"path":"/*","#,
            r#""injection":{"header":{"name":"x-key","format":"{value}"}},"strip":[]}],"denied":[],"#,
            r#""variables":[["A","b"]],"created":"1970-01-01T00:00:00Z","rotated":null}"#
        );
        assert_eq!(String::from_utf8_lossy(&record.identity()), expected);
    }
}
