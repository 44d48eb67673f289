//! The origins of the tests' internet: web servers with public names, which
//! write down what they really received, and sinks that must receive nothing.
//!
//! `origin serve SHARED OWN` listens on every address of its network namespace,
//! prints `listening` and serves until it is killed. SHARED holds the authority
//! (`ca.pem`), OWN gets the logs: `requests.jsonl`, `packets.jsonl`, `raw-N.bin`.

mod answers;
mod anthropic;
mod body;
mod certificates;
mod dns;
mod echo;
mod git;
mod packages;
mod records;
mod serve;
mod sockets;
mod websocket;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve", shared, own] => run(Path::new(shared), Path::new(own)),
        _ => {
            eprintln!("usage: origin serve SHARED OWN");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("origin: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(shared: &Path, own: &Path) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(sockets::serve(shared, own))
}
