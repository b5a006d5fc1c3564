//! Writes images out: OCI layouts as directories and archives (OCI image-spec `image-layout.md`), and archives for
//! `docker load`. Every blob is checked against its digest while it is read.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType};
use serde_json::json;
use sha2::Digest as _;

use crate::{
    Digest, Error, Image, Progress, Stage, Store, document,
    import::{split_path, split_transport},
    layer::{
        archive::{Entry, Kind},
        decode::decoder,
        pack::Writer,
    },
    store::{Layer, descriptor, to_json},
};

/// Where an image goes to, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The form.
    pub format: Format,
    /// The file or directory; `None` for the stream given to [`Store::export_to`].
    pub path: Option<PathBuf>,
    /// The name or tag to put on it instead of its own.
    pub name: Option<String>,
}

/// The form of an exported image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory; images are added to one that is there.
    OciLayout,
    /// The same as one tar file: `podman load`, `skopeo copy oci-archive:`, `ctr images import`.
    OciArchive,
    /// What `docker save` writes and `docker load` and `podman load` read. Layers are uncompressed in it.
    DockerArchive,
}

impl Target {
    /// Reads `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME:TAG]`; a bare `FILE` or `-` (standard
    /// output) is an OCI archive.
    pub fn parse(text: &str) -> Target {
        let (transport, rest) = split_transport(text);
        let format = match transport {
            Some("oci") => Format::OciLayout,
            Some("docker-archive") => Format::DockerArchive,
            _ => Format::OciArchive,
        };
        if rest == "-" {
            return Target { format, path: None, name: None };
        }
        let (path, name) = split_path(rest);
        Target { format, path: Some(path.into()), name: name.map(str::to_owned) }
    }
}

impl Store {
    /// Exports images to the target's path; a file appears when it is complete.
    pub fn export(&self, images: &[&str], target: &Target, progress: &dyn Progress) -> Result<(), Error> {
        let Some(path) = &target.path else {
            return Err(Error::Unsupported("the target is a stream; it has no path".to_owned()));
        };
        if target.format == Format::OciLayout {
            let images = self.find_all(images, target)?;
            let _lock = self.lock_shared()?;
            return self.export_layout(&images, path, target.name.as_deref(), progress);
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(Error::io("cannot make", &temporary))?;
        let result = self.export_to(images, target, file, progress);
        result.and_then(|()| fs::rename(&temporary, path).map_err(Error::io("cannot write", path))).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Exports images as an archive into a stream.
    pub fn export_to(
        &self,
        images: &[&str],
        target: &Target,
        output: impl Write,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let images = self.find_all(images, target)?;
        let _lock = self.lock_shared()?;
        let writer = Writer::new(BufWriter::with_capacity(256 << 10, output));
        match target.format {
            Format::OciLayout => Err(Error::Unsupported("an OCI layout is a directory, not a stream".to_owned())),
            Format::OciArchive => self.export_oci(&images, target.name.as_deref(), writer, progress),
            Format::DockerArchive => self.export_docker(&images, target.name.as_deref(), writer, progress),
        }
    }

    fn find_all(&self, images: &[&str], target: &Target) -> Result<Vec<Image>, Error> {
        if target.name.is_some() && images.len() != 1 {
            return Err(Error::Unsupported("one name cannot be given to several images".to_owned()));
        }
        images.iter().map(|text| self.image(text)).collect()
    }

    fn export_layout(
        &self,
        images: &[Image],
        dir: &Path,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(Error::io("cannot make", &blobs))?;
        for (digest, size) in blobs_of(images)? {
            let path = blobs.join(digest.hex());
            if fs::metadata(&path).is_ok_and(|meta| meta.len() == size) {
                continue;
            }
            let write = || -> Result<(), Error> {
                let mut file = File::create(&path).map_err(Error::io("cannot make", &path))?;
                self.copy_blob(&digest, size, &mut file, &path, progress)
            };
            write().inspect_err(|_| {
                let _ = fs::remove_file(&path);
            })?;
        }
        let index_path = dir.join("index.json");
        let mut entries = match fs::read(&index_path) {
            Ok(bytes) => document::index(&bytes, &index_path.display().to_string())?.manifests().clone(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io("cannot read", &index_path)(error)),
        };
        for entry in index_entries(images, name) {
            // A name stands for one image: the new one.
            entries.retain(|old| old.annotations().is_none() || old.annotations() != entry.annotations());
            entries.push(entry);
        }
        let layout = dir.join("oci-layout");
        fs::write(&layout, LAYOUT).map_err(Error::io("cannot write", &layout))?;
        fs::write(&index_path, index_document(entries)?).map_err(Error::io("cannot write", &index_path))
    }

    fn export_oci<W: Write>(
        &self,
        images: &[Image],
        name: Option<&str>,
        mut tar: Writer<W>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let failed = Error::io::<io::Error>;
        let archive = Path::new("the archive");
        tar.entry(&file("oci-layout", LAYOUT.len() as u64), LAYOUT).map_err(failed("cannot write", archive))?;
        let index = index_document(index_entries(images, name))?;
        tar.entry(&file("index.json", index.len() as u64), &index[..]).map_err(failed("cannot write", archive))?;
        for dir in ["blobs/", "blobs/sha256/"] {
            tar.entry(&Entry::new(dir, Kind::Directory, 0o755), io::empty())
                .map_err(failed("cannot write", archive))?;
        }
        for (digest, size) in blobs_of(images)? {
            let mut blob = self.checked(&digest, size, progress)?;
            tar.entry(&file(&format!("blobs/sha256/{}", digest.hex()), size), &mut blob)
                .map_err(failed("cannot write", archive))?;
            blob.finish()?;
        }
        tar.finish().and_then(|mut output| output.flush()).map_err(failed("cannot write", archive))
    }

    fn export_docker<W: Write>(
        &self,
        images: &[Image],
        name: Option<&str>,
        mut tar: Writer<W>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let archive = Path::new("the archive");
        let mut written: HashMap<String, ()> = HashMap::new();
        let mut manifest = Vec::new();
        for image in images {
            let mut names = Vec::new();
            for layer in image.layers()? {
                let member = format!("{}.tar", layer.diff_id.hex());
                if written.insert(member.clone(), ()).is_none() {
                    self.export_plain_layer(&layer, &member, &mut tar, progress)?;
                }
                names.push(member);
            }
            let config = self.read_document(&image.config_digest)?;
            let member = format!("{}.json", image.config_digest.hex());
            if written.insert(member.clone(), ()).is_none() {
                tar.entry(&file(&member, config.len() as u64), &config[..])
                    .map_err(Error::io("cannot write", archive))?;
            }
            let tags: Vec<String> = match (name, &image.reference) {
                (Some(name), _) => vec![name.to_owned()],
                (None, Some(reference)) => reference.key().into_iter().collect(),
                (None, None) => Vec::new(),
            };
            manifest.push(json!({ "Config": member, "RepoTags": tags, "Layers": names }));
        }
        let manifest = to_json(&manifest)?;
        tar.entry(&file("manifest.json", manifest.len() as u64), &manifest[..])
            .and_then(|()| tar.finish())
            .and_then(|mut output| output.flush())
            .map_err(Error::io("cannot write", archive))
    }

    /// A layer's plain archive as a member. Its size stands before its content, so it is decompressed into a file first.
    fn export_plain_layer<W: Write>(
        &self,
        layer: &Layer,
        member: &str,
        tar: &mut Writer<W>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let blob = self.open_blob(&layer.digest)?;
        let path = self.blob_path(&layer.digest);
        let (plain, _) = decoder(blob).map_err(Error::io("cannot read", &path))?;
        let staged = self.stage(plain, self.limits().bytes, None, &layer.digest.short(), progress)?;
        if staged.digest != layer.diff_id {
            let (expected, found) = (layer.diff_id.to_string(), staged.digest.to_string());
            return Err(Error::DigestMismatch { what: "layer (diff id)", expected, found });
        }
        let plain = File::open(&staged.path).map_err(Error::io("cannot open", &staged.path))?;
        tar.entry(&file(member, staged.size), plain).map_err(Error::io("cannot write", Path::new("the archive")))
    }

    fn copy_blob(
        &self,
        digest: &Digest,
        size: u64,
        output: &mut impl Write,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let mut blob = self.checked(digest, size, progress)?;
        io::copy(&mut blob, output).map_err(Error::io("cannot write", path))?;
        blob.finish()
    }

    fn checked<'a>(&self, digest: &Digest, size: u64, progress: &'a dyn Progress) -> Result<Checked<'a>, Error> {
        let file = self.open_blob(digest)?;
        Ok(Checked { file, hasher: sha2::Sha256::new(), digest: *digest, size, done: 0, told: 0, progress })
    }
}

/// A blob that is hashed while it is read.
struct Checked<'a> {
    file: File,
    hasher: sha2::Sha256,
    digest: Digest,
    size: u64,
    done: u64,
    told: u64,
    progress: &'a dyn Progress,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.done += count as u64;
        if self.done - self.told >= 1 << 20 {
            self.told = self.done;
            self.progress.update(Stage::Export, &self.digest.short(), self.done, Some(self.size));
        }
        Ok(count)
    }
}

impl Checked<'_> {
    fn finish(self) -> Result<(), Error> {
        let digest = self.digest.to_string();
        if self.done != self.size {
            return Err(Error::SizeMismatch { digest, expected: self.size, found: self.done });
        }
        self.progress.update(Stage::Export, &self.digest.short(), self.done, Some(self.size));
        let found = Digest::from(self.hasher);
        if found != self.digest {
            return Err(Error::DigestMismatch { what: "blob", expected: digest, found: found.to_string() });
        }
        Ok(())
    }
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

fn file(name: &str, size: u64) -> Entry {
    Entry { size, ..Entry::new(name, Kind::File, 0o644) }
}

/// Every blob of the images once: manifests, configurations, layers.
fn blobs_of(images: &[Image]) -> Result<Vec<(Digest, u64)>, Error> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for image in images {
        let mut add = |digest: Digest, size| {
            if seen.insert(digest) {
                all.push((digest, size));
            }
        };
        add(image.manifest_digest, image.manifest_size);
        add(image.config_digest, image.manifest.config().size());
        for layer in image.manifest.layers() {
            add(document::digest(layer)?, layer.size());
        }
    }
    Ok(all)
}

fn index_entries(images: &[Image], name: Option<&str>) -> Vec<Descriptor> {
    let entry = |image: &Image| {
        let mut entry = descriptor(MediaType::ImageManifest, image.manifest_size, image.manifest_digest);
        if let Some(kind) = image.manifest.media_type() {
            entry.set_media_type(kind.clone());
        }
        let own = image.reference.as_ref().and_then(|reference| reference.key());
        if let Some(name) = name.map(str::to_owned).or(own) {
            entry.set_annotations(Some([("org.opencontainers.image.ref.name".to_owned(), name)].into()));
        }
        entry
    };
    images.iter().map(entry).collect()
}

fn index_document(entries: Vec<Descriptor>) -> Result<Vec<u8>, Error> {
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(entries)
        .build()
        .map_err(|error| Error::Unsupported(format!("cannot make an index: {error}")))?;
    to_json(&index)
}
