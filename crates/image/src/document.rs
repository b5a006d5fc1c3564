//! Manifests, indexes and configurations: JSON read strictly (OCI image-spec `manifest.md`, `image-index.md`, `config.md`).
//!
//! The documents come from whoever made the image. Each parser here takes the bytes and the document's name (its digest)
//! for the error, bounds the size before parsing, and checks what later code relies on; the field types are
//! the `oci-spec` crate's. Docker's own media types (schema 2) describe the same documents and are accepted.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::de::DeserializeOwned;

use crate::{Digest, Error};

/// The longest document, as registries have it (distribution-spec, "Pushing Manifests": at least 4 MiB).
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// More layers than any builder makes; bounds work for a manifest that repeats one layer.
const LAYERS_MAX: usize = 1000;

const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYERS: [&str; 9] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Whether a descriptor's media type says that it points at an index.
pub fn is_index(descriptor: &Descriptor) -> bool {
    INDEXES.contains(&descriptor.media_type().as_ref())
}

/// Whether a descriptor's media type says that it points at an image manifest.
pub fn is_manifest(descriptor: &Descriptor) -> bool {
    MANIFESTS.contains(&descriptor.media_type().as_ref())
}

/// BuildKit keeps what it knows of a build beside the image, for no platform.
pub fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations().as_ref().is_some_and(|all| all.contains_key("vnd.docker.reference.type"))
}

/// The digest of a descriptor, which must be SHA-256.
pub fn digest(descriptor: &Descriptor) -> Result<Digest, Error> {
    descriptor.digest().as_ref().parse()
}

/// Parses an image manifest: schema 2, a configuration and layers of known media types, SHA-256 digests only.
pub fn manifest(bytes: &[u8], name: &str) -> Result<ImageManifest, Error> {
    let bad = |reason: String| Error::Document { what: "manifest", name: name.to_owned(), reason };
    let manifest: ImageManifest = parse(bytes, "manifest", name)?;
    if manifest.schema_version() != 2 {
        return Err(bad(format!("schemaVersion is {}, want 2", manifest.schema_version())));
    }
    if let Some(kind) = manifest.media_type()
        && !MANIFESTS.contains(&kind.as_ref())
    {
        return Err(bad(format!("mediaType is `{kind}`, want {}", MANIFESTS[0])));
    }
    let config = manifest.config();
    if !CONFIGS.contains(&config.media_type().as_ref()) {
        return Err(bad(format!("it is no image: its config has the media type `{}`", config.media_type())));
    }
    if config.size() > DOCUMENT_MAX {
        return Err(bad(format!("its configuration has {} bytes, at most {DOCUMENT_MAX} are read", config.size())));
    }
    digest(config)?;
    if manifest.layers().len() > LAYERS_MAX {
        return Err(bad(format!("it has {} layers, at most {LAYERS_MAX} are taken", manifest.layers().len())));
    }
    for layer in manifest.layers() {
        if !LAYERS.contains(&layer.media_type().as_ref()) {
            let (digest, kind) = (layer.digest(), layer.media_type());
            return Err(bad(format!(
                "layer {digest} has the media type `{kind}`, want a tar, tar+gzip or tar+zstd layer"
            )));
        }
        digest(layer)?;
    }
    Ok(manifest)
}

/// Parses an image index: schema 2, SHA-256 digests only, at most 1000 entries.
pub fn index(bytes: &[u8], name: &str) -> Result<ImageIndex, Error> {
    let bad = |reason: String| Error::Document { what: "index", name: name.to_owned(), reason };
    let index: ImageIndex = parse(bytes, "index", name)?;
    if index.schema_version() != 2 {
        return Err(bad(format!("schemaVersion is {}, want 2", index.schema_version())));
    }
    if let Some(kind) = index.media_type()
        && !INDEXES.contains(&kind.as_ref())
    {
        return Err(bad(format!("mediaType is `{kind}`, want {}", INDEXES[0])));
    }
    if index.manifests().len() > LAYERS_MAX {
        return Err(bad(format!("it has {} entries, at most {LAYERS_MAX} are taken", index.manifests().len())));
    }
    for entry in index.manifests() {
        digest(entry)?;
    }
    Ok(index)
}

/// Parses an image configuration: layers by SHA-256 diff id.
pub fn configuration(bytes: &[u8], name: &str) -> Result<ImageConfiguration, Error> {
    let bad = |reason: String| Error::Document { what: "configuration", name: name.to_owned(), reason };
    let configuration: ImageConfiguration = parse(bytes, "configuration", name)?;
    let rootfs = configuration.rootfs();
    if rootfs.typ() != "layers" {
        return Err(bad(format!("rootfs.type is `{}`, want `layers`", rootfs.typ())));
    }
    for id in rootfs.diff_ids() {
        id.parse::<Digest>().map_err(|error| bad(format!("rootfs.diff_ids: {error}")))?;
    }
    Ok(configuration)
}

/// Parses any JSON document no longer than [`DOCUMENT_MAX`].
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &'static str, name: &str) -> Result<T, Error> {
    if bytes.len() as u64 > DOCUMENT_MAX {
        let reason = format!("it has {} bytes, at most {DOCUMENT_MAX} are read", bytes.len());
        return Err(Error::Document { what, name: name.to_owned(), reason });
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let mut reason = error.to_string();
        if reason.len() > 300 {
            reason = reason.chars().take(300).collect();
        }
        Error::Document { what, name: name.to_owned(), reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest_text(version: u32, config: &str, layer: &str, digest: &str) -> String {
        format!(
            r#"{{"schemaVersion":{version},"config":{{"mediaType":"{config}","digest":"sha256:{HEX}","size":2}},
            "layers":[{{"mediaType":"{layer}","digest":"{digest}","size":3}}]}}"#
        )
    }

    #[test]
    fn manifest_of_each_known_layer_type_is_taken() {
        for kind in LAYERS {
            let text = manifest_text(2, CONFIGS[1], kind, &format!("sha256:{HEX}"));
            assert_eq!(manifest(text.as_bytes(), "m").unwrap().layers()[0].size(), 3);
        }
    }

    #[test]
    fn manifest_that_is_not_an_image_is_refused_with_its_name() {
        let good = format!("sha256:{HEX}");
        for (text, want) in [
            (manifest_text(1, CONFIGS[0], LAYERS[0], &good), "schemaVersion is 1"),
            (manifest_text(2, "application/vnd.oci.empty.v1+json", LAYERS[0], &good), "no image"),
            (manifest_text(2, CONFIGS[0], "application/wasm", &good), "application/wasm"),
            (manifest_text(2, CONFIGS[0], LAYERS[0], "sha256:../../x"), ""),
            (manifest_text(2, CONFIGS[0], LAYERS[0], "md5:d41d8cd98f00b204e9800998ecf8427e"), ""),
            ("{}".to_owned(), "manifest the-name"),
            ("[".repeat(100_000), "manifest the-name"),
            (" ".repeat(DOCUMENT_MAX as usize + 1), "at most"),
        ] {
            let error = manifest(text.as_bytes(), "the-name").unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn configuration_with_a_malformed_diff_id_is_refused() {
        let text = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:12"]}}"#;
        assert!(configuration(text.as_bytes(), "c").unwrap_err().to_string().contains("diff_ids"));
    }

    #[test]
    fn index_accepts_docker_manifest_lists() {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, INDEXES[1]);
        assert!(index(text.as_bytes(), "i").is_ok());
        assert!(index(text.replace("\":2", "\":3").as_bytes(), "i").is_err());
    }
}
