//! Presets.
use super::record::Record;
use crate::error::Result;
pub(super) fn check_kind(_record: &Record, _value: &[u8]) -> Result<()> {
    Ok(())
}
