//! Blobs that come one by one from elsewhere, as from a registry: kept in part when the sender breaks off, made a blob
//! only when the whole has the digest that names it.
//!
//! A partial blob is `tmp/HEX.partial`, where a collection finds it; whoever writes it holds a lock on it (`flock(2)`),
//! so two processes that want the same blob do not fetch it twice, and one that died leaves what it had to the next.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use rustix::fs::{FlockOperation, flock};
use sha2::Digest as _;

use crate::{
    Digest, Error, Image, Layer, Progress, Reference, Store,
    store::{Lock, Staged},
};

/// The right to add to the store: while one is held nothing is collected.
pub struct Receiving<'a> {
    store: &'a Store,
    _lock: Lock,
}

/// A blob under way, the only one of its digest.
pub struct Incoming<'a> {
    store: &'a Store,
    file: File,
    path: PathBuf,
    hasher: sha2::Sha256,
    digest: Digest,
    size: u64,
    have: u64,
}

impl Store {
    /// Begins to add blobs that come one by one; waits while something is removed.
    pub fn receiving(&self) -> Result<Receiving<'_>, Error> {
        Ok(Receiving { store: self, _lock: self.lock_shared()? })
    }

    /// The image that has exactly this name, and the index it was picked from.
    pub fn named_image(&self, reference: &Reference) -> Result<Option<(Image, Option<Digest>)>, Error> {
        let Some(key) = reference.digest_key().or_else(|| reference.key()) else { return Ok(None) };
        match self.named(&key)? {
            // One whose documents are gone is as good as none.
            Some(named) => Ok(self.load_manifest(&named.digest).ok().map(|image| (image, named.index))),
            None => Ok(None),
        }
    }

    /// Whether a blob with this name and size is there. Its content is not read again: it was checked on entry, and is
    /// once more when it is used.
    pub fn holds_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.blob_path(digest)).is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    /// Opens a blob for reading, as for a registry, which checks its digest.
    pub fn blob(&self, digest: &Digest) -> Result<File, Error> {
        self.open_blob(digest)
    }
}

impl<'a> Receiving<'a> {
    /// Adds a document whose bytes are all there.
    pub fn add_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let found = Digest::of(bytes);
        if found != *digest {
            let (expected, found) = (digest.to_string(), found.to_string());
            return Err(Error::DigestMismatch { what: "document", expected, found });
        }
        if self.store.has_blob(digest, bytes.len() as u64) {
            return Ok(());
        }
        self.store.write_file(&self.store.blob_path(digest), bytes, true)
    }

    /// Begins to receive a blob of `size` bytes, or goes on where one broke off; `None` if it is there already. Waits while
    /// another process receives the same.
    pub fn receive(&self, digest: Digest, size: u64) -> Result<Option<Incoming<'a>>, Error> {
        let limit = self.store.limits().bytes;
        if size > limit {
            return Err(Error::Limit { what: format!("blob {digest}"), limit, unit: "bytes" });
        }
        let path = self.store.path("tmp").join(format!("{}.partial", digest.hex()));
        loop {
            if self.store.holds_blob(&digest, size) {
                return Ok(None);
            }
            let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
            let file = file.map_err(Error::io("cannot open", &path))?;
            flock(&file, FlockOperation::LockExclusive).map_err(Error::io("cannot lock", &path))?;
            // Who had the lock before may have made a blob of it, which is not for us to write to.
            let (ours, named) = (file.metadata().map_err(Error::io("cannot look at", &path))?, fs::metadata(&path));
            if !named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
                continue;
            }
            let hasher = sha2::Sha256::new();
            let mut incoming = Incoming { store: self.store, file, path, hasher, digest, size, have: 0 };
            incoming.take_up(ours.len())?;
            return Ok(Some(incoming));
        }
    }

    /// The image with this manifest, whose documents are in the store.
    pub fn image(&self, manifest: &Digest) -> Result<Image, Error> {
        let image = self.store.load_manifest(manifest)?;
        // That there is a diff id for each layer.
        image.layers()?;
        Ok(image)
    }

    /// Unpacks the layers from the lowest up; before each that is not yet unpacked, `arrived` waits until its blob is in the
    /// store.
    pub fn unpack<E: From<Error>>(
        &self,
        image: &Image,
        progress: &dyn Progress,
        arrived: impl FnMut(&Layer) -> Result<(), E>,
    ) -> Result<(), E> {
        self.store.unpack_as_they_come(image, progress, arrived).map(|_| ())
    }

    /// Names an image that is complete: by digest if the reference has one, else by tag. `index` is what it was picked from.
    pub fn name(&self, reference: &Reference, image: &Image, index: Option<Digest>) -> Result<(), Error> {
        match reference.digest_key() {
            Some(key) => self.store.set_key(key, image, index, None),
            None => self.store.set_name(reference, image, index, None),
        }
    }
}

impl Incoming<'_> {
    /// Bytes that are there: where to go on.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Bytes that are missing.
    pub fn missing(&self) -> u64 {
        self.size - self.have
    }

    /// Reads what an earlier attempt left.
    fn take_up(&mut self, left: u64) -> Result<(), Error> {
        if left > self.size {
            return self.restart();
        }
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.have += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("cannot read", &self.path)(error)),
            }
        }
    }

    /// Forgets what is there.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.hasher = sha2::Sha256::new();
        self.have = 0;
        self.file.set_len(0).map_err(Error::io("cannot write", &self.path))
    }

    /// Takes the next bytes; more than the blob's size are refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() as u64 > self.missing() {
            let found = self.have + bytes.len() as u64;
            return Err(Error::SizeMismatch { digest: self.digest.to_string(), expected: self.size, found });
        }
        if let Err(error) = self.file.write_all(bytes) {
            let error = Error::io("cannot write", &self.path)(error);
            if matches!(error, Error::DiskFull { .. }) {
                let _ = fs::remove_file(&self.path);
            }
            return Err(error);
        }
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Whether what is there is the whole, and what its digest names.
    pub fn is_right(&self) -> bool {
        self.have == self.size && Digest::from(self.hasher.clone()) == self.digest
    }

    /// Makes it a blob. If it is not the one that its digest names, nothing of it is kept.
    pub fn finish(self) -> Result<(), Error> {
        if self.have != self.size {
            let (expected, found) = (self.size, self.have);
            return Err(Error::SizeMismatch { digest: self.digest.to_string(), expected, found });
        }
        let found = Digest::from(self.hasher);
        let staged = Staged { path: self.path, digest: found, size: self.size, start: Vec::new() };
        if found != self.digest {
            let (expected, found) = (self.digest.to_string(), found.to_string());
            return Err(Error::DigestMismatch { what: "blob", expected, found });
        }
        self.store.adopt(&staged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_broke_off_goes_on_and_is_checked_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let receiving = store.receiving().unwrap();
        let digest = Digest::of(b"hello world");
        let mut first = receiving.receive(digest, 11).unwrap().unwrap();
        first.write(b"hello ").unwrap();
        drop(first);
        let mut second = receiving.receive(digest, 11).unwrap().unwrap();
        assert_eq!((second.have(), second.missing()), (6, 5));
        assert!(second.write(b"world!").is_err(), "more than its size");
        second.write(b"world").unwrap();
        second.finish().unwrap();
        assert!(receiving.receive(digest, 11).unwrap().is_none());
        let mut text = String::new();
        store.blob(&digest).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello world");
    }

    #[test]
    fn a_blob_with_another_digest_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let receiving = store.receiving().unwrap();
        let mut incoming = receiving.receive(Digest::of(b"right"), 5).unwrap().unwrap();
        incoming.write(b"wrong").unwrap();
        assert!(matches!(incoming.finish(), Err(Error::DigestMismatch { .. })));
        assert_eq!(receiving.receive(Digest::of(b"right"), 5).unwrap().unwrap().have(), 0);
        assert!(matches!(receiving.receive(Digest::of(b"x"), u64::MAX), Err(Error::Limit { .. })));
    }
}
