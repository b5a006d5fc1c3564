//! Containers, really made. This one static program plays all parts: the tests, the command that they drive
//! (`runtime …`, single-threaded as the library wants it), and the program inside (`probe …`), in a root file system
//! that holds nothing else.

// A harness of its own, so that Clippy does not know it for a test.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

mod bundle;
mod command;
mod probe;
mod scenes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let part = args.first().map_or("", |a| a.rsplit('/').next().unwrap_or(a));
    if part == "probe" || args.get(1).is_some_and(|a| a == "probe") {
        let first = args.iter().position(|a| a.ends_with("probe")).map_or(1, |i| i + 1);
        return probe::main(&args[first..]);
    }
    if args.get(1).is_some_and(|a| a == "runtime") {
        return command::main(&args[2..]);
    }
    if !rustix::process::geteuid().is_root() {
        skip("containers", "it needs root");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mut failed = Vec::new();
    for (name, scene) in scenes::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        let started = std::time::Instant::now();
        let result = std::panic::catch_unwind(scene);
        println!(
            "test {name} ... {} ({} ms)",
            if result.is_ok() { "ok" } else { "FAILED" },
            started.elapsed().as_millis()
        );
        if result.is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}");
    ExitCode::FAILURE
}

/// Says that a test cannot run here.
pub fn skip(name: &str, reason: &str) {
    eprintln!("test {name} skipped: {reason}");
    if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut f| writeln!(f, "TEST {name}: {reason}")).expect("record the skip");
    }
}
