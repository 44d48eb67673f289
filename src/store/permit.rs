//! What a person allowed for a while: `belljar approve ID --for 10m`.

use std::time::Duration;

use rusqlite::{Transaction, params};
use serde::Serialize;

use super::clock::{Moment, rfc3339};
use super::file::Fault;
use super::{Approval, Store, unknown};
use crate::error::Result;
use crate::policy::ACCESS_RULE;

/// How long a group may reach a host that it asked for, unless the person says.
const ACCESS_TIME: Duration = Duration::from_secs(60 * 60);

/// What a grant covers, and nothing beside it. Query and body are not part of
/// it: another one passes as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scope {
    /// The group.
    pub group: String,
    /// Name of the rule that asked for a person.
    pub rule: String,
    /// HTTP method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// The host, as it was judged.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, normalised.
    pub path: String,
}

impl Scope {
    /// Whether a person is asked to let the group reach a host, or use a secret,
    /// rather than to let one request pass.
    pub fn is_access(&self) -> bool {
        self.rule == ACCESS_RULE
    }

    /// Scheme, host, port where it is not the scheme's own, and path.
    pub fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = match (self.scheme.as_str(), self.port) {
            ("https", 443) | ("http", 80) => String::new(),
            (_, port) => format!(":{port}"),
        };
        format!("{}://{host}{port}{}", self.scheme, self.path)
    }
}

/// A grant that is in force.
#[derive(Debug, Clone, Serialize)]
pub struct Permit {
    /// The approval that it came with.
    pub approval: String,
    /// What it covers.
    #[serde(flatten)]
    pub scope: Scope,
    /// RFC 3339, UTC.
    pub until: String,
    /// How long it holds still.
    #[serde(rename = "seconds_left", serialize_with = "seconds")]
    pub left: Duration,
    /// Who gave it.
    pub by: String,
}

fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_u64(time.as_secs())
}

impl Store {
    /// The approval whose grant covers a request now, if there is one.
    pub fn granted(&self, scope: &Scope) -> Result<Option<String>> {
        let now = Moment::now(&self.boot)?;
        self.read("look for a grant in", |transaction| {
            let mut statement = transaction.prepare(
                "SELECT approval FROM permit WHERE grp = ?1 AND rule = ?2 AND method = ?3 AND host = ?4 \
                 AND path = ?5 AND scheme = ?6 AND port = ?7 AND boot = ?8 AND until > ?9 LIMIT 1",
            )?;
            let mut rows = statement.query(params![
                scope.group,
                scope.rule,
                scope.method,
                scope.host,
                scope.path,
                scope.scheme,
                scope.port,
                now.boot,
                now.since_boot
            ])?;
            Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
        })
    }

    /// The grants that are in force, those that end first before the others.
    pub fn permits(&self) -> Result<Vec<Permit>> {
        let now = Moment::now(&self.boot)?;
        self.read("list the grants in", |transaction| {
            let mut statement = transaction.prepare(
                "SELECT approval, grp, rule, method, scheme, host, port, path, boot, until, until_wall, given_by \
                 FROM permit WHERE boot = ?1 AND until > ?2 ORDER BY until",
            )?;
            let permits = statement
                .query_map(params![now.boot, now.since_boot], |row| {
                    let until = Moment { boot: row.get(8)?, since_boot: row.get(9)?, wall: row.get(10)? };
                    Ok(Permit {
                        approval: row.get(0)?,
                        scope: Scope {
                            group: row.get(1)?,
                            rule: row.get(2)?,
                            method: row.get(3)?,
                            scheme: row.get(4)?,
                            host: row.get(5)?,
                            port: row.get(6)?,
                            path: row.get(7)?,
                        },
                        until: rfc3339(until.wall),
                        left: now.left_until(&until).unwrap_or_default(),
                        by: row.get(11)?,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(permits)
        })
    }

    /// Takes back the grant that came with an approval.
    pub fn revoke(&self, approval: &str) -> Result<()> {
        let approval = approval.to_lowercase();
        self.write("revoke a grant in", |transaction| {
            match transaction.execute("DELETE FROM permit WHERE approval = ?1", [&approval])? {
                0 => Err(unknown(&approval).because("no grant came with it, or it has ended").into()),
                _ => Ok(()),
            }
        })
    }
}

/// How long what a person approves holds: as they said. Access to a host holds for
/// a while in any case, because no request waits for it that could pass by itself.
pub(super) fn time_of(approval: &Approval, said: Option<Duration>) -> Option<Duration> {
    match (approval.scope.is_access(), &approval.secret) {
        (false, _) => said,
        (true, None) => said.or(Some(ACCESS_TIME)),
        // A person has to add it: there is nothing to be reached by this.
        (true, Some(_)) => None,
    }
}

impl Store {
    /// The grant that came with an approval, while it is in force.
    pub fn permit_of(&self, approval: &str) -> Result<Option<Permit>> {
        Ok(self.permits()?.into_iter().find(|permit| permit.approval == approval))
    }
}

/// Adds a grant, and forgets those that have ended.
pub(super) fn give(
    transaction: &Transaction<'_>,
    approval: &str,
    scope: &Scope,
    (now, time): (&Moment, Duration),
    by: &str,
) -> Result<(), Fault> {
    transaction.execute("DELETE FROM permit WHERE boot <> ?1 OR until <= ?2", params![now.boot, now.since_boot])?;
    let until = now.plus(time);
    transaction.execute(
        "INSERT INTO permit (approval, grp, rule, method, scheme, host, port, path, boot, until, until_wall, given_by) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            approval,
            scope.group,
            scope.rule,
            scope.method,
            scope.scheme,
            scope.host,
            scope.port,
            scope.path,
            until.boot,
            until.since_boot,
            until.wall,
            by
        ],
    )?;
    Ok(())
}
