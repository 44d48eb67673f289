//! The gateway: what is served on the listeners that the launcher opened
//! inside the sealed network namespace.

pub mod redact;
