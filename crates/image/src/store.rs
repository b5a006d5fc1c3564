//! The store's directory: blobs, names, unpacked layers, and who may change them when.
//!
//! ```text
//! blobs/sha256/HEX      what images consist of, named by its SHA-256 (OCI image-spec image-layout.md)
//! refs/NAME             one file a name: which manifest it stands for
//! layers/CHAIN/fs       a layer unpacked over those below it, a lower directory for overlayfs
//! layers/CHAIN/layer.json
//! uses/ID               one file an instance: the image and layers it stands on
//! tmp/                  what is being made; renamed when complete
//! lock                  see below
//! ```
//!
//! Layers are kept by *chain id* (OCI image-spec `config.md`, "Layer ChainID"): the same archive over other layers may
//! unpack differently. Files appear by rename, so a reader sees all of one or nothing. Whoever adds holds `lock` shared
//! (`flock(2)`; it ends with the process); whoever removes holds it exclusively, so nothing that is complete but not
//! yet named is taken for garbage, and what is left in `tmp` under the exclusive lock belongs to the dead.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::{Digest, Error, Progress, Reference, RunConfig, Stage, document, layer::Limits};

/// How long a remover waits for those who add.
const EXCLUSIVE_WAIT: Duration = Duration::from_secs(10);
/// Bytes copied at once.
const COPY: usize = 256 << 10;

/// An image store below one directory. Any number of processes may have the same one open.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
}

/// An image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    pub(crate) reference: Option<Reference>,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_size: u64,
    pub(crate) manifest: ImageManifest,
    pub(crate) config_digest: Digest,
    pub(crate) configuration: ImageConfiguration,
    pub(crate) created: u64,
}

impl Image {
    /// The digest of the manifest, which names the image for good.
    pub fn digest(&self) -> Digest {
        self.manifest_digest
    }

    /// The digest of the configuration: what Docker calls the image's id.
    pub fn id(&self) -> Digest {
        self.config_digest
    }

    /// The name it was found by; `None` when by digest.
    pub fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// The same image, found by this name.
    pub fn named(mut self, reference: Reference) -> Image {
        self.reference = Some(reference);
        self
    }

    /// The manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// The configuration.
    pub fn configuration(&self) -> &ImageConfiguration {
        &self.configuration
    }

    /// What to run.
    pub fn run_config(&self) -> RunConfig {
        RunConfig::from_image(&self.configuration)
    }

    /// Bytes of all its blobs as they are stored (compressed).
    pub fn size(&self) -> u64 {
        let layers = self.manifest.layers().iter().map(Descriptor::size);
        layers.fold(self.manifest_size.saturating_add(self.manifest.config().size()), u64::saturating_add)
    }

    /// Its layers from the lowest up.
    pub fn layers(&self) -> Result<Vec<Layer>, Error> {
        let (descriptors, ids) = (self.manifest.layers(), self.configuration.rootfs().diff_ids());
        if descriptors.len() != ids.len() {
            let reason = format!("it has {} layers, its configuration {}", descriptors.len(), ids.len());
            return Err(Error::Document { what: "manifest", name: self.manifest_digest.to_string(), reason });
        }
        let mut layers: Vec<Layer> = Vec::with_capacity(ids.len());
        for (descriptor, id) in descriptors.iter().zip(ids) {
            let diff_id: Digest = id.parse()?;
            // OCI image-spec config.md: the chain of one is its diff id, else the digest of "chain diff-id".
            let chain_id =
                layers.last().map_or(diff_id, |below| Digest::of(format!("{} {diff_id}", below.chain_id).as_bytes()));
            let media_type = descriptor.media_type().to_string();
            layers.push(Layer {
                digest: document::digest(descriptor)?,
                size: descriptor.size(),
                media_type,
                diff_id,
                chain_id,
            });
        }
        Ok(layers)
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// The blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// What the manifest says it is.
    pub media_type: String,
    /// SHA-256 of the uncompressed archive.
    pub diff_id: Digest,
    /// Names this layer over the ones below it.
    pub chain_id: Digest,
}

/// A name in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named {
    /// `name:tag`.
    pub reference: String,
    /// The image's manifest.
    pub digest: Digest,
    /// The image's configuration: its id.
    pub id: Digest,
    /// Bytes of the manifest.
    pub manifest_size: u64,
    /// Bytes of all blobs.
    pub size: u64,
    /// When the name was given, seconds since 1970.
    pub created: u64,
    /// The index the image was picked from, if any: `name@digest` may name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// What an image made here was made from, to see whether it is up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// Everything known of one image.
#[derive(Debug, Clone, Serialize)]
pub struct Inspect {
    /// All its names.
    pub references: Vec<String>,
    /// The manifest's digest.
    pub digest: Digest,
    /// The configuration's digest.
    pub id: Digest,
    /// Bytes of all blobs.
    pub size: u64,
    /// Its layers from the lowest up.
    pub layers: Vec<LayerState>,
    /// Directories of the instances that use it.
    pub used_by: Vec<PathBuf>,
    /// What to run.
    pub run: RunConfig,
    /// The manifest as it is.
    pub manifest: ImageManifest,
    /// The configuration as it is.
    pub config: ImageConfiguration,
}

/// A layer and whether it is unpacked.
#[derive(Debug, Clone, Serialize)]
pub struct LayerState {
    /// The layer.
    #[serde(flatten)]
    pub layer: Layer,
    /// Where it is unpacked, if it is.
    pub unpacked: Option<PathBuf>,
}

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Removed {
    /// The names taken away.
    pub untagged: Vec<String>,
    /// Bytes freed because nothing else needed them.
    pub bytes_freed: u64,
}

/// An instance's claim on an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Use {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Digest,
    pub(crate) layers: Vec<Digest>,
}

/// The lock of the store, held until dropped.
pub(crate) struct Lock(#[allow(dead_code, reason = "closing it gives the lock back")] File);

impl Store {
    /// Opens the store below `root`; makes what is missing.
    pub fn open(root: &Path) -> Result<Store, Error> {
        Store::open_with(root, Limits::default())
    }

    /// The same with other limits for unpacking.
    pub fn open_with(root: &Path, limits: Limits) -> Result<Store, Error> {
        let root = std::path::absolute(root).map_err(Error::io("find", root))?;
        let store = Store { root, limits };
        // The last made of the directories tells that all are there.
        if !store.root.join("tmp").is_dir() {
            for name in ["blobs/sha256", "refs", "layers", "uses", "tmp"] {
                let dir = store.root.join(name);
                // Layers hold set-user-ID programs and private files: only the owner may pass.
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&dir)
                    .map_err(Error::io("cannot make", &dir))?;
            }
        }
        Ok(store)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The limits for unpacking.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// For those who add: waits while something is removed.
    pub(crate) fn lock_shared(&self) -> Result<Lock, Error> {
        let (file, path) = self.lock_file()?;
        flock(&file, FlockOperation::LockShared).map_err(Error::io("cannot lock", &path))?;
        Ok(Lock(file))
    }

    /// For those who remove: waits a bounded time for those who add.
    pub(crate) fn lock_exclusive(&self) -> Result<Lock, Error> {
        let (file, path) = self.lock_file()?;
        let end = Instant::now() + EXCLUSIVE_WAIT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Busy(self.root.clone())),
                Err(error) => return Err(Error::io("cannot lock", &path)(error)),
            }
        }
    }

    /// Does `work`, which adds, under the shared lock. When it fails, what it had added is removed at once, unless somebody
    /// else adds at this moment; then the next collection does it.
    pub(crate) fn adding<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let lock = self.lock_shared()?;
        work().inspect_err(|_| {
            drop(lock);
            if let Ok((file, _)) = self.lock_file()
                && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            {
                // The caller's error is the one to tell.
                let _ = self.sweep(&Lock(file), false);
            }
        })
    }

    fn lock_file(&self) -> Result<(File, PathBuf), Error> {
        let path = self.path("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        Ok((file.map_err(Error::io("cannot open", &path))?, path))
    }

    /// A fresh path below `tmp`, where nothing is.
    pub(crate) fn temporary(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let pid = std::process::id();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            // Left by a dead process that had the same id.
            let path = self.path("tmp").join(format!("{pid}.{number}"));
            if fs::symlink_metadata(&path).is_err() {
                return path;
            }
        }
    }

    /// Writes a small file so that it is there as a whole or not at all; `durable` also over a power failure.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8], durable: bool) -> Result<(), Error> {
        let temporary = self.temporary();
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&temporary, path)?;
            if durable && let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            Error::io("cannot write", path)(error)
        })
    }

    // ---- blobs

    /// Whether the blob is there, undamaged: an import repairs what has changed on the disk.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        let Ok(mut file) = File::open(self.blob_path(digest)) else { return false };
        if !file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == size) {
            return false;
        }
        let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; COPY]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Digest::from(hasher) == *digest,
                Ok(count) => hasher.update(&buffer[..count]),
                Err(_) => return false,
            }
        }
    }

    /// Opens a blob whose content is checked by the reader.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::BlobMissing(digest.to_string())),
            Err(error) => Err(Error::io("cannot open", &path)(error)),
        }
    }

    /// Reads a small blob and checks its digest again: what lies on a disk may have changed.
    pub fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        let mut file = self.open_blob(digest)?.take(document::DOCUMENT_MAX + 1);
        file.read_to_end(&mut bytes).map_err(Error::io("cannot read", &path))?;
        if bytes.len() as u64 > document::DOCUMENT_MAX {
            let reason = format!("it has more than {} bytes", document::DOCUMENT_MAX);
            return Err(Error::Document { what: "document", name: digest.to_string(), reason });
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            let (expected, found) = (digest.to_string(), found.to_string());
            return Err(Error::DigestMismatch { what: "blob", expected, found });
        }
        Ok(bytes)
    }

    /// Puts bytes made here into the store.
    pub(crate) fn add_bytes(&self, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor, Error> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        if !self.has_blob(&digest, size) {
            self.write_file(&self.blob_path(&digest), bytes, true)?;
        }
        Ok(descriptor(media_type, size, digest))
    }

    /// Copies a stream into a temporary file, hashing it. `limit` bounds its bytes.
    pub(crate) fn stage(
        &self,
        mut input: impl Read,
        limit: u64,
        total: Option<u64>,
        item: &str,
        progress: &dyn Progress,
    ) -> Result<Staged, Error> {
        let mut staged = Staged { path: self.temporary(), digest: Digest::of(b""), size: 0, start: Vec::new() };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged.path)
            .map_err(Error::io("cannot make", &staged.path))?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; COPY];
        let mut told = 0;
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Io { action: "cannot read", path: item.into(), source }),
            };
            if staged.start.len() < 4 {
                staged.start.extend(buffer[..count].iter().take(4));
            }
            staged.size += count as u64;
            if staged.size > limit {
                return Err(Error::Limit { what: item.to_owned(), limit, unit: "bytes" });
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(Error::io("cannot write", &staged.path))?;
            if staged.size - told >= 1 << 20 {
                told = staged.size;
                progress.update(Stage::Copy, item, staged.size, total);
            }
        }
        progress.update(Stage::Copy, item, staged.size, Some(staged.size));
        staged.digest = Digest::from(hasher);
        Ok(staged)
    }

    /// Makes a staged file a blob, in place of a damaged one if need be. Doing it twice is fine.
    pub(crate) fn adopt(&self, staged: &Staged) -> Result<(), Error> {
        let path = self.blob_path(&staged.digest);
        // Two images of one archive may share it.
        if !staged.path.exists() {
            return Ok(());
        }
        // The name must not become durable before the content.
        File::open(&staged.path)
            .and_then(|file| file.sync_data())
            .and_then(|()| fs::rename(&staged.path, &path))
            .map_err(Error::io("cannot write", &path))
    }

    // ---- names

    fn ref_path(&self, key: &str) -> PathBuf {
        let mut name = String::with_capacity(key.len());
        for byte in key.bytes() {
            match byte {
                b'/' => name.push_str("%2f"),
                b'%' => name.push_str("%25"),
                _ => name.push(char::from(byte)),
            }
        }
        self.root.join("refs").join(name)
    }

    /// Reads one name's file; `None` if there is none.
    pub(crate) fn named(&self, key: &str) -> Result<Option<Named>, Error> {
        read_json(&self.ref_path(key), "reference")
    }

    /// Gives the image a name, which it takes from another if need be. The caller holds the lock.
    pub(crate) fn set_name(
        &self,
        reference: &Reference,
        image: &Image,
        index: Option<Digest>,
        origin: Option<String>,
    ) -> Result<(), Error> {
        let Some(key) = reference.key() else {
            let (text, reason) = (reference.to_string(), "a name to give needs a tag");
            return Err(Error::Reference { text, reason });
        };
        self.set_key(key, image, index, origin)
    }

    /// The same by the key itself.
    pub(crate) fn set_key(
        &self,
        key: String,
        image: &Image,
        index: Option<Digest>,
        origin: Option<String>,
    ) -> Result<(), Error> {
        let named = Named {
            reference: key.clone(),
            digest: image.manifest_digest,
            id: image.config_digest,
            manifest_size: image.manifest_size,
            size: image.size(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            index,
            origin,
        };
        // The name must not outlive a power failure that its blobs do not.
        let blobs = self.path("blobs/sha256");
        File::open(&blobs).and_then(|dir| dir.sync_all()).map_err(Error::io("cannot sync", &blobs))?;
        self.write_file(&self.ref_path(&key), &to_json(&named)?, true)
    }

    /// All names, sorted.
    pub fn list(&self) -> Result<Vec<Named>, Error> {
        let dir = self.path("refs");
        let mut all = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot read", &dir))? {
            let path = entry.map_err(Error::io("cannot read", &dir))?.path();
            // One that is removed at this moment is no error.
            all.extend(read_json::<Named>(&path, "reference")?);
        }
        all.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(all)
    }

    /// Finds an image: by `name[:tag][@digest]`, by digest, or by the first digits (at least 4) of its id or digest.
    /// `None` if there is none; a text that can be no reference names no image either.
    /// The embedded image is put in first if it is asked for.
    pub fn resolve(&self, text: &str) -> Result<Option<Image>, Error> {
        if text
            .parse::<Reference>()
            .is_ok_and(|reference| reference.key().as_deref() == Some(crate::embedded::REFERENCE))
        {
            crate::embedded::ensure(self)?;
        }
        self.find(text)
    }

    /// The same among what is there. Takes no lock.
    fn find(&self, text: &str) -> Result<Option<Image>, Error> {
        let reference = text.parse::<Reference>().ok();
        if let Some(reference) = &reference {
            let keys = [reference.key(), reference.digest_key()];
            for key in keys.iter().flatten() {
                if let Some(named) = self.named(key)?.filter(|named| matches(named, reference.digest())) {
                    return self.load(&named).map(Some);
                }
            }
            if reference.tag().is_none()
                && let Some(named) = self.list()?.into_iter().find(|named| {
                    let name = named.reference.rsplit_once(':').map_or(&named.reference[..], |(name, _)| name);
                    name == reference.name() && matches(named, reference.digest())
                })
            {
                return self.load(&named).map(Some);
            }
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if !(4..=64).contains(&digits.len()) || !digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let fitting: BTreeMap<Digest, Named> = (self.list()?.into_iter())
            .filter(|named| named.id.hex().starts_with(digits) || named.digest.hex().starts_with(digits))
            .map(|named| (named.digest, named))
            .collect();
        match fitting.len() {
            0 => Ok(None),
            1 => fitting.values().next().map(|named| self.load(named)).transpose(),
            count => Err(Error::Ambiguous { text: text.to_owned(), count }),
        }
    }

    /// As [`Store::resolve`], with an error when there is no such image or the text is malformed.
    pub fn image(&self, text: &str) -> Result<Image, Error> {
        match self.resolve(text)? {
            Some(image) => Ok(image),
            None => Err(text.parse::<Reference>().err().unwrap_or_else(|| Error::NotFound(text.to_owned()))),
        }
    }

    fn load(&self, named: &Named) -> Result<Image, Error> {
        let mut image = self.load_manifest(&named.digest)?;
        image.reference = named.reference.parse().ok();
        image.created = named.created;
        Ok(image)
    }

    /// Reads manifest and configuration of the image with this manifest.
    pub(crate) fn load_manifest(&self, digest: &Digest) -> Result<Image, Error> {
        let bytes = self.read_document(digest)?;
        let manifest = document::manifest(&bytes, &digest.to_string())?;
        let config_digest = document::digest(manifest.config())?;
        let configuration = document::configuration(&self.read_document(&config_digest)?, &config_digest.to_string())?;
        Ok(Image {
            reference: None,
            manifest_digest: *digest,
            manifest_size: bytes.len() as u64,
            manifest,
            config_digest,
            configuration,
            created: 0,
        })
    }

    /// Everything known of an image.
    pub fn inspect(&self, text: &str) -> Result<Inspect, Error> {
        let image = self.image(text)?;
        let names = self.list()?.into_iter().filter(|named| named.digest == image.manifest_digest);
        let state = |layer: Layer| LayerState { unpacked: self.unpacked(&layer.chain_id), layer };
        Ok(Inspect {
            references: names.map(|named| named.reference).collect(),
            digest: image.manifest_digest,
            id: image.config_digest,
            size: image.size(),
            layers: image.layers()?.into_iter().map(state).collect(),
            used_by: self.uses_of(&image.manifest_digest)?,
            run: image.run_config(),
            manifest: image.manifest,
            config: image.configuration,
        })
    }

    /// Gives the image `from` the further name `to` (`name[:tag]`).
    pub fn tag(&self, from: &str, to: &str) -> Result<(), Error> {
        let reference: Reference = to.parse()?;
        let _lock = self.lock_shared()?;
        let image = self.image(from)?;
        self.set_name(&reference, &image, None, None)
    }

    /// Takes a name away, or all names when `text` is a digest or id; what nothing needs any more goes with it.
    /// Refuses to take the last name of an image that an instance uses, unless `force`: its layers then stay until the
    /// instance is removed.
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed, Error> {
        let lock = self.lock_exclusive()?;
        let all = self.list()?;
        let by_name = text.parse::<Reference>().ok().and_then(|reference| {
            let key = reference.key().or_else(|| reference.digest_key())?;
            all.iter().find(|named| named.reference == key && matches(named, reference.digest()))
        });
        let going: Vec<&Named> = match by_name {
            Some(named) => vec![named],
            None => {
                let image = self.find(text)?.ok_or_else(|| Error::NotFound(text.to_owned()))?;
                all.iter().filter(|named| named.digest == image.manifest_digest).collect()
            }
        };
        let Some(first) = going.first() else { return Err(Error::NotFound(text.to_owned())) };
        let names_left = all.iter().filter(|named| named.digest == first.digest).count() - going.len();
        let users = self.uses_of(&first.digest)?;
        if names_left == 0 && !force && !users.is_empty() {
            let users: Vec<String> = users.iter().map(|dir| dir.display().to_string()).collect();
            return Err(Error::InUse { image: text.to_owned(), users: users.join(", ") });
        }
        let mut removed = Removed::default();
        for named in going {
            let path = self.ref_path(&named.reference);
            fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
            removed.untagged.push(named.reference.clone());
        }
        removed.bytes_freed = self.sweep(&lock, false)?.bytes_freed;
        Ok(removed)
    }

    // ---- uses

    pub(crate) fn use_path(&self, id: &str) -> Result<PathBuf, Error> {
        if id.is_empty() || id.starts_with('.') || id.contains('/') || id.len() > 255 {
            return Err(Error::Unsupported(format!("`{id}` is no instance id (want a file name)")));
        }
        Ok(self.root.join("uses").join(id))
    }

    /// The claims of instances whose directory still exists, and the files of those whose does not.
    pub(crate) fn uses(&self) -> Result<(Vec<Use>, Vec<PathBuf>), Error> {
        let dir = self.path("uses");
        let (mut alive, mut stale) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot read", &dir))? {
            let path = entry.map_err(Error::io("cannot read", &dir))?.path();
            match read_json::<Use>(&path, "use")? {
                Some(claim) if claim.dir.exists() => alive.push(claim),
                Some(_) => stale.push(path),
                None => {}
            }
        }
        Ok((alive, stale))
    }

    fn uses_of(&self, manifest: &Digest) -> Result<Vec<PathBuf>, Error> {
        let (alive, _) = self.uses()?;
        Ok(alive.into_iter().filter(|claim| claim.manifest == *manifest).map(|claim| claim.dir).collect())
    }
}

/// Whether a name stands for this digest, of its manifest or of the index that came from.
fn matches(named: &Named, digest: Option<&Digest>) -> bool {
    digest.is_none_or(|digest| named.digest == *digest || named.index.as_ref() == Some(digest))
}

/// A file below `tmp` that may become a blob; removed when dropped, which after [`Store::adopt`] does nothing.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// The first bytes, which tell the compression.
    pub(crate) start: Vec<u8>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A descriptor of a blob.
pub(crate) fn descriptor(media_type: MediaType, size: u64, digest: Digest) -> Descriptor {
    // The text of a Digest is a digest; the parse cannot fail, and a wrong guess would show as an unknown blob.
    match digest.hex().parse::<oci_spec::image::Sha256Digest>() {
        Ok(parsed) => Descriptor::new(media_type, size, parsed),
        Err(_) => unreachable!("64 hexadecimal digits are a digest"),
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Unsupported(format!("cannot write JSON: {error}")))
}

/// Reads one of the store's own files; `None` if it is not there.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path, what: &'static str) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => document::parse(&bytes, what, &path.display().to_string()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("cannot read", path)(error)),
    }
}
