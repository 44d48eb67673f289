//! Images: unpacked once, by digest, into a cache whose directories runs share
//! read-only. Nothing in an image decides where anything is written or mounted.

mod blobs;
mod compression;
mod digest;
mod manifest;
mod reference;
mod remove;
mod unpack;

pub use blobs::Blobs;
pub use digest::{Digest, Verified};
pub use reference::Reference;
pub use unpack::{UnpackLimits, Unpacked, Unpacker};
