//! What came, one JSON object a line, in the order in which it came.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// The logs of this origin.
pub struct Records {
    own: PathBuf,
    requests: Mutex<File>,
    packets: Mutex<File>,
    next: AtomicU64,
}

impl Records {
    /// Opens both logs in the directory.
    pub fn of(own: &Path) -> io::Result<Self> {
        let open = |name: &str| File::options().create(true).append(true).open(own.join(name)).map(Mutex::new);
        Ok(Self {
            own: own.to_owned(),
            requests: open("requests.jsonl")?,
            packets: open("packets.jsonl")?,
            next: AtomicU64::new(1),
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.own
    }

    /// A number that no other connection or request has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A line about a request; `what` is `request` when its header has come,
    /// `body` when its body has ended.
    pub fn request(&self, what: &str, line: Value) {
        write(&self.requests, what, line);
    }

    /// A line about something that is no request: a connection, a datagram.
    pub fn packet(&self, what: &str, line: Value) {
        write(&self.packets, what, line);
    }
}

fn write(file: &Mutex<File>, what: &str, line: Value) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut whole = Map::new();
    whole.insert("event".to_owned(), what.into());
    whole.insert("time".to_owned(), json!(since.as_secs_f64()));
    if let Value::Object(fields) = line {
        whole.extend(fields);
    }
    let text = format!("{}\n", Value::Object(whole));
    if let Ok(mut file) = file.lock() {
        // One write, so that a reader never sees half a line of another.
        let _ = file.write_all(text.as_bytes());
    }
}

/// Bytes as two digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
