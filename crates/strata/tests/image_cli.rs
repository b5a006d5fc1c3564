//! `strata image`, beside skopeo and umoci: what one of them writes, the others read, and the trees are the same.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use common::{Out, Runtime, bundle, is_strata, run, skip};
use serde_json::Value;

struct Store {
    rt: Runtime,
}

impl Store {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.rt.command(["--store"]);
        command.arg(self.rt.scratch.join("store")).args(arguments);
        command
    }

    #[track_caller]
    fn call(&self, arguments: &[&str]) -> Out {
        run(&mut self.command(arguments))
    }

    /// A path below the scratch directory, as text.
    fn at(&self, name: &str) -> String {
        self.rt.scratch.join(name).display().to_string()
    }

    /// Imports the busybox image as `box:1`.
    #[track_caller]
    fn with_box(self) -> Store {
        let archive = bundle::image_archive(&self.rt.scratch, "localhost/box:1");
        self.call(&["image", "import", &format!("docker-archive:{}", archive.display()), "--name", "box:1"]).ok();
        self
    }

    #[track_caller]
    fn run(&self, image: &str, arguments: &[&str]) -> Out {
        let name = self.rt.id();
        self.call(&[&["run", "--name", &name, image, "--"][..], arguments].concat())
    }
}

macro_rules! store {
    ($test:expr $(, $program:expr)*) => {{
        let name = concat!("image_cli::", $test);
        require!(name, "tar", "sha256sum" $(, $program)*);
        if !is_strata() {
            return skip(name, "the program under test is not Strata");
        }
        Store { rt: Runtime::new() }
    }};
}

fn peer(program: &str, arguments: &[&str]) -> Out {
    run(Command::new(program).args(arguments))
}

/// Everything about a tree that an image keeps: type, mode, owner, time, size or target, content; by path.
fn describe(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, at: &Path, found: &mut BTreeMap<String, String>, links: &mut BTreeMap<u64, String>) {
        let mut entries: Vec<_> = fs::read_dir(at).expect("the tree can be read").flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            let meta = fs::symlink_metadata(&path).expect("an entry has metadata");
            let kind = meta.mode() & libc::S_IFMT;
            let content = if meta.is_file() {
                // The first name of a file stands for the others.
                let first = links.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
                format!(
                    "{:?} {first}",
                    fs::read(&path).map(|c| (c.len(), c.iter().map(|b| u64::from(*b)).sum::<u64>()))
                )
            } else if meta.is_symlink() {
                format!("{:?}", fs::read_link(&path))
            } else {
                format!("{:x}", meta.rdev())
            };
            found.insert(
                name,
                format!("{kind:o} {:o} {}:{} {} {content}", meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()),
            );
            if meta.is_dir() {
                walk(root, &path, found, links);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found, &mut BTreeMap::new());
    found
}

#[track_caller]
fn assert_same_tree(one: &Path, other: &Path) {
    let (one, other) = (describe(one), describe(other));
    let differences: Vec<_> = one
        .keys()
        .chain(other.keys())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter(|k| one.get(*k) != other.get(*k))
        .map(|k| (k, one.get(k), other.get(k)))
        .take(10)
        .collect();
    assert!(differences.is_empty(), "the trees differ: {differences:#?}");
}

#[test]
fn an_archive_is_imported_run_tagged_and_removed() {
    let s = store!("an_archive_is_imported_run_tagged_and_removed").with_box();
    s.run("box:1", &["sh", "-c", "echo $FROM; pwd"]).ok().out_is("image\n/");
    // Runs do not change the image, nor one another.
    s.run("box:1", &["sh", "-c", "echo x > /written; rm /etc/passwd"]).ok();
    s.run("box:1", &["sh", "-c", "test ! -e /written && test -e /etc/passwd"]).ok();

    s.call(&["image", "ls"]).ok().out_has("box");
    s.call(&["image", "tag", "box:1", "other:2"]).ok();
    s.call(&["image", "ls"]).ok().out_has("other");
    let inspected = s.call(&["image", "inspect", "other:2"]).ok().json();
    assert!(inspected.to_string().contains("FROM=image"), "{inspected:#}");
    s.run("other:2", &["true"]).ok();
    s.call(&["image", "rm", "box:1"]).ok();
    s.run("other:2", &["true"]).ok();
    s.run("box:1", &["true"]).code_is(125).err_has("box:1");
    s.call(&["image", "rm", "box:1"]).fails().err_has("box:1");
    s.call(&["image", "rm", "other:2"]).ok();
    s.call(&["image", "gc"]).ok();
    // Nothing of the image stays on disk: its busybox alone is larger than this.
    let left = run(Command::new("du").arg("-sk").arg(s.rt.scratch.join("store")));
    let kib: u64 = left.ok().stdout.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a size");
    assert!(kib < 1000, "{kib} KiB are left after gc");
    s.rt.nothing_left();
}

#[test]
fn a_pipe_is_imported() {
    let s = store!("a_pipe_is_imported");
    let archive = bundle::image_archive(&s.rt.scratch, "localhost/box:1");
    let mut command = s.command(&["image", "import", "-", "--name", "piped"]);
    run(Command::new("sh")
        .args(["-c", "cat \"$0\" | \"$@\""])
        .arg(&archive)
        .arg(command.get_program())
        .args(command.get_args()))
    .ok();
    s.run("piped", &["echo", "through a pipe"]).ok().out_is("through a pipe");
    command.stdin(std::process::Stdio::null());
    run(&mut command).fails();
}

#[test]
fn skopeo_reads_what_is_exported_and_writes_what_is_imported() {
    let s = store!("skopeo_reads_what_is_exported_and_writes_what_is_imported", "skopeo").with_box();
    for (form, target) in [("oci", "layout:tag"), ("oci-archive", "layout.tar"), ("docker-archive", "docker.tar")] {
        let reference = format!("{form}:{}", s.at(target));
        s.call(&["image", "export", "box:1", &reference]).ok();
        let seen = peer("skopeo", &["inspect", &reference]).ok().json();
        assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(1), "{form}: {seen:#}");
        assert!(seen["Env"].to_string().contains("FROM=image"), "{form}: {seen:#}");
        // Back again, through skopeo into each other form.
        let copy = format!("oci:{}:tag", s.at(&format!("copy-{form}")));
        peer("skopeo", &["--insecure-policy", "copy", &reference, &copy]).ok();
        let name = format!("from-{form}");
        s.call(&["image", "import", &copy, "--name", &name]).ok();
        s.run(&name, &["echo", form]).ok().out_is(form);
    }
    let compressed = format!("oci:{}:tag", s.at("zstd"));
    let source = format!("oci:{}", s.at("layout:tag"));
    peer(
        "skopeo",
        &["--insecure-policy", "copy", "--dest-compress-format", "zstd", "--dest-compress", &source, &compressed],
    )
    .ok();
    s.call(&["image", "import", &compressed, "--name", "zstd"]).ok();
    s.run("zstd", &["echo", "zstd"]).ok().out_is("zstd");
}

#[test]
fn layers_come_out_as_umoci_makes_them() {
    let s = store!("layers_come_out_as_umoci_makes_them", "umoci").with_box();
    let layout = s.at("layout");
    s.call(&["image", "export", "box:1", &format!("oci:{layout}:one")]).ok();
    let image = format!("{layout}:one");
    let bundle = s.at("umoci");
    peer("umoci", &["unpack", "--image", &image, &bundle]).ok();
    let root = s.rt.scratch.join("umoci/rootfs");
    s.call(&["image", "unpack", "box:1", &s.at("plain")]).ok();
    assert_same_tree(&root, &s.rt.scratch.join("plain"));

    // A second layer: files removed, replaced by directories and the other way, made opaque, linked, special.
    fs::remove_file(root.join("etc/group")).expect("it is there");
    fs::remove_dir_all(root.join("home")).expect("it is there");
    fs::write(root.join("home"), "a file now").expect("it can be written");
    fs::remove_file(root.join("bin/zcat")).expect("it is there");
    fs::create_dir_all(root.join("bin/zcat/below")).expect("it can be made");
    fs::write(root.join("var/ünï cöde"), vec![7; 100_000]).expect("it can be written");
    fs::hard_link(root.join("var/ünï cöde"), root.join("var/again")).expect("it can be linked");
    symlink("../../../outside", root.join("var/link")).expect("it can be linked");
    fs::set_permissions(root.join("var/again"), fs::Permissions::from_mode(0o4750)).expect("a mode can be set");
    std::os::unix::fs::lchown(root.join("var/link"), Some(1234), Some(5678)).expect("an owner can be set");
    run(Command::new("mkfifo").arg(root.join("var/pipe"))).ok();
    run(Command::new("touch").args(["-d", "2001-02-03T04:05:06Z"]).arg(root.join("tmp"))).ok();
    peer("umoci", &["repack", "--image", &format!("{layout}:two"), &bundle]).ok();
    let fresh = s.at("fresh");
    peer("umoci", &["unpack", "--image", &format!("{layout}:two"), &fresh]).ok();
    s.call(&["image", "import", &format!("oci:{layout}:two"), "--name", "two"]).ok();
    s.call(&["image", "unpack", "two", &s.at("two")]).ok();
    assert_same_tree(&s.rt.scratch.join("fresh/rootfs"), &s.rt.scratch.join("two"));
    // The same through the stack of layers that a run sees.
    s.run(
        "two",
        &["sh", "-c", "cat /home; ls -d /bin/zcat/below; ls /etc/group; stat -c %a /var/again; echo $((1+1))"],
    )
    .ok()
    .out_has("a file now/bin/zcat/below")
    .out_has("4750")
    .err_has("/etc/group");
    let inspected = s.call(&["image", "inspect", "two"]).ok().json();
    assert!(inspected.to_string().matches("sha256:").count() >= 2, "{inspected:#}");
}

#[test]
fn hostile_and_damaged_images_are_refused() {
    let s = store!("hostile_and_damaged_images_are_refused").with_box();
    // A blob whose content is not what its name says.
    let layout = s.at("layout");
    s.call(&["image", "export", "box:1", &format!("oci:{layout}:tag")]).ok();
    let blobs = fs::read_dir(format!("{layout}/blobs/sha256")).expect("the layout has blobs").flatten();
    let largest = blobs.max_by_key(|b| b.metadata().map_or(0, |m| m.len())).expect("a blob").path();
    let mut content = fs::read(&largest).expect("it can be read");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&largest, content).expect("it can be written");
    // Into another store: the first has the true blob already and need not read this one.
    let other = Store { rt: Runtime::new() };
    other.call(&["image", "import", &format!("oci:{layout}:tag"), "--name", "damaged"]).fails();
    other.call(&["image", "ls"]).ok().out_lacks("damaged");
    s.call(&["image", "import", &format!("oci:{}:tag", s.at("nowhere")), "--name", "x"]).fails().err_has("nowhere");
    fs::write(s.at("garbage.tar"), vec![0xa5; 10_000]).expect("it can be written");
    s.call(&["image", "import", &format!("docker-archive:{}", s.at("garbage.tar")), "--name", "x"]).fails();

    // Layers that try to write outside of the root: by `..`, by an absolute name, through a link made before.
    let victim = s.rt.scratch.dir("victim");
    for (at, (members, transform)) in [
        (vec!["evil"], "s,^evil,../../../../../../../..VICTIM/evil,"),
        (vec!["evil"], "s,^evil,VICTIM/evil,"),
        (vec!["link", "link-evil"], "s,^link-evil,link/evil,"),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = s.rt.scratch.dir(&format!("hostile{at}"));
        fs::write(directory.join("evil"), "evil").expect("it can be written");
        fs::write(directory.join("link-evil"), "evil").expect("it can be written");
        symlink(&victim, directory.join("link")).expect("it can be linked");
        let archive = s.at(&format!("hostile{at}.tar"));
        let transform = transform.replace("VICTIM", &victim.display().to_string());
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&directory).args([
            "--absolute-names",
            "--transform",
            &format!("flags=rh;{transform}"),
            "-cf",
            &archive,
        ]);
        run(tar.args(&members)).ok();
        let layer = fs::read(&archive).expect("the layer was made");
        let image = docker_archive(&s, at, &layer);
        let name = format!("hostile{at}");
        if s.call(&["image", "import", &format!("docker-archive:{image}"), "--name", &name]).code == 0 {
            s.call(&["image", "unpack", &name, &s.at(&format!("out{at}"))]);
            s.run(&name, &["true"]);
        }
        let made = fs::read_dir(&victim).expect("it can be read").count();
        assert_eq!(made, 0, "hostile layer {at} wrote outside of its root");
    }
    s.rt.nothing_left();
}

/// Wraps a layer as `docker save` would.
fn docker_archive(s: &Store, at: usize, layer: &[u8]) -> String {
    let directory = s.rt.scratch.dir(&format!("wrap{at}"));
    fs::write(directory.join("layer.tar"), layer).expect("it can be written");
    let sum = run(Command::new("sha256sum").arg(directory.join("layer.tar"))).ok().text()[..64].to_owned();
    let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] } });
    let manifest: Value =
        serde_json::json!([{ "Config": "config.json", "RepoTags": ["localhost/h:1"], "Layers": ["layer.tar"] }]);
    fs::write(directory.join("config.json"), config.to_string()).expect("it can be written");
    fs::write(directory.join("manifest.json"), manifest.to_string()).expect("it can be written");
    let archive = s.at(&format!("wrap{at}.tar"));
    run(Command::new("tar").arg("-C").arg(&directory).args([
        "-cf",
        &archive,
        "manifest.json",
        "config.json",
        "layer.tar",
    ]))
    .ok();
    archive
}
