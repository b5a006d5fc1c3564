//! Layers: archives of changes, and the directories they become (OCI image-spec `layer.md`).
//!
//! A layer is a tar stream, plain or compressed, that adds, replaces and removes files of the layers below. Unpacked it is
//! a directory that overlayfs can stack: removals become overlayfs's own marks. Stages, each on a thread of its own
//! with bounded queues between, so that two processors are kept busy and memory does not grow with the layer:
//! [`decode`] decompresses, another thread computes the SHA-256 of the tar stream (the *diff id*), and [`archive`]
//! feeds [`apply`], which writes files. [`pack`] is the way back.

pub mod apply;
pub mod archive;
pub mod decode;
pub mod merge;
pub mod pack;

/// Bounds on what a layer may unpack to: an image is small where an archive bomb is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer's uncompressed stream, and the apparent size of one file (holes count). Default 64 GiB.
    pub bytes: u64,
    /// Entries of one layer. Default 4 million.
    pub entries: u64,
    /// Uncompressed bytes for one compressed byte, once a layer has more than 1 GiB. Default 2000; gzip reaches 1032.
    pub ratio: u64,
    /// Bytes of a path. Default 4096.
    pub path: usize,
    /// Components of a path. Default 1024.
    pub depth: usize,
    /// Bytes of one extended header (long names, attributes). Default 1 MiB.
    pub header: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 64 << 30, entries: 4_000_000, ratio: 2000, path: 4096, depth: 1024, header: 1 << 20 }
    }
}
