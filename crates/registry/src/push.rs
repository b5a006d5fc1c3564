//! From the store to a registry (distribution-spec 1.1, "Push").
//!
//! Blobs first, the manifest last: a registry takes no manifest whose blobs it lacks, so who pulls meanwhile never sees
//! half an image. A blob the registry has is not sent. One that another of its repositories has is *mounted* from there.
//! The rest is sent in one request, or in chunks where one is wished or too long for what stands before the registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::{Descriptor, MediaType};
use strata_image::{Digest, Image, Progress, Stage, Store, document};
use ureq::Body;
use ureq::http::{Method, Response, header};

use crate::client::{Ask, Client, Host, Options, Payload, Piece, check, encode, text_of};
use crate::config::Endpoint;
use crate::name::{self, Parsed};
use crate::{Error, Remote};

/// Blobs sent at the same time.
const PARALLEL: usize = 4;
/// The chunks for a registry that finds a blob too long.
const CHUNK: u64 = 32 << 20;

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// How to speak to registries.
    pub client: Options,
    /// Send blobs in chunks of so many bytes instead of whole.
    pub chunk: Option<u64>,
}

/// What was pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Where to.
    pub to: Remote,
    /// The manifest's digest.
    pub digest: Digest,
    /// Blobs that had to be sent.
    pub sent: usize,
}

/// Pushes the image that `local` means in the store to where `to` says.
pub fn push(
    store: &Store,
    local: &str,
    to: &str,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed, Error> {
    let image = store.image(local)?;
    let config = &options.client.config;
    // A short name is pushed to the first registry it may come from.
    let remote = config
        .candidates(to)?
        .into_iter()
        .next()
        .ok_or_else(|| Error::Name { text: to.to_owned(), reason: "it means no registry".to_owned() })?;
    if remote.digest.is_some_and(|digest| digest != image.digest()) {
        let reason = format!("the image to push has the digest {}", image.digest());
        return Err(Error::Name { text: to.to_owned(), reason });
    }
    // Mirrors are for pulling; the last endpoint is the registry itself.
    let endpoint = config
        .endpoints(&remote)?
        .pop()
        .ok_or_else(|| Error::Name { text: to.to_owned(), reason: "it leads nowhere".to_owned() })?;
    let client = Client::new(&options.client, progress);
    let push = Push { store, options, progress, host: &*client.host(&endpoint)?, client: &client, endpoint: &endpoint };
    let sent = push.blobs(&image)?;
    push.manifest(&image)?;
    Ok(Pushed { to: remote, digest: image.digest(), sent })
}

struct Push<'a> {
    store: &'a Store,
    options: &'a PushOptions,
    progress: &'a dyn Progress,
    client: &'a Client<'a>,
    host: &'a Host,
    endpoint: &'a Endpoint,
}

impl Push<'_> {
    /// Sends what the registry lacks; returns how many blobs that were.
    fn blobs(&self, image: &Image) -> Result<usize, Error> {
        let mut wanted: BTreeMap<Digest, &Descriptor> = BTreeMap::new();
        let layers = image.manifest().layers().iter().filter(|layer| !is_foreign(layer));
        for blob in layers.chain([image.manifest().config()]) {
            wanted.insert(document::digest(blob)?, blob);
        }
        let others = self.others(&wanted)?;
        let wanted: Vec<(Digest, u64)> = wanted.iter().map(|(digest, blob)| (*digest, blob.size())).collect();
        let (next, sent) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sender = || -> Result<(), Error> {
            while let Some((digest, size)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = self.blob(digest, *size, others.get(digest).map(String::as_str));
                // No further ones are begun.
                let was_sent = done.inspect_err(|_| next.store(wanted.len(), Ordering::Relaxed))?;
                sent.fetch_add(usize::from(was_sent), Ordering::Relaxed);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..PARALLEL.min(wanted.len())).map(|_| scope.spawn(sender)).collect();
            let results = senders
                .into_iter()
                .map(|sender| sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            results.collect::<Vec<_>>().into_iter().collect::<Result<(), Error>>()
        })?;
        Ok(sent.into_inner())
    }

    /// By blob, another repository of the same registry that should have it, as the store's names tell.
    fn others(&self, wanted: &BTreeMap<Digest, &Descriptor>) -> Result<BTreeMap<Digest, String>, Error> {
        let mut others = BTreeMap::new();
        for named in self.store.list()? {
            let remotes = match name::parse(&named.reference) {
                Ok(Parsed::Full(remote)) => vec![remote],
                Ok(Parsed::Short(..)) => self.options.client.config.candidates(&named.reference).unwrap_or_default(),
                Err(_) => continue,
            };
            let here = remotes.into_iter().find(|remote| remote.registry == self.endpoint.remote.registry);
            let Some(remote) = here.filter(|remote| remote.repository != self.endpoint.remote.repository) else {
                continue;
            };
            // An image that cannot be read offers nothing.
            let Ok(image) = self.store.image(&named.reference) else { continue };
            for layer in image.manifest().layers() {
                let digest = document::digest(layer)?;
                if wanted.contains_key(&digest) {
                    others.insert(digest, remote.repository.clone());
                }
            }
        }
        Ok(others)
    }

    /// Makes sure that the registry has a blob; returns whether it had to be sent.
    fn blob(&self, digest: &Digest, size: u64, other: Option<&str>) -> Result<bool, Error> {
        if self.has(&format!("blobs/{digest}"))? {
            return Ok(false);
        }
        let file = self.store.blob(digest)?;
        let mut chunk = self.options.chunk;
        let mut attempt = 0;
        loop {
            match self.upload(digest, &file, size, other, chunk) {
                // What stands before a registry often takes less than it does.
                Err(Error::Status { status: 413, .. }) if chunk.is_none() && size > CHUNK => chunk = Some(CHUNK),
                Err(error) => {
                    attempt += 1;
                    self.client.wait(error, attempt)?;
                }
                done => return done,
            }
        }
    }

    fn has(&self, path: &str) -> Result<bool, Error> {
        self.client.retrying(|| {
            let ask = self.ask(Method::HEAD, path);
            match check(self.host, &ask, self.client.ask(self.host, &ask)?) {
                Ok(_) => Ok(true),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn ask<'a>(&self, method: Method, path: &str) -> Ask<'a> {
        Ask::new(method, self.endpoint, "pull,push", path)
    }

    /// A request to where an upload under way is; the address is the registry's, and may be anywhere.
    fn at<'a>(&self, method: Method, location: &str) -> Ask<'a> {
        Ask { target: location.to_owned(), ..self.ask(method, "") }
    }

    fn upload(
        &self,
        digest: &Digest,
        file: &File,
        size: u64,
        other: Option<&str>,
        chunk: Option<u64>,
    ) -> Result<bool, Error> {
        let mut ask = self.ask(Method::POST, "blobs/uploads/");
        if let Some(other) = other {
            ask.target.push_str(&format!("?mount={}&from={}", encode(&digest.to_string()), encode(other)));
            ask.other = Some(other.to_owned());
        }
        let response = check(self.host, &ask, self.client.ask(self.host, &ask)?)?;
        if response.status().as_u16() == 201 {
            return Ok(false);
        }
        let mut location = self.location(&ask.target, &response)?;
        let item = digest.short();
        let mut done = 0;
        if let Some(chunk) = chunk {
            let least = text_of(&response, "oci-chunk-min-length").and_then(|text| text.parse::<u64>().ok());
            let chunk = chunk.max(least.unwrap_or(0)).max(1);
            drop(response);
            while done < size {
                let length = chunk.min(size - done);
                let before = done;
                let sent = |count: u64| self.tell(&item, before + count, size);
                let piece = Piece { file, start: done, length, sent: &paced(&sent) };
                let ask = self
                    .at(Method::PATCH, &location)
                    .header(header::CONTENT_TYPE, "application/octet-stream")
                    .header(header::CONTENT_RANGE, format!("{done}-{}", done + length - 1))
                    .payload(Payload::Piece(&piece));
                let response = check(self.host, &ask, self.client.ask(self.host, &ask)?)?;
                location = self.location(&location, &response)?;
                done += length;
            }
        }
        let joint = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{joint}digest={}", encode(&digest.to_string()));
        let sent = |count: u64| self.tell(&item, done + count, size);
        let piece = Piece { file, start: done, length: size - done, sent: &paced(&sent) };
        let ask = self
            .at(Method::PUT, &target)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .payload(Payload::Piece(&piece));
        check(self.host, &ask, self.client.ask(self.host, &ask)?)?;
        self.progress.update(Stage::Push, &item, size, Some(size));
        Ok(true)
    }

    /// Tells of bytes sent. That all are is told when the registry has said so.
    fn tell(&self, item: &str, done: u64, size: u64) {
        self.progress.update(Stage::Push, item, done.min(size.saturating_sub(1)), Some(size));
    }

    /// Where the upload goes on.
    fn location(&self, asked: &str, response: &Response<Body>) -> Result<String, Error> {
        let Some(location) = text_of(response, header::LOCATION) else {
            return Err(self.host.broken("it does not say where an upload goes on"));
        };
        // Relative ones are so to the address asked.
        if location.contains("://") || location.starts_with('/') {
            return Ok(location.to_owned());
        }
        let path = asked.split('?').next().unwrap_or_default();
        let dir = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        Ok(format!("{dir}{location}"))
    }

    /// Sends the manifest as it is: its digest is the image's name.
    fn manifest(&self, image: &Image) -> Result<(), Error> {
        let bytes = self.store.read_document(&image.digest())?;
        let selector = self.endpoint.remote.selector();
        let kind = image.manifest().media_type().clone().unwrap_or(MediaType::ImageManifest).to_string();
        self.client.retrying(|| {
            let ask = self
                .ask(Method::PUT, &format!("manifests/{selector}"))
                .header(header::CONTENT_TYPE, kind.clone())
                .payload(Payload::Bytes(&bytes));
            let response = check(self.host, &ask, self.client.ask(self.host, &ask)?)?;
            let said = text_of(&response, "docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
            match said {
                Some(said) if said != image.digest() => {
                    let reason = format!("it took manifest {} and calls it {said}", image.digest());
                    Err(self.host.broken(&reason))
                }
                _ => Ok(()),
            }
        })
    }
}

/// Tells about every MiB, not about every buffer.
fn paced<'a>(tell: &'a (dyn Fn(u64) + Sync)) -> impl Fn(u64) + Sync + 'a {
    let told = std::sync::atomic::AtomicU64::new(0);
    move |count| {
        if count >= told.load(Ordering::Relaxed) + (1 << 20) {
            told.store(count, Ordering::Relaxed);
            tell(count);
        }
    }
}

/// A layer that lies at its maker's address is not copied to other registries.
fn is_foreign(layer: &Descriptor) -> bool {
    let kind = layer.media_type().to_string();
    kind.contains("nondistributable") || kind.contains("foreign")
}
