//! The `strata` command: parsing and printing. What it does is done by the crates below it.

mod cli;
mod context;
mod failure;
mod log;
mod output;
mod progress;
mod signals;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Verb};
use context::Context;
use failure::Failure;

fn main() -> ExitCode {
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
    match execute(&context, cli.verb) {
        Ok(code) => code,
        Err(failure) => {
            context.log.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}

fn execute(context: &Context, verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Run(verb) => verb.execute(context),
        Verb::Ps(verb) => verb.execute(context),
        Verb::Exec(verb) => verb.execute(context),
        Verb::Kill(verb) => verb.execute(context),
        Verb::Rm(verb) => verb.execute(context),
        Verb::Inspect(verb) => verb.execute(context),
        Verb::Stats(verb) => verb.execute(context),
        Verb::Pause(verb) => verb.execute(context),
        Verb::Resume(verb) => verb.execute(context),
        Verb::Update(verb) => verb.execute(context),
        Verb::Image(verb) => verb.execute(context),
        Verb::Compare(verb) => verb.execute(context),
        Verb::Doctor(verb) => verb.execute(context),
        Verb::Gc(verb) => verb.execute(context),
        Verb::Create(verb) => verb.execute(context),
        Verb::Start(verb) => verb.execute(context),
        Verb::State(verb) => verb.execute(context),
        Verb::Delete(verb) => verb.execute(context),
        Verb::List(verb) => verb.execute(context),
        Verb::Events(verb) => verb.execute(context),
        Verb::Features(verb) => verb.execute(context),
        Verb::Spec(verb) => verb.execute(context),
        Verb::Completions(verb) => verb.execute(context),
        Verb::Manual(verb) => verb.execute(context),
        Verb::Supervise(verb) => verb.execute(context),
    }
}
