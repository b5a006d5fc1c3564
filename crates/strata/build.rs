//! Link options of the command.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=hot.ld");
    // Addresses that are filled in at the start are listed in a twentieth of the space, all of which is read then.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // What a runtime weighs while it starts a container is its code: the kernel maps sixteen pages around each one that is
    // touched. Laid side by side, the functions of that path take a quarter of what they take where they happen to be.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let script = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("hot.ld");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}
