//! Real runs: the bare host, a stand-in for the command, and every peer that is installed.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use strata_compare::{Boundary, Error, Measure, Plan, Preset, Report, Setup, Status, Workload, compare};

/// Says by name and reason that a test cannot run here.
fn skip(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.unwrap(), "{test}: {reason}").unwrap();
    }
}

/// A root file system of a static busybox and a stand-in for the multi-call program.
struct Fixture {
    /// One test at a time: each looks for what it left on the whole host.
    _alone: MutexGuard<'static, ()>,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new(test: &str) -> Option<Fixture> {
        if !rustix::process::geteuid().is_root() {
            skip(test, "needs root for containers and chroot");
            return None;
        }
        // The bare host starts the stand-in by the same path to its interpreter.
        let Ok(busybox) = fs::read("/bin/busybox") else {
            skip(test, "needs the package busybox-static");
            return None;
        };
        let directory = tempfile::Builder::new().prefix("compare-test-").tempdir().unwrap();
        let root = directory.path().join("root");
        for name in ["bin", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let executable = |path: &Path, content: &[u8]| {
            fs::write(path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        executable(&root.join("bin/busybox"), &busybox);
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sleep")).unwrap();
        executable(
            &root.join("bin/toolbox"),
            b"#!/bin/busybox sh\n\
              case $1 in\n\
              true) exit 0;;\n\
              sleep) exec /bin/busybox sleep $2;;\n\
              bench) echo noise; echo \"{\\\"name\\\":\\\"$2\\\",\\\"value\\\":$((200 + $$ % 7)),\\\"unit\\\":\\\"ns\\\",\\\"better\\\":\\\"lower\\\"}\";;\n\
              *) exit 9;;\n\
              esac\n",
        );
        executable(
            &directory.path().join("strata"),
            b"#!/bin/sh\n\
              [ \"$1\" = --version ] && { echo 'strata 7.8.9'; exit; }\n\
              [ \"$1\" = rm ] && exit\n\
              while [ \"$1\" != -- ]; do [ \"$1\" = --rootfs ] && root=$2; shift; done; shift\n\
              exec chroot \"$root\" \"$@\"\n",
        );
        static ALONE: Mutex<()> = Mutex::new(());
        Some(Fixture { _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner), directory })
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn boundaries(&self, wanted: &[&str]) -> Vec<Box<dyn Boundary>> {
        let setup = Setup {
            strata: self.directory.path().join("strata"),
            isolations: vec!["container".into()],
            peers: true,
            peers_dir: Setup::default_peers_dir(),
        };
        setup.boundaries().into_iter().filter(|b| wanted.contains(&b.id())).collect()
    }

    fn suite(&self, measures: &[&str]) -> Plan {
        let workload = Workload::Suite { rootfs: self.root(), program: "/bin/toolbox".into() };
        let mut plan = Plan::new(workload, Preset::Quick, "test");
        plan.measures = measures.iter().map(|name| Measure::named(name).unwrap()).collect();
        plan.bench_args.clear();
        plan.rounds = 1;
        plan.scratch = Some(self.directory.path().into());
        plan
    }

    fn command(&self, script: &str) -> Plan {
        let workload = Workload::Command {
            rootfs: self.root(),
            argv: ["sh", "-c", script].map(String::from).into(),
            env: vec!["WORD=given".into()],
            cwd: "/tmp".into(),
        };
        let mut plan = Plan::new(workload, Preset::Quick, "test");
        plan.rounds = 1;
        plan.scratch = Some(self.directory.path().into());
        plan
    }

    /// Nothing of this process's runs is left: no scratch directory, no cgroup, no process.
    fn nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.directory.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 2, "only the fixture's own entries: {left:?}");
        let name = format!("compare-{}-", std::process::id());
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            for group in fs::read_dir(hierarchy.path()).into_iter().flatten().flatten() {
                assert!(!group.file_name().to_string_lossy().starts_with(&name), "{:?}", group.path());
            }
        }
        let root = self.root();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            assert!(!line.contains(&name) && !line.contains(&*root.to_string_lossy()), "still runs: {line}");
        }
    }
}

fn go(plan: &Plan, boundaries: &mut [Box<dyn Boundary>]) -> Report {
    compare(plan, boundaries, &mut |_| {}, &AtomicBool::new(false)).unwrap()
}

/// Reports peers that are not there as skipped, and fails for those that are there and do not work.
fn all_ran(test: &str, report: &Report) {
    for boundary in &report.boundaries {
        match &boundary.status {
            Status::Ran => {}
            Status::Unavailable { reason } => skip(test, &format!("{}: {reason}", boundary.title)),
            Status::Failed { reason } => panic!("{}: {reason}", boundary.title),
        }
    }
    for measure in &report.measures {
        for boundary in report.ran() {
            assert!(measure.figures(&boundary.id).is_some(), "{} {}: {:?}", measure.name, boundary.id, measure.results);
        }
    }
}

#[test]
fn containers_beside_the_bare_host() {
    let test = "containers_beside_the_bare_host";
    let Some(fixture) = Fixture::new(test) else { return };
    let mut boundaries = fixture.boundaries(&["bare", "container", "runc", "crun"]);
    let report = go(&fixture.suite(&["start", "resident", "syscall"]), &mut boundaries);
    all_ran(test, &report);
    let start = &report.measures[0];
    assert!(start.figures("container").unwrap().ratio.unwrap() > 1.0, "a further program is started");
    let resident = report.measures[1].figures("bare").unwrap().median;
    assert!(resident > 16.0 * 1024.0 && resident < 32.0 * 1024.0 * 1024.0, "{resident}");
    assert!((200.0..=206.0).contains(&report.measures[2].figures("bare").unwrap().median));
    assert_eq!(report.boundaries[1].version.as_deref(), Some("strata 7.8.9"));
    fixture.nothing_left();
}

#[test]
fn a_kernel_in_user_space_and_a_machine() {
    let test = "a_kernel_in_user_space_and_a_machine";
    let Some(fixture) = Fixture::new(test) else { return };
    let mut boundaries = fixture.boundaries(&["bare", "runsc-systrap", "uml", "qemu-tcg"]);
    let report = go(&fixture.suite(&["start", "resident", "syscall", "pipe"]), &mut boundaries);
    all_ran(test, &report);
    for machine in report.ran().filter(|b| b.machine) {
        let start = report.measures[0].figures(&machine.id).unwrap().median;
        assert!(start > 2e8, "{} boots a kernel: {start} ns", machine.id);
    }
    fixture.nothing_left();
}

#[test]
fn a_command_of_the_users_own() {
    let test = "a_command_of_the_users_own";
    let Some(fixture) = Fixture::new(test) else { return };
    // Environment and working directory arrive, or the status is another one.
    let script = "[ \"$WORD\" = given ] && [ \"$PWD\" = /tmp ] && [ -e /proc/self ] && exit 3; exit 4";
    let mut boundaries = fixture.boundaries(&["bare", "runc", "crun", "uml"]);
    let report = go(&fixture.command(script), &mut boundaries);
    all_ran(test, &report);
    assert_eq!(report.measures.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["wall", "cpu", "peak"]);
    assert!(report.notes.iter().any(|n| n.contains("exit status was 3 everywhere")), "{:?}", report.notes);
    fixture.nothing_left();
}

#[test]
fn cancelling_in_the_middle_leaves_nothing() {
    let test = "cancelling_in_the_middle_leaves_nothing";
    let Some(fixture) = Fixture::new(test) else { return };
    for id in ["bare", "container", "runc", "crun", "runsc-systrap", "uml", "qemu-tcg"] {
        let mut boundaries = fixture.boundaries(&[id]);
        if let Err(reason) = boundaries[0].available() {
            skip(test, &format!("{id}: {reason}"));
            continue;
        }
        let cancel = AtomicBool::new(false);
        let begun = Instant::now();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(400));
                cancel.store(true, Ordering::Relaxed);
            });
            compare(&fixture.command("sleep 600"), &mut boundaries, &mut |_| {}, &cancel)
        });
        assert!(matches!(result, Err(Error::Cancelled)), "{id}: {result:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{id}");
        drop(boundaries);
        fixture.nothing_left();
    }
}

#[test]
fn a_boundary_that_hangs_is_ended_and_the_others_go_on() {
    let test = "a_boundary_that_hangs_is_ended_and_the_others_go_on";
    let Some(fixture) = Fixture::new(test) else { return };
    fs::write(
        fixture.directory.path().join("strata"),
        "#!/bin/sh\n[ \"$1\" = --version ] && exit\n[ \"$1\" = rm ] && exit\nsleep 600\n",
    )
    .unwrap();
    let mut plan = fixture.suite(&["syscall"]);
    plan.timeout = Duration::from_secs(1);
    let report = go(&plan, &mut fixture.boundaries(&["bare", "container"]));
    assert_eq!(report.boundaries[0].status, Status::Ran);
    assert_eq!(report.boundaries[1].status, Status::Failed { reason: "did not end within 1 s".into() });
    assert!(report.measures[0].figures("bare").is_some());
    fixture.nothing_left();
}
