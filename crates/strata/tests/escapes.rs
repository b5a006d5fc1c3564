//! Known ways out of containers, tried against the runtime. Each test plays the image or the process that a CVE
//! is about; that the runtime refuses such a container is as good as that it starts a harmless one, and the
//! assertion is about what must not have happened.
//!
//! Where an attack has to be faster than a shell, the attacker is this test program itself, copied into the image
//! ([`attacker`]).

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::bundle::Bundle;
use common::terminal::FdSocket;
use common::{Out, Runtime, is_strata, program, read, run, wait_until};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat};
use serde_json::json;

const ROLE: &str = "STRATA_ESCAPE_ROLE";
const MARKER: &str = "STRATA_ESCAPE_MARKER";
/// Where an attacker reports, in its root.
const REPORT: &str = "/report";
/// An attacker ends when this appears in its root.
const STOP: &str = "/stop";
/// From anywhere to the root.
const UP: &str = "/../../../../../../../../../../../..";

/// Not a test of its own but what runs inside containers: in the test run itself it has no role and does nothing.
#[test]
fn attacker() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut report = fs::File::options().create(true).append(true).open(REPORT).expect("the report opens");
    let end = Instant::now() + common::LIMIT;
    let mut attack: Box<dyn FnMut(&mut fs::File)> = match role.as_str() {
        "rewrite" => rewrite_the_runtime(),
        "spy" => reach_out_through_others(std::env::var(MARKER).expect("a marker is named")),
        other => panic!("no such role: {other}"),
    };
    writeln!(report, "READY").expect("the report takes a line");
    while Instant::now() < end && !Path::new(STOP).exists() {
        attack(&mut report);
    }
    writeln!(report, "DONE").expect("the report takes a line");
}

/// The other processes of the process-id namespace.
fn others() -> impl Iterator<Item = u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|&pid| pid != std::process::id())
}

/// CVE-2019-5736: gets hold of the program of a process that is not of this image, and writes to it as soon as nothing
/// runs it any more.
fn rewrite_the_runtime() -> Box<dyn FnMut(&mut fs::File)> {
    fn identity(path: &str) -> Option<(u64, u64)> {
        fs::metadata(path).map(|m| (m.dev(), m.ino())).ok()
    }
    let ours = ["/attacker", "/bin/busybox"].map(identity);
    let mut held: Vec<OwnedFd> = Vec::new();
    let try_to_write = move |path: &str, report: &mut fs::File| {
        let Ok(mut file) = fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path) else { return };
        if identity(path).is_some_and(|id| !ours.contains(&Some(id))) {
            let written = file.write(b"#!/attacker\n").is_ok();
            writeln!(report, "ESCAPED {path} opens for writing (written: {written})").expect("it takes a line");
        }
    };
    Box::new(move |report| {
        for pid in others() {
            let path = format!("/proc/{pid}/exe");
            let Ok(file) = fs::File::open(&path) else { continue };
            let Ok(found) = file.metadata() else { continue };
            if ours.contains(&Some((found.dev(), found.ino()))) {
                continue;
            }
            try_to_write(&path, report);
            if held.len() < 16 {
                held.push(file.into());
                writeln!(report, "SEEN a foreign program in process {pid}").expect("it takes a line");
            }
        }
        for fd in &held {
            try_to_write(&format!("/proc/self/fd/{}", fd.as_raw_fd()), report);
        }
    })
}

/// CVE-2016-9962, CVE-2024-21626: looks for directories of the host in the descriptors, the root and the working directory
/// of processes that have just entered.
fn reach_out_through_others(marker: String) -> Box<dyn FnMut(&mut fs::File)> {
    let mut seen = std::collections::BTreeSet::new();
    Box::new(move |report| {
        for pid in others().filter(|&pid| pid != 1) {
            if seen.len() < 100 && seen.insert(pid) {
                writeln!(report, "SEEN process {pid}").expect("it takes a line");
            }
            let links = ["root".to_owned(), "cwd".to_owned()].into_iter().chain((0..32).map(|n| format!("fd/{n}")));
            for link in links {
                let path = format!("/proc/{pid}/{link}{UP}{marker}");
                if Path::new(&path).exists() {
                    writeln!(report, "ESCAPED {path}").expect("it takes a line");
                }
            }
        }
    })
}

/// Makes this program, in a role, the bundle's program.
fn attack_with(bundle: &mut Bundle, role: &str) {
    let myself = std::env::current_exe().expect("this program has a path");
    fs::copy(myself, bundle.join("rootfs/attacker")).expect("this program can be copied");
    bundle.args(&["/attacker", "attacker", "--exact", "--test-threads=1"]);
    bundle.push("process.env", json!(format!("{ROLE}={role}")));
}

fn report(bundle: &Bundle) -> String {
    fs::read_to_string(bundle.join("rootfs/report")).unwrap_or_default()
}

/// Ends an attacker and returns its report.
#[track_caller]
fn end_attack(bundle: &Bundle) -> String {
    fs::write(bundle.join("rootfs/stop"), "").expect("the sign can be written");
    wait_until("the attacker ends", || report(bundle).contains("DONE"));
    let report = report(bundle);
    assert!(!report.contains("ESCAPED"), "{report}");
    report
}

/// A file of the host that no container should reach.
fn marker(rt: &Runtime) -> String {
    rt.scratch.write("marker", "outside\n").to_str().expect("UTF-8").to_owned()
}

/// The command with further descriptors open, on directories of the host, as a careless caller leaves them.
fn with_leaked_descriptors(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$0" "$@" 3</ 4</proc 6</tmp 9</"#]).arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::null());
    shell
}

/// Exchanges two names of a directory again and again while `body` runs.
fn while_exchanging(directory: &Path, names: [&str; 2], body: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let [a, b] = names.map(|n| directory.join(n));
            let mut exchanged = 0u64;
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).expect("the names can be exchanged");
                exchanged += 1;
                // Leaves some processor to the runtime; an odd number, so that it pauses in both states.
                if exchanged.is_multiple_of(7) {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        // Also when `body` panics, or the scope would wait for ever.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn cve_2019_5736_the_runtime_cannot_be_rewritten_from_inside() {
    require!("escapes::cve_2019_5736_the_runtime_cannot_be_rewritten_from_inside");
    let rt = Runtime::new();
    // A copy, because a successful attack destroys it.
    let copy = rt.scratch.join("runtime");
    fs::copy(program(), &copy).expect("the runtime can be copied");
    let before = fs::read(&copy).expect("it can be read");
    let runtime = |arguments: &[&str]| {
        let mut command = Command::new(&copy);
        command.arg("--root").arg(rt.root()).args(arguments);
        run(&mut command)
    };

    let mut bundle = rt.bundle();
    attack_with(&mut bundle, "rewrite");
    fs::write(bundle.join("rootfs/script"), "#!/proc/self/exe\n").expect("a file can be written");
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(bundle.join("rootfs/script"), mode).expect("a mode can be set");
    symlink("/proc/self/exe", bundle.join("rootfs/link")).expect("a link can be made");
    bundle.save();
    let id = rt.id();
    runtime(&["run", "--detach", "--bundle", bundle.path(), &id]).ok();
    wait_until("the attacker is ready", || report(&bundle).contains("READY"));

    // A second container in the same process-id namespace: its start is watched like the exec is.
    let mut second = rt.bundle();
    let pids = format!("/proc/{}/ns/pid", rt.pid(&id));
    second.without_namespace("pid").push("linux.namespaces", json!({ "type": "pid", "path": pids }));
    let rounds = Instant::now();
    for round in 0..40 {
        runtime(&["exec", &id, "/script"]);
        runtime(&["exec", &id, "/link", "--version"]);
        runtime(&["exec", &id, "true"]);
        fs::copy(bundle.join("rootfs/script"), second.join("rootfs/script")).expect("it can be copied");
        second.args(&["/script"]).save();
        runtime(&["run", "--bundle", second.path(), &rt.id()]);
        let seen = report(&bundle);
        if seen.contains("ESCAPED") || round >= 5 && seen.contains("SEEN") || rounds.elapsed() > common::LIMIT / 2 {
            break;
        }
    }
    let report = end_attack(&bundle);
    assert!(
        report.contains("SEEN"),
        "the attacker saw the runtime's program inside, or nothing was attacked: {report}"
    );
    assert!(fs::read(&copy).expect("it can be read") == before, "the runtime was overwritten");
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn cve_2019_16884_nothing_poses_as_proc() {
    require!("escapes::cve_2019_16884_nothing_poses_as_proc");
    let rt = Runtime::new();
    let fake = rt.scratch.dir("fake");
    for file in ["self/attr/exec", "sys/net/ipv4/ip_forward", "sysrq-trigger"] {
        fs::create_dir_all(fake.join(file).parent().expect("it has one")).expect("a directory can be made");
        fs::write(fake.join(file), "untouched").expect("a file can be written");
    }
    let source = fake.to_str().expect("UTF-8");
    type Prepare<'a> = &'a dyn Fn(&mut Bundle);
    let attempts: [(&str, Prepare); 5] = [
        ("a bind mount on /proc", &|b| {
            b.mount("/proc", "bind", source, &["rbind"]);
        }),
        ("a tmpfs on /proc", &|b| {
            b.mount("/proc", "tmpfs", "tmpfs", &[]);
        }),
        ("a bind mount on /proc/self/attr", &|b| {
            b.mount("/proc/self/attr", "bind", source, &["bind"]);
        }),
        ("a bind mount through a link to /proc/self", &|b| {
            symlink("/proc/self", b.join("rootfs/link")).expect("a link can be made");
            b.mount("/link/attr", "bind", source, &["bind"]);
        }),
        ("a link in place of /proc", &|b| {
            fs::remove_dir(b.join("rootfs/proc")).expect("a directory can be removed");
            fs::create_dir_all(b.join("rootfs/fake/sys/net/ipv4")).expect("a directory can be made");
            fs::write(b.join("rootfs/fake/sys/net/ipv4/ip_forward"), "untouched").expect("a file can be written");
            symlink("/fake", b.join("rootfs/proc")).expect("a link can be made");
        }),
    ];
    for (what, prepare) in attempts {
        let mut bundle = rt.bundle();
        bundle.set("linux.sysctl", json!({ "net.ipv4.ip_forward": "1" }));
        prepare(&mut bundle);
        let out = rt.sh(&mut bundle, "stat -f -c %T /proc");
        assert!(out.code != 0, "{what} is refused: {out:#?}");
        for file in ["self/attr/exec", "sys/net/ipv4/ip_forward", "sysrq-trigger"] {
            assert_eq!(read(fake.join(file)), "untouched", "{what}");
        }
        let inside = bundle.join("rootfs/fake/sys/net/ipv4/ip_forward");
        assert!(!inside.exists() || read(inside) == "untouched", "{what}");
    }
    rt.nothing_left();
}

#[test]
fn cve_2024_21626_no_working_directory_is_outside() {
    require!("escapes::cve_2024_21626_no_working_directory_is_outside");
    let rt = Runtime::new();
    let reach = format!("cat .{UP}{} && echo ESCAPED; true", marker(&rt));
    let running = rt.detached(&rt.bundle());
    let mut bundle = rt.bundle();
    bundle.args(&["/bin/sh", "-c", &reach]);
    for n in 3..=20 {
        symlink(format!("/proc/self/fd/{n}"), bundle.rootfs().join(format!("dir{n}"))).expect("a link can be made");
    }
    let outside = |out: &Out| out.stdout.contains("ESCAPED") || out.stdout.contains("outside");
    // One that is missing is made, which must not happen outside either.
    let made = rt.scratch.dir("made");
    let places = (3..=20).flat_map(|n| {
        let fd = format!("/proc/self/fd/{n}");
        [format!("/dir{n}"), format!("{fd}{UP}{}/{n}", made.display()), fd]
    });
    for cwd in places.chain(["/proc/self/cwd".to_owned(), "/proc/self/root/../..".to_owned(), "../../..".to_owned()]) {
        bundle.set("process.cwd", json!(cwd)).save();
        let out = run(&mut with_leaked_descriptors(&rt.command(["run", "--bundle", bundle.path(), &rt.id()])));
        assert!(!outside(&out), "run in {cwd}: {out:#?}");
        let exec = rt.command(["exec", "--cwd", &cwd, &running, "/bin/sh", "-c", &reach]);
        let out = run(&mut with_leaked_descriptors(&exec));
        assert!(!outside(&out), "exec in {cwd}: {out:#?}");
        assert_eq!(fs::read_dir(&made).expect("it can be read").count(), 0, "a directory was made outside for {cwd}");
    }
    rt.remove(&running);
    rt.nothing_left();
}

#[test]
fn cve_2024_21626_no_program_is_outside() {
    require!("escapes::cve_2024_21626_no_program_is_outside");
    let rt = Runtime::new();
    let directory = rt.scratch.dir("host");
    let host = directory.join("busybox");
    fs::copy("/bin/busybox", &host).expect("busybox can be copied");
    let running = rt.detached(&rt.bundle());
    let mut bundle = rt.bundle();
    let ran = |out: &Out| out.stdout.contains("ESCAPED");
    for n in 3..=20 {
        let through = format!("/proc/self/fd/{n}{}", host.display());
        symlink(&through, bundle.rootfs().join(format!("app{n}"))).expect("a link can be made");
        for program in [through, format!("/app{n}")] {
            bundle.args(&[&program, "echo", "ESCAPED"]).save();
            let out = run(&mut with_leaked_descriptors(&rt.command(["run", "--bundle", bundle.path(), &rt.id()])));
            assert!(out.code != 0 && !ran(&out), "run of {program}: {out:#?}");
            let out = run(&mut with_leaked_descriptors(&rt.command(["exec", &running, &program, "echo", "ESCAPED"])));
            assert!(out.code != 0 && !ran(&out), "exec of {program}: {out:#?}");
        }
    }
    rt.remove(&running);
    rt.nothing_left();
}

#[test]
fn no_descriptor_of_the_runtime_or_its_caller_is_inside() {
    require!("escapes::no_descriptor_of_the_runtime_or_its_caller_is_inside");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    // The fourth is the directory that `ls` itself reads.
    let expected = "0\n1\n2\n3";
    let list = ["ls", "/proc/self/fd"];
    bundle.args(&list).save();
    run(&mut with_leaked_descriptors(&rt.command(["run", "--bundle", bundle.path(), &rt.id()]))).ok().out_is(expected);

    bundle.args(&["sleep", "1000"]).save();
    let id = rt.id();
    run(&mut with_leaked_descriptors(&rt.command(["run", "--detach", "--bundle", bundle.path(), &id]))).ok();
    let descriptors = |pid: i32| {
        let list = fs::read_dir(format!("/proc/{pid}/fd")).expect("the container runs");
        let mut names: Vec<_> = list.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    };
    // `run --detach` returns when the program starts; what is close-on-exec disappears in that moment.
    wait_until("the program runs", || read(format!("/proc/{}/cmdline", rt.pid(&id))).starts_with("sleep"));
    assert_eq!(descriptors(rt.pid(&id)), ["0", "1", "2"]);
    let exec = rt.command(["exec", &id].iter().chain(&list));
    run(&mut with_leaked_descriptors(&exec)).ok().out_is(expected);
    rt.remove(&id);

    let id = rt.id();
    run(&mut with_leaked_descriptors(&rt.command(["create", "--bundle", bundle.path(), &id]))).ok();
    rt.run(["start", &id]).ok();
    wait_until("the program runs", || read(format!("/proc/{}/cmdline", rt.pid(&id))).starts_with("sleep"));
    assert_eq!(descriptors(rt.pid(&id)), ["0", "1", "2"]);
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn cve_2016_9962_an_entering_process_cannot_be_searched() {
    require!("escapes::cve_2016_9962_an_entering_process_cannot_be_searched");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    attack_with(&mut bundle, "spy");
    bundle.push("process.env", json!(format!("{MARKER}={}", marker(&rt))));
    let id = rt.detached(&bundle);
    wait_until("the attacker is ready", || report(&bundle).contains("READY"));
    let mut second = rt.bundle();
    let pids = format!("/proc/{}/ns/pid", rt.pid(&id));
    second.without_namespace("pid").push("linux.namespaces", json!({ "type": "pid", "path": pids }));
    second.args(&["true"]).save();
    let rounds = Instant::now();
    for _ in 0..30 {
        rt.exec(&id, &["true"]).ok();
        rt.run(["run", "--bundle", second.path(), &rt.id()]).ok();
        if rounds.elapsed() > common::LIMIT / 2 {
            break;
        }
    }
    let report = end_attack(&bundle);
    assert!(report.contains("SEEN"), "the attacker saw processes enter, or nothing was attacked: {report}");
    rt.remove(&id);
    rt.nothing_left();
}

/// Takes the file systems below `/dev` out, so that `/dev` is the image's.
fn own_dev(bundle: &mut Bundle) -> PathBuf {
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts is an array");
    mounts.retain(|m| !m["destination"].as_str().is_some_and(|d| d.starts_with("/dev")));
    bundle.join("rootfs/dev")
}

/// What shows how two masked files are masked: the numbers of the null device, and nothing to read.
const MASKED: &str = "stat -c %t:%T /proc/keys /proc/timer_list; cat /proc/keys /proc/timer_list | wc -c";

#[test]
fn cve_2025_31133_masks_are_the_real_null_device() {
    require!("escapes::cve_2025_31133_masks_are_the_real_null_device");
    let rt = Runtime::new();
    // The host name of the container's own UTS namespace stands for the files of /proc that hurt.
    for target in ["/proc/sys/kernel/hostname", "/etc/passwd", "/nowhere"] {
        let mut bundle = rt.bundle();
        let dev = own_dev(&mut bundle);
        symlink(target, dev.join("null")).expect("a link can be made");
        let out = rt.sh(&mut bundle, MASKED);
        assert!(out.code != 0 || out.text() == "1:3\n1:3\n0", "/dev/null led to {target}: {out:#?}");
        assert!(!is_strata() || out.stderr.contains("/dev/null exists"), "such an image is refused: {out:#?}");
    }
    let mut bundle = rt.bundle();
    let dev = own_dev(&mut bundle);
    symlink("/proc/sys/kernel/hostname", dev.join("null")).expect("a link can be made");
    // The real one is there when it is looked at, and the link when it would be used, or the other way round.
    let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
    mknodat(CWD, dev.join("other"), kind, mode, makedev(1, 3)).expect("a device can be made");
    let mut started = 0;
    while_exchanging(&dev, ["null", "other"], || {
        for _ in 0..25 {
            let out = rt.sh(&mut bundle, MASKED);
            started += u32::from(out.code == 0);
            assert!(out.code != 0 || out.text() == "1:3\n1:3\n0", "{out:#?}");
        }
    });
    assert!(started > 0 || !is_strata(), "some containers start, or nothing was attacked");
    rt.nothing_left();
}

#[test]
fn cve_2025_52565_the_console_is_mounted_on_no_link() {
    require!("escapes::cve_2025_52565_the_console_is_mounted_on_no_link");
    let rt = Runtime::new();
    let victims = ["/proc/sys/kernel/hostname", "/etc/passwd", "/proc/sysrq-trigger"];
    let (mut sockets, mut started) = (0, 0);
    let mut mounts_after = |bundle: &mut Bundle| {
        sockets += 1;
        let socket = FdSocket::new(&rt.scratch, &format!("console{sockets}"));
        bundle.set("process.terminal", json!(true)).save();
        let id = rt.id();
        let path = socket.path().to_str().expect("UTF-8");
        let out = rt.run(["run", "--detach", "--bundle", bundle.path(), "--console-socket", path, &id]);
        let mounts = if out.code == 0 { read(format!("/proc/{}/mountinfo", rt.pid(&id))) } else { String::new() };
        if out.code == 0 {
            started += 1;
            rt.remove(&id);
        }
        mounts
    };
    let devpts = ["newinstance", "ptmxmode=0666", "mode=0620"];
    for victim in victims {
        for link in ["console", "ptmx", "pts"] {
            let mut bundle = rt.bundle();
            let dev = own_dev(&mut bundle);
            if link != "pts" {
                bundle.mount("/dev/pts", "devpts", "devpts", &devpts);
            }
            symlink(victim, dev.join(link)).expect("a link can be made");
            let mounts = mounts_after(&mut bundle);
            let on_victim = |line: &str| {
                line.split(' ').nth(4) == Some(victim) && [" devpts ", " /dev/pts"].iter().any(|t| line.contains(t))
            };
            assert!(!mounts.lines().any(on_victim), "/dev/{link} led to {victim}: {mounts}");
        }
    }
    // The slave's name replaced while the terminal is opened.
    let mut bundle = rt.bundle();
    let dev = own_dev(&mut bundle);
    bundle.mount("/dev/pts", "devpts", "devpts", &devpts);
    symlink("/etc/passwd", dev.join("console")).expect("a link can be made");
    fs::write(dev.join("other"), "").expect("a file can be written");
    while_exchanging(&dev, ["console", "other"], || {
        for _ in 0..15 {
            let mounts = mounts_after(&mut bundle);
            assert!(!mounts.lines().any(|l| l.split(' ').nth(4) == Some("/etc/passwd")), "{mounts}");
        }
    });
    assert!(started > 0 || !is_strata(), "some containers start, or nothing was attacked");
    rt.nothing_left();
}

#[test]
fn cve_2025_52881_writes_to_proc_go_to_proc() {
    require!("escapes::cve_2025_52881_writes_to_proc_go_to_proc");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    let fake = bundle.join("rootfs/fake");
    fs::create_dir_all(fake.join("sys/net/ipv4")).expect("a directory can be made");
    fs::create_dir_all(fake.join("self/attr")).expect("a directory can be made");
    let decoys = ["sys/net/ipv4/ip_forward", "self/attr/exec", "self/attr/keycreate", "self/oom_score_adj"];
    for decoy in decoys {
        fs::write(fake.join(decoy), "untouched").expect("a file can be written");
    }
    symlink("/fake", bundle.join("rootfs/link")).expect("a link can be made");
    bundle.set("linux.sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    bundle.set("process.oomScoreAdj", json!(500));
    let script = "stat -f -c %T /proc; cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj";
    let host = read("/proc/sys/net/ipv4/ip_forward");
    let mut started = 0;
    rt.sh(&mut bundle, script).ok().out_is("proc\n1\n500");
    // `/proc` of the root, changing between a directory and a link to the decoys while containers start. (What the
    // program then finds there is up to whoever may change its root; the runtime's own writes are not.)
    while_exchanging(&bundle.rootfs(), ["proc", "link"], || {
        for _ in 0..25 {
            let out = rt.sh(&mut bundle, script);
            started += u32::from(out.code == 0);
        }
    });
    assert!(started > 0 || !is_strata(), "some containers start, or nothing was attacked");
    for decoy in decoys {
        assert_eq!(read(fake.join(decoy)), "untouched", "{decoy}");
    }
    assert_eq!(read("/proc/sys/net/ipv4/ip_forward"), host, "the host's own setting stays");
    rt.nothing_left();
}

#[test]
fn mounts_stay_inside_while_links_change() {
    require!("escapes::mounts_stay_inside_while_links_change");
    let rt = Runtime::new();
    let victim = rt.scratch.dir("victim");
    let source = rt.scratch.dir("source");
    rt.scratch.write("source/file", "from the host\n");
    let up = "../".repeat(20);
    for target in [victim.display().to_string(), format!("{up}{}", victim.display())] {
        let mut bundle = rt.bundle();
        fs::create_dir(bundle.join("rootfs/target")).expect("a directory can be made");
        symlink(&target, bundle.join("rootfs/other")).expect("a link can be made");
        bundle.mount("/target/deep/er", "bind", source.to_str().expect("UTF-8"), &["bind"]);
        bundle.mount("/target/tmp", "tmpfs", "tmpfs", &[]);
        bundle.push(
            "linux.resources.devices",
            json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "m" }),
        );
        bundle.push("linux.devices", json!({ "path": "/target/dev/fuse", "type": "c", "major": 10, "minor": 229 }));
        let (mut started, mut last) = (0, String::new());
        while_exchanging(&bundle.rootfs(), ["target", "other"], || {
            for _ in 0..20 {
                let out = rt.sh(&mut bundle, "true");
                started += u32::from(out.code == 0);
                last = out.stderr;
            }
        });
        let made: Vec<_> = fs::read_dir(&victim).expect("it can be read").flatten().map(|e| e.path()).collect();
        assert!(made.is_empty(), "made outside of the root: {made:?}");
        assert!(started > 0 || !is_strata(), "some containers start, or nothing was attacked: {last}");
    }
    rt.nothing_left();
}
