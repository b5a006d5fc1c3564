//! `strata compare`: the same workload behind every boundary of this host.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use strata_compare::{MEASURES, Measure, Plan, Preset, Setup, Workload};
use strata_image::embedded;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;

/// Options of `compare`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strata compare                                   the built-in workloads: bare host and every boundary
  strata compare --peers --html report.html        beside runc, crun, runsc, UML and QEMU, with a page to show
  strata compare --only start,syscall --json       chosen measures, for programs
  strata compare debian:bookworm -- gzip -k FILE   your own command

`make peers` installs the programs to compare with.")]
pub struct Compare {
    /// Include the other runtimes and emulators that are installed
    #[arg(long)]
    peers: bool,
    /// More rounds and longer measures
    #[arg(long)]
    full: bool,
    /// Rounds, instead of the preset's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Measure these only (see --list)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// List the measures
    #[arg(long)]
    list: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Write a self-contained HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Image of your own command
    #[arg(value_name = "IMAGE", requires = "command")]
    image: Option<String>,
    /// Your own command
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
}

/// Raised by a signal: everything started is ended and removed.
static CANCELLED: AtomicBool = AtomicBool::new(false);

impl Compare {
    /// Measures and reports.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        if self.list {
            let mut table = crate::output::Table::new(&["NAME", "UNIT", "MEASURE"]);
            for measure in MEASURES.iter().filter(|measure| !measure.of_command()) {
                table.row([measure.name.to_string(), measure.unit.to_string(), measure.title.to_string()]);
            }
            table.print()?;
            return Ok(ExitCode::SUCCESS);
        }
        let measures = self.measures()?;
        let scratch = tempfile::Builder::new()
            .prefix("strata-compare-")
            .tempdir()
            .map_err(|error| Failure::new(format!("cannot make a scratch directory: {error}")))?;
        let workload = self.workload(context, &scratch.path().join("rootfs"))?;
        let preset = if self.full { Preset::Full } else { Preset::Quick };
        let mut plan = Plan::new(workload, preset, today());
        if let Some(measures) = measures {
            plan.measures = measures;
        }
        if let Some(rounds) = self.rounds {
            plan.rounds = rounds;
        }
        let report = strata_host::examine(&context.store_root());
        if report.load.busy {
            context.log.warning("this host is already busy: the figures will be noisy, ratios less so");
        }
        let strata = std::env::current_exe()
            .map_err(|error| Failure::new(format!("cannot find this program's own file: {error}")))?;
        let setup = Setup {
            strata,
            isolations: vec!["container".into()],
            peers: self.peers,
            peers_dir: Setup::default_peers_dir(),
        };
        strata_compare::cancel_on_interrupt(&CANCELLED);
        let bar = bar();
        let result = strata_compare::compare(
            &plan,
            &mut setup.boundaries(),
            &mut |progress| {
                bar.set_length(progress.total as u64);
                bar.set_position(progress.done as u64);
                bar.set_message(format!("{}: {}", progress.boundary, progress.measure));
            },
            &CANCELLED,
        );
        bar.finish_and_clear();
        let report = result?;
        if let Some(path) = &self.html {
            std::fs::write(path, report.to_html())
                .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
        }
        if self.json {
            print(&format!("{}\n", report.to_json()))?;
        } else {
            let stdout = std::io::stdout();
            let width = rustix::termios::tcgetwinsize(&stdout).map_or(120, |size| usize::from(size.ws_col));
            let color = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print(&report.to_table(width, color))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measures(&self) -> Result<Option<Vec<&'static Measure>>, Failure> {
        if self.only.is_empty() {
            return Ok(None);
        }
        let named = |name: &String| {
            MEASURES
                .iter()
                .find(|measure| measure.name == name)
                .ok_or_else(|| Failure::new(format!("no measure '{name}'")).hint("`strata compare --list` names them"))
        };
        self.only.iter().map(named).collect::<Result<_, _>>().map(Some)
    }

    /// Unpacks the root file system to measure in: of the embedded image or of the user's.
    fn workload(&self, context: &Context, rootfs: &std::path::Path) -> Result<Workload, Failure> {
        let store = context.store()?;
        let reference = match &self.image {
            Some(reference) => reference.clone(),
            None => embedded::REFERENCE.to_string(),
        };
        let image = store.image(&reference)?;
        store.unpack_to(&image, rootfs, &())?;
        let rootfs = rootfs.to_path_buf();
        if self.command.is_empty() {
            return Ok(Workload::Suite { rootfs, program: embedded::PROGRAM.into() });
        }
        let config = image.run_config();
        Ok(Workload::Command { rootfs, argv: self.command.clone(), env: config.env, cwd: config.working_dir })
    }
}

fn today() -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

/// A bar on a terminal, nothing on a pipe.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
        bar.set_style(style);
    }
    bar
}
