//! Where an image is: `registry/repository`, and which manifest of it (distribution-spec 1.1, "Pull"; Docker's
//! normalisation of names).
//!
//! A name begins with a registry if its first part looks like a host. Any other is *short*: `debian`. Which registries
//! a short name may come from is a matter of policy ([`crate::config`]); in Docker's world it is one, where names of
//! one part live below `library/`.

use strata_image::{Digest, Reference, is_host};

use crate::Error;

/// The registry of names that name none.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Host and port, as people write them and as credentials are kept by.
    pub registry: String,
    /// The path below it.
    pub repository: String,
    /// The tag; `None` only beside a digest.
    pub tag: Option<String>,
    /// The digest of the manifest or index, which wins over the tag.
    pub digest: Option<Digest>,
}

/// A name and whether it says which registry it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// It does.
    Full(Remote),
    /// It does not: the path, tag and digest.
    Short(String, Option<String>, Option<Digest>),
}

impl Remote {
    /// A place from its parts. Docker's registry keeps names of one part below `library/`.
    pub fn new(registry: &str, path: &str, tag: Option<String>, digest: Option<Digest>) -> Remote {
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let library = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if library { format!("library/{path}") } else { path.to_owned() };
        Remote { registry: registry.to_owned(), repository, tag, digest }
    }

    /// What the manifest is asked for by: the digest, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        }
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Reads `[registry/]path[:tag][@digest]`, with or without `docker://` before it, as skopeo has it.
pub fn parse(text: &str) -> Result<Parsed, Error> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    // The grammar is the store's; but it shortens names, and here what was written counts.
    let reference: Reference = text.parse()?;
    let (tag, digest) = (reference.tag().map(str::to_owned), reference.digest().copied());
    let name = text.split('@').next().unwrap_or_default();
    let name = match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    };
    Ok(match name.split_once('/') {
        Some((host, path)) if is_host(host) => Parsed::Full(Remote::new(host, path, tag, digest)),
        _ => Parsed::Short(name.to_owned(), tag, digest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        match parse(text).unwrap() {
            Parsed::Full(remote) => remote.to_string(),
            Parsed::Short(path, tag, digest) => Remote::new(DEFAULT_REGISTRY, &path, tag, digest).to_string(),
        }
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = Digest::of(b"x");
        for (text, want) in [
            ("debian", "docker.io/library/debian:latest"),
            ("docker.io/debian:12", "docker.io/library/debian:12"),
            ("index.docker.io/library/debian", "docker.io/library/debian:latest"),
            ("team/app:v1", "docker.io/team/app:v1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c:d", "localhost:5000/a/b/c:d"),
            ("docker://reg.example/app", "reg.example/app:latest"),
        ] {
            assert_eq!(full(text), want);
        }
        assert_eq!(full(&format!("a:b@{digest}")), format!("docker.io/library/a:b@{digest}"));
        assert_eq!(full(&format!("r.example/a@{digest}")), format!("r.example/a@{digest}"));
        for text in ["", "A", "reg.example/", "reg.example:port/a", "a@sha256:1", "docker://"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
