//! The `strata` command: parsing and printing. What it does is done by the crates below it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this crate is for")]

mod cli;
mod context;
mod failure;
mod heap;
mod log;
mod output;
mod progress;
mod verbs;

use std::process::ExitCode;

use cli::Cli;
use context::Context;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();

/// Verbs that enter containers.
const ENTERING: [&str; 3] = ["create", "exec", "run"];

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    // Before parsing, since it executes the command again. A word that only looks like a verb costs no more than that.
    let entering = words.iter().any(|word| ENTERING.iter().any(|verb| word == *verb));
    if entering && let Err(error) = strata_container::protect_self() {
        eprintln!("strata: cannot put this program out of reach of containers: {error}");
        return ExitCode::from(failure::OCI_FAILED);
    }
    let cli = match Cli::read(&words) {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own rendering: help and version go to standard output and are no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let context = Context::new(cli.global);
    context.log.debug(|| format!("{:?}", cli.verb));
    match cli.verb.execute(&context) {
        Ok(code) => code,
        Err(failure) => {
            let failure = context.with_hint(failure);
            context.log.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}
