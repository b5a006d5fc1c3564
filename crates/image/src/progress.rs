//! How long operations tell how far they are. The library never prints; the command draws bars from this.

/// The part of an operation that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Copying a blob into the store; bytes of the blob.
    Copy,
    /// Fetching a blob from a registry; bytes of the blob.
    Pull,
    /// Sending a blob to a registry; bytes of the blob.
    Push,
    /// Unpacking a layer; bytes of the compressed blob read.
    Unpack,
    /// Writing an archive or layout; bytes written.
    Export,
    /// Building an image with a tool; see [`Progress::message`]. Bytes of the root file system's archive.
    Build,
}

/// Receives progress; called from several threads, at most about once per MiB. `()` ignores it.
pub trait Progress: Sync {
    /// `item` (a short digest or a name) is at `done` of `total` bytes; `total` is `None` while unknown. The last
    /// call for an item has `done == total`.
    fn update(&self, stage: Stage, item: &str, done: u64, total: Option<u64>);
    /// A line from a tool that is run (without line end).
    fn message(&self, line: &str) {
        let _ = line;
    }
}

impl Progress for () {
    fn update(&self, _: Stage, _: &str, _: u64, _: Option<u64>) {}
}
