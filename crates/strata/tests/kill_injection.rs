//! Whatever moment a Strata process is killed at, `strata gc` (and `delete` for a container that was complete by then)
//! removes all that it had made: processes, cgroups, mounts, state.
//!
//! Debug builds kill themselves at the stage named by `STRATA_INJECT_KILL`; the list of stages is the container
//! crate's. A second test kills at random times, which needs no co-operation.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use common::{Bundle, Out, Runtime, is_strata, run, skip, spawn};
use rustix::process::Signal;
use serde_json::json;
use strata_container::INJECT_STAGES;

/// What a process killed by SIGKILL is reported as.
const KILLED: i32 = 128 + 9;

/// A bundle that passes through every stage: it has a hook of the runtime's and a mount that needs a source.
fn bundle(rt: &Runtime) -> Bundle {
    let mut bundle = rt.bundle();
    bundle.push("hooks.createRuntime", json!({ "path": "/bin/true" }));
    let source = rt.scratch.dir("source");
    bundle.mount("/source", "bind", source.to_str().expect("UTF-8"), &["rbind", "ro"]);
    bundle.save();
    bundle
}

/// Paths below the state directory whose names mention the container.
fn state_of(directory: &Path, id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(id) {
            found.push(entry.path());
        } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(state_of(&entry.path(), id));
        }
    }
    found
}

/// Sweeps up and asserts that everything is gone. A container that was complete is not garbage: it is deleted.
#[track_caller]
fn assert_clean(rt: &Runtime, id: &str, stage: &str) {
    let store = rt.scratch.join("store");
    let gc = || run(rt.command(["gc", "--store"]).arg(&store)).ok().stdout.clone();
    gc();
    for complete in rt.run(["list", "--quiet"]).ok().stdout.lines() {
        rt.run(["delete", "--force", complete]).ok();
    }
    gc();
    rt.run(["state", id]).fails();
    assert_eq!(state_of(rt.root(), id), Vec::<PathBuf>::new(), "state after {stage}");
    rt.nothing_left();
}

fn killed_at(rt: &Runtime, stage: &str, arguments: &[&str]) -> Out {
    run(rt.command(arguments).env("STRATA_INJECT_KILL", stage))
}

#[test]
fn a_kill_at_any_stage_leaves_nothing_that_gc_cannot_remove() {
    let name = "kill_injection::a_kill_at_any_stage_leaves_nothing_that_gc_cannot_remove";
    require!(name);
    if !is_strata() {
        return skip(name, "only Strata kills itself on demand");
    }
    if !cfg!(debug_assertions) {
        return skip(name, "a release build has no injection");
    }
    let rt = Runtime::new();
    let bundle = bundle(&rt);
    let mut reached = BTreeSet::new();
    for &stage in INJECT_STAGES {
        let mut note = |out: &Out| {
            // A parent is seen to be killed; the death of a child makes its parent fail, and must not make it hang.
            if out.code == KILLED || (stage.contains("child") && out.code != 0) {
                reached.insert(stage);
            }
        };
        for verb in [&["run", "--detach"][..], &["create"]] {
            let id = rt.id();
            let out = killed_at(&rt, stage, &[verb, &["--bundle", bundle.path(), &id]].concat());
            note(&out);
            if out.code != 0 && out.code != KILLED {
                // The parent lived: it has cleaned up by itself.
                rt.nothing_left();
            }
            let complete = INJECT_STAGES.iter().position(|s| *s == "parent-committed").expect("a stage");
            if out.code == KILLED && INJECT_STAGES.iter().position(|s| *s == stage).is_some_and(|at| at < complete) {
                // Half made: garbage, with nothing for `delete` to do.
                run(rt.command(["gc", "--store"]).arg(rt.scratch.join("store"))).ok();
                rt.nothing_left();
            }
            if verb == ["create"] && rt.run(["state", &id]).code == 0 {
                // A child that dies while it waits for `start` is seen only in the container's state.
                sleep(Duration::from_millis(if stage == "child-waiting" { 300 } else { 0 }));
                match rt.status(&id).as_str() {
                    "created" => note(&killed_at(&rt, stage, &["start", &id])),
                    "stopped" if out.code == 0 => note(&Out { code: KILLED, ..out }),
                    _ => {}
                }
            }
            assert_clean(&rt, &id, stage);
        }
        // A foreground run whose program ends at once: the stages of deletion come into it as well.
        let id = rt.id();
        let mut short = common::Bundle::create(&rt.scratch.join(format!("short-{stage}")), bundle.cgroup());
        short.args(&["true"]).save();
        note(&killed_at(&rt, stage, &["run", "--bundle", short.path(), &id]));
        assert_clean(&rt, &id, stage);

        // exec and delete on a healthy container, which must survive the loss of an exec.
        let id = rt.id();
        rt.run(["run", "--detach", "--bundle", bundle.path(), &id]).ok();
        note(&killed_at(&rt, stage, &["exec", &id, "true"]));
        assert_eq!(rt.status(&id), "running", "after {stage} in exec");
        rt.exec(&id, &["true"]).ok();
        note(&killed_at(&rt, stage, &["delete", "--force", &id]));
        assert_clean(&rt, &id, stage);
    }
    let missed: Vec<_> = INJECT_STAGES.iter().filter(|s| !reached.contains(*s)).collect();
    assert!(missed.is_empty(), "stages that nothing reached: {missed:?}");
}

#[test]
fn a_kill_at_a_random_time_leaves_nothing_that_gc_cannot_remove() {
    let name = "kill_injection::a_kill_at_a_random_time_leaves_nothing_that_gc_cannot_remove";
    require!(name);
    if !is_strata() {
        return skip(name, "only Strata has gc");
    }
    let rt = Runtime::new();
    let bundle = bundle(&rt);
    let mut killed = 0;
    for round in 0..40u32 {
        let id = rt.id();
        let verb = match round % 4 {
            0 => "create",
            1 => "exec",
            2 => "delete",
            _ => "run",
        };
        let arguments = match verb {
            "exec" | "delete" => {
                rt.run(["run", "--detach", "--bundle", bundle.path(), &id]).ok();
                if verb == "exec" { vec!["exec", &id, "sleep", "1"] } else { vec!["delete", "--force", &id] }
            }
            _ => vec![verb, "--bundle", bundle.path(), &id],
        };
        let running = spawn(&mut rt.command(arguments));
        // The clock's lowest digits are random enough.
        let noise = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos() / 100);
        let delay = Duration::from_micros(u64::from(noise % 15_000));
        sleep(delay);
        running.signal(Signal::KILL);
        killed += u32::from(running.finish().code == KILLED);
        assert_clean(&rt, &id, &format!("{verb} after {delay:?}"));
    }
    assert!(killed > 10, "only {killed} of 40 commands were still there to be killed");
}
