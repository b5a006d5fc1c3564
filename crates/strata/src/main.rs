//! The `strata` command: parsing and printing. What it does is done by the crates below it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this crate is for")]

mod cli;
mod context;
mod failure;
mod log;
mod memory;
mod output;
mod progress;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use context::Context;

/// musl's allocator maps and unmaps memory for every few allocations; on the path that starts a container that was a
/// fifth of all system calls.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Verbs that enter containers.
const ENTERING: [&str; 3] = ["create", "exec", "run"];

fn main() -> ExitCode {
    // Before parsing, since it executes the command again. A word that only looks like a verb costs no more than that.
    let entering = std::env::args_os().any(|argument| ENTERING.iter().any(|verb| argument == *verb));
    if entering && let Err(error) = strata_container::protect_self() {
        eprintln!("strata: cannot put this program out of reach of containers: {error}");
        return ExitCode::from(failure::OCI_FAILED);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own rendering: help and version go to standard output and are no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let context = Context::new(cli.global);
    context.log.debug(&format!("{:?}", cli.verb));
    if entering {
        memory::release_code();
    }
    match cli.verb.execute(&context) {
        Ok(code) => code,
        Err(failure) => {
            let failure = context.with_hint(failure);
            context.log.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}
