//! What containers must do, one scene each.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::bundle::Scene;

type Test = (&'static str, fn());

pub const ALL: &[Test] = &[
    ("the_exit_code_is_the_programs", the_exit_code_is_the_programs),
    ("a_missing_program_is_said_and_nothing_is_left", a_missing_program_is_said_and_nothing_is_left),
    ("the_life_of_a_container", the_life_of_a_container),
    ("the_world_inside", the_world_inside),
    ("namespaces_are_new_or_joined", namespaces_are_new_or_joined),
    ("a_new_network_has_its_loopback", a_new_network_has_its_loopback),
    ("a_user_namespace_maps_ids", a_user_namespace_maps_ids),
    ("clocks_have_offsets", clocks_have_offsets),
    ("mounts_and_their_options", mounts_and_their_options),
    ("the_hosts_nodes_are_not_the_containers", the_hosts_nodes_are_not_the_containers),
    ("read_only_is_all_below", read_only_is_all_below),
    ("a_file_that_is_not_the_device_is_refused", a_file_that_is_not_the_device_is_refused),
    ("the_hosts_proc_is_not_shown", the_hosts_proc_is_not_shown),
    ("a_joined_mount_namespace_keeps_its_root", a_joined_mount_namespace_keeps_its_root),
    ("shared_mounts_of_the_host_get_nothing", shared_mounts_of_the_host_get_nothing),
    ("propagation_follows_the_configuration", propagation_follows_the_configuration),
    ("no_path_leads_out", no_path_leads_out),
    ("no_program_is_found_through_a_descriptor", no_program_is_found_through_a_descriptor),
    ("the_runtime_cannot_be_written", the_runtime_cannot_be_written),
    ("identity_limits_and_capabilities", identity_limits_and_capabilities),
    ("homes_are_read_from_files_only", homes_are_read_from_files_only),
    ("hooks_run_in_order", hooks_run_in_order),
    ("a_failing_hook_undoes_everything", a_failing_hook_undoes_everything),
    ("another_process_joins", another_process_joins),
    ("too_little_memory_to_start_is_said", too_little_memory_to_start_is_said),
    ("pausing", pausing),
    ("a_terminal_goes_to_the_console_socket", a_terminal_goes_to_the_console_socket),
    ("a_terminal_is_relayed", a_terminal_is_relayed),
    ("a_filter_refuses_calls", a_filter_refuses_calls),
    ("a_filter_for_the_program_does_not_stop_the_runtime", a_filter_for_the_program_does_not_stop_the_runtime),
    ("a_filter_asks_a_listener", a_filter_asks_a_listener),
    ("descriptors_are_preserved", descriptors_are_preserved),
    ("signals_that_the_caller_ignores_are_not_ignored_inside", signals_that_the_caller_ignores_are_not_ignored_inside),
    ("signals_are_forwarded", signals_are_forwarded),
    ("many_at_once", many_at_once),
    ("only_containers_are_collected", only_containers_are_collected),
    ("an_ordinary_user_runs_a_container", an_ordinary_user_runs_a_container),
    ("without_pivot_and_without_mount_namespace", without_pivot_and_without_mount_namespace),
    ("a_network_interface_moves", a_network_interface_moves),
    ("killed_anywhere_nothing_is_left", killed_anywhere_nothing_is_left),
];

fn id(name: &str) -> String {
    format!("t{}-{name}", std::process::id())
}

/// Whether this process has a capability by number.
fn capable(number: u32) -> bool {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = text.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap_or(0) & 1 << number != 0
}

fn the_exit_code_is_the_programs() {
    let mut s = Scene::new(&["echo", "hello", "exit", "7"]);
    let done = s.run(&id("exit"));
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "hello", ""));
    s.args(&["sleep", "30"]);
    let child = s.command("run", &id("exit"), &[]).spawn().unwrap();
    s.wait_exists(&id("exit"));
    s.wait(&id("exit"), "running");
    s.act("kill", &id("exit"), &["KILL"]).ok();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(128 + 9));
    s.nothing_left(&[&id("exit")]);
}

fn a_missing_program_is_said_and_nothing_is_left() {
    let mut s = Scene::new(&[]);
    for (verb, args, code, text) in [
        ("run", ["foo"], 127, "exec: \"foo\": executable file not found in $PATH"),
        ("create", ["foo"], 127, "exec: \"foo\": executable file not found in $PATH"),
        ("run", ["/bin/none"], 127, "no such file"),
        ("run", ["/dev"], 126, "permission denied"),
    ] {
        s.config["process"]["args"] = json!(args);
        let done = s.act(verb, &id("missing"), &[]);
        assert_eq!(done.code, code, "{}", done.err);
        assert!(done.err.contains(text), "{}", done.err);
        s.nothing_left(&[&id("missing")]);
    }
    s.config["mounts"] = json!([{"destination": "/x", "type": "bind", "source": "/nowhere/at/all"}]);
    assert!(s.run(&id("missing")).fails().contains("/nowhere/at/all"));
    s.nothing_left(&[&id("missing")]);
}

fn the_life_of_a_container() {
    let mut s = Scene::new(&["sleep", "30"]);
    let id = &id("life");
    s.env = vec![("PID_FILE", s.dir.join("pid").display().to_string())];
    s.act("create", id, &[]).ok();
    assert_eq!(s.status(id), "created");
    assert_eq!(std::fs::read_to_string(s.dir.join("pid")).unwrap(), s.pid(id).to_string());
    assert!(s.act("create", id, &[]).fails().contains("already exists"));
    s.act("start", id, &[]).ok();
    assert_eq!(s.status(id), "running");
    assert!(s.act("start", id, &[]).fails().contains("created"));
    assert!(s.act("delete", id, &[]).fails().contains("running"));
    assert_eq!(s.act("ps", id, &[]).ok(), format!("[{}]", s.pid(id)));
    s.act("kill", id, &["TERM"]).ok();
    // The first process of a namespace has no default for TERM.
    assert_eq!(s.status(id), "running");
    s.act("kill", id, &["KILL", "all"]).ok();
    s.wait(id, "stopped");
    assert!(s.act("kill", id, &["TERM"]).fails().contains("container not running"));
    assert!(s.act("exec", id, &["probe"]).fails().contains("stopped"));
    s.act("delete", id, &[]).ok();
    assert!(s.act("state", id, &[]).fails().contains("does not exist"));
    // Created and never started.
    s.act("create", id, &[]).ok();
    s.act("delete", id, &[]).ok();
    s.act("create", id, &[]).ok();
    s.act("delete", id, &["force"]).ok();
    s.act("delete", id, &["force"]).ok();
    // The program is gone when it is to be started.
    s.args(&[]);
    s.config["process"]["args"] = json!(["/bin/other"]);
    std::fs::copy(s.rootfs().join("bin/probe"), s.rootfs().join("bin/other")).unwrap();
    s.act("create", id, &[]).ok();
    std::fs::remove_file(s.rootfs().join("bin/other")).unwrap();
    let done = s.act("start", id, &[]);
    assert_eq!(done.code, 127, "{}", done.err);
    s.wait(id, "stopped");
    s.act("delete", id, &[]).ok();
    s.nothing_left(&[id]);
}

fn the_world_inside() {
    let s = Scene::new(&[
        "pid",
        "cwd",
        "read",
        "/proc/sys/kernel/hostname",
        "list",
        "/sys/class/net",
        "env",
        "HOME",
        "list",
        "/dev",
        "read",
        "/proc/keys",
        "list",
        "/sys/firmware",
        "write",
        "/proc/sys/kernel/domainname",
        "x",
        "link",
        "/dev/stdin",
        "stat",
        "/dev/null",
        "read",
        "/proc/self/cgroup",
        "status",
        "Seccomp:",
        "list",
        "/proc/self/fd",
    ]);
    let out = s.run(&id("world")).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[..5], ["1", "/", "probe-host", "lo", "/"]);
    assert_eq!(lines[5], "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero");
    assert_eq!((lines[6], lines[7]), ("", ""));
    assert!(lines[8].contains("Read-only"), "{}", lines[8]);
    assert_eq!((lines[9], lines[10]), ("/proc/self/fd/0", "/dev/null 20666 0:0"));
    assert!(out.contains(":/\n"), "the cgroup namespace shows the container's cgroup as the root: {out}");
    assert_eq!(*lines.last().unwrap(), "0 1 2 3", "no descriptor of the runtime is left (3 is the listing's own)");
}

fn namespaces_are_new_or_joined() {
    let mut s = Scene::new(&["sleep", "30"]);
    let first = id("ns-a");
    s.act("create", &first, &[]).ok();
    s.act("start", &first, &[]).ok();
    let pid = s.pid(&first);
    let kinds = [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    for (kind, file) in kinds {
        s.namespace(kind, Some(format!("/proc/{pid}/ns/{file}")));
    }
    s.config["hostname"] = json!(null);
    s.args(&[
        "link",
        "/proc/self/ns/pid",
        "link",
        "/proc/self/ns/net",
        "link",
        "/proc/self/ns/ipc",
        "link",
        "/proc/self/ns/uts",
        "pid",
    ]);
    let out = s.run(&id("ns-b")).ok();
    for ((_, file), line) in kinds.iter().zip(out.lines()) {
        let expected = std::fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
        assert_eq!(Path::new(line), expected);
    }
    assert_ne!(out.lines().last(), Some("1"), "it is not the first process of the joined namespace");
    s.namespace("network", Some("/proc/self/nothing".into()));
    assert!(s.run(&id("ns-b")).fails().contains("/proc/self/nothing"));
    s.act("delete", &first, &["force"]).ok();
    s.nothing_left(&[&first, &id("ns-b")]);
}

fn a_new_network_has_its_loopback() {
    let mut s = Scene::new(&["read", "/sys/class/net/lo/flags", "read", "/proc/net/fib_trie"]);
    let up = |s: &Scene| {
        let out = s.run(&id("lo")).ok();
        assert_eq!(out.lines().next(), Some("0x9"), "up, and a loopback interface: {out}");
        assert!(out.contains("127.0.0.1"), "{out}");
    };
    up(&s);
    s.namespace("user", None);
    s.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    s.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    up(&s);
    s.nothing_left(&[&id("lo")]);
}

fn a_user_namespace_maps_ids() {
    let mut s = Scene::new(&[
        "read",
        "/proc/self/uid_map",
        "status",
        "Uid:",
        "write",
        "/dev/null",
        "x",
        "stat",
        "/data/file",
        "stat",
        "/mapped/file",
        "status",
        "CapEff:",
        "read",
        "/proc/self/gid_map",
        "status",
        "Groups:",
    ]);
    s.namespace("user", None);
    s.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100000, "size": 1000}]);
    s.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100000, "size": 1000}]);
    s.config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
    s.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]);
    // Only root of the host may come here, so the runtime must have opened it.
    let data = s.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "x").unwrap();
    s.mount(json!({"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]}));
    s.mount(json!({"destination": "/mapped", "type": "bind", "source": data, "options": ["bind", "idmap"],
        "uidMappings": [{"containerID": 0, "hostID": 100005, "size": 1}], "gidMappings": [{"containerID": 0, "hostID": 100006, "size": 1}]}));
    std::os::unix::fs::chown(s.rootfs(), Some(100000), Some(100000)).unwrap();
    let done = s.run(&id("user"));
    let idmap_missing = done.err.contains("idmapped");
    assert!(!idmap_missing, "{}", done.err);
    let out = done.ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
    assert_eq!((lines[1], lines[2]), ("Uid: 7 7 7 7", "written"));
    assert_eq!((lines[3], lines[4]), ("/data/file 100644 65534:65534", "/mapped/file 100644 5:6"));
    assert_eq!(lines[5], "CapEff: 0000000000000000");
    assert_eq!(lines[7], "Groups: 9");
    // exec joins the user namespace too.
    s.args(&["sleep", "30"]);
    s.act("create", &id("user"), &[]).ok();
    s.act("start", &id("user"), &[]).ok();
    assert_eq!(s.act("exec", &id("user"), &["probe", "status", "Uid:"]).ok(), "Uid: 0 0 0 0");
    s.act("delete", &id("user"), &["force"]).ok();
    s.nothing_left(&[&id("user")]);
}

fn clocks_have_offsets() {
    let mut s = Scene::new(&["read", "/proc/self/timens_offsets", "read", "/proc/uptime"]);
    s.namespace("time", None);
    s.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 7200, "nanosecs": 0}, "monotonic": {"secs": 3600}});
    let out = s.run(&id("time")).ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(&words[..6], ["monotonic", "3600", "0", "boottime", "7200", "0"]);
    let host: f64 = std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(words[6].parse::<f64>().unwrap() > host + 7000.0);
    s.namespace("user", None);
    s.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    s.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    assert!(s.run(&id("time")).ok().contains("7200"));
    s.nothing_left(&[&id("time")]);
}

fn mounts_and_their_options() {
    let mut s = Scene::new(&[
        "write",
        "/ro/x",
        "1",
        "read",
        "/file",
        "list",
        "/up",
        "write",
        "/up/new",
        "1",
        "write",
        "/rot/x",
        "1",
        "write",
        "/deep/below/x",
        "1",
        "stat",
        "/up/script",
        "write",
        "/x",
        "1",
        "read",
        "/proc/self/mountinfo",
    ]);
    for dir in ["src", "deep/below", "rootfs/up"] {
        std::fs::create_dir_all(s.dir.join(dir)).unwrap();
    }
    std::fs::write(s.dir.join("src/f"), "text").unwrap();
    std::fs::write(s.rootfs().join("up/script"), "old").unwrap();
    s.mount(json!({"destination": "/ro", "type": "bind", "source": "src", "options": ["ro", "nosuid", "noexec", "nodev", "noatime"]}));
    s.mount(json!({"destination": "/file", "type": "none", "source": "src/f", "options": ["rbind", "rprivate"]}));
    s.mount(json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}));
    s.mount(json!({"destination": "/rot", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "mode=711"]}));
    s.mount(json!({"destination": "/rot/in", "type": "bind", "source": "src", "options": ["bind"]}));
    s.mount(json!({"destination": "/deep", "type": "bind", "source": "deep", "options": ["rbind", "rro"]}));
    s.config["root"]["readonly"] = json!(true);
    let out = s.run(&id("mounts")).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("Read-only"), "{out}");
    assert_eq!((lines[1], lines[2], lines[3]), ("text", "script", "written"));
    for i in [4, 5, 7] {
        assert!(lines[i].contains("Read-only"), "{}", lines[i]);
    }
    let ro = lines.iter().find(|l| l.contains(" /ro ")).unwrap();
    assert!(ro.contains("ro,nosuid,nodev,noexec,noatime"), "{ro}");
    assert!(s.rootfs().join("up/script").exists() && !s.rootfs().join("up/new").exists());
    // What is wrong is said.
    s.mount(json!({"destination": "/bad", "type": "tmpfs", "options": ["nosuchoption=1"]}));
    let said = s.run(&id("mounts")).fails();
    assert!(said.contains("/bad") && said.contains("nosuchoption"), "{said}");
    s.nothing_left(&[&id("mounts")]);
}

fn the_hosts_nodes_are_not_the_containers() {
    // The mode that they have anyway.
    let mut s =
        Scene::new(&["chmod", "/proc/keys", "666", "chmod", "/proc/timer_list", "666", "write", "/proc/keys", "x"]);
    s.config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/timer_list"]);
    let out = s.run(&id("nodes")).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("Read-only") && lines[1].contains("Read-only"), "{out}");
    assert_eq!(lines[2], "written");
    // In a user namespace that has the host's root.
    s.namespace("user", None);
    s.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    s.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    s.args(&["chmod", "/proc/keys", "666", "chmod", "/dev/null", "666", "write", "/dev/null", "x"]);
    let out = s.run(&id("nodes")).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("Read-only") && lines[1].contains("Read-only"), "{out}");
    assert_eq!(lines[2], "written");
    s.nothing_left(&[&id("nodes")]);
}

fn read_only_is_all_below() {
    let mut s = Scene::new(&["write", "/data/x", "1", "write", "/data/below/x", "1"]);
    for dir in ["src", "below", "src/below"] {
        std::fs::create_dir_all(s.dir.join(dir)).unwrap();
    }
    s.mount(json!({"destination": "/data", "type": "bind", "source": "src", "options": ["bind"]}));
    s.mount(json!({"destination": "/data/below", "type": "bind", "source": "below", "options": ["bind"]}));
    s.config["linux"]["readonlyPaths"] = json!(["/data"]);
    let out = s.run(&id("below")).ok();
    assert_eq!(out.lines().filter(|l| l.contains("Read-only")).count(), 2, "{out}");
    s.nothing_left(&[&id("below")]);
}

fn a_file_that_is_not_the_device_is_refused() {
    let mut s = Scene::new(&["stat", "/dev/null", "stat", "/opt/node"]);
    s.config["mounts"].as_array_mut().unwrap().retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    // What an image brings may serve if it is the device.
    std::fs::create_dir_all(s.rootfs().join("dev")).unwrap();
    std::fs::create_dir_all(s.rootfs().join("opt")).unwrap();
    let node = |name: &str, minor| {
        let _ = std::fs::remove_file(s.rootfs().join(name));
        let kind = rustix::fs::FileType::CharacterDevice;
        let (mode, number) = (rustix::fs::Mode::from_raw_mode(0o640), rustix::fs::makedev(1, minor));
        rustix::fs::mknodat(rustix::fs::CWD, s.rootfs().join(name), kind, mode, number).unwrap();
    };
    node("dev/null", 3);
    node("opt/node", 5);
    let mut config = s.config.clone();
    config["linux"]["devices"] = json!([{"path": "/opt/node", "type": "c", "major": 1, "minor": 5}]);
    s.config = config.clone();
    assert_eq!(s.run(&id("device")).ok(), "/dev/null 20640 0:0\n/opt/node 20640 0:0");
    s.config["linux"]["devices"][0]["minor"] = json!(7);
    let said = s.run(&id("device")).fails();
    assert!(said.contains("/opt/node") && said.contains("1:7"), "{said}");
    s.config["linux"]["devices"][0]["type"] = json!("p");
    assert!(s.run(&id("device")).fails().contains("FIFO"));
    s.config = config;
    std::fs::remove_file(s.rootfs().join("dev/null")).unwrap();
    std::fs::write(s.rootfs().join("dev/null"), "").unwrap();
    assert!(s.run(&id("device")).fails().contains("/dev/null"));
    // Whoever mounts another one there means it.
    s.mount(json!({"destination": "/dev/random", "type": "bind", "source": "/dev/urandom", "options": ["bind"]}));
    s.mount(json!({"destination": "/dev/null", "type": "bind", "source": "/dev/full", "options": ["bind"]}));
    s.run(&id("device")).ok();
    s.nothing_left(&[&id("device")]);
}

fn the_hosts_proc_is_not_shown() {
    let mut s = Scene::new(&["pid", "read", "/proc/1/comm"]);
    s.namespace("user", None);
    s.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    s.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    assert_eq!(s.run(&id("covered")).ok(), "1\nprobe");
    // As inside of an outer container, where a part of /proc is covered.
    let covered = |s: &Scene| -> crate::bundle::Done {
        let command = s.command("run", &id("covered"), &[]);
        let mut outer = std::process::Command::new("unshare");
        outer.args(["--mount", "sh", "-c", "mount -t tmpfs none /proc/sys && exec \"$@\"", "sh"]);
        outer.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        outer.output().unwrap().into()
    };
    let said = covered(&s).fails();
    assert!(said.contains("/proc") && said.contains("partly covered"), "{said}");
    // Whoever shares the host's processes may see them.
    s.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    let out = covered(&s).ok();
    assert_eq!(out.lines().nth(1), std::fs::read_to_string("/proc/1/comm").unwrap().lines().next(), "{out}");
    s.nothing_left(&[&id("covered")]);
}

fn a_joined_mount_namespace_keeps_its_root() {
    let mut holder = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "unchanged", "sleep", "30"])
        .spawn()
        .unwrap();
    let link = format!("/proc/{}/ns/mnt", holder.id());
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    for _ in 0..500 {
        if std::fs::read_link(&link).is_ok_and(|l| l != own) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let root = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let line = text.lines().find(|l| l.split(' ').nth(4) == Some("/")).unwrap().to_owned();
        line.split(' ').skip(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = root(holder.id());
    let mut s = Scene::new(&["list", "/", "link", "/proc/self/ns/mnt", "write", "/proc/sys/kernel/domainname", "x"]);
    s.namespace("mount", Some(link.clone()));
    let theirs = std::fs::read_link(&link).unwrap();
    s.act("create", &id("joined"), &[]).ok();
    assert_eq!(s.act("exec", &id("joined"), &["probe", "list", "/"]).ok(), "bin dev proc sys");
    s.act("delete", &id("joined"), &["force"]).ok();
    let out = s.run(&id("joined")).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], Path::new(lines[1])), ("bin dev proc sys", theirs.as_path()));
    assert!(lines[2].contains("Read-only"), "{out}");
    assert_eq!(root(holder.id()), before, "the root of those who were there is as it was");
    assert!(Path::new(&format!("/proc/{}/root/{}", holder.id(), s.dir.display())).exists());
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(&s.dir.display().to_string()), "{host}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    s.nothing_left(&[&id("joined")]);
}

fn shared_mounts_of_the_host_get_nothing() {
    let mut s = Scene::new(&["list", "/data"]);
    std::fs::create_dir_all(s.dir.join("src/below")).unwrap();
    s.mount(json!({"destination": "/data", "type": "bind", "source": "src", "options": ["rbind"]}));
    s.mount(json!({"destination": "/data/below", "type": "tmpfs", "source": "tmpfs"}));
    let on_shared = |s: &Scene| -> crate::bundle::Done {
        let command = s.command("run", &id("shared"), &[]);
        let script = "mount --make-rshared / && \"$@\" && ! grep $BUNDLE /proc/self/mountinfo";
        let mut outer = std::process::Command::new("unshare");
        outer.args(["--mount", "sh", "-c", script, "sh"]).env("BUNDLE", &s.dir);
        outer.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        outer.output().unwrap().into()
    };
    assert_eq!(on_shared(&s).ok(), "below");
    s.namespace("user", None);
    s.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    s.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    assert_eq!(on_shared(&s).ok(), "below");
    s.nothing_left(&[&id("shared")]);
}

fn propagation_follows_the_configuration() {
    let mut s = Scene::new(&["read", "/proc/self/mountinfo"]);
    std::fs::create_dir(s.dir.join("src")).unwrap();
    for (option, tag) in [("rshared", "shared:"), ("runbindable", "unbindable")] {
        s.mount(json!({"destination": "/here", "type": "bind", "source": "src", "options": ["rbind", option]}));
        let out = s.run(&id("prop")).ok();
        let line = out.lines().find(|l| l.contains(" /here ")).unwrap();
        assert!(line.contains(tag), "{line}");
        s.config["mounts"].as_array_mut().unwrap().pop();
    }
    for (wish, tag, there) in [
        ("shared", "shared:", true),
        ("private", "shared:", false),
        ("rslave", "shared:", false),
        ("unbindable", "unbindable", true),
        ("runbindable", "unbindable", true),
    ] {
        s.config["linux"]["rootfsPropagation"] = json!(wish);
        let out = s.run(&id("prop")).ok();
        let root = out.lines().find(|l| l.contains(" / / ") || l.contains("rootfs / ")).unwrap();
        assert_eq!(root.contains(tag), there, "{wish}: {root}");
    }
    // Nothing came back to the host.
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(&s.dir.display().to_string()), "{host}");
    s.config["linux"]["rootfsPropagation"] = json!("sideways");
    assert!(s.run(&id("prop")).fails().contains("rootfsPropagation"));
    s.nothing_left(&[&id("prop")]);
}

fn no_path_leads_out() {
    let mut s = Scene::new(&["list", "/", "list", "/link"]);
    let outside = s.dir.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(s.dir.join("src")).unwrap();
    std::fs::write(s.dir.join("src/inner"), "").unwrap();
    std::os::unix::fs::symlink("../../../../../..", s.rootfs().join("up")).unwrap();
    std::os::unix::fs::symlink(&outside, s.rootfs().join("link")).unwrap();
    s.mount(json!({"destination": format!("/up{}/a", outside.display()), "type": "bind", "source": "src"}));
    s.mount(json!({"destination": "/link", "type": "bind", "source": "src"}));
    let out = s.run(&id("out")).ok();
    assert_eq!(out.lines().nth(1), Some("inner"));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing was made outside");
    // /proc must be a directory of the image's own.
    std::fs::remove_dir(s.rootfs().join("proc")).unwrap();
    std::os::unix::fs::symlink("/tmp", s.rootfs().join("proc")).unwrap();
    assert!(s.run(&id("out")).fails().contains("symbolic link"));
    std::fs::remove_file(s.rootfs().join("proc")).unwrap();
    // And a bind on it must show a whole procfs.
    std::fs::create_dir(s.rootfs().join("proc")).unwrap();
    let own = s.config["mounts"][0].take();
    for part in ["/proc/1", "/proc/sys", "/tmp"] {
        s.config["mounts"][0] = json!({"destination": "/proc", "type": "bind", "source": part, "options": ["rbind"]});
        assert!(s.run(&id("out")).fails().contains("not the root of a procfs"), "{part}");
    }
    s.config["mounts"][0] = own;
    // Nor may a mount go where procfs is.
    std::os::unix::fs::symlink("/proc/self/attr", s.rootfs().join("disguise")).unwrap();
    s.mount(json!({"destination": "/disguise", "type": "tmpfs", "source": "tmpfs"}));
    assert!(s.run(&id("out")).fails().contains("into /proc"));
    s.config["mounts"].as_array_mut().unwrap().pop();
    s.mount(json!({"destination": "/proc/sys/kernel", "type": "tmpfs"}));
    assert!(s.run(&id("out")).fails().contains("inside /proc"));
    s.config["mounts"].as_array_mut().unwrap().pop();
    // A working directory that is a leaked descriptor (CVE-2024-21626).
    for n in 3..12 {
        s.config["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        let done = s.run(&id("out"));
        assert_ne!(done.code, 0, "descriptor {n} led somewhere: {}", done.out);
    }
    s.nothing_left(&[&id("out")]);
}

/// A command with descriptors 9, 10 and 11 open on directories of the host, as a careless caller leaves them.
fn with_leaks(command: &std::process::Command) -> std::process::Command {
    let mut shell = std::process::Command::new("/bin/bash");
    shell.args(["-c", "exec \"$0\" \"$@\" 9</ 10</proc 11</"]).arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?)))).stdin(Stdio::null());
    shell
}

fn no_program_is_found_through_a_descriptor() {
    let mut s = Scene::new(&["sleep", "30"]);
    let running = &id("fd-exec");
    s.act("create", running, &[]).ok();
    s.act("start", running, &[]).ok();
    let done =
        |command: &std::process::Command| -> crate::bundle::Done { with_leaks(command).output().unwrap().into() };
    let host = std::env::current_exe().unwrap();
    for n in 3..20 {
        // The host's copy of the probe, by path and by a link of the image; and files of the host's /proc and of cgroups.
        let through = format!("/proc/self/fd/{n}{}", host.display());
        let link = s.rootfs().join(format!("link{n}"));
        std::os::unix::fs::symlink(&through, link).unwrap();
        let files = ["version", "tasks", "cgroup.procs"].map(|f| format!("/proc/self/fd/{n}/{f}"));
        for program in [through, format!("/link{n}")].into_iter().chain(files) {
            s.config["process"]["args"] = json!([program, "probe", "echo", "outside"]);
            let ran = done(&s.command("run", &id("fd"), &[]));
            let entered = done(&s.command("exec", running, &[&program, "probe", "echo", "outside"]));
            for done in [ran, entered] {
                assert!(done.code == 126 || done.code == 127, "{program}: {} {}", done.out, done.err);
                assert!(!done.err.contains("permission denied"), "{program} exists: {}", done.err);
            }
        }
    }
    s.act("delete", running, &["force"]).ok();
    // Nor do hooks of the container inherit anything, not even what is preserved for the program.
    s.args(&["read", "/hook"]);
    let hook = ["probe", "list-to", "/hook", "/proc/self/fd"];
    s.config["hooks"] = json!({"startContainer": [{"path": "/bin/probe", "args": hook}]});
    assert_eq!(done(&s.command("run", &id("fd"), &[])).ok(), "0 1 2 3", "3 is the listing's own");
    s.nothing_left(&[&id("fd"), running]);
}

fn the_runtime_cannot_be_written() {
    let mut s = Scene::new(&[]);
    s.config["process"]["args"] = json!(["/proc/self/exe", "probe", "exe-mount"]);
    assert_eq!(s.run(&id("exe")).ok(), "read-only");
    s.nothing_left(&[&id("exe")]);
}

fn identity_limits_and_capabilities() {
    let mut s = Scene::new(&[
        "status",
        "Uid:",
        "status",
        "Groups:",
        "status",
        "Umask:",
        "status",
        "CapEff:",
        "status",
        "CapBnd:",
        "status",
        "CapAmb:",
        "status",
        "NoNewPrivs:",
        "read",
        "/proc/self/oom_score_adj",
        "read",
        "/proc/self/limits",
        "status",
        "SigIgn:",
        "env",
        "HOME",
        "cwd",
    ]);
    std::fs::create_dir(s.rootfs().join("etc")).unwrap();
    std::fs::write(s.rootfs().join("etc/passwd"), "u:x:1000:1001::/home/u:/bin/sh\n").unwrap();
    let p = &mut s.config["process"];
    p["user"] = json!({"uid": 1000, "gid": 1001, "umask": 63, "additionalGids": [5, 6]});
    p["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_FUTURE"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    p["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    p["oomScoreAdj"] = json!(500);
    p["cwd"] = json!("/made/for/it");
    p["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    p["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    s.config["linux"]["resources"] = json!({"pids": {"limit": 32}});
    s.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345"});
    let out = s.run(&id("identity")).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[..4], ["Uid: 1000 1000 1000 1000", "Groups: 5 6", "Umask: 0077", "CapEff: 0000000000000020"]);
    assert_eq!(&lines[4..8], ["CapBnd: 0000000000000021", "CapAmb: 0000000000000020", "NoNewPrivs: 1", "500"]);
    let files = lines.iter().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["64", "128"]);
    let n = lines.len();
    assert_eq!(lines[n - 2..], ["/home/u", "/made/for/it"]);
    s.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 4}]);
    assert!(s.run(&id("identity")).fails().contains("RLIMIT_NOFILE"));
    s.nothing_left(&[&id("identity")]);
}

fn homes_are_read_from_files_only() {
    let mut s = Scene::new(&["env", "HOME", "env", "TWICE"]);
    s.config["process"]["env"] = json!(["PATH=/bin", "TWICE=first", "TWICE=last"]);
    let passwd = s.rootfs().join("etc/passwd");
    std::fs::create_dir(s.rootfs().join("etc")).unwrap();
    // Through a link, as images have it; and not all of it need be UTF-8.
    std::fs::write(s.rootfs().join("etc/real"), b"\xff:x:5:5:::\nroot:x:0:0::/home/root:/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("/etc/real", &passwd).unwrap();
    assert_eq!(s.run(&id("home")).ok(), "/home/root\nlast");
    // A pipe that nobody writes to, an endless device, a descriptor.
    for kind in ["fifo", "/dev/zero", "/proc/self/fd/0"] {
        std::fs::remove_file(&passwd).unwrap();
        match kind {
            "fifo" => {
                let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644));
                rustix::fs::mknodat(rustix::fs::CWD, &passwd, kind, mode, 0).unwrap();
            }
            target => std::os::unix::fs::symlink(target, &passwd).unwrap(),
        }
        let real = std::fs::File::open(s.rootfs().join("etc/real")).unwrap();
        let mut child = s.command("run", &id("home"), &[]).stdin(real).spawn().unwrap();
        let ended = (0..1000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            child.try_wait().unwrap()
        });
        if ended.is_none() {
            s.act("delete", &id("home"), &["force"]).ok();
        }
        let done: crate::bundle::Done = child.wait_with_output().unwrap().into();
        assert!(ended.is_some(), "it hangs with {kind}");
        assert_eq!(done.ok(), "/\nlast", "{kind}");
    }
    s.nothing_left(&[&id("home")]);
}

/// A hook that appends its name, whether it has the state, and its host name to a file.
fn hook(log: &Path, name: &str) -> serde_json::Value {
    let script =
        format!("read -r s; case \"$s\" in *'\"status\"'*) echo \"{name} $(hostname)\" >> {};; esac", log.display());
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 10})
}

fn hooks_run_in_order() {
    let mut s = Scene::new(&["exit", "0"]);
    let log = s.dir.join("log");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let h = |name| json!([hook(&log, name)]);
    s.config["hooks"] = json!({"prestart": h("prestart"), "createRuntime": h("createRuntime"), "createContainer": h("createContainer"),
        "poststart": h("poststart"), "poststop": h("poststop"),
        "startContainer": [{"path": "/bin/probe", "args": ["probe", "write", "/started", "yes"]}]});
    s.run(&id("hooks")).ok();
    let text = std::fs::read_to_string(&log).unwrap();
    let host = host.trim();
    let expected = format!(
        "prestart {host}\ncreateRuntime {host}\ncreateContainer probe-host\npoststart {host}\npoststop {host}\n"
    );
    assert_eq!(text, expected);
    assert_eq!(std::fs::read_to_string(s.rootfs().join("started")).unwrap(), "yes");
    // And by steps; a hook may ask for the state.
    std::fs::remove_file(&log).unwrap();
    let ask = format!(
        "{} runtime {} state {} > {}",
        std::env::current_exe().unwrap().display(),
        s.root().display(),
        id("hooks"),
        s.dir.join("asked").display()
    );
    s.config["hooks"]["createRuntime"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", ask]}]);
    s.act("create", &id("hooks"), &[]).ok();
    assert!(std::fs::read_to_string(s.dir.join("asked")).unwrap().contains("\"creating\""));
    assert!(!std::fs::read_to_string(&log).unwrap().contains("poststart"));
    s.act("start", &id("hooks"), &[]).ok();
    assert!(std::fs::read_to_string(&log).unwrap().contains("poststart"));
    s.wait(&id("hooks"), "stopped");
    s.act("delete", &id("hooks"), &[]).ok();
    assert!(std::fs::read_to_string(&log).unwrap().ends_with(&format!("poststop {host}\n")));
    s.nothing_left(&[&id("hooks")]);
}

fn a_failing_hook_undoes_everything() {
    let mut s = Scene::new(&["sleep", "30"]);
    let fail = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo broken >&2; exit 3"]}]);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let ended = s.dir.join(format!("ended-{kind}"));
        let poststop = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo > {}", ended.display())]}]);
        s.config["hooks"] = json!({kind: fail.clone(), "poststop": poststop});
        let said = s.act("create", &id("fail"), &[]).fails();
        assert!(said.contains(kind) && said.contains("broken"), "{said}");
        assert!(ended.exists(), "poststop hooks run after a failing {kind} hook");
        s.nothing_left(&[&id("fail")]);
    }
    s.config["hooks"] = json!({"startContainer": [{"path": "/bin/probe", "args": ["probe", "exit", "4"]}]});
    s.act("create", &id("fail"), &[]).ok();
    assert!(s.act("start", &id("fail"), &[]).fails().contains("startContainer"));
    s.wait(&id("fail"), "stopped");
    s.act("delete", &id("fail"), &[]).ok();
    // After the start a failure ends the container, and no further hook runs but those after the end.
    let third = s.dir.join("third");
    let note = json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo >> {}", third.display())]});
    let post = json!([{"path": "/bin/true"}, fail[0], note]);
    s.config["hooks"] = json!({"poststart": post, "poststop": fail});
    s.act("create", &id("fail"), &[]).ok();
    for verb in ["start", "run"] {
        let said = s.act(verb, &id("fail"), &[]).fails();
        assert!(said.contains("poststart") && said.contains("broken") && !third.exists(), "{said}");
        assert!(verb == "start" || said.contains("poststop"), "{said}");
        s.nothing_left(&[&id("fail")]);
    }
    // By documents older than 1.2 it is only worth a warning. So is, always, a failure after the end.
    s.config["ociVersion"] = json!("1.1.0");
    s.act("create", &id("fail"), &[]).ok();
    let said = s.act("start", &id("fail"), &[]);
    assert!(said.code == 0 && said.err.contains("poststart") && third.exists(), "{}", said.err);
    assert!(s.act("warnings", &id("fail"), &[]).ok().contains("broken"));
    let said = s.act("delete", &id("fail"), &["force"]);
    assert!(said.code == 0 && said.err.contains("poststop") && said.err.contains("broken"), "{}", said.err);
    s.args(&["exit", "0"]);
    let said = s.run(&id("fail"));
    assert!(said.code == 0 && said.err.contains("poststart") && said.err.contains("poststop"), "{}", said.err);
    s.nothing_left(&[&id("fail")]);
}

fn another_process_joins() {
    let mut s = Scene::new(&["sleep", "30"]);
    let id = &id("exec");
    s.act("create", id, &[]).ok();
    s.act("start", id, &[]).ok();
    let out = s.act(
        "exec",
        id,
        &[
            "probe",
            "read",
            "/proc/sys/kernel/hostname",
            "read",
            "/proc/self/cgroup",
            "status",
            "CapEff:",
            "link",
            "/proc/self/ns/pid",
            "list",
            "/proc/self/fd",
            "cwd",
            "exit",
            "3",
        ],
    );
    assert_eq!(out.code, 3, "{}", out.err);
    let lines: Vec<&str> = out.out.lines().collect();
    assert_eq!(lines[0], "probe-host");
    assert!(
        lines[1..].iter().filter(|l| l.contains(':')).take(8).all(|l| l.ends_with(":/") || !l.contains("::")),
        "{}",
        out.out
    );
    assert!(out.out.contains("CapEff: 0000000000000021"), "{}", out.out);
    let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", s.pid(id))).unwrap();
    assert!(out.out.contains(&namespace.display().to_string()));
    assert!(out.out.contains("\n0 1 2 3\n/"), "{}", out.out);
    let missing = s.act("exec", id, &["nothere"]);
    assert_eq!(missing.code, 127, "{}", missing.err);
    s.env = vec![("EXEC_UID", "33".into())];
    assert_eq!(s.act("exec", id, &["probe", "status", "Uid:"]).ok(), "Uid: 33 33 33 33");
    s.env = vec![("DETACH", "1".into()), ("PID_FILE", s.dir.join("pid").display().to_string())];
    s.act("exec", id, &["probe", "sleep", "30"]).ok();
    let pid = std::fs::read_to_string(s.dir.join("pid")).unwrap();
    assert!(s.act("ps", id, &[]).ok().contains(&pid));
    s.env = vec![("AFFINITY", "{\"initial\": \"0\"}".into())];
    let said = s.act("exec", id, &["probe"]);
    assert!(said.code == 0 && said.err.contains("Debug(\"affinity: 0x1\")"), "{}", said.err);
    s.env = vec![("CGROUP", "..".into())];
    assert!(s.act("exec", id, &["probe"]).fails().contains(".."));
    s.env = vec![("CGROUP", "missing".into())];
    assert!(s.act("exec", id, &["probe"]).fails().contains("missing"));
    // A signal to it is its exit code.
    s.env = vec![("PID_FILE", s.dir.join("pid2").display().to_string())];
    let child = s.command("exec", id, &["probe", "sleep", "30"]).spawn().unwrap();
    let pid = s.read_soon("pid2");
    std::process::Command::new("/bin/sh").args(["-c", &format!("kill -9 {pid}")]).status().unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
    s.act("delete", id, &["force"]).ok();
    s.nothing_left(&[id]);
}

fn too_little_memory_to_start_is_said() {
    let mut s = Scene::new(&["exit", "0"]);
    s.config["linux"]["resources"] = json!({"memory": {"limit": 8192}});
    for verb in ["run", "create"] {
        let said = s.act(verb, &id("tight"), &[]);
        assert!(
            said.code != 0 && said.err.contains("memory.limit, 8192 bytes, too small"),
            "{} {}",
            said.code,
            said.err
        );
        s.nothing_left(&[&id("tight")]);
    }
}

fn pausing() {
    let s = Scene::new(&["sleep", "30"]);
    let id = &id("pause");
    s.act("create", id, &[]).ok();
    s.act("start", id, &[]).ok();
    assert!(s.act("resume", id, &[]).fails().contains("paused"));
    s.act("pause", id, &[]).ok();
    assert_eq!(s.status(id), "paused");
    assert!(s.act("exec", id, &["probe"]).fails().contains("paused"));
    s.act("resume", id, &[]).ok();
    assert_eq!(s.status(id), "running");
    s.act("pause", id, &[]).ok();
    s.act("kill", id, &["KILL"]).ok();
    s.wait(id, "stopped");
    s.act("delete", id, &[]).ok();
    s.act("create", id, &[]).ok();
    s.act("start", id, &[]).ok();
    s.act("pause", id, &[]).ok();
    s.act("delete", id, &["force"]).ok();
    s.nothing_left(&[id]);
}

/// Reads a terminal's master until a text came.
fn read_until(master: &std::fs::File, wanted: &str) -> String {
    let mut text = String::new();
    for _ in 0..500 {
        if text.contains(wanted) {
            break;
        }
        let mut fds = [rustix::event::PollFd::new(master, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if rustix::event::poll(&mut fds, Some(&limit)).is_ok_and(|n| n > 0) {
            let mut buffer = [0; 1024];
            let Ok(n) = (&*master).read(&mut buffer) else { break };
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }
    text
}

/// Receives one descriptor.
fn receive(socket: &std::os::unix::net::UnixListener) -> (std::os::fd::OwnedFd, String) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let (stream, _) = socket.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = vec![0; 4096];
    let message = rustix::net::recvmsg(
        &stream,
        &mut [std::io::IoSliceMut::new(&mut data)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    data.truncate(message.bytes);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return (fds.next().unwrap(), String::from_utf8_lossy(&data).into_owned());
        }
    }
    panic!("no descriptor came");
}

fn a_terminal_goes_to_the_console_socket() {
    let mut s = Scene::new(&["tty", "size", "stat", "/dev/console", "sleep", "30"]);
    s.config["process"]["terminal"] = json!(true);
    s.config["process"]["consoleSize"] = json!({"height": 30, "width": 100});
    assert!(s.act("create", &id("tty"), &[]).fails().contains("console socket"));
    let path = s.dir.join("console");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    s.env = vec![("CONSOLE", path.display().to_string())];
    s.act("create", &id("tty"), &[]).ok();
    let (master, name) = receive(&socket);
    assert!(name.starts_with("/dev/pts/"), "{name}");
    s.act("start", &id("tty"), &[]).ok();
    let text = read_until(&std::fs::File::from(master), "/dev/console 20");
    assert!(text.contains("tty true") && text.contains("30x100"), "{text}");
    s.config["process"]["terminal"] = json!(false);
    assert!(s.act("create", &id("tty2"), &[]).fails().contains("terminal is not set"));
    s.env.clear();
    s.act("delete", &id("tty"), &["force"]).ok();
    // A console that is a link would be mounted over whatever it leads to.
    s.config["process"]["terminal"] = json!(true);
    s.config["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    let _ = std::fs::remove_file(s.rootfs().join("dev/console"));
    std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", s.rootfs().join("dev/console")).unwrap();
    assert!(s.run(&id("tty")).fails().contains("symbolic link"));
    // A device of the image's is not opened to see what it is: opening this one, which has no driver, would fail.
    s.config["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev/pts");
    let (kind, number) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(4095, 1));
    let (dir, mode) = (rustix::fs::CWD, rustix::fs::Mode::from_raw_mode(0o600));
    std::fs::create_dir_all(s.rootfs().join("dev/pts")).unwrap();
    rustix::fs::mknodat(dir, s.rootfs().join("dev/pts/ptmx"), kind, mode, number).unwrap();
    let said = s.run(&id("tty")).fails();
    assert!(said.contains("is not the pseudo-terminal multiplexer"), "{said}");
    s.nothing_left(&[&id("tty")]);
}

fn a_terminal_is_relayed() {
    let mut s = Scene::new(&["tty", "size", "stdin"]);
    s.config["process"]["terminal"] = json!(true);
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open(slave.to_str().unwrap()).unwrap();
    let size = rustix::termios::Winsize { ws_row: 11, ws_col: 22, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let mut child = s.command("run", &id("relay"), &[]).stdin(open()).stdout(open()).spawn().unwrap();
    let master = std::fs::File::from(master);
    let text = read_until(&master, "11x22");
    assert!(text.contains("tty true") && text.contains("11x22"), "{text}");
    std::io::Write::write_all(&mut &master, b"typed\n\x04").unwrap();
    let text = read_until(&master, "typed\r\ntyped");
    assert!(text.contains("typed"), "{text}");
    assert!(child.wait().unwrap().success());
    s.nothing_left(&[&id("relay")]);
}

fn a_filter_refuses_calls() {
    let mut s = Scene::new(&["mkdir", "/made", "status", "Seccomp:"]);
    let rule = json!({"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95});
    s.config["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]});
    for new_privileges in [true, false] {
        s.config["process"]["noNewPrivileges"] = json!(!new_privileges);
        let out = s.run(&id("filter")).ok();
        assert!(out.contains("os error 95") && out.contains("Seccomp: 2"), "{out}");
        s.act("create", &id("filter"), &[]).ok();
        s.act("start", &id("filter"), &[]).ok();
        s.act("delete", &id("filter"), &["force"]).ok();
    }
    s.config["linux"]["seccomp"]["defaultAction"] = json!("SCMP_ACT_WHAT");
    assert!(s.run(&id("filter")).fails().contains("SCMP_ACT_WHAT"));
    s.nothing_left(&[&id("filter")]);
}

fn a_filter_for_the_program_does_not_stop_the_runtime() {
    let mut s = Scene::new(&["status", "Seccomp:", "status", "Uid:", "status", "Umask:", "status", "CapEff:"]);
    let names = [
        "close_range",
        "getcwd",
        "chdir",
        "umask",
        "fcntl",
        "openat2",
        "faccessat",
        "faccessat2",
        "setresuid",
        "setresgid",
        "setgroups",
        "capget",
        "rt_sigprocmask",
        "access",
        "fchown",
        "sched_setscheduler",
        "prlimit64",
    ];
    let rule = json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
    s.config["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]});
    for (new_privileges, uid) in [(true, 0), (true, 1000), (false, 1000)] {
        s.config["process"]["noNewPrivileges"] = json!(!new_privileges);
        s.config["process"]["user"]["uid"] = json!(uid);
        // Executing a program gives root all of the bounding set.
        let effective = if uid == 0 { "0000000000200021" } else { "0000000000000000" };
        let expected = format!("Seccomp: 2\nUid: {uid} {uid} {uid} {uid}\nUmask: 0022\nCapEff: {effective}");
        assert_eq!(s.run(&id("strict")).ok(), expected, "new privileges: {new_privileges}");
        s.act("create", &id("strict"), &[]).ok();
        s.act("start", &id("strict"), &[]).ok();
        s.act("delete", &id("strict"), &["force"]).ok();
    }
    s.nothing_left(&[&id("strict")]);
}

fn a_filter_asks_a_listener() {
    let mut s = Scene::new(&["exit", "0"]);
    let path = s.dir.join("listener");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    s.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "meta",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    for new_privileges in [true, false] {
        s.config["process"]["noNewPrivileges"] = json!(!new_privileges);
        s.act("create", &id("notify"), &[]).ok();
        let child = s.command("start", &id("notify"), &[]).spawn().unwrap();
        let (_listener, text) = receive(&socket);
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((state["fds"][0].as_str(), state["metadata"].as_str()), (Some("seccompFd"), Some("meta")), "{text}");
        assert_eq!(state["state"]["id"], json!(id("notify")));
        let done: crate::bundle::Done = child.wait_with_output().unwrap().into();
        done.ok();
        s.act("delete", &id("notify"), &["force"]).ok();
    }
    s.config["linux"]["seccomp"]["listenerPath"] = json!(null);
    assert!(s.run(&id("notify")).fails().contains("listenerPath"));
    s.nothing_left(&[&id("notify")]);
}

fn descriptors_are_preserved() {
    let mut s = Scene::new(&["list", "/proc/self/fd", "read", "/proc/self/fd/3", "env", "LISTEN_FDS"]);
    s.env = vec![("PRESERVE", "1".into())];
    let said = s.run(&id("fds"));
    assert!(said.fails().contains("descriptor 3"));
    std::fs::write(s.dir.join("note"), "noted").unwrap();
    let file = std::fs::File::open(s.dir.join("note")).unwrap();
    let with_fd = |env: &[(&str, &str)]| {
        let mut shell = std::process::Command::new("/bin/sh");
        let command = s.command("run", &id("fds"), &[]);
        shell
            .arg("-c")
            .arg("exec \"$@\" 3<&0 0</dev/null")
            .arg("sh")
            .arg(command.get_program())
            .args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?)))).envs(env.iter().copied());
        let done: crate::bundle::Done = shell.stdin(file.try_clone().unwrap()).output().unwrap().into();
        done.ok()
    };
    let out = with_fd(&[]);
    assert_eq!(out.lines().collect::<Vec<_>>(), ["0 1 2 3 4", "noted", "unset"]);
    let out = with_fd(&[("PRESERVE", "0"), ("LISTEN_FDS", "1")]);
    assert_eq!(out.lines().last(), Some("1"), "{out}");
}

fn signals_that_the_caller_ignores_are_not_ignored_inside() {
    let mut s = Scene::new(&["status", "SigIgn:"]);
    // PIPE, which the probe ignores itself, being a Rust program.
    let nothing = "SigIgn: 0000000000001000";
    let deaf = |command: std::process::Command| -> crate::bundle::Done {
        let mut shell = std::process::Command::new("/bin/bash");
        shell.args(["-c", "trap '' HUP INT CHLD PIPE 34 RTMAX; exec \"$0\" \"$@\""]);
        shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()).output().unwrap().into()
    };
    s.config["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
    let ran = deaf(s.command("run", &id("deaf"), &[]));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, nothing, ""));
    s.args(&["sleep", "30"]);
    s.act("create", &id("deaf"), &[]).ok();
    s.act("start", &id("deaf"), &[]).ok();
    assert_eq!(deaf(s.command("exec", &id("deaf"), &["probe", "status", "SigIgn:"])).ok(), nothing);
    s.act("delete", &id("deaf"), &["force"]).ok();
    s.nothing_left(&[&id("deaf")]);
}

fn signals_are_forwarded() {
    let s = Scene::new(&["echo", "up", "sleep", "30"]);
    let mut child = s.command("run", &id("signal"), &[]).spawn().unwrap();
    let mut text = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    // The first process of a namespace ignores what it does not handle, so it lives on; real-time signals too.
    for signal in ["TERM", "34"] {
        std::process::Command::new("/bin/sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status().unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "the runtime itself does not die of them");
    assert_eq!(s.status(&id("signal")), "running");
    s.act("delete", &id("signal"), &["force"]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    s.nothing_left(&[&id("signal")]);
}

fn many_at_once() {
    let s = Scene::new(&["exit", "0"]);
    let ids: Vec<String> = (0..12).map(|n| id(&format!("many-{n}"))).collect();
    let children: Vec<_> = ids.iter().map(|id| s.command("run", id, &[]).spawn().unwrap()).collect();
    for child in children {
        let done: crate::bundle::Done = child.wait_with_output().unwrap().into();
        done.ok();
    }
    s.nothing_left(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    // One id, many who want it: one gets it.
    let children: Vec<_> = (0..6)
        .map(|_| s.command("create", &id("one"), &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    let won = children.into_iter().map(|mut c| c.wait().unwrap()).filter(|s| s.success()).count();
    assert_eq!(won, 1);
    s.act("delete", &id("one"), &["force"]).ok();
    s.nothing_left(&[&id("one")]);
}

fn only_containers_are_collected() {
    let s = Scene::new(&["exit", "0"]);
    s.act("create", &id("keep"), &[]).ok();
    std::fs::create_dir_all(s.root().join("images/layer")).unwrap();
    std::fs::create_dir_all(s.root().join("damaged")).unwrap();
    std::fs::write(s.root().join("damaged/state.json"), "{").unwrap();
    std::fs::write(s.root().join("lock"), "").unwrap();
    let report = s.act("gc", "", &[]);
    assert!(report.out.contains("removed: []") && report.out.contains("damaged"), "{}", report.out);
    assert!(s.root().join("images/layer").is_dir() && s.root().join("lock").exists());
    assert_eq!(s.status(&id("keep")), "created");
    s.act("delete", "images", &["force"]).ok();
    assert!(s.root().join("images/layer").is_dir());
    assert!(s.act("delete", "damaged", &[]).fails().contains("damaged"));
    s.act("delete", "damaged", &["force"]).ok();
    std::fs::remove_dir_all(s.root().join("images")).unwrap();
    std::fs::remove_file(s.root().join("lock")).unwrap();
    s.act("delete", &id("keep"), &[]).ok();
    s.nothing_left(&[&id("keep")]);
}

fn an_ordinary_user_runs_a_container() {
    let mut s = Scene::new(&["status", "Uid:", "read", "/proc/self/uid_map", "write", "/dev/null", "x"]);
    const USER: u32 = 54321;
    s.namespace("user", None);
    s.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    s.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    for dir in [s.dir.clone(), s.rootfs()] {
        std::os::unix::fs::chown(dir, Some(USER), Some(USER)).unwrap();
    }
    let mut command = s.command("run", &id("rootless"), &[]);
    // The binary itself may lie where only root may look.
    let own = s.dir.join("own");
    std::fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    let mut as_user = std::process::Command::new(own);
    as_user.args(command.get_args()).uid(USER).gid(USER).stdin(Stdio::null());
    let done: crate::bundle::Done = as_user.output().unwrap().into();
    let _ = command.stdin(Stdio::null());
    let out = done.ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2]), ("Uid: 0 0 0 0", "written"));
    assert!(lines[1].contains(&USER.to_string()));
}

fn without_pivot_and_without_mount_namespace() {
    let mut s = Scene::new(&["list", "/", "pid"]);
    s.env = vec![("NO_PIVOT", "1".into())];
    let out = s.run(&id("nopivot")).ok();
    assert_eq!(out, "bin dev proc sys\n1");
    s.env.clear();
    s.config["mounts"] = json!([]);
    s.config["linux"]["maskedPaths"] = json!([]);
    s.config["linux"]["readonlyPaths"] = json!([]);
    s.config["linux"]["namespaces"] = json!([{"type": "pid"}]);
    s.config["hostname"] = json!(null);
    assert_eq!(s.run(&id("nopivot")).ok(), "bin dev proc sys\n1");
    // The host's by its path is no other, for the program and for others that join it.
    s.namespace("mount", Some("/proc/self/ns/mnt".into()));
    s.namespace("uts", Some("/proc/self/ns/uts".into()));
    assert_eq!(s.run(&id("nopivot")).ok(), "bin dev proc sys\n1");
    s.args(&["sleep", "30"]);
    s.act("create", &id("nopivot"), &[]).ok();
    assert_eq!(s.act("exec", &id("nopivot"), &["probe", "list", "/"]).ok(), "bin dev proc sys");
    s.act("delete", &id("nopivot"), &["force"]).ok();
    s.config["hostname"] = json!("other");
    assert!(s.run(&id("nopivot")).fails().contains("not the host's"));
    s.config["hostname"] = json!(null);
    s.mount(json!({"destination": "/proc", "type": "proc"}));
    assert!(s.run(&id("nopivot")).fails().contains("mount namespace"));
    s.nothing_left(&[&id("nopivot")]);
}

fn a_network_interface_moves() {
    const NAME: &str = "a_network_interface_moves";
    if !capable(12) || !Path::new("/sbin/ip").exists() {
        return crate::skip(NAME, "it needs CAP_NET_ADMIN and ip(8)");
    }
    let name = format!("sd{}", std::process::id() % 100_000);
    let ip =
        |args: &str| std::process::Command::new("/sbin/ip").args(args.split(' ')).output().unwrap().status.success();
    if !ip(&format!("link add {name} type veth peer name {name}p")) {
        return crate::skip(NAME, "the kernel has no veth interfaces");
    }
    assert!(ip(&format!("addr add 10.77.0.1/24 dev {name}")));
    let mut s =
        Scene::new(&["list", "/sys/class/net", "read", "/sys/class/net/inside/flags", "read", "/proc/net/fib_trie"]);
    s.config["linux"]["netDevices"] = json!({&name: {"name": "inside"}});
    let done = s.run(&id("netdev"));
    let _ = ip(&format!("link del {name}"));
    let out = done.ok();
    assert_eq!(out.lines().next(), Some("inside lo"), "{out}");
    assert!(out.contains("10.77.0.1"), "{out}");
    assert!(s.run(&id("netdev")).fails().contains(&name));
    s.nothing_left(&[&id("netdev")]);
}

fn killed_anywhere_nothing_is_left() {
    let mut s = Scene::new(&["sleep", "20"]);
    s.config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
    let id = &id("inject");
    for stage in strata_container::INJECT_STAGES {
        s.env = vec![("STRATA_INJECT_KILL", (*stage).to_owned())];
        let mut reached = false;
        for (verb, args) in
            [("create", [].as_slice()), ("start", &[]), ("exec", &["probe", "exit", "0"]), ("delete", &["force"])]
        {
            let done = s.act(verb, id, args);
            if done.code != 0 {
                reached = true;
                break;
            }
        }
        s.env.clear();
        assert!(reached, "the stage {stage} is never reached");
        // The killed one's child notices, or is killed by gc.
        for _ in 0..200 {
            s.act("gc", "", &[]).ok();
            if s.act("state", id, &[]).code != 0 {
                break;
            }
            // What is complete is not garbage: its owner deletes it.
            if s.status(id) != "creating" {
                s.act("delete", id, &["force"]).ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        s.act("gc", "", &[]).ok();
        s.nothing_left(&[id]);
        // The same in the foreground: gc alone must do.
        s.args(&["exit", "0"]);
        s.env = vec![("STRATA_INJECT_KILL", (*stage).to_owned())];
        let killed = s.run(id).code == 1009;
        s.env.clear();
        s.args(&["sleep", "20"]);
        for _ in 0..200 {
            s.act("gc", "", &[]).ok();
            if s.act("state", id, &[]).code != 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = killed;
        s.nothing_left(&[id]);
    }
}

impl Scene {
    fn wait_exists(&self, id: &str) {
        for _ in 0..500 {
            if self.act("state", id, &[]).code == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{id} never came to be");
    }

    fn read_soon(&self, name: &str) -> String {
        for _ in 0..500 {
            if let Ok(text) = std::fs::read_to_string(self.dir.join(name)) {
                return text;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} was never written");
    }
}
