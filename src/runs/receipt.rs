//! Receipts: what was planned, what verify saw, how it ended.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::now;
use crate::config::{Dirs, sync_directory};
use crate::error::{Context, Error, Result};
use crate::launch::{Report, Usage};
use crate::plan::Plan;
use crate::record::Head;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is running, or was when the machine stopped.
    Running,
    /// The agent ran, and the run ended.
    Ended,
    /// Something failed before the agent began.
    Failed,
}

/// The receipt of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Receipt {
    /// Version of this form.
    pub version: u32,
    /// The run's id.
    pub run: String,
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Its group.
    pub group: String,
    /// How far it has come.
    pub status: Status,
    /// RFC 3339, UTC.
    pub started: String,
    /// RFC 3339, UTC.
    pub ended: Option<String>,
    /// Why it ended.
    pub cause: String,
    /// Exit code of belljar.
    pub exit_code: Option<u8>,
    /// Limits that the run reached: `memory`, `pids`, `timeout`, `output`, `disk`.
    pub limits_reached: Vec<&'static str>,
    /// What it used up, where it had a cgroup of its own.
    pub usage: Option<Usage>,
    /// Limits that were asked for and were not in force.
    pub not_in_force: Vec<String>,
    /// What verify compared.
    pub verify: Option<Report>,
    /// What failed.
    pub error: Option<Error>,
    /// Where the record of requests ends; none when there is no record, or no
    /// end of it yet.
    pub requests: Option<Head>,
    /// SHA-256 of the plan's canonical text.
    pub plan_sha256: String,
    /// The plan.
    pub plan: Plan,
}

impl Receipt {
    /// The receipt of a run that begins now.
    pub fn begin(run: &str, name: Option<&str>, plan: &Plan) -> Self {
        Self {
            version: 1,
            run: run.to_owned(),
            name: name.map(str::to_owned),
            group: plan.group.clone(),
            status: Status::Running,
            started: now(),
            ended: None,
            cause: "running".to_owned(),
            exit_code: None,
            limits_reached: Vec::new(),
            usage: None,
            not_in_force: plan.limits.not_in_force().map(|(name, _)| name.to_owned()).collect(),
            verify: None,
            error: None,
            requests: None,
            plan_sha256: plan.digest(),
            plan: plan.clone(),
        }
    }

    /// Closes it.
    pub fn finish(&mut self, status: Status, cause: String, exit_code: Option<u8>) {
        self.status = status;
        self.cause = cause;
        self.exit_code = exit_code;
        self.ended = Some(now());
    }

    /// Writes it among the receipts: whole or not at all, and on the disk when
    /// this returns.
    pub fn write(&self, dirs: &Dirs) -> Result<()> {
        let value = serde_json::to_value(self).step(|| "render the receipt".to_owned())?;
        Stored(value).write(dirs, &self.run)
    }

    /// Writes it to a file that is already open.
    pub fn write_to(&self, file: &mut impl Write) -> std::io::Result<()> {
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")
    }
}

/// A receipt as it lies on disk, perhaps of another version.
struct Stored(Value);

fn path(dirs: &Dirs, run: &str) -> PathBuf {
    dirs.receipts().join(format!("{run}.json"))
}

/// Where a receipt is written before it takes its place: a name of the run's
/// own, so that what a killed run left can be found.
fn unfinished(dirs: &Dirs, run: &str) -> PathBuf {
    dirs.receipts().join(format!(".{run}.json.new"))
}

/// Closes the receipt of a run that could not close it, if it had come to have
/// one, and removes what it left half written.
pub fn interrupt(dirs: &Dirs, run: &str, why: &str) -> Result<()> {
    if let Ok(mut receipt) = Stored::load(dirs, run)
        && receipt.0["status"] == "running"
    {
        receipt.0["status"] = "interrupted".into();
        receipt.0["cause"] = why.into();
        receipt.0["ended"] = now().into();
        receipt.write(dirs, run)?;
    }
    // Mostly there is none.
    let _ = fs::remove_file(unfinished(dirs, run));
    Ok(())
}

/// The receipt that `text` names: an id, the beginning of one, or a name (then
/// the newest).
pub fn find_receipt(dirs: &Dirs, text: &str) -> Result<Value> {
    let hint = format!("ls {}", dirs.receipts().display());
    let mut ids: Vec<String> = fs::read_dir(dirs.receipts())
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    ids.retain(|id| id.ends_with(".json"));
    ids.sort();
    let by_id: Vec<&String> = ids.iter().filter(|id| !text.is_empty() && id.starts_with(text)).collect();
    let load = |id: &str| Stored::load(dirs, id.trim_end_matches(".json")).map(|stored| stored.0);
    match by_id.as_slice() {
        [one] => return load(one),
        [_, _, ..] => return Err(Error::refused(format!("`{text}` names several runs")).hint(hint)),
        [] => {}
    }
    for id in ids.iter().rev() {
        let value = load(id)?;
        if value.get("name").and_then(Value::as_str) == Some(text) {
            return Ok(value);
        }
    }
    Err(Error::refused(format!("no run is called `{text}`")).hint(hint))
}

impl Stored {
    /// Reads the receipt of the run.
    fn load(dirs: &Dirs, run: &str) -> Result<Self> {
        let path = path(dirs, run);
        let text = fs::read_to_string(&path).step(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).map(Self).step(|| format!("read {}", path.display()))
    }

    /// Writes it: whole or not at all, and on the disk when this returns.
    fn write(&self, dirs: &Dirs, run: &str) -> Result<()> {
        let path = path(dirs, run);
        let write = || -> std::io::Result<()> {
            let unfinished = unfinished(dirs, run);
            let mut file = File::create(&unfinished)?;
            file.write_all((self.0.to_string() + "\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            sync_directory(&path)
        };
        write().step(|| format!("write the receipt {}", path.display()))
    }
}
