//! Images beside the tools others use: what skopeo and umoci make is read, what is written they read, and trees agree.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use common::{describe, differences, installed, is_root, run, skip};
use strata_image::{Format, ImportOptions, Source, Store, Target};

fn image(store: &Store, dir: &Path) {
    let archive = common::docker_archive(dir, "box:1", &[common::base_layer(), common::second_layer()]);
    store.import(Source::path(archive), &ImportOptions::default(), &()).unwrap();
}

#[test]
fn exported_images_are_read_by_skopeo_and_come_back_the_same() {
    if !installed("skopeo") {
        return skip("exported_images_are_read_by_skopeo_and_come_back_the_same", "skopeo is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    image(&store, dir.path());
    let before = store.image("box:1").unwrap();
    for (transport, format) in
        [("oci", Format::OciLayout), ("oci-archive", Format::OciArchive), ("docker-archive", Format::DockerArchive)]
    {
        let path = dir.path().join(transport);
        let target = Target { format, path: Some(path.clone()), name: None };
        store.export(&["box:1"], &target, &()).unwrap();
        let source = format!("{transport}:{}", path.display());
        for compression in ["gzip", "zstd"] {
            let copy = format!("{}-{compression}", path.display());
            let back = format!("oci:{copy}:v");
            let arguments = ["--insecure-policy", "copy", "--dest-compress-format", compression, "--dest-compress"];
            run(Command::new("skopeo").args(arguments).args([&source, &back]));
            let name = format!("{transport}-{compression}:1");
            let options = ImportOptions { name: Some(name.clone()), ..ImportOptions::default() };
            let images = store.import(Source::path(&copy), &options, &()).unwrap();
            let chains = |image: &strata_image::Image| {
                image.layers().unwrap().into_iter().map(|layer| layer.chain_id).collect::<Vec<_>>()
            };
            assert_eq!(chains(&images[0]), chains(&before), "{name}");
            assert_eq!(images[0].run_config(), before.run_config(), "{name}");
        }
    }
}

#[test]
fn layers_unpack_as_umoci_unpacks_them() {
    let name = "layers_unpack_as_umoci_unpacks_them";
    if !installed("umoci") {
        return skip(name, "umoci is not installed");
    }
    if !is_root() {
        return skip(name, "needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    image(&store, dir.path());
    let layout = dir.path().join("layout");
    let target = Target { format: Format::OciLayout, path: Some(layout.clone()), name: Some("t".to_owned()) };
    store.export(&["box:1"], &target, &()).unwrap();
    let bundle = dir.path().join("bundle");
    let image = format!("{}:t", layout.display());
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    let ours = dir.path().join("ours");
    store.unpack_to(&store.image("box:1").unwrap(), &ours, &()).unwrap();
    let different = differences(&describe(&bundle.join("rootfs")), &describe(&ours));
    assert!(different.is_empty(), "{different:#?}");

    // A layer that umoci makes of changes.
    let root = bundle.join("rootfs");
    fs::remove_dir_all(root.join("lower")).unwrap();
    fs::write(root.join("lower"), "now a file").unwrap();
    fs::remove_file(root.join("tmp/owned")).unwrap();
    fs::create_dir_all(root.join("tmp/owned/below")).unwrap();
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o4711)).unwrap();
    run(Command::new("umoci").args(["repack", "--image", &format!("{}:u", layout.display())]).arg(&bundle));
    let second = dir.path().join("second");
    run(Command::new("umoci").args(["unpack", "--image", &format!("{}:u", layout.display())]).arg(&second));
    let options = ImportOptions { name: Some("box:2".to_owned()), ..ImportOptions::default() };
    let source = Source::parse(&format!("oci:{}:u", layout.display()));
    let images = store.import(source, &options, &()).unwrap();
    let ours = dir.path().join("ours2");
    store.unpack_to(&images[0], &ours, &()).unwrap();
    let different = differences(&describe(&second.join("rootfs")), &describe(&ours));
    assert!(different.is_empty(), "{different:#?}");
}
