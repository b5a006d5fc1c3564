//! Fuzz targets: one module a parser of untrusted input, each a function `fuzz_one` that must return for any bytes.
//!
//! The same bodies run twice. `cargo test` here mutates the inputs in `seeds/` a bounded number of times (stable
//! toolchain, part of the test suite). With coverage guidance, from this directory:
//!
//! ```text
//! ./run.sh TARGET [SECONDS]
//! ```
//!
//! A target panics when the parser breaks a promise, not only when it crashes: what is accepted must survive a
//! round trip, what is compiled must do what the rules say, what is unpacked must stay inside.

pub mod cgroup_layout;
pub mod config;
pub mod devices;
pub mod dns;
pub mod image_document;
pub mod layer;
pub mod registry;
pub mod seccomp;
pub mod words;

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("cgroup_layout", cgroup_layout::fuzz_one),
    ("config", config::fuzz_one),
    ("devices", devices::fuzz_one),
    ("dns", dns::fuzz_one),
    ("seccomp", seccomp::fuzz_one),
    ("image_document", image_document::fuzz_one),
    ("layer", layer::fuzz_one),
    ("registry", registry::fuzz_one),
    ("words", words::fuzz_one),
];
