//! Images: unpacked once, by digest, into a cache whose directories runs share
//! read-only. Nothing in an image decides where anything is written or mounted.

mod blobs;
mod compression;
mod digest;
mod fetch;
mod layers;
mod manifest;
mod meter;
mod progress;
mod reference;
mod remove;
mod store;
mod unpack;

pub use blobs::Blobs;
pub use digest::{Digest, Verified};
pub use fetch::has_podman;
pub use progress::{Progress, Show};
pub use reference::Reference;
pub use store::{Cached, From, Images, RunConfig};
pub use unpack::{UnpackLimits, Unpacked};
