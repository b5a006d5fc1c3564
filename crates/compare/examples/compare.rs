//! Compares what this host offers, from the command line: for trying the library without the command.
//!
//! `compare STRATA ROOTFS PROGRAM OUTPUT-DIRECTORY [peers] [-- COMMAND…]`
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use strata_compare::{Plan, Preset, Setup, Workload, compare};

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let command = args.iter().position(|a| a == "--").map(|at| args.split_off(at).split_off(1));
    let [strata, rootfs, program, output, rest @ ..] = &args[..] else {
        eprintln!("usage: compare STRATA ROOTFS PROGRAM OUTPUT-DIRECTORY [peers] [-- COMMAND…]");
        std::process::exit(2);
    };
    let setup = Setup {
        strata: PathBuf::from(strata),
        isolations: vec!["container".into()],
        peers: rest.iter().any(|a| a == "peers"),
        peers_dir: Setup::default_peers_dir(),
    };
    let rootfs = PathBuf::from(rootfs);
    let workload = match command {
        Some(argv) => Workload::Command { rootfs, argv, env: vec![], cwd: "/".into() },
        None => Workload::Suite { rootfs, program: program.clone() },
    };
    let plan = Plan::new(workload, Preset::Quick, "today");
    let cancel = AtomicBool::new(false);
    let report = compare(
        &plan,
        &mut setup.boundaries(),
        &mut |p| eprintln!("{}/{} {} {} {}", p.done, p.total, p.round, p.boundary, p.measure),
        &cancel,
    );
    match report {
        Ok(report) => {
            let output = PathBuf::from(output);
            let write = |name: &str, text: String| std::fs::write(output.join(name), text).expect("write");
            write("compare.json", report.to_json());
            write("compare.html", report.to_html());
            let width = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(100);
            print!("{}", report.to_table(width, std::io::stdout().is_terminal()));
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
