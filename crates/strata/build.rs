//! Link options of the command.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Addresses that are filled in at the start are listed in a twentieth of the space, all of which is read then.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
