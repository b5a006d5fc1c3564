//! Names of images: `name[:tag][@sha256:…]`.
//!
//! A name is what the user wrote: `debian:bookworm` stays `debian:bookworm` and is not turned into the name of some
//! registry's copy of it. The only rewriting is that a name without tag and digest gets the tag `latest`, and that
//! the long spellings of a Docker Hub name (`docker.io/library/x`, `docker.io/team/x`, `index.docker.io/…`) are
//! *shortened* to `x` and `team/x`, so that an image saved by another tool answers to the name its owner calls it by.

use crate::{Digest, Error};
use std::{fmt, str::FromStr};

/// The longest name, as registries have it (distribution-spec: 255 with the host).
const NAME_MAX: usize = 255;
/// The longest tag (distribution-spec, "Pull").
const TAG_MAX: usize = 128;

/// A parsed and normalised image reference. Ordered by name, then tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The name without tag and digest, like `debian` or `registry.example:5000/team/app`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag; `None` only when a digest was given without one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the manifest (or index) must have, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `name:tag`, the key under which the store keeps it; `None` without tag.
    pub fn key(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name))
    }

    /// `name@digest`, under which the store keeps what was asked for by digest: the tag beside it may mean another image
    /// by now and is left alone.
    pub fn digest_key(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{}@{digest}", self.name))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference, Error> {
        let bad = |reason| Error::Reference { text: text.chars().take(300).collect(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| bad("the digest is malformed"))?)),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to a port.
        let (name, tag) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains('/') => (&rest[..colon], Some(&rest[colon + 1..])),
            _ => (rest, None),
        };
        let name = shortened(name);
        if name.is_empty() {
            return Err(bad("the name is empty"));
        }
        if name.len() > NAME_MAX {
            return Err(bad("the name is longer than 255 characters"));
        }
        let mut components = name.split('/');
        let first = components.clone().next().unwrap_or_default();
        // A host may have capitals and a port.
        if name.contains('/') && is_host(first) {
            let (host, port) = first.split_once(':').unwrap_or((first, "0"));
            let label_ok = |label: &str| {
                let ends = [label.bytes().next(), label.bytes().last()];
                let inside_ok = label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
                inside_ok && ends.iter().all(|end| end.is_some_and(|c| c.is_ascii_alphanumeric()))
            };
            let host_ok = host.split('.').all(label_ok);
            if !host_ok || port.is_empty() || !port.bytes().all(|c| c.is_ascii_digit()) {
                return Err(bad("the host is malformed"));
            }
            components.next();
        }
        if !components.all(component_ok) {
            return Err(bad("a part of the name is not lowercase letters and digits joined by `.`, `_`, `__` or `-`"));
        }
        if let Some(tag) = tag {
            let start_ok = tag.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
            if !start_ok || !tag.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c)) {
                return Err(bad("the tag is not letters, digits, `_`, `.` and `-`"));
            }
            if tag.len() > TAG_MAX {
                return Err(bad("the tag is longer than 128 characters"));
            }
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference { name: name.to_owned(), tag, digest })
    }
}

/// Docker's familiar form of a Docker Hub name.
fn shortened(name: &str) -> &str {
    let Some(path) = ["docker.io/", "index.docker.io/"].iter().find_map(|host| name.strip_prefix(host)) else {
        return name;
    };
    match path.split_once('/') {
        // The library has no directories; and what is left must not shrink again when it is read again.
        Some(("library", rest)) if !rest.contains('/') => rest,
        Some((first, _)) if first != "library" && !is_host(first) => path,
        _ => name,
    }
}

/// Whether the first of several components is a host: it has a dot or a colon, or is `localhost`.
pub fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// Whether a path component is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (distribution-spec, "Pull").
fn component_ok(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(*first) || !alnum(*last) || !bytes.iter().all(|&c| alnum(c) || b"._-".contains(&c)) {
        return false;
    }
    bytes
        .split(|&c| alnum(c))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&c| c == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_read_again_is_the_same() {
        for text in ["docker.io/library/docker.io/library/x", "docker.io/library/x", "index.docker.io/library/a/b:c"] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn reference_normalises_only_tag_and_hub_prefix() {
        for (text, want) in [
            ("debian:bookworm", "debian:bookworm"),
            ("debian", "debian:latest"),
            ("docker.io/library/debian:12", "debian:12"),
            ("docker.io/team/app", "team/app:latest"),
            ("docker.io/x.y/app", "docker.io/x.y/app:latest"),
            ("index.docker.io/library/a/b", "index.docker.io/library/a/b:latest"),
            ("localhost/app:v1", "localhost/app:v1"),
            ("registry.example:5000/a/b__c-d.e:V_1.0-x", "registry.example:5000/a/b__c-d.e:V_1.0-x"),
            ("registry.example:5000/a", "registry.example:5000/a:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), want);
        }
        let digest = Digest::of(b"x");
        let by_digest = format!("debian@{digest}").parse::<Reference>().unwrap();
        assert_eq!((by_digest.tag(), by_digest.digest(), by_digest.key()), (None, Some(&digest), None));
    }

    #[test]
    fn reference_that_breaks_the_grammar_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_name = "n".repeat(256);
        for text in [
            "",
            ":tag",
            "Debian",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a:b c",
            "../etc",
            "a/../b",
            "a@sha256:12",
            "a..b",
            "a___b",
            "a b",
            "-a",
            "a-",
            "x.y:port/a",
            ":5/a",
            &long_tag,
            &long_name,
            "a\0b",
            "a\nb",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
