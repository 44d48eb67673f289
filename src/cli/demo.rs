//! `belljar demo`.

use clap::Args;

use super::print;
use crate::config::{Caller, Dirs};
use crate::demo;
use crate::error::{Context, Result};

/// Show the main job on an embedded example, narrated.
///
/// Makes a small repository with secrets in a temporary directory, runs an agent
/// over it in a belljar, and says what the agent tried, what it saw, and what
/// the host saw. Nothing of yours is touched, and nothing is left.
#[derive(Debug, Args)]
pub struct Arguments {}

impl Arguments {
    /// Runs the demonstration.
    pub fn execute(self) -> Result<u8> {
        let caller = Caller::current()?;
        let place = tempfile::Builder::new()
            .prefix("belljar-demo-")
            .tempdir()
            .step(|| "make a temporary directory".to_owned())?;
        let home = place.path().join("belljar");
        let dirs = Dirs { config: home.join("config"), data: home.join("data"), run: home.join("run") };
        demo::run(place.path(), &caller, &dirs, &mut |text| print(text))
    }
}
