//! podman drives the runtime: `podman --runtime`, through conmon, as podman's users do.
//!
//! podman gets its own storage, its own state and its own configuration; no network is made. Several questions are
//! put to one container where that loses nothing: each podman command costs a tenth of a second.

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::terminal::Terminal;
use common::{Out, Scratch, is_strata, leftovers, process_exists, program, run, run_with_input, wait_until, which};
use serde_json::Value;

const PROGRAMS: [&str; 4] = ["podman", "conmon", "tar", "setsid"];

struct Podman {
    scratch: Scratch,
}

impl Podman {
    /// A private podman with one image, `box`.
    fn new() -> Podman {
        let scratch = Scratch::new();
        let dir = |name| scratch.join(name).display().to_string();
        // podman's default limits are above what a root without CAP_SYS_RESOURCE may set.
        let config = format!(
            "[containers]\nnetns = \"none\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n\
             tmp_dir = \"{}\"\nstatic_dir = \"{}\"\nvolume_path = \"{}\"\n\
             [network]\nnetwork_config_dir = \"{}\"\n",
            dir("tmp"),
            dir("graph/libpod"),
            dir("graph/volumes"),
            dir("net"),
        );
        scratch.write("containers.conf", config);
        // Copies of the image are slower than an overlay but work on every file system.
        let driver = if overlay_works(&scratch) { "overlay" } else { "vfs" };
        let (graph, run_root) = (dir("graph"), dir("run"));
        scratch.write(
            "storage.conf",
            format!("[storage]\ndriver = \"{driver}\"\ngraphroot = \"{graph}\"\nrunroot = \"{run_root}\"\n"),
        );
        let podman = Podman { scratch };
        let archive = common::bundle::rootfs_archive(&podman.scratch);
        podman.run(&["import", "--quiet", archive.to_str().expect("UTF-8"), "box"]).ok();
        podman
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.scratch.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.scratch.join("storage.conf"));
        command.arg("--runtime").arg(program()).stdin(Stdio::null());
        match arguments {
            // All containers of a test share one cgroup parent, so that the leavings can be found.
            [verb @ ("run" | "create"), rest @ ..] => {
                command.arg(verb).arg("--cgroup-parent").arg(format!("/{}", self.scratch.tag())).args(rest)
            }
            all => command.args(all),
        };
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Out {
        run(&mut self.command(arguments))
    }

    #[track_caller]
    fn inspect(&self, name: &str, format: &str) -> String {
        self.run(&["inspect", "--type", "container", "--format", format, name]).ok().text().to_owned()
    }

    /// Asserts that no container is left, nor a process, cgroup or mount of one.
    #[track_caller]
    fn nothing_left(&self) {
        self.run(&["ps", "--all", "--quiet"]).ok().out_is("");
        let tag = self.scratch.tag();
        // podman keeps the parent cgroup and its `conmon` child; the containers' own must be gone.
        wait_until("the containers' cgroups are gone", || {
            leftovers::cgroups(tag).iter().all(|c| !c.to_string_lossy().contains("libpod-"))
        });
        wait_until("the containers' processes are gone", || leftovers::processes(tag).is_empty());
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--all", "--force", "--time", "0"]).output();
    }
}

fn overlay_works(scratch: &Scratch) -> bool {
    let [low, up, work, at] = ["ol", "ou", "ow", "om"].map(|n| scratch.dir(n));
    let options = format!("lowerdir={},upperdir={},workdir={}", low.display(), up.display(), work.display());
    let options = std::ffi::CString::new(options).expect("no NUL in a path");
    let mounted = rustix::mount::mount("overlay", &at, "overlay", rustix::mount::MountFlags::empty(), &*options);
    if mounted.is_ok() {
        let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty());
    }
    mounted.is_ok()
}

#[test]
fn foreground_runs_pass_output_input_and_exit_codes() {
    require!("podman::foreground_runs_pass_output_input_and_exit_codes", PROGRAMS[0], PROGRAMS[1], PROGRAMS[2]);
    let podman = Podman::new();
    podman.run(&["run", "--rm", "box", "echo", "hello from inside"]).ok().out_is("hello from inside");
    let both = podman.run(&["run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    both.code_is(7).out_is("out").err_has("err");
    // The three codes that podman keeps for itself, as docker does.
    podman.run(&["run", "--rm", "--no-such-flag", "box", "true"]).code_is(125);
    podman.run(&["run", "--rm", "box", "/etc"]).code_is(126);
    podman.run(&["run", "--rm", "box", "/etc/passwd"]).code_is(126);
    podman.run(&["run", "--rm", "box", "no-such-program"]).code_is(127);
    podman.run(&["run", "--rm", "box", "/no/such/program"]).code_is(127);
    let mut command = podman.command(&["run", "--rm", "-i", "box", "sh", "-c", "cat; echo end"]);
    run_with_input(&mut command, "first\nsecond\n").ok().out_is("first\nsecond\nend");
    // A large stream survives whole.
    let mut command = podman.command(&["run", "--rm", "-i", "box", "md5sum"]);
    let big = "0123456789abcdef\n".repeat(60_000);
    let sum = run_with_input(&mut Command::new("md5sum"), &big).ok().text().to_owned();
    run_with_input(&mut command, &big).ok().out_is(&sum);
    podman.nothing_left();
}

#[test]
fn a_terminal_works_in_run_and_exec() {
    require!("podman::a_terminal_works_in_run_and_exec", PROGRAMS[0], PROGRAMS[1], PROGRAMS[2], PROGRAMS[3]);
    let podman = Podman::new();
    let mut terminal = Terminal::spawn(&podman.command(&["run", "--rm", "-it", "--name", "t", "box", "sh"]), 30, 91);
    terminal.expect("# ");
    terminal.type_in("tty; stty size\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("30 91");
    terminal.type_in("ls -l /dev/console | cut -c1\n");
    terminal.expect("\nc");
    terminal.resize(40, 100);
    terminal.type_in("sleep 0.5; stty size\n");
    terminal.expect("40 100");
    // ^C ends the foreground program, not the shell.
    terminal.type_in("sleep 1000\n");
    sleep(Duration::from_millis(300));
    terminal.type_in("\x03");
    terminal.expect("# ");

    let mut exec =
        Terminal::spawn(&podman.command(&["exec", "-it", "t", "sh", "-c", "tty; stty size; read x; exit $x"]), 21, 81);
    exec.expect("/dev/pts/");
    exec.expect("21 81");
    exec.type_in("5\n");
    assert_eq!(exec.finish().0, 5);

    terminal.type_in("exit 3\n");
    let (code, rest) = terminal.finish();
    assert_eq!(code, 3, "the rest of the terminal: {rest:?}");
    podman.nothing_left();
}

#[test]
fn a_detached_container_lives_through_all_verbs() {
    require!("podman::a_detached_container_lives_through_all_verbs", PROGRAMS[0], PROGRAMS[1], PROGRAMS[2]);
    let podman = Podman::new();
    let script = "trap 'echo got TERM; exit 9' TERM; echo up; while :; do sleep 0.1; done";
    podman.run(&["run", "--detach", "--name", "c", "--pids-limit", "50", "box", "sh", "-c", script]).ok();
    podman.run(&["ps", "--format", "{{.Names}}"]).ok().out_is("c");
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
    if is_strata() {
        assert_eq!(podman.inspect("c", "{{.OCIRuntime}}"), program().display().to_string());
    }
    let pid: i32 = podman.inspect("c", "{{.State.Pid}}").parse().expect("a pid");
    assert!(process_exists(pid));

    // exec: output, codes, environment, user, directory, input, in the background.
    podman.run(&["exec", "c", "sh", "-c", "echo inside; exit 4"]).code_is(4).out_is("inside");
    podman.run(&["exec", "c", "no-such-program"]).code_is(127);
    podman.run(&["exec", "c", "/etc"]).code_is(126);
    podman.run(&["exec", "--env", "A=b c", "c", "sh", "-c", "echo \"$A\""]).ok().out_is("b c");
    podman
        .run(&["exec", "--user", "guest", "c", "id"])
        .ok()
        .out_has("uid=1000(guest) gid=1000(guest)")
        .out_has("29(audio)");
    podman.run(&["exec", "--workdir", "/home/guest", "c", "pwd"]).ok().out_is("/home/guest");
    let mut command = podman.command(&["exec", "-i", "c", "cat"]);
    run_with_input(&mut command, "through exec").ok().out_is("through exec");
    podman.run(&["exec", "--detach", "c", "touch", "/tmp/made"]).ok();
    wait_until("the background exec made its file", || podman.run(&["exec", "c", "test", "-e", "/tmp/made"]).code == 0);
    podman.run(&["exec", "--privileged", "c", "grep", "CapEff", "/proc/self/status"]).ok().out_has("f");

    // Views of it.
    podman.run(&["top", "c", "pid", "comm"]).ok().out_has("sleep");
    let stats = podman.run(&["stats", "--no-stream", "--format", "json", "c"]).ok().json();
    assert_eq!(stats[0]["name"], "c");
    let pids =
        stats[0]["pids"].as_str().and_then(|p| p.parse::<u32>().ok()).or(stats[0]["pids"].as_u64().map(|p| p as u32));
    assert!(pids.is_some_and(|p| p >= 1), "stats count the processes: {stats:#}");
    let memory = stats[0]["mem_usage"].as_str().unwrap_or_default();
    assert!(!memory.is_empty() && !memory.starts_with("0B"), "stats show memory in use: {stats:#}");

    // Frozen, nothing runs; thawed, it goes on.
    podman.run(&["pause", "c"]).ok();
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "paused");
    podman.run(&["exec", "c", "true"]).fails();
    podman.run(&["unpause", "c"]).ok();
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
    podman.run(&["exec", "c", "true"]).ok();

    // Files go in and out.
    let file = podman.scratch.write("in.txt", "copied\n");
    podman.run(&["cp", file.to_str().expect("UTF-8"), "c:/tmp/there.txt"]).ok();
    podman.run(&["exec", "c", "cat", "/tmp/there.txt"]).ok().out_is("copied");
    let back = podman.scratch.join("out.txt");
    podman.run(&["cp", "c:/tmp/there.txt", back.to_str().expect("UTF-8")]).ok();
    assert_eq!(common::read(back), "copied\n");

    // Stop asks with TERM first and reports the program's own code.
    podman.run(&["stop", "--time", "20", "c"]).ok();
    podman.run(&["wait", "c"]).ok().out_is("9");
    assert_eq!(podman.inspect("c", "{{.State.Status}} {{.State.ExitCode}}"), "exited 9");
    let logs = podman.run(&["logs", "c"]);
    logs.ok().out_is("up\ngot TERM");
    assert!(!process_exists(pid));

    // It starts again, and dies of a signal.
    podman.run(&["start", "c"]).ok();
    podman.run(&["kill", "--signal", "KILL", "c"]).ok();
    podman.run(&["wait", "c"]).ok().out_is("137");
    podman.run(&["rm", "c"]).ok();

    let events = podman.run(&["events", "--stream=false", "--format", "{{.Status}}"]).ok().stdout.clone();
    for event in ["create", "start", "exec", "pause", "unpause", "kill", "died", "remove"] {
        assert!(events.lines().any(|l| l == event), "no event {event}: {events}");
    }
    podman.nothing_left();
}

#[test]
fn a_program_that_ignores_term_is_killed_and_removal_can_be_forced() {
    require!("podman::a_program_that_ignores_term_is_killed_and_removal_can_be_forced", "podman", "conmon", "tar");
    let podman = Podman::new();
    podman.run(&["run", "--detach", "--name", "deaf", "box", "sleep", "1000"]).ok();
    podman.run(&["stop", "--time", "1", "deaf"]).ok();
    assert_eq!(podman.inspect("deaf", "{{.State.ExitCode}}"), "137");
    podman.run(&["start", "deaf"]).ok();
    podman.run(&["rm", "deaf"]).fails();
    podman.run(&["rm", "--force", "--time", "0", "deaf"]).ok();
    // A removal while it is frozen, with processes beside the first.
    podman.run(&["run", "--detach", "--name", "cold", "box", "sh", "-c", "sleep 1000 & sleep 1000"]).ok();
    podman.run(&["pause", "cold"]).ok();
    podman.run(&["rm", "--force", "--time", "0", "cold"]).ok();
    // Restarting gives a new process.
    podman.run(&["run", "--detach", "--name", "again", "box", "sleep", "1000"]).ok();
    let before = podman.inspect("again", "{{.State.Pid}}");
    podman.run(&["restart", "--time", "0", "again"]).ok();
    assert_ne!(podman.inspect("again", "{{.State.Pid}}"), before);
    podman.run(&["rm", "--force", "--time", "0", "again"]).ok();
    podman.nothing_left();
}

#[test]
fn limits_are_seen_inside() {
    require!("podman::limits_are_seen_inside", "podman", "conmon", "tar");
    let podman = Podman::new();
    let limits =
        ["--memory", "64m", "--cpus", "0.5", "--cpu-shares", "300", "--pids-limit", "17", "--cpuset-cpus", "0"];
    let v1 = leftovers::hierarchies().iter().any(|h| h.ends_with("memory"));
    let files: &[(&str, &str)] = if v1 {
        &[
            ("memory/memory.limit_in_bytes", "67108864"),
            ("cpu/cpu.cfs_quota_us", "50000"),
            ("cpu/cpu.cfs_period_us", "100000"),
            ("cpu/cpu.shares", "300"),
            ("pids/pids.max", "17"),
            ("cpuset/cpuset.cpus", "0"),
        ]
    } else {
        &[("memory.max", "67108864"), ("cpu.max", "50000 100000"), ("pids.max", "17"), ("cpuset.cpus", "0")]
    };
    let script = files.iter().map(|(f, _)| format!("cat /sys/fs/cgroup/{f};")).collect::<String>();
    let expected = files.iter().map(|(_, v)| *v).collect::<Vec<_>>().join("\n");
    let arguments = [&["run", "--rm"][..], &limits, &["box", "sh", "-c", &script]].concat();
    podman.run(&arguments).ok().out_is(&expected);

    // The limits are enforced, not only shown: too much memory is answered with a kill, a fork bomb with an error.
    let hog = "x=a; while :; do x=$x$x; done";
    podman
        .run(&["run", "--name", "hog", "--memory", "32m", "--memory-swap", "32m", "box", "sh", "-c", hog])
        .code_is(137);
    podman.run(&["rm", "hog"]).ok();
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all";
    let bomb = podman.run(&["run", "--rm", "--pids-limit", "5", "box", "sh", "-c", forks]);
    bomb.fails().out_lacks("all").err_has("fork");
    podman
        .run(&[
            "run",
            "--rm",
            "--ulimit",
            "nofile=77:88",
            "--ulimit",
            "nproc=500:500",
            "box",
            "sh",
            "-c",
            "ulimit -Sn; ulimit -Hn",
        ])
        .ok()
        .out_is("77\n88");
    podman
        .run(&["run", "--rm", "--shm-size", "3m", "box", "sh", "-c", "df -k /dev/shm | tail -1"])
        .ok()
        .out_has("3072");
    podman.run(&["run", "--rm", "--oom-score-adj", "500", "box", "cat", "/proc/self/oom_score_adj"]).ok().out_is("500");
    // Limits of a running container change.
    podman.run(&["run", "--detach", "--name", "u", "--memory", "64m", "box", "sleep", "1000"]).ok();
    let update = podman.run(&["update", "--memory", "96m", "u"]);
    let file = if v1 { "/sys/fs/cgroup/memory/memory.limit_in_bytes" } else { "/sys/fs/cgroup/memory.max" };
    if update.stderr.contains("unrecognized command") {
        common::skip("podman::limits_are_seen_inside (update)", "this podman has no update command");
    } else {
        update.ok();
        podman.run(&["exec", "u", "cat", file]).ok().out_is("100663296");
    }
    podman.run(&["rm", "--force", "--time", "0", "u"]).ok();
    podman.nothing_left();
}

#[test]
fn privileges_are_cut_and_given() {
    require!("podman::privileges_are_cut_and_given", "podman", "conmon", "tar");
    let podman = Podman::new();
    let status = |flags: &[&str], fields: &str| -> String {
        let arguments = [&["run", "--rm"][..], flags, &["box", "grep", "-E", fields, "/proc/self/status"]].concat();
        podman.run(&arguments).ok().text().replace('\t', " ")
    };
    let plain = status(&[], "CapEff|NoNewPrivs|Seccomp:");
    // podman's default set, no_new_privs off, a seccomp filter on.
    assert_eq!(
        plain,
        "CapEff: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 2".replace("a80425fb", &default_capabilities(&plain))
    );
    let dropped = status(&["--cap-drop", "ALL"], "CapEff|CapBnd|CapPrm");
    assert!(dropped.lines().all(|l| l.ends_with(" 0000000000000000")), "{dropped}");
    let one = status(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"], "CapEff|CapBnd");
    assert!(one.lines().all(|l| l.ends_with(" 0000000000001000")), "{one}");
    let guest = status(&["--user", "1000:29"], "CapEff|Uid|Gid");
    assert_eq!(guest, "Uid: 1000 1000 1000 1000\nGid: 29 29 29 29\nCapEff: 0000000000000000");
    let unconfined =
        status(&["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"], "NoNewPrivs|Seccomp:");
    assert_eq!(unconfined, "NoNewPrivs: 1\nSeccomp: 0");
    // The filter refuses what a container has no business with.
    podman
        .run(&[
            "run",
            "--rm",
            "--cap-add",
            "SYS_ADMIN",
            "--security-opt",
            "seccomp=unconfined",
            "--security-opt",
            "apparmor=unconfined",
            "box",
            "mount",
            "-t",
            "tmpfs",
            "x",
            "/tmp",
        ])
        .ok();
    podman.run(&["run", "--rm", "box", "mount", "-t", "tmpfs", "x", "/tmp"]).fails();
    podman.run(&["run", "--rm", "box", "unshare", "-m", "true"]).fails();
    // Masked and read-only paths.
    podman.run(&["run", "--rm", "box", "sh", "-c", "echo 1 > /proc/sys/kernel/panic"]).fails().err_has("read-only");
    podman
        .run(&["run", "--rm", "box", "sh", "-c", "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l"])
        .ok()
        .out_is("0\n0");

    let privileged = "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted; test -e /dev/kmsg && echo kmsg; [ -w /proc/sys ] && echo writable";
    let out = podman.run(&["run", "--rm", "--privileged", "box", "sh", "-c", privileged]);
    out.ok().out_is("Seccomp:\t0\nmounted\nkmsg\nwritable");
    // The other devices: nothing but the usual ones, unless given.
    podman.run(&["run", "--rm", "box", "sh", "-c", "mknod /tmp/k c 1 11 && cat /tmp/k"]).fails();
    podman
        .run(&[
            "run",
            "--rm",
            "--device",
            "/dev/kmsg:/dev/log1:r",
            "box",
            "sh",
            "-c",
            "test -c /dev/log1 && echo there",
        ])
        .ok()
        .out_is("there");
    podman.nothing_left();
}

/// The capability mask that podman's own default list makes: Debian's podman and upstream's differ by version, so
/// the mask is not written down here but must be a proper subset of everything and more than nothing.
fn default_capabilities(status: &str) -> String {
    let mask = status.lines().find_map(|l| l.strip_prefix("CapEff: ")).expect("CapEff is shown");
    let bits = u64::from_str_radix(mask, 16).expect("a hexadecimal mask");
    assert!(bits & 1 == 1 && bits & (1 << 21) == 0 && bits.count_ones() < 20, "CHOWN but not SYS_ADMIN: {mask}");
    mask[8..].to_owned()
}

#[test]
fn files_names_and_users_are_as_asked() {
    require!("podman::files_names_and_users_are_as_asked", "podman", "conmon", "tar");
    let podman = Podman::new();
    podman.run(&["run", "--rm", "--read-only", "box", "touch", "/x"]).fails().err_has("read-only");
    podman.run(&["run", "--rm", "--read-only", "box", "touch", "/tmp/x"]).ok();
    podman.run(&["run", "--rm", "--hostname", "lighthouse", "box", "hostname"]).ok().out_is("lighthouse");
    podman.run(&["run", "--rm", "--workdir", "/home", "box", "pwd"]).ok().out_is("/home");
    podman
        .run(&["run", "--rm", "--env", "COLOUR=deep blue", "box", "sh", "-c", "echo $COLOUR"])
        .ok()
        .out_is("deep blue");
    podman.run(&["run", "--rm", "--user", "guest", "box", "id"]).ok().out_has("uid=1000(guest) gid=1000(guest)");
    podman.run(&["run", "--rm", "--user", "4242", "--group-add", "77", "box", "id", "-G"]).ok().out_is("0 77");
    podman.run(&["run", "--rm", "--umask", "0027", "box", "sh", "-c", "umask"]).ok().out_is("0027");

    let shared = podman.scratch.dir("shared");
    fs::write(shared.join("from-host"), "host\n").expect("a file can be written");
    let rw = format!("{}:/data", shared.display());
    let ro = format!("{}:/data:ro", shared.display());
    podman
        .run(&[
            "run",
            "--rm",
            "--volume",
            &rw,
            "box",
            "sh",
            "-c",
            "cat /data/from-host; echo guest > /data/from-inside",
        ])
        .ok()
        .out_is("host");
    assert_eq!(common::read(shared.join("from-inside")), "guest\n");
    let out = podman.run(&["run", "--rm", "--volume", &ro, "box", "sh", "-c", "cat /data/from-host; echo x > /data/y"]);
    out.fails().out_is("host").err_has("read-only");
    podman.run(&["volume", "create", "keep"]).ok();
    podman.run(&["run", "--rm", "--volume", "keep:/v", "box", "sh", "-c", "echo kept > /v/f"]).ok();
    podman.run(&["run", "--rm", "--volume", "keep:/v", "box", "cat", "/v/f"]).ok().out_is("kept");
    let tmpfs = podman.run(&[
        "run",
        "--rm",
        "--tmpfs",
        "/scratch:rw,size=1m,mode=1777,noexec",
        "box",
        "grep",
        " /scratch ",
        "/proc/mounts",
    ]);
    tmpfs.ok().out_has("tmpfs").out_has("noexec").out_has("size=1024k");
    // A symbolic link in the image does not lead a mount out of it.
    podman.run(&["run", "--name", "link", "box", "ln", "-s", "../../../../../../tmp", "/escape"]).ok();
    podman.run(&["commit", "--quiet", "link", "linked"]).ok();
    podman.run(&["rm", "link"]).ok();
    let target = format!("{}:/escape/{}", shared.display(), podman.scratch.tag());
    podman.run(&["run", "--rm", "--volume", &target, "linked", "sh", "-c", "ls /tmp/*"]).ok().out_has("from-host");
    podman.nothing_left();
}

#[test]
fn namespaces_are_new_or_shared_as_asked() {
    require!("podman::namespaces_are_new_or_shared_as_asked", "podman", "conmon", "tar");
    let podman = Podman::new();
    podman.run(&["run", "--rm", "--network", "none", "box", "ls", "/sys/class/net"]).ok().out_is("lo");
    podman
        .run(&["run", "--rm", "--network", "none", "box", "sh", "-c", "ip link show lo | grep -c UP"])
        .ok()
        .out_is("1");
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace link").display().to_string();
    podman.run(&["run", "--rm", "--network", "host", "box", "readlink", "/proc/self/ns/net"]).ok().out_is(&own("net"));
    podman.run(&["run", "--rm", "--pid", "host", "box", "readlink", "/proc/self/ns/pid"]).ok().out_is(&own("pid"));
    podman.run(&["run", "--rm", "--ipc", "host", "box", "readlink", "/proc/self/ns/ipc"]).ok().out_is(&own("ipc"));
    podman.run(&["run", "--rm", "--uts", "host", "box", "readlink", "/proc/self/ns/uts"]).ok().out_is(&own("uts"));
    let out = podman.run(&["run", "--rm", "box", "sh", "-c", "readlink /proc/self/ns/pid; echo $$"]);
    assert!(out.ok().stdout.ends_with("\n1\n") && !out.stdout.contains(&own("pid")), "{out:#?}");
    let map = podman.run(&["run", "--rm", "--uidmap", "0:20000:5000", "--gidmap", "0:30000:5000", "box", "sh", "-c",
        "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; stat -c %u:%g /bin/busybox; touch /tmp/x && stat -c %u /tmp/x"]);
    map.ok().out_is("0 20000 5000\n 0 30000 5000\n0\n0:0\n0");
    // One container joins another's namespaces.
    podman.run(&["run", "--detach", "--name", "first", "box", "sleep", "1000"]).ok();
    let net = podman.run(&["exec", "first", "readlink", "/proc/self/ns/net"]).ok().text().to_owned();
    podman
        .run(&["run", "--rm", "--network", "container:first", "box", "readlink", "/proc/self/ns/net"])
        .ok()
        .out_is(&net);
    podman.run(&["run", "--rm", "--pid", "container:first", "box", "ps"]).ok().out_has("sleep 1000");
    podman.run(&["rm", "--force", "--time", "0", "first"]).ok();
    podman
        .run(&[
            "run",
            "--rm",
            "--sysctl",
            "net.ipv4.ip_default_ttl=77",
            "box",
            "cat",
            "/proc/sys/net/ipv4/ip_default_ttl",
        ])
        .ok()
        .out_is("77");
    podman.nothing_left();
}

#[test]
fn an_init_process_reaps_and_forwards_signals() {
    require!("podman::an_init_process_reaps_and_forwards_signals", "podman", "conmon", "tar", "catatonit");
    let podman = Podman::new();
    let init = which("catatonit").expect("required above");
    let init = init.to_str().expect("UTF-8");
    podman
        .run(&["run", "--rm", "--init", "--init-path", init, "box", "sh", "-c", "cat /proc/1/comm"])
        .ok()
        .out_is("podman-init");
    podman.run(&["run", "--detach", "--name", "i", "--init", "--init-path", init, "box", "sleep", "1000"]).ok();
    podman.run(&["stop", "--time", "20", "i"]).ok();
    // sleep dies of TERM by default once it is not process 1.
    assert_eq!(podman.inspect("i", "{{.State.ExitCode}}"), "143");
    podman.run(&["rm", "i"]).ok();
    podman.nothing_left();
}

#[test]
fn health_checks_pods_and_followed_logs_work() {
    require!("podman::health_checks_pods_and_followed_logs_work", "podman", "conmon", "tar");
    let podman = Podman::new();
    // Without systemd no timer runs a health check; the command does it by hand.
    let health = ["--health-cmd", "test -e /tmp/fine", "--health-interval", "disable", "--health-retries", "1"];
    podman.run(&[&["run", "--detach", "--name", "h"][..], &health, &["box", "sleep", "1000"]].concat()).ok();
    podman.run(&["healthcheck", "run", "h"]).fails();
    podman.run(&["exec", "h", "touch", "/tmp/fine"]).ok();
    podman.run(&["healthcheck", "run", "h"]).ok();
    assert_eq!(podman.inspect("h", "{{.State.Health.Status}}"), "healthy");
    podman.run(&["rm", "--force", "--time", "0", "h"]).ok();

    podman
        .run(&[
            "run",
            "--detach",
            "--name",
            "l",
            "box",
            "sh",
            "-c",
            "for i in 1 2 3; do echo line $i; sleep 0.2; done; exit 6",
        ])
        .ok();
    podman.run(&["logs", "--follow", "l"]).ok().out_is("line 1\nline 2\nline 3");
    podman.run(&["wait", "l"]).ok().out_is("6");
    let all: Value = podman.run(&["ps", "--all", "--format", "json"]).ok().json();
    assert_eq!(all[0]["ExitCode"], 6, "{all:#}");
    podman.run(&["rm", "l"]).ok();

    // attach sees the output of a container created before and passes its exit code on.
    podman.run(&["create", "--name", "a", "box", "sh", "-c", "echo attached; exit 2"]).ok();
    podman.run(&["start", "--attach", "a"]).code_is(2).out_is("attached");
    podman.run(&["rm", "a"]).ok();
    podman.nothing_left();
}

#[test]
fn an_image_is_built_by_running_commands() {
    require!("podman::an_image_is_built_by_running_commands", "podman", "conmon", "tar");
    let podman = Podman::new();
    let context = podman.scratch.dir("context");
    fs::write(context.join("file"), "from the context\n").expect("a file can be written");
    let steps = "FROM box\nCOPY file /file\nRUN cat /file > /copy && id -u > /user\nUSER guest\nWORKDIR /home\n\
                 RUN id -u; pwd\nENTRYPOINT [\"cat\"]\nCMD [\"/copy\", \"/user\"]\n";
    fs::write(context.join("Containerfile"), steps).expect("a file can be written");
    let limit = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let build = ["build", "--isolation", "oci", "--network", "none", "--tag", "built", "--layers=false"];
    let arguments = [&build[..], &limit, &[context.to_str().expect("UTF-8")]].concat();
    let out = podman.run(&arguments);
    assert!(out.ok().stdout.contains("1000\n/home"), "the output of the steps is shown: {out:#?}");
    podman.run(&["run", "--rm", "built"]).ok().out_is("from the context\n0");
    // A step that fails fails the build.
    fs::write(context.join("Containerfile"), "FROM box\nRUN exit 9\n").expect("a file can be written");
    podman.run(&arguments).fails().err_has("9");
    podman.nothing_left();
}

#[test]
fn pods_share_cgroups_and_output_can_be_attached_to() {
    require!("podman::pods_share_cgroups_and_output_can_be_attached_to", "podman", "conmon", "tar");
    let podman = Podman::new();
    let parent = format!("/{}", podman.scratch.tag());
    podman.run(&["pod", "create", "--infra=false", "--cgroup-parent", &parent, "--name", "pod"]).ok();
    for name in ["one", "two"] {
        podman.run(&["run", "--detach", "--pod", "pod", "--name", name, "box", "sleep", "1000"]).ok();
    }
    podman.run(&["pod", "pause", "pod"]).ok();
    assert_eq!(podman.inspect("two", "{{.State.Status}}"), "paused");
    podman.run(&["pod", "unpause", "pod"]).ok();
    podman.run(&["pod", "top", "pod"]).ok().out_has("sleep");
    podman.run(&["pod", "stop", "--time", "0", "pod"]).ok();
    assert_eq!(podman.inspect("one", "{{.State.Status}}"), "exited");
    podman.run(&["pod", "rm", "--force", "pod"]).ok();

    podman
        .run(&["run", "--detach", "--interactive", "--name", "echo", "box", "sh", "-c", "read x; echo got $x; exit 4"])
        .ok();
    let mut command = podman.command(&["attach", "echo"]);
    run_with_input(&mut command, "a line\n").out_is("got a line");
    podman.run(&["wait", "echo"]).ok().out_is("4");
    podman.run(&["rm", "echo"]).ok();
    podman.nothing_left();
}
