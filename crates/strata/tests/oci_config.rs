//! What a `config.json` asks for is what the program inside finds: mounts, devices, users, namespaces, seccomp, hooks
//! and cgroups. OCI runtime specification: config.md and config-linux.md.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use common::terminal::FdSocket;
use common::{Runtime, agent, is_strata, leftovers, read, run, skip, spawn};
use serde_json::{Value, json};

/// Whether the runtime's `features` list something; stand-ins for Strata may be older than the part tested.
fn offers(rt: &Runtime, pointer: &str, word: &str) -> bool {
    is_strata() || rt.run(["features"]).json().pointer(pointer).is_some_and(|v| v.to_string().contains(word))
}

#[test]
fn mounts_have_their_sources_and_options() {
    require!("oci_config::mounts_have_their_sources_and_options");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let shared = rt.scratch.dir("shared");
    fs::create_dir(shared.join("below")).expect("a directory can be made");
    rt.scratch.write("shared/file", "from the host\n");
    let source = shared.to_str().expect("UTF-8");
    let file = shared.join("file");
    bundle.mount("/rw", "bind", source, &["bind", "rw"]);
    bundle.mount("/ro", "bind", source, &["rbind", "ro", "nosuid", "nodev", "noexec"]);
    // The type may be missing or `none`: the option makes it a bind mount. A file lands on a file.
    bundle.mount("/deep/er/file", "none", file.to_str().expect("UTF-8"), &["bind"]);
    // Relative sources count from the bundle.
    bundle.mount("/bundle", "bind", ".", &["bind", "ro"]);
    bundle.mount("/small", "tmpfs", "tmpfs", &["size=1m", "mode=0710", "uid=1000", "noexec", "nosuid", "nodev"]);
    bundle.mount("/locked", "tmpfs", "tmpfs", &["ro"]);
    let out = rt.sh(
        &mut bundle,
        "cat /rw/file /deep/er/file; echo in > /rw/written; ls /bundle; stat -c '%a %u' /small; \
        grep -E ' /(ro|small|locked) ' /proc/mounts; touch /ro/x; touch /locked/x; echo",
    );
    let text = &out.ok().stdout;
    assert!(text.starts_with("from the host\nfrom the host\nconfig.json\nrootfs\n710 1000\n"), "{out:#?}");
    let options = |place: &str| {
        let line =
            text.lines().find(|l| l.contains(&format!(" {place} "))).unwrap_or_else(|| panic!("{place}: {text}"));
        line.split(' ').nth(3).unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options("/ro").contains(&flag.to_owned()), "{flag}: {text}");
    }
    assert!(options("/small").contains(&"size=1024k".to_owned()) && options("/small").contains(&"noexec".to_owned()));
    assert_eq!(options("/locked")[0], "ro");
    assert_eq!(out.stderr.matches("Read-only file system").count(), 2, "{out:#?}");
    assert_eq!(read(shared.join("written")), "in\n");
    assert!(bundle.rootfs().join("deep/er/file").is_file(), "the place for a file is a file");

    let mut bundle = rt.bundle();
    bundle.set("root.readonly", json!(true));
    bundle.mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "mode=1777"]);
    let out = rt.sh(&mut bundle, "touch /tmp/x && stat -c %a /tmp; touch /x");
    out.fails().out_is("1777").err_has("read-only");
    // The image's content moves up into the tmpfs when asked.
    let mut bundle = rt.bundle();
    fs::write(bundle.join("rootfs/var/kept"), "kept\n").expect("a file can be written");
    bundle.mount("/var", "tmpfs", "tmpfs", &["tmpcopyup"]);
    rt.sh(&mut bundle, "cat /var/kept; echo more > /var/kept; stat -f -c %T /var").ok().out_is("kept\ntmpfs");
    assert_eq!(read(bundle.join("rootfs/var/kept")), "kept\n");
    rt.nothing_left();
}

#[test]
fn mounts_cannot_leave_the_root_or_cover_proc() {
    require!("oci_config::mounts_cannot_leave_the_root_or_cover_proc");
    let rt = Runtime::new();
    let victim = rt.scratch.dir("victim");
    // Links of the image that point out of it are followed inside of it.
    let mut bundle = rt.bundle();
    symlink(&victim, bundle.join("rootfs/absolute")).expect("a link can be made");
    symlink("../../../../../../../..", bundle.join("rootfs/up")).expect("a link can be made");
    let shared = rt.scratch.dir("shared");
    rt.scratch.write("shared/file", "x");
    let source = shared.to_str().expect("UTF-8");
    bundle.mount("/absolute/made", "bind", source, &["bind"]);
    bundle.mount("/up/inside", "bind", source, &["bind"]);
    bundle.mount("/../../dots", "bind", source, &["bind"]);
    let place = format!("{}/made/file", victim.display());
    rt.sh(&mut bundle, &format!("ls {place} /inside/file /dots/file")).ok();
    assert_eq!(fs::read_dir(&victim).expect("it can be read").count(), 0, "nothing was made outside the root");

    // An image cannot have its own `proc` prepared or redirected.
    for destination in ["/proc/self", "/proc/sys"] {
        let mut bundle = rt.bundle();
        bundle.mount(destination, "bind", source, &["bind"]);
        rt.sh(&mut bundle, "true").fails().err_has("proc");
    }
    let mut bundle = rt.bundle();
    fs::remove_dir(bundle.join("rootfs/proc")).expect("a directory can be removed");
    symlink("/tmp", bundle.join("rootfs/proc")).expect("a link can be made");
    rt.sh(&mut bundle, "true").fails();
    rt.nothing_left();
}

#[test]
fn propagation_and_recursive_flags_are_as_asked() {
    require!("oci_config::propagation_and_recursive_flags_are_as_asked");
    let rt = Runtime::new();
    let tree = rt.scratch.dir("tree");
    fs::create_dir(tree.join("sub")).expect("a directory can be made");
    let sub = tree.join("sub");
    rustix::mount::mount("sub", &sub, "tmpfs", rustix::mount::MountFlags::empty(), None).expect("a tmpfs mounts");
    let source = tree.to_str().expect("UTF-8");
    let mut bundle = rt.bundle();
    bundle.mount("/private", "bind", source, &["rbind", "rprivate"]);
    bundle.mount("/slave", "bind", source, &["rbind", "rslave"]);
    bundle.mount("/ro", "bind", source, &["rbind", "ro"]);
    let out = rt.sh(
        &mut bundle,
        "grep -E ' /(private|slave|ro)(/sub)? ' /proc/self/mountinfo; touch /ro/sub/x && echo written; touch /ro/x",
    );
    let text = &out.fails().stdout;
    assert_eq!(text.matches("/sub ").count(), 3, "the mounts below come along: {text}");
    assert!(
        !text.lines().any(|l| l.contains(" /private ") && (l.contains("shared:") || l.contains("master:"))),
        "{text}"
    );
    out.out_has("written").err_has("read-only");
    if offers(&rt, "/mountOptions", "\"rro\"") {
        let mut bundle = rt.bundle();
        bundle.mount("/rro", "bind", source, &["rbind", "rro"]);
        let out = rt.sh(&mut bundle, "touch /rro/sub/y || touch /rro/y");
        assert_eq!(out.fails().stderr.matches("Read-only").count(), 2, "{out:#?}");
    } else {
        skip("oci_config::propagation_and_recursive_flags_are_as_asked (rro)", "this runtime does not list it");
    }
    // The root itself. (runc before 1.2 leaves it private whatever is asked.)
    for (propagation, expected) in [("private", false), ("shared", is_strata())] {
        let mut bundle = rt.bundle();
        bundle.set("linux.rootfsPropagation", json!(propagation));
        let out = rt.sh(&mut bundle, "grep -E '^([^ ]+ ){4}/ ' /proc/self/mountinfo | grep -c shared: || true");
        assert_eq!(out.ok().text() != "0", expected, "{propagation}: {out:#?}");
    }
    rustix::mount::unmount(&sub, rustix::mount::UnmountFlags::empty()).expect("the tmpfs unmounts");
    rt.nothing_left();
}

#[test]
fn paths_are_masked_and_read_only() {
    require!("oci_config::paths_are_masked_and_read_only");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    fs::create_dir(bundle.join("rootfs/secrets")).expect("a directory can be made");
    fs::write(bundle.join("rootfs/secrets/a"), "a").expect("a file can be written");
    fs::write(bundle.join("rootfs/secret"), "b").expect("a file can be written");
    bundle.push("linux.maskedPaths", json!("/secrets")).push("linux.maskedPaths", json!("/secret"));
    bundle.push("linux.maskedPaths", json!("/is/not/there"));
    bundle.push("linux.readonlyPaths", json!("/var")).push("linux.readonlyPaths", json!("/not/there/either"));
    let out = rt.sh(
        &mut bundle,
        "ls /secrets | wc -l; cat /secret | wc -c; touch /secrets/x; touch /var/x; \
        echo x > /secret; echo 1 > /proc/sys/kernel/panic; ls -d /proc/bus; exit 0",
    );
    out.ok().out_is("0\n0\n/proc/bus");
    assert!(out.stderr.matches("Read-only file system").count() >= 3, "{out:#?}");
    rt.nothing_left();
}

#[test]
fn devices_exist_and_are_allowed_as_configured() {
    require!("oci_config::devices_exist_and_are_allowed_as_configured");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let out = rt.sh(
        &mut bundle,
        "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; \
        for f in fd stdin stdout stderr ptmx; do readlink $f; done; echo x > null; head -c 3 zero | wc -c; ls /dev/kmsg",
    );
    out.fails().out_is(
        "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n\
        /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3",
    );

    // Made and allowed: readable. Made and not allowed, even with CAP_MKNOD: refused.
    let device =
        json!({ "path": "/dev/log1", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 7, "gid": 8 });
    bundle.push("linux.devices", device);
    bundle.push("linux.devices", json!({ "path": "/dev/deep/pipe", "type": "p", "fileMode": 0o600 }));
    bundle
        .push("linux.resources.devices", json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" }));
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("process.capabilities.{set}"), json!("CAP_MKNOD"));
        bundle.push(&format!("process.capabilities.{set}"), json!("CAP_DAC_OVERRIDE"));
    }
    let out = rt.sh(&mut bundle, "stat -c '%t:%T %a %u:%g' /dev/log1; stat -c '%F %a' /dev/deep/pipe; \
        dd if=/dev/log1 of=/dev/null count=1 bs=8k iflag=nonblock 2>/dev/null && echo read; echo x > /dev/log1 || echo refused; \
        mknod /tmp/mem c 1 1 2>/dev/null && cat /tmp/mem > /dev/null || echo refused");
    let text = out.ok().text();
    assert!(text.starts_with("1:b 640 7:8\nfifo 600"), "{out:#?}");
    assert!(text.ends_with("refused\nrefused"), "{out:#?}");
    rt.nothing_left();
}

#[test]
fn the_process_has_its_user_limits_and_environment() {
    require!("oci_config::the_process_has_its_user_limits_and_environment");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.set("process.user", json!({ "uid": 1000, "gid": 29, "additionalGids": [5, 100], "umask": 0o077 }));
    bundle.set("process.oomScoreAdj", json!(321));
    bundle.set("process.cwd", json!("/home/guest"));
    bundle.set(
        "process.rlimits",
        json!([
            { "type": "RLIMIT_NOFILE", "soft": 99, "hard": 111 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 4_194_304 }
        ]),
    );
    bundle.push("process.env", json!("ONE=with spaces = and signs")).push("process.env", json!("EMPTY="));
    rt.sh(
        &mut bundle,
        "id -u; id -g; id -G; umask; cat /proc/self/oom_score_adj; pwd; ulimit -n; ulimit -Hn; ulimit -c; ulimit -s; \
        echo \"$ONE|$EMPTY|$HOME\"",
    )
    .ok()
    .out_is("1000\n29\n29 5 100\n0077\n321\n/home/guest\n99\n111\n0\n4096\nwith spaces = and signs||/home/guest");

    // HOME falls back to / for an unknown user; PATH of the configuration finds the program.
    bundle.set("process.user", json!({ "uid": 4242, "gid": 0 })).set("process.cwd", json!("/"));
    rt.sh(&mut bundle, "echo $HOME; umask").ok().out_is("/\n0022");
    // A missing working directory is made.
    let mut bundle = rt.bundle();
    bundle.set("process.cwd", json!("/made/for/it"));
    rt.sh(&mut bundle, "pwd").ok().out_is("/made/for/it");
    fs::set_permissions(bundle.join("rootfs/root"), fs::Permissions::from_mode(0o700)).expect("a mode can be set");
    bundle.set("process.cwd", json!("/root")).set("process.user", json!({ "uid": 1000, "gid": 1000 }));
    // It is entered with root's rights, before the user changes.
    rt.sh(&mut bundle, "pwd").ok().out_is("/root");
    // Unknown limits are refused.
    let mut bundle = rt.bundle();
    bundle.set("process.rlimits", json!([{ "type": "RLIMIT_SLEEP", "soft": 1, "hard": 1 }]));
    rt.sh(&mut bundle, "true").fails();
    rt.nothing_left();
}

#[test]
fn capabilities_are_exactly_the_sets_given() {
    require!("oci_config::capabilities_are_exactly_the_sets_given");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let sets = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status";
    bundle.set(
        "process.capabilities",
        json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN", "CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]
        }),
    );
    bundle.set("process.user", json!({ "uid": 1000, "gid": 1000 }));
    // A program without file capabilities, of a user that is not root, keeps the ambient set.
    rt.sh(&mut bundle, sets).ok().out_is(
        "CapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
        CapBnd:\t0000000000002021\nCapAmb:\t0000000000000020\nNoNewPrivs:\t1",
    );
    bundle.set("process.user", json!({ "uid": 0, "gid": 0 })).set("process.noNewPrivileges", json!(false));
    bundle.set(
        "process.capabilities",
        json!({ "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"] }),
    );
    let only = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\n\
        CapBnd:\t0000000000000001\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0";
    rt.sh(&mut bundle, sets).ok().out_is(only);
    // None at all.
    bundle.set("process.capabilities", json!({}));
    let out = rt.sh(&mut bundle, sets);
    assert!(
        out.ok().stdout.lines().filter(|l| l.starts_with("Cap")).all(|l| l.ends_with("\t0000000000000000")),
        "{out:#?}"
    );
    // A name that no kernel knows is warned of, not fatal: specification, config.md, "process.capabilities".
    bundle.set(
        "process.capabilities",
        json!({ "bounding": ["CAP_CHOWN", "CAP_TELEPORT"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"] }),
    );
    rt.sh(&mut bundle, sets).ok().out_is(only);
    rt.nothing_left();
}

#[test]
fn namespaces_are_new_joined_or_shared() {
    require!("oci_config::namespaces_are_new_joined_or_shared");
    let rt = Runtime::new();
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace link").display().to_string();
    let mut bundle = rt.bundle();
    bundle.push("linux.namespaces", json!({ "type": "cgroup" }));
    bundle.set("linux.sysctl", json!({ "net.ipv4.ip_default_ttl": "77", "kernel.shm_rmid_forced": "1" }));
    let script = "cd /proc/self/ns; for n in pid net mnt uts ipc cgroup; do readlink $n; done; hostname; cat /proc/sys/net/ipv4/ip_default_ttl \
        /proc/sys/kernel/shm_rmid_forced; ip -o link | wc -l; cut -d: -f3 /proc/self/cgroup | sort -u; echo $$";
    let out = rt.sh(&mut bundle, script);
    let lines: Vec<&str> = out.ok().stdout.lines().collect();
    for (line, kind) in lines.iter().zip(["pid", "net", "mnt", "uts", "ipc", "cgroup"]) {
        assert!(line.starts_with(kind) && *line != own(kind), "{kind} is its own: {out:#?}");
    }
    assert_eq!(lines[6..], ["e2e", "77", "1", "1", "/", "1"], "{out:#?}");

    // Left out, a namespace is the host's; a sysctl of the host's is then refused.
    let mut bundle = rt.bundle();
    bundle.without_namespace("network").without_namespace("ipc");
    let out = rt.sh(&mut bundle, "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc");
    out.ok().out_is(&format!("{}\n{}", own("net"), own("ipc")));
    bundle.set("linux.sysctl", json!({ "net.ipv4.ip_default_ttl": "77" }));
    rt.sh(&mut bundle, "true").fails().err_has("net.ipv4.ip_default_ttl");
    let mut bundle = rt.bundle();
    bundle.set("linux.sysctl", json!({ "vm.swappiness": "1" }));
    rt.sh(&mut bundle, "true").fails().err_has("vm.swappiness");
    let mut bundle = rt.bundle();
    bundle.without_namespace("uts");
    rt.sh(&mut bundle, "true").fails().err_has("uts");

    // By path, the namespaces of another container.
    let first = rt.bundle();
    let id = rt.detached(&first);
    let mut bundle = rt.bundle();
    let pid = rt.pid(&id);
    let joined: Vec<Value> = [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")]
        .iter()
        .map(|(kind, file)| json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }))
        .chain([json!({ "type": "mount" })])
        .collect();
    bundle.set("linux.namespaces", json!(joined));
    bundle.config.as_object_mut().expect("an object").remove("hostname");
    let script =
        "cd /proc/self/ns; for n in pid net ipc uts; do readlink $n; done; ps | grep -c 'sleep [1]000'; hostname";
    let out = rt.sh(&mut bundle, script);
    let link =
        |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace link").display().to_string();
    out.ok().out_is(&format!("{}\n{}\n{}\n{}\n1\ne2e", link("pid"), link("net"), link("ipc"), link("uts")));
    assert_eq!(rt.status(&id), "running", "the end of a guest does not end the host of the namespaces");
    // The wrong kind of namespace is noticed.
    bundle.set(
        "linux.namespaces",
        json!([{ "type": "mount" }, { "type": "network", "path": format!("/proc/{pid}/ns/ipc") }]),
    );
    rt.sh(&mut bundle, "true").fails();
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn a_user_namespace_maps_ids() {
    require!("oci_config::a_user_namespace_maps_ids");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.user_namespace();
    let out = rt.sh(
        &mut bundle,
        "id -u; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; stat -c %u:%g /bin/busybox; \
        touch /tmp/mine; stat -c %u /tmp/mine /dev/null /proc/self; cat /proc/self/setgroups; echo hi > /dev/null",
    );
    let text = out.ok().text();
    assert!(text.starts_with("0\n 0 100000 65536\n 0 100000 65536\n0:0\n0\n"), "{out:#?}");
    assert!(text.ends_with("allow"), "{out:#?}");
    let made = fs::metadata(bundle.join("rootfs/tmp/mine")).expect("the file was made");
    assert_eq!((made.uid(), made.gid()), (100_000, 100_000));
    // exec enters it as well.
    bundle.args(&["sleep", "1000"]);
    let id = rt.detached(&bundle);
    rt.exec(&id, &["sh", "-c", "id -u; readlink /proc/self/ns/user"]).ok().out_is(&format!(
        "0\n{}",
        fs::read_link(format!("/proc/{}/ns/user", rt.pid(&id))).expect("a namespace link").display()
    ));
    assert_eq!(fs::metadata(format!("/proc/{}", rt.pid(&id))).expect("it runs").uid(), 100_000);
    rt.remove(&id);
    // Mappings without the namespace make no sense, nor does the namespace without mappings.
    let mut bundle = rt.bundle();
    bundle.push("linux.namespaces", json!({ "type": "user" }));
    rt.sh(&mut bundle, "true").fails();

    if offers(&rt, "/linux/mountExtensions/idmap/enabled", "true") {
        let shared = rt.scratch.dir("owned");
        rt.scratch.write("owned/f", "x");
        std::os::unix::fs::chown(shared.join("f"), Some(1000), Some(1000)).expect("ownership can be set");
        let mut bundle = rt.bundle();
        let map = json!([{ "containerID": 1000, "hostID": 2000, "size": 1 }]);
        bundle.push(
            "mounts",
            json!({ "destination": "/mapped", "type": "bind", "source": shared, "options": ["bind"],
            "uidMappings": map, "gidMappings": map }),
        );
        let out = rt.sh(&mut bundle, "stat -c %u:%g /mapped/f");
        if out.stderr.contains("nvalid argument") || out.stderr.contains("not supported") {
            skip("oci_config::a_user_namespace_maps_ids (idmap)", "this file system cannot be mounted with mapped ids");
        } else {
            out.ok().out_is("2000:2000");
        }
    } else {
        skip("oci_config::a_user_namespace_maps_ids (idmap)", "this runtime does not list it");
    }
    rt.nothing_left();
}

#[test]
fn a_terminal_works_in_a_user_namespace() {
    require!("oci_config::a_terminal_works_in_a_user_namespace");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.user_namespace().set("process.terminal", json!(true));
    bundle.set("process.user", json!({ "uid": 1000, "gid": 1000 }));
    bundle
        .args(&["sh", "-c", "echo to the terminal > $(tty); stat -c %u:%g $(tty); ls /dev/console; sleep 1000"])
        .save();
    let socket = FdSocket::new(&rt.scratch, "console");
    let path = socket.path().to_str().expect("UTF-8").to_owned();
    let created = spawn(&mut rt.command(["create", "--bundle", bundle.path(), "--console-socket", &path, "u"]));
    let mut terminal = socket.terminal();
    created.finish().ok();
    rt.run(["start", "u"]).ok();
    terminal.expect("to the terminal");
    terminal.expect("1000:5");
    terminal.expect("/dev/console");
    rt.remove("u");
    rt.nothing_left();
}

#[test]
fn newer_parts_of_the_specification_work() {
    require!("oci_config::newer_parts_of_the_specification_work");
    let rt = Runtime::new();
    if !offers(&rt, "/linux/namespaces", "\"time\"") {
        skip("oci_config::newer_parts_of_the_specification_work", "this runtime is older than them");
        return;
    }
    let mut bundle = rt.bundle();
    bundle.push("linux.namespaces", json!({ "type": "time" }));
    bundle.set(
        "linux.timeOffsets",
        json!({ "monotonic": { "secs": 7881, "nanosecs": 2_718_281 }, "boottime": { "secs": 1337, "nanosecs": 0 } }),
    );
    bundle.set("domainname", json!("example.net"));
    bundle.set("linux.personality", json!({ "domain": "LINUX32" }));
    bundle.set("process.ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }));
    bundle.set("process.scheduler", json!({ "policy": "SCHED_BATCH", "nice": 9 }));
    let out = rt.sh(
        &mut bundle,
        "tr -s ' ' < /proc/self/timens_offsets; cat /proc/sys/kernel/domainname; uname -m; ionice -p $$; \
        cut -d' ' -f19,41 /proc/self/stat",
    );
    out.ok().out_is("monotonic 7881 2718281\nboottime 1337 0\nexample.net\ni686\nbest-effort: prio 6\n9 3");
    // exec lives in the same time.
    bundle.args(&["sleep", "1000"]);
    let id = rt.detached(&bundle);
    rt.exec(&id, &["tr", "-s", " "]).ok();
    rt.exec(&id, &["sh", "-c", "tr -s ' ' < /proc/self/timens_offsets; uname -m"])
        .ok()
        .out_is("monotonic 7881 2718281\nboottime 1337 0\ni686");
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn seccomp_filters_calls() {
    require!("oci_config::seccomp_filters_calls");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let filter = |default: &str, syscalls: Value| json!({ "defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": syscalls });
    bundle.set(
        "linux.seccomp",
        filter("SCMP_ACT_ALLOW", json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }])),
    );
    rt.sh(&mut bundle, "grep Seccomp: /proc/self/status; mkdir /tmp/d")
        .fails()
        .out_is("Seccomp:\t2")
        .err_has("not permitted");
    bundle.set(
        "linux.seccomp",
        filter(
            "SCMP_ACT_ALLOW",
            json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }]),
        ),
    );
    rt.sh(&mut bundle, "mkdir /tmp/d").fails().err_has("No space left");
    // By arguments: umask(0o77) is refused, others are not. Unknown names are passed over.
    let condition = json!([{ "index": 0, "value": 63, "op": "SCMP_CMP_EQ" }]);
    bundle.set(
        "linux.seccomp",
        filter(
            "SCMP_ACT_ALLOW",
            json!([
                { "names": ["umask", "no_such_call"], "action": "SCMP_ACT_KILL_PROCESS", "args": condition }
            ]),
        ),
    );
    rt.sh(&mut bundle, "(umask 022; echo fine); (umask 077; echo never)").out_is("fine");
    let masked = json!([{ "index": 0, "value": 7, "valueTwo": 7, "op": "SCMP_CMP_MASKED_EQ" }]);
    bundle.set(
        "linux.seccomp",
        filter("SCMP_ACT_ALLOW", json!([{ "names": ["umask"], "action": "SCMP_ACT_KILL_PROCESS", "args": masked }])),
    );
    rt.sh(&mut bundle, "(umask 020; echo fine); (umask 027; echo never)").out_is("fine");
    // Refuse by default: a program that makes a call that is not listed fails in it and nowhere else.
    let allowed = [
        "read",
        "write",
        "open",
        "openat",
        "close",
        "stat",
        "fstat",
        "lstat",
        "newfstatat",
        "statx",
        "mmap",
        "mprotect",
        "munmap",
        "brk",
        "rt_sigaction",
        "rt_sigprocmask",
        "ioctl",
        "access",
        "pipe",
        "pipe2",
        "dup2",
        "fcntl",
        "getcwd",
        "getpid",
        "getppid",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "fork",
        "vfork",
        "clone",
        "clone3",
        "execve",
        "exit",
        "exit_group",
        "wait4",
        "arch_prctl",
        "prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "getrandom",
        "readlink",
        "uname",
        "setgid",
        "setuid",
        "setgroups",
        "setresuid",
        "setresgid",
        "capset",
        "capget",
        "futex",
        "rt_sigreturn",
        "fstatfs",
        "statfs",
        "getdents64",
        "lseek",
        "sendmsg",
        "sendto",
        "recvfrom",
        "recvmsg",
        "sched_yield",
        "sched_getaffinity",
        "tgkill",
        "sigaltstack",
        "nanosleep",
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "madvise",
        "faccessat2",
        "faccessat",
        "umask",
        "chdir",
        "setsid",
        "gettid",
        "close_range",
        "seccomp",
        "dup3",
        "dup",
        "execveat",
        "poll",
        "ppoll",
    ];
    bundle.set(
        "linux.seccomp",
        filter("SCMP_ACT_ERRNO", json!([{ "names": allowed.as_slice(), "action": "SCMP_ACT_ALLOW" }])),
    );
    rt.sh(&mut bundle, "echo fine; mkdir /tmp/d").fails().out_is("fine").err_has("not permitted");
    // Death by filter: SIGSYS is 31. The first process of a pid namespace dies of it too.
    bundle.set(
        "linux.seccomp",
        filter("SCMP_ACT_ALLOW", json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }])),
    );
    bundle.args(&["mkdir", "/tmp/d"]);
    rt.run_bundle(&bundle).code_is(159);
    // exec is filtered as well.
    bundle.args(&["sleep", "1000"]);
    let id = rt.detached(&bundle);
    rt.exec(&id, &["mkdir", "/tmp/d"]).code_is(159);
    rt.remove(&id);
    bundle.set("linux.seccomp", filter("SCMP_ACT_FLY", json!([])));
    rt.sh(&mut bundle, "true").fails().err_has("SCMP_ACT_FLY");
    // Without no_new_privs the filter is loaded with the capabilities still there.
    bundle.set("process.noNewPrivileges", json!(false));
    bundle.set(
        "linux.seccomp",
        filter("SCMP_ACT_ALLOW", json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }])),
    );
    rt.sh(&mut bundle, "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; mkdir /tmp/d")
        .fails()
        .out_is("NoNewPrivs:\t0\nSeccomp:\t2");
    rt.nothing_left();
}

#[test]
fn seccomp_notifications_reach_an_agent() {
    require!("oci_config::seccomp_notifications_reach_an_agent");
    let rt = Runtime::new();
    let socket = FdSocket::new(&rt.scratch, "agent");
    for no_new_privileges in [true, false] {
        let mut bundle = rt.bundle();
        bundle.set("process.noNewPrivileges", json!(no_new_privileges));
        bundle.set(
            "linux.seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket.path(), "listenerMetadata": "for the agent",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]
            }),
        );
        bundle.args(&["mkdir", "/tmp/d"]).save();
        let id = rt.id();
        let running = spawn(&mut rt.command(["run", "--bundle", bundle.path(), &id]));
        let (message, listener) = socket.receive();
        let state: Value = serde_json::from_slice(&message).expect("the container process state is JSON");
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "for the agent");
        assert_eq!(state["state"]["id"], id.as_str());
        assert!(state["pid"].as_i64().is_some_and(|p| p > 0), "{state:#}");
        let calls = agent::refuse(&listener, 1, libc::ENOMEDIUM);
        assert!(calls == [libc::SYS_mkdir as i32] || calls == [libc::SYS_mkdirat as i32], "{calls:?}");
        running.finish().fails().err_has("No medium found");
    }
    // Nobody listens, or nowhere to connect: an error, not a hang.
    let mut bundle = rt.bundle();
    let notify = |listener: &str| {
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": listener,
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }] })
    };
    bundle.set("linux.seccomp", notify("/no/such/agent"));
    rt.sh(&mut bundle, "true").fails();
    bundle.set("linux.seccomp", notify(""));
    rt.sh(&mut bundle, "true").fails();
    bundle.set(
        "linux.seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket.path(),
        "syscalls": [{ "names": ["write"], "action": "SCMP_ACT_NOTIFY" }] }),
    );
    rt.sh(&mut bundle, "true").fails().err_has("write");
    rt.nothing_left();
}

#[test]
fn hooks_run_in_order_with_the_state() {
    require!("oci_config::hooks_run_in_order_with_the_state");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let log = rt.scratch.dir("hooks");
    // The container finds the log at the same path, for the hooks that run inside.
    let path = log.to_str().expect("UTF-8").to_owned();
    bundle.mount(&path, "bind", &path, &["bind"]);
    let hooks = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    for hook in hooks {
        for turn in ["1", "2"] {
            let script = format!("cat > {path}/{hook}.$1; echo $0.$1.$V.$(readlink /proc/self/ns/mnt) >> {path}/order");
            let value = json!({ "path": "/bin/sh", "args": ["sh", "-c", script, hook, turn], "env": ["V=v", "PATH=/bin:/usr/bin"] });
            bundle.push(&format!("hooks.{hook}"), value);
        }
    }
    bundle.set("annotations", json!({ "key": "value" })).save();
    // runc runs poststart hooks at `create`; the specification says after the program was started.
    let wrong = |line: &String| !is_strata() && line.starts_with("poststart");
    let order = || {
        read(log.join("order"))
            .lines()
            .map(|l| l.rsplit_once(".mnt").map_or(l, |(h, _)| h).to_owned())
            .collect::<Vec<_>>()
    };
    let expected =
        |names: &[&str]| names.iter().flat_map(|n| [format!("{n}.1.v"), format!("{n}.2.v")]).collect::<Vec<_>>();
    rt.run(["create", "--bundle", bundle.path(), "h"]).ok();
    assert_eq!(order().into_iter().filter(|l| !wrong(l)).collect::<Vec<_>>(), expected(&hooks[..3]));
    let pid = rt.pid("h");
    rt.run(["start", "h"]).ok();
    if is_strata() {
        assert_eq!(order(), expected(&hooks[..5]));
    }
    rt.run(["kill", "h", "KILL"]).ok();
    rt.wait_status("h", "stopped");
    assert!(!read(log.join("order")).contains("poststop"));
    rt.run(["delete", "h"]).ok();
    if is_strata() {
        assert_eq!(order(), expected(&hooks));
    }
    assert!(order().last().is_some_and(|l| l == "poststop.2.v"));

    let namespaces: Vec<String> =
        read(log.join("order")).lines().map(|l| l.rsplit_once('.').expect("a link").1.to_owned()).collect();
    let own = fs::read_link("/proc/self/ns/mnt").expect("a namespace link").display().to_string();
    for (at, hook) in hooks.iter().enumerate().filter(|_| is_strata()) {
        let inside = matches!(*hook, "createContainer" | "startContainer");
        assert_eq!(
            namespaces[at * 2] == own,
            !inside,
            "{hook} runs in the {} namespaces",
            if inside { "container's" } else { "runtime's" }
        );
    }
    let statuses = ["creating", "creating", "creating", "created", "running", "stopped"];
    for (hook, status) in hooks.iter().zip(statuses) {
        let state: Value = serde_json::from_str(&read(log.join(format!("{hook}.1")))).expect("hooks get JSON");
        assert_eq!(state["id"], "h", "{hook}");
        assert!(state["status"] == status || wrong(&(*hook).to_owned()), "{hook}: {state:#}");
        assert_eq!(state["bundle"], bundle.path(), "{hook}");
        assert_eq!(state["annotations"]["key"], "value", "{hook}");
        assert!(state["ociVersion"].is_string(), "{hook}");
        if matches!(*hook, "createRuntime" | "prestart" | "poststart") {
            assert_eq!(state["pid"], pid, "{hook} sees the pid of its own namespace");
        }
    }
    rt.nothing_left();
}

#[test]
fn a_hook_finds_itself_in_the_bundle_with_the_callers_environment() {
    require!("oci_config::a_hook_finds_itself_in_the_bundle_with_the_callers_environment");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let seen = rt.scratch.join("seen");
    let script =
        |text: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("{text} >> {}", seen.display())] });
    bundle.push("hooks.createRuntime", script("{ pwd; echo $CALLER; }"));
    let mut silent = script("{ env | grep -c CALLER || true; }");
    silent["env"] = json!(["PATH=/bin:/usr/bin"]);
    bundle.push("hooks.createRuntime", silent);
    bundle.args(&["true"]).save();
    run(rt.command(["run", "--bundle", bundle.path(), "h"]).env("CALLER", "me").current_dir("/")).ok();
    // Without an `env` of its own a hook has the runtime's; with one, nothing else.
    let text = read(&seen);
    assert_eq!(text, format!("{}\nme\n0\n", bundle.path()));
    rt.nothing_left();
}

#[test]
fn a_hook_inside_has_the_programs_environment() {
    require!("oci_config::a_hook_inside_has_the_programs_environment");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.push("process.env", json!("OF=program"));
    let script = |text: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("{text} >> /tmp/seen")] });
    bundle.push("hooks.startContainer", script("echo $OF $CALLER"));
    let mut own = script("echo $OF $OWN");
    own["env"] = json!(["OWN=own"]);
    bundle.push("hooks.startContainer", own);
    bundle.args(&["cat", "/tmp/seen"]).save();
    run(rt.command(["run", "--bundle", bundle.path(), "h"]).env("CALLER", "me")).ok().out_is("program\nown");
    rt.nothing_left();
}

#[test]
fn a_configuration_as_runc_writes_it_runs_without_a_word() {
    require!("oci_config::a_configuration_as_runc_writes_it_runs_without_a_word", "runc");
    let rt = Runtime::new();
    let bundle = rt.bundle();
    let directory = rt.scratch.dir("runc");
    run(std::process::Command::new("runc").arg("spec").current_dir(&directory)).ok();
    let mut config: Value = serde_json::from_str(&read(directory.join("config.json"))).expect("config.json is JSON");
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["grep", "CapAmb", "/proc/self/status"]);
    fs::write(bundle.join("config.json"), config.to_string()).expect("a file can be written");
    let out = rt.run(["run", "--bundle", bundle.path(), "quiet"]);
    let ambient = out.ok().text();
    // runc before 1.2 asks for ambient capabilities that are not inheritable.
    assert!(ambient == "CapAmb:\t0000000000000000" && out.stderr.is_empty(), "{out:#?}");
    rt.nothing_left();
}

#[test]
fn a_device_that_may_not_be_made_says_who_forbids_it() {
    require!("oci_config::a_device_that_may_not_be_made_says_who_forbids_it", "setpriv");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.push("linux.devices", json!({ "type": "c", "path": "/dev/none", "major": 10, "minor": 999 }));
    bundle.args(&["true"]).save();
    // As a cgroup above or a lack of privileges forbids it; there is nothing on the host to bind instead.
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-mknod", "--inh-caps=-mknod"]).arg(common::program());
    let out = run(command.arg("--root").arg(rt.root()).args(["run", "--bundle", bundle.path(), &rt.id()]));
    out.fails().err_has("/dev/none");
    if is_strata() {
        out.err_has("10:999").err_has("CAP_MKNOD").err_has("device cgroup");
    }
    rt.nothing_left();
}

#[test]
fn a_failing_hook_fails_the_container() {
    require!("oci_config::a_failing_hook_fails_the_container");
    let rt = Runtime::new();
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let mut bundle = rt.bundle();
        bundle.push(&format!("hooks.{hook}"), json!({ "path": "/bin/true" }));
        bundle.push(&format!("hooks.{hook}"), json!({ "path": "/bin/false" }));
        let out = rt.sh(&mut bundle, "echo started");
        out.fails().out_lacks("started").err_has("hook");
        rt.nothing_left();
    }
    // One that hangs is ended after its time; one that does not exist fails.
    let mut bundle = rt.bundle();
    bundle.push("hooks.createRuntime", json!({ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }));
    rt.sh(&mut bundle, "echo started").fails().out_lacks("started");
    let mut bundle = rt.bundle();
    bundle.push("hooks.createRuntime", json!({ "path": "/no/such/hook" }));
    rt.sh(&mut bundle, "echo started").fails().err_has("/no/such/hook");
    // After the end, a failing hook no longer matters.
    let mut bundle = rt.bundle();
    bundle.push("hooks.poststop", json!({ "path": "/bin/false" }));
    rt.sh(&mut bundle, "echo started").ok().out_is("started");
    rt.nothing_left();
}

#[test]
fn cgroups_have_their_place_and_values() {
    require!("oci_config::cgroups_have_their_place_and_values");
    let rt = Runtime::new();
    let Some(pids) = leftovers::hierarchies().into_iter().find(|h| h.ends_with("pids")) else {
        skip(
            "oci_config::cgroups_have_their_place_and_values",
            "no cgroup v1 hierarchies here; podman's tests cover v2",
        );
        return;
    };
    let root = pids.parent().expect("hierarchies have a parent").to_owned();
    let mut bundle = rt.bundle();
    bundle.set(
        "linux.resources.memory",
        json!({ "limit": 64 << 20, "reservation": 32 << 20, "swap": 80 << 20, "swappiness": 20 }),
    );
    bundle.set(
        "linux.resources.cpu",
        json!({ "shares": 333, "quota": 25_000, "period": 50_000, "cpus": "0", "mems": "0" }),
    );
    bundle.set("linux.resources.pids", json!({ "limit": 44 }));
    let id = rt.detached(&bundle);
    let value = |controller: &str, file: &str| {
        fs::read_to_string(root.join(controller).join(&bundle.cgroup()[1..]).join(file))
            .ok()
            .map(|s| s.trim().to_owned())
    };
    let expected = [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.memsw.limit_in_bytes", "83886080"),
        ("memory", "memory.swappiness", "20"),
        ("cpu", "cpu.shares", "333"),
        ("cpu", "cpu.cfs_quota_us", "25000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "44"),
    ];
    for (controller, file, wanted) in expected {
        match value(controller, file) {
            Some(got) => assert_eq!(got, wanted, "{file}"),
            None if file.contains("memsw") => {
                skip("oci_config::cgroups_have_their_place_and_values (swap)", "swap is not accounted here")
            }
            None => panic!("{file} is missing"),
        }
    }
    // The container is in every hierarchy, and sees only its own part.
    let membership = read(format!("/proc/{}/cgroup", rt.pid(&id)));
    for line in membership.lines().filter(|l| !l.starts_with("0::")) {
        assert!(line.ends_with(bundle.cgroup()), "{membership}");
    }
    rt.exec(&id, &["cat", "/sys/fs/cgroup/pids/pids.max"]).ok().out_is("44");
    rt.exec(&id, &["sh", "-c", "mkdir /sys/fs/cgroup/pids/x"]).fails().err_has("read-only");
    rt.remove(&id);

    // Deeper down; the parents that were made are not the runtime's to remove, the leaf is.
    let mut bundle = rt.bundle();
    let parent = format!("/{}", rt.scratch.tag());
    bundle.set("linux.cgroupsPath", json!(format!("{parent}/deep/leaf")));
    let id = rt.detached(&bundle);
    assert!(pids.join(&bundle.cgroup()[1..]).is_dir());
    rt.remove(&id);
    assert!(!pids.join(&bundle.cgroup()[1..]).exists());
    for directory in leftovers::cgroups(rt.scratch.tag()) {
        fs::remove_dir(directory).expect("the parents are empty");
    }
    // Without a path: one of its own, named by the runtime.
    let mut bundle = rt.bundle();
    bundle.unset("linux", "cgroupsPath");
    let id = rt.detached(&bundle);
    let membership = read(format!("/proc/{}/cgroup", rt.pid(&id)));
    assert!(membership.lines().any(|l| l.contains(":pids:") && l.contains(&id)), "{membership}");
    rt.remove(&id);
    // Limits that are enforced: processes, and memory.
    let mut bundle = rt.bundle();
    bundle.set("linux.resources.pids", json!({ "limit": 4 }));
    rt.sh(&mut bundle, "for i in 1 2 3 4 5 6; do sleep 3 & done; echo all").fails().out_lacks("all").err_has("fork");
    let mut bundle = rt.bundle();
    bundle.set("linux.resources.memory", json!({ "limit": 16 << 20, "swap": 16 << 20 }));
    bundle.args(&["sh", "-c", "x=a; while :; do x=$x$x; done"]);
    rt.run_bundle(&bundle).code_is(137);
    // Subgroups that the container made go with it.
    let mut bundle = rt.bundle();
    bundle.push("linux.namespaces", json!({ "type": "cgroup" }));
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
    for mount in mounts.iter_mut().filter(|m| m["type"] == "cgroup") {
        mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
    }
    let id = rt.detached(&bundle);
    rt.exec(&id, &["sh", "-c", "mkdir /sys/fs/cgroup/pids/sub && echo 1 > /sys/fs/cgroup/pids/sub/cgroup.procs && cat /sys/fs/cgroup/pids/sub/cgroup.procs"]).ok();
    rt.remove(&id);
    // A value that no kernel takes is reported with the file's name.
    let mut bundle = rt.bundle();
    bundle.set("linux.resources.cpu", json!({ "cpus": "4000" }));
    rt.sh(&mut bundle, "true").fails().err_has("cpuset.cpus");
    rt.nothing_left();
}

#[test]
fn the_root_may_be_absolute_or_kept_without_pivot() {
    require!("oci_config::the_root_may_be_absolute_or_kept_without_pivot");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let elsewhere = rt.scratch.join("elsewhere");
    fs::rename(bundle.rootfs(), &elsewhere).expect("a directory can be renamed");
    bundle.set("root.path", json!(elsewhere));
    rt.sh(&mut bundle, "echo absolute").ok().out_is("absolute");
    rt.run(["run", "--no-pivot", "--bundle", bundle.path(), "n"]).ok().out_is("absolute");
    rt.run(["run", "--no-new-keyring", "--bundle", bundle.path(), "n"]).ok().out_is("absolute");
    // The host's root is out of reach.
    let marker = rt.scratch.write("marker", "");
    rt.sh(&mut bundle, &format!("ls {0} /proc/1/root{0} 2>/dev/null; ls / | grep -c bin", marker.display()))
        .ok()
        .out_is("1");
    // The old root is not kept open or mounted.
    rt.sh(
        &mut bundle,
        "grep -vc ' /\\(proc\\|dev\\|sys\\)\\?' /proc/self/mounts; awk '$2==\"/\"' /proc/self/mounts | wc -l",
    )
    .out_has("1");
    // The state survives the bundle: a removed bundle must not keep a container from being removed.
    bundle.args(&["sleep", "1000"]);
    let id = rt.detached(&bundle);
    fs::remove_file(bundle.join("config.json")).expect("a file can be removed");
    if is_strata() {
        // Others read the bundle again for this.
        rt.exec(&id, &["echo", "alive"]).ok().out_is("alive");
    }
    rt.remove(&id);
    // A script with an unknown interpreter is reported as what could not be run.
    let mut bundle = rt.bundle();
    fs::write(bundle.join("rootfs/run.sh"), "#!/no/such/interpreter\n").expect("a file can be written");
    run(Command::new("chmod").arg("+x").arg(bundle.join("rootfs/run.sh"))).ok();
    bundle.args(&["/run.sh"]);
    rt.run_bundle(&bundle).fails().err_has("/run.sh").err_has("no such file");
    rt.nothing_left();
}
