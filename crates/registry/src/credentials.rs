//! User names and passwords for registries: the files that Docker and Podman keep, and credential helpers.
//!
//! `~/.docker/config.json` and `containers/auth.json` have one form (containers-auth.json(5)): `auths` with
//! `base64(user:password)` or an identity token by registry, `credHelpers` and `credsStore` with the names of programs
//! `docker-credential-NAME` that keep them elsewhere. A key may be a registry, a part of one (`registry/team`), or an old
//! address (`https://index.docker.io/v1/`). Login writes to Docker's file, by which it works for either tool.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::name::DEFAULT_REGISTRY;

/// Longest file that is read.
const FILE_MAX: u64 = 1 << 20;
/// Most that a helper may say.
const ANSWER_MAX: u64 = 64 << 10;
/// A helper may ask its user for a password; it may not take for ever.
const HELPER_TIME: Duration = Duration::from_secs(120);
/// The key of Docker's own registry in Docker's own file.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// The user name by which helpers say that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// How to prove who one is. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user name and a password.
    Password {
        /// The user.
        user: String,
        /// The password or access token.
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credentials::Password { user, .. } => write!(f, "Password({user}, …)"),
            Credentials::IdentityToken(_) => f.write_str("IdentityToken(…)"),
        }
    }
}

impl Credentials {
    /// Reads `user:password`.
    pub fn parse(text: &str) -> Option<Credentials> {
        let (user, password) = text.split_once(':')?;
        Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
    }

    /// The value of an `Authorization: Basic` header; `None` for a token.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Credentials::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Credentials::IdentityToken(_) => None,
        }
    }
}

/// One file.
#[derive(Debug, Default, Deserialize)]
pub struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// What a file knows of a registry.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The credentials themselves.
    Here(Credentials),
    /// The helper that has them.
    Helper(String),
}

impl AuthFile {
    /// Reads a file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<AuthFile, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// What it knows of a repository; the longest key wins. A file's helpers go before its secrets.
    pub fn find(&self, registry: &str, repository: &str) -> Option<Found> {
        let by_host = self.helpers.iter().find(|(key, _)| normal_key(key) == registry);
        if let Some((_, helper)) = by_host {
            return Some(Found::Helper(helper.clone()));
        }
        let whole = format!("{registry}/{repository}");
        let mut name = whole.trim_end_matches('/');
        loop {
            let entry = self.auths.iter().find(|(key, _)| normal_key(key) == name).map(|(_, entry)| entry);
            if let Some(credentials) = entry.and_then(Entry::credentials) {
                return Some(Found::Here(credentials));
            }
            match name.rfind('/') {
                Some(slash) => name = &name[..slash],
                None => return self.store.clone().map(Found::Helper),
            }
        }
    }
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        if !self.identity_token.is_empty() {
            return Some(Credentials::IdentityToken(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            let (user, password) = (self.username.clone(), self.password.clone());
            return Some(Credentials::Password { user, password });
        }
        let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        // Docker once padded with zeros.
        Credentials::parse(text.trim_end_matches('\0')).filter(|_| !text.is_empty())
    }
}

/// A key without scheme and version, Docker's registry by one name.
fn normal_key(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        key => key,
    }
}

/// The key that Docker writes.
fn key_of(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_KEY } else { registry }
}

/// The files in which credentials are looked for, in turn; `given` alone if it is.
fn files(given: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = given.map(Path::to_owned).or_else(|| std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from))
    {
        return vec![path];
    }
    let mut paths = Vec::new();
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        paths.push(PathBuf::from(dir).join("containers/auth.json"));
    }
    paths.extend(crate::user_config().map(|dir| dir.join("containers/auth.json")));
    paths.extend(docker_file());
    paths
}

fn docker_file() -> Option<PathBuf> {
    match std::env::var_os("DOCKER_CONFIG") {
        Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir).join("config.json")),
        _ => crate::home().map(|home| home.join(".docker/config.json")),
    }
}

fn written_file(given: Option<&Path>) -> Result<PathBuf, Error> {
    let variable = || std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from);
    given.map(Path::to_owned).or_else(variable).or_else(docker_file).ok_or_else(|| Error::Config {
        path: "config.json".into(),
        reason: "there is no home directory to keep it in; set DOCKER_CONFIG or name a file".to_owned(),
    })
}

/// The credentials for a repository, from the files or their helpers.
pub fn find(given: Option<&Path>, registry: &str, repository: &str) -> Result<Option<Credentials>, Error> {
    for path in files(given) {
        let Some(bytes) = crate::read_file(&path, FILE_MAX)? else { continue };
        let file = AuthFile::parse(&bytes).map_err(|reason| Error::Config { path, reason })?;
        let found = match file.find(registry, repository) {
            Some(Found::Here(credentials)) => Some(credentials),
            Some(Found::Helper(helper)) => ask_helper(&helper, registry)?,
            None => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Keeps credentials: with the helper that the file names, else in the file. Returns where.
pub fn keep(given: Option<&Path>, registry: &str, user: &str, password: &str) -> Result<String, Error> {
    let path = written_file(given)?;
    if let Some(helper) = helper_of(&path, registry)? {
        let text = json!({"ServerURL": key_of(registry), "Username": user, "Secret": password}).to_string();
        run_helper(&helper, "store", &text)?;
        return Ok(format!("docker-credential-{helper}"));
    }
    change(&path, |auths| {
        auths.retain(|key, _| normal_key(key) != registry);
        auths.insert(key_of(registry).to_owned(), json!({"auth": STANDARD.encode(format!("{user}:{password}"))}));
        true
    })?;
    Ok(path.display().to_string())
}

/// Forgets the credentials of a registry everywhere. Returns whether there were any.
pub fn forget(given: Option<&Path>, registry: &str) -> Result<bool, Error> {
    let mut gone = false;
    for path in files(given) {
        if let Some(helper) = helper_of(&path, registry)?
            && ask_helper(&helper, registry)?.is_some()
        {
            run_helper(&helper, "erase", key_of(registry))?;
            gone = true;
        }
        if path.exists() {
            change(&path, |auths| {
                let before = auths.len();
                auths.retain(|key, _| normal_key(key) != registry);
                gone |= auths.len() != before;
                auths.len() != before
            })?;
        }
    }
    Ok(gone)
}

fn helper_of(path: &Path, registry: &str) -> Result<Option<String>, Error> {
    let Some(bytes) = crate::read_file(path, FILE_MAX)? else { return Ok(None) };
    let file = AuthFile::parse(&bytes).map_err(|reason| Error::Config { path: path.to_owned(), reason })?;
    let by_host = file.helpers.iter().find(|(key, _)| normal_key(key) == registry).map(|(_, helper)| helper.clone());
    Ok(by_host.or(file.store))
}

/// Changes the `auths` of a file and leaves the rest as it is. The new file is its owner's only and appears as a whole.
fn change(path: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> bool) -> Result<(), Error> {
    // A link is followed: people keep these files elsewhere.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(Error::io("cannot make", dir))?;
    let lock = File::open(dir).map_err(Error::io("cannot open", dir))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| Error::io("cannot lock", dir)(error.into()))?;
    let bad = |reason: String| Error::Config { path: path.clone(), reason };
    let mut root = match crate::read_file(&path, FILE_MAX)? {
        Some(bytes) if !bytes.is_empty() => {
            serde_json::from_slice::<Map<String, Value>>(&bytes).map_err(|error| bad(error.to_string()))?
        }
        _ => Map::new(),
    };
    let auths = root.entry("auths").or_insert_with(|| json!({}));
    let auths = auths.as_object_mut().ok_or_else(|| bad("`auths` is no object".to_owned()))?;
    if !edit(auths) {
        return Ok(());
    }
    let temporary = dir.join(format!(".strata-auth.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(format!("{:#}\n", Value::Object(root)).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io("cannot write", &path)(error)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

fn ask_helper(helper: &str, registry: &str) -> Result<Option<Credentials>, Error> {
    let Some(text) = run_helper(helper, "get", key_of(registry))? else { return Ok(None) };
    let answer: Answer = serde_json::from_str(&text).map_err(|_| Error::Helper {
        helper: helper.to_owned(),
        reason: "its answer is not the JSON expected".into(),
    })?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credentials::IdentityToken(answer.secret),
        _ => Credentials::Password { user: answer.username, password: answer.secret },
    }))
}

/// Runs `docker-credential-HELPER VERB`, `input` on its standard input (docker-credential-helpers' protocol). `None` if it
/// says that it has nothing.
fn run_helper(helper: &str, verb: &str, input: &str) -> Result<Option<String>, Error> {
    let failed = |reason: String| Error::Helper { helper: helper.to_owned(), reason };
    if helper.is_empty() || helper.contains('/') {
        return Err(failed("this is no name of a helper".to_owned()));
    }
    let mut command = Command::new(format!("docker-credential-{helper}"));
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
    // Inputs and answers are shorter than a pipe, so neither end waits for the other.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.map(|out| out.take(ANSWER_MAX).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let end = Instant::now() + HELPER_TIME;
    let status = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("gave no answer in {} s", HELPER_TIME.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let text = reader.join().unwrap_or_default();
    if status.success() {
        return Ok(Some(text));
    }
    if verb == "get" && text.contains("credentials not found") {
        return Ok(None);
    }
    Err(failed(format!("{} ({status})", crate::printable(text.trim()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(user: &str, password: &str) -> Option<Found> {
        Some(Found::Here(Credentials::Password { user: user.into(), password: password.into() }))
    }

    #[test]
    fn the_longest_key_wins_and_old_addresses_are_understood() {
        let text = json!({
            "auths": {
                "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:pass:word")},
                "r.example:5000": {"auth": STANDARD.encode("whole:1")},
                "r.example:5000/team": {"username": "team", "password": "2"},
                "t.example": {"identitytoken": "abc"},
                "empty.example": {},
            },
            "credHelpers": {"h.example": "one"},
            "HttpHeaders": {"x": "y"},
        });
        let file = AuthFile::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(file.find("docker.io", "library/debian"), here("hub", "pass:word"));
        assert_eq!(file.find("r.example:5000", "other/app"), here("whole", "1"));
        assert_eq!(file.find("r.example:5000", "team/app"), here("team", "2"));
        assert_eq!(file.find("r.example", "team/app"), None);
        assert_eq!(file.find("empty.example", "a"), None);
        assert_eq!(file.find("h.example", "a"), Some(Found::Helper("one".into())));
        let token = Credentials::IdentityToken("abc".into());
        assert!(!format!("{token:?} {file:?}").contains("abc"), "secrets are not shown");
        assert_eq!(file.find("t.example", "a"), Some(Found::Here(token)));
    }

    #[test]
    fn login_keeps_what_else_the_file_holds_and_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/config.json");
        keep(Some(&path), "r.example", "me", "secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        value["HttpHeaders"] = json!({"x": "y"});
        fs::write(&path, value.to_string()).unwrap();
        keep(Some(&path), "docker.io", "hub", "s").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("HttpHeaders") && text.contains(DOCKER_KEY));
        let found = find(Some(&path), "r.example", "x").unwrap();
        assert_eq!(found, Credentials::parse("me:secret"));
        assert!(forget(Some(&path), "r.example").unwrap());
        assert!(!forget(Some(&path), "r.example").unwrap());
        assert_eq!(find(Some(&path), "r.example", "x").unwrap(), None);
        assert!(find(Some(&path), "docker.io", "x").unwrap().is_some());
        fs::write(&path, "{").unwrap();
        assert!(find(Some(&path), "r.example", "x").is_err());
    }
}
