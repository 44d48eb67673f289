//! index → manifest → config and layers (OCI image spec; Docker's image
//! manifest version 2, schema 2; `docker save`'s manifest.json).

use std::path::PathBuf;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};
use serde::Deserialize;

use super::{Blobs, Digest};
use crate::error::{Context, Error, Result, printable};

/// Annotation of an index with an image's name (OCI image spec, "Pre-Defined
/// Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Images in indexes in indexes.
const MOST_NESTED: usize = 4;
/// Layers of one image; overlayfs and Docker take fewer.
const MOST_LAYERS: usize = 512;

/// An image's parts, all named by digest.
#[derive(Debug)]
pub struct Image {
    /// Of the configuration: the image's id.
    pub id: Digest,
    /// The configuration.
    pub config: ImageConfiguration,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Where it is among the blobs.
    pub part: PathBuf,
    /// Digest and size in bytes as it lies there, where the manifest says so.
    pub packed: Option<(Digest, u64)>,
    /// Digest of the tar archive itself.
    pub diff_id: Digest,
}

fn part_of(digest: &Digest) -> PathBuf {
    PathBuf::from("blobs/sha256").join(digest.digits())
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    Digest::parse(descriptor.digest().as_ref())
}

/// Reads a blob, whose digest must be right.
fn read(blobs: &Blobs, what: &str, digest: &Digest) -> Result<Vec<u8>> {
    let text = blobs.document(&part_of(digest))?;
    let found = Digest::of(&text);
    if found != *digest {
        return Err(Error::refused(format!("the image's {what} is not what its digest says"))
            .because(format!("{digest} is expected, {found} was read")));
    }
    Ok(text)
}

/// The same, whose length is the descriptor's too.
fn described(blobs: &Blobs, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let text = read(blobs, what, &digest_of(descriptor)?)?;
    if text.len() as u64 != descriptor.size() {
        let why = format!("it has {} bytes, its descriptor says {}", text.len(), descriptor.size());
        return Err(Error::refused(format!("the image's {what} is not what its descriptor says")).because(why));
    }
    Ok(text)
}

/// The image in an OCI layout: the one that is named `tag`, or the only one.
pub fn of_layout(blobs: &Blobs, tag: Option<&str>) -> Result<Image> {
    let text = blobs
        .document(&PathBuf::from("index.json"))
        .map_err(|error| error.hint("this reads the OCI layout; what `docker save` writes is docker-archive:FILE"))?;
    let index: ImageIndex = serde_json::from_slice(&text).refuse(|| "read index.json of the image".to_owned())?;
    let name = |descriptor: &Descriptor| descriptor.annotations().as_ref().and_then(|all| all.get(REF_NAME)).cloned();
    let found: Vec<&Descriptor> =
        index.manifests().iter().filter(|descriptor| tag.is_none() || name(descriptor).as_deref() == tag).collect();
    let names: Vec<String> = index.manifests().iter().filter_map(name).map(|name| printable(&name)).collect();
    let descriptor = match (found.as_slice(), tag) {
        ([one], _) => *one,
        // One image for several platforms, without names.
        ([_, ..], None) if names.is_empty() => for_this_platform(&index)?,
        ([], Some(tag)) => {
            return Err(Error::refused(format!("the layout has no image called {}", printable(tag)))
                .because(format!("it has {}", names.join(", ")))
                .hint("one of these after the path, or nothing where there is one only"));
        }
        ([], None) => return Err(Error::refused("the layout has no image").because("its index.json lists none")),
        _ => {
            return Err(Error::refused("the layout has several images")
                .because(format!("they are called {}", names.join(", ")))
                .hint("name one: oci:DIR:TAG"));
        }
    };
    manifest(blobs, descriptor, MOST_NESTED)
}

fn own_architecture() -> Arch {
    match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "aarch64" => Arch::ARM64,
        other => Arch::from(other),
    }
}

/// Whether programs of that architecture run here. Some tools leave it out.
fn runs_here(arch: &Arch) -> bool {
    let own = own_architecture();
    *arch == own || (own == Arch::Amd64 && *arch == Arch::i386) || arch.to_string().is_empty()
}

fn for_this_platform(index: &ImageIndex) -> Result<&Descriptor> {
    let arch = own_architecture();
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform()
            .as_ref()
            .is_some_and(|platform| *platform.os() == Os::Linux && *platform.architecture() == arch)
    };
    let only = match index.manifests().as_slice() {
        [one] if one.platform().is_none() => Some(one),
        _ => None,
    };
    only.or_else(|| index.manifests().iter().find(fits))
        .ok_or_else(|| Error::refused(format!("the image has no variant for linux/{arch}")))
}

fn manifest(blobs: &Blobs, descriptor: &Descriptor, nested: usize) -> Result<Image> {
    let text = described(blobs, "manifest", descriptor)?;
    // The media type may be missing; an index has manifests, a manifest a config.
    if let Ok(index) = serde_json::from_slice::<ImageIndex>(&text) {
        if nested == 0 {
            return Err(Error::refused("the image's index is nested too deeply"));
        }
        return manifest(blobs, for_this_platform(&index)?, nested - 1);
    }
    let manifest: ImageManifest = serde_json::from_slice(&text).refuse(|| "read the image's manifest".to_owned())?;
    let id = digest_of(manifest.config())?;
    let config = configuration(&described(blobs, "configuration", manifest.config())?)?;
    let packed = manifest
        .layers()
        .iter()
        .map(|layer| {
            let digest = digest_of(layer)?;
            Ok((part_of(&digest), Some((digest, layer.size()))))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Image { id, layers: with_diff_ids(packed, &config)?, config })
}

fn configuration(text: &[u8]) -> Result<ImageConfiguration> {
    let config: ImageConfiguration =
        serde_json::from_slice(text).refuse(|| "read the image's configuration".to_owned())?;
    if *config.os() != Os::Linux {
        return Err(Error::refused(format!("the image is for {}, not for Linux", config.os())));
    }
    if !runs_here(config.architecture()) {
        let (its, own) = (printable(&config.architecture().to_string()), own_architecture());
        return Err(Error::refused(format!("the image is for linux/{its}, this machine is linux/{own}"))
            .hint(format!("podman pull --platform linux/{own} NAME, and import that")));
    }
    Ok(config)
}

fn with_diff_ids(packed: Vec<(PathBuf, Option<(Digest, u64)>)>, config: &ImageConfiguration) -> Result<Vec<Layer>> {
    let ids = config.rootfs().diff_ids();
    if ids.len() > MOST_LAYERS {
        return Err(Error::refused(format!("the image has {} layers; {MOST_LAYERS} at most are taken", ids.len()))
            .hint("podman build --squash-all puts all into one"));
    }
    if ids.len() != packed.len() {
        return Err(Error::refused(format!(
            "the image has {} layers, and its configuration names {}",
            packed.len(),
            ids.len()
        )));
    }
    let layer = |((part, packed), id): ((PathBuf, _), &String)| Ok(Layer { part, packed, diff_id: Digest::parse(id)? });
    packed.into_iter().zip(ids).map(layer).collect()
}

/// An entry of `docker save`'s manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

/// The image in an archive of `docker save`.
pub fn of_docker_archive(blobs: &Blobs, tag: Option<&str>) -> Result<Image> {
    let text = blobs
        .document(&PathBuf::from("manifest.json"))
        .map_err(|error| error.hint("this reads what `docker save` writes; the OCI layout is oci-archive:FILE"))?;
    let all: Vec<Saved> = serde_json::from_slice(&text).refuse(|| "read manifest.json of the image".to_owned())?;
    let tags = |saved: &Saved| saved.repo_tags.clone().unwrap_or_default();
    let found: Vec<&Saved> =
        all.iter().filter(|saved| tag.is_none_or(|tag| tags(saved).iter().any(|have| have == tag))).collect();
    let [saved] = found.as_slice() else {
        let names = all.iter().flat_map(tags).map(|name| printable(&name)).collect::<Vec<_>>().join(", ");
        let error = Error::refused(format!("the archive has {} images that fit", found.len()));
        return Err(match names.is_empty() {
            true => error.because(format!("it has {} images, and none has a name", all.len())),
            false => error.because(format!("they are called {names}")).hint("name one: docker-archive:FILE:NAME:TAG"),
        });
    };
    let text = blobs.document(&saved.config)?;
    let config = configuration(&text)?;
    let packed = saved.layers.iter().map(|part| (part.clone(), None)).collect();
    Ok(Image { id: Digest::of(&text), layers: with_diff_ids(packed, &config)?, config })
}
