//! Promise: a hostile image is contained or refused. Nothing of it is written,
//! linked or opened outside of its own root, and an image that is refused leaves
//! nothing in the cache.

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use harness::layout::{Layer, Layout, gzip, image};
use harness::{Jar, Outcome, names_in, tree};
use serde_json::json;
use tar::EntryType;

/// What must not be reached from inside of an image.
const OUTSIDE: &str = "outside";

/// A jar with a directory that hostile layers aim at.
fn jar() -> Jar {
    let jar = Jar::new();
    jar.write("outside/file", "of the host\n");
    jar
}

/// Imports an image of these layers; what lies outside must be as it was.
fn import(jar: &Jar, layers: Vec<Layer>) -> Outcome {
    let layers: Vec<Vec<u8>> = layers.into_iter().map(Layer::bytes).collect();
    let reference = image(jar, "layout", &layers);
    let before = tree(&jar.path(OUTSIDE));
    let outcome = jar.call(&["image", "import", &reference]);
    assert_eq!(tree(&jar.path(OUTSIDE)), before, "something outside was changed");
    outcome
}

/// The root of the one image in the cache.
fn root(jar: &Jar) -> PathBuf {
    let images = jar.path("belljar/data/images");
    let name = names_in(&images).into_iter().find(|name| name.len() == 64).expect("one image is in the cache");
    images.join(name).join("rootfs")
}

/// The import is refused with these words, and leaves nothing that counts.
fn refused(layers: Vec<Layer>, words: &[&str]) {
    let jar = jar();
    import(&jar, layers).exits(125).says(words);
    nothing_is_cached(&jar);
}

fn nothing_is_cached(jar: &Jar) {
    assert_eq!(jar.call(&["image", "list", "--json"]).success().out().trim(), "[]");
    let left = names_in(&jar.path("belljar/data/images"));
    assert!(left.iter().all(|name| name == "lock" || name == "names.json"), "left in the cache: {left:?}");
}

#[test]
fn an_honest_image_is_unpacked_as_it_is() {
    let jar = jar();
    let layer = Layer::new()
        .directory("usr")
        .file("usr/one", "1")
        .link("bin", "usr/bin")
        .hard_link("usr/two", "usr/one")
        .entry(EntryType::Regular, b"usr/program", b"", 0o755, b"#!")
        .file("bin/through-a-link", "below usr/bin")
        .file("no/directory/entry", "x");
    import(&jar, vec![Layer::new().directory("usr/bin"), layer]).success();
    let root = root(&jar);
    assert_eq!(fs::read_to_string(root.join("usr/two")).expect("a hard link"), "1");
    assert_eq!(fs::read_to_string(root.join("usr/bin/through-a-link")).expect("by the link"), "below usr/bin");
    assert_eq!(fs::metadata(root.join("usr/program")).expect("it is there").permissions().mode() & 0o7777, 0o755);
    assert!(root.join("no/directory/entry").is_file());
}

#[test]
fn absolute_names_lie_below_the_root() {
    let jar = jar();
    let inside = jar.text("outside/file");
    import(&jar, vec![Layer::new().file("/etc/absolute", "x").file(&inside, "overwritten")]).success();
    assert!(root(&jar).join("etc/absolute").is_file());
    assert!(root(&jar).join(inside.trim_start_matches('/')).is_file());
}

#[test]
fn names_with_dots_are_refused() {
    for name in ["../outside/file", "a/../../outside/x", "a/..", "..", "/../x"] {
        refused(vec![Layer::new().directory("a").file(name, "x")], &["`..`"]);
    }
}

#[test]
fn a_link_never_leads_a_file_out() {
    let jar = jar();
    let outside = jar.text(OUTSIDE);
    let up = format!("../../../../../../../../..{outside}");
    // In an earlier layer, in the same one, absolute, relative, and in two steps.
    let lower =
        Layer::new().link("absolute", &outside).link("relative", &up).directory("d").link("d/step", "../absolute");
    let upper = Layer::new().file("absolute/a", "x");
    import(&jar, vec![lower, upper]).exits(125).says(&["absolute/a"]);
    for name in ["relative/a", "d/step/a", "absolute/file"] {
        let lower =
            Layer::new().link("absolute", &outside).link("relative", &up).directory("d").link("d/step", "../absolute");
        import(&jar, vec![lower, Layer::new().file(name, "x")]).exits(125);
    }
    // Where the image has a directory of that name, the file lies in that.
    let own = outside.trim_start_matches('/');
    let lower = Layer::new().directory(own).link("absolute", &outside);
    import(&jar, vec![lower, Layer::new().file("absolute/a", "contained")]).success();
    assert_eq!(fs::read_to_string(root(&jar).join(own).join("a")).expect("it is inside"), "contained");
}

#[test]
fn a_link_itself_is_replaced_not_followed() {
    let jar = jar();
    let file = jar.text("outside/file");
    let lower = Layer::new().link("file", &file).link("directory", &jar.text(OUTSIDE));
    let upper = Layer::new().file("file", "the image's").directory("directory").file("directory/x", "the image's");
    import(&jar, vec![lower, upper]).success();
    assert_eq!(fs::read_to_string(root(&jar).join("file")).expect("a file"), "the image's");
    assert!(root(&jar).join("directory").symlink_metadata().expect("it is there").is_dir());
}

#[test]
fn hard_links_outside_are_refused() {
    let jar = jar();
    let file = jar.text("outside/file");
    for target in [file.as_str(), "../../outside/file", "/etc/passwd", "etc/shadow", "directory", "device"] {
        refused(vec![Layer::new().directory("directory").hard_link("stolen", target)], &["stolen"]);
    }
    // Through a link that leads out.
    refused(vec![Layer::new().link("out", &jar.text(OUTSIDE)).hard_link("stolen", "out/file")], &["stolen"]);
    // A second name of a link that leads out is a link, and not what it names.
    import(&jar, vec![Layer::new().link("out", &file).hard_link("second", "out").file("second", "the image's")])
        .success();
}

#[test]
fn devices_and_fifos_are_left_out() {
    let jar = jar();
    let device = |layer: Layer, kind, name: &str| layer.entry(kind, name.as_bytes(), b"", 0o666, b"");
    let mut layer = Layer::new().file("kept", "x");
    for (kind, name) in [(EntryType::Char, "c"), (EntryType::Block, "b"), (EntryType::Fifo, "f")] {
        layer = device(layer, kind, name);
    }
    // What a lower layer has in its place does not come back.
    let lower = Layer::new().file("c", "of the lower layer");
    import(&jar, vec![lower, layer]).success();
    assert_eq!(names_in(&root(&jar)), ["kept"]);
    let listed = jar.call(&["image", "list", "--json"]).success().json();
    assert_eq!(listed[0]["left_out"], 3);
}

#[test]
fn set_id_bits_are_dropped() {
    let jar = jar();
    let layer = Layer::new()
        .entry(EntryType::Directory, b"d", b"", 0o7777, b"")
        .entry(EntryType::Regular, b"d/su", b"", 0o6755, b"x")
        .entry(EntryType::Regular, b"d/none", b"", 0o000, b"x");
    import(&jar, vec![layer]).success();
    let mode = |name: &str| fs::metadata(root(&jar).join(name)).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!((mode("d/su"), mode("d")), (0o755, 0o1777));
    assert_eq!(mode("d/none") & 0o077, 0, "it was opened to others");
}

#[test]
fn whiteouts_take_away_what_is_below_and_nothing_else() {
    let jar = jar();
    let lower = Layer::new()
        .directory("kept")
        .file("kept/a", "x")
        .file("gone", "x")
        .directory("tree")
        .file("tree/deep/file", "x")
        .directory("opaque")
        .file("opaque/old", "x")
        .file("opaque/sub/old", "x")
        .link("out", &jar.text(OUTSIDE));
    let upper = Layer::new()
        .file("opaque/new", "x")
        .directory("opaque/sub")
        .file("opaque/sub/new", "x")
        .file(".wh.gone", "")
        .file(".wh.tree", "")
        .file("opaque/.wh..wh..opq", "")
        .file("out/.wh.file", "")
        .file("kept/.wh.never-there", "")
        .file("nowhere/.wh.x", "")
        .file(".wh..wh.plnk", "")
        .file(".wh..wh.gone", "");
    import(&jar, vec![lower, upper]).success();
    let root = root(&jar);
    assert_eq!(names_in(&root), ["kept", "opaque", "out"]);
    assert_eq!(names_in(&root.join("opaque")), ["new", "sub"]);
    assert_eq!(names_in(&root.join("opaque/sub")), ["new"]);
    assert_eq!(names_in(&root.join("kept")), ["a"]);
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        refused(vec![Layer::new().directory("a").file("a/b", "x"), Layer::new().file(name, "")], &["whiteout"]);
    }
}

#[test]
fn too_many_entries_and_too_many_bytes_are_refused() {
    let jar = jar();
    let many = (0..2_000).fold(Layer::new(), |layer, number| layer.file(&format!("f{number}"), ""));
    let reference = image(&jar, "many", &[many.bytes()]);
    jar.call(&["image", "import", "--max-files", "1999", &reference]).exits(125).says(&["1999", "--max-files"]);
    nothing_is_cached(&jar);
    jar.call(&["image", "import", "--max-files", "2000", &reference]).success();
    let big = Layer::new().file("a", &"x".repeat(600_000)).file("b", &"x".repeat(600_000)).bytes();
    let reference = image(&jar, "big", &[big]);
    jar.call(&["image", "import", "--max-size", "1m", &reference]).exits(125).says(&["1048576", "--max-size"]);
    jar.call(&["image", "import", "--max-size", "2m", &reference]).success();
}

/// 300 MiB of nothing in a few kilobytes.
/// What belongs to an entry's header is read into memory as a whole, and is as long
/// as the layer says.
#[test]
fn a_bomb_in_the_headers_is_refused() {
    let jar = jar();
    for (number, kind) in [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink].into_iter().enumerate() {
        let layer = Layer::new().entry(kind, b"header", b"", 0o644, &vec![0u8; 4 << 20]).file("srv/x", "");
        let reference = image(&jar, &format!("headers-{number}"), &[layer.bytes()]);
        jar.call(&["image", "import", &reference]).exits(125).says(&["headers of more than 1 MiB"]);
    }
    nothing_is_cached(&jar);
}

/// A hole of a sparse file is written out: it counts as what it comes to, while it
/// is written and not afterwards.
#[test]
fn a_sparse_file_is_a_bomb_too() {
    let jar = jar();
    let size = 1u64 << 40;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("srv/sparse").expect("a short name");
    header.set_mode(0o644);
    header.set_size(0);
    let gnu = header.as_gnu_mut().expect("it is a GNU header");
    gnu.set_real_size(size);
    gnu.sparse[0].set_offset(size);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let mut layer = header.as_bytes().to_vec();
    layer.extend([0u8; 1024]);
    let reference = image(&jar, "sparse", &[layer]);
    jar.call(&["image", "import", &reference]).exits(125).says(&["grows too much"]);
    nothing_is_cached(&jar);
}

#[test]
fn a_decompression_bomb_is_refused() {
    let jar = jar();
    let mut bomb = Layer::new();
    for name in ["a", "b", "c", "d", "e"] {
        bomb = bomb.entry(EntryType::Regular, name.as_bytes(), b"", 0o644, &vec![0u8; 60 << 20]);
    }
    let bomb = bomb.bytes();
    let mut layout = Layout::new(&jar, "bomb");
    layout.packed(&bomb, &zstd::encode_all(bomb.as_slice(), 1).expect("memory"));
    let reference = layout.finish(serde_json::json!({}));
    jar.call(&["image", "import", &reference]).exits(125).says(&["grows too much"]);
    nothing_is_cached(&jar);
}

#[test]
fn what_its_digest_does_not_say_is_refused() {
    let layer = Layer::new().file("a", "content").bytes();
    let damaged = |change: &dyn Fn(&mut Layout)| {
        let jar = jar();
        let mut layout = Layout::new(&jar, "layout");
        change(&mut layout);
        let reference = format!("oci:{}", layout.path.display());
        let outcome = jar.call(&["image", "import", &reference]).exits(125);
        nothing_is_cached(&jar);
        outcome
    };
    // The layer's blob is another one.
    damaged(&|layout| {
        let name = layout.layer(&layer);
        layout.finish(serde_json::json!({}));
        fs::write(layout.blob(&name), gzip(&Layer::new().file("a", "another").bytes())).expect("write");
    })
    .says(&["layer 1 of 1"]);
    // Its digest is right, but what is in it is not what the configuration names.
    damaged(&|layout| {
        layout.packed(&layer, &gzip(&Layer::new().file("a", "another").bytes()));
        layout.finish(serde_json::json!({}));
    })
    .says(&["digest"]);
    // Something follows what was compressed.
    damaged(&|layout| {
        let name = layout.layer(&layer);
        layout.finish(serde_json::json!({}));
        let more = [fs::read(layout.blob(&name)).expect("read"), b"more".to_vec()].concat();
        fs::write(layout.blob(&name), more).expect("write");
    });
    // Configuration and manifest.
    for number in 0..2 {
        damaged(&|layout| {
            layout.layer(&layer);
            layout.finish(serde_json::json!({}));
            let documents = names_in(&layout.path.join("blobs/sha256"));
            let mut documents: Vec<PathBuf> =
                documents.iter().map(|name| layout.path.join("blobs/sha256").join(name)).collect();
            documents.retain(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"{")));
            let text = fs::read_to_string(&documents[number]).expect("read");
            fs::write(&documents[number], text.replace("sha256", "sha257").replace("linux", "Linux")).expect("write");
        });
    }
}

#[test]
fn a_layout_whose_blobs_are_links_is_refused() {
    let jar = jar();
    let mut layout = Layout::new(&jar, "layout");
    let name = layout.layer(&Layer::new().file("a", "x").bytes());
    let reference = layout.finish(serde_json::json!({}));
    let blob = layout.blob(&name);
    fs::rename(&blob, jar.path("outside/blob")).expect("move the blob");
    std::os::unix::fs::symlink(jar.path("outside/blob"), &blob).expect("make a link");
    jar.call(&["image", "import", &reference]).exits(125);
    nothing_is_cached(&jar);
}

#[test]
fn long_deep_and_strange_names() {
    let deep = "d/".repeat(45) + "f";
    let jar = jar();
    let layer = Layer::new()
        .file(&deep, "x")
        .entry(EntryType::Regular, b"not-\xff-utf8", b"", 0o644, b"x")
        .file("same", "1")
        .directory("same")
        .file("same", "2");
    import(&jar, vec![layer]).success();
    assert_eq!(fs::read_to_string(root(&jar).join("same")).expect("the last one counts"), "2");
    let mut long = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_entry_type(EntryType::Regular);
    long.append_data(&mut header, "e/".repeat(300) + "f", std::io::empty()).expect("memory");
    let reference = image(&jar, "long", &[long.into_inner().expect("memory")]);
    jar.call(&["image", "import", &reference]).exits(125).says(&["too long"]);
}

#[test]
fn what_a_killed_import_left_does_not_count_and_is_cleaned_up() {
    let jar = jar();
    let big = Layer::new().entry(EntryType::Regular, b"a", b"", 0o644, &vec![7u8; 40 << 20]).bytes();
    let mut layout = Layout::new(&jar, "big");
    layout.packed(&big, &big);
    let reference = layout.finish(serde_json::json!({}));
    let mut dice = harness::Dice::new();
    for _ in 0..6 {
        let live = harness::Live::start(jar.belljar(["image", "import", &reference]));
        std::thread::sleep(std::time::Duration::from_micros(dice.below(60_000)));
        live.signal(nix::sys::signal::Signal::SIGKILL);
        live.wait();
        let listed = jar.call(&["image", "list", "--json"]).success().json();
        for image in listed.as_array().expect("a list") {
            assert_eq!(image["bytes"], 40 << 20, "half an image counts");
        }
    }
    jar.call(&["image", "import", &reference]).success();
    let left = names_in(&jar.path("belljar/data/images"));
    assert!(!left.iter().any(|name| name.starts_with(".new")), "{left:?}");
}

#[test]
fn an_image_for_another_machine_and_an_empty_layout_are_refused_with_the_reason() {
    let jar = jar();
    let mut layout = Layout::new(&jar, "layout");
    layout.layer(&Layer::new().bytes());
    let reference = layout.finish_for("s390x", json!({}));
    jar.call(&["image", "import", &reference])
        .exits(125)
        .says(&["the image is for linux/s390x, this machine is linux/", "--platform linux/"]);
    // One that says nothing of its machine is taken.
    let reference = layout.finish_for("", json!({}));
    jar.call(&["image", "import", &reference]).success();

    let empty = Layout::new(&jar, "empty");
    fs::write(empty.path.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).expect("write the index");
    let reference = format!("oci:{}", empty.path.display());
    jar.call(&["image", "import", &reference]).exits(125).says(&["the layout has no image"]);
}
