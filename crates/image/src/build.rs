//! Makes images here: from a layer's tar stream and a configuration.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use oci_spec::image::{
    Config, Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageManifestBuilder, MediaType, RootFsBuilder,
};
use sha2::Digest as _;

use crate::{
    Digest, Error, Image, Progress, Reference, Stage, Store, document,
    layer::{apply::Marks, decode::Compression, pack},
    store::to_json,
};

/// A layer that was put into the store.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// SHA-256 of the uncompressed archive.
    pub diff_id: Digest,
}

impl Store {
    /// Puts a layer into the store: `input` is the uncompressed archive, kept compressed as `compression` says.
    /// Call under the shared lock and give the image a name before it ends.
    pub(crate) fn add_layer(
        &self,
        mut input: impl Read,
        compression: Compression,
        item: &str,
        progress: &dyn Progress,
    ) -> Result<NewLayer, Error> {
        // The reading end compresses; `stage` pulls, hashes and writes.
        let mut plain = Hashing { input: &mut input, hasher: sha2::Sha256::new(), done: 0, told: 0, item, progress };
        let limit = self.limits().bytes;
        let staged = match compression {
            Compression::None => self.stage(&mut plain, limit, None, item, &()),
            Compression::Gzip => {
                let gzip = flate2::read::GzEncoder::new(&mut plain, flate2::Compression::new(4));
                self.stage(gzip, limit, None, item, &())
            }
            Compression::Zstd => {
                let zstd = zstd::stream::read::Encoder::new(&mut plain, 3);
                self.stage(zstd.map_err(Error::io("cannot compress", Path::new(item)))?, limit, None, item, &())
            }
        }?;
        let diff_id = Digest::from(plain.hasher);
        self.adopt(&staged)?;
        let descriptor = crate::store::descriptor(compression.media_type(), staged.size, staged.digest);
        Ok(NewLayer { descriptor, diff_id })
    }

    /// Packs the changes below `upper`, an overlay's upper directory, as a layer in the store (gzip).
    /// Until an image names it, a collection removes it: use [`Store::commit`] to make one.
    pub fn create_layer_from_upper(&self, upper: &Path, progress: &dyn Progress) -> Result<NewLayer, Error> {
        let marks = if rustix::process::geteuid().is_root() { Marks::Trusted } else { Marks::User };
        let tree = pack::open_tree(upper).map_err(Error::io("cannot open", upper))?;
        let temporary = self.temporary();
        let result = self.adding(|| {
            let file = File::create_new(&temporary).map_err(Error::io("cannot make", &temporary))?;
            let mut writer = pack::pack(&tree, marks, io::BufWriter::with_capacity(256 << 10, file))
                .map_err(Error::io("cannot pack", upper))?;
            writer.flush().map_err(Error::io("cannot write", &temporary))?;
            let file = File::open(&temporary).map_err(Error::io("cannot open", &temporary))?;
            self.add_layer(file, Compression::Gzip, &upper.display().to_string(), progress)
        });
        let _ = std::fs::remove_file(&temporary);
        result
    }

    /// Makes a new image `name`: `base` with the changes below `upper` on top.
    pub fn commit(&self, base: &Image, upper: &Path, name: &str, progress: &dyn Progress) -> Result<Image, Error> {
        let reference = name.parse()?;
        self.adding(|| self.commit_named(base, upper, &reference, progress))
    }

    fn commit_named(
        &self,
        base: &Image,
        upper: &Path,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        let layer = self.create_layer_from_upper(upper, progress)?;
        let mut configuration = base.configuration.clone();
        let mut ids = configuration.rootfs().diff_ids().clone();
        ids.push(layer.diff_id.to_string());
        configuration.rootfs_mut().set_diff_ids(ids);
        // The history would have to grow with the layers; it is optional and only tells what built them.
        configuration.set_history(None);
        let mut layers = base.manifest.layers().clone();
        layers.push(layer.descriptor);
        let image = self.add_image(&configuration, layers)?;
        self.set_name(reference, &image, None, None)?;
        Ok(image)
    }

    /// Stores configuration and manifest. The caller holds the lock.
    pub(crate) fn add_image(&self, config: &ImageConfiguration, layers: Vec<Descriptor>) -> Result<Image, Error> {
        let config = self.add_bytes(MediaType::ImageConfig, &to_json(config)?)?;
        self.add_manifest(config, layers)
    }

    /// Stores a manifest of blobs that are there. The caller holds the lock.
    pub(crate) fn add_manifest(&self, config: Descriptor, layers: Vec<Descriptor>) -> Result<Image, Error> {
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers)
            .build()
            .map_err(|error| Error::Unsupported(format!("cannot make a manifest: {error}")))?;
        let descriptor = self.add_bytes(MediaType::ImageManifest, &to_json(&manifest)?)?;
        self.load_manifest(&document::digest(&descriptor)?)
    }
}

/// A configuration for this machine's architecture with one layer.
pub(crate) fn configuration(layer: &NewLayer, config: Config) -> Result<ImageConfiguration, Error> {
    let failed = |error| Error::Unsupported(format!("cannot make a configuration: {error}"));
    let rootfs =
        RootFsBuilder::default().typ("layers").diff_ids(vec![layer.diff_id.to_string()]).build().map_err(failed)?;
    ImageConfigurationBuilder::default()
        .architecture(crate::platform::host_architecture())
        .os("linux")
        .config(config)
        .rootfs(rootfs)
        .build()
        .map_err(failed)
}

/// Hashes what is read through it and tells progress.
struct Hashing<'a, R> {
    input: R,
    hasher: sha2::Sha256,
    done: u64,
    told: u64,
    item: &'a str,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.done += count as u64;
        if count == 0 {
            self.progress.update(Stage::Build, self.item, self.done, Some(self.done));
        } else if self.done - self.told >= 1 << 20 {
            self.told = self.done;
            self.progress.update(Stage::Build, self.item, self.done, None);
        }
        Ok(count)
    }
}
