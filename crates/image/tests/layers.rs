//! Layers, good and hostile, applied to directories.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

use std::{
    fs,
    io::Write,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::Path,
};

use common::{describe, differences, dir, file, is_root, layer, link, skip};
use proptest::prelude::*;
use strata_image::layer::{
    Limits,
    apply::{Applied, ApplyError, Marks, apply},
    archive::{Entry, Kind, scan},
    pack,
};

fn marks() -> Marks {
    if is_root() { Marks::Trusted } else { Marks::User }
}

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn unpack(bytes: &[u8], to: &Path, lowers: &[&Path]) -> Result<Applied, ApplyError> {
    unpack_within(bytes, to, lowers, Limits::default())
}

fn unpack_within(bytes: &[u8], to: &Path, lowers: &[&Path], limits: Limits) -> Result<Applied, ApplyError> {
    fs::create_dir_all(to).unwrap();
    apply(bytes, open(to), lowers.iter().map(|path| open(path)).collect(), marks(), limits)
}

#[track_caller]
fn refused(entries: &[(Entry, &[u8])], want: &str) {
    let temp = tempfile::tempdir().unwrap();
    let error = unpack(&layer(entries), &temp.path().join("root"), &[]).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "something was made beside the root");
}

#[test]
fn a_path_with_dotdot_is_refused() {
    refused(&[file("../evil", "x")], "..");
    refused(&[file("a/../../evil", "x")], "..");
    refused(&[dir("a/.."), file("a/../evil", "x")], "..");
    refused(&[link("a", "../../etc/passwd", Kind::HardLink)], "..");
}

#[test]
fn an_absolute_path_lands_inside() {
    let temp = tempfile::tempdir().unwrap();
    let name = temp.path().join("outside").display().to_string();
    let root = temp.path().join("root");
    unpack(&layer(&[file(&name, "x")]), &root, &[]).unwrap();
    assert!(!Path::new(&name).exists());
    assert_eq!(fs::read(root.join(&name[1..])).unwrap(), b"x");
}

#[test]
fn a_link_made_by_the_archive_never_leads_outside() {
    let temp = tempfile::tempdir().unwrap();
    let victim = temp.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let absolute = victim.display().to_string();
    let root = temp.path().join("root");
    let bytes = layer(&[
        link("absolute", &absolute, Kind::Symlink),
        file("absolute/evil", "1"),
        link("up", "../../../../../..", Kind::Symlink),
        file("up/evil", "2"),
        link("one", "two", Kind::Symlink),
        dir("two/"),
        link("two/three", "../../victim", Kind::Symlink),
        file("one/three/evil", "3"),
        link("p", "/proc/self/root", Kind::Symlink),
        file("p/evil", "4"),
    ]);
    unpack(&bytes, &root, &[]).unwrap();
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    // As the programs of the image would see the links.
    assert_eq!(fs::read(root.join(&absolute[1..]).join("evil")).unwrap(), b"1");
    assert_eq!(fs::read(root.join("evil")).unwrap(), b"2");
    assert_eq!(fs::read(root.join("victim/evil")).unwrap(), b"3");
}

#[test]
fn a_link_as_the_last_part_is_replaced_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("passwd");
    fs::write(&outside, "safe").unwrap();
    let root = temp.path().join("root");
    let target = outside.display().to_string();
    unpack(&layer(&[link("l", &target, Kind::Symlink), file("l", "evil")]), &root, &[]).unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"safe");
    assert!(fs::symlink_metadata(root.join("l")).unwrap().is_file());
    // A directory entry over a link replaces it too, so that its mode and owner do not go to the target.
    let root = temp.path().join("root2");
    unpack(&layer(&[link("l", "/etc", Kind::Symlink), dir("l/")]), &root, &[]).unwrap();
    assert!(fs::symlink_metadata(root.join("l")).unwrap().is_dir());
}

#[test]
fn a_hard_link_to_a_file_of_the_host_is_refused() {
    refused(&[link("mine", "/etc/passwd", Kind::HardLink)], "does not exist in the image");
    refused(
        &[link("e", "/etc", Kind::Symlink), link("mine", "e/passwd", Kind::HardLink)],
        "does not exist in the image",
    );
    refused(&[dir("d/"), link("mine", "d", Kind::HardLink)], "is a directory");
}

#[test]
fn links_in_a_circle_end() {
    refused(
        &[link("a", "b", Kind::Symlink), link("b", "a", Kind::Symlink), file("a/evil", "x")],
        "too many symbolic links",
    );
}

#[test]
fn whiteouts_of_dots_are_refused() {
    refused(&[file(".wh...", "")], "hides no file");
    refused(&[file("a/.wh..", "")], "hides no file");
    refused(&[file(".wh.", "")], "hides no file");
}

#[test]
fn names_with_nul_or_too_long_are_refused() {
    let long = "n".repeat(256);
    refused(&[file(&long, "")], "255 bytes");
    let deep = "d/".repeat(1100);
    refused(&[file(&format!("{deep}x"), "")], "deep");
    let path = "abcdefghi/".repeat(500);
    refused(&[file(&format!("{path}x"), "")], "limit is 4096");
}

#[test]
fn overlayfs_marks_cannot_be_smuggled_in() {
    refused(&[(Entry::new("gone", Kind::CharDevice, 0o600), b"")], "0:0");
    let temp = tempfile::tempdir().unwrap();
    let mut entry = dir("d/").0;
    entry.xattrs = vec![
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.overlay.redirect".to_vec(), b"/etc".to_vec()),
        (b"user.mine".to_vec(), b"kept".to_vec()),
    ];
    unpack(&layer(&[(entry, b"")]), temp.path(), &[]).unwrap();
    let seen = describe(temp.path());
    assert!(!seen["d"].contains("overlay") && seen["d"].contains("user.mine=kept"), "{seen:?}");
}

#[test]
fn bombs_reach_a_limit() {
    let temp = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 10, bytes: 1 << 20, header: 4096, ..Limits::default() };
    let many: Vec<(Entry, &[u8])> = (0..20).map(|index| dir(&format!("d{index}"))).collect();
    let error = unpack_within(&layer(&many), &temp.path().join("a"), &[], limits).unwrap_err().to_string();
    assert_eq!(error, "more than 10 entries");
    // A sparse file whose apparent size is an exbibyte takes no room in the archive.
    let mut entry = Entry::new("sparse", Kind::File, 0o644);
    entry.size = 0;
    let mut records = Vec::new();
    for (key, value) in [("GNU.sparse.map", "0,0"), ("GNU.sparse.size", "1152921504606846976")] {
        let rest = key.len() + value.len() + 3;
        let length = rest + (rest + 2).to_string().len();
        records.extend(format!("{length} {key}={value}\n").bytes());
    }
    let bytes = raw_pax(&records, &entry);
    let error = unpack_within(&bytes, &temp.path().join("b"), &[], limits).unwrap_err().to_string();
    assert_eq!(error, "more than 1048576 bytes in one file");
    let error = unpack_within(&raw_pax(&vec![0; 5000], &entry), &temp.path().join("c"), &[], limits).unwrap_err();
    assert_eq!(error.to_string(), "more than 4096 bytes in an extended header");
}

/// An entry with these bytes as its PAX header.
fn raw_pax(records: &[u8], entry: &Entry) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(records);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(layer(&[(entry.clone(), b"")]));
    bytes
}

#[test]
fn damaged_streams_are_errors() {
    let bytes = common::base_layer();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
    for good in [&bytes, &gzip, &zstd] {
        assert_eq!(scan(&good[..], Limits::default()).unwrap(), 19);
        // Of the plain one: within a header, and within a file's content.
        let cuts = if good == &bytes { [612, 1200, 2100] } else { [good.len() / 3, good.len() / 2, good.len() - 5] };
        for cut in cuts {
            let result = scan(&good[..cut], Limits::default());
            assert!(result.is_err(), "cut at {cut}: {result:?}");
        }
    }
    let mut flipped = bytes.clone();
    flipped[10] ^= 0x40;
    assert!(scan(&flipped[..], Limits::default()).unwrap_err().to_string().contains("checksum"));
    let mut flipped = gzip.clone();
    let end = flipped.len() - 6;
    flipped[end] ^= 1;
    assert!(scan(&flipped[..], Limits::default()).is_err(), "the checksum at the end of gzip is not looked at");
}

#[test]
fn kinds_replace_one_another_within_a_layer() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = layer(&[
        dir("a/"),
        dir("a/b/"),
        file("a/b/c", "deep"),
        file("a", "now a file"),
        file("f", "file"),
        dir("f/"),
        file("f/inside", "i"),
        link("s", "f", Kind::Symlink),
        (Entry::new("s", Kind::Fifo, 0o640), b""),
        file("twice", "first"),
        file("twice", "second"),
        link("self", "self2", Kind::Symlink),
        link("twice", "./twice", Kind::HardLink),
    ]);
    unpack(&bytes, temp.path(), &[]).unwrap();
    assert_eq!(fs::read(temp.path().join("a")).unwrap(), b"now a file");
    assert_eq!(fs::read(temp.path().join("f/inside")).unwrap(), b"i");
    assert!(fs::symlink_metadata(temp.path().join("s")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read(temp.path().join("twice")).unwrap(), b"second");
}

#[test]
fn modes_owners_times_and_attributes_are_kept() {
    if !is_root() {
        return skip("modes_owners_times_and_attributes_are_kept", "needs root");
    }
    let temp = tempfile::tempdir().unwrap();
    // Version 2 of a file capability: cap_net_raw, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tool = Entry {
        mode: 0o6755,
        uid: 12,
        gid: 4_000_000_000,
        mtime: (-5, 250),
        xattrs: vec![(b"security.capability".to_vec(), capability.to_vec())],
        ..Entry::new("d/tool", Kind::File, 0)
    };
    let long = "long-".repeat(40);
    let bytes = layer(&[
        (Entry { mode: 0o2711, mtime: (77, 88), ..dir("d/").0 }, b""),
        (tool, b"content"),
        (Entry { uid: 1, gid: 2, ..link("d/link", &"target/".repeat(30), Kind::Symlink).0 }, b""),
        (Entry { device: (7, 300), ..Entry::new("d/block", Kind::BlockDevice, 0o660) }, b""),
        file(&format!("d/{long}"), "name"),
    ]);
    unpack(&bytes, temp.path(), &[]).unwrap();
    let meta = |name: &str| fs::symlink_metadata(temp.path().join(name)).unwrap();
    let tool = meta("d/tool");
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid()), (0o6755, 12, 4_000_000_000));
    assert_eq!((tool.mtime(), tool.mtime_nsec()), (-5, 250));
    let mut value = [0; 20];
    rustix::fs::getxattr(temp.path().join("d/tool"), "security.capability", &mut value).unwrap();
    assert_eq!(value, capability);
    assert_eq!((meta("d/link").uid(), meta("d/link").gid()), (1, 2));
    assert_eq!(meta("d/block").rdev(), rustix::fs::makedev(7, 300));
    let directory = meta("d");
    assert_eq!((directory.mode() & 0o7777, directory.mtime(), directory.mtime_nsec()), (0o2711, 77, 88));
    assert!(temp.path().join("d").join(long).exists());
}

#[test]
fn a_layer_is_applied_over_those_below() {
    let temp = tempfile::tempdir().unwrap();
    let (lower, upper) = (temp.path().join("lower"), temp.path().join("upper"));
    unpack(&common::base_layer(), &lower, &[]).unwrap();
    let bytes = layer(&[
        // `lower` is not listed: it must look as below. Its mode is special to see it.
        file("lower/new", "n"),
        // Through a link of the layer below.
        file("sbin/extra", "e"),
        file("lower/.wh.gone", ""),
        file("lower/.wh.never-there", ""),
        file(".wh.opaque", ""),
        dir("opaque/"),
        file("opaque/fresh", "f"),
        dir("replaced/"),
        file("replaced/.wh..wh..opq", ""),
        link("same", "bin/tool", Kind::HardLink),
    ]);
    unpack(&bytes, &upper, &[&lower]).unwrap();
    let meta = |path: &Path| fs::symlink_metadata(path).unwrap();
    assert_eq!(meta(&upper.join("lower")).mtime(), meta(&lower.join("lower")).mtime());
    assert!(upper.join("bin/extra").exists(), "sbin is a link to bin below");
    assert!(fs::symlink_metadata(upper.join("sbin")).is_err());
    assert!(fs::symlink_metadata(upper.join("lower/.wh.gone")).is_err());
    assert!(fs::symlink_metadata(upper.join("lower/never-there")).is_err(), "nothing to hide");
    let whiteout = meta(&upper.join("lower/gone"));
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0 || whiteout.len() == 0);
    let opaque = marks().attribute("opaque");
    for name in ["opaque", "replaced"] {
        let mut value = [0; 1];
        rustix::fs::getxattr(upper.join(name), &opaque, &mut value).unwrap();
        assert_eq!(value, *b"y", "{name}");
    }
    assert_eq!(meta(&upper.join("same")).ino(), meta(&upper.join("bin/tool")).ino());
    assert_eq!(fs::read(upper.join("same")).unwrap(), b"#!tool");
    assert_eq!(meta(&upper.join("same")).mode() & 0o7777, 0o4755);
    // Packed again, the marks are whiteouts again.
    let packed = pack::pack(&open(&upper), marks(), Vec::new()).unwrap();
    let again = temp.path().join("again");
    unpack(&packed, &again, &[&lower]).unwrap();
    let different = differences(&describe(&upper), &describe(&again));
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn holes_stay_holes() {
    let temp = tempfile::tempdir().unwrap();
    let mut content = vec![0; 4 << 20];
    content[1_234_567] = 1;
    let last = content.len() - 1;
    let entry = Entry::new("holes", Kind::File, 0o644);
    unpack(&layer(&[(entry, &content)]), temp.path(), &[]).unwrap();
    let path = temp.path().join("holes");
    assert_eq!(fs::read(&path).unwrap(), content);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(content[last], 0);
}

#[test]
fn gnu_tars_sparse_formats_are_read() {
    if !common::installed("tar") {
        return skip("gnu_tars_sparse_formats_are_read", "tar is not installed");
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    use std::os::unix::fs::FileExt;
    // More segments than a header holds.
    for index in 0..40u64 {
        file.write_all_at(format!("segment {index}").as_bytes(), index * 100_000).unwrap();
    }
    file.set_len(5_000_000).unwrap();
    for arguments in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let archive = temp.path().join("archive.tar");
        let mut tar = std::process::Command::new("tar");
        common::run(
            tar.arg("-C").arg(temp.path()).arg("--sparse").args(arguments).arg("-cf").arg(&archive).arg("sparse"),
        );
        let root = temp.path().join("root");
        unpack(&fs::read(&archive).unwrap(), &root, &[]).unwrap();
        assert!(fs::read(root.join("sparse")).unwrap() == fs::read(&path).unwrap(), "{arguments:?}");
        fs::remove_dir_all(&root).unwrap();
    }
}

/// A node of a generated tree.
#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>, u32),
    Link(String),
    Directory(Vec<(String, Node)>, u32),
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (proptest::collection::vec(any::<u8>(), 0..2000), 0u32..0o10000).prop_map(|(c, m)| Node::File(c, m | 0o400)),
        "[a-z/.]{1,120}".prop_map(Node::Link),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        (proptest::collection::vec(("[a-zA-Z0-9 é._-]{1,130}", inner), 0..5), 0u32..0o2000)
            .prop_map(|(children, mode)| Node::Directory(children, mode | 0o700))
    })
}

fn grow(path: &Path, node: &Node) {
    match node {
        Node::File(content, mode) => {
            fs::write(path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        Node::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        Node::Directory(children, mode) => {
            fs::create_dir_all(path).unwrap();
            for (name, child) in children {
                let path = path.join(name);
                // Names that mean something else: dots, whiteouts, and one that is there already.
                if name != "." && name != ".." && !name.starts_with(".wh.") && fs::symlink_metadata(&path).is_err() {
                    grow(&path, child);
                }
            }
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_packed_and_unpacked_is_the_same(children in proptest::collection::vec(("[a-z]{1,8}", node()), 0..5)) {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("tree");
        grow(&tree, &Node::Directory(children, 0o755));
        let packed = pack::pack(&open(&tree), marks(), Vec::new()).unwrap();
        let out = temp.path().join("out");
        unpack(&packed, &out, &[]).unwrap();
        let different = differences(&describe(&tree), &describe(&out));
        prop_assert!(different.is_empty(), "{:#?}", different);
        prop_assert_eq!(pack::pack(&open(&out), marks(), Vec::new()).unwrap(), packed);
    }

    #[test]
    fn any_bytes_are_an_archive_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = scan(&bytes[..], Limits::default());
    }

    #[test]
    fn a_damaged_archive_never_leaves_the_root(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = common::second_layer();
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        // Checksums would catch nearly all of it: make them right again.
        for block in bytes.chunks_exact_mut(512) {
            if block.iter().any(|&byte| byte != 0) && &block[257..262] == b"ustar" {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let temp = tempfile::tempdir().unwrap();
        let _ = unpack_within(&bytes, &temp.path().join("root"), &[], Limits { bytes: 1 << 20, ..Limits::default() });
        prop_assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
