//! A package for npm and one for pip, each so small that it is made here.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256, Sha512};

use crate::answers::plain;
use crate::body::Answer;
use crate::records::hex;

const WHEEL: &str = "tinypkg-1.0.0-py3-none-any.whl";

/// npm's `/tiny-package`, pip's `/simple/tinypkg/` and their files. npm's wants
/// a credential; so does pip's index at `/simple/private/tinypkg/`.
pub fn answer(parts: &Parts) -> io::Result<Response<Answer>> {
    let path = parts.uri.path();
    let known = parts.headers.contains_key("authorization");
    if (path.starts_with("/tiny-package") || path.contains("/private/")) && !known {
        let mut answer = plain(StatusCode::UNAUTHORIZED, "application/json", "{\"error\":\"who are you?\"}");
        crate::answers::set(answer.headers_mut(), "www-authenticate", "Bearer");
        return Ok(answer);
    }
    let ok = StatusCode::OK;
    Ok(match path.trim_end_matches('/') {
        "/tiny-package" => plain(ok, "application/json", packument()?),
        "/tiny-package/-/tiny-package-1.0.0.tgz" => plain(ok, "application/octet-stream", tarball()?),
        "/simple/tinypkg" | "/simple/private/tinypkg" => {
            let digest = hex(&Sha256::digest(wheel()));
            let link = format!("https://files.pythonhosted.org/packages/{WHEEL}#sha256={digest}");
            plain(ok, "text/html", format!("<!DOCTYPE html><html><body><a href=\"{link}\">{WHEEL}</a></body></html>"))
        }
        "/packages/tinypkg-1.0.0-py3-none-any.whl" => plain(ok, "application/zip", wheel()),
        _ => plain(StatusCode::NOT_FOUND, "application/json", "{\"error\":\"not found\"}"),
    })
}

fn packument() -> io::Result<String> {
    let integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(tarball()?)));
    let version = json!({
        "name": "tiny-package", "version": "1.0.0", "main": "index.js", "bin": {"tiny-program": "program.js"},
        "dist": {"tarball": "https://registry.npmjs.org/tiny-package/-/tiny-package-1.0.0.tgz", "integrity": integrity},
    });
    Ok(json!({"name": "tiny-package", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}).to_string())
}

/// A gzipped tar (POSIX ustar).
fn tarball() -> io::Result<Vec<u8>> {
    let files = [
        (
            "package/package.json",
            "{\"name\":\"tiny-package\",\"version\":\"1.0.0\",\"main\":\"index.js\",\"bin\":{\"tiny-program\":\"program.js\"}}\n",
        ),
        ("package/index.js", "module.exports = 'tiny';\n"),
        ("package/program.js", "#!/usr/bin/env node\nconsole.log(require('./index.js'));\n"),
    ];
    let mut tar = Vec::new();
    for (name, text) in files {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", text.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(text.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&tar)?;
    encoder.finish()
}

/// A wheel: a zip whose members are stored as they are.
fn wheel() -> Vec<u8> {
    let metadata = "Metadata-Version: 2.1\nName: tinypkg\nVersion: 1.0.0\n";
    let kind = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let record = "tinypkg.py,,\ntinypkg-1.0.0.dist-info/METADATA,,\ntinypkg-1.0.0.dist-info/WHEEL,,\n\
        tinypkg-1.0.0.dist-info/entry_points.txt,,\ntinypkg-1.0.0.dist-info/RECORD,,\n";
    let files = [
        ("tinypkg.py", "NAME = 'tiny'\n\ndef main():\n    print(NAME)\n"),
        ("tinypkg-1.0.0.dist-info/entry_points.txt", "[console_scripts]\ntiny-wheel = tinypkg:main\n"),
        ("tinypkg-1.0.0.dist-info/METADATA", metadata),
        ("tinypkg-1.0.0.dist-info/WHEEL", kind),
        ("tinypkg-1.0.0.dist-info/RECORD", record),
    ];
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in files {
        let offset = zip.len() as u32;
        let mut crc = flate2::Crc::new();
        crc.update(text.as_bytes());
        let mut common = Vec::new();
        // Version, flags, method, time, date (1 January 2020).
        for half in [20u16, 0, 0, 0, 0x5021] {
            common.extend(half.to_le_bytes());
        }
        for word in [crc.sum(), text.len() as u32, text.len() as u32] {
            common.extend(word.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        common.extend(0u16.to_le_bytes());
        zip.extend(0x0403_4b50u32.to_le_bytes());
        zip.extend(&common);
        zip.extend(name.as_bytes());
        zip.extend(text.as_bytes());
        directory.extend(0x0201_4b50u32.to_le_bytes());
        directory.extend(20u16.to_le_bytes());
        directory.extend(&common);
        directory.extend([0u8; 6]);
        directory.extend(0o100_644u32.wrapping_shl(16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, size) = (zip.len() as u32, directory.len() as u32);
    zip.extend(directory);
    zip.extend(0x0605_4b50u32.to_le_bytes());
    for half in [0u16, 0, files.len() as u16, files.len() as u16] {
        zip.extend(half.to_le_bytes());
    }
    zip.extend(size.to_le_bytes());
    zip.extend(start.to_le_bytes());
    zip.extend(0u16.to_le_bytes());
    zip
}
