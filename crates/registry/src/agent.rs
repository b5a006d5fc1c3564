//! HTTP and TLS for one host: whose certificates are trusted, which of ours is shown, how long is waited.
//!
//! Certificates of a registry are kept as Docker and Podman keep them (containers-certs.d(5)): below `certs.d/HOST[:PORT]/`,
//! `*.crt` are authorities trusted for it beside the system's, `NAME.cert` with `NAME.key` is what we show.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::Error;

/// Longest certificate file that is read.
const FILE_MAX: u64 = 1 << 20;
/// Longest head of an answer.
const HEAD_MAX: usize = 64 << 10;

/// How long is waited, and how often something is tried again.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer, once the request is sent.
    pub answer: Duration,
    /// For the next bytes.
    pub idle: Duration,
    /// Before the second attempt; doubled for each further one.
    pub back_off: Duration,
    /// Attempts in all. A download that got further counts anew.
    pub attempts: u32,
    /// Longest time that a registry may ask to wait.
    pub retry_after_max: Duration,
    /// Bytes a second that a sender must reach at least, over each time of [`Patience::idle`].
    pub slowest: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            back_off: Duration::from_millis(500),
            attempts: 5,
            retry_after_max: Duration::from_secs(120),
            slowest: 1 << 10,
        }
    }
}

/// How certificates are judged.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Certificates are not verified.
    pub insecure: bool,
    /// A directory used instead of those of `certs.d`.
    pub directory: Option<PathBuf>,
}

/// An agent for requests to `host` (host and port).
pub(crate) fn agent(host: &str, trust: &Trust, patience: &Patience) -> Result<Agent, Error> {
    let (mut roots, client) = certificates(host, trust)?;
    if !trust.insecure {
        roots.extend_from_slice(system_roots());
    }
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .client_cert(client)
        .disable_verification(trust.insecure)
        .build();
    let config = Agent::config_builder();
    // As everybody has it: a proxy of the environment is not for this machine itself.
    let config = if crate::client::is_loopback(host) { config.proxy(None) } else { config };
    Ok(config
        .tls_config(tls)
        .max_idle_connections_per_host(8)
        .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        // Redirects are followed by hand: what is sent along depends on where they lead.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_response_header_size(HEAD_MAX)
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_per_read(Some(patience.idle.max(patience.answer)))
        .timeout_per_write(Some(patience.idle))
        .timeout_recv_response(Some(patience.answer))
        .build()
        .new_agent())
}

/// The authorities that the system trusts: the same for every host, and some 200 KiB to read.
fn system_roots() -> &'static [Certificate<'static>] {
    static ROOTS: OnceLock<Vec<Certificate<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let system = rustls_native_certs::load_native_certs();
        system.certs.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect()
    })
}

/// The authorities and the client certificate that are configured for a host.
fn certificates(host: &str, trust: &Trust) -> Result<(Vec<Certificate<'static>>, Option<ClientCert>), Error> {
    let (mut roots, mut client) = (Vec::new(), None);
    for dir in directories(host, trust) {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => roots.extend(chain(&path)?),
                Some("cert") if client.is_none() => client = Some(client_certificate(&path)?),
                _ => {}
            }
        }
    }
    Ok((roots, client))
}

fn directories(host: &str, trust: &Trust) -> Vec<PathBuf> {
    if let Some(dir) = &trust.directory {
        return vec![dir.clone()];
    }
    let mut bases: Vec<PathBuf> = crate::user_config().map(|dir| dir.join("containers/certs.d")).into_iter().collect();
    bases.extend(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from));
    bases.iter().map(|base| base.join(host)).collect()
}

fn bad(path: &Path, reason: impl ToString) -> Error {
    Error::Config { path: path.to_owned(), reason: reason.to_string() }
}

fn pem(path: &Path) -> Result<Vec<PemItem<'static>>, Error> {
    let bytes = crate::read_file(path, FILE_MAX)?.ok_or_else(|| bad(path, "it is missing"))?;
    parse_pem(&bytes).collect::<Result<_, _>>().map_err(|error| bad(path, error))
}

fn chain(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let items = pem(path)?.into_iter();
    let certificates: Vec<_> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(bad(path, "it holds no certificate (want PEM)"));
    }
    Ok(certificates)
}

fn client_certificate(path: &Path) -> Result<ClientCert, Error> {
    let certificates = chain(path)?;
    let key_path = path.with_extension("key");
    let key = pem(&key_path)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    let key = key.ok_or_else(|| bad(&key_path, "it holds no private key (want PEM)"))?;
    usable(&certificates, &key).map_err(|reason| bad(&key_path, reason))?;
    Ok(ClientCert::new_with_certs(&certificates, key))
}

/// Whether the key is one, and the certificate's: what is below takes that for granted.
fn usable(chain: &[Certificate<'static>], key: &PrivateKey<'static>) -> Result<(), String> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let key = PrivateKeyDer::try_from(key.der()).map_err(str::to_owned)?.clone_key();
    let chain = chain.iter().map(|cert| CertificateDer::from(cert.der().to_vec())).collect();
    let provider = rustls::crypto::ring::default_provider();
    let pair = rustls::sign::CertifiedKey::from_der(chain, key, &provider).map_err(|error| error.to_string())?;
    pair.keys_match().map_err(|error| error.to_string())
}
