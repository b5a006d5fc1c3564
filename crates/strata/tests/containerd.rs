//! containerd drives the runtime: a private daemon, its runc shim told to use this runtime (`--runc-binary`).

mod common;

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::terminal::Terminal;
use common::{Out, Running, Scratch, leftovers, process_exists, program, run, run_with_input, spawn, wait_until};
use rustix::process::Signal;

const IMAGE: &str = "localhost/box:1";

struct Containerd {
    daemon: Option<Running>,
    scratch: Scratch,
}

impl Containerd {
    /// A private daemon with one image.
    fn new() -> Containerd {
        let scratch = Scratch::new();
        let path = |name| scratch.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n",
            path("root"),
            path("state"),
            path("c.sock"),
            path("opt"),
        );
        let config = scratch.write("config.toml", config);
        let mut daemon = spawn(Command::new("containerd").arg("--config").arg(config).stdin(Stdio::null()));
        let address = path("c.sock");
        wait_until("containerd answers", || {
            assert!(!daemon.is_over(), "containerd ended: {}", daemon.so_far().1);
            scratch.join("c.sock").exists()
                && Command::new("ctr").args(["-a", &address, "version"]).output().is_ok_and(|o| o.status.success())
        });
        let containerd = Containerd { daemon: Some(daemon), scratch };
        let archive = common::bundle::image_archive(&containerd.scratch, IMAGE);
        let archive = archive.to_str().expect("UTF-8");
        containerd.ctr(&["image", "import", "--snapshotter", "native", archive]).ok();
        containerd
    }

    /// A ctr command; `ctr run` gets the flags that name the runtime, its state directory and the cgroup.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.scratch.join("c.sock")).stdin(Stdio::null());
        match arguments {
            ["run", rest @ ..] => {
                let runtime = ["run", "--snapshotter", "native", "--runc-binary"];
                command.args(runtime).arg(program()).arg("--runc-root").arg(self.scratch.join("runtime")).args(rest)
            }
            all => command.args(all),
        };
        command
    }

    #[track_caller]
    fn ctr(&self, arguments: &[&str]) -> Out {
        run(&mut self.command(arguments))
    }

    /// The cgroup for a container, named so that it can be found again.
    fn cgroup(&self, name: &str) -> String {
        format!("/{}/{name}", self.scratch.tag())
    }

    #[track_caller]
    fn nothing_left(&self) {
        self.ctr(&["task", "ls", "--quiet"]).ok().out_is("");
        self.ctr(&["container", "ls", "--quiet"]).ok().out_is("");
        let parent = format!("/{}/", self.scratch.tag());
        wait_until("the containers' cgroups are gone", || {
            leftovers::cgroups(self.scratch.tag()).iter().all(|c| !c.to_string_lossy().contains(&parent))
        });
        wait_until("the containers' mounts are gone", || leftovers::mounts(&self.scratch.join("state")).is_empty());
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let listed = self.command(&["container", "ls", "--quiet"]).output();
        let names = listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        for name in names.lines() {
            let _ = self.command(&["task", "resume", name]).output();
            let _ = self.command(&["task", "rm", "--force", name]).output();
            let _ = self.command(&["container", "rm", name]).output();
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(Signal::TERM);
            for _ in 0..500 {
                if daemon.is_over() {
                    break;
                }
                sleep(Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn attached_runs_pass_output_input_codes_and_terminals() {
    require!("containerd::attached_runs_pass_output_input_codes_and_terminals", "containerd", "ctr", "tar", "setsid");
    let containerd = Containerd::new();
    let group = containerd.cgroup("a");
    let attached = |name: &str, arguments: &[&str]| {
        containerd.ctr(&[&["run", "--rm", "--cgroup", &group, IMAGE, name][..], arguments].concat())
    };
    attached("a1", &["echo", "hello from inside"]).ok().out_is("hello from inside");
    attached("a2", &["sh", "-c", "echo out; echo err >&2; exit 7"]).code_is(7).out_is("out").err_has("err");
    attached("a3", &["sh", "-c", "echo $FROM; id -u; pwd"]).ok().out_is("image\n0\n/");
    attached("a4", &["no-such-program"]).fails().err_has("executable file not found in $PATH");
    attached("a5", &["/etc/passwd"]).fails().err_has("permission denied");
    let mut command =
        containerd.command(&["run", "--rm", "--cgroup", &group, IMAGE, "a6", "sh", "-c", "head -n 2; echo end"]);
    run_with_input(&mut command, "first\nsecond\n").ok().out_is("first\nsecond\nend");

    let run = containerd.command(&["run", "--rm", "--tty", "--cgroup", &group, IMAGE, "tty", "sh"]);
    let mut terminal = Terminal::spawn(&run, 30, 91);
    terminal.expect("# ");
    terminal.type_in("tty; sleep 0.3; stty size\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("30 91");
    let exec =
        containerd.command(&["task", "exec", "--tty", "--exec-id", "e", "tty", "sh", "-c", "tty; read x; exit $x"]);
    let mut exec = Terminal::spawn(&exec, 21, 81);
    exec.expect("/dev/pts/");
    exec.type_in("5\n");
    assert_eq!(exec.finish().0, 5);
    terminal.type_in("exit 3\n");
    let (code, rest) = terminal.finish();
    assert_eq!(code, 3, "the rest of the terminal: {rest:?}");
    containerd.nothing_left();
}

#[test]
fn a_detached_task_lives_through_all_verbs() {
    require!("containerd::a_detached_task_lives_through_all_verbs", "containerd", "ctr", "tar");
    let containerd = Containerd::new();
    let group = containerd.cgroup("d");
    let pid_file = containerd.scratch.join("pid");
    let pid_path = pid_file.to_str().expect("UTF-8");
    let flags =
        ["run", "--detach", "--cgroup", &group, "--pid-file", pid_path, "--memory-limit", "67108864", "--cpus", "0.5"];
    let program = ["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"];
    containerd.ctr(&[&flags[..], &[IMAGE, "d"], &program].concat()).ok();
    let pid: i32 = common::read(&pid_file).trim().parse().expect("a pid");
    assert!(process_exists(pid));
    let line = |out: &Out| {
        out.stdout.lines().last().unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line(containerd.ctr(&["task", "ls"]).ok()), ["d", &pid.to_string(), "RUNNING"]);
    containerd.ctr(&["task", "ps", "d"]).ok().out_has(&pid.to_string());

    containerd
        .ctr(&["task", "exec", "--exec-id", "1", "d", "sh", "-c", "echo inside; exit 4"])
        .code_is(4)
        .out_is("inside");
    containerd.ctr(&["task", "exec", "--exec-id", "2", "--user", "guest", "d", "id"]).ok().out_has("uid=1000(guest)");
    containerd.ctr(&["task", "exec", "--exec-id", "3", "--cwd", "/home", "d", "pwd"]).ok().out_is("/home");
    containerd
        .ctr(&["task", "exec", "--exec-id", "4", "d", "no-such-program"])
        .fails()
        .err_has("executable file not found");
    let mut command = containerd.command(&["task", "exec", "--exec-id", "5", "d", "cat"]);
    run_with_input(&mut command, "through exec").ok().out_is("through exec");

    let metrics = containerd.ctr(&["task", "metrics", "--format", "json", "d"]).ok().json();
    let text = metrics.to_string();
    assert!(text.contains("67108864"), "the memory limit is among the metrics: {metrics:#}");

    containerd.ctr(&["task", "pause", "d"]).ok();
    assert_eq!(line(containerd.ctr(&["task", "ls"]).ok())[2], "PAUSED");
    containerd.ctr(&["task", "resume", "d"]).ok();
    assert_eq!(line(containerd.ctr(&["task", "ls"]).ok())[2], "RUNNING");

    containerd.ctr(&["task", "kill", "--signal", "SIGTERM", "d"]).ok();
    wait_until("the task has stopped", || line(&containerd.ctr(&["task", "ls"]))[2] == "STOPPED");
    // Killing what is dead is an error with a kind that clients recognise.
    containerd.ctr(&["task", "kill", "d"]).fails().err_has("not found");
    containerd.ctr(&["task", "rm", "d"]).err_has("exit code 9");
    assert!(!process_exists(pid));

    // The same container starts again; all of its processes die at once.
    let mut again = spawn(&mut containerd.command(&["task", "start", "--null-io", "d"]));
    wait_until("the task runs again", || containerd.ctr(&["task", "ls"]).stdout.contains("RUNNING"));
    containerd.ctr(&["task", "exec", "--exec-id", "6", "--detach", "d", "sleep", "1000"]).ok();
    containerd.ctr(&["task", "kill", "--all", "--signal", "SIGKILL", "d"]).ok();
    wait_until("the start command ends", || again.is_over());
    again.finish().code_is(137);
    let _ = containerd.ctr(&["task", "rm", "d"]);
    containerd.ctr(&["container", "rm", "d"]).ok();
    containerd.nothing_left();
}

#[test]
fn configured_containers_are_as_asked() {
    require!("containerd::configured_containers_are_as_asked", "containerd", "ctr", "tar");
    let containerd = Containerd::new();
    let group = containerd.cgroup("c");
    let once = |name: &str, flags: &[&str], arguments: &[&str]| {
        containerd.ctr(&[&["run", "--rm", "--cgroup", &group][..], flags, &[IMAGE, name], arguments].concat())
    };
    once("c1", &["--read-only"], &["touch", "/x"]).fails().err_has("read-only");
    let status = once(
        "c2",
        &["--seccomp", "--cap-drop", "CAP_CHOWN"],
        &["grep", "-E", "CapEff|Seccomp:|NoNewPrivs", "/proc/self/status"],
    );
    status.ok().out_is("CapEff:\t00000000a80425fa\nNoNewPrivs:\t1\nSeccomp:\t2");
    once("c3", &["--net-host"], &["readlink", "/proc/self/ns/net"])
        .ok()
        .out_is(&std::fs::read_link("/proc/self/ns/net").expect("a namespace link").display().to_string());
    let mount = format!("type=bind,src={},dst=/host,options=rbind:ro", containerd.scratch.dir("shared").display());
    containerd.scratch.write("shared/f", "shared\n");
    once("c4", &["--mount", &mount], &["sh", "-c", "cat /host/f; touch /host/g"])
        .fails()
        .out_is("shared")
        .err_has("read-only");
    once("c5", &["--env", "A=b c", "--cwd", "/home"], &["sh", "-c", "echo $A; pwd"]).ok().out_is("b c\n/home");
    // `--rootfs` runs from a directory instead of an image.
    let rootfs = containerd.scratch.join("image-rootfs");
    let out = containerd.ctr(&[
        "run",
        "--rm",
        "--cgroup",
        &group,
        "--rootfs",
        rootfs.to_str().expect("UTF-8"),
        "c6",
        "/bin/echo",
        "bare",
    ]);
    out.ok().out_is("bare");
    containerd.nothing_left();
}
