//! Brings images in: OCI layouts as directories (OCI image-spec `image-layout.md`) and as archives, and the archives of
//! `docker save`, plain or compressed, from a file or a pipe.
//!
//! A pipe cannot be read twice and an archive's members come in any order, so every member of an archive is hashed into
//! a temporary file first; then the documents say which of them are blobs of the wanted images, and the rest is
//! dropped. A member's own name is never believed: blobs are found by the digest of what they contain.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use oci_spec::image::{Descriptor, ImageIndex, MediaType};
use serde::Deserialize;

use crate::{
    Digest, Error, Image, Platform, Progress, Reference, Store, document,
    layer::{
        archive::{Archive, ArchiveError, Kind},
        decode::{Compression, decoder},
    },
    store::{Staged, descriptor},
};

/// Indexes within indexes that are followed.
const INDEX_DEPTH: usize = 4;
/// Links from one member of an archive to another that are followed.
const LINK_DEPTH: usize = 8;
/// The name an archive's member has among the annotations of containerd and Docker: a full reference.
const ANNOTATION_NAME: &str = "io.containerd.image.name";
/// The same by the OCI specification: a tag or a reference.
const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";

/// Where an image comes from.
pub struct Source<'a> {
    input: Input<'a>,
    /// What errors call it.
    label: String,
    /// Which of several images.
    pick: Option<String>,
}

enum Input<'a> {
    Path(PathBuf),
    Stream(Box<dyn Read + Send + 'a>),
}

impl<'a> Source<'a> {
    /// A file or directory; its format is told by its content.
    pub fn path(path: impl Into<PathBuf>) -> Source<'a> {
        let path = path.into();
        Source { label: path.display().to_string(), input: Input::Path(path), pick: None }
    }

    /// A stream, as standard input; `label` is what errors call it.
    pub fn stream(input: impl Read + Send + 'a, label: &str) -> Source<'a> {
        Source { input: Input::Stream(Box::new(input)), label: label.to_owned(), pick: None }
    }

    /// Takes only the image with this name or tag.
    pub fn pick(mut self, name: &str) -> Source<'a> {
        self.pick = Some(name.to_owned());
        self
    }

    /// Reads what people write on a command line: `PATH`, `-` for standard input, or as skopeo has it
    /// `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME:TAG]`. The content decides the format.
    pub fn parse(text: &str) -> Source<'static> {
        let (_, rest) = split_transport(text);
        if rest == "-" {
            return Source::stream(std::io::stdin(), "standard input");
        }
        let (path, pick) = split_path(rest);
        let source = Source::path(path);
        match pick {
            Some(name) => source.pick(name),
            None => source,
        }
    }
}

/// Splits `oci:`, `oci-archive:` or `docker-archive:` off.
pub(crate) fn split_transport(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((transport @ ("oci" | "oci-archive" | "docker-archive"), rest)) => (Some(transport), rest),
        _ => (None, text),
    }
}

/// Splits `PATH[:NAME]`; a path that exists as a whole has no name.
pub(crate) fn split_path(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((path, name)) if !path.is_empty() && !Path::new(text).exists() => (path, Some(name)),
        _ => (text, None),
    }
}

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name to give instead of the one the image carries.
    pub name: Option<String>,
    /// Which platform's image to take; the host's if `None`.
    pub platform: Option<Platform>,
}

/// An entry of `manifest.json` in an archive of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// Where blobs are taken from.
enum Blobs {
    Layout(PathBuf),
    Members(Members),
}

/// The members of an archive, hashed into temporary files.
#[derive(Default)]
struct Members {
    files: HashMap<String, Staged>,
    links: HashMap<String, String>,
}

/// What is the same during one import.
struct Import<'a> {
    store: &'a Store,
    blobs: Blobs,
    label: String,
    pick: Option<String>,
    platform: Platform,
    progress: &'a dyn Progress,
}

/// An image chosen out of an index.
struct Chosen {
    manifest: Digest,
    index: Option<Digest>,
}

impl Store {
    /// Imports the images of `source` and names them. Returns one image a name.
    ///
    /// Names come from `options.name`, else from the image: `RepoTags`, the annotation `io.containerd.image.name`,
    /// or `org.opencontainers.image.ref.name`, where a bare tag is a tag of the file's or directory's name.
    pub fn import(
        &self,
        source: Source<'_>,
        options: &ImportOptions,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, Error> {
        let name = options.name.as_deref().map(str::parse::<Reference>).transpose()?;
        self.adding(|| self.import_named(source, name, options, progress))
    }

    fn import_named(
        &self,
        source: Source<'_>,
        name: Option<Reference>,
        options: &ImportOptions,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, Error> {
        let mut import = Import {
            store: self,
            blobs: Blobs::Members(Members::default()),
            label: source.label,
            pick: source.pick,
            platform: options.platform.clone().unwrap_or_else(Platform::host),
            progress,
        };
        let not_image =
            |label: &str, reason: &str| Error::NotAnImage { name: label.to_owned(), reason: reason.to_owned() };
        let found = match source.input {
            Input::Path(path) if path.is_dir() => {
                let read = |name: &str| read_bounded(&path.join(name));
                let Some(layout) = read("oci-layout")? else {
                    return Err(not_image(&import.label, "the directory has no oci-layout file"));
                };
                let Some(index) = read("index.json")? else {
                    return Err(not_image(&import.label, "the directory has no index.json"));
                };
                import.blobs = Blobs::Layout(path);
                import.layout(&layout, &index, None)?
            }
            input => {
                let stream: Box<dyn Read + Send + '_> = match input {
                    Input::Path(path) => Box::new(File::open(&path).map_err(Error::io("cannot open", &path))?),
                    Input::Stream(stream) => stream,
                };
                let members = import.read_archive(stream)?;
                let docker = members.document("manifest.json")?;
                match (members.document("oci-layout")?, members.document("index.json")?, docker) {
                    (Some(layout), Some(index), docker) => {
                        import.blobs = Blobs::Members(members);
                        import.layout(&layout, &index, docker.as_deref())?
                    }
                    (_, _, Some(docker)) => import.docker(&members, &docker)?,
                    _ => return Err(not_image(&import.label, "it has neither index.json nor manifest.json")),
                }
            }
        };
        import.name(found, name)
    }
}

impl Import<'_> {
    /// Names what was found, whose blobs are all in the store.
    fn name(&self, found: Vec<(Chosen, Vec<String>)>, name: Option<Reference>) -> Result<Vec<Image>, Error> {
        if name.is_some() && found.len() > 1 {
            let all: Vec<String> = found.iter().map(|(_, names)| names.join(", ")).collect();
            return Err(Error::Unsupported(format!(
                "{} holds {} images ({}); choose one to give it a name",
                self.label,
                found.len(),
                all.join("; ")
            )));
        }
        let mut named = Vec::new();
        for (chosen, names) in found {
            let references = match &name {
                Some(reference) => vec![reference.clone()],
                None => names.iter().map(|name| name.parse()).collect::<Result<Vec<Reference>, _>>()?,
            };
            if references.is_empty() {
                return Err(Error::NameNeeded(self.label.clone()));
            }
            let image = self.store.load_manifest(&chosen.manifest)?;
            // That there is a diff id for each layer.
            image.layers()?;
            for reference in references {
                self.store.set_name(&reference, &image, chosen.index, None)?;
                named.push(Image { reference: Some(reference), ..image.clone() });
            }
        }
        Ok(named)
    }

    // ---- OCI layouts

    fn layout(
        &mut self,
        layout: &[u8],
        index: &[u8],
        docker: Option<&[u8]>,
    ) -> Result<Vec<(Chosen, Vec<String>)>, Error> {
        let name = format!("{} oci-layout", self.label);
        let layout: Layout = document::parse(layout, "layout file", &name)?;
        if !layout.image_layout_version.starts_with("1.") {
            let reason = format!("imageLayoutVersion is `{}`, want 1.0.0", layout.image_layout_version);
            return Err(Error::Document { what: "layout file", name, reason });
        }
        let index = document::index(index, &format!("{} index.json", self.label))?;
        // Entries with the same name are one image for several platforms.
        let mut groups: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
        for entry in index.manifests() {
            if document::is_index(entry) || document::is_manifest(entry) && !document::is_attestation(entry) {
                groups.entry(annotated_name(entry)).or_default().push(entry.clone());
            }
        }
        if let Some(pick) = self.pick.clone() {
            let known: Vec<String> = groups.keys().flatten().cloned().collect();
            groups.retain(|name, _| name.as_deref().is_some_and(|name| same_name(name, &pick)));
            if groups.is_empty() {
                return Err(self.not_picked(&pick, &known));
            }
        }
        if groups.is_empty() {
            let reason = "its index lists no image".to_owned();
            return Err(Error::NotAnImage { name: self.label.clone(), reason });
        }
        let tags = docker.map(|bytes| document::parse::<Vec<DockerEntry>>(bytes, "manifest.json", &self.label));
        let tags = tags.transpose()?.unwrap_or_default();
        let mut found = Vec::new();
        for (name, descriptors) in groups {
            let mut seen = Vec::new();
            let Some(chosen) = self.choose(&descriptors, None, 0, &mut seen)? else {
                seen.dedup();
                return Err(Error::Platform {
                    name: name.unwrap_or_else(|| self.label.clone()),
                    wanted: self.platform.to_string(),
                    available: seen.join(", "),
                });
            };
            let image = self.store.load_manifest(&chosen.manifest)?;
            for layer in image.manifest.layers() {
                self.fetch(&document::digest(layer)?, layer.size())?;
            }
            let names = match name {
                Some(name) => vec![self.full_name(&name)?],
                None => {
                    let config = image.config_digest.hex();
                    let entry = tags.iter().find(|entry| entry.config.contains(&config));
                    entry.and_then(|entry| entry.repo_tags.clone()).unwrap_or_default()
                }
            };
            found.push((chosen, names));
        }
        Ok(found)
    }

    /// A bare tag becomes a tag of the name of the file or directory.
    fn full_name(&self, name: &str) -> Result<String, Error> {
        if name.contains(['/', ':', '@']) {
            return Ok(name.to_owned());
        }
        let file = Path::new(&self.label).file_name().map(|name| name.to_string_lossy().to_lowercase());
        let stem = file.as_deref().unwrap_or_default().split('.').next().unwrap_or_default().to_owned();
        let full = format!("{stem}:{name}");
        match full.parse::<Reference>() {
            Ok(_) if self.label != "standard input" => Ok(full),
            _ => Err(Error::NameNeeded(self.label.clone())),
        }
    }

    /// The first manifest for the wanted platform, with its configuration in the store. `seen` collects what else there is.
    fn choose(
        &mut self,
        descriptors: &[Descriptor],
        index: Option<Digest>,
        depth: usize,
        seen: &mut Vec<String>,
    ) -> Result<Option<Chosen>, Error> {
        for descriptor in self.platform.clone().ranked(descriptors) {
            let digest = document::digest(descriptor)?;
            if document::is_index(descriptor) {
                if depth == INDEX_DEPTH {
                    let reason = format!("indexes nest deeper than {INDEX_DEPTH}");
                    return Err(Error::Document { what: "index", name: digest.to_string(), reason });
                }
                self.fetch_document(descriptor)?;
                let nested: ImageIndex = document::index(&self.store.read_document(&digest)?, &digest.to_string())?;
                let outer = index.or(Some(digest));
                if let Some(chosen) = self.choose(nested.manifests(), outer, depth + 1, seen)? {
                    return Ok(Some(chosen));
                }
                continue;
            }
            if !document::is_manifest(descriptor) || document::is_attestation(descriptor) {
                continue;
            }
            if let Some(platform) = descriptor.platform() {
                let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
                if self.platform.distance(&os, &architecture, platform.variant().as_deref()).is_none() {
                    seen.push(format!("{os}/{architecture}"));
                    continue;
                }
            }
            self.fetch_document(descriptor)?;
            let manifest = document::manifest(&self.store.read_document(&digest)?, &digest.to_string())?;
            self.fetch_document(manifest.config())?;
            let config = document::digest(manifest.config())?;
            let configuration = document::configuration(&self.store.read_document(&config)?, &config.to_string())?;
            // What the index says may be wrong; what the image says of itself counts.
            let (os, architecture) = (configuration.os().to_string(), configuration.architecture().to_string());
            if self.platform.distance(&os, &architecture, configuration.variant().as_deref()).is_none() {
                seen.push(format!("{os}/{architecture}"));
                continue;
            }
            return Ok(Some(Chosen { manifest: digest, index }));
        }
        Ok(None)
    }

    fn fetch_document(&mut self, descriptor: &Descriptor) -> Result<(), Error> {
        let digest = document::digest(descriptor)?;
        if descriptor.size() > document::DOCUMENT_MAX {
            let reason = format!("it has {} bytes, at most {} are read", descriptor.size(), document::DOCUMENT_MAX);
            return Err(Error::Document { what: "document", name: digest.to_string(), reason });
        }
        self.fetch(&digest, descriptor.size())
    }

    /// Brings one blob into the store, checked against digest and size.
    fn fetch(&mut self, digest: &Digest, size: u64) -> Result<(), Error> {
        if self.store.has_blob(digest, size) {
            return Ok(());
        }
        let mismatch = |found: Digest| Error::DigestMismatch {
            what: "blob",
            expected: digest.to_string(),
            found: found.to_string(),
        };
        let staged = match &mut self.blobs {
            Blobs::Layout(root) => {
                let path = root.join("blobs/sha256").join(digest.hex());
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        let reason = format!("its blob {digest} is missing");
                        return Err(Error::NotAnImage { name: self.label.clone(), reason });
                    }
                    Err(error) => return Err(Error::io("cannot open", &path)(error)),
                };
                let found = file.metadata().map_err(Error::io("cannot look at", &path))?.len();
                if found != size {
                    return Err(Error::SizeMismatch { digest: digest.to_string(), expected: size, found });
                }
                &self.store.stage(file, size, Some(size), &digest.short(), self.progress)?
            }
            Blobs::Members(members) => match members.files.values().find(|staged| staged.digest == *digest) {
                Some(staged) => staged,
                None => {
                    let named = members.files.get(&format!("blobs/sha256/{}", digest.hex()));
                    return Err(match named {
                        Some(staged) => mismatch(staged.digest),
                        None => Error::NotAnImage {
                            name: self.label.clone(),
                            reason: format!("its blob {digest} is missing"),
                        },
                    });
                }
            },
        };
        if staged.digest != *digest {
            return Err(mismatch(staged.digest));
        }
        if staged.size != size {
            let (expected, found) = (size, staged.size);
            return Err(Error::SizeMismatch { digest: digest.to_string(), expected, found });
        }
        self.store.adopt(staged)
    }

    // ---- archives

    /// Hashes every member into a temporary file.
    fn read_archive(&self, stream: Box<dyn Read + Send + '_>) -> Result<Members, Error> {
        let label = &self.label;
        let not_image = |reason: String| Error::NotAnImage { name: label.clone(), reason };
        let broken = |error: ArchiveError| match error {
            ArchiveError::Limit { limit, unit } => Error::Limit { what: label.clone(), limit, unit },
            error => not_image(error.to_string()),
        };
        let (plain, _) = decoder(stream).map_err(|error| not_image(error.to_string()))?;
        let limits = self.store.limits();
        let mut archive = Archive::new(BufReader::with_capacity(256 << 10, plain), limits);
        let mut members = Members::default();
        let mut left = limits.bytes;
        let mut entries = 0;
        while let Some(entry) = archive.next_entry().map_err(broken)? {
            entries += 1;
            let name = normal_name(&String::from_utf8_lossy(&entry.path));
            match entry.kind {
                Kind::File => {
                    if entry.sparse.is_some() {
                        return Err(not_image(format!("its member `{name}` is a sparse file")));
                    }
                    let reader = archive.reader();
                    let staged = self.store.stage(reader, left, Some(entry.size), &name, self.progress)?;
                    left -= staged.size;
                    members.files.insert(name, staged);
                }
                Kind::Symlink => {
                    let link = String::from_utf8_lossy(&entry.link).into_owned();
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    members.links.insert(name.clone(), normal_name(&format!("{parent}/{link}")));
                }
                Kind::HardLink => {
                    members.links.insert(name, normal_name(&String::from_utf8_lossy(&entry.link)));
                }
                _ => {}
            }
        }
        // The rest is read so that a writer at the other end of a pipe is not killed, and checksums are seen.
        archive.drain().map_err(broken)?;
        if entries == 0 {
            return Err(not_image("it is empty".to_owned()));
        }
        Ok(members)
    }

    fn docker(&mut self, members: &Members, manifest: &[u8]) -> Result<Vec<(Chosen, Vec<String>)>, Error> {
        let label = self.label.clone();
        let entries: Vec<DockerEntry> = document::parse(manifest, "manifest.json", &label)?;
        let known: Vec<String> = entries.iter().flat_map(|entry| entry.repo_tags.clone().unwrap_or_default()).collect();
        let mut found = Vec::new();
        for entry in entries {
            let mut names = entry.repo_tags.unwrap_or_default();
            if let Some(pick) = &self.pick {
                names.retain(|name| same_name(name, pick));
                if names.is_empty() {
                    continue;
                }
            }
            let missing = |name: &str| Error::NotAnImage {
                name: label.clone(),
                reason: format!("its manifest.json names `{name}`, which is not in the archive"),
            };
            let config = members.get(&entry.config).ok_or_else(|| missing(&entry.config))?;
            if config.size > document::DOCUMENT_MAX {
                let reason = format!("it has {} bytes, at most {} are read", config.size, document::DOCUMENT_MAX);
                return Err(Error::Document { what: "configuration", name: entry.config, reason });
            }
            self.store.adopt(config)?;
            let config = descriptor(MediaType::ImageConfig, config.size, config.digest);
            let digest = document::digest(&config)?;
            let text = self.store.read_document(&digest)?;
            let configuration = document::configuration(&text, &digest.to_string())?;
            let (os, architecture) = (configuration.os().to_string(), configuration.architecture().to_string());
            if self.platform.distance(&os, &architecture, configuration.variant().as_deref()).is_none() {
                return Err(Error::Platform {
                    name: label,
                    wanted: self.platform.to_string(),
                    available: format!("{os}/{architecture}"),
                });
            }
            let ids = configuration.rootfs().diff_ids();
            if ids.len() != entry.layers.len() {
                let reason = format!("it has {} diff_ids for {} layers", ids.len(), entry.layers.len());
                return Err(Error::Document { what: "configuration", name: digest.to_string(), reason });
            }
            let mut layers = Vec::new();
            for (name, id) in entry.layers.iter().zip(ids) {
                let staged = members.get(name).ok_or_else(|| missing(name))?;
                let compression = Compression::detect(&staged.start);
                // An uncompressed layer's digest is its diff id; others are checked when they are unpacked.
                if compression == Compression::None && staged.digest.to_string() != *id {
                    let (expected, found) = (id.clone(), staged.digest.to_string());
                    return Err(Error::DigestMismatch { what: "layer (diff id)", expected, found });
                }
                self.store.adopt(staged)?;
                layers.push(descriptor(compression.media_type(), staged.size, staged.digest));
            }
            let image = self.store.add_manifest(config, layers)?;
            found.push((Chosen { manifest: image.manifest_digest, index: None }, names));
        }
        match (&self.pick, found.is_empty()) {
            (Some(pick), true) => Err(self.not_picked(pick, &known)),
            (None, true) => {
                Err(Error::NotAnImage { name: label, reason: "its manifest.json lists no image".to_owned() })
            }
            _ => Ok(found),
        }
    }

    fn not_picked(&self, pick: &str, known: &[String]) -> Error {
        Error::NotPicked { pick: pick.to_owned(), name: self.label.clone(), available: known.join(", ") }
    }
}

impl Members {
    /// The member, links followed.
    fn get(&self, name: &str) -> Option<&Staged> {
        let mut name = normal_name(name);
        for _ in 0..LINK_DEPTH {
            match self.links.get(&name) {
                // A later file of the same name replaces the link.
                Some(target) if !self.files.contains_key(&name) => name = target.clone(),
                _ => break,
            }
        }
        self.files.get(&name)
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.get(name).map_or(Ok(None), |staged| read_bounded(&staged.path))
    }
}

/// A member's name without `.`, `..` resolved and no slash at the start.
fn normal_name(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads a document; `None` if there is no such file. The parser refuses one that is too long.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("cannot open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(document::DOCUMENT_MAX + 1).read_to_end(&mut bytes).map_err(Error::io("cannot read", path))?;
    Ok(Some(bytes))
}

fn annotated_name(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations.get(ANNOTATION_NAME).or_else(|| annotations.get(ANNOTATION_REF)).cloned()
}

/// Whether a name an archive carries is the one asked for: the same text, the same reference, or its tag.
fn same_name(carried: &str, asked: &str) -> bool {
    let parsed = |text: &str| text.parse::<Reference>().ok();
    carried == asked
        || parsed(carried).is_some_and(|have| have.tag() == Some(asked) || parsed(asked).as_ref() == Some(&have))
}
