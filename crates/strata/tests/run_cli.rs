//! The verbs for people: `run` with an image or a directory, `ps`, `exec`, `stats`, `inspect`, `kill`, `rm`, `gc` and
//! the verbs that only print.

mod common;

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::terminal::Terminal;
use common::{
    Out, Runtime, is_strata, leftovers, process_exists, program, read, run, run_with_input, skip, spawn, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

/// A state directory, a store, and a busybox root file system.
struct Strata {
    rt: Runtime,
}

impl Strata {
    fn new() -> Strata {
        let rt = Runtime::new();
        common::bundle::fill_rootfs(&rt.scratch.dir("rootfs"));
        Strata { rt }
    }

    fn rootfs(&self) -> String {
        self.rt.scratch.join("rootfs").display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.rt.command(["--store"]);
        command.arg(self.rt.scratch.join("store")).args(arguments);
        command
    }

    #[track_caller]
    fn call(&self, arguments: &[&str]) -> Out {
        run(&mut self.command(arguments))
    }

    fn run_arguments(&self, options: &[&str], arguments: &[&str]) -> Vec<String> {
        let name = self.rt.id();
        let rootfs = self.rootfs();
        let words = [&["run", "--name", &name, "--rootfs", &rootfs][..], options, &["--"], arguments].concat();
        words.into_iter().map(str::to_owned).collect()
    }

    fn run_command(&self, options: &[&str], arguments: &[&str]) -> Command {
        self.command(&self.run_arguments(options, arguments).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs a command in the busybox root, in the foreground.
    #[track_caller]
    fn run(&self, options: &[&str], arguments: &[&str]) -> Out {
        run(&mut self.run_command(options, arguments))
    }

    /// Starts one in the background and returns its name.
    #[track_caller]
    fn background(&self, options: &[&str], arguments: &[&str]) -> String {
        self.run(&[&["--detach"][..], options].concat(), arguments).ok().text().to_owned()
    }

    #[track_caller]
    fn instances(&self) -> Vec<Value> {
        let list = self.call(&["ps", "--all", "--json"]).ok().json();
        list.as_array().expect("an array of instances").clone()
    }

    #[track_caller]
    fn nothing_left(&self) {
        assert_eq!(self.instances(), Vec::<Value>::new());
        let kept: Vec<_> =
            fs::read_dir(self.rt.scratch.join("store/instances")).into_iter().flatten().flatten().collect();
        assert!(kept.is_empty(), "instances on disk: {kept:?}");
        self.rt.nothing_left();
    }
}

/// Leaves the test unless the program is Strata and the host can run it.
macro_rules! strata {
    ($test:expr $(, $program:expr)*) => {{
        let name = concat!("run_cli::", $test);
        require!(name $(, $program)*);
        if !is_strata() {
            return skip(name, "the program under test is not Strata");
        }
        Strata::new()
    }};
}

#[test]
fn the_embedded_image_runs_without_any_preparation() {
    let s = strata!("the_embedded_image_runs_without_any_preparation");
    let name = s.rt.id();
    s.call(&["run", "--name", &name, "--", "echo", "hello from inside"]).ok().out_is("hello from inside");
    s.call(&["run", "--name", &name, "--", "sh", "-c", "exit 7"]).code_is(7);
    s.call(&["run", "--name", &name, "--", "no-such-program"]).code_is(127);
    // What one run writes, the next does not see.
    s.call(&["run", "--name", &name, "--", "sh", "-c", "echo x > /written; cat /written"]).ok().out_is("x");
    s.call(&["run", "--name", &name, "--", "cat", "/written"]).fails();
    for _ in 0..20 {
        // Again and again: the program's end and its report race with what the parent says meanwhile.
        s.call(&["run", "--name", &name, "--", "no-such-program"]).code_is(127).err_has("executable file not found");
    }
    s.call(&["run", "--name", &name, "no-such-image:1", "--", "true"]).code_is(125).err_has("no-such-image");
    s.nothing_left();
}

#[test]
fn a_foreground_run_passes_output_input_codes_and_signals() {
    let s = strata!("a_foreground_run_passes_output_input_codes_and_signals");
    s.run(&[], &["sh", "-c", "echo out; echo err >&2; exit 42"]).code_is(42).out_is("out").err_has("err");
    s.run(&[], &["/etc/passwd"]).code_is(126);
    s.run(&[], &["no-such-program"]).code_is(127);
    s.run(&[], &["/no/such/program"]).code_is(127);
    s.run(&["--memory", "lots"], &["true"]).fails();
    s.call(&["run", "--rootfs", "/no/such/directory", "--", "true"]).code_is(125).err_has("/no/such/directory");
    run_with_input(&mut s.run_command(&[], &["cat"]), "to and fro").ok().out_is("to and fro");
    run_with_input(&mut s.run_command(&[], &["wc", "-c"]), &"x".repeat(300_000)).ok().out_is("300000");

    let script = "trap 'exit 33' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = spawn(&mut s.run_command(&[], &["sh", "-c", script]));
    wait_until("the program is ready", || {
        assert!(!running.is_over(), "it ended: {:?}", running.so_far());
        running.so_far().0.contains("ready")
    });
    running.signal(Signal::TERM);
    running.finish().code_is(33);
    s.nothing_left();

    // --keep leaves the record and the files.
    s.run(&["--keep"], &["sh", "-c", "exit 5"]).code_is(5);
    let instances = s.instances();
    assert_eq!((&instances[0]["status"], &instances[0]["exit_code"]), (&"stopped".into(), &5.into()), "{instances:#?}");
    s.call(&["rm", instances[0]["id"].as_str().expect("an id")]).ok();
    s.nothing_left();
}

#[test]
fn a_terminal_works_in_run_and_exec() {
    let s = strata!("a_terminal_works_in_run_and_exec", "setsid");
    let arguments = s.run_arguments(&["--tty"], &["sh"]);
    let mut terminal = Terminal::spawn(&s.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()), 33, 77);
    terminal.expect("# ");
    terminal.type_in("tty; stty size\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("33 77");
    terminal.resize(44, 88);
    terminal.type_in("sleep 0.5; stty size\n");
    terminal.expect("44 88");
    terminal.type_in("sleep 1000\n");
    sleep(Duration::from_millis(300));
    terminal.type_in("\x03");
    terminal.expect("# ");
    let mut exec =
        Terminal::spawn(&s.command(&["exec", "--tty", &arguments[2], "sh", "-c", "tty; read x; exit $x"]), 22, 66);
    exec.expect("/dev/pts/");
    exec.type_in("7\n");
    assert_eq!(exec.finish().0, 7);
    terminal.type_in("exit 5\n");
    assert_eq!(terminal.finish().0, 5);
    s.nothing_left();
}

#[test]
fn the_instance_is_as_asked() {
    let s = strata!("the_instance_is_as_asked");
    let sh = |options: &[&str], script: &str| s.run(options, &["sh", "-c", script]);
    let mut command = s.run_command(&["--env", "A=b c", "-e", "PASSED"], &["sh", "-c", "echo $A $PASSED"]);
    run(command.env("PASSED", "on")).ok().out_is("b c on");
    sh(&["--user", "guest"], "id -u; id -g; id -G").ok().out_is("1000\n1000\n1000 29");
    sh(&["--user", "4242:29"], "id -u; id -g").ok().out_is("4242\n29");
    sh(&["--user", "nobody-here"], "id").code_is(125).err_has("nobody-here");
    sh(&["--workdir", "/home/guest"], "pwd").ok().out_is("/home/guest");
    sh(&["--hostname", "lighthouse"], "hostname").ok().out_is("lighthouse");
    sh(&["--read-only"], "touch /x").fails().err_has("read-only");
    sh(&["--read-only", "--tmpfs", "/tmp:size=1m"], "touch /tmp/x; grep ' /tmp ' /proc/mounts")
        .ok()
        .out_has("size=1024k");

    let shared = s.rt.scratch.dir("shared");
    fs::write(shared.join("from-host"), "host\n").expect("a file can be written");
    let volume = format!("{}:/data", shared.display());
    sh(&["--volume", &volume], "cat /data/from-host; echo inside > /data/from-inside").ok().out_is("host");
    assert_eq!(read(shared.join("from-inside")), "inside\n");
    sh(&["-v", &format!("{volume}:ro")], "touch /data/x").fails().err_has("read-only");

    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace link").display().to_string();
    sh(&[], "ls /sys/class/net; echo $$").ok().out_is("lo\n1");
    sh(&["--network", "host"], "readlink /proc/self/ns/net").ok().out_is(&own("net"));
    sh(&["--host", "pid,ipc"], "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc").ok().out_is(&format!(
        "{}\n{}",
        own("pid"),
        own("ipc")
    ));
    sh(&["--sysctl", "net.ipv4.ip_default_ttl=77"], "cat /proc/sys/net/ipv4/ip_default_ttl").ok().out_is("77");
    sh(&["--device", "/dev/kmsg"], "test -c /dev/kmsg && echo there").ok().out_is("there");
    sh(&[], "test -e /dev/kmsg").fails();

    let status = |options: &[&str], fields: &str| {
        s.run(options, &["grep", "-E", fields, "/proc/self/status"]).ok().text().replace('\t', " ")
    };
    // The set that Docker and Podman give, a filter, and no way for the program to do what a container has no business with.
    assert!(status(&[], "Seccomp:").ends_with(" 2"));
    let bits = u64::from_str_radix(status(&[], "CapEff").rsplit(' ').next().unwrap_or_default(), 16).expect("a mask");
    assert!(bits & 1 == 1 && bits & (1 << 21) == 0, "CHOWN but not SYS_ADMIN: {bits:x}");
    assert_eq!(status(&["--cap-drop", "all", "--cap-add", "NET_ADMIN"], "CapEff"), "CapEff: 0000000000001000");
    assert_eq!(
        status(&["--no-new-privileges", "--seccomp", "unconfined"], "NoNewPrivs|Seccomp:"),
        "NoNewPrivs: 1\nSeccomp: 0"
    );
    sh(&[], "mount -t tmpfs x /tmp").fails();
    sh(&["--privileged"], "mount -t tmpfs x /tmp && echo mounted").ok().out_is("mounted");
    s.nothing_left();
}

#[test]
fn limits_hold() {
    let s = strata!("limits_hold");
    let limits =
        ["--memory", "64m", "--cpus", "0.5", "--cpu-shares", "300", "--pids-limit", "17", "--cpuset-cpus", "0"];
    let v1 = leftovers::hierarchies().iter().any(|h| h.ends_with("memory"));
    let (files, expected) = if v1 {
        (
            "memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.shares pids/pids.max cpuset/cpuset.cpus",
            "67108864\n50000\n300\n17\n0",
        )
    } else {
        ("memory.max cpu.max pids.max cpuset.cpus", "67108864\n50000 100000\n17\n0")
    };
    s.run(&limits, &["sh", "-c", &format!("cd /sys/fs/cgroup; cat {files}")]).ok().out_is(expected);
    // Without --memory-swap as much swap as memory may be used, where the kernel accounts it.
    let swap = if v1 { "memory/memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
    let default = if v1 { "134217728" } else { "67108864" };
    let show = format!("cd /sys/fs/cgroup; if [ -e {swap} ]; then cat {swap}; else echo {default}; fi");
    s.run(&["--memory", "64m"], &["sh", "-c", &show]).ok().out_is(default);
    let hog = "x=a; while :; do x=$x$x; done";
    s.run(&["--memory", "16m", "--memory-swap", "16m"], &["sh", "-c", hog]).code_is(137);
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all";
    s.run(&["--pids-limit", "5"], &["sh", "-c", forks]).fails().out_lacks("all");
    s.run(&["--ulimit", "nofile=77:88"], &["sh", "-c", "ulimit -Sn; ulimit -Hn"]).ok().out_is("77\n88");
    s.run(&["--oom-score-adj", "500"], &["cat", "/proc/self/oom_score_adj"]).ok().out_is("500");
    s.nothing_left();
}

#[test]
fn a_background_instance_lives_through_all_verbs() {
    let s = strata!("a_background_instance_lives_through_all_verbs", "ps");
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let name = s.background(&["--memory", "64m"], &["sh", "-c", script]);
    let second = s.background(&["--rm"], &["sleep", "1000"]);
    let list = s.call(&["ps"]);
    list.ok().out_has(&name).out_has(&second).out_has("running").out_has("container");
    let quiet =
        s.call(&["ps", "--quiet"]).ok().text().lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(quiet, [name.clone(), second.clone()].into());
    let inspected = s.call(&["inspect", &name]).ok().json();
    let pid =
        s.instances().iter().find(|i| i["id"] == name.as_str()).and_then(|i| i["pid"].as_i64()).expect("a pid") as i32;
    assert!(process_exists(pid));
    assert!(inspected.to_string().contains(&name), "{inspected:#}");
    s.call(&["inspect", "nobody"]).fails().err_has("nobody");

    s.call(&["exec", &name, "--", "sh", "-c", "echo inside; exit 4"]).code_is(4).out_is("inside");
    s.call(&["exec", &name, "echo", "without dashes"]).ok().out_is("without dashes");
    s.call(&["exec", "--user", "guest", "--env", "A=b", &name, "sh", "-c", "id -u; echo $A"]).ok().out_is("1000\nb");
    s.call(&["ps", &name, "-o", "pid,args"]).ok().out_has("sleep 0.1").out_has(&pid.to_string());

    let stats = s.call(&["stats", &name, "--json"]).ok().json();
    assert_eq!(stats[0]["id"], name.as_str());
    assert_eq!(stats[0]["memory"]["limit"], 64 << 20, "{stats:#}");
    assert!(stats[0]["pids"]["current"].as_u64().is_some_and(|n| n >= 1), "{stats:#}");
    s.call(&["stats"]).ok().out_has(&name).out_has(&second).out_has("MEMORY");

    s.call(&["pause", &name]).ok();
    s.call(&["ps"]).ok().out_has("paused");
    s.call(&["resume", &name]).ok();
    s.call(&["update", "--memory", "96m", "--pids-limit", "60", &name]).ok();
    let stats = s.call(&["stats", &name, "--json"]).ok().json();
    assert_eq!(
        (&stats[0]["memory"]["limit"], &stats[0]["pids"]["limit"]),
        (&(96 << 20).into(), &60.into()),
        "{stats:#}"
    );

    s.call(&["update", "--cpus", "0.25", &name]).ok();
    let cpu = r"cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null";
    s.call(&["exec", &name, "--", "sh", "-c", cpu]).out_has("25000");
    s.call(&["update", "--cpus", "1", "--cpu-quota", "1", &name]).fails().err_has("cannot be used with");

    s.call(&["rm", &name]).fails().err_has("running");
    s.call(&["kill", &name, "TERM"]).ok();
    wait_until("the instance stopped", || {
        s.instances().iter().any(|i| i["id"] == name.as_str() && i["status"] == "stopped" && i["exit_code"] == 9)
    });
    assert!(!process_exists(pid));
    s.call(&["ps"]).ok().out_lacks(&name);
    s.call(&["ps", "--all"]).ok().out_has("stopped (9)");
    s.call(&["run", "--name", &name, "--", "true"]).code_is(125).err_has("exists");
    s.call(&["rm", &name]).ok();
    s.call(&["rm", &name]).fails().err_has(&name);
    // --rm removes it as soon as it has ended.
    s.call(&["kill", &second, "KILL"]).ok();
    wait_until("the instance removed itself", || s.instances().is_empty());
    let third = s.background(&[], &["sleep", "1000"]);
    s.call(&["rm", "--force", &third]).ok();
    s.nothing_left();
}

#[test]
fn a_killed_supervisor_leaves_nothing_that_gc_cannot_remove() {
    let s = strata!("a_killed_supervisor_leaves_nothing_that_gc_cannot_remove");
    for round in 0..6 {
        let name = s.rt.id();
        let rootfs = s.rootfs();
        // The embedded image has layers and a writable top; the directory has neither.
        let source = if round % 2 == 0 { &["--rootfs", &rootfs][..] } else { &[][..] };
        let arguments = [&["run", "--name", &name][..], source, &["--", "sleep", "1000"]].concat();
        let running = spawn(&mut s.command(&arguments));
        if round < 4 {
            wait_until("the instance runs", || s.call(&["ps"]).stdout.contains("running"));
        } else {
            sleep(Duration::from_millis(7 * round));
        }
        running.signal(Signal::KILL);
        running.finish();
        s.call(&["gc"]).ok();
        s.nothing_left();
    }
    // What is alive is not swept up, nor what ended well and was to be kept.
    let alive = s.background(&[], &["sleep", "1000"]);
    let ended = s.background(&[], &["true"]);
    wait_until("the second has ended", || {
        s.instances().iter().any(|i| i["id"] == ended.as_str() && i["status"] == "stopped")
    });
    s.call(&["gc"]).ok();
    assert_eq!(s.instances().len(), 2);
    s.call(&["rm", "--force", &alive, &ended]).ok();
    s.nothing_left();
}

#[test]
fn verbs_that_only_print_print() {
    let s = strata!("verbs_that_only_print_print");
    let doctor = s.call(&["doctor"]);
    doctor.ok().out_has("container");
    let json = s.call(&["doctor", "--json"]).ok().json();
    assert!(json.to_string().contains("container"), "{json:#}");
    for shell in ["bash", "zsh", "fish"] {
        s.call(&["completions", shell]).ok().out_has("strata");
    }
    let pages = s.rt.scratch.dir("man");
    s.call(&["manual", "--directory", pages.to_str().expect("UTF-8")]).ok();
    assert!(read(pages.join("strata.1")).contains(".TH"));
    assert!(pages.join("strata-run.1").is_file());
    for verb in ["run", "exec", "ps", "stats", "image", "compare", "doctor", "gc"] {
        let out = run(Command::new(program()).args([verb, "--help"]));
        out.ok().out_has("Usage");
    }
    // An unknown option is the user's error, told on stderr with a hint, and nothing is made.
    run(Command::new(program()).args(["run", "--no-such-option"])).fails().err_has("--no-such-option");
    s.nothing_left();
}

#[test]
fn a_user_without_privileges_shares_the_layers_of_images() {
    let name = "run_cli::a_user_without_privileges_shares_the_layers_of_images";
    require!(name, "setpriv");
    if !is_strata() {
        return skip(name, "the program under test is not Strata");
    }
    let switch = |file: &str| fs::read_to_string(file).map_or(-1, |v| v.trim().parse().unwrap_or(-1));
    if switch("/proc/sys/kernel/unprivileged_userns_clone") == 0 || switch("/proc/sys/user/max_user_namespaces") == 0 {
        return skip(name, "this host lets no user make user namespaces");
    }
    let rt = Runtime::new();
    let home = rt.scratch.dir("user");
    run(Command::new("chown").arg("1234:1234").arg(&home)).ok();
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "--bounding-set", "-all"]);
        command.arg(program()).arg("--root").arg(home.join("state")).arg("--store").arg(home.join("store"));
        command.args(arguments).env("XDG_RUNTIME_DIR", &home).env("HOME", "/").current_dir("/");
        run(command.stdin(std::process::Stdio::null()))
    };
    let id = rt.id();
    // Changes of every kind: a new file, one that is replaced, one that is removed.
    let script = "grep -c ^strata./.overlay /proc/mounts; echo new > /new; echo mine > /etc/hostname; rm /etc/os-release; id -u; ls /etc; cat /new";
    let out = as_user(&["run", "--keep", "--name", &id, "--", "sh", "-c", script]);
    out.ok().out_has("hostname").out_lacks("os-release").out_has("1\n0\n").out_has("new");
    assert!(!out.stderr.contains("copied"), "{out:?}");
    let instance = home.join("store/instances").join(&id);
    assert_eq!(read(instance.join("upper/new")), "new\n");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(instance.join("upper/new")).expect("it is in the upper layer").uid(), 1234);
    // The next one sees the image as it was.
    let next = rt.id();
    as_user(&["run", "--name", &next, "--", "sh", "-c", "cat /etc/os-release; ls /new"]).fails().out_has("toolbox");
    as_user(&["run", "--detach", "--name", &next, "--", "sleep", "1000"]).ok();
    as_user(&["exec", &next, "echo", "inside"]).ok().out_is("inside");
    as_user(&["rm", "--force", &next]).ok();
    as_user(&["rm", &id]).ok();
    as_user(&["ps", "--all", "--quiet"]).ok().out_is("");
    assert_eq!(fs::read_dir(home.join("store/instances")).expect("it is there").count(), 0);
    leftovers::assert_none(rt.scratch.tag(), rt.scratch.path());
}
