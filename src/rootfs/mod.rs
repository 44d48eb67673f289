//! The root filesystem: the host's own /usr, or an unpacked directory. Either
//! way belljar generates the root itself, so that every mount target is a
//! directory that it made, never a link that somebody planted.

mod directory;
mod host;
mod image;

use std::path::Path;

use crate::error::{Error, Result};
use crate::image::Cached;
use crate::plan::Mounts;
use crate::plan::{BELLJAR_DIR, Content, Generated, Root, RootAccess, RootKind, Surroundings, absolute};

/// A root filesystem in the making.
#[derive(Debug)]
pub struct RootBuilder {
    kind: RootKind,
    generated: Vec<Generated>,
}

/// What was chosen as root.
#[derive(Debug)]
pub enum Choice {
    /// `--rootfs`: `host`, or a directory.
    Rootfs(String),
    /// `--image`, as it was typed, in the cache.
    Image(String, Box<Cached>),
}

/// Resolves what was chosen.
pub fn resolve(choice: &Choice, around: &Surroundings<'_>, mounts: &mut Mounts) -> Result<RootBuilder> {
    let name = match choice {
        Choice::Rootfs(name) if name == "host" => return host::resolve(around, mounts),
        Choice::Rootfs(name) => name,
        Choice::Image(reference, image) => return image::resolve(reference, image, around, mounts),
    };
    let here = std::env::current_dir().map_err(|error| Error::refused("read the current directory").because(error))?;
    let path = absolute(name, &around.caller.home, Some(&here))?;
    directory::resolve(&path, around, mounts)
}

impl RootBuilder {
    fn new(kind: RootKind) -> Self {
        Self { kind, generated: Vec::new() }
    }

    /// Whether it is the host's own /usr.
    pub fn is_host(&self) -> bool {
        matches!(self.kind, RootKind::Host)
    }

    fn add(&mut self, path: impl Into<String>, content: Content) {
        self.generated.push(Generated { path: path.into(), content });
    }

    fn text(&mut self, path: &str, text: &str) {
        self.add(path, Content::Text(text.to_owned()));
    }

    fn link(&mut self, path: &str, target: &str) {
        self.add(path, Content::Link(target.to_owned()));
    }

    /// Copies a file of the host, where there is one.
    fn copy(&mut self, path: &str, from: &Path) {
        if let Ok(real) = std::fs::canonicalize(from)
            && real.is_file()
        {
            self.add(path, Content::Copy(real));
        }
    }

    /// Adds links that a program outside /usr is found by.
    pub fn add_links(&mut self, links: &[(String, String)]) {
        for (path, target) in links {
            self.link(path, target);
        }
    }

    /// The users that the agent's programs look up: itself, and names for the
    /// ids that they meet.
    fn add_users(&mut self, shell: &str) {
        self.text("/etc/passwd", &format!(
            "root:x:0:0:root:/:/usr/sbin/nologin\nnode:x:1000:1000:the agent:/home/node:{shell}\nnobody:x:65534:65534:ids of the host:/:/usr/sbin/nologin\n"
        ));
        self.text("/etc/group", "root:x:0:\nnode:x:1000:\ntty:x:5:\nnogroup:x:65534:\n");
        self.text("/etc/hostname", "belljar\n");
        self.text("/etc/hosts", "127.0.0.1 localhost belljar\n::1 localhost ip6-localhost ip6-loopback\n");
        // Nothing answers there until the gateway does: names fail at once.
        self.text("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    }

    /// Lets programs that look in the usual places find the bundle with
    /// belljar's authority, also without any variable.
    pub fn trust_bundle(&mut self) {
        if self.is_host() {
            self.generated.retain(|entry| entry.path != host::CA_BUNDLES[0]);
            self.link(host::CA_BUNDLES[0], &format!("{BELLJAR_DIR}/ca-bundle.pem"));
        }
    }

    /// The finished part of the plan.
    pub fn into_plan(self, access: RootAccess) -> Root {
        Root { kind: self.kind, generated: self.generated, writable: access.layer() }
    }
}
