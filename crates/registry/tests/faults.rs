//! Registries that are slow, broken, or lie; and the parts of the protocol that the usual registry does not show:
//! tokens, redirects, mirrors, indexes.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Answer, Body, Request, Server};
use serde_json::{Value, json};
use strata_image::{Digest, Platform, Store};
use strata_registry::{
    Config, Credentials, Error, Options, Patience, PullOptions, PullPolicy, Pulled, PushOptions, ensure, pull, push,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a registry has: by path below `/v2/app/`, media type and bytes.
#[derive(Clone, Default)]
struct Content(BTreeMap<String, (String, Vec<u8>)>);

impl Content {
    /// An image with these layers, and its manifest's descriptor.
    fn image(&mut self, architecture: &str, variant: Option<&str>, layers: &[Vec<u8>]) -> Value {
        let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let mut config =
            json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
        if let Some(variant) = variant {
            config["variant"] = variant.into();
        }
        let config = config.to_string().into_bytes();
        let mut descriptors = Vec::new();
        for layer in layers {
            descriptors.push(self.blob("application/vnd.oci.image.layer.v1.tar", layer));
        }
        let config = self.blob("application/vnd.oci.image.config.v1+json", &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors});
        let mut descriptor = self.manifest(MANIFEST, &manifest);
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        if let Some(variant) = variant {
            descriptor["platform"]["variant"] = variant.into();
        }
        descriptor
    }

    fn blob(&mut self, kind: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.0.insert(format!("blobs/{digest}"), ("application/octet-stream".into(), bytes.to_vec()));
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    }

    fn manifest(&mut self, kind: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        self.0.insert(format!("manifests/{digest}"), (kind.into(), bytes));
        json!({"mediaType": kind, "digest": digest, "size": size})
    }

    fn tag(&mut self, tag: &str, descriptor: &Value) {
        let found = self.0[&format!("manifests/{}", descriptor["digest"].as_str().unwrap())].clone();
        self.0.insert(format!("manifests/{tag}"), found);
    }

    /// As an honest registry answers; ranges too.
    fn answer(&self, request: &Request) -> Answer {
        if request.path == "/v2/" {
            return Answer::new(200, "{}");
        }
        let key = request.path.strip_prefix("/v2/app/").unwrap_or_default();
        let Some((kind, bytes)) = self.0.get(key) else {
            return Answer::new(404, r#"{"errors":[{"code":"UNKNOWN","message":"not\u001b[31m here"}]}"#);
        };
        let from = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let answer = match from.map(|from| from.parse::<usize>().unwrap()) {
            Some(from) => Answer::new(206, &bytes[from..])
                .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
            None => Answer::new(200, bytes.clone()),
        };
        let answer = answer.with("Content-Type", kind);
        match key.starts_with("manifests/") {
            true => answer.with("Docker-Content-Digest", Digest::of(bytes)),
            false => answer,
        }
    }
}

/// `n` bytes that are not all the same.
fn bytes(n: usize, seed: u32) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761).max(1);
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..n).map(step).collect()
}

fn one_image(layers: &[Vec<u8>]) -> Content {
    let mut content = Content::default();
    let image = content.image("amd64", None, layers);
    content.tag("v1", &image);
    content
}

struct Place {
    _dir: tempfile::TempDir,
    store: Store,
    options: PullOptions,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let patience = Patience {
            connect: Duration::from_secs(2),
            answer: Duration::from_millis(700),
            idle: Duration::from_millis(500),
            back_off: Duration::from_millis(10),
            attempts: 3,
            retry_after_max: Duration::from_secs(3),
            slowest: 2000,
        };
        let auth_file = Some(dir.path().join("auth.json"));
        let platform = Some(Platform::parse("linux/amd64").unwrap());
        let client = Options { patience, auth_file, ..Options::default() };
        Place { _dir: dir, store, options: PullOptions { client, platform, unpack: false } }
    }

    fn pull(&self, server: &Server) -> Result<Pulled, Error> {
        pull(&self.store, &format!("{}/app:v1", server.host()), &self.options, &())
    }

    #[track_caller]
    fn fails(&self, server: &Server, words: &str) {
        let started = Instant::now();
        let error = self.pull(server).expect_err("this must fail").to_string();
        assert!(error.contains(words), "want `{words}` in: {error}");
        assert!(!error.contains('\u{1b}'), "no escape sequence of a stranger: {error:?}");
        assert!(started.elapsed() < Duration::from_secs(15), "in bounded time");
        assert!(self.store.list().unwrap().is_empty(), "no image is named");
    }
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_did() {
    let layer = bytes(3_000_000, 1);
    let content = one_image(std::slice::from_ref(&layer));
    let path = format!("/v2/app/blobs/{}", Digest::of(&layer));
    let blob = path.clone();
    let server = Server::start(move |request| match request.path == blob {
        true => match request.header("range") {
            None => Answer::new(200, "").body(Body::Cut(layer.clone(), 2_000_000)),
            Some("bytes=2000000-") => Answer::new(206, "")
                .with("Content-Range", "bytes 2000000-2999999/3000000")
                .body(Body::Cut(layer[2_000_000..].to_vec(), 500_000)),
            Some(_) => content.answer(request),
        },
        false => content.answer(request),
    });
    let place = Place::new();
    place.pull(&server).unwrap();
    let ranges: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|r| r.path == path)
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=2000000-".into()), Some("bytes=2500000-".into())]);
    // All is there: the second pull asks for the manifest's digest only.
    let before = server.count("GET");
    ensure(&place.store, &format!("{}/app:v1", server.host()), PullPolicy::Missing, &place.options, &()).unwrap();
    assert_eq!(server.count("GET"), before);
}

#[test]
fn a_later_pull_goes_on_with_what_an_earlier_one_left() {
    let layer = bytes(100_000, 2);
    let content = one_image(std::slice::from_ref(&layer));
    let path = format!("/v2/app/blobs/{}", Digest::of(&layer));
    let (blob, broken) = (path.clone(), Arc::new(AtomicUsize::new(0)));
    let server = Server::start(move |request| match request.path == blob {
        // The first pull gives up after three attempts.
        true if broken.fetch_add(1, Ordering::Relaxed) < 3 => match request.header("range") {
            None => Answer::new(200, "").body(Body::Cut(layer.clone(), 40_000)),
            Some(_) => Answer::new(500, ""),
        },
        _ => content.answer(request),
    });
    let place = Place::new();
    place.fails(&server, "500");
    place.pull(&server).unwrap();
    let last = server.requests().into_iter().rfind(|request| request.path == path).unwrap();
    assert_eq!(last.header("range"), Some("bytes=40000-"));
}

#[test]
fn a_server_without_ranges_or_with_wrong_ones_is_asked_from_the_start() {
    for lie in [false, true] {
        let layer = bytes(100_000, 3);
        let content = one_image(std::slice::from_ref(&layer));
        let path = format!("/v2/app/blobs/{}", Digest::of(&layer));
        let count = AtomicUsize::new(0);
        let server = Server::start(move |request| {
            if request.path != path {
                return content.answer(request);
            }
            match (count.fetch_add(1, Ordering::Relaxed), lie) {
                (0, _) => Answer::new(200, "").body(Body::Cut(layer.clone(), 40_000)),
                // The right range, the wrong bytes: seen only by the digest of the whole.
                (1, true) => Answer::new(206, vec![0; 60_000]).with("Content-Range", "bytes 40000-99999/100000"),
                _ => Answer::new(200, layer.clone()),
            }
        });
        Place::new().pull(&server).unwrap();
    }
}

#[test]
fn wrong_digests_and_lengths_are_told_and_nothing_is_kept() {
    let layer = bytes(50_000, 4);
    let path = format!("/v2/app/blobs/{}", Digest::of(&layer));
    let server = |lie: fn(&[u8]) -> Answer| {
        let (layer, path) = (layer.clone(), path.clone());
        let content = one_image(std::slice::from_ref(&layer));
        Server::start(move |request| if request.path == path { lie(&layer) } else { content.answer(request) })
    };
    let place = Place::new();
    place.fails(&server(|layer| Answer::new(200, vec![7; layer.len()])), "comes with the digest");
    place.fails(&server(|layer| Answer::new(200, &layer[1..])), "49999 are announced");
    place.fails(&server(|_| Answer::new(200, "").with("Content-Length", "999999999999")), "are announced");
    let endless = |_: &[u8]| Answer::new(200, "").body(Body::Endless(vec![7; 4096], Duration::ZERO));
    place.fails(&server(endless), "more than its 50000 bytes");
    let garbage = |_: &[u8]| Answer::new(200, "").with("Transfer-Encoding", "chunked").with("Content-Length", "5");
    assert!(place.pull(&server(garbage)).is_err());
}

#[test]
fn of_several_layers_the_one_that_failed_is_named() {
    let layers: Vec<Vec<u8>> = (0..4).map(|n| bytes(200_000, 50 + n)).collect();
    let bad = format!("/v2/app/blobs/{}", Digest::of(&layers[3]));
    let content = one_image(&layers);
    let server = Server::start(move |request| match request.path.starts_with("/v2/app/blobs") {
        true if request.path == bad => Answer::new(200, vec![1; 200_000]),
        // The others are still on their way when it fails, unless it is the small configuration.
        true => {
            let answer = content.answer(request);
            let Body::Bytes(bytes) = &answer.body else { return answer };
            if bytes.len() < 200_000 {
                answer
            } else {
                Answer::new(200, "").body(Body::Endless(bytes[..8000].to_vec(), Duration::from_millis(50)))
            }
        }
        false => content.answer(request),
    });
    for _ in 0..3 {
        Place::new().fails(&server, "comes with the digest");
    }
}

#[test]
fn senders_that_are_silent_or_drip_end_in_bounded_time() {
    let layer = bytes(50_000, 5);
    let path = format!("/v2/app/blobs/{}", Digest::of(&layer));
    let content = one_image(std::slice::from_ref(&layer));
    let drip = Server::start(move |request| match request.path == path {
        true => Answer::new(200, "").body(Body::Endless(vec![7], Duration::from_millis(50))),
        false => content.answer(request),
    });
    Place::new().fails(&drip, "too slowly");
    let silent = Server::start(|request| match request.path.as_str() {
        "/v2/" => Answer::new(200, ""),
        _ => Answer::new(200, "").body(Body::Silence),
    });
    Place::new().fails(&silent, "no answer in time");
    let dripping_manifest = Server::start(|request| match request.path.as_str() {
        "/v2/" => Answer::new(200, ""),
        _ => Answer::new(200, "").body(Body::Endless(b" ".to_vec(), Duration::from_millis(300))),
    });
    Place::new().fails(&dripping_manifest, "too slowly");
    let hangup = Server::start(|_| Answer::new(200, "").body(Body::Hangup));
    Place::new().fails(&hangup, "cannot reach");
}

#[test]
fn manifests_that_are_huge_or_not_what_they_are_called_are_refused() {
    let content = one_image(&[bytes(10, 6)]);
    let serve = |answer: fn(Vec<u8>) -> Answer| {
        let content = content.clone();
        Server::start(move |request| match request.path.strip_prefix("/v2/app/manifests/") {
            Some(_) => answer(content.0["manifests/v1"].1.clone()),
            None => content.answer(request),
        })
    };
    let place = Place::new();
    place.fails(
        &serve(|_| Answer::new(200, "").body(Body::Endless(vec![b' '; 65536], Duration::ZERO))),
        "more than 4194304 bytes",
    );
    place.fails(&serve(|own| Answer::new(200, own).with("Content-Type", INDEX)), "is sent as");
    place.fails(&serve(|_| Answer::new(200, "<html>")), "no JSON");
    place.fails(&serve(|_| Answer::new(200, r#"{"schemaVersion":1}"#)), "schema 1");
    let lie = format!("sha256:{}", "0".repeat(64));
    let server = {
        let (content, lie) = (content.clone(), lie.clone());
        Server::start(move |request| content.answer(request).with("Docker-Content-Digest", &lie))
    };
    place.fails(&server, "should be sha256:000");
    // By digest, whatever the registry says of it.
    let server = serve(|own| Answer::new(200, own).with("Content-Type", MANIFEST));
    let error = pull(&place.store, &format!("{}/app@{lie}", server.host()), &place.options, &()).unwrap_err();
    assert!(error.to_string().contains("should be sha256:000"), "{error}");
    let missing = Server::start(|request| Content::default().answer(request));
    place.fails(&missing, "has no image app:v1");
}

#[test]
fn redirects_are_followed_without_what_proves_who_we_are() {
    let layer = bytes(20_000, 7);
    let store_of_blobs = Server::start({
        let layer = layer.clone();
        move |_| Answer::new(200, layer.clone())
    });
    let (content, path) = (one_image(std::slice::from_ref(&layer)), format!("/v2/app/blobs/{}", Digest::of(&layer)));
    let elsewhere = format!("http://{}/bucket/x?signature=1", store_of_blobs.host());
    let server = Server::start(move |request| {
        if request.path != "/v2/" && request.header("authorization").is_none() {
            return Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\"");
        }
        match request.path == path {
            true => Answer::new(307, "").with("Location", &elsewhere),
            false => content.answer(request),
        }
    });
    let mut place = Place::new();
    place.fails(&server, "strata login");
    place.options.client.credentials = Credentials::parse("me:secret");
    place.pull(&server).unwrap();
    let seen = store_of_blobs.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    // The base64 of me:secret.
    let own = server.requests();
    assert_eq!(own.last().unwrap().header("authorization"), Some("Basic bWU6c2VjcmV0"));

    let circle = Server::start(|request| match request.path.as_str() {
        "/v2/" => Answer::new(200, ""),
        _ => Answer::new(302, "").with("Location", "/v2/again"),
    });
    Place::new().fails(&circle, "redirects more than 5 times");
    let away = Server::start(|request| match request.path.as_str() {
        "/v2/" => Answer::new(200, ""),
        _ => Answer::new(302, "").with("Location", "http://example.invalid/x"),
    });
    Place::new().fails(&away, "which has no TLS");
}

/// A registry whose tokens are numbers that count up; `good` says which it takes, and `user` who may have one.
fn token_registry(content: Content, good: impl Fn(usize) -> bool + Send + Sync + 'static) -> Server {
    let (given, own) = (AtomicUsize::new(0), Arc::new(std::sync::OnceLock::<String>::new()));
    let host = own.clone();
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            let identity = String::from_utf8_lossy(&request.body).contains("refresh_token=id");
            if request.header("authorization") != Some("Basic bWU6c2VjcmV0") && !identity {
                return Answer::new(401, r#"{"errors":[{"code":"DENIED","message":"who are you"}]}"#);
            }
            let number = given.fetch_add(1, Ordering::Relaxed);
            return Answer::new(200, json!({"token": format!("t{number}"), "expires_in": 300}).to_string());
        }
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer t")?.parse().ok());
        if request.path != "/v2/" && !token.is_some_and(&good) {
            let realm = format!("http://{}/token?x=1", host.get().unwrap());
            let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:app:pull\"");
            return Answer::new(401, "").with("WWW-Authenticate", challenge);
        }
        content.answer(request)
    });
    own.set(server.host()).unwrap();
    server
}

#[test]
fn tokens_are_got_kept_and_renewed() {
    let content = one_image(&[bytes(1000, 8), bytes(1000, 9)]);
    let mut place = Place::new();
    let server = token_registry(content.clone(), |_| true);
    place.fails(&server, "there are no credentials (who are you");
    place.options.client.credentials = Credentials::parse("me:wrong");
    place.fails(&server, "the credentials are refused");
    place.options.client.credentials = Credentials::parse("me:secret");
    place.pull(&server).unwrap();
    let asked: Vec<String> =
        server.requests().iter().filter(|r| r.path.starts_with("/token")).map(|r| r.path.clone()).collect();
    assert_eq!(asked.last().unwrap(), "/token?x=1&service=reg&scope=repository%3Aapp%3Apull&account=me");
    // One without credentials, one with wrong ones, and one that served for all four documents and layers.
    assert_eq!(asked.len(), 3);

    // The first token is refused after the manifest, as if it had run out.
    let place = Place { options: place.options.clone(), ..Place::new() };
    let uses = AtomicUsize::new(0);
    let server = token_registry(content.clone(), move |number| number > 0 || uses.fetch_add(1, Ordering::Relaxed) < 1);
    place.pull(&server).unwrap();
    assert!(server.count("GET /token") >= 2);

    let place = Place { options: place.options.clone(), ..Place::new() };
    place.fails(&token_registry(content.clone(), |_| false), "refuses access to app");

    let mut place = Place::new();
    place.options.client.credentials = Some(Credentials::IdentityToken("id".to_owned()));
    let server = token_registry(content, |_| true);
    place.pull(&server).unwrap();
    let form = server.requests().into_iter().find(|r| r.method == "POST").unwrap().body;
    let form = String::from_utf8(form).unwrap();
    assert!(form.contains("grant_type=refresh_token") && form.contains("scope=repository%3Aapp%3Apull"), "{form}");
}

#[test]
fn a_busy_registry_is_waited_for_as_it_asks_and_not_longer() {
    let content = one_image(&[bytes(1000, 10)]);
    let count = AtomicUsize::new(0);
    let busy = content.clone();
    let server = Server::start(move |request| match (request.path.as_str(), count.fetch_add(1, Ordering::Relaxed)) {
        ("/v2/", _) => Answer::new(200, ""),
        (_, 2) => Answer::new(429, "").with("Retry-After", "1"),
        (_, 4) => Answer::new(503, ""),
        _ => busy.answer(request),
    });
    let started = Instant::now();
    Place::new().pull(&server).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/" => Answer::new(200, ""),
        _ => Answer::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)
            .with("Retry-After", "3600"),
    });
    Place::new().fails(&server, "asks to wait 3600 s");
    assert_eq!(server.count("GET /v2/app"), 1);
}

#[test]
fn the_image_of_an_index_is_chosen_by_platform() {
    let mut content = Content::default();
    let images: Vec<Value> = [("arm", Some("v6")), ("arm", Some("v7")), ("arm64", Some("v8")), ("amd64", None)]
        .iter()
        .enumerate()
        .map(|(n, (architecture, variant))| content.image(architecture, *variant, &[bytes(100, 20 + n as u32)]))
        .collect();
    let inner = content.manifest(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images[2..]}));
    let mut liar = images[0].clone();
    liar["platform"] = json!({"os": "linux", "architecture": "riscv64"});
    let top = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner, images[0], images[1], liar]});
    let top = content.manifest(INDEX, &top);
    content.tag("v1", &top);
    let server = Server::start(move |request| content.answer(request));
    for (platform, want) in [
        ("linux/arm", Some(&images[1])),
        ("linux/arm/v6", Some(&images[0])),
        ("linux/arm/v8", Some(&images[1])),
        ("linux/arm64", Some(&images[2])),
        ("linux/amd64/v3", Some(&images[3])),
        ("linux/arm/v5", None),
        ("linux/riscv64", None),
        ("linux/s390x", None),
    ] {
        let mut place = Place::new();
        place.options.platform = Some(Platform::parse(platform).unwrap());
        match (place.pull(&server), want) {
            (Ok(pulled), Some(want)) => {
                assert_eq!(pulled.image.digest().to_string(), want["digest"].as_str().unwrap(), "{platform}");
                assert_eq!(pulled.digest.to_string(), top["digest"].as_str().unwrap());
                // By the index's digest it is found again without asking.
                let text = format!("{}/app@{}", server.host(), pulled.digest);
                assert!(ensure(&place.store, &text, PullPolicy::Never, &place.options, &()).is_ok());
                assert!(place.pull(&server).unwrap().unchanged);
            }
            (Err(error), None) => assert!(error.to_string().contains(&format!("no image for {platform}")), "{error}"),
            (result, _) => panic!("{platform}: {result:?}"),
        }
    }
}

#[test]
fn mirrors_are_asked_first_and_the_registry_for_what_they_lack() {
    let layer = bytes(1000, 30);
    let content = one_image(std::slice::from_ref(&layer));
    let mut partial = content.clone();
    partial.0.remove(&format!("blobs/{}", Digest::of(&layer)));
    let origin = Server::start(move |request| content.answer(request));
    let mirror = Server::start(move |request| partial.answer(request));
    let empty = Server::start(|request| Content::default().answer(request));
    let config = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n\
         [[registry.mirror]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        origin.host(),
        empty.host(),
        mirror.host()
    );
    let mut place = Place::new();
    place.options.client.config = Config::parse(&config).unwrap();
    place.pull(&origin).unwrap();
    assert!(mirror.count("GET /v2/app/manifests") >= 1 && empty.count("GET /v2/app/manifests") >= 1);
    let asked: Vec<String> = origin.requests().iter().map(Request::line).collect();
    assert_eq!(asked, ["GET /v2/".to_owned(), format!("GET /v2/app/blobs/{}", Digest::of(&layer))]);

    // Without the origin all reasons are told.
    drop(origin);
    let error = pull(&place.store, "127.0.0.1:2/app:v1", &place.options, &()).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:2") && error.contains("refused"), "{error}");
    let error = ensure(&place.store, "127.0.0.1:2/app:v1", PullPolicy::Never, &place.options, &()).unwrap_err();
    assert!(error.to_string().contains("not wished"));
}

#[test]
fn a_push_goes_on_in_chunks_and_survives_breaks() {
    let layer = bytes(40 << 20, 40);
    let content = one_image(std::slice::from_ref(&layer));
    let digest = Digest::of(&layer);
    let origin = Server::start(move |request| content.answer(request));
    let place = Place::new();
    let name = format!("{}/app:v1", origin.host());
    place.pull(&origin).unwrap();

    let (received, broken) = (Arc::new(std::sync::Mutex::new(Vec::new())), AtomicUsize::new(0));
    let taken = received.clone();
    let target = Server::start(move |request| {
        let upload = request.path.contains("/uploads/") || request.path.contains("/relative");
        match request.method.as_str() {
            "HEAD" => Answer::new(404, ""),
            "POST" => {
                taken.lock().unwrap().clear();
                Answer::new(202, "").with("Location", "/v2/app/blobs/uploads/1?state=a")
            }
            // What stands before it takes no long ones; and one chunk is lost.
            "PUT" if upload && request.body.len() > 33 << 20 => Answer::new(413, ""),
            "PATCH" if broken.fetch_add(1, Ordering::Relaxed) == 1 => Answer::new(200, "").body(Body::Hangup),
            "PATCH" => {
                let mut all = taken.lock().unwrap();
                assert_eq!(
                    request.header("content-range"),
                    Some(&*format!("{}-{}", all.len(), all.len() + request.body.len() - 1))
                );
                all.extend_from_slice(&request.body);
                Answer::new(202, "").with("Location", "2?state=b")
            }
            "PUT" if upload => {
                let mut all = taken.lock().unwrap();
                all.extend_from_slice(&request.body);
                let right = request.path.ends_with(&format!("digest=sha256%3A{}", Digest::of(&all).hex()));
                Answer::new(if right { 201 } else { 400 }, "")
            }
            "PUT" => Answer::new(201, "").with("Docker-Content-Digest", Digest::of(&request.body)),
            _ => Answer::new(200, ""),
        }
    });
    // The configuration is a blob of its own; one at a time, so that this simple registry keeps them apart.
    let mut client = place.options.client.clone();
    client.patience.answer = Duration::from_secs(5);
    client.patience.idle = Duration::from_secs(5);
    let options = PushOptions { client, chunk: None };
    let to = format!("{}/app:v1", target.host());
    let pushed = push(&place.store, &name, &to, &options, &());
    let lines: Vec<String> = target.requests().iter().map(Request::line).collect();
    let pushed = pushed.unwrap_or_else(|error| panic!("{error}\n{lines:#?}"));
    assert_eq!(pushed.sent, 2);
    assert!(lines.iter().any(|line| line.starts_with("PATCH /v2/app/blobs/uploads/2?state=b")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(&format!("digest=sha256%3A{}", digest.hex()))));
    assert_eq!(lines.last().unwrap(), "PUT /v2/app/manifests/v1");
}
