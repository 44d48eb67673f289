//! Compiles the init, the static program that is PID 1 in every container, so
//! that the library can embed it. It must run in any root, also one without a
//! C library, which a dynamically linked program cannot.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let source = "src/init/main.rs";
    println!("cargo:rerun-if-changed={source}");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("belljar-init");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=bin", "--crate-name=belljar_init"])
        .args(["--target", &target])
        .args(["-Ctarget-feature=+crt-static", "-Copt-level=s", "-Cpanic=abort", "-Clto=fat", "-Cstrip=symbols"])
        .arg("-o")
        .arg(&output)
        .arg(source)
        .status()
        .expect("rustc could not be started to compile the init");
    assert!(status.success(), "the init did not compile; a static C library is needed (Debian: libc6-dev)");
}
