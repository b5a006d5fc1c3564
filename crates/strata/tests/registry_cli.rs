//! `strata pull`, `push`, `login` and `logout` against Debian's docker-registry on loopback, and beside skopeo: what one
//! of them puts there, the other gets.

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{Out, Runtime, bundle, is_strata, run, run_with_input, skip, wait_until, which};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// `me:secret`, as the registry wants it.
const HTPASSWD: &str = "me:$2b$05$Az8T58SFAwKlZvCiMzqg9eCwiHxGvX0OYb7BwrvkKdOYYMezCPWuS\n";

struct Place {
    rt: Runtime,
}

/// A registry, ended with the value.
struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate authority of the test's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("it signs itself").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for 127.0.0.1 and its key.
    fn sign(&self) -> (String, String) {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a name");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        (certificate.pem(), key.serialize_pem())
    }
}

impl Place {
    fn at(&self, name: &str) -> String {
        self.rt.scratch.join(name).display().to_string()
    }

    /// Nothing of the machine's own configuration reaches the command.
    fn alone(&self, mut command: Command) -> Command {
        for name in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        command.env("HOME", self.rt.scratch.dir("home"));
        command.env("CONTAINERS_REGISTRIES_CONF", self.at("registries.conf"));
        command
    }

    fn command(&self, store: &str, arguments: &[&str]) -> Command {
        let mut command = self.alone(self.rt.command(["--store"]));
        command.arg(self.at(store)).args(arguments);
        command
    }

    #[track_caller]
    fn call(&self, arguments: &[&str]) -> Out {
        run(&mut self.command("store", arguments))
    }

    /// The same with a store that has nothing yet.
    #[track_caller]
    fn elsewhere(&self, arguments: &[&str]) -> Out {
        let _ = fs::remove_dir_all(self.at("elsewhere"));
        run(&mut self.command("elsewhere", arguments))
    }

    #[track_caller]
    fn skopeo(&self, arguments: &[&str]) -> Out {
        let mut command = self.alone(Command::new("skopeo"));
        command.args(arguments);
        run(&mut command)
    }

    /// Imports the busybox image as `box:1`.
    #[track_caller]
    fn with_box(self) -> Place {
        let archive = bundle::image_archive(&self.rt.scratch, "localhost/box:1");
        self.call(&["image", "import", &format!("docker-archive:{}", archive.display()), "--name", "box:1"]).ok();
        self
    }

    /// Starts a registry; `http` and `rest` are parts of its configuration.
    fn registry(&self, http: &str, rest: &str) -> Registry {
        // The port is free when it is asked for; another process would have to take it within milliseconds.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let host = format!("127.0.0.1:{port}");
        let storage = self.rt.scratch.dir(&format!("registry{port}"));
        let configuration = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: \
             {}}}}}\nhttp: {{addr: \"{host}\", secret: x{http}}}\n{rest}",
            storage.display()
        );
        let file = self.rt.scratch.write(&format!("registry{port}.yml"), configuration);
        let program = which("docker-registry").expect("the program was there a moment ago");
        let mut command = Command::new(program);
        command.arg("serve").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry { child: command.spawn().expect("the registry starts"), host };
        wait_until("the registry listens", || TcpStream::connect(&registry.host).is_ok());
        registry
    }

    /// One with TLS, and `more` for that; the authority's certificate is in `certs/ca.crt`.
    fn secure_registry(&self, authority: &Authority, more: &str, rest: &str) -> Registry {
        let (certificate, key) = authority.sign();
        self.rt.scratch.dir("certs");
        self.rt.scratch.write("certs/ca.crt", &authority.pem);
        let certificate = self.rt.scratch.write("server.pem", certificate);
        let key = self.rt.scratch.write("server.key", key);
        let http = format!(", tls: {{certificate: {}, key: {}{more}}}", certificate.display(), key.display());
        self.registry(&http, rest)
    }
}

macro_rules! place {
    ($test:expr) => {{
        let name = concat!("registry_cli::", $test);
        require!(name, "docker-registry", "skopeo", "tar", "sha256sum");
        if !is_strata() {
            return skip(name, "the program under test is not Strata");
        }
        Place { rt: Runtime::new() }.with_box()
    }};
}

#[test]
fn what_is_pushed_can_be_pulled_and_run_and_skopeo_agrees() {
    let place = place!("what_is_pushed_can_be_pulled_and_run_and_skopeo_agrees");
    let registry = place.registry("", "");
    let host = &registry.host;
    let there = format!("{host}/team/box:1");

    let digest = place.call(&["push", "--quiet", "box:1", &there]).ok().text().to_owned();
    place.call(&["push", "box:1", &there]).ok().out_has("(0 blobs sent)");
    // Another repository gets the layers from the first, chunks or not.
    place.call(&["image", "tag", "box:1", &there]).ok();
    place.call(&["image", "push", "--chunk-size", "64k", &there, &format!("{host}/other/box:1")]).ok().out_has(&digest);

    place.elsewhere(&["pull", "--quiet", &there]).ok().out_is(&digest);
    let again = place.call(&["pull", &there]);
    again.ok().out_has("is up to date").out_has(&digest);
    assert!(!again.stderr.contains("pulled"), "{again:?}");
    let name = place.rt.id();
    run(&mut place.command("elsewhere", &["run", "--name", &name, &there, "--", "echo", "hello"])).ok().out_is("hello");

    // By digest, beside a tag that then keeps its meaning.
    let by_digest = format!("{there}@{digest}");
    place.elsewhere(&["pull", &by_digest]).ok();
    let names = run(&mut place.command("elsewhere", &["image", "ls", "--quiet"]));
    names.ok().out_is(&format!("{host}/team/box@{digest}"));
    run(&mut place.command("elsewhere", &["image", "inspect", &by_digest])).ok();
    run(&mut place.command("elsewhere", &["image", "rm", &format!("{host}/team/box@{digest}")])).ok();

    // skopeo gets what Strata put there, and Strata what skopeo did, in Docker's format too.
    let copy = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let from = format!("docker://{there}");
    place.skopeo(&[&copy[..], &[&from, &format!("oci:{}:1", place.at("layout"))]].concat()).ok();
    for (format, tag) in [("v2s2", "docker"), ("oci", "oci")] {
        let target = format!("{host}/skopeo/box:{tag}");
        place.skopeo(&[&copy[..], &["--format", format, &from, &format!("docker://{target}")]].concat()).ok();
        place.elsewhere(&["pull", &target]).ok().out_has("is here");
        let mut again = place.command("elsewhere", &["run", "--name", &place.rt.id(), &target, "--", "echo", tag]);
        run(&mut again).ok().out_is(tag);
    }

    place.elsewhere(&["pull", &format!("{host}/team/box:2")]).fails().err_has("has no image team/box:2");
    place.elsewhere(&["pull", "--platform", "linux/arm64", &there]).fails().err_has("no image for linux/arm64");
    place.elsewhere(&["pull", "--tls-verify", &there]).fails().err_has("cannot reach");
    place.elsewhere(&["push", "box:1", &there]).fails().err_has("no image `box:1`");
    drop(registry);
    place.elsewhere(&["pull", &there]).fails().err_has("refused");
}

#[test]
fn a_registry_with_tls_and_passwords_is_used_after_login() {
    let place = place!("a_registry_with_tls_and_passwords_is_used_after_login");
    let passwords = place.rt.scratch.write("htpasswd", HTPASSWD);
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display());
    let registry = place.secure_registry(&Authority::new(), "", &auth);
    let there = format!("{}/team/box:1", registry.host);
    let certs = format!("--cert-dir={}", place.at("certs"));

    place.call(&["push", "box:1", &there]).fails().err_has("certs.d").err_has("UnknownIssuer");
    place.call(&["push", &certs, "box:1", &there]).fails().err_has("strata login");
    place.call(&["push", "--tls-verify=false", "box:1", &there]).fails().err_has("strata login");
    let login = ["login", &certs, "--username", "me", "--password-stdin", &registry.host];
    run_with_input(&mut place.command("store", &login), "wrong").fails().err_has("refuses access");
    let file = place.rt.scratch.join("home/.docker/config.json");
    assert!(!file.exists());
    run_with_input(&mut place.command("store", &login), "secret\n").ok().out_has("me may use");
    assert_eq!(fs::metadata(&file).expect("login writes it").permissions().mode() & 0o777, 0o600);

    place.call(&["push", &certs, "box:1", &there]).ok();
    place.elsewhere(&["pull", &certs, &there]).ok();
    place.elsewhere(&["pull", "--tls-verify=false", &there]).ok();
    // The usual place for certificates, and the file as another tool reads it.
    let own = place.rt.scratch.dir(&format!("home/.config/containers/certs.d/{}", registry.host));
    fs::copy(place.at("certs/ca.crt"), own.join("ca.crt")).expect("it can be copied");
    place.elsewhere(&["pull", &there]).ok();
    let inspect = ["inspect", &certs, "--authfile", &file.display().to_string(), &format!("docker://{there}")];
    place.skopeo(&inspect).ok().out_has("Digest");

    place.call(&["logout", &registry.host]).ok();
    place.call(&["logout", &registry.host]).fails().err_has("no credentials");
    place.elsewhere(&["pull", &there]).fails().err_has("strata login");
    let debug = place.elsewhere(&["--debug", "pull", "--creds", "me:secret", &there]);
    debug.ok();
    assert!(!debug.stderr.contains("secret"), "{debug:?}");
}

#[test]
fn a_registry_may_want_a_certificate_of_its_users() {
    let place = place!("a_registry_may_want_a_certificate_of_its_users");
    let authority = Authority::new();
    let clients = place.rt.scratch.write("clients.pem", &authority.pem);
    let registry = place.secure_registry(&authority, &format!(", clientcas: [{}]", clients.display()), "");
    let there = format!("{}/team/box:1", registry.host);
    let certs = format!("--cert-dir={}", place.at("certs"));
    place.call(&["push", &certs, "box:1", &there]).fails().err_has("certificate");
    let (certificate, key) = authority.sign();
    place.rt.scratch.write("certs/me.cert", certificate);
    place.call(&["push", &certs, "box:1", &there]).fails().err_has("me.key");
    let (_, another) = authority.sign();
    place.rt.scratch.write("certs/me.key", another);
    place.call(&["push", &certs, "box:1", &there]).fails().err_has("me.key");
    place.rt.scratch.write("certs/me.key", key);
    place.call(&["push", &certs, "box:1", &there]).ok();
    place.elsewhere(&["pull", &certs, &there]).ok();
}

#[test]
fn credentials_are_kept_by_a_helper_where_one_is_named() {
    let place = place!("credentials_are_kept_by_a_helper_where_one_is_named");
    let passwords = place.rt.scratch.write("htpasswd", HTPASSWD);
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display());
    let registry = place.registry("", &auth);
    let there = format!("{}/team/box:1", registry.host);
    let (kept, bin) = (place.at("kept"), place.rt.scratch.dir("bin"));
    let helper = format!(
        "#!/bin/sh\ncase $1 in store) cat >{kept} ;; get) cat >/dev/null; cat {kept} 2>/dev/null || \
         {{ echo 'credentials not found in native keychain'; exit 1; }} ;; erase) rm {kept} ;; esac\n"
    );
    let program = bin.join("docker-credential-test");
    fs::write(&program, helper).expect("it can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
    place.rt.scratch.dir("home/.docker");
    let file = place.rt.scratch.write("home/.docker/config.json", r#"{"credsStore":"test"}"#);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let call = |arguments: &[&str]| run(place.command("store", arguments).env("PATH", &path));

    call(&["push", "box:1", &there]).fails().err_has("strata login");
    call(&["login", "--username", "me", "--password", "secret", &registry.host]).ok().out_has("docker-credential-test");
    assert!(!common::read(&file).contains("auths"), "the file holds no secret");
    assert!(common::read(PathBuf::from(&kept)).contains("secret"));
    call(&["push", "box:1", &there]).ok();
    call(&["logout", &registry.host]).ok();
    assert!(!PathBuf::from(&kept).exists());
    place.call(&["push", "box:1", &there]).fails().err_has("docker-credential-test");
}

#[test]
fn short_names_come_from_where_the_configuration_says() {
    let place = place!("short_names_come_from_where_the_configuration_says");
    let registry = place.registry("", "");
    place.call(&["push", "box:1", &format!("{}/hub/library/box:1", registry.host)]).ok();
    place.rt.scratch.write(
        "registries.conf",
        format!("[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}/hub\"\ninsecure = true\n", registry.host),
    );
    place.elsewhere(&["pull", "box:1"]).ok().out_has("box:1 is here");
    place.rt.scratch.write("registries.conf", "unqualified-search-registries = []\n");
    place.elsewhere(&["pull", "box:1"]).fails().err_has("short names are not allowed");
    place.rt.scratch.write("registries.conf", "unqualified = [");
    place.elsewhere(&["pull", "box:1"]).fails().err_has("registries.conf");
}
