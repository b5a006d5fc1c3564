//! What comes from registries' answers, and from files of other tools: challenges, names, credentials, configuration.

use strata_registry::config::Config;
use strata_registry::credentials::AuthFile;
use strata_registry::{challenge, name};

pub fn fuzz_one(data: &[u8]) {
    if let Ok(file) = AuthFile::parse(data) {
        let _ = file.find("registry.example:5000", "team/app");
        let _ = file.find("docker.io", "library/debian");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let challenges = challenge::parse(text);
    assert!(challenges.len() <= 32, "challenges are bounded");
    for challenge in &challenges {
        assert!(!challenge.scheme.is_empty() && challenge.parameters.len() <= 32);
        // Written as a server would, it is read the same.
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let words: Vec<String> =
            challenge.parameters.iter().map(|(key, value)| format!("{key}=\"{}\"", quoted(value))).collect();
        let line = format!("{} {}", challenge.scheme, words.join(","));
        if line.len() < 16 << 10 {
            assert_eq!(challenge::parse(&line), [challenge.clone()], "{line}");
        }
    }
    if let Ok(name::Parsed::Full(remote)) = name::parse(text) {
        assert!(!remote.repository.starts_with('/') && !remote.repository.contains(".."), "{remote:?}");
        let again = name::parse(&remote.to_string());
        assert_eq!(again.ok(), Some(name::Parsed::Full(remote)), "a name survives being written");
    }
    if let Ok(config) = Config::parse(text) {
        for text in ["debian:12", "docker.io/a/b", "registry.example:5000/team/app", "tools"] {
            for remote in config.candidates(text).unwrap_or_default() {
                for endpoint in config.endpoints(&remote).unwrap_or_default() {
                    assert!(!endpoint.remote.registry.contains('/'), "{endpoint:?}");
                }
            }
        }
    }
}
