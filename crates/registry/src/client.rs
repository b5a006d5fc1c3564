//! Requests to registries: how they are reached, authorised, redirected, and tried again.
//!
//! *Reached*: by TLS. Plain HTTP is taken only from loopback addresses and from registries that are configured insecure, and
//! only after TLS was tried. *Authorised* (distribution's `spec/auth/token.md`): a registry answers 401 with a
//! [`challenge`](crate::challenge); Basic wants the password with each request, Bearer a token that another server gives
//! for a *scope* (`repository:NAME:pull,push`) and a short time. *Redirected*: blobs mostly lie elsewhere; what proves who
//! we are goes to the registry's own origin and nowhere else. *Tried again*: what may pass by itself, after a time that
//! doubles and is never quite the same for two clients, or that the registry asks for, within bounds.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use strata_image::Progress;
use ureq::http::{Method, Response, StatusCode, Uri, header};
use ureq::{Agent, Body, SendBody};

use crate::agent::{Patience, Trust, agent};
use crate::challenge::{self, Challenge};
use crate::config::{Config, Endpoint};
use crate::credentials::{self, Credentials};
use crate::name::DEFAULT_REGISTRY;
use crate::{Error, printable};

/// Where Docker's registry is served.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Longest answer of a token server, and longest error that is read.
const ANSWER_MAX: u64 = 1 << 20;
/// How long a token is taken to be good if its server does not say (token.md: 60 s).
const TOKEN_SECONDS: u64 = 60;

/// How to speak to registries.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which registries and mirrors.
    pub config: Config,
    /// Credentials to use instead of those that are kept.
    pub credentials: Option<Credentials>,
    /// The file of credentials instead of the usual ones.
    pub auth_file: Option<PathBuf>,
    /// `Some(false)`: plain HTTP and unknown certificates are taken from every registry. `Some(true)`: from none.
    pub tls_verify: Option<bool>,
    /// A directory of certificates instead of those of `certs.d`.
    pub certificates: Option<PathBuf>,
    /// How long is waited.
    pub patience: Patience,
}

/// What is known of the registries spoken to; may be shared by threads.
pub struct Client<'a> {
    options: &'a Options,
    pub(crate) progress: &'a dyn Progress,
    hosts: Mutex<HashMap<(String, bool), Arc<Host>>>,
}

/// One registry.
pub(crate) struct Host {
    /// As people write it.
    registry: String,
    /// Plain HTTP and unknown certificates are taken.
    insecure: bool,
    agent: Agent,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `https://host:port`, once known.
    base: Option<String>,
    /// What it wants, once it has said so, by repository.
    challenges: HashMap<String, Challenge>,
    /// By scopes.
    tokens: HashMap<String, Token>,
    /// By repository.
    credentials: HashMap<String, Option<Credentials>>,
    /// Whether it ever answered: one that never did is not waited for.
    answered: bool,
}

#[derive(Clone)]
struct Token {
    value: String,
    until: Instant,
}

/// One request.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// `/v2/…`, or a whole address that the registry gave.
    pub(crate) target: String,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) payload: Payload<'a>,
    /// The repository it is about.
    pub(crate) repository: String,
    /// `pull`, or `pull,push`.
    pub(crate) actions: &'static str,
    /// A further repository that is read.
    pub(crate) other: Option<String>,
    /// Bytes that the answer will have, to bound its time.
    pub(crate) expected: u64,
}

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// A piece of a file, and who is told of it.
    Piece(&'a Piece<'a>),
}

pub(crate) struct Piece<'a> {
    pub(crate) file: &'a File,
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) sent: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, endpoint: &Endpoint, actions: &'static str, path: &str) -> Ask<'a> {
        let repository = endpoint.remote.repository.clone();
        Ask { repository, actions, ..Ask::bare(method, &format!("/v2/{}/{path}", endpoint.remote.repository)) }
    }

    /// A request that is about no repository.
    fn bare(method: Method, target: &str) -> Ask<'a> {
        Ask {
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            payload: Payload::None,
            repository: String::new(),
            actions: "",
            other: None,
            expected: ANSWER_MAX,
        }
    }

    pub(crate) fn get(endpoint: &Endpoint, path: &str) -> Ask<'a> {
        Ask::new(Method::GET, endpoint, "pull", path)
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Ask<'a> {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'a>) -> Ask<'a> {
        self.payload = payload;
        self
    }

    fn scopes(&self) -> Vec<String> {
        let mut scopes = Vec::new();
        if !self.repository.is_empty() {
            scopes.push(format!("repository:{}:{}", self.repository, self.actions));
        }
        scopes.extend(self.other.iter().map(|other| format!("repository:{other}:pull")));
        scopes
    }
}

impl<'a> Client<'a> {
    /// A client that has spoken to nobody yet.
    pub fn new(options: &'a Options, progress: &'a dyn Progress) -> Client<'a> {
        Client { options, progress, hosts: Mutex::default() }
    }

    /// The registry of an endpoint.
    pub(crate) fn host(&self, endpoint: &Endpoint) -> Result<Arc<Host>, Error> {
        self.host_named(&endpoint.remote.registry, endpoint.insecure)
    }

    fn host_named(&self, registry: &str, configured: bool) -> Result<Arc<Host>, Error> {
        let insecure = self.options.tls_verify.map_or(configured, |verify| !verify);
        let key = (registry.to_owned(), insecure);
        if let Some(host) = locked(&self.hosts).get(&key) {
            return Ok(host.clone());
        }
        let trust = Trust { insecure, directory: self.options.certificates.clone() };
        let agent = agent(registry, &trust, &self.options.patience)?;
        let host = Host { registry: registry.to_owned(), insecure, agent, state: Mutex::default() };
        // Another thread may have been faster; one of both is enough.
        Ok(locked(&self.hosts).entry(key).or_insert(Arc::new(host)).clone())
    }

    /// Tries until it succeeds, fails for good, or has been tried often enough.
    pub(crate) fn retrying<T>(&self, mut once: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            match once() {
                Err(error) => {
                    attempt += 1;
                    self.wait(error, attempt)?;
                }
                done => return done,
            }
        }
    }

    /// Waits before attempt number `attempt` (the first is 0), if there is to be one after this error.
    pub(crate) fn wait(&self, error: Error, attempt: u32) -> Result<(), Error> {
        let patience = &self.options.patience;
        if !error.is_transient() || attempt >= patience.attempts {
            return Err(error);
        }
        let pause = match error.retry_after() {
            Some(asked) if asked > patience.retry_after_max => return Err(error),
            // Somewhat later than asked for, or all that were sent away come back at once.
            Some(asked) => asked + patience.back_off.mul_f64(random()),
            None => patience.back_off.saturating_mul(1 << (attempt - 1).min(6)).mul_f64(0.5 + random()),
        };
        if pause >= Duration::from_secs(1) {
            self.progress.message(&format!("{error}; trying again in {} s", pause.as_secs()));
        }
        std::thread::sleep(pause);
        Ok(())
    }

    /// Asks a registry once. Any answer but a refusal to authorise is returned, also an error; see [`check`].
    pub(crate) fn ask(&self, host: &Host, ask: &Ask<'_>) -> Result<Response<Body>, Error> {
        let base: Uri = self.base(host)?.parse().map_err(|_| host.broken("its name is no address"))?;
        let mut fresh = false;
        // A kept token may have run out, and a registry may want another scope: twice is enough for an honest one.
        for _ in 0..3 {
            let authorization = self.authorization(host, ask)?;
            let response = self.follow(host, &base, ask, authorization.as_deref())?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            let found = challenges(&response);
            let reason = words(response);
            let wanted = found.iter().find(|c| c.scheme == "bearer").or(found.iter().find(|c| c.scheme == "basic"));
            let Some(wanted) = wanted else {
                return Err(host.unauthorized(ask, &format!("{reason}, and does not say what it wants")));
            };
            let mut state = locked(&host.state);
            if fresh && state.challenges.get(&ask.repository) == Some(wanted) {
                drop(state);
                return Err(host.unauthorized(ask, &reason));
            }
            state.challenges.insert(ask.repository.clone(), wanted.clone());
            state.tokens.remove(&scope_key(wanted, ask));
            fresh = true;
        }
        Err(host.unauthorized(ask, "it asks for ever new credentials"))
    }

    /// Sends the request where redirects lead it.
    fn follow(
        &self,
        host: &Host,
        base: &Uri,
        ask: &Ask<'_>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, Error> {
        let mut uri = resolve(base, &ask.target).ok_or_else(|| host.broken("it gives an address that is none"))?;
        self.allow(host, base, &uri)?;
        for _ in 0..=REDIRECTS_MAX {
            let own = origin(&uri) == origin(base);
            let agent = match own {
                true => host.agent.clone(),
                false => self.host_named(&authority(&uri), host.insecure)?.agent.clone(),
            };
            let sent = self.send(&agent, &uri, ask, authorization.filter(|_| own));
            let response = sent.map_err(|error| match error {
                // Who answered before may do so again; who never did is not waited for.
                Error::Connection { host: place, reason, .. } if host.has_answered() => {
                    Error::Connection { host: place, reason, transient: true }
                }
                error => error,
            })?;
            locked(&host.state).answered = true;
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirected || !matches!(ask.method, Method::GET | Method::HEAD) {
                return Ok(response);
            }
            let location = text_of(&response, header::LOCATION).and_then(|location| resolve(&uri, location));
            let Some(next) = location else {
                return Err(host.broken("it redirects without an address"));
            };
            self.allow(host, base, &next)?;
            uri = next;
        }
        Err(host.broken(&format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    /// Whether a registry may lead us to this address: what begins with TLS stays with it.
    fn allow(&self, host: &Host, base: &Uri, to: &Uri) -> Result<(), Error> {
        let plain_is_fine = host.insecure || base.scheme_str() == Some("http") && is_loopback(&authority(to));
        match to.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if plain_is_fine => Ok(()),
            _ => Err(host.broken(&format!("it leads to `{}`, which has no TLS", printable(&authority(to))))),
        }
    }

    fn send(
        &self,
        agent: &Agent,
        uri: &Uri,
        ask: &Ask<'_>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, Error> {
        let place = authority(uri);
        let broken = |reason: String| Error::Protocol { host: place.clone(), reason };
        let mut request = ureq::http::Request::builder().method(ask.method.clone()).uri(uri.clone());
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let patience = &self.options.patience;
        let body_time = patience.answer + Duration::from_secs(ask.expected / patience.slowest.max(1));
        let answer = match ask.payload {
            Payload::None if matches!(ask.method, Method::GET | Method::HEAD) => {
                let request = request.body(()).map_err(|error| broken(error.to_string()))?;
                let request = agent.configure_request(request).timeout_recv_body(Some(body_time));
                agent.run(request.timeout_per_read(Some(patience.idle)).build())
            }
            Payload::None => agent.run(request.body(&[][..]).map_err(|error| broken(error.to_string()))?),
            Payload::Bytes(bytes) => agent.run(request.body(bytes).map_err(|error| broken(error.to_string()))?),
            Payload::Piece(piece) => {
                let mut reader = PieceReader { piece, done: 0 };
                let request = request.header(header::CONTENT_LENGTH, piece.length);
                let request = request.body(SendBody::from_reader(&mut reader)).map_err(|e| broken(e.to_string()))?;
                agent.run(request)
            }
        };
        answer.map_err(|error| connection_error(&place, error))
    }

    /// Gets a layer from an address that its image gives: by TLS, and without proving who we are.
    pub(crate) fn get_foreign(&self, url: &str, from: u64, expected: u64) -> Result<Response<Body>, Error> {
        let uri = url.parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
        let Some(uri) = uri else {
            return Err(Error::Protocol { host: printable(url), reason: "this is no address of a layer".to_owned() });
        };
        let host = self.host_named(&authority(&uri), false)?;
        let mut ask = Ask::bare(Method::GET, url);
        ask.expected = expected;
        if from > 0 {
            ask = ask.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = self.follow(&host, &uri, &ask, None)?;
        if response.status().as_u16() == 416 {
            return Ok(response);
        }
        check(&host, &ask, response)
    }

    /// The value of `Authorization` that the registry wants, as far as that is known.
    fn authorization(&self, host: &Host, ask: &Ask<'_>) -> Result<Option<String>, Error> {
        let Some(wanted) = locked(&host.state).challenges.get(&ask.repository).cloned() else { return Ok(None) };
        let credentials = self.credentials(host, &ask.repository)?;
        if wanted.scheme == "basic" {
            let Some(credentials) = credentials else {
                return Err(host.unauthorized(ask, "it wants a user name and a password"));
            };
            let reason = "it wants a password, and an identity token is kept";
            return credentials.basic().map(Some).ok_or_else(|| host.unauthorized(ask, reason));
        }
        let key = scope_key(&wanted, ask);
        if let Some(token) = locked(&host.state).tokens.get(&key).filter(|token| token.until > Instant::now()) {
            return Ok(Some(format!("Bearer {}", token.value)));
        }
        let token = self.retrying(|| self.token(host, &wanted, ask, credentials.as_ref()))?;
        let value = format!("Bearer {}", token.value);
        locked(&host.state).tokens.insert(key, token);
        Ok(Some(value))
    }

    /// Gets a token from the server that the challenge names.
    fn token(
        &self,
        host: &Host,
        wanted: &Challenge,
        ask: &Ask<'_>,
        credentials: Option<&Credentials>,
    ) -> Result<Token, Error> {
        let base: Uri = self.base(host)?.parse().map_err(|_| host.broken("its name is no address"))?;
        let realm = wanted.get("realm").and_then(|realm| realm.parse::<Uri>().ok());
        let Some(realm) = realm.filter(|realm| realm.authority().is_some()) else {
            return Err(host.broken("its challenge names no token server"));
        };
        self.allow(host, &base, &realm)?;
        let agent = match origin(&realm) == origin(&base) {
            true => host.agent.clone(),
            false => self.host_named(&authority(&realm), host.insecure)?.agent.clone(),
        };
        let scopes = all_scopes(wanted, ask);
        let mut query = String::new();
        let mut add = |name: &str, value: &str| {
            query.push_str(if query.is_empty() { "" } else { "&" });
            query.push_str(&format!("{name}={}", encode(value)));
        };
        if let Some(service) = wanted.get("service") {
            add("service", service);
        }
        let form;
        let mut request = Ask::bare(Method::GET, "").header(header::ACCEPT, "application/json");
        let mut basic = None;
        let uri = if let Some(Credentials::IdentityToken(token)) = credentials {
            add("grant_type", "refresh_token");
            add("client_id", "strata");
            add("scope", &scopes.join(" "));
            add("refresh_token", token);
            form = query;
            request.method = Method::POST;
            request.headers.push((header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()));
            request.payload = Payload::Bytes(form.as_bytes());
            realm
        } else {
            scopes.iter().for_each(|scope| add("scope", scope));
            if let Some(Credentials::Password { user, .. }) = credentials {
                add("account", user);
            }
            basic = credentials.and_then(Credentials::basic);
            let joint = if realm.query().is_some() { "&" } else { "?" };
            let text = format!("{realm}{joint}{query}");
            text.parse().map_err(|_| host.broken("its token server's address is malformed"))?
        };
        let response = self.send(&agent, &uri, &request, basic.as_deref())?;
        match response.status().as_u16() {
            200..=299 => {}
            400 | 401 | 403 => {
                let who =
                    if credentials.is_some() { "the credentials are refused" } else { "there are no credentials" };
                return Err(host.unauthorized(ask, &format!("{who} ({})", words(response))));
            }
            _ => return Err(status_error(&authority(&uri), &format!("GET {}", uri.path()), response)),
        }
        let bytes = read_bounded(&authority(&uri), response, ANSWER_MAX, "its token", &self.options.patience)?;
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|error| host.broken(&format!("its token server: {error}")))?;
        let value = answer.token.or(answer.access_token).unwrap_or_default();
        if value.is_empty() || !value.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(host.broken("its token server gives no token"));
        }
        // Not to the last second: the request takes its time.
        let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS).clamp(10, 24 * 3600);
        Ok(Token { value, until: Instant::now() + Duration::from_secs(seconds * 9 / 10) })
    }

    fn credentials(&self, host: &Host, repository: &str) -> Result<Option<Credentials>, Error> {
        if let Some(given) = &self.options.credentials {
            return Ok(Some(given.clone()));
        }
        if let Some(known) = locked(&host.state).credentials.get(repository) {
            return Ok(known.clone());
        }
        let found = credentials::find(self.options.auth_file.as_deref(), &host.registry, repository)?;
        locked(&host.state).credentials.insert(repository.to_owned(), found.clone());
        Ok(found)
    }

    /// Where the registry is: by TLS, or plain if it may be and has none.
    fn base(&self, host: &Host) -> Result<String, Error> {
        if let Some(base) = &locked(&host.state).base {
            return Ok(base.clone());
        }
        let name = if host.registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { &host.registry };
        let secure = format!("https://{name}");
        let plain_is_fine = host.insecure || is_loopback(name) && self.options.tls_verify != Some(true);
        let base = match plain_is_fine {
            false => secure,
            true => self.retrying(|| self.probe(host, &secure, name))?,
        };
        locked(&host.state).base = Some(base.clone());
        Ok(base)
    }

    fn probe(&self, host: &Host, secure: &str, name: &str) -> Result<String, Error> {
        let ask = Ask::bare(Method::GET, "");
        let at = |base: &str| -> Result<(), Error> {
            let uri: Uri = format!("{base}/v2/").parse().map_err(|_| host.broken("its name is no address"))?;
            match self.send(&host.agent, &uri, &ask, None)?.status().as_u16() {
                // What many servers with TLS say to a request without.
                400 => Err(host.broken("it does not take the request")),
                _ => Ok(()),
            }
        };
        match at(secure) {
            Ok(()) => Ok(secure.to_owned()),
            // It speaks TLS and is not who it says: that plain HTTP may work does not make it better.
            Err(error @ Error::Tls { .. }) => Err(error),
            Err(error) => {
                let plain = format!("http://{name}");
                // The first error is of more use: most registries have TLS.
                at(&plain).map(|()| plain).map_err(|_| error)
            }
        }
    }

    /// Checks that a registry is one and takes the credentials of the options.
    pub fn check_login(&self, registry: &str) -> Result<(), Error> {
        let host = self.host_named(registry, self.options.config.is_insecure(registry))?;
        let ask = Ask::bare(Method::GET, "/v2/");
        let response = self.retrying(|| check(&host, &ask, self.ask(&host, &ask)?));
        match response {
            Err(Error::NotFound { .. }) => Err(host.broken("there is no registry at /v2/")),
            Err(Error::Unauthorized { host, reason, .. }) => {
                Err(Error::Unauthorized { host, what: "this user".to_owned(), reason })
            }
            response => response.map(|_| ()),
        }
    }
}

impl Host {
    /// The registry's name.
    pub(crate) fn name(&self) -> &str {
        &self.registry
    }

    pub(crate) fn broken(&self, reason: &str) -> Error {
        Error::Protocol { host: self.registry.clone(), reason: reason.to_owned() }
    }

    fn unauthorized(&self, ask: &Ask<'_>, reason: &str) -> Error {
        let what = if ask.repository.is_empty() { "/v2/" } else { &ask.repository };
        Error::Unauthorized { host: self.registry.clone(), what: what.to_owned(), reason: reason.to_owned() }
    }

    fn has_answered(&self) -> bool {
        locked(&self.state).answered
    }
}

/// Turns an answer that is an error into one.
pub(crate) fn check(host: &Host, ask: &Ask<'_>, response: Response<Body>) -> Result<Response<Body>, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let place = host.registry.clone();
    let what = ask.target.strip_prefix("/v2/").unwrap_or(&ask.target);
    match status.as_u16() {
        404 => {
            let words = words(response);
            Err(Error::NotFound { host: place, what: format!("{what} ({words})") })
        }
        401 | 403 => Err(host.unauthorized(ask, &words(response))),
        _ => Err(status_error(&place, &format!("{} {}", ask.method, path_of(&ask.target)), response)),
    }
}

/// An address without what may be secret in it.
fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

fn status_error(host: &str, action: &str, response: Response<Body>) -> Error {
    let status = response.status().as_u16();
    let retry_after = text_of(&response, header::RETRY_AFTER).and_then(retry_after);
    let mut reason = words(response);
    if let Some(wait) = retry_after {
        reason.push_str(&format!(", asks to wait {} s", wait.as_secs()));
    }
    Error::Status { host: host.to_owned(), action: printable(action), status, reason, retry_after }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = time::PrimitiveDateTime::parse(text, &format).ok()?.assume_utc();
    Some(SystemTime::from(date).duration_since(SystemTime::now()).unwrap_or_default())
}

/// What an answer that is an error says (distribution-spec, "Error Codes"), in a line.
fn words(response: Response<Body>) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    // An error that cannot be read says as much as its status.
    let body = read_bounded("", response, 64 << 10, "an error", &Patience::default()).unwrap_or_default();
    let said = serde_json::from_slice::<Errors>(&body).ok().and_then(|all| all.errors.into_iter().next());
    match said {
        Some(One { code, message }) if !message.is_empty() => printable(&format!("{message} ({status}, {code})")),
        _ => status.to_string(),
    }
}

/// Whether bytes come fast enough: a sender that gives one now and then keeps every other clock from running out.
pub(crate) struct Pace<'a> {
    host: &'a str,
    patience: &'a Patience,
    since: Instant,
    bytes: u64,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(host: &'a str, patience: &'a Patience) -> Pace<'a> {
        Pace { host, patience, since: Instant::now(), bytes: 0 }
    }

    /// Counts what came; an error if it was too little for too long.
    pub(crate) fn count(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed < self.patience.idle {
            return Ok(());
        }
        if (self.bytes as f64) < self.patience.slowest as f64 * elapsed.as_secs_f64() {
            let reason = "it sends too slowly".to_owned();
            return Err(Error::Connection { host: self.host.to_owned(), reason, transient: true });
        }
        (self.since, self.bytes) = (Instant::now(), 0);
        Ok(())
    }
}

/// Reads an answer of at most `limit` bytes.
pub(crate) fn read_bounded(
    host: &str,
    response: Response<Body>,
    limit: u64,
    what: &str,
    patience: &Patience,
) -> Result<Vec<u8>, Error> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    let mut reader = response.into_body().into_reader();
    let mut pace = Pace::new(host, patience);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => {
                bytes.extend_from_slice(&buffer[..count]);
                pace.count(count as u64)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(body_error(host, error)),
        }
        if bytes.len() as u64 > limit {
            let reason = format!("{what} has more than {limit} bytes");
            return Err(Error::Protocol { host: host.to_owned(), reason });
        }
    }
}

/// A header's value, if it is text.
pub(crate) fn text_of<T>(response: &Response<T>, name: impl header::AsHeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn challenges(response: &Response<Body>) -> Vec<Challenge> {
    let values = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect()
}

fn all_scopes(wanted: &Challenge, ask: &Ask<'_>) -> Vec<String> {
    let mut scopes = ask.scopes();
    // A gateway may know the repository by another name.
    if let Some(scope) = wanted.get("scope")
        && !scope.is_empty()
        && !scopes.iter().any(|own| own == scope)
    {
        scopes.push(scope.to_owned());
    }
    scopes
}

fn scope_key(wanted: &Challenge, ask: &Ask<'_>) -> String {
    all_scopes(wanted, ask).join(" ")
}

/// Reads a piece of a file and tells how far it is.
struct PieceReader<'a> {
    piece: &'a Piece<'a>,
    done: u64,
}

impl Read for PieceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let left = (self.piece.length - self.done).min(buffer.len() as u64) as usize;
        let count = self.piece.file.read_at(&mut buffer[..left], self.piece.start + self.done)?;
        self.done += count as u64;
        (self.piece.sent)(self.done);
        Ok(count)
    }
}

/// Sorts what went wrong below HTTP.
fn connection_error(host: &str, error: ureq::Error) -> Error {
    let host = host.to_owned();
    let connection = |reason: String, transient| Error::Connection { host: host.clone(), reason, transient };
    match error {
        ureq::Error::Rustls(error) => tls_error(&host, &error),
        ureq::Error::Io(error) => body_error(&host, error),
        ureq::Error::Timeout(what) => {
            let reason = match what {
                ureq::Timeout::Connect => "no connection in time",
                ureq::Timeout::Resolve => "its name is not resolved in time",
                _ => "no answer in time",
            };
            connection(reason.to_owned(), false)
        }
        ureq::Error::HostNotFound => connection("there is no host of this name".to_owned(), false),
        ureq::Error::ConnectionFailed => connection("the connection fails".to_owned(), true),
        ureq::Error::LargeResponseHeader(..) => {
            Error::Protocol { host, reason: "its answer's head is too long".into() }
        }
        error => Error::Protocol { host, reason: printable(&error.to_string()) },
    }
}

/// Sorts what went wrong while an answer was read.
pub(crate) fn body_error(host: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    if let Some(inner) = error.get_ref() {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return tls_error(host, tls);
        }
        if let Some(ureq::Error::Protocol(inner)) = inner.downcast_ref::<ureq::Error>() {
            return Error::Protocol { host: host.to_owned(), reason: printable(&inner.to_string()) };
        }
    }
    let transient = matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
    let reason = match error.kind() {
        TimedOut => "no answer in time".to_owned(),
        _ => printable(&error.to_string()),
    };
    Error::Connection { host: host.to_owned(), reason, transient }
}

fn tls_error(host: &str, error: &rustls::Error) -> Error {
    let hint = match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            format!("give its certificate authority in certs.d/{host}/ca.crt, or --tls-verify=false")
        }
        rustls::Error::AlertReceived(_) => {
            format!("if it wants a certificate of yours, give NAME.cert and NAME.key in certs.d/{host}")
        }
        // What is no TLS at all, or breaks.
        _ => return Error::Connection { host: host.to_owned(), reason: format!("TLS: {error}"), transient: false },
    };
    Error::Tls { host: host.to_owned(), reason: format!("{error}; {hint}") }
}

/// Host and port of an address, as it is written.
pub(crate) fn authority(uri: &Uri) -> String {
    let Some(authority) = uri.authority() else { return String::new() };
    // Without a user name, which nobody should put there.
    authority.as_str().rsplit('@').next().unwrap_or_default().to_owned()
}

/// Scheme, host and port: what proves who we are is sent to the same only.
fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    (scheme, uri.host().unwrap_or_default().to_ascii_lowercase(), port)
}

/// Whether a host, with or without port, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An address that stands in an answer, which may be relative to the one asked (RFC 3986, section 5.2).
pub(crate) fn resolve(base: &Uri, text: &str) -> Option<Uri> {
    let text = text.split('#').next()?.trim();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let whole = if text.starts_with("http://") || text.starts_with("https://") {
        text.to_owned()
    } else if text.starts_with("//") {
        format!("{scheme}:{text}")
    } else if text.starts_with('/') {
        format!("{scheme}://{authority}{text}")
    } else if text.starts_with('?') {
        format!("{scheme}://{authority}{}{text}", base.path())
    } else {
        let dir = base.path().rfind('/').map_or("/", |slash| &base.path()[..=slash]);
        format!("{scheme}://{authority}{dir}{text}")
    };
    whole.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

/// Percent-encodes a value of a query or form.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Between 0 and 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all clients wait the same time, which is no harm worth an error.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_answers_are_resolved_against_the_one_asked() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/uploads/1?x=y".parse().unwrap();
        for (text, want) in [
            ("/v2/b?state=1", "https://r.example:5000/v2/b?state=1"),
            ("2?z=1", "https://r.example:5000/v2/a/blobs/uploads/2?z=1"),
            ("?z=1", "https://r.example:5000/v2/a/blobs/uploads/1?z=1"),
            ("//cdn.example/x#y", "https://cdn.example/x"),
            ("http://other.example/x", "http://other.example/x"),
        ] {
            assert_eq!(resolve(&base, text).unwrap().to_string(), want);
        }
        for text in ["https://", "http://:80/", "/a b", "https://a b/"] {
            assert_eq!(resolve(&base, text), None, "{text}");
        }
        let same = |a: &str, b: &str| origin(&a.parse().unwrap()) == origin(&b.parse().unwrap());
        assert!(same("https://a.example/x", "https://A.example:443/y"));
        assert!(
            !same("https://a.example/", "http://a.example/") && !same("https://a.example/", "https://a.example:1/")
        );
    }

    #[test]
    fn loopback_is_told_from_names_that_look_like_it() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "127.8.8.8", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "127.0.0.1.example", "10.0.0.1", "[::2]", "", "128.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn the_time_to_wait_is_read_in_both_forms() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let far = retry_after("Wed, 01 Jan 2200 00:00:00 GMT").unwrap();
        assert!(far > Duration::from_secs(86400));
        assert_eq!(retry_after("soon"), None);
    }
}
