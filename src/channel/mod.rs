//! Programs that connect chat networks, and what they say to the host process.

pub mod protocol;
