//! A full disk: every verb that writes says so and what to do, leaves nothing half made, and works once there is space.

mod common;

use std::fs;
use std::process::Command;

use common::{Out, Running, Runtime, bundle, is_strata, run, skip, spawn, wait_until};

const MIB: usize = 1 << 20;

/// A small file system, `disk`, in a mount namespace that ends with the process holding it, and commands in there.
struct Disk {
    rt: Runtime,
    holder: Running,
}

impl Disk {
    fn new(size: usize) -> Disk {
        let rt = Runtime::new();
        let disk = rt.scratch.dir("disk");
        let script = r#"mount -t tmpfs -o "size=$1" full "$0" && echo ready && exec sleep 1000"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&disk).arg(size.to_string());
        let mut holder = spawn(&mut command);
        wait_until("the disk is mounted", || holder.so_far().0.contains("ready") || holder.is_over());
        assert!(!holder.is_over(), "{:?}", holder.so_far());
        Disk { rt, holder }
    }

    fn inside(&self, words: &[&str]) -> Out {
        let pid = self.holder.pid().to_string();
        run(Command::new("nsenter").args(["--mount", "--target", &pid]).args(words))
    }

    fn at(&self, name: &str) -> String {
        self.rt.scratch.join(name).display().to_string()
    }

    /// Strata with its state in `root` and its store in `store`.
    fn strata(&self, root: &str, store: &str, words: &[&str]) -> Out {
        let program = common::program().display().to_string();
        let (root, store) = (self.at(root), self.at(store));
        self.inside(&[&[&program[..], "--root", &root, "--store", &store], words].concat())
    }

    fn resize(&self, size: usize) {
        self.inside(&["mount", "-o", &format!("remount,size={size}"), &self.at("disk")]).ok();
    }

    /// Takes the last byte, however small the piece.
    fn fill(&self) {
        let file = self.at("disk/fill");
        self.inside(&["sh", "-c", &format!("cat /dev/zero > {file} 2>/dev/null; rm -f {file}.inode; true")]).ok();
        self.inside(&["sh", "-c", &format!("echo x > {file}.inode")]).fails();
    }

    fn empty(&self) {
        self.inside(&["sh", "-c", &format!("rm -f {0} {0}.inode", self.at("disk/fill"))]).ok();
    }
}

/// The reason, the place, what is free there and what to do.
#[track_caller]
fn says_full(out: &Out, code: i32, place: &str) {
    out.code_is(code).err_has("no space left on").err_has(place).err_has("strata gc").err_has("--store DIR");
    assert!(out.stderr.contains("iB free") || out.stderr.contains(" 0 B free"), "{out:?}");
}

macro_rules! disk {
    ($test:expr, $size:expr) => {{
        let name = concat!("full_disk::", $test);
        require!(name, "tar", "sha256sum", "unshare", "nsenter");
        if !is_strata() {
            return skip(name, "the program under test is not Strata");
        }
        Disk::new($size)
    }};
}

#[test]
fn images_and_instances() {
    let disk = disk!("images_and_instances", MIB);
    let archive = bundle::image_archive(&disk.rt.scratch, "localhost/box:1").display().to_string();
    let layer = fs::metadata(disk.rt.scratch.join("image/layer.tar")).expect("the layer is there").len() as usize;
    let strata = |words: &[&str]| disk.strata("state", "disk/store", words);
    let store = disk.at("disk/store");
    let import = ["image", "import", &archive, "--name", "box:1"];
    let nothing_half_made = || {
        let found = disk.inside(&["find", &format!("{store}/tmp"), &format!("{store}/instances"), "-mindepth", "1"]);
        assert_eq!(found.stdout, "", "{found:?}");
        strata(&["image", "gc", "--json"]).ok().out_has("\"bytes_freed\": 0");
        strata(&["ps", "--all", "--quiet"]).ok().out_is("");
    };

    for _ in 0..2 {
        says_full(&strata(&import), 1, &store);
        nothing_half_made();
        strata(&["image", "ls", "--quiet"]).ok().out_is("");
    }
    let bootstrap = "head -c 9000000 /dev/urandom; sleep 0.1";
    fs::create_dir(disk.rt.scratch.join("bin")).expect("a directory can be made");
    let tool = disk.rt.scratch.write("bin/mmdebstrap", format!("#!/bin/sh\n{bootstrap}\n"));
    fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it can be executable");
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", disk.at("bin"));
    let program = common::program().display().to_string();
    says_full(
        &disk.inside(&["env", &path, &program, "--store", &store, "image", "bootstrap", "debian:bookworm"]),
        1,
        &store,
    );
    nothing_half_made();

    // Room for the image, not for its unpacked layer.
    disk.resize(layer + MIB);
    strata(&import).ok();
    let go: &[&str] = &["run", "--name", &disk.rt.id(), "box:1", "--", "true"];
    for detach in [&["run"][..], &["run", "--detach"]] {
        says_full(&strata(&[detach, &go[1..]].concat()), 125, &store);
        nothing_half_made();
    }
    says_full(&strata(&["image", "unpack", "box:1", &disk.at("disk/tree")]), 1, &store);
    nothing_half_made();

    disk.resize(4 * layer + 4 * MIB);
    strata(go).ok();
    // Everything is unpacked, but not a byte is left for the instance's record.
    disk.fill();
    says_full(&strata(go), 125, &store);
    strata(&["gc"]).ok();
    strata(&["image", "ls", "--quiet"]).ok();
    disk.empty();
    nothing_half_made();
    strata(go).ok();
    strata(&["image", "rm", "box:1"]).ok();
    disk.rt.nothing_left();
}

#[test]
fn containers() {
    let disk = disk!("containers", MIB);
    let bundle = disk.rt.bundle();
    let mut quick = disk.rt.bundle();
    quick.args(&["true"]);
    bundle.save();
    quick.save();
    let strata = |words: &[&str]| disk.strata("disk/state", "store", words);
    let bundle_path = bundle.path().to_owned();
    let quick_path = quick.path().to_owned();
    let (id, other) = (disk.rt.id(), disk.rt.id());
    strata(&["create", "--bundle", &bundle_path, &id]).ok();
    disk.fill();
    for verb in ["create", "run"] {
        says_full(&strata(&[verb, "--bundle", &quick_path, &other]), 1, &disk.at("disk/state"));
        strata(&["list", "--quiet"]).ok().out_is(&id);
    }
    // One that was made before the disk was full lives and dies as usual.
    strata(&["start", &id]).ok();
    strata(&["state", &id]).ok().out_has("\"running\"");
    strata(&["delete", "--force", &id]).ok();
    strata(&["gc"]).ok().out_has("0 half-made containers");
    disk.empty();
    strata(&["run", "--bundle", &quick_path, &other]).ok();
    strata(&["list", "--quiet"]).ok().out_is("");
    disk.rt.nothing_left();
}
