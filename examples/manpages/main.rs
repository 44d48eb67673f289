//! Writes the man pages and the completions, which are kept in the tree:
//! `cargo run --example manpages`. tests/docs.rs says when that is due.

use std::error::Error;
use std::fs;
use std::path::Path;

mod render;

fn main() -> Result<(), Box<dyn Error>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in render::files()? {
        let path = top.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, text)?;
    }
    Ok(())
}
