//! Compiles the toolbox, so that its bytes can be put into the command.
//!
//! Cargo cannot yet make one package's program an input of another on the stable toolchain, so this runs a second
//! cargo with a target directory of its own. The toolbox is always built with the release profile: its workloads are what
//! `strata compare` measures, whatever profile the command is built with.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let crates = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    // The toolbox needs no C library, but the musl target links one's start files into every program.
    let target = variable("TARGET").replace("-musl", "-gnu");
    let directory = PathBuf::from(variable("OUT_DIR")).join("toolbox");
    for watched in ["toolbox", "../Cargo.toml", "../.cargo/config.toml"] {
        println!("cargo::rerun-if-changed={}", crates.join(watched).display());
    }
    let status = Command::new(variable("CARGO"))
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "toolbox",
            "--target",
            &target,
            "--target-dir",
        ])
        .arg(&directory)
        .current_dir(&crates)
        // These are the outer build's: its lints, its flags for this script, its place for output.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static")
        .env_remove("CARGO_TARGET_DIR")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("building the toolbox failed: {status}"),
        Err(error) => panic!("cannot run cargo for the toolbox: {error}"),
    }
    let program = directory.join(&target).join("release/toolbox");
    println!("cargo::rustc-env=STRATA_TOOLBOX={}", program.display());
}
