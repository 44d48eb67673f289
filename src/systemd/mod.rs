//! What belljar has to do with systemd: transient scopes, in which a run's
//! limits are held. Nothing here is needed on a host without it.

mod scope;

pub use scope::{Manager, ManagerKind};
