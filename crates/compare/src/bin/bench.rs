//! `make bench`: container start and image unpacking beside crun, runc, youki and umoci, in one run.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strata_compare::Setup;
use strata_compare::bench::{
    BenchReport, Case, Runtime, StartPlan, UnpackPlan, image, seccomp_profile_found, starts, unpacks,
};

const USAGE: &str = "usage: bench --strata FILE [options]
  --rounds N          samples of each runtime and case [default: 30]
  --pause MS          pause between container runs [default: 20]
  --program FILE      static program run as `true` in the container [default: busybox]
  --peers DIR         peers directory [default: $STRATA_PEERS or /var/lib/strata/peers]
  --unpack-rounds N   samples of unpacking, 0 for none [default: 3]
  --cache DIR         where the image to unpack is kept [default: /var/cache/strata]
  --date TEXT         date for the report
  --json FILE         write the JSON document as well";

static CANCEL: AtomicBool = AtomicBool::new(false);

struct Options {
    strata: PathBuf,
    rounds: u32,
    pause: u64,
    program: PathBuf,
    peers: PathBuf,
    unpack_rounds: u32,
    cache: PathBuf,
    date: String,
    json: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        strata: PathBuf::new(),
        rounds: 30,
        pause: 20,
        program: "/bin/busybox".into(),
        peers: Setup::default_peers_dir(),
        unpack_rounds: 3,
        cache: "/var/cache/strata".into(),
        date: String::new(),
        json: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse::<u32>().map_err(|_| format!("{arg} needs a number, not {text}"));
        match arg.as_str() {
            "--strata" => options.strata = value()?.into(),
            "--rounds" => options.rounds = number(value()?)?,
            "--pause" => options.pause = number(value()?)?.into(),
            "--program" => options.program = value()?.into(),
            "--peers" => options.peers = value()?.into(),
            "--unpack-rounds" => options.unpack_rounds = number(value()?)?,
            "--cache" => options.cache = value()?.into(),
            "--date" => options.date = value()?,
            "--json" => options.json = Some(value()?.into()),
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    options.strata =
        options.strata.canonicalize().map_err(|e| format!("--strata {}: {e}", options.strata.display()))?;
    if !options.program.is_file() {
        return Err(format!(
            "{}: no such program; install busybox-static or give another with --program",
            options.program.display()
        ));
    }
    if options.rounds == 0 {
        return Err("--rounds must be at least 1".into());
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("bench: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    strata_compare::cancel_on_interrupt(&CANCEL);
    match measure(&options) {
        Ok(report) => {
            print!("{}", report.to_text());
            if let Some(path) = &options.json
                && let Err(error) = std::fs::write(path, report.to_json())
            {
                eprintln!("bench: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            if CANCEL.load(Ordering::Relaxed) { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

fn measure(options: &Options) -> Result<BenchReport, strata_compare::Error> {
    let runtimes = Runtime::found(&options.strata, &options.peers);
    let mut report = BenchReport::new(&options.date, runtimes.clone());
    let mut cases = Case::ALL.to_vec();
    if !seccomp_profile_found() {
        cases.retain(|c| *c != Case::RunSeccomp);
        report.notes.push(
            "No default seccomp profile is installed (package golang-github-containers-common); that case is left out."
                .into(),
        );
    }
    let plan = StartPlan {
        runtimes: &runtimes,
        cases: &cases,
        rounds: options.rounds,
        program: &options.program,
        pause: Duration::from_millis(options.pause),
        cancel: &CANCEL,
    };
    let mut told = 0;
    report.starts = starts(&plan, &mut |_, _, round| {
        if round != told && round % 5 == 0 {
            eprintln!("bench: starting containers, round {round} of {}", options.rounds);
        }
        told = round;
    })?;
    if options.unpack_rounds > 0 {
        unpacking(options, &mut report)?;
    }
    Ok(report)
}

fn unpacking(options: &Options, report: &mut BenchReport) -> Result<(), strata_compare::Error> {
    eprintln!("bench: the image to unpack (made once, in {})", options.cache.display());
    let image = match image(&options.cache, &CANCEL) {
        Ok(image) => image,
        Err(_) if CANCEL.load(Ordering::Relaxed) => return Err(strata_compare::Error::Cancelled),
        Err(reason) => {
            report.notes.push(format!("Unpacking was not measured: {reason}"));
            return Ok(());
        }
    };
    let strata = options.strata.to_string_lossy().into_owned();
    let words = |text: &str| {
        text.split(' ').map(|w| if w == "strata" { strata.clone() } else { w.into() }).collect::<Vec<String>>()
    };
    let tools = [
        (
            "strata".to_string(),
            vec![
                words("strata --store {STORE} image import oci-archive:{ARCHIVE} --name bench"),
                words("strata --store {STORE} image unpack bench {TARGET}"),
            ],
        ),
        ("umoci".to_string(), vec![words("umoci unpack --image {LAYOUT}:bench {TARGET}")]),
    ];
    let work = tempfile::Builder::new()
        .prefix("unpack-")
        .tempdir_in(&options.cache)
        .map_err(strata_compare::Error::Scratch)?;
    let plan =
        UnpackPlan { tools: &tools, image: &image, rounds: options.unpack_rounds, work: work.path(), cancel: &CANCEL };
    report.unpacks = unpacks(&plan, &mut |tool, round| {
        eprintln!("bench: unpacking, {tool}, round {round} of {}", options.unpack_rounds)
    })?;
    report.image = Some(image);
    Ok(())
}
