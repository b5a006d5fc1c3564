//! Many short containers, several at a time: none hangs, none fails, none leaves anything.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use common::{Runtime, run, spawn};
use serde_json::json;

/// Calls `one` with every number below `count`, from four threads at once.
fn four_at_a_time(count: u32, one: impl Fn(u32) + Sync) {
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= count {
                        break;
                    }
                    one(turn);
                }
            });
        }
    });
}

/// As many bundles as there are threads and one more; a cgroup belongs to one container at a time.
fn bundle(rt: &Runtime, arguments: &[&str]) -> common::Bundle {
    let mut bundle = rt.bundle();
    // Each run gets a cgroup named after its id: the configuration leaves the name to the runtime.
    bundle.unset("linux", "cgroupsPath");
    bundle.set("linux.resources.pids", json!({ "limit": 10 }));
    bundle.args(arguments).save();
    bundle
}

#[test]
fn two_hundred_runs_in_parallel_all_end_well() {
    require!("stress::two_hundred_runs_in_parallel_all_end_well");
    let rt = Runtime::new();
    let bundle = bundle(&rt, &["true"]);
    four_at_a_time(200, |_| {
        let out = rt.run(["run", "--bundle", bundle.path(), &rt.id()]);
        assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (0, "", ""), "{out:#?}");
    });
    rt.nothing_left();
}

#[test]
fn a_program_that_ends_at_once_is_never_waited_for_in_vain() {
    require!("stress::a_program_that_ends_at_once_is_never_waited_for_in_vain");
    let rt = Runtime::new();
    let code = bundle(&rt, &["sh", "-c", "exit 7"]);
    let gone = bundle(&rt, &["false"]);
    // Load beside it: the interesting orders of events need a busy machine.
    let mut load: Vec<_> = (0..2)
        .map(|_| {
            spawn(
                std::process::Command::new("sh").args(["-c", "while :; do :; done"]).stdin(std::process::Stdio::null()),
            )
        })
        .collect();
    four_at_a_time(300, |turn| {
        let id = rt.id();
        match turn % 3 {
            // In the foreground the code comes through.
            0 => {
                rt.run(["run", "--bundle", code.path(), &id]).code_is(7);
            }
            // In the background the program may be over before the command is.
            1 => {
                rt.run(["run", "--detach", "--bundle", gone.path(), &id]).ok();
                rt.wait_status(&id, "stopped");
                rt.run(["delete", &id]).ok();
            }
            // create and start, as engines do; the exec may come too late, but it must come to an end.
            _ => {
                rt.run(["create", "--bundle", gone.path(), &id]).ok();
                rt.run(["start", &id]).ok();
                run(&mut rt.command(["exec", &id, "true"]));
                rt.run(["delete", "--force", &id]).ok();
            }
        }
    });
    for mut process in load.drain(..) {
        assert!(!process.is_over());
    }
    rt.nothing_left();
}

#[test]
fn execs_in_parallel_all_end_well() {
    require!("stress::execs_in_parallel_all_end_well");
    let rt = Runtime::new();
    let id = rt.detached(&rt.bundle());
    four_at_a_time(100, |turn| {
        let text = format!("turn {turn}");
        rt.exec(&id, &["echo", &text]).ok().out_is(&text);
    });
    assert_eq!(rt.run(["ps", "--format", "json", &id]).ok().json().as_array().map(Vec::len), Some(1));
    rt.remove(&id);
    rt.nothing_left();
}

#[test]
fn a_program_that_cannot_be_executed_is_always_named() {
    require!("stress::a_program_that_cannot_be_executed_is_always_named");
    let rt = Runtime::new();
    let bundle = bundle(&rt, &["no-such-program"]);
    four_at_a_time(100, |_| {
        let out = rt.run(["run", "--bundle", bundle.path(), &rt.id()]);
        out.code_is(1).err_has("executable file not found in $PATH");
    });
    rt.nothing_left();
}
