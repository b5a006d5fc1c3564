//! From a registry into the store.
//!
//! The manifest first (distribution-spec, "Pulling manifests"): it is small, and its digest, given or computed, decides
//! whether anything is to be done. An *index* leads to the manifest for the wanted platform. Then the layers, several at
//! a time, each into a file of the store that outlives this process and is gone on with (`Range`) where it ends, from
//! whichever mirror has it: only the digest of the whole says whether it is right. Layers are unpacked from the lowest up
//! while those above are still on their way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use strata_image::{Digest, Image, Incoming, Layer, Platform, Progress, Receiving, Reference, Stage, Store, document};
use ureq::http::{Method, Response, header};

use crate::client::{Ask, Client, Options, Pace, body_error, check, read_bounded, text_of};
use crate::config::Endpoint;
use crate::{Error, Remote, printable};

/// Layers fetched at the same time.
const PARALLEL: usize = 4;
/// Indexes within indexes that are followed.
const INDEX_DEPTH: usize = 4;
/// Documents of one index that are looked at: more than any index has for one platform.
const DOCUMENTS_MAX: usize = 16;
/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// What we understand, in the order of preference.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// How to speak to registries.
    pub client: Options,
    /// Which platform's image to take; the host's if `None`.
    pub platform: Option<Platform>,
    /// Unpack the layers too, as they come.
    pub unpack: bool,
}

/// When to pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// If the store has no image of this name.
    #[default]
    Missing,
    /// Ask the registry each time; what has not changed is not fetched again.
    Always,
    /// Not at all.
    Never,
}

/// What was pulled.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The name it has in the store.
    pub name: Reference,
    /// Where it came from.
    pub from: Remote,
    /// The digest by which the registry knows it: the index's if there is one, else the manifest's.
    pub digest: Digest,
    /// Whether the store already had it under this name.
    pub unchanged: bool,
}

/// The image that a name means, pulled if the policy says so.
pub fn ensure(
    store: &Store,
    text: &str,
    policy: PullPolicy,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    if policy != PullPolicy::Always
        && let Some(image) = store.resolve(name)?
    {
        return Ok(image);
    }
    match policy {
        PullPolicy::Never => Err(Error::NotPulled(text.to_owned())),
        _ => pull(store, text, options, progress).map(|pulled| pulled.image),
    }
}

/// Pulls an image. It gets the name that was asked for, by digest if that was given.
pub fn pull(store: &Store, text: &str, options: &PullOptions, progress: &dyn Progress) -> Result<Pulled, Error> {
    let name: Reference = text.strip_prefix("docker://").unwrap_or(text).parse()?;
    let client = Client::new(&options.client, progress);
    let mut reasons = Vec::new();
    for remote in options.client.config.candidates(text)? {
        let endpoints = options.client.config.endpoints(&remote)?;
        for (index, endpoint) in endpoints.iter().enumerate() {
            let pull = Pull {
                store,
                options,
                progress,
                client: &client,
                endpoints: &endpoints[index..],
                platform: options.platform.clone().unwrap_or_else(Platform::host),
            };
            match pull.from(&remote, endpoint, &name) {
                Ok(pulled) => return Ok(pulled),
                // Another place is no cure for what is wrong here.
                Err(Error::Image(error)) if !is_about_the_image(&error) => return Err(error.into()),
                Err(error) => reasons.push(error),
            }
        }
    }
    match reasons.len() {
        1 => reasons.pop().map_or_else(|| Err(Error::NotPulled(text.to_owned())), Err),
        _ => {
            let all: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            Err(Error::Nowhere { name: text.to_owned(), reasons: all.join("; ") })
        }
    }
}

/// Whether what the sender gave is at fault, and not this machine.
fn is_about_the_image(error: &strata_image::Error) -> bool {
    use strata_image::Error;
    matches!(
        error,
        Error::DigestMismatch { .. } | Error::SizeMismatch { .. } | Error::Document { .. } | Error::Platform { .. }
    )
}

/// One pull from one endpoint.
struct Pull<'a> {
    store: &'a Store,
    options: &'a PullOptions,
    progress: &'a dyn Progress,
    client: &'a Client<'a>,
    /// Where blobs are asked for, the manifest's place first.
    endpoints: &'a [Endpoint],
    platform: Platform,
}

/// A manifest or index as it came.
struct Document {
    bytes: Vec<u8>,
    digest: Digest,
    /// Its media type.
    kind: String,
}

/// The manifest that was chosen.
struct Chosen {
    digest: Digest,
    manifest: ImageManifest,
}

impl Pull<'_> {
    fn from(&self, remote: &Remote, endpoint: &Endpoint, name: &Reference) -> Result<Pulled, Error> {
        let pulled = |image: Image, digest, unchanged| Pulled {
            image: image.named(name.clone()),
            name: name.clone(),
            from: remote.clone(),
            digest,
            unchanged,
        };
        let receiving = self.store.receiving()?;
        if let Some((image, digest)) = self.unchanged(endpoint, name)? {
            return Ok(pulled(image, digest, true));
        }
        let top = self.document(endpoint, &remote.selector(), remote.digest)?;
        let digest = top.digest;
        let is_index = kind_of(&top, endpoint)?;
        let (chosen, index) = match is_index {
            true => (self.choose(&receiving, endpoint, &top)?, Some(digest)),
            false => {
                let manifest = document::manifest(&top.bytes, &digest.to_string()).map_err(Error::from)?;
                self.take_documents(&receiving, endpoint, &top, &manifest)?;
                (Chosen { digest, manifest }, None)
            }
        };
        let image = receiving.image(&chosen.digest)?;
        self.is_for_the_platform(&image, remote)?;
        self.layers(&receiving, &image, &chosen.manifest)?;
        receiving.name(name, &image, index)?;
        Ok(pulled(image, digest, false))
    }

    /// Whether the tag still means what the store has: a question that registries do not count as a pull.
    fn unchanged(&self, endpoint: &Endpoint, name: &Reference) -> Result<Option<(Image, Digest)>, Error> {
        let Some((image, index)) = self.store.named_image(name)? else { return Ok(None) };
        let complete = image.layers()?.iter().all(|layer| self.store.holds_blob(&layer.digest, layer.size));
        if !complete || self.is_for_the_platform(&image, &endpoint.remote).is_err() {
            return Ok(None);
        }
        if let Some(digest) = endpoint.remote.digest
            && (digest == image.digest() || Some(digest) == index)
        {
            if self.options.unpack {
                self.store.unpack(&image, self.progress)?;
            }
            return Ok(Some((image, digest)));
        }
        let selector = endpoint.remote.selector();
        let ask = Ask::new(Method::HEAD, endpoint, "pull", &format!("manifests/{selector}"));
        let ask = ask.header(header::ACCEPT, ACCEPT);
        let host = self.client.host(endpoint)?;
        // Whatever goes wrong here will do so again when the manifest itself is asked for, and be told then.
        let Ok(response) = self.client.ask(&host, &ask) else { return Ok(None) };
        let said = text_of(&response, "docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        match said.filter(|_| response.status().is_success()) {
            Some(digest) if digest == image.digest() || Some(digest) == index => {
                if self.options.unpack {
                    self.store.unpack(&image, self.progress)?;
                }
                Ok(Some((image, digest)))
            }
            _ => Ok(None),
        }
    }

    /// Gets a manifest or index by tag or digest.
    fn document(&self, endpoint: &Endpoint, selector: &str, wanted: Option<Digest>) -> Result<Document, Error> {
        let host = self.client.host(endpoint)?;
        self.client.retrying(|| {
            let ask = Ask::get(endpoint, &format!("manifests/{selector}")).header(header::ACCEPT, ACCEPT);
            let response = match check(&host, &ask, self.client.ask(&host, &ask)?) {
                Err(Error::NotFound { host, .. }) => {
                    let joint = if wanted.is_some() { '@' } else { ':' };
                    let what = format!("image {}{joint}{selector}", endpoint.remote.repository);
                    return Err(Error::NotFound { host, what });
                }
                response => response?,
            };
            let kind = text_of(&response, header::CONTENT_TYPE).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
            let said = text_of(&response, "docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
            let what = format!("manifest {selector}");
            let bytes =
                read_bounded(host.name(), response, document::DOCUMENT_MAX, &what, &self.options.client.patience)?;
            let digest = Digest::of(&bytes);
            for promised in [wanted, said].into_iter().flatten() {
                if promised != digest {
                    return Err(host.broken(&format!("{what} should be {promised} and is {digest}")));
                }
            }
            Ok(Document { bytes, digest, kind })
        })
    }

    /// The image of an index that fits best.
    fn choose(&self, receiving: &Receiving<'_>, endpoint: &Endpoint, top: &Document) -> Result<Chosen, Error> {
        let (mut seen, mut left) = (Vec::new(), DOCUMENTS_MAX);
        let index = document::index(&top.bytes, &top.digest.to_string())?;
        match self.choose_in(receiving, endpoint, &index, 0, &mut seen, &mut left)? {
            Some(chosen) => Ok(chosen),
            None => {
                seen.sort();
                seen.dedup();
                let (name, wanted) = (endpoint.remote.to_string(), self.platform.to_string());
                Err(strata_image::Error::Platform { name, wanted, available: seen.join(", ") }.into())
            }
        }
    }

    fn choose_in(
        &self,
        receiving: &Receiving<'_>,
        endpoint: &Endpoint,
        index: &ImageIndex,
        depth: usize,
        seen: &mut Vec<String>,
        left: &mut usize,
    ) -> Result<Option<Chosen>, Error> {
        for descriptor in self.platform.ranked(index.manifests()) {
            let digest = document::digest(descriptor)?;
            let nested = document::is_index(descriptor);
            if !nested && !document::is_manifest(descriptor) || document::is_attestation(descriptor) {
                continue;
            }
            if let Some(platform) = descriptor.platform() {
                let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
                let variant = platform.variant().as_deref();
                if self.platform.distance(&os, &architecture, variant).is_none() {
                    let variant = variant.map(|variant| format!("/{variant}")).unwrap_or_default();
                    seen.push(printable(&format!("{os}/{architecture}{variant}")));
                    continue;
                }
            }
            if depth == INDEX_DEPTH {
                let reason = format!("indexes nest deeper than {INDEX_DEPTH}");
                return Err(strata_image::Error::Document { what: "index", name: digest.to_string(), reason }.into());
            }
            if *left == 0 {
                return Ok(None);
            }
            *left -= 1;
            let found = self.document(endpoint, &digest.to_string(), Some(digest))?;
            if nested {
                let inner = document::index(&found.bytes, &digest.to_string())?;
                if let Some(chosen) = self.choose_in(receiving, endpoint, &inner, depth + 1, seen, left)? {
                    return Ok(Some(chosen));
                }
                continue;
            }
            let manifest = document::manifest(&found.bytes, &digest.to_string())?;
            self.take_documents(receiving, endpoint, &found, &manifest)?;
            // What the index says may be wrong; what the image says of itself counts.
            match self.is_for_the_platform(&receiving.image(&digest)?, &endpoint.remote) {
                Ok(()) => return Ok(Some(Chosen { digest, manifest })),
                Err(_) => seen.push(format!("{digest} (which says otherwise of itself)")),
            }
        }
        Ok(None)
    }

    /// Puts the manifest and its configuration into the store.
    fn take_documents(
        &self,
        receiving: &Receiving<'_>,
        endpoint: &Endpoint,
        found: &Document,
        manifest: &ImageManifest,
    ) -> Result<(), Error> {
        if manifest.media_type().is_none() && !found.kind.is_empty() && !known_manifest(&found.kind) {
            let host = self.client.host(endpoint)?;
            return Err(host.broken(&format!("manifest {} has the type `{}`", found.digest, printable(&found.kind))));
        }
        self.fetch(receiving, manifest.config(), &())?;
        Ok(receiving.add_document(&found.digest, &found.bytes)?)
    }

    fn is_for_the_platform(&self, image: &Image, remote: &Remote) -> Result<(), Error> {
        let configuration = image.configuration();
        let (os, architecture) = (configuration.os().to_string(), configuration.architecture().to_string());
        if self.platform.distance(&os, &architecture, configuration.variant().as_deref()).is_some() {
            return Ok(());
        }
        let (name, wanted) = (remote.to_string(), self.platform.to_string());
        Err(strata_image::Error::Platform { name, wanted, available: format!("{os}/{architecture}") }.into())
    }

    /// Fetches the layers, and unpacks them if that is wished.
    fn layers(&self, receiving: &Receiving<'_>, image: &Image, manifest: &ImageManifest) -> Result<(), Error> {
        // An image may have a layer twice.
        let mut wanted: BTreeMap<Digest, &Descriptor> = BTreeMap::new();
        let mut queue = VecDeque::new();
        for layer in manifest.layers() {
            let digest = document::digest(layer)?;
            if wanted.insert(digest, layer).is_none() {
                queue.push_back((digest, layer));
            }
        }
        let threads = PARALLEL.min(queue.len());
        let state = Mutex::new(Fetches { queue, done: Vec::new(), failure: None });
        let (changed, stop) = (Condvar::new(), AtomicBool::new(false));
        let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
        let fetcher = || loop {
            let next = lock().queue.pop_front();
            let Some((digest, descriptor)) = next.filter(|_| !stop.load(Ordering::Relaxed)) else { return };
            let fetched = self.fetch_unless(receiving, descriptor, self.progress, &stop);
            let mut state = lock();
            match fetched {
                Ok(()) => state.done.push(digest),
                Err(error) => {
                    // The first failure is the reason; it stops the others, which fail for no reason of their own.
                    state.failure.get_or_insert(error);
                    stop.store(true, Ordering::Relaxed);
                }
            }
            changed.notify_all();
        };
        std::thread::scope(|scope| {
            let fetchers: Vec<_> = (0..threads).map(|_| scope.spawn(fetcher)).collect();
            // `None`: a fetcher failed and tells why itself.
            let unpacked: Result<(), Option<Error>> = match self.options.unpack {
                false => Ok(()),
                true => receiving
                    .unpack(image, self.progress, |layer: &Layer| {
                        let mut state = lock();
                        while !state.done.contains(&layer.digest) {
                            if state.failure.is_some() {
                                return Err(Waiting::Failed);
                            }
                            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                        }
                        Ok(())
                    })
                    .map_err(|error| match error {
                        Waiting::Failed => None,
                        Waiting::Image(error) => Some(Error::from(error)),
                    }),
            };
            if unpacked.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            for fetcher in fetchers {
                fetcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
            match (unpacked, lock().failure.take()) {
                (Err(Some(error)), _) | (_, Some(error)) => Err(error),
                _ => Ok(()),
            }
        })
    }

    fn fetch(&self, receiving: &Receiving<'_>, blob: &Descriptor, progress: &dyn Progress) -> Result<(), Error> {
        self.fetch_unless(receiving, blob, progress, &AtomicBool::new(false))
    }

    /// Brings one blob into the store, from the first endpoint that has it.
    fn fetch_unless(
        &self,
        receiving: &Receiving<'_>,
        blob: &Descriptor,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let digest = document::digest(blob)?;
        let mut last = None;
        for endpoint in self.endpoints {
            // Each may go on with what the one before left.
            let Some(incoming) = receiving.receive(digest, blob.size())? else { return Ok(()) };
            match self.download(endpoint, incoming, &digest, progress, stop) {
                Err(Error::Image(error)) if !is_about_the_image(&error) => return Err(error.into()),
                Err(error) if !stop.load(Ordering::Relaxed) => last = Some(error),
                done => return done,
            }
        }
        for url in blob.urls().iter().flatten() {
            let Some(incoming) = receiving.receive(digest, blob.size())? else { return Ok(()) };
            match self.download_foreign(url, incoming, &digest, progress, stop) {
                Err(Error::Image(error)) if !is_about_the_image(&error) => return Err(error.into()),
                Err(error) if !stop.load(Ordering::Relaxed) => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| Error::NotFound { host: "no registry".to_owned(), what: format!("blob {digest}") }))
    }

    fn download(
        &self,
        endpoint: &Endpoint,
        incoming: Incoming<'_>,
        digest: &Digest,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let host = self.client.host(endpoint)?;
        self.resuming(host.name(), incoming, digest, progress, stop, |from, missing| {
            let mut ask = Ask::get(endpoint, &format!("blobs/{digest}"));
            ask.expected = missing;
            if from > 0 {
                ask = ask.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = self.client.ask(&host, &ask)?;
            if response.status().as_u16() == 416 {
                return Ok(response);
            }
            check(&host, &ask, response)
        })
    }

    /// A layer that its maker does not want in other registries lies at an address of its own.
    fn download_foreign(
        &self,
        url: &str,
        incoming: Incoming<'_>,
        digest: &Digest,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let place = printable(url);
        self.resuming(&place, incoming, digest, progress, stop, |from, missing| {
            self.client.get_foreign(url, from, missing)
        })
    }

    /// Downloads, and goes on after each break, until all is there or it gets no further.
    fn resuming(
        &self,
        place: &str,
        mut incoming: Incoming<'_>,
        digest: &Digest,
        progress: &dyn Progress,
        stop: &AtomicBool,
        get: impl Fn(u64, u64) -> Result<Response<ureq::Body>, Error>,
    ) -> Result<(), Error> {
        // A wrong byte may be from an earlier attempt, of which only the length is known.
        let mut resumed = incoming.have() > 0;
        let (mut attempt, mut best) = (0, incoming.have());
        loop {
            let before = incoming.have();
            let result = match incoming.missing() {
                0 if before > 0 => Ok(()),
                missing => get(before, missing)
                    .and_then(|response| self.take(place, response, &mut incoming, digest, progress, stop)),
            };
            match result {
                Ok(()) if incoming.missing() == 0 => {
                    progress.update(Stage::Pull, &digest.short(), incoming.have(), Some(incoming.have()));
                    if resumed && !incoming.is_right() {
                        resumed = false;
                        incoming.restart()?;
                        continue;
                    }
                    return incoming.finish().map_err(|error| match error {
                        strata_image::Error::DigestMismatch { expected, found, .. } => {
                            let reason = format!("blob {expected} comes with the digest {found}");
                            Error::Protocol { host: place.to_owned(), reason }
                        }
                        error => error.into(),
                    });
                }
                Ok(()) => {}
                Err(error) => {
                    if stop.load(Ordering::Relaxed) {
                        return Err(error);
                    }
                    // What gets further than ever before may go on for as long as it does.
                    let further = incoming.have() >= best + (1 << 20);
                    attempt = if further { 1 } else { attempt + 1 };
                    best = best.max(incoming.have());
                    self.client.wait(error, attempt)?;
                    resumed |= incoming.have() > 0;
                }
            }
        }
    }

    /// Reads an answer into the blob. What is there stays when it breaks off.
    fn take(
        &self,
        place: &str,
        response: Response<ureq::Body>,
        incoming: &mut Incoming<'_>,
        digest: &Digest,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        use std::io::Read;
        let broken = |reason: String| Error::Protocol { host: place.to_owned(), reason };
        let from = incoming.have();
        match response.status().as_u16() {
            206 if from > 0 && range_start(&response) == Some(from) => {}
            // It does not know about ranges, or not about this one.
            206 | 416 if from > 0 => return Ok(incoming.restart()?),
            200 => {
                if from > 0 {
                    incoming.restart()?;
                }
            }
            status => return Err(broken(format!("blob {digest} comes with the status {status}"))),
        }
        let total = incoming.have() + incoming.missing();
        let length = text_of(&response, header::CONTENT_LENGTH).and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(length) = length.filter(|length| *length != incoming.missing()) {
            let missing = incoming.missing();
            return Err(broken(format!(
                "blob {digest} should have {missing} bytes to come, and {length} are announced"
            )));
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; PIECE];
        let mut pace = Pace::new(place, &self.options.client.patience);
        let mut told = incoming.have();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(broken("another layer failed".to_owned()));
            }
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(match body_error(place, error) {
                        // It has answered, or there would be no body.
                        Error::Connection { host, reason, .. } => Error::Connection { host, reason, transient: true },
                        error => error,
                    });
                }
            };
            if count as u64 > incoming.missing() {
                return Err(broken(format!("blob {digest} has more than its {total} bytes")));
            }
            incoming.write(&buffer[..count])?;
            pace.count(count as u64)?;
            if incoming.have() - told >= 1 << 20 {
                told = incoming.have();
                progress.update(Stage::Pull, &digest.short(), told, Some(total));
            }
        }
        match incoming.missing() {
            0 => Ok(()),
            missing => {
                let reason = format!("blob {digest} broke off, {missing} bytes are missing");
                Err(Error::Connection { host: place.to_owned(), reason, transient: true })
            }
        }
    }
}

struct Fetches<'a> {
    queue: VecDeque<(Digest, &'a Descriptor)>,
    done: Vec<Digest>,
    failure: Option<Error>,
}

/// Why unpacking ended.
enum Waiting {
    /// A layer did not come.
    Failed,
    Image(strata_image::Error),
}

impl From<strata_image::Error> for Waiting {
    fn from(error: strata_image::Error) -> Waiting {
        Waiting::Image(error)
    }
}

/// Where a partial answer begins (RFC 9110, section 14.4).
fn range_start(response: &Response<ureq::Body>) -> Option<u64> {
    let range = text_of(response, header::CONTENT_RANGE)?.trim().strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

fn known_manifest(kind: &str) -> bool {
    // Some servers of plain files know no better.
    ACCEPT.contains(kind) || ["application/json", "application/octet-stream", "text/plain"].contains(&kind)
}

/// Whether a document is an index. What it says of itself counts before what the registry says of it, and both must not
/// differ.
fn kind_of(found: &Document, endpoint: &Endpoint) -> Result<bool, Error> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        schema_version: Option<u32>,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let wrong = |reason: String| Error::Protocol { host: endpoint.remote.registry.clone(), reason };
    let kind: Kind = serde_json::from_slice(&found.bytes)
        .map_err(|error| wrong(format!("manifest {} is no JSON: {}", found.digest, printable(&error.to_string()))))?;
    if kind.schema_version == Some(1) {
        return Err(wrong(format!("manifest {} is of schema 1, which is obsolete: push the image anew", found.digest)));
    }
    if let Some(own) = &kind.media_type
        && known_manifest(&found.kind)
        && found.kind.starts_with("application/vnd.")
        && *own != found.kind
    {
        let (own, said) = (printable(own), printable(&found.kind));
        return Err(wrong(format!("manifest {} calls itself `{own}` and is sent as `{said}`", found.digest)));
    }
    let said = kind.media_type.unwrap_or_else(|| found.kind.clone());
    Ok(said.contains("index")
        || said.contains("manifest.list")
        || !said.contains("manifest") && kind.manifests.is_some())
}
