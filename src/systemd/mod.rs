//! What belljar has to do with systemd: transient scopes, in which a run's
//! limits are held, and units. Nothing here is needed on a host without it.

pub mod install;
mod job;
pub mod notify;
mod scope;
pub mod unit;

pub use scope::{Manager, ManagerKind};
