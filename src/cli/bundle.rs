//! `belljar bundle`.

use std::path::PathBuf;

use clap::Args;

use super::image::plan_with_image;
use super::options::PlanOptions;
use super::surroundings;
use crate::bundle;
use crate::config::create_private;
use crate::error::Result;
use crate::gateway::Trust;
use crate::plan::FileOwnership;

/// Write the plan as an OCI bundle, to review or to run with any runtime.
///
/// A plain runtime gives it the same view, but nobody verifies it then, and what
/// the host saves during the run may be seen late.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    options: PlanOptions,
    /// Directory for the bundle; empty, or not there yet
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

impl Arguments {
    /// Writes the bundle.
    pub fn execute(self) -> Result<u8> {
        let request = self.options.request()?;
        let (caller, dirs) = surroundings()?;
        let resolved = plan_with_image(&request, &caller, &dirs)?;
        for directory in &resolved.needed {
            create_private(directory)?;
        }
        if resolved.plan.identity.files == FileOwnership::Idmapped {
            bundle::open_group(&resolved.needed, &dirs.data)?;
        }
        let trust = resolved.gateway.as_ref().map(|parts| Trust::as_it_is(&parts.extra_roots, &dirs)).transpose()?;
        bundle::write_bundle(&resolved.plan, trust.as_ref(), &self.output)?;
        Ok(0)
    }
}
