//! What `make bench` measures: how fast OCI runtimes start and end a container, and how fast images are unpacked.
//!
//! All runtimes get the same ready bundle (OCI runtime-spec, `bundle.md`) and the same host, with the unified hierarchy hidden
//! where it lies beside version 1, which crun refuses. Runs are interleaved, the order rotates, and a pause lets the
//! kernel finish tearing namespaces down; one case starts several in a row without pauses instead, as a loop in a shell
//! does, which finds the kernel awake and is kinder to runtimes that wait for it. Wall time is what a caller waits;
//! processor time, of the runtime and all it waited for, is the steadier figure.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::boundary::{Reason, Watch};
use crate::bundle;
use crate::host::Host;
use crate::process::{Finished, Invocation, find_program, run};
use crate::stats::Summary;
use crate::units::human;

/// Version of the JSON document.
pub const SCHEMA: &str = "strata.bench/1";

const RUN_TIMEOUT: Duration = Duration::from_secs(20);
const UNPACK_TIMEOUT: Duration = Duration::from_secs(600);

/// A runtime with the command line of runc.
#[derive(Debug, Clone, Serialize)]
pub struct Runtime {
    /// Name in the table.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its version, as it prints it.
    pub version: Option<String>,
}

impl Runtime {
    /// A runtime at a path.
    pub fn at(name: &str, program: &Path) -> Runtime {
        let version = crate::boundary::version_line(program, "--version");
        Runtime { name: name.into(), program: program.into(), version }
    }

    /// Strata first, then every peer found: crun and runc, crun of the peers directory, youki.
    pub fn found(strata: &Path, peers_dir: &Path) -> Vec<Runtime> {
        let env = Invocation::of(vec![]).env;
        let mut all = vec![Runtime::at("strata", strata)];
        let newer = peers_dir.join("newer/usr/bin/crun");
        if newer.is_file() {
            let mut runtime = Runtime::at("crun", &newer);
            runtime.name = runtime.version.as_ref().map_or("crun, newer".into(), |v| format!("crun {v}"));
            all.push(runtime);
        }
        for name in ["crun", "runc", "youki"] {
            if let Some(program) = find_program(name, None, &env) {
                let mut runtime = Runtime::at(name, &program);
                if name == "crun"
                    && let Some(version) = &runtime.version
                {
                    runtime.name = format!("crun {version}");
                }
                all.push(runtime);
            }
        }
        all
    }
}

/// What is done with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// `run` of `true`.
    Run,
    /// The same again and again.
    RunInARow,
    /// The same with container engines' default system-call filter.
    RunSeccomp,
    /// `create`, `start`, the shim's wait, `delete`.
    Lifecycle,
}

impl Case {
    /// All of them, in the order of the report.
    pub const ALL: [Case; 4] = [Case::Run, Case::RunInARow, Case::RunSeccomp, Case::Lifecycle];

    /// For the table.
    pub fn title(self) -> &'static str {
        match self {
            Case::Run => "run",
            Case::RunInARow => "run, without pauses",
            Case::RunSeccomp => "run, default seccomp",
            Case::Lifecycle => "create, start, delete",
        }
    }
}

/// How many [`Case::RunInARow`] starts.
const ROW: usize = 5;

/// How to measure starting.
#[derive(Debug)]
pub struct StartPlan<'a> {
    /// Who takes part.
    pub runtimes: &'a [Runtime],
    /// What is measured.
    pub cases: &'a [Case],
    /// Samples of each runtime and case.
    pub rounds: u32,
    /// A static multi-call program that knows `true`: busybox or the project's.
    pub program: &'a Path,
    /// Pause between runs.
    pub pause: Duration,
    /// Raised to end it.
    pub cancel: &'a AtomicBool,
}

/// Figures of one runtime in one case.
#[derive(Debug, Clone, Serialize)]
pub struct StartRow {
    /// [`Runtime::name`].
    pub runtime: String,
    /// What was done.
    pub case: Case,
    /// Samples.
    pub n: usize,
    /// Wall time, nanoseconds.
    pub median_ns: f64,
    /// 10th percentile.
    pub p10_ns: f64,
    /// 90th percentile.
    pub p90_ns: f64,
    /// Median of user and system time, nanoseconds.
    pub cpu_ns: f64,
    /// Largest resident set of one process of a run, median, bytes.
    pub rss: f64,
    /// Medians of the programs of [`Case::Lifecycle`], nanoseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps_ns: Vec<f64>,
    /// Median relative to the fastest crun in the same case.
    pub ratio_to_crun: Option<f64>,
    /// The first failure, if any run failed; failed runs have no sample.
    pub failure: Option<String>,
    /// Every wall time, nanoseconds, in order.
    pub samples_ns: Vec<f64>,
}

/// Starts containers. `progress` gets the runtime, the case and the round.
pub fn starts(plan: &StartPlan<'_>, progress: &mut dyn FnMut(&str, Case, u32)) -> Result<Vec<StartRow>, crate::Error> {
    let scratch = tempfile::Builder::new().prefix("strata-bench-").tempdir().map_err(crate::Error::Scratch)?;
    let bundles = bundles(scratch.path(), plan.program).map_err(crate::Error::Scratch)?;
    let hide = bundle::unified_beside_v1();
    let mut samples: Vec<Vec<Result<Finished, Reason>>> = vec![Vec::new(); plan.cases.len() * plan.runtimes.len()];
    // Round zero fills caches, among them crun's of compiled filters, and is not counted.
    for round in 0..=plan.rounds {
        for (at, case) in plan.cases.iter().enumerate() {
            for turn in 0..plan.runtimes.len() {
                let index = (turn + round as usize) % plan.runtimes.len();
                let runtime = &plan.runtimes[index];
                let slot = &mut samples[at * plan.runtimes.len() + index];
                if slot.iter().filter(|s| s.is_err()).count() >= 3 {
                    continue; // It does not work; its failure is recorded.
                }
                progress(&runtime.name, *case, round);
                // The first in a row follows another runtime's, and a pause.
                let uncounted = usize::from(*case == Case::RunInARow);
                for i in 0..if *case == Case::RunInARow { ROW } else { 1 } {
                    let result = start_once(runtime, *case, &bundles, scratch.path(), hide.as_deref(), plan.cancel);
                    if plan.cancel.load(Ordering::Relaxed) {
                        return Err(crate::Error::Cancelled);
                    }
                    if round > 0 && i >= uncounted || result.is_err() {
                        slot.push(result);
                    }
                }
                std::thread::sleep(plan.pause);
            }
        }
    }
    let mut rows: Vec<StartRow> = Vec::new();
    for (at, case) in plan.cases.iter().enumerate() {
        for (index, runtime) in plan.runtimes.iter().enumerate() {
            rows.push(row(runtime, *case, &samples[at * plan.runtimes.len() + index]));
        }
    }
    for case in plan.cases {
        let crun = rows
            .iter()
            .filter(|r| r.case == *case && r.runtime.starts_with("crun") && r.n > 0)
            .map(|r| r.median_ns)
            .reduce(f64::min);
        for row in rows.iter_mut().filter(|r| r.case == *case && r.n > 0) {
            row.ratio_to_crun = crun.map(|crun| row.median_ns / crun);
        }
    }
    Ok(rows)
}

fn row(runtime: &Runtime, case: Case, samples: &[Result<Finished, Reason>]) -> StartRow {
    let good: Vec<&Finished> = samples.iter().flatten().collect();
    let of = |value: &dyn Fn(&Finished) -> f64| good.iter().map(|f| value(f)).collect::<Vec<_>>();
    let median = |values: &[f64]| Summary::of(values).map_or(0.0, |s| s.median);
    let walls = of(&|f| f.wall.as_nanos() as f64);
    let wall = Summary::of(&walls);
    let steps = if case == Case::Lifecycle { 3 } else { 0 };
    StartRow {
        runtime: runtime.name.clone(),
        case,
        n: good.len(),
        median_ns: wall.map_or(0.0, |s| s.median),
        p10_ns: wall.map_or(0.0, |s| s.p10),
        p90_ns: wall.map_or(0.0, |s| s.p90),
        cpu_ns: median(&of(&|f| f.cpu.as_nanos() as f64)),
        rss: median(&of(&|f| f.max_rss as f64)),
        steps_ns: (0..steps).map(|i| median(&of(&|f| f.steps.get(i).map_or(0.0, |s| s.as_nanos() as f64)))).collect(),
        ratio_to_crun: None,
        failure: samples.iter().find_map(|s| s.as_ref().err().map(|e| e.0.clone())),
        samples_ns: walls,
    }
}

fn start_once(
    runtime: &Runtime,
    case: Case,
    bundles: &[PathBuf; 2],
    scratch: &Path,
    hide: Option<&Path>,
    cancel: &AtomicBool,
) -> Result<Finished, Reason> {
    let name = crate::boundary::unique_name();
    let bundle = if case == Case::RunSeccomp { &bundles[1] } else { &bundles[0] };
    let mut invocation = Invocation::of(vec![]);
    invocation.steps = steps(runtime, case, bundle, scratch, &name);
    invocation.hide = hide.map(Path::to_path_buf);
    invocation.as_shim = case == Case::Lifecycle;
    invocation.quiet = true;
    let result = run(&invocation, Watch::Nothing, RUN_TIMEOUT, cancel).and_then(|finished| match finished.exit {
        0 => Ok(finished),
        status => {
            // Once more with its output kept, for the reason.
            invocation.quiet = false;
            let again = run(&invocation, Watch::Nothing, RUN_TIMEOUT, cancel);
            let said = again
                .ok()
                .and_then(|f| crate::console::last_line(&f.output))
                .map(|l| format!(": {l}"))
                .unwrap_or_default();
            Err(Reason(format!("ended with status {status}{said}")))
        }
    });
    if result.is_err() {
        invocation.steps = vec![command(runtime, scratch, &["delete", "--force", &name])];
        invocation.as_shim = false;
        // It may well be gone.
        let _ = run(&invocation, Watch::Nothing, RUN_TIMEOUT, &AtomicBool::new(false));
    }
    result
}

fn steps(runtime: &Runtime, case: Case, bundle: &Path, scratch: &Path, name: &str) -> Vec<Vec<String>> {
    let bundle = bundle.to_string_lossy();
    match case {
        Case::Run | Case::RunInARow | Case::RunSeccomp => {
            vec![command(runtime, scratch, &["run", "--bundle", &bundle, name])]
        }
        Case::Lifecycle => vec![
            command(runtime, scratch, &["create", "--bundle", &bundle, name]),
            command(runtime, scratch, &["start", name]),
            command(runtime, scratch, &["delete", "--force", name]),
        ],
    }
}

fn command(runtime: &Runtime, scratch: &Path, arguments: &[&str]) -> Vec<String> {
    let state: String = runtime.name.chars().filter(char::is_ascii_alphanumeric).collect();
    let state = scratch.join("state").join(state);
    let mut argv =
        vec![runtime.program.to_string_lossy().into_owned(), "--root".into(), state.to_string_lossy().into_owned()];
    argv.extend(arguments.iter().map(ToString::to_string));
    argv
}

/// Two bundles around one root file system: without and with a system-call filter.
fn bundles(scratch: &Path, program: &Path) -> std::io::Result<[PathBuf; 2]> {
    let rootfs = scratch.join("rootfs");
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    fs::create_dir_all(scratch.join("state"))?;
    fs::copy(program, rootfs.join("bin/true"))?;
    fs::set_permissions(rootfs.join("bin/true"), fs::Permissions::from_mode(0o755))?;
    let env: Vec<String> =
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"].map(String::from).into();
    let made = [("plain", None), ("filtered", bundle::default_seccomp())].map(|(name, seccomp)| {
        let directory = scratch.join(name);
        fs::create_dir_all(&directory)?;
        let config = bundle::config(&rootfs, &["true".into()], &env, "/", seccomp);
        fs::write(directory.join("config.json"), config.to_string())?;
        Ok::<_, std::io::Error>(directory)
    });
    let [plain, filtered] = made;
    Ok([plain?, filtered?])
}

/// Whether a default profile is installed, without which [`Case::RunSeccomp`] is the same as [`Case::Run`].
pub fn seccomp_profile_found() -> bool {
    bundle::default_seccomp().is_some()
}

/// How to measure unpacking. Words in the command lines are replaced: `{ARCHIVE}` an OCI archive (a tar file), `{LAYOUT}` the
/// same as an OCI layout directory with the tag `bench`, `{STORE}` an empty directory, `{TARGET}` a path that does not exist.
#[derive(Debug)]
pub struct UnpackPlan<'a> {
    /// Who takes part: a name and its command lines, run one after the other.
    pub tools: &'a [(String, Vec<Vec<String>>)],
    /// The image.
    pub image: &'a BenchImage,
    /// Samples of each.
    pub rounds: u32,
    /// An empty directory on the file system to unpack to.
    pub work: &'a Path,
    /// Raised to end it.
    pub cancel: &'a AtomicBool,
}

/// Figures of one tool.
#[derive(Debug, Clone, Serialize)]
pub struct UnpackRow {
    /// The tool.
    pub tool: String,
    /// Samples.
    pub n: usize,
    /// Wall time of all command lines, nanoseconds, median.
    pub median_ns: f64,
    /// 10th percentile.
    pub p10_ns: f64,
    /// 90th percentile.
    pub p90_ns: f64,
    /// Medians of each command line, nanoseconds.
    pub steps_ns: Vec<f64>,
    /// Median of user and system time, nanoseconds.
    pub cpu_ns: f64,
    /// Largest resident set of one process, median, bytes.
    pub rss: f64,
    /// Median relative to the first tool's named `umoci`.
    pub ratio_to_umoci: Option<f64>,
    /// The first failure.
    pub failure: Option<String>,
}

/// Unpacks the image with every tool, interleaved.
pub fn unpacks(plan: &UnpackPlan<'_>, progress: &mut dyn FnMut(&str, u32)) -> Result<Vec<UnpackRow>, crate::Error> {
    let mut samples: Vec<Vec<Result<Finished, Reason>>> = vec![Vec::new(); plan.tools.len()];
    // Trees are kept until all is measured: for a minute after a large tree is deleted, ext4 searches past its inodes
    // for every file that anybody creates, which would be charged to whoever comes next.
    let mut kept = Vec::new();
    for round in 0..plan.rounds {
        for turn in 0..plan.tools.len() {
            let index = (turn + round as usize) % plan.tools.len();
            let (name, commands) = &plan.tools[index];
            if samples[index].iter().any(Result::is_err) {
                continue;
            }
            progress(name, round + 1);
            let directory = tempfile::tempdir_in(plan.work).map_err(crate::Error::Scratch)?;
            fs::create_dir(directory.path().join("store")).map_err(crate::Error::Scratch)?;
            let steps = commands.iter().map(|c| substituted(c, plan.image, directory.path())).collect();
            let invocation = Invocation { steps, ..Invocation::of(vec![]) };
            // Pages of the last round's files must not be written back during this one.
            rustix::fs::sync();
            let result = run(&invocation, Watch::Nothing, UNPACK_TIMEOUT, plan.cancel).and_then(|f| match f.exit {
                0 => Ok(f),
                status => {
                    let said = crate::console::last_line(&f.output).map(|l| format!(": {l}")).unwrap_or_default();
                    Err(Reason(format!("ended with status {status}{said}")))
                }
            });
            if plan.cancel.load(Ordering::Relaxed) {
                return Err(crate::Error::Cancelled);
            }
            samples[index].push(result);
            kept.push(directory);
        }
    }
    drop(kept);
    let mut rows: Vec<UnpackRow> = plan
        .tools
        .iter()
        .zip(&samples)
        .map(|((tool, commands), samples)| {
            let good: Vec<&Finished> = samples.iter().flatten().collect();
            let median = |value: &dyn Fn(&Finished) -> f64| {
                Summary::of(&good.iter().map(|f| value(f)).collect::<Vec<_>>()).map_or(0.0, |s| s.median)
            };
            let wall = Summary::of(&good.iter().map(|f| f.wall.as_nanos() as f64).collect::<Vec<_>>());
            UnpackRow {
                tool: tool.clone(),
                n: good.len(),
                median_ns: wall.map_or(0.0, |s| s.median),
                p10_ns: wall.map_or(0.0, |s| s.p10),
                p90_ns: wall.map_or(0.0, |s| s.p90),
                steps_ns: (0..commands.len())
                    .map(|i| median(&|f| f.steps.get(i).map_or(0.0, |s| s.as_nanos() as f64)))
                    .collect(),
                cpu_ns: median(&|f| f.cpu.as_nanos() as f64),
                rss: median(&|f| f.max_rss as f64),
                ratio_to_umoci: None,
                failure: samples.iter().find_map(|s| s.as_ref().err().map(|e| e.0.clone())),
            }
        })
        .collect();
    let umoci = rows.iter().find(|r| r.tool == "umoci" && r.n > 0).map(|r| r.median_ns);
    for row in rows.iter_mut().filter(|r| r.n > 0) {
        row.ratio_to_umoci = umoci.map(|umoci| row.median_ns / umoci);
    }
    Ok(rows)
}

fn substituted(command: &[String], image: &BenchImage, directory: &Path) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let words = [
        ("{ARCHIVE}", text(&image.archive)),
        ("{LAYOUT}", text(&image.layout)),
        ("{STORE}", text(&directory.join("store"))),
        ("{TARGET}", text(&directory.join("target"))),
    ];
    command.iter().map(|word| words.iter().fold(word.clone(), |word, (from, to)| word.replace(from, to))).collect()
}

/// An image made once for unpacking.
#[derive(Debug, Clone, Serialize)]
pub struct BenchImage {
    /// A tar file of the layout.
    pub archive: PathBuf,
    /// The OCI layout; its tag is `bench`.
    pub layout: PathBuf,
    /// Bytes of the files in it.
    pub unpacked: u64,
}

/// Makes the image of about 300 MB in `cache` with mmdebstrap and umoci, or finds it there.
pub fn image(cache: &Path, cancel: &AtomicBool) -> Result<BenchImage, Reason> {
    let made = BenchImage { archive: cache.join("bench.tar"), layout: cache.join("bench"), unpacked: 0 };
    let size = cache.join("bench.size");
    if let Some(unpacked) = fs::read_to_string(&size).ok().and_then(|s| s.trim().parse().ok())
        && made.archive.is_file()
        && made.layout.is_dir()
    {
        return Ok(BenchImage { unpacked, ..made });
    }
    let io = |e: std::io::Error| Reason(format!("{}: {e}", cache.display()));
    fs::create_dir_all(cache).map_err(io)?;
    let work = tempfile::Builder::new().prefix("making-").tempdir_in(cache).map_err(io)?;
    let tar = work.path().join("rootfs.tar");
    let layout = work.path().join("bench");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (tar_text, layout_text) = (text(&tar), text(&layout));
    let reference = format!("{layout_text}:bench");
    let commands: [&[&str]; 5] = [
        // A compiler makes it the size of a usual image, with many small files and some large ones.
        &["mmdebstrap", "--quiet", "--variant=minbase", "--include=gcc,libc6-dev,make", "", &tar_text],
        &["umoci", "init", "--layout", &layout_text],
        &["umoci", "new", "--image", &reference],
        &["umoci", "raw", "add-layer", "--image", &reference, &tar_text],
        &["tar", "-C", &layout_text, "-cf", &text(&work.path().join("bench.tar")), "."],
    ];
    for command in commands {
        let mut argv: Vec<String> = command.iter().map(ToString::to_string).collect();
        if argv[0] == "mmdebstrap" {
            argv[4] = codename()
                .ok_or_else(|| Reason::new("/etc/os-release names no Debian release to make the image of"))?;
        }
        let finished = run(&Invocation::of(argv), Watch::Nothing, UNPACK_TIMEOUT, cancel)?;
        if finished.exit != 0 {
            let said = crate::console::last_line(&finished.output).unwrap_or_default();
            return Err(Reason(format!("{} failed with status {}: {said}", command[0], finished.exit)));
        }
    }
    let unpacked = fs::metadata(&tar).map_err(io)?.len();
    let _ = fs::remove_dir_all(&made.layout);
    fs::rename(&layout, &made.layout).map_err(io)?;
    fs::rename(work.path().join("bench.tar"), &made.archive).map_err(io)?;
    fs::write(size, unpacked.to_string()).map_err(io)?;
    Ok(BenchImage { unpacked, ..made })
}

fn codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"').to_string())
}

/// Everything, for the JSON document.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// As the caller gave it.
    pub date: String,
    /// Where it ran.
    pub host: Host,
    /// Who took part.
    pub runtimes: Vec<Runtime>,
    /// Starting containers.
    pub starts: Vec<StartRow>,
    /// Unpacking an image.
    pub unpacks: Vec<UnpackRow>,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<BenchImage>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

impl BenchReport {
    /// An empty report of this host as it is now.
    pub fn new(date: &str, runtimes: Vec<Runtime>) -> BenchReport {
        BenchReport {
            schema: SCHEMA,
            date: date.into(),
            host: Host::read(),
            runtimes,
            starts: Vec::new(),
            unpacks: Vec::new(),
            image: None,
            notes: Vec::new(),
        }
    }

    /// The JSON document, indented.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The tables.
    pub fn to_text(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        let host = &self.host;
        let _ = writeln!(
            out,
            "{}, {} processors, Linux {}, load {:.2} before",
            host.cpu, host.cores, host.kernel, host.load_before[0]
        );
        for case in Case::ALL {
            let rows: Vec<&StartRow> = self.starts.iter().filter(|r| r.case == case).collect();
            if rows.is_empty() {
                continue;
            }
            let _ = writeln!(
                out,
                "\n{:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>5}",
                case.title(),
                "median",
                "p10",
                "p90",
                "CPU",
                "peak RSS",
                "to crun",
                "n"
            );
            for row in rows {
                if row.n == 0 {
                    let _ = writeln!(
                        out,
                        "  {:<20} failed: {}",
                        row.runtime,
                        row.failure.as_deref().unwrap_or("no sample")
                    );
                    continue;
                }
                let ratio = row.ratio_to_crun.map_or("–".into(), crate::units::ratio);
                let time = |ns: f64| human(ns, "ns");
                let _ = write!(
                    out,
                    "  {:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>5}",
                    row.runtime,
                    time(row.median_ns),
                    time(row.p10_ns),
                    time(row.p90_ns),
                    time(row.cpu_ns),
                    human(row.rss, "B"),
                    ratio,
                    row.n
                );
                if !row.steps_ns.is_empty() {
                    let steps: Vec<String> = row.steps_ns.iter().map(|ns| time(*ns)).collect();
                    let _ = write!(out, "  {}", steps.join(" / "));
                }
                if let Some(failure) = &row.failure {
                    let _ = write!(out, "  (a run failed: {failure})");
                }
                out.push('\n');
            }
        }
        if !self.unpacks.is_empty() {
            let size =
                self.image.as_ref().map_or(String::new(), |i| format!("unpack, {}", human(i.unpacked as f64, "B")));
            let _ = writeln!(
                out,
                "\n{size:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>5}",
                "median", "p10", "p90", "CPU", "peak RSS", "to umoci", "n"
            );
            for row in &self.unpacks {
                if let Some(failure) = &row.failure {
                    let _ = writeln!(out, "  {:<20} failed: {failure}", row.tool);
                    continue;
                }
                let time = |ns: f64| human(ns, "ns");
                let steps: Vec<String> = row.steps_ns.iter().map(|ns| time(*ns)).collect();
                let _ = writeln!(
                    out,
                    "  {:<20} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>5}  {}",
                    row.tool,
                    time(row.median_ns),
                    time(row.p10_ns),
                    time(row.p90_ns),
                    time(row.cpu_ns),
                    human(row.rss, "B"),
                    row.ratio_to_umoci.map_or("–".into(), crate::units::ratio),
                    row.n,
                    if steps.len() > 1 { steps.join(" + ") } else { String::new() }
                );
            }
        }
        for note in &self.notes {
            let _ = writeln!(out, "\n{note}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(name: &str) -> Runtime {
        Runtime { name: name.into(), program: "/usr/bin/x".into(), version: None }
    }

    #[test]
    fn command_lines() {
        let got = steps(&runtime("crun 1.21"), Case::Lifecycle, Path::new("/b"), Path::new("/s"), "n");
        let lines: Vec<String> = got.iter().map(|c| c.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "/usr/bin/x --root /s/state/crun121 create --bundle /b n",
                "/usr/bin/x --root /s/state/crun121 start n",
                "/usr/bin/x --root /s/state/crun121 delete --force n"
            ]
        );
        assert_eq!(steps(&runtime("a"), Case::Run, Path::new("/b"), Path::new("/s"), "n").len(), 1);
    }

    #[test]
    fn words_are_replaced() {
        let image = BenchImage { archive: "/c/a.tar".into(), layout: "/c/l".into(), unpacked: 1 };
        let command: Vec<String> =
            ["x", "--store={STORE}", "oci-archive:{ARCHIVE}", "{LAYOUT}:bench", "{TARGET}"].map(String::from).into();
        assert_eq!(
            substituted(&command, &image, Path::new("/w")),
            ["x", "--store=/w/store", "oci-archive:/c/a.tar", "/c/l:bench", "/w/target"]
        );
    }

    #[test]
    fn a_row_of_figures_and_its_failures() {
        let finished = |ms| Finished {
            wall: Duration::from_millis(ms),
            cpu: Duration::from_millis(2),
            max_rss: 4096,
            ..Finished::default()
        };
        let row = row(&runtime("crun"), Case::Run, &[Ok(finished(10)), Err(Reason::new("no")), Ok(finished(30))]);
        assert_eq!((row.n, row.median_ns, row.failure.as_deref()), (2, 20e6, Some("no")));
        let mut report = BenchReport::new("today", vec![runtime("crun")]);
        report.starts.push(row);
        let text = report.to_text();
        assert!(text.contains("20.0 ms") && text.contains("(a run failed: no)"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!((&json["schema"], &json["starts"][0]["case"]), (&SCHEMA.into(), &"run".into()));
    }

    #[test]
    fn unpacking_runs_every_tool_in_an_empty_place() {
        let work = tempfile::tempdir().unwrap();
        let image = BenchImage { archive: "/dev/null".into(), layout: "/dev/null".into(), unpacked: 1 };
        let sh = |script: &str| vec!["/bin/sh".to_string(), "-c".into(), script.into()];
        let tools = [
            ("umoci".to_string(), vec![sh("mkdir {TARGET}")]),
            ("two".to_string(), vec![sh("touch {STORE}/x"), sh("test -e {STORE}/x && mkdir {TARGET}")]),
            ("bad".to_string(), vec![sh("echo broken; exit 3")]),
        ];
        let cancel = AtomicBool::new(false);
        let plan = UnpackPlan { tools: &tools, image: &image, rounds: 2, work: work.path(), cancel: &cancel };
        let rows = unpacks(&plan, &mut |_, _| {}).unwrap();
        assert_eq!((rows[0].n, rows[1].n, rows[1].steps_ns.len(), rows[2].n), (2, 2, 2, 0));
        assert_eq!(rows[2].failure.as_deref(), Some("ended with status 3: broken"));
        assert_eq!(rows[0].ratio_to_umoci, Some(1.0));
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0, "nothing is left");
    }
}
