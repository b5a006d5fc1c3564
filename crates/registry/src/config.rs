//! Which registries: short names, mirrors, and who may be spoken to without TLS.
//!
//! The file is `registries.conf` of the containers tools (containers-registries.conf(5), version 2), of which the parts
//! that matter are read; what an administrator has set up for Podman holds for Strata:
//!
//! ```toml
//! unqualified-search-registries = ["docker.io"]  # asked in turn for short names; [] forbids them
//!
//! [aliases]                                       # short names that have one place
//! "tools" = "registry.example/team/tools"
//!
//! [[registry]]
//! prefix = "docker.io"                            # names this is for, a whole registry or a part; *.example too
//! location = "registry.example/hub"               # where they are instead
//! insecure = false                                # true: plain HTTP and unknown certificates are taken
//! blocked = false                                 # true: never asked
//!
//! [[registry.mirror]]                             # asked before, in turn
//! location = "localhost:5000/hub"
//! insecure = true
//! pull-from-mirror = "all"                        # or digest-only, tag-only
//! ```
//!
//! It is the first of `$CONTAINERS_REGISTRIES_CONF`, `~/.config/containers/registries.conf` and
//! `/etc/containers/registries.conf`. Without one, short names are Docker's and there are no mirrors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;
use crate::name::{self, DEFAULT_REGISTRY, Parsed, Remote};

/// Longest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// The registries and the rules for them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default, rename = "registry")]
    registries: Vec<Registry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Which,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Which {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The registry and path there.
    pub remote: Remote,
    /// Plain HTTP and unknown certificates are taken.
    pub insecure: bool,
}

impl Config {
    /// Reads the file that is in force, or `path`.
    pub fn load(path: Option<&Path>) -> Result<Config, Error> {
        let candidates = match path {
            Some(path) => vec![path.to_owned()],
            None => default_paths(),
        };
        for path in candidates {
            match crate::read_file(&path, FILE_MAX) {
                Ok(Some(bytes)) => {
                    return Config::parse(&String::from_utf8_lossy(&bytes))
                        .map_err(|reason| Error::Config { path, reason });
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Config::default())
    }

    /// Reads the text of a file; the error says where it is wrong.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        for registry in config.unqualified_search_registries.iter().flatten() {
            if registry.contains('/') || !matches!(name::parse(&format!("{registry}/x")), Ok(Parsed::Full(_))) {
                return Err(format!("unqualified-search-registries: `{registry}` is no registry (want host[:port])"));
            }
        }
        for registry in &config.registries {
            let Some(prefix) = registry.prefix() else {
                return Err("a [[registry]] needs `prefix` or `location`".to_owned());
            };
            let wildcard = prefix.starts_with("*.");
            if wildcard && registry.location.is_some() {
                return Err(format!("[[registry]] `{prefix}`: a prefix with `*` has no `location`"));
            }
            for place in registry.location.iter().chain(registry.mirror.iter().map(|mirror| &mirror.location)) {
                if !matches!(name::parse(&format!("{place}/x")), Ok(Parsed::Full(_))) {
                    return Err(format!("[[registry]] `{prefix}`: `{place}` is no location (want host[:port][/path])"));
                }
            }
        }
        Ok(config)
    }

    /// The places a name may mean; several only for short names.
    pub fn candidates(&self, text: &str) -> Result<Vec<Remote>, Error> {
        let (path, tag, digest) = match name::parse(text)? {
            Parsed::Full(remote) => return Ok(vec![remote]),
            Parsed::Short(path, tag, digest) => (path, tag, digest),
        };
        if let Some(alias) = self.aliases.get(&path) {
            return match name::parse(alias)? {
                Parsed::Full(remote) => Ok(vec![Remote { tag, digest, ..remote }]),
                Parsed::Short(..) => {
                    let reason = format!("its alias `{alias}` has no registry");
                    Err(Error::Name { text: text.to_owned(), reason })
                }
            };
        }
        let default = [DEFAULT_REGISTRY.to_owned()];
        let registries = self.unqualified_search_registries.as_deref().unwrap_or(&default);
        if registries.is_empty() {
            let reason =
                "short names are not allowed here (unqualified-search-registries is empty); begin with a registry";
            return Err(Error::Name { text: text.to_owned(), reason: reason.to_owned() });
        }
        Ok(registries.iter().map(|registry| Remote::new(registry, &path, tag.clone(), digest)).collect())
    }

    /// Where an image is asked for, in turn: its mirrors, then its registry.
    pub fn endpoints(&self, remote: &Remote) -> Result<Vec<Endpoint>, Error> {
        let name = format!("{}/{}", remote.registry, remote.repository);
        let found = self.registries.iter().filter_map(|registry| Some((registry.matches(&name)?, registry)));
        let Some((length, registry)) = found.max_by_key(|(length, _)| *length) else {
            return Ok(vec![Endpoint { remote: remote.clone(), insecure: false }]);
        };
        if registry.blocked {
            let reason = format!("registries.conf blocks `{}`", registry.prefix().unwrap_or_default());
            return Err(Error::Name { text: remote.to_string(), reason });
        }
        let moved = |location: &str, insecure| {
            let text = format!("{location}{}", &name[length..]);
            match name::parse(&text)? {
                Parsed::Full(place) => {
                    let (tag, digest) = (remote.tag.clone(), remote.digest);
                    Ok(Endpoint { remote: Remote { tag, digest, ..place }, insecure })
                }
                Parsed::Short(..) => {
                    let reason = format!("registries.conf leads it to `{text}`, which has no registry");
                    Err(Error::Name { text: remote.to_string(), reason })
                }
            }
        };
        let wanted = |mirror: &&Mirror| match (mirror.pull_from_mirror, registry.mirror_by_digest_only) {
            (Which::DigestOnly, _) | (_, true) => remote.digest.is_some(),
            (Which::TagOnly, _) => remote.digest.is_none(),
            (Which::All, false) => true,
        };
        let mut all = Vec::new();
        for mirror in registry.mirror.iter().filter(wanted) {
            all.push(moved(&mirror.location, mirror.insecure)?);
        }
        all.push(match &registry.location {
            Some(location) => moved(location, registry.insecure)?,
            None => Endpoint { remote: remote.clone(), insecure: registry.insecure },
        });
        Ok(all)
    }

    /// Whether a host may be spoken to without TLS, for login.
    pub fn is_insecure(&self, host: &str) -> bool {
        let whole =
            |registry: &&Registry| registry.prefix() == Some(host) || registry.location.as_deref() == Some(host);
        self.registries.iter().filter(whole).any(|registry| registry.insecure)
    }
}

impl Registry {
    fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref().or(self.location.as_deref()).filter(|prefix| !prefix.is_empty())
    }

    /// How many bytes of the name this entry is about.
    fn matches(&self, name: &str) -> Option<usize> {
        let prefix = self.prefix()?;
        if let Some(domain) = prefix.strip_prefix('*') {
            let host = name.split('/').next()?;
            let bare = host.split(':').next()?;
            return (domain.len() > 1 && bare.ends_with(domain)).then_some(host.len());
        }
        let rest = name.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
    }
}

fn default_paths() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    if let Some(path) = std::env::var_os("CONTAINERS_REGISTRIES_CONF") {
        return vec![path.into()];
    }
    paths.extend(crate::user_config().map(|dir| dir.join("containers/registries.conf")));
    paths.push("/etc/containers/registries.conf".into());
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        unqualified-search-registries = ["a.example", "docker.io"]
        some-future-key = 1
        [aliases]
        "tools" = "b.example/team/tools"
        [[registry]]
        prefix = "docker.io"
        location = "c.example/hub"
        [[registry.mirror]]
        location = "localhost:5000"
        insecure = true
        [[registry.mirror]]
        location = "m.example/x"
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "docker.io/library/secret"
        blocked = true
        [[registry]]
        prefix = "*.inside.example"
        insecure = true
    "#;

    fn places(config: &Config, text: &str) -> Vec<String> {
        let remotes = config.candidates(text).unwrap();
        let endpoints = remotes.iter().flat_map(|remote| config.endpoints(remote).unwrap());
        endpoints
            .map(|endpoint| format!("{}{}", endpoint.remote, if endpoint.insecure { " insecure" } else { "" }))
            .collect()
    }

    #[test]
    fn short_names_aliases_mirrors_and_locations_lead_where_the_file_says() {
        let config = Config::parse(TEXT).unwrap();
        let digest = strata_image::Digest::of(b"x");
        assert_eq!(
            places(&config, "debian:12"),
            ["a.example/debian:12", "localhost:5000/library/debian:12 insecure", "c.example/hub/library/debian:12"]
        );
        assert_eq!(places(&config, "tools:v2"), ["b.example/team/tools:v2"]);
        assert_eq!(places(&config, &format!("docker.io/a/b@{digest}"))[1], format!("m.example/x/a/b@{digest}"));
        assert_eq!(places(&config, "r.inside.example:5/a"), ["r.inside.example:5/a:latest insecure"]);
        assert_eq!(places(&config, "inside.example/a"), ["inside.example/a:latest"]);
        let secret = &config.candidates("docker.io/secret").unwrap()[0];
        assert!(config.endpoints(secret).unwrap_err().to_string().contains("blocks"));
        assert_eq!(places(&Config::default(), "debian"), ["docker.io/library/debian:latest"]);
    }

    #[test]
    fn malformed_files_and_forbidden_short_names_say_why() {
        let none = Config::parse("unqualified-search-registries = []").unwrap();
        assert!(none.candidates("debian").unwrap_err().to_string().contains("begin with a registry"));
        for (text, want) in [
            ("[[registry]]\ninsecure = true", "needs `prefix`"),
            ("[[registry]]\nlocation = \"nohost\"", "no location"),
            ("[[registry]]\nprefix = \"*.a\"\nlocation = \"b.example\"", "has no `location`"),
            ("unqualified-search-registries = 1", "expected"),
            ("unqualified-search-registries = [\"a.example/b\"]", "no registry"),
            ("[[", ""),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
