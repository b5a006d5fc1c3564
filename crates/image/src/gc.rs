//! Mark and sweep: what no name and no instance leads to is removed.

use std::{
    collections::HashSet,
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{Digest, Error, Store, document, layer::apply::remove_tree, store::Lock};

/// What a collection removed, or would.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GcReport {
    /// Bytes on disk.
    pub bytes_freed: u64,
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Unpacked layers, by chain id.
    pub layers: Vec<Digest>,
    /// Left-overs of processes that ended while they made something.
    pub temporaries: usize,
    /// Claims of instances that are gone.
    pub stale_uses: usize,
}

impl Store {
    /// Removes what nothing needs; with `dry_run` only reports it. Waits up to 10 s for imports under way, then fails
    /// with [`Error::Busy`].
    pub fn gc(&self, dry_run: bool) -> Result<GcReport, Error> {
        let lock = self.lock_exclusive()?;
        self.sweep(&lock, dry_run)
    }

    /// The collection itself; the lock is the proof that nobody adds.
    pub(crate) fn sweep(&self, _exclusive: &Lock, dry_run: bool) -> Result<GcReport, Error> {
        let mut report = GcReport::default();
        let (mut blobs, mut chains) = (HashSet::new(), HashSet::new());
        let mut mark = |manifest: &Digest| -> Result<(), Error> {
            blobs.insert(*manifest);
            match self.load_manifest(manifest) {
                Ok(image) => {
                    blobs.insert(image.config_digest);
                    for layer in image.manifest.layers() {
                        blobs.insert(document::digest(layer)?);
                    }
                    chains.extend(image.layers()?.iter().map(|layer| layer.chain_id));
                    Ok(())
                }
                // A name that leads nowhere holds nothing.
                Err(Error::BlobMissing(_) | Error::Document { .. } | Error::DigestMismatch { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        for named in self.list()? {
            mark(&named.digest)?;
        }
        let (alive, stale) = self.uses()?;
        // An instance needs the unpacked layers, not the blobs they came from.
        let used: Vec<Digest> = alive.into_iter().flat_map(|claim| claim.layers).collect();
        chains.extend(used);

        report.stale_uses = stale.len();
        for path in stale {
            remove(&path, dry_run)?;
        }
        for path in entries(&self.path("blobs/sha256"))? {
            let name = file_name(&path);
            if let Ok(digest) = Digest::from_hex(&name)
                && !blobs.contains(&digest)
            {
                report.bytes_freed += remove(&path, dry_run)?;
                report.blobs.push(digest);
            }
        }
        for path in entries(&self.path("layers"))? {
            let name = file_name(&path);
            let digest = Digest::from_hex(name.strip_suffix(".lock").unwrap_or(&name));
            if let Ok(digest) = digest
                && !chains.contains(&digest)
            {
                report.bytes_freed += remove(&path, dry_run)?;
                if !name.ends_with(".lock") {
                    report.layers.push(digest);
                }
            }
        }
        for path in entries(&self.path("tmp"))? {
            report.bytes_freed += remove(&path, dry_run)?;
            report.temporaries += 1;
        }
        Ok(report)
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = || fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = read().map_err(Error::io("cannot read", dir))?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Removes a file or tree and returns the bytes it occupied on disk.
fn remove(path: &Path, dry_run: bool) -> Result<u64, Error> {
    let bytes = occupied(path);
    if !dry_run {
        remove_path(path)?;
    }
    Ok(bytes)
}

/// Removes a file or tree, links not followed. A missing one is fine.
pub(crate) fn remove_path(path: &Path) -> Result<(), Error> {
    use std::os::unix::ffi::OsStrExt;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = match fs::File::open(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("cannot open", parent)(error)),
    };
    remove_tree(parent.as_fd(), name.as_bytes()).map_err(Error::io("cannot remove", path))
}

/// Bytes on disk; hard links count once for each name. What cannot be read counts as nothing.
fn occupied(path: &Path) -> u64 {
    let mut sum = 0;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        sum += meta.blocks() * 512 / if meta.is_dir() { 1 } else { meta.nlink().max(1) };
        if meta.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            left.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    sum
}
