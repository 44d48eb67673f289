//! placeholder
use crate::error::Result;
use clap::Args;
/// x
#[derive(Debug, Args)]
pub struct Arguments {}
impl Arguments {
    /// x
    pub fn execute(self) -> Result<u8> {
        Ok(0)
    }
}
