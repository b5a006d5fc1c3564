//! What people write on the command line, and what names come out of images: references, digests, sizes, options.

use strata_image::{Digest, Platform, Reference, Source, Target};
use strata_spec::quantity::{format_bytes, parse_bytes};
use strata_supervise::workload;

pub fn fuzz_one(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        let again = reference.to_string().parse::<Reference>();
        assert_eq!(again.as_ref().ok(), Some(&reference), "a reference survives being written: {again:?}");
        if let Some(key) = reference.key() {
            assert!(!key.contains("..") || !key.starts_with('/'), "a key is no path out of the store: {key:?}");
        }
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>().ok(), Some(digest));
        assert_eq!(Digest::from_hex(&digest.hex()).ok(), Some(digest));
    }
    if let Ok(bytes) = parse_bytes(text) {
        let _ = format_bytes(bytes);
    }
    if let Some(number) = strata_container::signal_from_name(text) {
        assert!((0..=64).contains(&number), "{text:?} is signal {number}");
    }
    if strata_container::validate_id(text).is_ok() {
        let mut components = std::path::Path::new(text).components();
        let one = matches!((components.next(), components.next()), (Some(std::path::Component::Normal(_)), None));
        assert!(one, "a container's id is one name: {text:?}");
    }
    let _ = Platform::parse(text);
    let _ = (Source::parse(text), Target::parse(text));
    let _ = workload::parse_volume(text);
    let _ = workload::parse_tmpfs(text);
    let _ = workload::parse_ulimit(text);
    let _ = workload::parse_throttle(text);
    let _ = workload::parse_cpus(text);
}
