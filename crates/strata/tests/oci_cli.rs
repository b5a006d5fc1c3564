//! The command line that container engines rely on: the verbs, flags, exit codes, files and words of runc.
//!
//! There is no specification of it beyond runc itself and the OCI command-line draft; conmon, containerd's shim and
//! podman match on exit codes and on parts of messages, so those parts are asserted here.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::terminal::{FdSocket, Terminal};
use common::{
    Runtime, is_strata, leftovers, process_exists, program, read, run, run_with_input, skip, spawn, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The file of a cgroup controller for the bundle's cgroup: the v1 name, the v2 name.
fn cgroup_file(cgroup: &str, controller: &str, v1: &str, v2: &str) -> Option<String> {
    let hierarchies = leftovers::hierarchies();
    let own = hierarchies
        .iter()
        .find(|h| h.file_name().is_some_and(|n| n.to_string_lossy().split(',').any(|c| c == controller)));
    let path = match own {
        Some(hierarchy) => format!("{}{cgroup}/{v1}", hierarchy.display()),
        None => format!("/sys/fs/cgroup{cgroup}/{v2}"),
    };
    fs::read_to_string(path).ok().map(|s| s.trim().to_owned())
}

#[test]
fn a_container_goes_through_the_states_of_its_life() {
    require!("oci_cli::a_container_goes_through_the_states_of_its_life");
    let rt = Runtime::new();
    let bundle = rt.bundle();
    bundle.save();
    let id = rt.id();
    let pid_file = rt.scratch.join("pid");
    let pid_path = pid_file.to_str().expect("UTF-8");
    rt.run(["create", "--bundle", bundle.path(), "--pid-file", pid_path, &id]).ok().out_is("");

    let state = rt.state(&id);
    assert_eq!(state["id"], id.as_str());
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], bundle.path());
    assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state:#}");
    let pid = state["pid"].as_i64().expect("a pid") as i32;
    assert!(process_exists(pid));
    // No newline: conmon and the shim parse the file as a bare number.
    assert_eq!(read(&pid_file), pid.to_string());
    rt.run(["create", "--bundle", bundle.path(), &id]).fails().err_has("exist");
    rt.run(["list", "--quiet"]).ok().out_is(&id);

    rt.run(["start", &id]).ok().out_is("");
    assert_eq!(rt.status(&id), "running");
    assert_eq!(rt.pid(&id), pid, "the process that waited is the one that runs");
    wait_until("the program runs", || read(format!("/proc/{pid}/cmdline")).starts_with("sleep"));
    rt.run(["start", &id]).fails();
    rt.run(["delete", &id]).fails().err_has("stopped");
    assert_eq!(rt.status(&id), "running", "a refused delete changes nothing");

    rt.run(["pause", &id]).ok();
    assert_eq!(rt.status(&id), "paused");
    rt.run(["exec", &id, "true"]).fails().err_has("paused");
    rt.run(["start", &id]).fails();
    rt.run(["resume", &id]).ok();
    assert_eq!(rt.status(&id), "running");
    rt.run(["resume", &id]).fails();

    rt.run(["kill", &id, "0"]).ok();
    rt.run(["kill", &id, "KILL"]).ok();
    rt.wait_status(&id, "stopped");
    // Specification, runtime.md: the pid is for created and running containers only.
    assert!(rt.state(&id)["pid"].as_i64().is_none_or(|pid| pid == 0));
    // The words that containerd recognises.
    rt.run(["kill", &id, "KILL"]).fails().err_has("not running");
    rt.run(["exec", &id, "true"]).fails();
    rt.run(["start", &id]).fails();
    rt.run(["pause", &id]).fails();
    rt.run(["delete", &id]).ok().out_is("");
    rt.run(["state", &id]).fails().err_has("does not exist");
    rt.nothing_left();
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    require!("oci_cli::what_is_wrong_is_said_and_changes_nothing");
    let rt = Runtime::new();
    for verb in ["state", "start", "delete", "pause", "resume", "ps", "events"] {
        rt.run([verb, "nobody"]).code_is(1).err_has("does not exist");
    }
    rt.run(["kill", "nobody", "KILL"]).code_is(1).err_has("does not exist");
    rt.run(["update", "--pids-limit", "5", "nobody"]).code_is(1).err_has("does not exist");
    rt.run(["exec", "nobody", "true"]).code_is(255).err_has("does not exist");
    // Deleting what is gone is what a cleanup wants: no error when forced.
    rt.run(["delete", "--force", "nobody"]).ok();

    let mut bundle = rt.bundle();
    bundle.save();
    for id in ["with/slash", "..", ".", "a b", "ü"] {
        rt.run(["create", "--bundle", bundle.path(), id]).code_is(1).err_has("id");
    }
    rt.run(["create", "--bundle", bundle.path()]).fails();
    rt.run(["create", "--bundle", bundle.path(), "one", "two"]).fails();
    rt.run(["state"]).fails();
    rt.run(["create", "--no-such-flag", "one"]).fails();
    rt.run(["no-such-verb"]).fails();
    rt.run(["create", "--bundle", "/no/such/directory", "one"]).code_is(1).err_has("no such file");

    fs::write(bundle.join("config.json"), "{ not json").expect("a file can be written");
    rt.run(["create", "--bundle", bundle.path(), "one"]).code_is(1);
    fs::remove_file(bundle.join("config.json")).expect("a file can be removed");
    rt.run(["create", "--bundle", bundle.path(), "one"]).code_is(1).err_has("config.json");

    // Each of these is refused before or while the container is made; nothing of it may stay.
    let good = bundle.config.clone();
    let broken: [(&str, Value, &str); 9] = [
        ("process.args", json!([]), "args"),
        ("process.args", json!(["no-such-program"]), "executable file not found in $PATH"),
        ("process.args", json!(["/no/such/program"]), "no such file"),
        ("process.args", json!(["/etc/passwd"]), "permission denied"),
        ("process.cwd", json!("relative"), "cwd"),
        ("root.path", json!("no-such-rootfs"), "no such file"),
        ("linux.namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "mount"),
        (
            "linux.namespaces",
            json!([{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/no/such/ns"}]),
            "/no/such/ns",
        ),
        ("mounts", json!([{"destination": "/x", "type": "no-such-fs", "source": "x"}]), "no such device"),
    ];
    for (path, value, words) in broken {
        bundle.config = good.clone();
        bundle.set(path, value.clone());
        bundle.save();
        let out = rt.run(["run", "--bundle", bundle.path(), "one"]);
        assert!(out.code != 0, "{path} = {value} was accepted: {out:#?}");
        out.err_has(words);
        rt.run(["state", "one"]).fails();
        rt.nothing_left();
    }
    // A cgroup that holds somebody else's processes is not taken over silently and never removed with them in it.
    bundle.config = good;
    let id = rt.detached(&bundle);
    let second = rt.run(["run", "--detach", "--bundle", bundle.path(), "second"]);
    rt.run(["delete", "--force", "second"]).ok();
    assert_eq!(rt.status(&id), "running", "{second:#?}");
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn flags_stand_before_or_after_the_id() {
    require!("oci_cli::flags_stand_before_or_after_the_id");
    let rt = Runtime::new();
    let bundle = rt.bundle();
    bundle.save();
    rt.run(["run", "-d", "-b", bundle.path(), "one"]).ok();
    rt.run(["update", "one", "--pids-limit", "9"]).ok();
    rt.run(["delete", "-f", "one"]).ok();
    rt.run(["run", "two", "--detach", "--bundle", bundle.path()]).ok();
    rt.run(["update", "--pids-limit=11", "two"]).ok();
    assert_eq!(cgroup_file(bundle.cgroup(), "pids", "pids.max", "pids.max").as_deref(), Some("11"));
    // Whatever follows exec's id belongs to the program.
    rt.run(["exec", "two", "echo", "--tty", "-d"]).ok().out_is("--tty -d");
    rt.run(["kill", "--all", "two", "SIGKILL"]).ok();
    rt.wait_status("two", "stopped");
    rt.run(["delete", "two", "--force"]).ok();
    // The bundle defaults to the current directory; relative paths count from there.
    run(rt.command(["run", "-d", "three"]).current_dir(bundle.path())).ok();
    assert_eq!(rt.state("three")["bundle"], bundle.path());
    rt.remove("three");
    let parent = Path::new(bundle.path()).parent().expect("a bundle has a parent");
    let name = Path::new(bundle.path()).file_name().expect("a bundle has a name").to_str().expect("UTF-8");
    run(rt.command(["run", "-d", "-b", name, "--pid-file", "here.pid", "four"]).current_dir(parent)).ok();
    assert_eq!(read(parent.join("here.pid")), rt.pid("four").to_string());
    rt.remove("four");
    // Global flags take `=` too, and the root may be named by it.
    let root = format!("--root={}", rt.root().display());
    run(Command::new(program()).args([&root, "list", "-q"])).ok().out_is("");
    rt.nothing_left();
}

#[test]
fn logs_are_lines_that_engines_parse() {
    require!("oci_cli::logs_are_lines_that_engines_parse");
    let rt = Runtime::new();
    let log = rt.scratch.join("log");
    let path = log.to_str().expect("UTF-8");
    rt.run(["--log", path, "--log-format", "json", "state", "nobody"]).fails();
    let text = read(&log);
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
    let last = lines.last().expect("the error is logged");
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().is_some_and(|m| m.contains("does not exist")), "{text}");
    // RFC 3339 in UTC or with an offset.
    let time = last["time"].as_str().expect("a time");
    assert!(time.len() >= 20 && &time[10..11] == "T", "{time}");

    // The file is appended to, and takes debug lines when asked.
    let mut bundle = rt.bundle();
    bundle.args(&["true"]).save();
    rt.run(["--debug", "--log", path, "--log-format", "json", "run", "--bundle", bundle.path(), "one"]).ok().out_is("");
    let longer = read(&log);
    assert!(longer.starts_with(&text) && longer.contains("\"level\":\"debug\""), "{longer}");

    let plain = rt.scratch.join("plain");
    rt.run(["--log", plain.to_str().expect("UTF-8"), "state", "nobody"]).fails();
    let text = read(&plain);
    assert!(text.contains("level=error msg=") && text.starts_with("time="), "{text}");
    rt.run(["--log-format", "xml", "list"]).fails().err_has("xml");
    rt.nothing_left();
}

#[test]
fn run_waits_relays_and_removes() {
    require!("oci_cli::run_waits_relays_and_removes");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    rt.sh(&mut bundle, "echo Hello; echo error >&2; exit 42").code_is(42).out_is("Hello").err_has("error");
    bundle.args(&["cat"]).save();
    let id = rt.id();
    run_with_input(&mut rt.command(["run", "--bundle", bundle.path(), &id]), "to and fro").ok().out_is("to and fro");
    rt.nothing_left();

    // --keep leaves the stopped container.
    bundle.args(&["true"]).save();
    rt.run(["run", "--keep", "--bundle", bundle.path(), "kept"]).ok();
    assert_eq!(rt.status("kept"), "stopped");
    rt.run(["delete", "kept"]).ok();

    // A signal to the runtime goes to the program; a program that dies of a signal makes the code 128 + n.
    bundle.args(&["sh", "-c", "trap 'exit 33' USR1; echo ready; while :; do sleep 0.05; done"]).save();
    let id = rt.id();
    let mut running = spawn(&mut rt.command(["run", "--bundle", bundle.path(), &id]));
    wait_until("the program is ready", || {
        assert!(!running.is_over(), "it ended: {:?}", running.so_far());
        running.so_far().0.contains("ready")
    });
    running.signal(Signal::USR1);
    running.finish().code_is(33);
    bundle.args(&["sleep", "1000"]).save();
    let id = rt.id();
    let mut running = spawn(&mut rt.command(["run", "--bundle", bundle.path(), &id]));
    wait_until("the container runs", || rt.run(["state", &id]).stdout.contains("running"));
    assert!(!running.is_over());
    rt.run(["kill", &id, "KILL"]).ok();
    running.finish().code_is(137);
    rt.nothing_left();
}

#[test]
fn terminals_are_relayed_or_handed_over() {
    require!("oci_cli::terminals_are_relayed_or_handed_over", "setsid");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.set("process.terminal", json!(true)).args(&["sh"]).save();
    // Foreground: the runtime relays between its own terminal and the container's.
    let mut terminal = Terminal::spawn(&rt.command(["run", "--bundle", bundle.path(), "fore"]), 33, 77);
    terminal.expect("# ");
    terminal.type_in("tty; for f in 0 1 2; do readlink /proc/self/fd/$f; done; stat -c %u:%g $(tty)\n");
    for _ in 0..4 {
        terminal.expect("/dev/pts/0");
    }
    // The bundle's devpts says gid=5.
    terminal.expect("0:5");
    terminal.type_in("stty size\n");
    terminal.expect("33 77");
    terminal.resize(44, 88);
    terminal.type_in("sleep 0.5; stty size\n");
    terminal.expect("44 88");

    let exec = rt.command(["exec", "--tty", "fore", "sh", "-c", "sleep 0.3; stty size; tty; read x; exit $x"]);
    let mut exec = Terminal::spawn(&exec, 22, 66);
    exec.expect("22 66");
    exec.expect("/dev/pts/");
    exec.type_in("7\n");
    assert_eq!(exec.finish().0, 7);
    terminal.type_in("exit 5\n");
    assert_eq!(terminal.finish().0, 5);

    // Detached: the master goes over the socket, and a terminal without a receiver is refused.
    rt.run(["run", "--detach", "--bundle", bundle.path(), "none"]).fails().err_has("console");
    rt.run(["create", "--bundle", bundle.path(), "none"]).fails().err_has("console");
    bundle.set("process.consoleSize", json!({ "height": 25, "width": 99 })).save();
    let socket = FdSocket::new(&rt.scratch, "console");
    let path = socket.path().to_str().expect("UTF-8").to_owned();
    let created = spawn(&mut rt.command(["create", "--bundle", bundle.path(), "--console-socket", &path, "back"]));
    let mut master = socket.terminal();
    created.finish().ok();
    rt.run(["start", "back"]).ok();
    master.expect("# ");
    master.type_in("stty size; echo $((6*7))\n");
    master.expect("25 99");
    master.expect("42");
    let args = ["exec", "--detach", "--tty", "--console-socket", &path, "back", "sh", "-c", "echo other; sleep 0.2"];
    let exec = spawn(&mut rt.command(args));
    let mut other = socket.terminal();
    exec.finish().ok();
    other.expect("other");
    master.type_in("exit\n");
    rt.wait_status("back", "stopped");
    rt.run(["delete", "back"]).ok();
    // A console socket without a terminal makes no sense.
    bundle.set("process.terminal", json!(false)).unset("process", "consoleSize").save();
    rt.run(["create", "--bundle", bundle.path(), "--console-socket", &path, "none"]).fails();
    rt.nothing_left();
}

#[test]
fn exec_takes_its_process_from_flags_or_a_file() {
    require!("oci_cli::exec_takes_its_process_from_flags_or_a_file");
    let rt = Runtime::new();
    let bundle = rt.bundle();
    let id = rt.detached(&bundle);
    rt.exec(&id, &["echo", "Hello", "from exec"]).ok().out_is("Hello from exec");
    rt.exec(&id, &["false"]).code_is(1);
    rt.exec(&id, &["sh", "-c", "exit 42"]).code_is(42);
    rt.exec(&id, &["sh", "-c", "kill -9 $$"]).code_is(137);
    // 255 and these words: podman turns them into 126 and 127.
    rt.exec(&id, &["no-such-program"]).code_is(255).err_has("executable file not found in $PATH");
    rt.exec(&id, &["/no/such/program"]).code_is(255).err_has("no such file");
    rt.exec(&id, &["/etc/passwd"]).code_is(255).err_has("permission denied");
    rt.run(["exec", "--pid-file", "/no/such/directory/pid", &id, "true"]).code_is(255);

    let with = |flags: &[&str], arguments: &[&str]| rt.run([&["exec"][..], flags, &[id.as_str()], arguments].concat());
    with(&["--cwd", "/home/guest"], &["pwd"]).ok().out_is("/home/guest");
    with(&["--env", "ONE=1", "--env", "TWO=2 3"], &["sh", "-c", "echo $ONE $TWO $TERM"]).ok().out_is("1 2 3 xterm");
    with(&["--user", "1000:29"], &["sh", "-c", "id -u; id -g"]).ok().out_is("1000\n29");
    with(&["-u", "1000"], &["sh", "-c", "id -u; id -g; echo $HOME"]).ok().out_is("1000\n0\n/home/guest");
    with(&["--user", "1000:1000", "--additional-gids", "100", "--additional-gids", "65534"], &["id", "-G"])
        .ok()
        .out_is("1000 100 65534");
    let status = |flags: &[&str], field: &str| {
        let out = with(flags, &["grep", field, "/proc/self/status"]);
        out.ok().text().rsplit('\t').next().unwrap_or_default().to_owned()
    };
    assert_eq!(status(&[], "CapBnd"), "0000000020000420");
    // A capability can be given again; NET_ADMIN is bit 12.
    assert_eq!(status(&["--cap", "CAP_NET_ADMIN"], "CapEff"), "0000000020001420");
    assert_eq!(status(&["--no-new-privs"], "NoNewPrivs"), "1");

    let pid_file = rt.scratch.join("exec.pid");
    let pid_path = pid_file.to_str().expect("UTF-8");
    with(&["--detach", "--pid-file", pid_path], &["sleep", "1000"]).ok();
    let pid: i32 = read(&pid_file).parse().expect("a bare number");
    assert!(process_exists(pid) && pid != rt.pid(&id));
    assert_eq!(read(format!("/proc/{pid}/cgroup")), read(format!("/proc/{}/cgroup", rt.pid(&id))));
    for namespace in ["pid", "net", "mnt", "uts", "ipc"] {
        let link = |pid| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("a namespace link");
        assert_eq!(link(pid), link(rt.pid(&id)), "{namespace}");
    }

    let process = json!({
        "terminal": false, "user": { "uid": 1000, "gid": 1000, "additionalGids": [29] },
        "args": ["sh", "-c", "id -u; id -G; pwd; echo $V"], "env": ["PATH=/bin", "V=v"], "cwd": "/tmp"
    });
    let file = rt.scratch.write("process.json", process.to_string());
    rt.run(["exec", "--process", file.to_str().expect("UTF-8"), &id]).ok().out_is("1000\n1000 29\n/tmp\nv");
    rt.run(["exec", "-p", "/no/such/file", &id]).code_is(255);

    // Input reaches the program, and output is whole.
    let mut command = rt.command(["exec", &id, "wc", "-c"]);
    run_with_input(&mut command, &"x".repeat(300_000)).ok().out_is("300000");
    // The signal that ends a foreground exec goes through it.
    let script = "trap 'exit 21' TERM; echo ready; while :; do sleep 0.05; done";
    let running = spawn(&mut rt.command(["exec", &id, "sh", "-c", script]));
    wait_until("the exec is ready", || running.so_far().0.contains("ready"));
    running.signal(Signal::TERM);
    running.finish().code_is(21);
    // An exec'd process dies with the container.
    rt.remove(&id);
    wait_until("the exec'd process is gone", || !process_exists(pid));
    rt.nothing_left();
}

#[test]
fn preserved_descriptors_arrive_and_no_others() {
    require!("oci_cli::preserved_descriptors_arrive_and_no_others");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.args(&["sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"]).save();
    let file = rt.scratch.write("three", "third\n");
    // A shell opens descriptors 3 and 4 for the runtime; 4 is not to be passed on.
    let script = format!("exec 3<{0} 4<{0}; exec \"$@\"", file.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(program()).arg("--root").arg(rt.root());
    command.args(["run", "--preserve-fds", "1", "--bundle", bundle.path(), "one"]).stdin(std::process::Stdio::null());
    // 0, 1, 2, 3 and the one with which ls reads the directory.
    run(&mut command).ok().out_is("third\n5");

    bundle.args(&["sleep", "1000"]);
    let id = rt.detached(&bundle);
    let open = fs::read_dir(format!("/proc/{}/fd", rt.pid(&id))).expect("the descriptors are listed").count();
    assert_eq!(open, 3, "nothing of the runtime leaks into the container");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(program()).arg("--root").arg(rt.root());
    command.args(["exec", "--preserve-fds", "2", &id, "sh", "-c", "cat <&4; ls /proc/self/fd | wc -l"]);
    run(command.stdin(std::process::Stdio::null())).ok().out_is("third\n6");
    rt.exec(&id, &["ls", "/proc/self/fd"]).ok().out_is("0\n1\n2\n3");
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn lists_and_process_tables_have_their_shapes() {
    require!("oci_cli::lists_and_process_tables_have_their_shapes", "ps");
    let rt = Runtime::new();
    rt.run(["list", "--quiet"]).ok().out_is("");
    rt.run(["list"]).ok().out_has("ID").out_has("PID").out_has("STATUS").out_has("BUNDLE").out_has("CREATED");
    rt.run(["list", "--format", "json"]).ok();
    let mut bundle = rt.bundle();
    bundle.set("annotations", json!({ "colour": "blue" }));
    let one = rt.detached(&bundle);
    let two = rt.detached(&rt.bundle());
    let mut ids = [one.clone(), two.clone()];
    ids.sort();
    rt.run(["list", "-q"]).ok().out_is(&ids.join("\n"));
    let table = rt.run(["list"]).ok().stdout.clone();
    let line = table.lines().find(|l| l.starts_with(&one)).expect("a line for the container");
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(&fields[1..4], [&rt.pid(&one).to_string(), "running", bundle.path()]);
    let list = rt.run(["list", "-f", "json"]).ok().json();
    let entry = list.as_array().expect("an array").iter().find(|e| e["id"] == one.as_str()).expect("an entry").clone();
    assert_eq!(entry["status"], "running");
    assert_eq!(entry["pid"], rt.pid(&one));
    assert_eq!(entry["bundle"], bundle.path());
    assert!(entry["created"].as_str().is_some_and(|t| t.contains('T')), "{entry:#}");
    assert_eq!(rt.state(&one)["annotations"]["colour"], "blue");
    rt.run(["list", "--format", "xml"]).fails();

    rt.run(["exec", "--detach", &one, "sleep", "2000"]).ok();
    let pids = rt.run(["ps", "--format", "json", &one]).ok().json();
    let pids: Vec<i64> = pids.as_array().expect("an array").iter().filter_map(Value::as_i64).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.contains(&i64::from(rt.pid(&one))), "host pids: {pids:?}");
    let table = rt.run(["ps", &one]).ok().stdout.clone();
    assert!(table.starts_with("UID") && table.contains("sleep 2000") && table.lines().count() == 3, "{table}");
    // What follows the id goes to ps.
    let table = rt.run(["ps", &one, "-e", "-x"]).ok().stdout.clone();
    assert!(table.contains("PID") && table.lines().count() == 3, "{table}");
    rt.run(["ps", "--format", "xml", &one]).fails();
    rt.remove(&one);
    rt.remove(&two);
    rt.nothing_left();
}

#[test]
fn events_report_statistics_in_the_known_shape() {
    require!("oci_cli::events_report_statistics_in_the_known_shape");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.set("linux.resources.memory", json!({ "limit": 64 << 20 }));
    bundle.set("linux.resources.pids", json!({ "limit": 32 }));
    bundle.args(&["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000 & sleep 1000 & wait"]);
    let id = rt.detached(&bundle);
    wait_until("the processes run", || {
        rt.run(["ps", "-f", "json", &id]).json().as_array().is_some_and(|p| p.len() == 3)
    });
    let out = rt.run(["events", "--stats", &id]);
    assert_eq!(out.ok().stdout.lines().count(), 1, "one line: {out:#?}");
    let event = out.json();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(id)));
    let data = &event["data"];
    let number = |path: &str| data.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {event:#}"));
    assert_eq!(number("/pids/current"), 3);
    assert_eq!(number("/pids/limit"), 32);
    assert_eq!(number("/memory/usage/limit"), 64 << 20);
    assert!((100_000..64 << 20).contains(&number("/memory/usage/usage")), "{event:#}");
    if leftovers::hierarchies().iter().any(|h| h.ends_with("memory")) {
        // Version 2 has no such counter before Linux 5.19.
        assert!(number("/memory/usage/max") > 0);
    }
    // Nanoseconds: a loop of twenty thousand turns is more than a millisecond and less than a minute.
    assert!((1_000_000..60_000_000_000).contains(&number("/cpu/usage/total")), "{event:#}");
    assert!(data["memory"]["raw"].is_object() && data["cpu"]["throttling"].is_object(), "{event:#}");
    assert!(data["blkio"].is_object(), "{event:#}");

    // A stream of them ends with the container.
    let mut stream = spawn(&mut rt.command(["events", "--interval", "100ms", &id]));
    wait_until("two events came", || stream.so_far().0.lines().count() >= 2);
    assert!(!stream.is_over());
    rt.run(["kill", &id, "KILL"]).ok();
    rt.wait_status(&id, "stopped");
    rt.run(["delete", &id]).ok();
    let (text, _) = stream.so_far();
    assert!(text.lines().all(|l| serde_json::from_str::<Value>(l).is_ok_and(|v| v["type"] == "stats")), "{text}");
    wait_until("the stream ended", || stream.is_over());
    rt.run(["events", "--interval", "0s", "nobody"]).fails();
    rt.nothing_left();
}

#[test]
fn events_report_running_out_of_memory() {
    require!("oci_cli::events_report_running_out_of_memory");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.set("linux.resources.memory", json!({ "limit": 32 << 20, "swap": 32 << 20 }));
    let id = rt.detached(&bundle);
    let stream = spawn(&mut rt.command(["events", "--interval", "1s", &id]));
    sleep(Duration::from_millis(300));
    rt.exec(&id, &["sh", "-c", "x=a; while :; do x=$x$x; done"]).fails();
    wait_until("an oom event came", || {
        stream
            .so_far()
            .0
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .any(|v| v["type"] == "oom" && v["id"] == id.as_str())
    });
    assert_eq!(rt.status(&id), "running");
    rt.remove(&id);
    drop(stream);
    rt.nothing_left();
}

#[test]
fn update_changes_limits_while_the_container_runs() {
    require!("oci_cli::update_changes_limits_while_the_container_runs");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.set("linux.resources.memory", json!({ "limit": 33_554_432, "reservation": 25_165_824 }));
    bundle.set("linux.resources.cpu", json!({ "shares": 100, "quota": 500_000, "period": 1_000_000 }));
    bundle.set("linux.resources.pids", json!({ "limit": 20 }));
    let id = rt.detached(&bundle);
    let group = bundle.cgroup().to_owned();
    if cgroup_file(&group, "memory", "memory.limit_in_bytes", "memory.max").is_none() {
        skip("oci_cli::update_changes_limits_while_the_container_runs", "this host has no memory controller");
        return;
    }
    let v1 = cgroup_file(&group, "memory", "memory.limit_in_bytes", "").is_some();
    let is = |controller: &str, name: &str, unified: &str, value: &str, unified_value: &str| {
        let got = cgroup_file(&group, controller, name, unified);
        assert_eq!(got.as_deref(), Some(if v1 { value } else { unified_value }), "{name}");
    };
    let memory = |bytes: &str| is("memory", "memory.limit_in_bytes", "memory.max", bytes, bytes);
    let reservation = |bytes: &str| is("memory", "memory.soft_limit_in_bytes", "memory.low", bytes, bytes);
    let pids = |limit: &str| is("pids", "pids.max", "pids.max", limit, limit);
    let quota = |quota: &str, period: &str| {
        let unlimited = if quota == "-1" { "max" } else { quota };
        is("cpu", "cpu.cfs_quota_us", "cpu.max", quota, &format!("{unlimited} {period}"));
        is("cpu", "cpu.cfs_period_us", "cpu.max", period, &format!("{unlimited} {period}"));
    };
    memory("33554432");
    reservation("25165824");
    pids("20");
    quota("500000", "1000000");

    let update = |arguments: &[&str]| rt.run([&["update"][..], arguments, &[id.as_str()]].concat());
    update(&["--memory", "67108864"]).ok();
    memory("67108864");
    update(&["--memory", "50M", "--memory-reservation", "33554432"]).ok();
    memory("52428800");
    reservation("33554432");
    pids("20");
    update(&["--pids-limit", "10"]).ok();
    pids("10");
    update(&["--pids-limit", "-1"]).ok();
    pids("max");
    update(&["--cpu-period", "900000"]).ok();
    quota("500000", "900000");
    update(&["--cpu-quota", "600000"]).ok();
    quota("600000", "900000");
    update(&["--cpu-quota", "-1"]).ok();
    quota("-1", "900000");
    update(&["--cpu-share", "200"]).ok();
    if v1 {
        is("cpu", "cpu.shares", "", "200", "");
    }
    update(&["--cpuset-cpus", "0"]).ok();
    is("cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0");
    if v1 && cgroup_file(&group, "memory", "memory.memsw.limit_in_bytes", "").is_some() {
        update(&["--memory", "30M", "--memory-swap", "50M"]).ok();
        is("memory", "memory.memsw.limit_in_bytes", "", "52428800", "");
        // The new limit is above the old swap limit: the order of the two writes matters.
        update(&["--memory", "60M", "--memory-swap", "80M"]).ok();
        memory("62914560");
        update(&["--memory-swap", "-1"]).ok();
    }

    let json = json!({
        "memory": { "limit": 33_554_432, "reservation": 25_165_824 },
        "cpu": { "shares": 100, "quota": 500_000, "period": 1_000_000, "cpus": "0" },
        "pids": { "limit": 20 }
    });
    run_with_input(&mut rt.command(["update", "-r", "-", &id]), &json.to_string()).ok();
    memory("33554432");
    reservation("25165824");
    pids("20");
    quota("500000", "1000000");
    let file = rt.scratch.write("resources.json", "{\"pids\": {\"limit\": 31}}");
    update(&["--resources", file.to_str().expect("UTF-8")]).ok();
    pids("31");
    memory("33554432");
    run_with_input(&mut rt.command(["update", "-r", "-", &id]), "{ not json").fails();
    update(&["--memory", "lots"]).fails();
    // A limit below what is in use, or a processor that is not there, is the kernel's to refuse.
    update(&["--cpuset-cpus", "4000"]).fails();
    rt.exec(&id, &["true"]).ok();
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn kill_reaches_the_program_or_all_processes() {
    require!("oci_cli::kill_reaches_the_program_or_all_processes");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    for signal in ["KILL", "SIGKILL", "9", "kill"] {
        let id = rt.detached(&bundle);
        rt.run(["kill", &id, signal]).ok();
        rt.wait_status(&id, "stopped");
        rt.run(["delete", &id]).ok();
    }
    // TERM is the default.
    bundle.args(&[
        "sh",
        "-c",
        "trap 'echo asked > /tmp/asked; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.05; done",
    ]);
    let id = rt.detached(&bundle);
    wait_until("the trap is set", || bundle.join("rootfs/tmp/ready").exists());
    rt.run(["kill", &id, "NOSUCH"]).fails().err_has("signal");
    rt.run(["kill", &id]).ok();
    rt.wait_status(&id, "stopped");
    assert_eq!(read(bundle.join("rootfs/tmp/asked")), "asked\n");
    rt.run(["delete", &id]).ok();

    // Without a pid namespace the death of the first process does not end the others.
    let mut bundle = rt.bundle();
    bundle.without_namespace("pid");
    let id = rt.detached(&bundle);
    rt.run(["exec", "--detach", &id, "sleep", "2000"]).ok();
    let pids = rt.run(["ps", "-f", "json", &id]).ok().json();
    assert_eq!(pids.as_array().map(Vec::len), Some(2));
    rt.run(["kill", "--all", &id, "KILL"]).ok();
    wait_until("all processes died", || {
        pids.as_array().expect("an array").iter().all(|p| !process_exists(p.as_i64().unwrap_or(0) as i32))
    });
    rt.wait_status(&id, "stopped");
    rt.run(["delete", &id]).ok();

    // Delete finds the ones that outlived the first process.
    let id = rt.detached(&bundle);
    rt.run(["exec", "--detach", &id, "sleep", "2000"]).ok();
    let pids = rt.run(["ps", "-f", "json", &id]).ok().json();
    rt.run(["kill", &id, "KILL"]).ok();
    rt.wait_status(&id, "stopped");
    rt.run(["delete", "--force", &id]).ok();
    for pid in pids.as_array().expect("an array") {
        let pid = pid.as_i64().expect("a pid") as i32;
        wait_until("no process outlives its container", || !process_exists(pid));
    }

    // A frozen container can be killed and removed.
    let bundle = rt.bundle();
    let id = rt.detached(&bundle);
    rt.run(["pause", &id]).ok();
    rt.run(["kill", &id, "KILL"]).ok();
    rt.run(["delete", "--force", &id]).ok();
    let id = rt.detached(&bundle);
    rt.run(["pause", &id]).ok();
    rt.remove(&id);
    // So can one that was never started.
    rt.run(["create", "--bundle", bundle.path(), "unstarted"]).ok();
    let pid = rt.pid("unstarted");
    rt.run(["kill", "unstarted", "KILL"]).ok();
    wait_until("it stopped", || rt.status("unstarted") == "stopped");
    rt.run(["delete", "unstarted"]).ok();
    assert!(!process_exists(pid));
    rt.run(["create", "--bundle", bundle.path(), "unstarted"]).ok();
    rt.remove("unstarted");
    rt.nothing_left();
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    require!("oci_cli::spec_writes_a_configuration_that_runs");
    let rt = Runtime::new();
    let bundle = rt.bundle();
    rt.run(["spec", "--bundle", bundle.path()]).ok();
    let config: Value = serde_json::from_str(&read(bundle.join("config.json"))).expect("config.json is JSON");
    assert_eq!(config["process"]["args"], json!(["sh"]));
    assert_eq!(config["root"]["path"], "rootfs");
    assert_eq!(config["process"]["terminal"], true);
    // No newer than its content, so that older runtimes read it too.
    assert!(config["ociVersion"].as_str().is_some_and(|v| ["1.0", "1.1"].iter().any(|w| v.starts_with(w))));
    rt.run(["spec", "--bundle", bundle.path()]).fails().err_has("exist");

    let mut edited = config;
    edited["process"]["terminal"] = json!(false);
    edited["process"]["args"] = json!(["echo", "Hello World"]);
    fs::write(bundle.join("config.json"), edited.to_string()).expect("a file can be written");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if limit.is_some_and(|l| l < 1024) {
        skip("oci_cli::spec_writes_a_configuration_that_runs", "fewer than 1024 descriptors are allowed here");
    } else {
        rt.run(["run", "--bundle", bundle.path(), "hello"]).ok().out_is("Hello World");
    }
    let other = rt.scratch.dir("rootless");
    run(rt.command(["spec", "--rootless"]).current_dir(&other)).ok();
    let config: Value = serde_json::from_str(&read(other.join("config.json"))).expect("config.json is JSON");
    let namespaces = config["linux"]["namespaces"].as_array().expect("namespaces");
    assert!(namespaces.iter().any(|n| n["type"] == "user"), "{config:#}");
    assert!(config["linux"]["uidMappings"].is_array(), "{config:#}");
    rt.nothing_left();
}

#[test]
fn features_version_and_help_are_told() {
    require!("oci_cli::features_version_and_help_are_told");
    let rt = Runtime::new();
    let features = rt.run(["features"]).ok().json();
    for key in ["ociVersionMin", "ociVersionMax"] {
        assert!(features[key].as_str().is_some_and(|v| v.starts_with("1.")), "{features:#}");
    }
    let has = |path: &str, word: &str| {
        let list = features.pointer(path).and_then(Value::as_array).unwrap_or_else(|| panic!("{path}: {features:#}"));
        assert!(list.iter().any(|v| v == word), "{path} lacks {word}: {features:#}");
    };
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        has("/hooks", hook);
    }
    for option in ["ro", "rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"] {
        has("/mountOptions", option);
    }
    for namespace in ["mount", "pid", "network", "ipc", "uts", "user", "cgroup"] {
        has("/linux/namespaces", namespace);
    }
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    has("/linux/seccomp/actions", "SCMP_ACT_ERRNO");
    has("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ");
    has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert_eq!(features["linux"]["cgroup"]["v1"], true);

    let version = rt.run(["--version"]);
    version.ok().out_has("version");
    // Engines show the line that starts with `spec:`.
    version.out_has("spec: 1.");
    for arguments in [&["--help"][..], &["help"], &["run", "--help"], &["exec", "-h"]] {
        let out = rt.run(arguments);
        assert!(out.ok().stdout.to_lowercase().contains("usage"), "{out:#?}");
    }
    if is_strata() {
        rt.run(["help"]).out_has("strata");
    }
}

#[test]
fn the_state_directory_is_private_and_containers_keep_apart() {
    require!("oci_cli::the_state_directory_is_private_and_containers_keep_apart");
    let (one, two) = (Runtime::new(), Runtime::new());
    let bundle = one.bundle();
    let id = one.detached(&bundle);
    // Another state directory knows nothing of it, and may use the same id with another cgroup.
    two.run(["state", &id]).fails().err_has("does not exist");
    let other = two.bundle();
    other.save();
    two.run(["run", "--detach", "--bundle", other.path(), &id]).ok();
    two.remove(&id);
    assert_eq!(one.status(&id), "running");
    let mode = |path: &Path| fs::metadata(path).expect("the state directory exists").permissions().mode();
    assert_eq!(mode(&one.root().join(&id)) & 0o022, 0, "others may not write a container's state");
    // An id is free again as soon as its container is gone, and a second bundle may take it.
    one.remove(&id);
    one.run(["run", "--detach", "--bundle", bundle.path(), &id]).ok();
    one.remove(&id);
    one.nothing_left();
    two.nothing_left();
}

#[test]
fn exec_joins_subgroups_and_paused_containers_when_told() {
    require!("oci_cli::exec_joins_subgroups_and_paused_containers_when_told");
    let rt = Runtime::new();
    let bundle = rt.bundle();
    let id = rt.detached(&bundle);
    let Some(pids) = leftovers::hierarchies().into_iter().find(|h| h.ends_with("pids")) else {
        skip("oci_cli::exec_joins_subgroups_and_paused_containers_when_told", "no cgroup v1 hierarchies here");
        return;
    };
    let group = bundle.cgroup().to_owned();
    let membership =
        |flags: &[&str]| rt.run([&["exec"][..], flags, &[id.as_str(), "cat", "/proc/self/cgroup"]].concat());
    let all = membership(&[]).ok().stdout.clone();
    assert!(all.lines().filter(|l| !l.starts_with("0::")).all(|l| l.ends_with(&group)), "{all}");
    membership(&["--cgroup", ".."]).code_is(255);
    membership(&["--cgroup", "pids:nonexistent"]).code_is(255);
    membership(&["--cgroup", "whaaat:/"]).code_is(255);
    fs::create_dir(pids.join(&group[1..]).join("sub")).expect("a subgroup can be made");
    let one = membership(&["--cgroup", "pids:sub"]).ok().stdout.clone();
    assert!(one.lines().any(|l| l.ends_with(&format!(":pids:{group}/sub"))), "{one}");
    assert!(one.lines().any(|l| l.ends_with(&format!(":cpu:{group}"))), "the others stay: {one}");

    rt.run(["pause", &id]).ok();
    rt.exec(&id, &["true"]).code_is(255).err_has("paused");
    let waiting = spawn(&mut rt.command(["exec", "--ignore-paused", &id, "echo", "thawed"]));
    sleep(Duration::from_millis(200));
    rt.run(["resume", &id]).ok();
    waiting.finish().ok().out_is("thawed");
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn descriptors_that_do_not_exist_and_sockets_of_systemd_are_dealt_with() {
    require!("oci_cli::descriptors_that_do_not_exist_and_sockets_of_systemd_are_dealt_with");
    let rt = Runtime::new();
    let mut bundle = rt.bundle();
    bundle.args(&["true"]).save();
    // To preserve what is not open is the caller's mistake.
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3>&- 4>&-; exec \"$@\"", "sh"]).arg(program()).arg("--root").arg(rt.root());
    command.args(["run", "--preserve-fds", "2", "--bundle", bundle.path(), "one"]).stdin(std::process::Stdio::null());
    let out = run(&mut command);
    if is_strata() {
        // A runtime written in Go has descriptors of its own there and cannot tell.
        out.fails();
    }
    rt.nothing_left();
    // Socket activation: LISTEN_FDS descriptors from 3 on are passed, and the program told so, with its own pid.
    bundle.args(&["sh", "-c", "cat <&3; echo $LISTEN_FDS $LISTEN_PID $$"]).save();
    let file = rt.scratch.write("three", "third\n");
    let script = format!("exec 3<{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"", file.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(program()).arg("--root").arg(rt.root());
    command.args(["run", "--bundle", bundle.path(), "two"]).stdin(std::process::Stdio::null());
    run(&mut command).ok().out_is("third\n1 1 1");
    rt.nothing_left();
}

#[test]
fn a_pidfd_is_sent_when_asked_for() {
    let name = "oci_cli::a_pidfd_is_sent_when_asked_for";
    require!(name);
    let rt = Runtime::new();
    if !rt.run(["create", "--help"]).stdout.contains("--pidfd-socket") {
        return skip(name, "this runtime has no --pidfd-socket");
    }
    let bundle = rt.bundle();
    bundle.save();
    let socket = FdSocket::new(&rt.scratch, "pidfd");
    let path = socket.path().to_str().expect("UTF-8").to_owned();
    let created = spawn(&mut rt.command(["create", "--bundle", bundle.path(), "--pidfd-socket", &path, "p"]));
    let (_, pidfd) = socket.receive();
    created.finish().ok();
    rt.run(["start", "p"]).ok();
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).expect("the descriptor is the container's process");
    rt.wait_status("p", "stopped");
    rt.run(["delete", "p"]).ok();
    rt.nothing_left();
}

#[test]
fn a_user_without_privileges_runs_a_container() {
    let name = "oci_cli::a_user_without_privileges_runs_a_container";
    require!(name, "setpriv");
    let switch = |file: &str| fs::read_to_string(file).map_or(-1, |v| v.trim().parse().unwrap_or(-1));
    if switch("/proc/sys/kernel/unprivileged_userns_clone") == 0 || switch("/proc/sys/user/max_user_namespaces") == 0 {
        return skip(name, "this host lets no user make user namespaces");
    }
    let rt = Runtime::new();
    let bundle = rt.bundle();
    fs::remove_dir(rt.root()).ok();
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "--bounding-set", "-all"]);
        command.arg(program()).arg("--root").arg(rt.scratch.join("user/state")).args(arguments);
        command.env("XDG_RUNTIME_DIR", rt.scratch.join("user")).env("HOME", "/").current_dir(bundle.path());
        command.stdin(std::process::Stdio::null());
        command
    };
    let own = |path: &Path| run(Command::new("chown").args(["-R", "1234:1234"]).arg(path)).ok().code;
    own(&rt.scratch.dir("user"));
    own(Path::new(bundle.path()));
    run(&mut as_user(&["spec", "--rootless"])).ok();
    let mut config: Value = serde_json::from_str(&read(bundle.join("config.json"))).expect("config.json is JSON");
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '; touch /tmp/x; exit 3"]);
    config["root"]["readonly"] = json!(false);
    fs::write(bundle.join("config.json"), config.to_string()).expect("a file can be written");
    run(&mut as_user(&["run", "mine"])).code_is(3).out_is("0\n 0 1234 1");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(bundle.join("rootfs/tmp/x")).expect("the file was made").uid(), 1234);
    // In the background, with exec and deletion.
    config["process"]["args"] = json!(["sleep", "1000"]);
    fs::write(bundle.join("config.json"), config.to_string()).expect("a file can be written");
    run(&mut as_user(&["run", "--detach", "mine"])).ok();
    run(&mut as_user(&["exec", "mine", "echo", "inside"])).ok().out_is("inside");
    run(&mut as_user(&["delete", "--force", "mine"])).ok();
    run(&mut as_user(&["list", "-q"])).ok().out_is("");
    leftovers::assert_none(rt.scratch.tag(), rt.scratch.path());
}
