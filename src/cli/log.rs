//! `belljar log`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::approvals::reader_has_gone;
use super::rows::print_rows;
use super::{print, surroundings};
use crate::config::Dirs;
use crate::error::{Context, Error, Result, is_hostile, printable};
use crate::record::{self, Finding, Head, verify};
use crate::runs;

/// How often `--follow` looks, in milliseconds.
const PERIOD: u16 = 200;
const HEADER: [&str; 9] = ["TIME", "STATUS", "METHOD", "OUT", "IN", "MS", "RULE", "SECRET", "WHERE"];
/// How the name of a record ends, after the run's id.
const RECORD: &str = ".requests.jsonl";

/// Show what a run asked the gateway for, live or past.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Id of the run, the beginning of one, or its name; --verify takes all runs without
    #[arg(required_unless_present = "verify")]
    run: Option<String>,
    /// As JSON, one line each, as recorded
    #[arg(long)]
    json: bool,
    /// Go on until the run has ended
    #[arg(long)]
    follow: bool,
    /// Check the chain and its end instead; exit code 1 when it is broken
    #[arg(long, conflicts_with_all = ["json", "follow"])]
    verify: bool,
}

/// In which form the lines are printed.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
}

/// Which run, and what its receipt says about the record.
struct Run {
    id: String,
    group: String,
    status: String,
    head: Option<Head>,
}

impl Run {
    fn find(dirs: &Dirs, text: &str) -> Result<Self> {
        let receipt = match runs::find_receipt(dirs, text) {
            Ok(receipt) => receipt,
            Err(error) => return Self::without_receipt(dirs, text).ok_or(error),
        };
        let field = |name: &str| receipt[name].as_str().unwrap_or_default().to_owned();
        let head = match &receipt["requests"] {
            Value::Null => None,
            head => Some(serde_json::from_value(head.clone()).step(|| "read `requests` of the receipt".to_owned())?),
        };
        let id = field("run");
        if id.is_empty() || id.contains('/') || id.starts_with('.') {
            return Err(Error::failed(format!("the receipt names no run: `{id}`")).hint("belljar ps"));
        }
        Ok(Self { id, group: field("group"), status: field("status"), head })
    }

    /// A run of which only the record is left: somebody took the receipt away.
    fn without_receipt(dirs: &Dirs, text: &str) -> Option<Self> {
        let mut ids = receipts(dirs).filter_map(|name| name.strip_suffix(RECORD).map(str::to_owned));
        let id = ids.find(|id| !text.is_empty() && id.starts_with(text))?;
        let mut first = String::new();
        BufReader::new(open(&record::path(dirs, &id)).ok()??).read_line(&mut first).ok()?;
        let line: Value = serde_json::from_str(&first).ok()?;
        // As one that has ended: a record without the receipt's word is broken.
        Some(Self { id, group: line["group"].as_str()?.to_owned(), status: "ended".to_owned(), head: None })
    }

    fn is_live(&self, dirs: &Dirs) -> Result<bool> {
        Ok(runs::live(dirs)?.iter().any(|live| live.run == self.id))
    }
}

impl Arguments {
    /// Prints or checks the record.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let Some(run) = &self.run else {
            return check_all(&dirs);
        };
        let run = Run::find(&dirs, run)?;
        let path = record::path(&dirs, &run.id);
        if self.verify {
            let (code, text) = check(&dirs, &run, &path)?;
            print(&format!("{}\n", printable(&text)))?;
            return Ok(code);
        }
        let form = if self.json { Form::Json } else { Form::Text };
        show(&dirs, &run, &path, self.follow.then_some(PERIOD), form)
    }
}

/// None when it is not there. Neither a symbolic link nor a FIFO is followed.
fn open(path: &Path) -> Result<Option<File>> {
    let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    match opened {
        Ok(file) if file.metadata().is_ok_and(|meta| meta.is_file()) => Ok(Some(file)),
        Ok(_) => Err(Error::refused(format!("{} is not a plain file", path.display())).hint("ls -l")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).step(|| format!("open {}", path.display())),
    }
}

/// Prints the lines, and with a period those that come, until the run has ended.
fn show(dirs: &Dirs, run: &Run, path: &Path, period: Option<u16>, form: Form) -> Result<u8> {
    let mut file = None;
    let mut begun = Vec::new();
    let mut lines = 0;
    loop {
        // Asked before reading: what a run wrote before it ended is read after.
        let live = period.is_some() && run.is_live(dirs)?;
        if file.is_none() {
            file = open(path)?.map(BufReader::new);
        }
        while let Some(file) = &mut file {
            let length = file.read_until(b'\n', &mut begun).step(|| format!("read {}", path.display()))?;
            if length == 0 || !begun.ends_with(b"\n") {
                break;
            }
            let line = String::from_utf8_lossy(&begun);
            let line = line.trim_end_matches('\n');
            match form {
                Form::Json => print(&(line_as_recorded(line) + "\n"))?,
                Form::Text if lines == 0 => print_rows(&format!("{}\n{}\n", columns(HEADER), line_for_people(line)))?,
                Form::Text => print_rows(&(line_for_people(line) + "\n"))?,
            }
            lines += 1;
            begun.clear();
        }
        match period {
            Some(period) if live => {
                if reader_has_gone(period)? {
                    return Ok(0);
                }
            }
            _ => break,
        }
    }
    if !begun.is_empty() {
        print_rows(&format!("cut off: {}\n", printable(&String::from_utf8_lossy(&begun))))?;
    }
    if lines == 0 && matches!(form, Form::Text) {
        print("no requests were recorded\n")?;
    }
    Ok(0)
}

/// As it is in the file; what a terminal would obey is not in a file of belljar's.
fn line_as_recorded(line: &str) -> String {
    line.chars().fold(String::with_capacity(line.len()), |mut out, c| {
        if is_hostile(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
        out
    })
}

fn line_for_people(line: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(line) else {
        return format!("no line of a record: {}", printable(line));
    };
    let text = |name: &str| value[name].as_str().map(printable);
    let number = |name: &str| value[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let time = or_none(text("time"));
    let kind = or_none(text("kind"));
    if kind == "end" {
        return format!("{time:<24}  end of the record: {} requests", number("count"));
    }
    let mut place = or_none(text("host"));
    if place.contains(':') {
        place = format!("[{place}]");
    }
    match (text("scheme").as_deref(), value["port"].as_u64()) {
        (_, None) | (Some("https"), Some(443)) | (Some("http"), Some(80)) => {}
        (_, Some(port)) => place.push_str(&format!(":{port}")),
    }
    place.push_str(&text("path").unwrap_or_default());
    let mut flags = String::new();
    if let Some(count) = value["redacted"].as_u64().filter(|count| *count > 0) {
        flags.push_str(&format!("  [masked {count}]"));
    }
    if let Some(id) = text("approval") {
        flags.push_str(&format!("  [approval {id} {}]", or_none(text("decision"))));
    }
    if kind != "request" {
        flags.push_str(&format!("  [{kind}]"));
    }
    if text("action").as_deref() == Some("deny") {
        flags.push_str("  [denied]");
    }
    if let Some(reason) = text("reason") {
        flags.push_str(&format!("  [{reason}]"));
    }
    let [status, out, back, ms] = ["status", "bytes_out", "bytes_in", "ms"].map(number);
    let [method, rule, secret] = ["method", "rule", "secret"].map(|name| or_none(text(name)));
    columns([&time, &status, &method, &out, &back, &ms, &rule, &secret, &(place + &flags)])
}

fn columns([time, status, method, out, back, ms, rule, secret, place]: [&str; 9]) -> String {
    format!("{time:<24}  {status:<6}  {method:<7} {out:>10} {back:>10} {ms:>8}  {rule:<16} {secret:<16} {place}")
}

/// The names of the files that runs have left.
fn receipts(dirs: &Dirs) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dirs.receipts()).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Every run that has left a receipt or a record; 1 when one is broken.
fn check_all(dirs: &Dirs) -> Result<u8> {
    let id = |name: String| name.strip_suffix(RECORD).or_else(|| name.strip_suffix(".json")).map(str::to_owned);
    let ids: BTreeSet<String> = receipts(dirs).filter_map(id).collect();
    let mut worst = 0;
    for id in ids {
        // One that cannot be read is broken, and the others are looked at still.
        let checked = Run::find(dirs, &id).and_then(|run| check(dirs, &run, &record::path(dirs, &run.id)));
        let (code, text) = checked.unwrap_or_else(|error| (1, format!("broken: {}", error.what)));
        worst = worst.max(code);
        print(&format!("{}  {}\n", printable(&id), printable(&text)))?;
    }
    Ok(worst)
}

/// Exit code and what there is to say.
fn check(dirs: &Dirs, run: &Run, path: &Path) -> Result<(u8, String)> {
    let mut attempts = 0;
    let (finding, live) = loop {
        let live = run.is_live(dirs)?;
        let Some(mut file) = open(path)? else {
            return Ok(missing(run, path));
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text).step(|| format!("read {}", path.display()))?;
        let finding = verify(&text, &run.id, &run.group, run.head.as_ref());
        attempts += 1;
        // The last line may be being written.
        if !live || attempts == 3 || !matches!(finding, Finding::Broken { .. }) {
            break (finding, live);
        }
        thread::sleep(Duration::from_millis(100));
    };
    Ok(match finding {
        Finding::Intact(head) if run.status == "ended" && run.head.is_none() => {
            let line = head.count + 1;
            (
                1,
                format!(
                    "broken at line {line}: replaced: the run ended, and the receipt does not name the record's end"
                ),
            )
        }
        Finding::Intact(head) => {
            let compared = if run.head.is_some() { "as the receipt says" } else { "the receipt names no end" };
            (0, format!("intact: {} requests, {compared}; chain {}", head.count, head.chain))
        }
        Finding::Unfinished(head) if live => {
            (0, format!("intact so far: {} requests; the run is live, there is no end yet", head.count))
        }
        Finding::Unfinished(head) if run.status == "ended" => {
            (1, format!("broken at line {}: truncated: the run ended, and there is no end line", head.count + 1))
        }
        Finding::Unfinished(head) => {
            let why = "the run was killed, or failed, or it was cut off";
            (0, format!("intact as far as it goes: {} requests; there is no end: {why}", head.count))
        }
        Finding::Broken { line, how, why } => (1, format!("broken at line {line}: {how}: {why}")),
    })
}

fn missing(run: &Run, path: &Path) -> (u8, String) {
    match &run.head {
        None => (0, "no requests were recorded".to_owned()),
        Some(head) => {
            let (path, count) = (path.display(), head.count);
            (1, format!("broken at line 1: truncated: {path} is missing; the receipt counts {count} requests"))
        }
    }
}
