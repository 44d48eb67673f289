//! An image of the cache as root.

use super::RootBuilder;
use super::directory::{Unpacked, fill};
use crate::error::Result;
use crate::image::Cached;
use crate::plan::{Mounts, Origin, RootKind, Surroundings};

pub fn resolve(reference: &str, image: &Cached, around: &Surroundings<'_>, mounts: &mut Mounts) -> Result<RootBuilder> {
    let kind = RootKind::Image { reference: reference.to_owned(), digest: image.id.clone(), path: image.root.clone() };
    let mut root = RootBuilder::new(kind);
    fill(&mut root, &image.root, Unpacked { what: "the image's", origin: Origin::Cache }, around, mounts)?;
    Ok(root)
}
