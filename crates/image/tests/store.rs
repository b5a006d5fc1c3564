//! The store: names, root file systems, removal, collection, several processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::{fs, io::Write, os::unix::fs::MetadataExt, path::Path, sync::Mutex, thread};

use common::{base_layer, dir, docker_archive, docker_archive_with, file, is_root, layer, second_layer, skip};
use strata_image::{
    Digest, Error, Format, ImportOptions, Progress, Source, Stage, Store, Target, embedded, layer::Limits,
    unmount_rootfs,
};

fn store(at: &Path) -> Store {
    Store::open(&at.join("store")).unwrap()
}

fn import(store: &Store, archive: &Path) -> Vec<strata_image::Image> {
    store.import(Source::path(archive), &ImportOptions::default(), &()).unwrap()
}

fn blobs(store: &Store) -> usize {
    fs::read_dir(store.root().join("blobs/sha256")).unwrap().count()
}

fn nothing_temporary(store: &Store) {
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn an_image_is_found_by_name_digest_and_id() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let image = import(&store, &docker_archive(temp.path(), "team/box:1", &[base_layer()])).remove(0);
    let (digest, id) = (image.digest(), image.id());
    for text in [
        "team/box:1".to_owned(),
        format!("team/box@{digest}"),
        format!("team/box:1@{digest}"),
        digest.to_string(),
        id.to_string(),
        id.short(),
    ] {
        assert_eq!(store.image(&text).unwrap().digest(), digest, "{text}");
    }
    for text in ["team/box", "box:1", "No Reference", "0000", &format!("team/box:1@{id}")] {
        assert!(store.resolve(text).unwrap().is_none(), "{text}");
    }
    assert!(matches!(store.image("box:1"), Err(Error::NotFound(_))));
    store.tag("team/box:1", "other").unwrap();
    assert_eq!(store.inspect("other").unwrap().references, ["other:latest", "team/box:1"]);
    nothing_temporary(&store);
}

#[test]
fn removal_keeps_what_others_need() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    import(&store, &docker_archive(temp.path(), "one", &[base_layer()]));
    import(&store, &docker_archive(temp.path(), "two", &[base_layer(), second_layer()]));
    store.unpack(&store.image("two").unwrap(), &()).unwrap();
    assert_eq!(blobs(&store), 6);
    let removed = store.remove("two", false).unwrap();
    assert_eq!(removed.untagged, ["two:latest"]);
    assert!(removed.bytes_freed > 0);
    assert_eq!(blobs(&store), 3);
    // The layer it shares with the other stays unpacked.
    assert!(store.inspect("one").unwrap().layers[0].unpacked.is_some());
    assert!(matches!(store.remove("two", false), Err(Error::NotFound(_))));
    store.remove("one", false).unwrap();
    assert_eq!(blobs(&store), 0);
    assert!(fs::read_dir(store.root().join("layers")).unwrap().next().is_none());
}

#[test]
fn an_image_in_use_is_not_removed_unless_forced() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let image = import(&store, &docker_archive(temp.path(), "one", &[base_layer()])).remove(0);
    let instance = temp.path().join("instance");
    fs::create_dir(&instance).unwrap();
    let rootfs = store.prepare_rootfs(&image, &instance, "id").unwrap();
    assert!(rootfs.path().join("bin/tool").exists());
    let error = store.remove("one", false).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }) && error.to_string().contains("instance"), "{error}");
    store.remove("one", true).unwrap();
    // The layers stay until the instance goes.
    assert!(rootfs.path().join("bin/tool").exists());
    assert_eq!(fs::read(rootfs.path().join("lower/gone")).unwrap(), b"x");
    store.release_rootfs(&instance, "id").unwrap();
    store.release_rootfs(&instance, "id").unwrap();
    assert_eq!(fs::read_dir(&instance).unwrap().count(), 0);
    let report = store.gc(true).unwrap();
    assert_eq!((report.layers.len(), fs::read_dir(store.root().join("layers")).unwrap().count() > 0), (1, true));
    store.gc(false).unwrap();
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
}

#[test]
fn a_root_file_system_is_the_merged_view_and_writes_stay_apart() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let archive = docker_archive(temp.path(), "two", &[base_layer(), second_layer()]);
    let image = import(&store, &archive).remove(0);
    let plain = temp.path().join("plain");
    store.unpack_to(&image, &plain, &()).unwrap();
    for id in ["a", "b"] {
        let instance = temp.path().join(id);
        fs::create_dir(&instance).unwrap();
        let rootfs = store.prepare_rootfs(&image, &instance, id).unwrap();
        if is_root() {
            assert_eq!(rootfs.notice(), None);
        }
        let root = rootfs.path();
        let (merged, tree) = (common::describe(root), common::describe(&plain));
        let different = common::differences(&merged, &tree);
        assert!(different.is_empty(), "{different:#?}");
        assert!(!root.join("lower/gone").exists() && !root.join("opaque/hidden").exists());
        assert_eq!(fs::read(root.join("replaced")).unwrap(), b"a file now");
        fs::write(root.join("lower/sub/one"), id).unwrap();
        fs::remove_file(root.join("etc/passwd")).unwrap();
    }
    if is_root() {
        // The changes of one instance become a layer.
        let committed = store.commit(&image, &temp.path().join("a/upper"), "three", &()).unwrap();
        let tree = temp.path().join("committed");
        store.unpack_to(&committed, &tree, &()).unwrap();
        let different = common::differences(&common::describe(&tree), &common::describe(&temp.path().join("a/rootfs")));
        assert!(different.is_empty(), "{different:#?}");
    } else {
        skip("a_root_file_system_is_the_merged_view_and_writes_stay_apart (commit)", "needs root");
    }
    for id in ["a", "b"] {
        store.release_rootfs(&temp.path().join(id), id).unwrap();
    }
    assert_eq!(store.unpack(&image, &()).unwrap().len(), 2);
    let passwd = fs::read(store.unpack(&image, &()).unwrap()[0].join("etc/passwd")).unwrap();
    assert!(passwd.starts_with(b"root"), "an instance wrote into the layer");
}

#[test]
fn a_hundred_and_fifty_layers_below_a_long_path_are_stacked() {
    if !is_root() {
        return skip("a_hundred_and_fifty_layers_below_a_long_path_are_stacked", "needs root");
    }
    let temp = common::Temp::new();
    let deep = temp.path().join("long-directory-name-".repeat(9)).join("long-directory-name-".repeat(9));
    let store = Store::open(&deep.join("with,comma:and\\colon")).unwrap();
    let layers: Vec<Vec<u8>> = (0..150)
        .map(|index| layer(&[dir("d/"), file(&format!("d/{index}"), "x"), file("d/last", &index.to_string())]))
        .collect();
    let image = import(&store, &docker_archive(temp.path(), "many", &layers)).remove(0);
    let instance = deep.join("instance");
    fs::create_dir(&instance).unwrap();
    let rootfs = store.prepare_rootfs(&image, &instance, "many").unwrap();
    assert_eq!(rootfs.notice(), None);
    assert_eq!(fs::read_dir(rootfs.path().join("d")).unwrap().count(), 151);
    assert_eq!(fs::read(rootfs.path().join("d/last")).unwrap(), b"149");
    store.release_rootfs(&instance, "many").unwrap();
    let at = temp.path().join("look");
    store.mount_read_only(&image, &at, &()).unwrap();
    assert!(fs::write(at.join("d/x"), "").is_err());
    assert!(at.join("d/3").exists());
    unmount_rootfs(&at).unwrap();
    unmount_rootfs(&at).unwrap();
}

#[test]
fn damaged_blobs_are_refused_and_leave_nothing() {
    let temp = common::Temp::new();
    let source = Store::open(&temp.path().join("source")).unwrap();
    import(&source, &docker_archive(temp.path(), "one", &[base_layer()]));
    let layout = temp.path().join("layout");
    let target = Target { format: Format::OciLayout, path: Some(layout.clone()), name: None };
    source.export(&["one"], &target, &()).unwrap();
    let store = store(temp.path());
    for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let good = fs::read(&path).unwrap();
        for damage in ["flip", "shorter", "longer", "gone"] {
            let mut bytes = good.clone();
            match damage {
                "flip" => bytes[good.len() / 2] ^= 1,
                "shorter" => bytes.truncate(good.len() - 1),
                "longer" => bytes.push(0),
                _ => {}
            }
            fs::write(&path, bytes).unwrap();
            if damage == "gone" {
                fs::remove_file(&path).unwrap();
            }
            let error = store.import(Source::path(&layout), &ImportOptions::default(), &()).unwrap_err().to_string();
            assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{damage}: {error}");
            assert!(store.list().unwrap().is_empty());
            store.gc(false).unwrap();
            assert_eq!(blobs(&store), 0);
            nothing_temporary(&store);
        }
        fs::write(&path, good).unwrap();
    }
    store.import(Source::path(&layout), &ImportOptions::default(), &()).unwrap();
    // The blob is changed where it lies.
    let image = store.image("one").unwrap();
    let blob = store.root().join("blobs/sha256").join(image.layers().unwrap()[0].digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    let at = bytes.windows(6).position(|window| window == b"#!tool").unwrap();
    bytes[at] ^= 1;
    fs::write(&blob, bytes).unwrap();
    assert!(matches!(store.unpack(&image, &()), Err(Error::DigestMismatch { .. })));
    nothing_temporary(&store);
    assert!(store.inspect("one").unwrap().layers[0].unpacked.is_none());
    // Importing again repairs it.
    store.import(Source::path(&layout), &ImportOptions::default(), &()).unwrap();
    store.unpack(&image, &()).unwrap();
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let wrong = [Digest::of(b"another layer").to_string()];
    let archive = docker_archive_with(temp.path(), "one", &[base_layer()], &wrong);
    let error = store.import(Source::path(archive), &ImportOptions::default(), &()).unwrap_err();
    assert!(matches!(&error, Error::DigestMismatch { expected, .. } if *expected == wrong[0]), "{error}");
    // A compressed one is seen when it is unpacked.
    let zstd = zstd::encode_all(&base_layer()[..], 1).unwrap();
    let archive = docker_archive_with(temp.path(), "one", &[zstd], &wrong);
    let image = import(&store, &archive).remove(0);
    assert!(matches!(store.unpack(&image, &()), Err(Error::DigestMismatch { .. })));
    nothing_temporary(&store);
}

#[test]
fn garbage_is_not_an_image() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let tar = layer(&[file("some", "file")]);
    for bytes in [&b""[..], b"x", &[0; 4096], &[0xa5; 10_000], &tar, &base_layer()[..700]] {
        let source = Source::stream(bytes, "the stream");
        let error = store.import(source, &ImportOptions::default(), &()).unwrap_err();
        assert!(error.to_string().contains("the stream"), "{error}");
        nothing_temporary(&store);
    }
}

#[test]
fn compressed_archives_come_through_a_pipe() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let plain = fs::read(docker_archive(temp.path(), "one", &[base_layer()])).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    for (bytes, name) in [(gzip.finish().unwrap(), "gz"), (zstd::encode_all(&plain[..], 1).unwrap(), "zst")] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let sender = thread::spawn(move || bytes.chunks(777).for_each(|chunk| writer.write_all(chunk).unwrap()));
        let options = ImportOptions { name: Some(name.to_owned()), ..ImportOptions::default() };
        store.import(Source::stream(reader, "pipe"), &options, &()).unwrap();
        sender.join().unwrap();
    }
    let digests: Vec<Digest> = store.list().unwrap().iter().map(|named| named.digest).collect();
    assert_eq!(digests.len(), 2);
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn several_images_are_exported_and_picked() {
    let temp = common::Temp::new();
    let first = Store::open(&temp.path().join("first")).unwrap();
    import(&first, &docker_archive(temp.path(), "one:1", &[base_layer()]));
    import(&first, &docker_archive(temp.path(), "two:2", &[base_layer(), second_layer()]));
    for format in [Format::OciArchive, Format::DockerArchive, Format::OciLayout] {
        let path = temp.path().join(format!("{format:?}"));
        first.export(&["one:1", "two:2"], &Target { format, path: Some(path.clone()), name: None }, &()).unwrap();
        let all = Store::open(&temp.path().join(format!("all-{format:?}"))).unwrap();
        assert_eq!(import(&all, &path).len(), 2);
        assert_eq!(all.list().unwrap().iter().map(|n| n.reference.as_str()).collect::<Vec<_>>(), ["one:1", "two:2"]);
        let picked = Store::open(&temp.path().join(format!("picked-{format:?}"))).unwrap();
        let options = ImportOptions { name: Some("mine".to_owned()), ..ImportOptions::default() };
        let images = picked.import(Source::path(&path).pick("two:2"), &options, &()).unwrap();
        assert_eq!(images[0].id(), first.image("two:2").unwrap().id());
        assert!(picked.import(Source::path(&path), &options, &()).unwrap_err().to_string().contains("2 images"));
        let error = picked.import(Source::path(&path).pick("three"), &options, &()).unwrap_err().to_string();
        assert!(error.contains("one:1, two:2"), "{error}");
    }
}

#[test]
fn the_hosts_platform_is_picked_out_of_nested_indexes() {
    let temp = common::Temp::new();
    let first = Store::open(&temp.path().join("first")).unwrap();
    let image = import(&first, &docker_archive(temp.path(), "one:1", &[base_layer()])).remove(0);
    let layout = temp.path().join("layout");
    let target = Target { format: Format::OciLayout, path: Some(layout.clone()), name: None };
    first.export(&["one:1"], &target, &()).unwrap();
    let put = |value: serde_json::Value| {
        let bytes = serde_json::to_vec(&value).unwrap();
        let digest = Digest::of(&bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
        (digest, bytes.len())
    };
    let index = "application/vnd.oci.image.index.v1+json";
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let size = fs::metadata(layout.join("blobs/sha256").join(image.digest().hex())).unwrap().len();
    let architecture = strata_image::Platform::host().architecture;
    let (inner, inner_size) = put(serde_json::json!({ "schemaVersion": 2, "mediaType": index, "manifests": [
        { "mediaType": manifest, "digest": Digest::of(b"absent"), "size": 5, "platform": { "os": "linux", "architecture": "riscv64" } },
        { "mediaType": manifest, "digest": Digest::of(b"absent2"), "size": 5, "annotations": { "vnd.docker.reference.type": "attestation-manifest" },
          "platform": { "os": "unknown", "architecture": "unknown" } },
        { "mediaType": manifest, "digest": image.digest(), "size": size, "platform": { "os": "linux", "architecture": architecture } } ] }));
    let write_index = |digest: Digest, size: usize| {
        let document = serde_json::json!({ "schemaVersion": 2, "manifests": [ { "mediaType": index, "digest": digest, "size": size,
            "annotations": { "org.opencontainers.image.ref.name": "v9" } } ] });
        fs::write(layout.join("index.json"), document.to_string()).unwrap();
    };
    write_index(inner, inner_size);
    let store = store(temp.path());
    let images = import(&store, &layout);
    assert_eq!(images[0].digest(), image.digest());
    // A bare tag is one of the directory's name; the index's digest names the image too.
    assert_eq!(images[0].reference().unwrap().to_string(), "layout:v9");
    assert!(store.resolve(&format!("layout@{inner}")).unwrap().is_some());
    let options = ImportOptions {
        platform: Some(strata_image::Platform::parse("linux/s390x").unwrap()),
        ..ImportOptions::default()
    };
    let error = store.import(Source::path(&layout), &options, &()).unwrap_err().to_string();
    assert!(error.contains("linux/s390x") && error.contains("linux/riscv64"), "{error}");
    // Indexes without end.
    let mut nested = (inner, inner_size);
    for _ in 0..6 {
        nested = put(
            serde_json::json!({ "schemaVersion": 2, "manifests": [ { "mediaType": index, "digest": nested.0, "size": nested.1 } ] }),
        );
    }
    write_index(nested.0, nested.1);
    let error = store.import(Source::path(&layout), &ImportOptions::default(), &()).unwrap_err().to_string();
    assert!(error.contains("deeper"), "{error}");
}

#[test]
fn limits_hold_for_stores() {
    let temp = common::Temp::new();
    let limits = Limits { bytes: 100 << 10, ..Limits::default() };
    let store = Store::open_with(&temp.path().join("store"), limits).unwrap();
    let zeros = "\0".repeat(1 << 20);
    let bomb = zstd::encode_all(&layer(&[file("zeros", &zeros)])[..], 3).unwrap();
    let ids = [Digest::of(b"whatever").to_string()];
    let image = import(&store, &docker_archive_with(temp.path(), "bomb", &[bomb], &ids)).remove(0);
    let error = store.unpack(&image, &()).unwrap_err().to_string();
    assert!(error.contains("102400"), "{error}");
    nothing_temporary(&store);
}

#[test]
fn many_at_once_unpack_a_layer_once_and_collect_safely() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let archive = docker_archive(temp.path(), "one", &[base_layer(), second_layer()]);
    thread::scope(|scope| {
        for index in 0..6 {
            let (store, archive) = (&store, &archive);
            scope.spawn(move || {
                for round in 0..5 {
                    let name = format!("n{index}-{round}");
                    let options = ImportOptions { name: Some(name.clone()), ..ImportOptions::default() };
                    let image = store.import(Source::path(archive), &options, &()).unwrap().remove(0);
                    let instance = store.root().join(&name);
                    fs::create_dir(&instance).unwrap();
                    let rootfs = store.prepare_rootfs(&image, &instance, &name).unwrap();
                    assert!(rootfs.path().join("lower/passwd").exists());
                    store.release_rootfs(&instance, &name).unwrap();
                    store.remove(&name, true).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..10 {
                store.gc(false).unwrap();
            }
        });
    });
    store.gc(false).unwrap();
    assert_eq!(blobs(&store), 0);
    nothing_temporary(&store);
}

#[test]
fn left_overs_of_the_dead_are_collected() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let left = store.root().join("tmp/1.0/fs/deep");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("file"), vec![1; 100_000]).unwrap();
    fs::write(store.root().join("blobs/sha256").join(Digest::of(b"x").hex()), "x").unwrap();
    let would = store.gc(true).unwrap();
    assert_eq!((would.temporaries, would.blobs.len()), (1, 1));
    assert!(left.exists());
    let did = store.gc(false).unwrap();
    assert_eq!(did.bytes_freed, would.bytes_freed);
    assert!(did.bytes_freed >= 100_000);
    nothing_temporary(&store);
}

#[test]
fn a_layer_of_another_boot_is_unpacked_again() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let image = import(&store, &docker_archive(temp.path(), "one", &[base_layer()])).remove(0);
    let layer = store.unpack(&image, &()).unwrap().remove(0);
    let state = layer.with_file_name("layer.json");
    // As a power failure would leave it.
    fs::write(layer.join("bin/tool"), "").unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
    value["boot"] = "another".into();
    fs::write(&state, value.to_string()).unwrap();
    store.unpack(&image, &()).unwrap();
    assert_eq!(fs::read(layer.join("bin/tool")).unwrap(), b"#!tool");
}

#[test]
fn the_embedded_image_is_there_and_always_the_same() {
    let temp = common::Temp::new();
    let (one, two) = (Store::open(&temp.path().join("one")).unwrap(), Store::open(&temp.path().join("two")).unwrap());
    let image = one.image(embedded::REFERENCE).unwrap();
    assert_eq!(image.digest(), embedded::ensure(&two).unwrap().digest());
    assert_eq!(image.run_config().cmd, ["/bin/sh"]);
    let root = temp.path().join("root");
    one.unpack_to(&image, &root, &()).unwrap();
    let program = root.join(&embedded::PROGRAM[1..]);
    let output = std::process::Command::new(&program).arg("--list").output().unwrap();
    assert!(output.status.success());
    for name in String::from_utf8(output.stdout).unwrap().lines().filter(|name| *name != "toolbox") {
        assert!(fs::canonicalize(root.join("bin").join(name)).unwrap().ends_with("bin/toolbox"), "{name}");
    }
    assert_eq!(fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    // A name somebody else took is taken back.
    import(&one, &docker_archive(temp.path(), embedded::REFERENCE, &[base_layer()]));
    assert_eq!(one.image(embedded::REFERENCE).unwrap().digest(), image.digest());
    one.remove(embedded::REFERENCE, false).unwrap();
    assert!(matches!(one.remove(embedded::REFERENCE, false), Err(Error::NotFound(_))));
}

#[test]
fn progress_ends_at_the_total() {
    struct Seen(Mutex<Vec<(Stage, u64, Option<u64>)>>);
    impl Progress for Seen {
        fn update(&self, stage: Stage, _: &str, done: u64, total: Option<u64>) {
            self.0.lock().unwrap().push((stage, done, total));
        }
    }
    let temp = common::Temp::new();
    let store = store(temp.path());
    let archive = docker_archive(temp.path(), "one", &[layer(&[file("big", &"x".repeat(5 << 20))])]);
    let seen = Seen(Mutex::default());
    let image = store.import(Source::path(archive), &ImportOptions::default(), &seen).unwrap().remove(0);
    store.unpack(&image, &seen).unwrap();
    let seen = seen.0.into_inner().unwrap();
    for stage in [Stage::Copy, Stage::Unpack] {
        let of: Vec<_> = seen.iter().filter(|(s, ..)| *s == stage).collect();
        assert!(of.len() >= 5, "{stage:?} told {} times", of.len());
        assert_eq!(of.last().map(|(_, done, total)| Some(*done) == *total), Some(true), "{stage:?}");
    }
}

#[test]
fn users_are_looked_up_inside_the_root_only() {
    let temp = common::Temp::new();
    let store = store(temp.path());
    let image = import(&store, &docker_archive(temp.path(), "one", &[base_layer()])).remove(0);
    let root = temp.path().join("root");
    store.unpack_to(&image, &root, &()).unwrap();
    let user = strata_image::resolve_user(&root, "www").unwrap();
    assert_eq!((user.uid, user.gid, user.additional_gids), (33, 34, vec![50]));
    // The image's files are links to the host's, or no files at all.
    for (name, target) in [("passwd", "/etc/passwd"), ("group", "../../../../../../etc/group")] {
        fs::remove_file(root.join("etc").join(name)).unwrap();
        std::os::unix::fs::symlink(target, root.join("etc").join(name)).unwrap();
    }
    assert!(strata_image::resolve_user(&root, "daemon").is_err(), "the host's passwd was read");
    fs::remove_file(root.join("etc/passwd")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("etc/passwd"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(strata_image::resolve_user(&root, "7:8").unwrap().uid, 7);
}
