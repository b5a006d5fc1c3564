//! What can go wrong with images, each with the thing, its value and what would be right.

use std::{
    io,
    path::{Path, PathBuf},
};

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was done, as the start of a sentence: "cannot open".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file system is full.
    #[error("no space left on the file system of {} while writing {what}, of which nothing was kept", path.display())]
    DiskFull {
        /// What was being written.
        what: String,
        /// Where.
        path: PathBuf,
    },
    /// The text is not an image reference.
    #[error("`{text}` is not an image reference: {reason} (want name[:tag][@sha256:…])")]
    Reference {
        /// The text as given.
        text: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The text is not a digest.
    #[error("`{0}` is not a digest (want sha256: and 64 lowercase hexadecimal digits)")]
    Digest(String),
    /// No image of this name in the store.
    #[error("no image `{0}` in the store")]
    NotFound(String),
    /// The archive or layout does not hold the image asked for.
    #[error("{name} holds no image `{pick}`; it has: {available}")]
    NotPicked {
        /// The name or tag asked for.
        pick: String,
        /// The file or stream.
        name: String,
        /// The names it has, comma separated.
        available: String,
    },
    /// A short image id fits several images.
    #[error("`{text}` fits {count} images; give more digits")]
    Ambiguous {
        /// The prefix as given.
        text: String,
        /// How many images it fits.
        count: usize,
    },
    /// A blob the store should hold is not there.
    #[error("blob {0} is missing in the store; import the image again")]
    BlobMissing(String),
    /// A blob's bytes are not the ones its name promises.
    #[error("{what} {expected} is damaged: its content has the digest {found}")]
    DigestMismatch {
        /// "blob" or "layer (diff id)".
        what: &'static str,
        /// The promised digest.
        expected: String,
        /// The digest of the bytes that came.
        found: String,
    },
    /// A blob is shorter or longer than its descriptor says.
    #[error("blob {digest} has {found} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// The blob.
        digest: String,
        /// Bytes the descriptor promises.
        expected: u64,
        /// Bytes that came (at least).
        found: u64,
    },
    /// A manifest, index, configuration or layout file is not acceptable.
    #[error("{what} {name}: {reason}")]
    Document {
        /// "manifest", "index", "configuration", …
        what: &'static str,
        /// Its digest or file name.
        name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No manifest for this platform.
    #[error("{name} has no image for {wanted}; it has: {available}")]
    Platform {
        /// The index.
        name: String,
        /// The wanted platform, `linux/amd64`.
        wanted: String,
        /// The platforms it has, comma separated.
        available: String,
    },
    /// What was given is no image archive or layout.
    #[error("{name} is not an image: {reason} (want an OCI layout, an OCI archive or a docker-save archive)")]
    NotAnImage {
        /// The file or stream.
        name: String,
        /// What was found or missed.
        reason: String,
    },
    /// An image came without a name and none was given.
    #[error("the image in {0} carries no name; give one")]
    NameNeeded(String),
    /// A layer's archive cannot be applied.
    #[error("layer {layer}: entry `{entry}`: {reason}")]
    Layer {
        /// The layer's digest, or "(archive)" where it has none.
        layer: String,
        /// The entry's path as the archive gives it.
        entry: String,
        /// What is wrong.
        reason: String,
    },
    /// A layer's archive or compressed stream is broken.
    #[error("layer {layer}: {reason}")]
    LayerStream {
        /// The layer's digest.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// A limit that guards against archive bombs was reached.
    #[error("{what}: more than {limit} {unit}; raise the limit if the image is trusted")]
    Limit {
        /// What grew too big.
        what: String,
        /// The limit.
        limit: u64,
        /// What the limit counts.
        unit: &'static str,
    },
    /// The image is in use.
    #[error("image `{image}` is used by {users}; remove those first or force it")]
    InUse {
        /// The image.
        image: String,
        /// The directories of the instances that use it.
        users: String,
    },
    /// The store is written by another process and waiting was not wished.
    #[error("the image store {} is busy: another process imports or collects", .0.display())]
    Busy(PathBuf),
    /// A user or group of the image's configuration cannot be resolved.
    #[error("user `{user}`: {reason}")]
    User {
        /// The text, `name[:group]`.
        user: String,
        /// What is missing or malformed.
        reason: String,
    },
    /// A tool this needs is not installed.
    #[error("{tool} is not installed; apt-get install {package}")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A tool failed.
    #[error("{tool} failed ({status}): {tail}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// How it ended.
        status: String,
        /// Its last lines.
        tail: String,
    },
    /// A mount operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Mount {
        /// "mount the overlay at", "unmount", …
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Options that do not fit together or an operation that is not possible here.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    /// Maps a failed operation on `path`; a full disk becomes [`Error::DiskFull`].
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
        move |source| {
            let source = source.into();
            match source.raw_os_error() {
                Some(code) if is_full(code) => Error::DiskFull { what: "files".to_owned(), path: path.to_owned() },
                _ => Error::Io { action, path: path.to_owned(), source },
            }
        }
    }
}

/// Whether this errno says that the file system or the quota is full.
pub(crate) fn is_full(code: i32) -> bool {
    let errno = rustix::io::Errno::from_raw_os_error(code);
    errno == rustix::io::Errno::NOSPC || errno == rustix::io::Errno::DQUOT
}
