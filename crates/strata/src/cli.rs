//! The command line, defined once: parsing, help, manual pages and completions all come from these types.
//!
//! Two vocabularies share one program. The OCI verbs (`create`, `start`, `state`, `kill`, `delete`, …) take the flags
//! that Docker, Podman and containerd pass to runc. The verbs for people (`run IMAGE`, `ps`, `rm`, `inspect`, …) act on
//! the same containers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::context::Context;
use crate::failure::Failure;
use crate::verbs;

/// Run any Linux workload behind the isolation boundary you choose, and see what each boundary costs.
#[derive(Debug, Parser)]
#[command(name = "strata", version = version(), disable_version_flag = true, max_term_width = 110)]
#[command(after_help = "`strata VERB --help` explains a verb. Start with `strata doctor` and `strata compare`.")]
pub struct Cli {
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
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
    /// Put containers into systemd scopes; cgroupsPath is then SLICE:PREFIX:NAME [default for `run IMAGE`: where systemd
    /// owns the cgroups]
    #[arg(long, global = true, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub systemd_cgroup: Option<bool>,
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

/// Declares the verbs. What clap's derive would make of an enum, but for one thing: the options of a verb are described
/// only when that verb is used. Describing all of them costs a millisecond, which is a fifth of starting a container.
macro_rules! verbs {
    ($($(#[doc = $about:literal])+ $(#[$hide:ident])? $name:literal $variant:ident($type:ty),)+) => {
        /// Every verb; each has a file in `verbs/`.
        #[derive(Debug)]
        pub enum Verb {
            $($(#[doc = $about])+ $variant(Box<$type>),)+
        }

        impl Verb {
            /// Does it.
            pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
                match self {
                    $(Verb::$variant(verb) => verb.execute(context),)+
                }
            }
        }

        impl FromArgMatches for Verb {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Verb, clap::Error> {
                match matches.subcommand() {
                    $(Some(($name, matches)) => Ok(Verb::$variant(Box::new(FromArgMatches::from_arg_matches(matches)?))),)+
                    _ => Err(clap::Error::new(ErrorKind::MissingSubcommand)),
                }
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Verb::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Subcommand for Verb {
            fn augment_subcommands(command: Command) -> Command {
                command
                    .subcommand_required(true)
                    .arg_required_else_help(true)
                    $(.subcommand(
                        Command::new($name)
                            .about(concat!($($about),+).trim_start())
                            .hide(verbs!(@hidden $($hide)?))
                            .defer(<$type as Describe>::describe),
                    ))+
            }

            fn augment_subcommands_for_update(command: Command) -> Command {
                Verb::augment_subcommands(command)
            }

            fn has_subcommand(name: &str) -> bool {
                [$($name),+].contains(&name)
            }
        }
    };
    (@hidden) => { false };
    (@hidden hidden) => { true };
}

/// Adds a verb's options, or its own verbs, to its command.
trait Describe {
    fn describe(command: Command) -> Command;
}

impl<T: Args> Describe for T {
    fn describe(command: Command) -> Command {
        // The options' own documentation does not speak to users.
        let about = command.get_about().cloned().unwrap_or_default();
        T::augment_args(command).about(about).long_about(None)
    }
}

verbs! {
    /// Run a command in a new instance of an image, a directory or an OCI bundle
    "run" Run(verbs::run::Run),
    /// List instances, or the processes of one
    "ps" Ps(verbs::ps::Ps),
    /// Run a further command in an instance
    "exec" Exec(verbs::exec::Exec),
    /// Send a signal to an instance
    "kill" Kill(verbs::kill::Kill),
    /// Remove instances and what they hold on disk
    "rm" Rm(verbs::rm::Rm),
    /// Show everything known of instances or images, as JSON
    "inspect" Inspect(verbs::inspect::Inspect),
    /// Show what instances use: CPU, memory, processes, block I/O
    "stats" Stats(verbs::stats::Stats),
    /// Freeze an instance's processes
    "pause" Pause(verbs::pause::Pause),
    /// Let a frozen instance go on
    "resume" Resume(verbs::pause::Resume),
    /// Change limits of a running instance
    "update" Update(verbs::update::Update),
    /// Import, export, build and list images
    "image" Image(verbs::image::Image),
    /// Measure the same workload behind every boundary of this host
    "compare" Compare(verbs::compare::Compare),
    /// Say which boundaries this host offers, and why not the others
    "doctor" Doctor(verbs::doctor::Doctor),
    /// Remove what killed processes left behind
    "gc" Gc(verbs::gc::Gc),
    /// Create a container from an OCI bundle; `start` then runs its program
    "create" Create(verbs::create::Create),
    /// Start a created container's program
    "start" Start(verbs::start::Start),
    /// Print a container's OCI state
    "state" State(verbs::state::State),
    /// Delete a container; it must have stopped
    "delete" Delete(verbs::delete::Delete),
    /// List containers
    "list" List(verbs::list::List),
    /// Print a container's statistics and out-of-memory events as they come
    "events" Events(verbs::events::Events),
    /// Print what this runtime supports, as the OCI features document
    "features" Features(verbs::features::Features),
    /// Write a sample config.json into a bundle
    "spec" Spec(verbs::spec::Spec),
    /// Print a shell's completion script
    "completions" Completions(verbs::manual::Completions),
    /// Write the manual pages
    "manual" Manual(verbs::manual::Manual),
    /// The process behind an instance in the background
    #[hidden]
    "supervise" Supervise(verbs::supervise::Supervise),
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
