//! What `--image` names.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Digest;
use super::digest::{DIGITS, are_digits, no_digest};
use crate::error::{Error, Result, printable};

/// An image, and where it is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A name with an optional tag or digest, as podman takes it.
    Name(String),
    /// An image of the cache, by its id or the beginning of it: hexadecimal.
    Id(String),
    /// A directory in OCI image layout, with the image's name in it.
    Layout(PathBuf, Option<String>),
    /// The same as a tar archive.
    OciArchive(PathBuf, Option<String>),
    /// What `docker save` writes.
    DockerArchive(PathBuf, Option<String>),
}

/// Digits that an id is recognised by at least.
const SHORTEST_ID: usize = 12;
const LONGEST: usize = 1024;
/// Other places that podman knows images in (containers-transports(5)).
const OTHER_TRANSPORTS: [&str; 5] = ["dir", "docker-daemon", "tarball", "ostree", "sif"];

impl Reference {
    /// Reads what was typed; paths are relative to `here`.
    pub fn parse(text: &str, here: &Path) -> Result<Self> {
        let shown = printable(text);
        let hint = "for example localhost/agent:latest, oci:DIR, oci-archive:FILE, docker-archive:FILE";
        if text.is_empty() || text.len() > LONGEST || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Error::usage(format!("`{shown}` names no image")).hint(hint));
        }
        let path = |text: &str| -> Result<(PathBuf, Option<String>)> {
            let (path, tag) = match text.split_once(':') {
                Some((path, tag)) => (path, Some(tag.to_owned())),
                None => (text, None),
            };
            if path.is_empty() {
                return Err(Error::usage(format!("`{shown}`: a path is missing")).hint(hint));
            }
            Ok((here.join(path), tag.filter(|tag| !tag.is_empty())))
        };
        let with = |kind: fn(PathBuf, Option<String>) -> Self, rest| path(rest).map(|(path, tag)| kind(path, tag));
        match text.split_once(':') {
            Some(("oci", rest)) => return with(Self::Layout, rest),
            Some(("oci-archive", rest)) => return with(Self::OciArchive, rest),
            Some(("docker-archive", rest)) => return with(Self::DockerArchive, rest),
            Some(("sha256", digits)) => return id(digits).ok_or_else(|| no_digest(text)),
            Some((transport, _)) if OTHER_TRANSPORTS.contains(&transport) => {
                return Err(Error::usage(format!("`{shown}`: belljar does not read `{transport}:`")).hint(hint));
            }
            _ => {}
        }
        let name = text.strip_prefix("containers-storage:").unwrap_or(text);
        let name = name.strip_prefix("docker://").unwrap_or(name);
        if let Some(id) = id(name) {
            return Ok(id);
        }
        // Given to other programs as an argument: it must not look like an option.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@+[]".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') || !name.chars().all(allowed) {
            return Err(Error::usage(format!("`{shown}` names no image")).hint(hint));
        }
        if let Some((_, digest)) = name.split_once('@') {
            Digest::parse(digest)?;
        }
        if repository(name).contains(|c: char| c.is_ascii_uppercase()) {
            return Err(Error::usage(format!("`{shown}` names no image"))
                .because("names of images are in lower case")
                .hint(hint));
        }
        Ok(Self::Name(with_tag(name)))
    }

    /// The file whose change means another image.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Layout(directory, _) => Some(directory.join("index.json")),
            Self::OciArchive(file, _) | Self::DockerArchive(file, _) => Some(file.clone()),
            Self::Name(_) | Self::Id(_) => None,
        }
    }
}

/// An id, or the beginning of one.
fn id(digits: &str) -> Option<Reference> {
    let good = (SHORTEST_ID..=DIGITS).contains(&digits.len()) && are_digits(digits);
    good.then(|| Reference::Id(digits.to_owned()))
}

/// What a name has between the registry and the tag or digest.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let path = name.split_once('/').filter(|(first, _)| is_registry(first)).map_or(name, |(_, path)| path);
    let last = path.rfind('/').map_or(0, |at| at + 1);
    path[last..].find(':').map_or(path, |at| &path[..last + at])
}

/// A name without tag and digest means the tag `latest`.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |f: &mut fmt::Formatter<'_>, kind: &str, path: &Path, tag: &Option<String>| {
            write!(f, "{kind}:{}", path.display())?;
            tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
        };
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Id(digits) => write!(f, "{digits}"),
            Self::Layout(directory, tag) => path(f, "oci", directory, tag),
            Self::OciArchive(file, tag) => path(f, "oci-archive", file, tag),
            Self::DockerArchive(file, tag) => path(f, "docker-archive", file, tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference> {
        Reference::parse(text, Path::new("/here"))
    }

    #[test]
    fn each_form() {
        let name = |text: &str| Reference::Name(text.to_owned());
        for (text, reference) in [
            ("debian", name("debian:latest")),
            ("localhost/agent:v1", name("localhost/agent:v1")),
            ("host.example:5000/a/b", name("host.example:5000/a/b:latest")),
            ("containers-storage:localhost/x", name("localhost/x:latest")),
            ("oci:dir", Reference::Layout("/here/dir".into(), None)),
            ("oci:/a/dir:tag", Reference::Layout("/a/dir".into(), Some("tag".into()))),
            ("oci-archive:x.tar", Reference::OciArchive("/here/x.tar".into(), None)),
            ("docker-archive:/x.tar:a:b", Reference::DockerArchive("/x.tar".into(), Some("a:b".into()))),
            ("0123456789ab", Reference::Id("0123456789ab".into())),
            ("sha256:0123456789ab", Reference::Id("0123456789ab".into())),
            ("Host.example/a:Tag", name("Host.example/a:Tag")),
        ] {
            assert_eq!(parse(text).expect(text), reference);
        }
    }

    #[test]
    fn what_would_be_an_option_or_a_script_is_no_name() {
        for bad in [
            "",
            "-x",
            "--help",
            "a b",
            "a;b",
            "$(x)",
            "oci:",
            "a\nb",
            "sha256:12",
            "/abs/path",
            "dir:x",
            "localhost/A",
            "a@sha256:12",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
