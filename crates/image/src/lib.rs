//! The image store: OCI images brought in, kept once, unpacked once, and handed to instances as root file systems.
//!
//! An *image* is a manifest that names a configuration (what to run) and a list of *layers* (tar archives applied
//! one over the other); everything is named by the SHA-256 of its bytes, so what is shared is kept once
//! (OCI image-spec 1.1: `manifest.md`, `config.md`, `layer.md`, `image-layout.md`).
//!
//! The walk of an image through this crate:
//! 1. [`Store::import`] ([`Source`]) copies its blobs, each checked against its digest, and names it by a [`Reference`];
//!    [`Store::receiving`] takes them one by one from elsewhere, as from a registry; [`bootstrap`] and [`embedded`] make images where none is at hand.
//! 2. [`Store::resolve`] finds it again: an [`Image`], whose [`Image::run_config`] says what to run.
//! 3. [`Store::unpack`] turns each layer into a directory ([`layer`]), once.
//! 4. [`Store::prepare_rootfs`] stacks the directories with a writable top ([`Rootfs`]); [`user::resolve_user`] reads
//!    the names of users in it.
//! 5. [`Store::remove`] and [`Store::gc`] take away what nothing uses.
//!
//! Whatever comes out of an image is untrusted: documents are bounded ([`document`]), layers are written by
//! descriptors that cannot leave the layer's directory ([`layer`]), sizes are limited ([`layer::Limits`]).
#![forbid(unsafe_code)]

mod bootstrap;
mod build;
mod config;
mod digest;
pub mod document;
pub mod embedded;
mod error;
mod export;
mod gc;
mod import;
pub mod layer;
mod platform;
mod progress;
mod receive;
mod reference;
mod rootfs;
mod store;
pub mod user;

pub use bootstrap::{Bootstrap, Variant, bootstrap};
pub use build::NewLayer;
pub use config::RunConfig;
pub use digest::Digest;
pub use error::Error;
pub use export::{Format, Target};
pub use gc::GcReport;
pub use import::{ImportOptions, Source};
pub use platform::Platform;
pub use progress::{Progress, Stage};
pub use receive::{Incoming, Receiving};
pub use reference::{Reference, is_host};
pub use rootfs::{Rootfs, unmount_rootfs};
pub use store::{Image, Inspect, Layer, LayerState, Named, Removed, Store};
pub use user::resolve_user;
