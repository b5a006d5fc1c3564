//! The JSON documents of an image: manifest, index and configuration, from whoever made it.

use strata_image::{RunConfig, document};

pub fn fuzz_one(data: &[u8]) {
    if let Ok(manifest) = document::manifest(data, "fuzz") {
        for descriptor in manifest.layers().iter().chain([manifest.config()]) {
            document::digest(descriptor).expect("an accepted manifest has only digests that can be read");
        }
    }
    if let Ok(index) = document::index(data, "fuzz") {
        for descriptor in index.manifests() {
            document::digest(descriptor).expect("an accepted index has only digests that can be read");
            let _ = (document::is_index(descriptor), document::is_manifest(descriptor));
        }
    }
    if let Ok(configuration) = document::configuration(data, "fuzz") {
        let run = RunConfig::from_image(&configuration);
        assert!(run.working_dir.is_empty() || run.working_dir.starts_with('/'), "{:?}", run.working_dir);
        let _ = run.command(None, &[]);
    }
}
