//! The host's own /usr, read-only, in a generated root with a minimal /etc.

use std::fs;
use std::path::Path;

use super::RootBuilder;
use crate::error::{Context, Error, Result};
use crate::plan::{Content, Mounts, Origin, RootKind, Surroundings};

/// Links into /usr on hosts with a merged /usr, directories on others.
const COMPATIBILITY: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Where distributions keep the certificates of public authorities.
pub const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub fn resolve(around: &Surroundings<'_>, mounts: &mut Mounts) -> Result<RootBuilder> {
    let mut root = RootBuilder::new(RootKind::Host);
    mounts.add_system(around, Path::new("/usr"), ("/usr", "the host's programs"), Origin::Host)?;
    for name in COMPATIBILITY {
        let path = Path::new("/").join(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&path).step(|| format!("read the link {}", path.display()))?;
                let target = target
                    .to_str()
                    .ok_or_else(|| Error::refused(format!("the link {} is not UTF-8", path.display())))?;
                root.link(&format!("/{name}"), target);
            }
            Ok(meta) if meta.is_dir() => mounts.add_system(
                around,
                &path,
                (&format!("/{name}"), "the host's programs, on a host without merged /usr"),
                Origin::Host,
            )?,
            _ => {}
        }
    }
    root.add_users(if Path::new("/usr/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" });
    root.text(
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    );
    root.link("/etc/mtab", "/proc/self/mounts");
    root.link("/etc/os-release", "../usr/lib/os-release");
    for file in ["/etc/ld.so.cache", "/etc/localtime", "/etc/services", "/etc/protocols", "/etc/ssl/openssl.cnf"] {
        root.copy(file, Path::new(file));
    }
    if let Some(bundle) = CA_BUNDLES.iter().find(|bundle| Path::new(bundle).is_file()) {
        root.copy(CA_BUNDLES[0], Path::new(bundle));
        root.link("/etc/ssl/cert.pem", "certs/ca-certificates.crt");
        root.link("/etc/pki/tls/certs/ca-bundle.crt", CA_BUNDLES[0]);
    }
    if Path::new("/etc/alternatives").is_dir() {
        mounts.add_system(
            around,
            Path::new("/etc/alternatives"),
            ("/etc/alternatives", "cc, awk, vi and others are links into it"),
            Origin::Host,
        )?;
    }
    // Debian keeps the configuration of each Java there, and none starts without.
    let packages = fs::read_dir("/etc").into_iter().flatten().flatten().map(|entry| entry.path());
    for path in packages.filter(|path| path.is_dir()) {
        let Some(text) = path.to_str().filter(|text| text.starts_with("/etc/java-") && text.ends_with("-openjdk"))
        else {
            continue;
        };
        mounts.add_system(around, &path, (text, "Java's own configuration"), Origin::Host)?;
    }
    root.add("/var/lib", Content::Directory);
    root.link("/var/tmp", "../tmp");
    root.link("/var/run", "../run");
    Ok(root)
}
