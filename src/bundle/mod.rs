//! Plan → OCI bundle. Pure rendering, but for `skeleton`, which writes the
//! generated files below a directory that belljar has just made.

mod output;
pub mod seccomp;
mod skeleton;
mod spec;

pub use output::{open_group, write_bundle, write_own_files};
pub use skeleton::{write_holder, write_layer, write_root, write_shadows};
pub use spec::{Place, Places, init_arguments, render};

/// The init: a static program, compiled by `build.rs`.
pub const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/belljar-init"));
