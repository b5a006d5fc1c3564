//! qcow2 images against QEMU's own tool: what it writes is read here, what is written here it finds in order.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use strata_devices::block::{Image, Pieces, Qcow2Image, RawImage};

#[expect(clippy::print_stderr, reason = "a skip must be seen")]
/// Whether the tool is there; says so by name where it is not.
fn has_qemu_img(test: &str) -> bool {
    if Command::new("qemu-img").arg("--version").output().is_ok() {
        return true;
    }
    let line = format!("{test}: qemu-img is not installed (package qemu-utils)");
    if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
        let mut file = File::options().append(true).create(true).open(path).expect("the skip file opens");
        writeln!(file, "{line}").expect("the skip file takes a line");
    }
    eprintln!("SKIPPED {line}");
    false
}

fn qemu_img(directory: &Path, arguments: &[&str]) {
    let output = Command::new("qemu-img").current_dir(directory).args(arguments).output().expect("qemu-img runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
}

fn open(path: &Path, writable: bool) -> File {
    File::options().read(true).write(writable).open(path).expect("the image opens")
}

fn content(image: &dyn Image) -> Vec<u8> {
    let mut data = vec![0; image.size() as usize];
    image.read(0, &Pieces::own(&mut data)).expect("the image reads");
    data
}

/// Six MiB: runs, noise and holes.
fn disk() -> Vec<u8> {
    let mut state = 1u64;
    (0..6u64 << 20)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match at >> 18 & 3 {
                0 => 0,
                1 => (at / 1000) as u8,
                _ => (state >> 56) as u8,
            }
        })
        .collect()
}

#[test]
fn images_of_qemu_are_read() {
    if !has_qemu_img("images_of_qemu_are_read") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let raw = disk();
    std::fs::write(path("raw"), &raw).unwrap();
    let kinds: [&[&str]; 5] = [
        &[],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "cluster_size=512"],
        &["-c", "-o", "cluster_size=2M"],
    ];
    for kind in kinds {
        let mut arguments = vec!["convert", "-O", "qcow2", "raw", "image"];
        arguments.extend_from_slice(kind);
        qemu_img(directory.path(), &arguments);
        let image = Qcow2Image::new(open(&path("image"), false), None, true).unwrap();
        assert!(content(&image) == raw, "{kind:?}");
    }
    qemu_img(directory.path(), &["create", "-f", "qcow2", "-F", "raw", "-b", "raw", "top", "7M"]);
    let below = RawImage::new(open(&path("raw"), false), Default::default()).unwrap();
    let image = Qcow2Image::new(open(&path("top"), true), Some(Arc::new(below)), false).unwrap();
    assert!(content(&image)[..raw.len()] == raw[..]);
    assert!(content(&image)[raw.len()..].iter().all(|&byte| byte == 0));
}

#[test]
fn images_written_here_are_in_order_for_qemu() {
    if !has_qemu_img("images_written_here_are_in_order_for_qemu") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut expected = disk();
    std::fs::write(path("raw"), &expected).unwrap();
    let made = File::options().read(true).write(true).create_new(true).open(path("made")).unwrap();
    Qcow2Image::create(&made, expected.len() as u64, Some(("raw", "raw"))).unwrap();
    for (name, arguments) in [
        ("made", &[][..]),
        ("small", &["create", "-f", "qcow2", "-o", "cluster_size=512", "-F", "raw", "-b", "raw", "small"]),
        ("snapshot", &["create", "-f", "qcow2", "-F", "raw", "-b", "raw", "snapshot"]),
    ] {
        if !arguments.is_empty() {
            qemu_img(directory.path(), arguments);
        }
        let below = Arc::new(RawImage::new(open(&path("raw"), false), Default::default()).unwrap());
        for round in 0..2u64 {
            let image = Qcow2Image::new(open(&path(name), true), Some(below.clone()), false).unwrap();
            for number in 0..150u64 {
                let at = (number * 7919 + round * 31) % (expected.len() as u64 / 512 - 256) * 512;
                let length = (number as usize % 200 + 1) * 512;
                let fill = (number * 3 + round) as u8;
                expected[at as usize..at as usize + length].fill(fill);
                image.write(at, &Pieces::own(&mut vec![fill; length])).unwrap();
            }
            image.write_zeroes(1 << 20, 100 * 512, true).unwrap();
            expected[1 << 20..(1 << 20) + 100 * 512].fill(0);
            image.flush().unwrap();
            drop(image);
            if name == "snapshot" {
                // Clusters that a snapshot keeps are left counted too often when they are copied: not an error, a leak.
                qemu_img(directory.path(), &["check", "-r", "leaks", name]);
                if round == 0 {
                    qemu_img(directory.path(), &["snapshot", "-c", "first", name]);
                }
            } else {
                qemu_img(directory.path(), &["check", name]);
            }
        }
        qemu_img(directory.path(), &["convert", "-O", "raw", name, "out"]);
        let mut out = vec![0; expected.len()];
        open(&path("out"), false).read_exact_at(&mut out, 0).unwrap();
        assert!(out == expected, "{name}");
        expected = disk();
    }
}
