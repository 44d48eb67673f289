//! Who makes the container from a bundle: an OCI runtime, or podman. Both are
//! trusted to start it, and not believed: see `launch::verify`.

mod find;
pub mod podman;
mod runtime;
mod start;
mod subordinate;

pub use find::{ImagePlace, find, reachable_by_all, resolve, search as find_program};
pub use runtime::{CgroupView, MapsBy, MaskedEqual, OciRuntime, RootId, RuntimeKind, Stay, Trouble, version_of};
pub use start::{Start, command, host_environment, inherited_environment};
pub use subordinate::{Subordinate, ranges};
