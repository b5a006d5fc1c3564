//! The command line, defined once: parsing, help, manual pages and completions all come from these types.
//!
//! Two vocabularies share one program. The OCI verbs (`create`, `start`, `state`, `kill`, `delete`, …) take the flags
//! that Docker, Podman and containerd pass to runc. The verbs for people (`run IMAGE`, `ps`, `rm`, `inspect`, …) act on
//! the same containers.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::context::Context;
use crate::failure::Failure;
use crate::verbs;
use crate::verbs::run::BundleRun;

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

impl Cli {
    /// Reads a command line, program name first.
    pub fn read(words: &[OsString]) -> Result<Cli, clap::Error> {
        match Cli::read_plain(words) {
            Some(cli) => Ok(cli),
            None => Cli::try_parse_from(words),
        }
    }

    /// Reads a command line that is as it should be: no help, nothing unknown. Only the verb that it names is described
    /// to clap, and of `run` the form for bundles. Describing and searching all takes as long as half of what is left to
    /// do for a container. A line that is not understood here is read again with everything described.
    fn read_plain(words: &[OsString]) -> Option<Cli> {
        let name = words.iter().skip(1).find_map(|word| word.to_str().filter(|word| Verb::has_subcommand(word)))?;
        let command = Command::new("strata").disable_help_flag(true).disable_help_subcommand(true);
        let verb = match name {
            "run" => BundleRun::describe(Command::new("run")),
            _ => Verb::describe(name)?,
        };
        let matches = Global::augment_args(command).subcommand(verb).try_get_matches_from(words).ok()?;
        let verb = match matches.subcommand()? {
            ("run", matches) => Verb::Run(Box::new(BundleRun::from_arg_matches(matches).ok()?.into_run()?)),
            _ => Verb::from_arg_matches(&matches).ok()?,
        };
        Some(Cli { version: None, global: Global::from_arg_matches(&matches).ok()?, verb })
    }
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

            /// The options of one verb.
            fn describe(name: &str) -> Option<Command> {
                match name {
                    $($name => Some(<$type as Describe>::describe(Command::new($name))),)+
                    _ => None,
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
    /// Fetch images from registries
    "pull" Pull(verbs::pull::Pull),
    /// Send an image to a registry
    "push" Push(verbs::push::Push),
    /// Keep the credentials for a registry
    "login" Login(verbs::login::Login),
    /// Forget the credentials for a registry
    "logout" Logout(verbs::login::Logout),
    /// Pull, push, import, export, build and list images
    "image" Image(verbs::image::Image),
    /// Make, list and remove networks of instances
    "network" Network(verbs::network::Network),
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
    fn a_plain_line_reads_as_it_does_with_everything_described() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in [
            "strata run --bundle /b c",
            "strata --root /r --log /l --log-format json run -d -b /b c --pid-file /p --keep --preserve-fds 2",
            "strata create --bundle /b --console-socket /s --root=/r c --no-pivot",
            "strata --systemd-cgroup --rootless=auto delete c --force",
            "strata start c",
            "strata kill --all c 9",
            "strata exec -t -e A=1 c sh -c run",
            "strata image ls",
        ] {
            let plain = Cli::read_plain(&words(line)).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(format!("{plain:?}"), format!("{:?}", Cli::try_parse_from(words(line)).unwrap()), "{line}");
        }
        for line in [
            "strata",
            "strata run",
            "strata run --help",
            "strata run image",
            "strata run --rm --bundle /b c",
            "strata run --bundle /b -m 1g c",
            "strata run --bundle /b c -- true",
            "strata create",
            "strata --root run",
            "strata --root start list c",
            "strata start c --unknown",
            "strata start c --version",
            "strata help start",
        ] {
            assert!(Cli::read_plain(&words(line)).is_none(), "{line}");
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
