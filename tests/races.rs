//! Promise: what was checked is what is mounted. A process of the host that swaps
//! a mount source, or a directory on the way to it, with a symbolic link to a
//! secret, gains nothing: over hundreds of starts no agent reads the secret, and
//! belljar either starts with what was checked or refuses.

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use harness::{Dice, Jar, SECRET, load, slowly};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// On an ordinary machine.
const STARTS: u64 = 200;

/// Exchanges two names, again and again, until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut dice = Dice::new();
            let swap = || {
                renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).expect("exchange the names");
            };
            while !seen.load(Ordering::SeqCst) {
                // The right one for a while, so that some starts come through;
                // the wrong one for a moment anywhere between check and use.
                thread::sleep(slowly(Duration::from_micros(dice.below(12_000))));
                swap();
                thread::sleep(slowly(Duration::from_micros(dice.below(3_000))));
                swap();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the swapper does not panic");
        }
    }
}

/// A directory with a secret of the same layout as the one that is mounted.
fn lay_out(jar: &Jar) {
    for (root, text) in [("right", "the right one"), ("secret", SECRET)] {
        jar.write(&format!("{root}/on/the/way/file"), text);
        jar.write(&format!("{root}/file"), text);
    }
}

/// Starts many runs while `one` is swapped with a link to `target`.
fn no_leak(jar: &Jar, one: &Path, target: &Path, options: &[&str], read: &str) {
    let link = jar.path("link");
    symlink(target, &link).expect("make a link");
    let swapper = Swapper::start(one.to_owned(), link);
    let (mut through, mut refused) = (0, 0);
    for _ in 0..load(STARTS, 6) {
        let outcome = jar.run(options, &["sh", "-c", &format!("cat {read}; cat {read}")]);
        assert!(!outcome.out().contains(SECRET), "the agent read the secret");
        match outcome.code {
            0 => {
                assert_eq!(outcome.out(), "the right onethe right one");
                through += 1;
            }
            125 => {
                assert_eq!(outcome.out(), "");
                refused += 1;
            }
            code => panic!("exit code {code}: {}", outcome.err()),
        }
    }
    drop(swapper);
    assert!(through > 0, "no start came through, {refused} were refused");
    fs::remove_file(jar.path("link")).expect("the link is at its own name again");
}

#[test]
fn the_project_swapped_with_a_link_to_a_secret() {
    let jar = Jar::new();
    lay_out(&jar);
    let project = jar.text("right/on/the/way");
    let options = ["--project", project.as_str()];
    no_leak(&jar, Path::new(&project), &jar.path("secret/on/the/way"), &options, "/workspace/project/file");
}

#[test]
fn a_directory_on_the_way_to_the_project_swapped() {
    let jar = Jar::new();
    lay_out(&jar);
    let project = jar.text("right/on/the/way");
    let options = ["--project", project.as_str()];
    no_leak(&jar, &jar.path("right/on"), &jar.path("secret/on"), &options, "/workspace/project/file");
}

#[test]
fn an_extra_mount_swapped_with_a_link_to_a_secret() {
    let jar = Jar::new();
    lay_out(&jar);
    jar.allow(&[(&jar.path("right"), true)]);
    let mount = jar.text("right/on/the/way");
    let options = ["-m", mount.as_str()];
    no_leak(&jar, Path::new(&mount), &jar.path("secret/on/the/way"), &options, "/workspace/extra/way/file");
}

#[test]
fn a_directory_on_the_way_to_an_extra_mount_swapped() {
    let jar = Jar::new();
    lay_out(&jar);
    jar.allow(&[(&jar.path("right"), true)]);
    let mount = format!("{}:rw", jar.text("right/on/the/way"));
    let options = ["-m", mount.as_str()];
    no_leak(&jar, &jar.path("right/on"), &jar.path("secret/on"), &options, "/workspace/extra/way/file");
}

#[test]
fn a_single_file_swapped_with_a_link_to_a_secret() {
    let jar = Jar::new();
    lay_out(&jar);
    jar.allow(&[(&jar.path("right"), false)]);
    let file = jar.text("right/file");
    let options = ["-m", file.as_str()];
    no_leak(&jar, Path::new(&file), &jar.path("secret/file"), &options, "/workspace/extra/file");
}

#[test]
fn a_name_inside_the_project_swapped_with_a_link_leads_nowhere() {
    let jar = Jar::new();
    lay_out(&jar);
    // A link inside points into the container's own tree, where nothing is.
    let project = jar.text("right");
    let options = ["--project", project.as_str()];
    let link = jar.path("link");
    symlink(jar.path("secret/on"), &link).expect("make a link");
    let swapper = Swapper::start(jar.path("right/on"), link);
    for _ in 0..load(STARTS / 4, 3) {
        let outcome = jar
            .run(&options, &["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do cat /workspace/project/on/the/way/file; done"]);
        assert!(!outcome.out().contains(SECRET), "the agent read the secret");
    }
    drop(swapper);
}
