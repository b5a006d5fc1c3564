//! The command line, defined once: parsing, help, manual pages and completions all come from these types.
//!
//! Two vocabularies share one program. The OCI verbs (`create`, `start`, `state`, `kill`, `delete`, …) take the flags
//! that Docker, Podman and containerd pass to runc. The verbs for people (`run IMAGE`, `ps`, `rm`, `inspect`, …) act on
//! the same containers.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::verbs;

/// Run any Linux workload behind the isolation boundary you choose, and see what each boundary costs.
#[derive(Debug, Parser)]
#[command(name = "strata", version = version(), propagate_version = false, max_term_width = 110)]
#[command(after_help = "`strata VERB --help` explains a verb. Start with `strata doctor` and `strata compare`.")]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `--version` prints: the form that callers of OCI runtimes look for.
fn version() -> &'static str {
    concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0")
}

/// Options that every verb takes, before or after it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Directory of the containers' state [default: /run/strata, or below XDG_RUNTIME_DIR without root]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory of images and instances [default: /var/lib/strata, or below XDG_DATA_HOME without root]
    #[arg(long, global = true, value_name = "DIR", env = "STRATA_STORE", hide_env = true)]
    pub store: Option<PathBuf>,
    /// Append messages to this file as well
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Form of the messages in the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Log what is being done, not only what went wrong
    #[arg(long, global = true)]
    pub debug: bool,
    /// Put containers into systemd scopes; cgroupsPath is then SLICE:PREFIX:NAME
    #[arg(long, global = true)]
    pub systemd_cgroup: bool,
    /// Whether the caller is an unprivileged user; found out by itself, but for `spec --rootless`
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        hide = true
    )]
    pub rootless: String,
    /// Accepted for callers that pass it
    #[arg(long, global = true, value_name = "PATH", hide = true)]
    pub criu: Option<String>,
}

/// Form of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `time="…" level=error msg="…"`
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// Every verb; each has a file in `verbs/`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a command in a new instance of an image, a directory or an OCI bundle
    Run(Box<verbs::run::Run>),
    /// List instances, or the processes of one
    Ps(verbs::ps::Ps),
    /// Run a further command in an instance
    Exec(Box<verbs::exec::Exec>),
    /// Send a signal to an instance
    Kill(verbs::kill::Kill),
    /// Remove instances and what they hold on disk
    Rm(verbs::rm::Rm),
    /// Show everything known of instances or images, as JSON
    Inspect(verbs::inspect::Inspect),
    /// Show what instances use: CPU, memory, processes, block I/O
    Stats(verbs::stats::Stats),
    /// Freeze an instance's processes
    Pause(verbs::pause::Pause),
    /// Let a frozen instance go on
    Resume(verbs::pause::Resume),
    /// Change limits of a running instance
    Update(Box<verbs::update::Update>),
    /// Import, export, build and list images
    #[command(subcommand)]
    Image(verbs::image::Image),
    /// Measure the same workload behind every boundary of this host
    Compare(Box<verbs::compare::Compare>),
    /// Say which boundaries this host offers, and why not the others
    Doctor(verbs::doctor::Doctor),
    /// Remove what killed processes left behind
    Gc(verbs::gc::Gc),
    /// Create a container from an OCI bundle; `start` then runs its program
    Create(verbs::create::Create),
    /// Start a created container's program
    Start(verbs::start::Start),
    /// Print a container's OCI state
    State(verbs::state::State),
    /// Delete a container; it must have stopped
    Delete(verbs::delete::Delete),
    /// List containers
    List(verbs::list::List),
    /// Print a container's statistics and out-of-memory events as they come
    Events(verbs::events::Events),
    /// Print what this runtime supports, as the OCI features document
    Features(verbs::features::Features),
    /// Write a sample config.json into a bundle
    Spec(verbs::spec::Spec),
    /// Print a shell's completion script
    Completions(verbs::manual::Completions),
    /// Write the manual pages
    Manual(verbs::manual::Manual),
    /// The process behind an instance in the background
    #[command(hide = true)]
    Supervise(verbs::supervise::Supervise),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_for_people_has_an_example_in_the_readme() {
        let readme = include_str!("../../../README.md");
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            assert!(
                readme.contains(&format!("strata {}", verb.get_name())),
                "no example of `strata {}`",
                verb.get_name()
            );
        }
    }

    #[test]
    fn global_options_are_taken_before_and_after_the_verb() {
        for line in ["strata --root /r --log-format json state c", "strata state c --root /r --log-format json"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.root, Some("/r".into()));
            assert_eq!(cli.global.log_format, LogFormat::Json);
        }
    }

    #[test]
    fn options_of_runc_are_taken_before_and_after_the_id() {
        for line in [
            "strata delete --force c",
            "strata delete c --force",
            "strata create c --bundle /b --pid-file /p",
            "strata create --bundle /b --pid-file /p c",
            "strata kill c 9",
            "strata kill --all c KILL",
            "strata exec -d --process /p --pid-file /f --console-socket /s c",
            "strata exec c ls -la --color",
            "strata ps c -o pid,args",
            "strata ps --format json c",
            "strata events --stats c",
            "strata events --interval 1s c",
            "strata update -r - c",
            "strata update --memory -1 c",
            "strata update --cpu-quota -1 c",
            "strata run --bundle /b --detach --keep --no-pivot c",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
