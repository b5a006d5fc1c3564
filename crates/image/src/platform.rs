//! What an image runs on, and which of an index's images fits a machine best (OCI image-spec `image-index.md`, "platform").
//!
//! A *variant* is a level of an architecture. A processor of one level runs programs made for lower ones, so of the
//! entries that fit, the one with the highest level wins.

use oci_spec::image::{Arch, Descriptor};
use serde::Serialize;

use crate::Error;

/// What an image runs on: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// Go's name of the system.
    pub os: String,
    /// Go's name of the architecture.
    pub architecture: String,
    /// Its variant.
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Platform {
        Platform { os: "linux".to_owned(), architecture: host_architecture().to_string(), variant: None }
    }

    /// Reads `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Result<Platform, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [os, architecture] if !os.is_empty() && !architecture.is_empty() => {
                Ok(Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: None })
            }
            [os, architecture, variant] if ![os, architecture, variant].contains(&"") => Ok(Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: Some(variant.to_owned()),
            }),
            _ => Err(Error::Unsupported(format!("`{text}` is no platform (want os/architecture[/variant])"))),
        }
    }

    /// How far below this platform an image for the given one is: 0 if it is made for it, `None` if it does not run.
    pub fn distance(&self, os: &str, architecture: &str, variant: Option<&str>) -> Option<u32> {
        if self.os != os || self.architecture != architecture {
            return None;
        }
        match (level(architecture, self.variant.as_deref()), level(architecture, variant)) {
            (Some(want), Some(have)) => want.checked_sub(have),
            _ => match (&self.variant, variant) {
                (Some(want), Some(have)) => (want == have).then_some(0),
                _ => Some(0),
            },
        }
    }

    /// The entries of an index in the order of how well they fit, those for other platforms last. One without platform
    /// comes between: its configuration shows what it is.
    pub fn ranked<'a>(&self, entries: &'a [Descriptor]) -> Vec<&'a Descriptor> {
        let mut ranked: Vec<&Descriptor> = entries.iter().collect();
        ranked.sort_by_key(|entry| match entry.platform() {
            Some(platform) => {
                let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
                self.distance(&os, &architecture, platform.variant().as_deref()).unwrap_or(u32::MAX)
            }
            None => u32::MAX - 1,
        });
        ranked
    }
}

/// The level of a variant; that of none is the one that is meant where nothing is said.
fn level(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let default = match architecture {
        "amd64" => 1,
        "arm" => 7,
        "arm64" => 8,
        _ => return None,
    };
    let Some(variant) = variant.filter(|variant| !variant.is_empty()) else { return Some(default) };
    variant.strip_prefix('v').unwrap_or(variant).parse().ok()
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// Go's name of this machine's architecture, as images use it.
pub(crate) fn host_architecture() -> Arch {
    Arch::from(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_lower_levels_run_and_the_nearest_wins() {
        let of = |text: &str| Platform::parse(text).unwrap();
        for (want, os, architecture, variant, distance) in [
            ("linux/amd64", "linux", "amd64", None, Some(0)),
            ("linux/amd64", "linux", "amd64", Some("v1"), Some(0)),
            ("linux/amd64", "linux", "amd64", Some("v3"), None),
            ("linux/amd64/v3", "linux", "amd64", None, Some(2)),
            ("linux/amd64", "windows", "amd64", None, None),
            ("linux/amd64", "linux", "386", None, None),
            ("linux/arm", "linux", "arm", Some("v6"), Some(1)),
            ("linux/arm/v6", "linux", "arm", Some("v7"), None),
            ("linux/arm64", "linux", "arm64", Some("v8"), Some(0)),
            ("linux/arm64/v9", "linux", "arm64", Some("v8"), Some(1)),
            ("linux/mips/a", "linux", "mips", Some("b"), None),
            ("linux/riscv64", "linux", "riscv64", None, Some(0)),
        ] {
            assert_eq!(of(want).distance(os, architecture, variant), distance, "{want} on {architecture} {variant:?}");
        }
    }
}
