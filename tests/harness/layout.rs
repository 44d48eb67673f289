//! Images made by hand: layers with any entry, and layouts of them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{Jar, unpacked_root};

/// One layer: a tar archive in the making.
pub struct Layer(Builder<Vec<u8>>);

impl Layer {
    /// Without entries.
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// An entry with any name, also one that no honest tool writes.
    pub fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1);
        let gnu = header.as_gnu_mut().expect("it is a GNU header");
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.append(&header, content).expect("memory");
        self
    }

    /// A regular file.
    pub fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", 0o644, content.as_bytes())
    }

    /// A directory.
    pub fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", 0o755, b"")
    }

    /// A symbolic link.
    pub fn link(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), to.as_bytes(), 0o777, b"")
    }

    /// A hard link.
    pub fn hard_link(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), to.as_bytes(), 0o644, b"")
    }

    /// Everything below a directory of the host.
    pub fn tree(mut self, directory: &Path) -> Self {
        self.0.follow_symlinks(false);
        self.0.append_dir_all("", directory).expect("read the directory");
        self
    }

    /// The archive.
    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("memory")
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// gzip, as most layers are.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("memory");
    out.finish().expect("memory")
}

/// A layout in the jar's directory `name`.
pub struct Layout {
    /// Where it is.
    pub path: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

impl Layout {
    /// Without layers.
    pub fn new(jar: &Jar, name: &str) -> Self {
        let path = jar.path(name);
        fs::create_dir_all(path.join("blobs/sha256")).expect("make a directory");
        jar.write(&format!("{name}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
        Self { path, layers: Vec::new(), diff_ids: Vec::new() }
    }

    /// Where a blob with this digest lies.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest.replace(':', "/"))
    }

    fn add(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        fs::write(self.blob(&digest), bytes).expect("write a blob");
        digest
    }

    /// Adds a layer, compressed; its digest.
    pub fn layer(&mut self, layer: &[u8]) -> String {
        self.packed(layer, &gzip(layer))
    }

    /// Adds a layer that lies there as `packed`.
    pub fn packed(&mut self, layer: &[u8], packed: &[u8]) -> String {
        let name = self.add(packed);
        self.layers.push(
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": name, "size": packed.len()}),
        );
        self.diff_ids.push(digest(layer));
        name
    }

    /// Writes configuration, manifest and index; what is typed for `--image`.
    pub fn finish(&self, config: Value) -> String {
        self.finish_for(if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, config)
    }

    /// The same, for that architecture.
    pub fn finish_for(&self, architecture: &str, config: Value) -> String {
        let config = json!({
            "architecture": architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids}, "config": config,
        });
        let config = config.to_string();
        let name = self.add(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": name, "size": config.len()},
            "layers": self.layers,
        });
        let manifest = manifest.to_string();
        let name = self.add(manifest.as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": name, "size": manifest.len()}]});
        fs::write(self.path.join("index.json"), index.to_string()).expect("write the index");
        format!("oci:{}", self.path.display())
    }
}

/// What is typed for an image with these layers.
pub fn image(jar: &Jar, name: &str, layers: &[Vec<u8>]) -> String {
    let mut layout = Layout::new(jar, name);
    for layer in layers {
        layout.layer(layer);
    }
    layout.finish(json!({}))
}

/// A layer with a shell and a few programs.
pub fn programs(jar: &Jar) -> Layer {
    Layer::new().tree(&unpacked_root(jar, &["env", "readlink"]))
}
