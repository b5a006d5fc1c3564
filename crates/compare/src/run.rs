//! The order of runs: interleaved rounds, rotated, with every failure kept to its own cell of the table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Error;
use crate::boundary::{Boundary, Job, Reason, Sample, Watch, Workload};
use crate::console;
use crate::host::Host;
use crate::measure::{MEASURES, Measure, Source};
use crate::report::{BoundaryFacts, Figures, MeasureFacts, Outcome, Report, SCHEMA, Status, cost_ratio};
use crate::stats::Summary;
use crate::units::Better;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Four rounds: under a minute for the boundaries that need no peer.
    Quick,
    /// Ten rounds and longer measures.
    Full,
}

/// What to run, how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What runs everywhere.
    pub workload: Workload,
    /// Measures, in the order of the report; those that do not fit the workload are left out.
    pub measures: Vec<&'static Measure>,
    /// Rounds for boundaries that start in milliseconds.
    pub rounds: u32,
    /// Rounds for machines, which boot first.
    pub machine_rounds: u32,
    /// Whether each boundary runs once unmeasured first, to fill caches and to find those that do not work.
    pub warm_up: bool,
    /// Further arguments of every `bench`, such as a shorter duration.
    pub bench_args: Vec<String>,
    /// Limit of one run. Machines get it once for booting and once for each command of a boot.
    pub timeout: Duration,
    /// Name of the preset for the report.
    pub preset: String,
    /// The date for the report, as it should read.
    pub date: String,
    /// Directory in which a scratch directory is made and removed; the system's temporary directory if absent.
    pub scratch: Option<PathBuf>,
}

impl Plan {
    /// A plan for the workload with all measures that fit it.
    pub fn new(workload: Workload, preset: Preset, date: impl Into<String>) -> Plan {
        let of_command = matches!(workload, Workload::Command { .. });
        let (rounds, machine_rounds, name, timeout, seconds) = match preset {
            Preset::Quick => (4, 1, "quick", 30, "0.2"),
            Preset::Full => (10, 3, "full", 60, "1"),
        };
        Plan {
            measures: MEASURES.iter().filter(|m| m.of_command() == of_command).collect(),
            rounds,
            machine_rounds,
            warm_up: true,
            bench_args: ["--seconds", seconds].map(String::from).into(),
            // A command of the user's own may well take minutes in software emulation.
            timeout: Duration::from_secs(if of_command { 3600 } else { timeout }),
            preset: name.into(),
            date: date.into(),
            scratch: None,
            workload,
        }
    }
}

/// What is about to run.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Title of the boundary.
    pub boundary: &'a str,
    /// Title of the measure, or the phase: `Preparing`, `Warming up`, `All measures`.
    pub measure: &'a str,
    /// Round, from 1; 0 before the first.
    pub round: u32,
    /// Steps done.
    pub done: usize,
    /// Steps in all. It shrinks when a boundary drops out.
    pub total: usize,
}

/// Runs the plan behind every boundary given and reports.
///
/// Boundaries are measured one at a time. Raising `cancel` (from a signal handler, say) ends the running processes,
/// cleans up and returns [`Error::Cancelled`].
pub fn compare(
    plan: &Plan,
    boundaries: &mut [Box<dyn Boundary>],
    progress: &mut dyn FnMut(Progress<'_>),
    cancel: &AtomicBool,
) -> Result<Report, Error> {
    let rootfs = plan.workload.rootfs();
    if !rootfs.is_absolute() || !rootfs.is_dir() {
        return Err(Error::Rootfs {
            path: rootfs.into(),
            reason: "must be an existing directory given by its absolute path".into(),
        });
    }
    if boundaries.is_empty() {
        return Err(Error::Empty("boundary"));
    }
    let of_command = matches!(plan.workload, Workload::Command { .. });
    let measures: Vec<_> = plan.measures.iter().copied().filter(|m| m.of_command() == of_command).collect();
    if measures.is_empty() || plan.rounds == 0 {
        return Err(Error::Empty(if plan.rounds == 0 { "round" } else { "measure that fits the workload" }));
    }
    let scratch = match &plan.scratch {
        Some(directory) => tempfile::Builder::new().prefix("strata-compare-").tempdir_in(directory),
        None => tempfile::Builder::new().prefix("strata-compare-").tempdir(),
    }
    .map_err(Error::Scratch)?;

    let mut comparison = Comparison {
        plan,
        measures,
        progress,
        cancel,
        rows: boundaries.iter().map(|b| Row { machine: b.is_machine(), ..Row::default() }).collect(),
        host: Host::read(),
        started: Instant::now(),
        reference_exit: None,
        notes: Vec::new(),
        done: 0,
    };
    let result = comparison.run(boundaries, scratch.path());
    for (boundary, row) in boundaries.iter_mut().zip(&comparison.rows) {
        if row.prepared {
            boundary.clean_up();
        }
    }
    result?;
    Ok(comparison.report(boundaries))
}

/// What is known about one boundary so far.
#[derive(Default)]
struct Row {
    machine: bool,
    version: Option<String>,
    prepared: bool,
    status: Option<Status>,
    cells: BTreeMap<&'static str, Cell>,
}

#[derive(Default)]
struct Cell {
    samples: Vec<f64>,
    unit: Option<(String, Better)>,
    failure: Option<Reason>,
}

impl Row {
    fn running(&self) -> bool {
        self.status.is_none()
    }

    /// A measure that failed once is not tried again: it would only cost the others their time.
    fn wants(&self, measure: &Measure) -> bool {
        self.running() && self.cells.get(measure.name).is_none_or(|cell| cell.failure.is_none())
    }

    fn add(&mut self, measure: &'static Measure, value: Result<Value, Reason>) {
        let cell = self.cells.entry(measure.name).or_default();
        match value {
            Ok(value) => {
                cell.samples.push(value.value);
                cell.unit.get_or_insert((value.unit, value.better));
            }
            Err(reason) => {
                cell.failure.get_or_insert(reason);
            }
        }
    }
}

/// One figure with its unit.
#[derive(Debug, Clone, PartialEq)]
struct Value {
    value: f64,
    unit: String,
    better: Better,
}

struct Comparison<'a> {
    plan: &'a Plan,
    measures: Vec<&'static Measure>,
    progress: &'a mut dyn FnMut(Progress<'_>),
    cancel: &'a AtomicBool,
    rows: Vec<Row>,
    host: Host,
    started: Instant,
    reference_exit: Option<(String, i32)>,
    notes: Vec<String>,
    done: usize,
}

impl Comparison<'_> {
    fn run(&mut self, boundaries: &mut [Box<dyn Boundary>], scratch: &std::path::Path) -> Result<(), Error> {
        for (index, boundary) in boundaries.iter_mut().enumerate() {
            self.check()?;
            self.tell(boundary.as_ref(), "Preparing", 0);
            if let Err(reason) = boundary.available() {
                self.rows[index].status = Some(Status::Unavailable { reason: reason.0 });
                continue;
            }
            self.rows[index].version = boundary.version();
            let directory = scratch.join(boundary.id());
            let prepared = std::fs::create_dir(&directory)
                .map_err(|e| Reason(format!("cannot make {}: {e}", directory.display())))
                .and_then(|()| boundary.prepare(&self.plan.workload, &directory));
            self.rows[index].prepared = true;
            if let Err(reason) = prepared {
                self.rows[index].status = Some(Status::Failed { reason: reason.0 });
            }
        }
        match &self.plan.workload {
            Workload::Suite { program, .. } => {
                if self.plan.warm_up {
                    self.each(boundaries, 0, "Warming up", |this, _, boundary| {
                        this.succeed(boundary, &this.start_command(program)).map(|_| ())
                    })?;
                }
                for round in 1..=self.plan.rounds {
                    self.suite_round(boundaries, program, round)?;
                }
            }
            Workload::Command { argv, .. } => {
                // Watching memory disturbs, so those runs are not timed; they fill the caches too.
                for _ in 0..memory_rounds(self.plan) {
                    self.each(boundaries, 0, "Peak memory", |this, index, boundary| {
                        let sample = this.command(boundary, argv, Watch::Peak)?;
                        this.record(index, &[(Source::CommandPeak, sample.peak_memory as f64)]);
                        Ok(())
                    })?;
                }
                for round in 1..=self.plan.rounds {
                    self.each(boundaries, round, "The command", |this, index, boundary| {
                        let sample = this.command(boundary, argv, Watch::Nothing)?;
                        this.record(
                            index,
                            &[
                                (Source::CommandWall, sample.wall.as_nanos() as f64),
                                (Source::CommandCpu, sample.cpu.as_nanos() as f64),
                            ],
                        );
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }

    /// One step for every running boundary in this round's order; a failure ends that boundary's part.
    fn each(
        &mut self,
        boundaries: &mut [Box<dyn Boundary>],
        round: u32,
        phase: &str,
        mut step: impl FnMut(&mut Self, usize, &mut dyn Boundary) -> Result<(), Reason>,
    ) -> Result<(), Error> {
        for index in rotated(boundaries.len(), round) {
            let boundary = boundaries[index].as_mut();
            if !self.rows[index].running() || (boundary.is_machine() && round > self.plan.machine_rounds) {
                continue;
            }
            self.tell(boundary, phase, round);
            let result = step(self, index, boundary);
            self.check()?;
            if let Err(reason) = result {
                self.rows[index].status = Some(Status::Failed { reason: reason.0 });
            }
            self.done += 1;
        }
        Ok(())
    }

    fn suite_round(&mut self, boundaries: &mut [Box<dyn Boundary>], program: &str, round: u32) -> Result<(), Error> {
        for measure in self.measures.clone() {
            for index in rotated(boundaries.len(), round) {
                let boundary = boundaries[index].as_mut();
                let booted = boundary.is_machine() && measure.source == Source::Inside;
                if booted
                    || round > rounds_of(self.plan, boundary.is_machine(), measure.source)
                    || !self.rows[index].wants(measure)
                {
                    continue;
                }
                self.tell(boundary, measure.title, round);
                let value = self.take(boundary, program, measure);
                self.check()?;
                self.rows[index].add(measure, value);
                self.done += 1;
            }
        }
        for index in rotated(boundaries.len(), round) {
            let boundary = boundaries[index].as_mut();
            let wanted: Vec<_> = self
                .measures
                .iter()
                .copied()
                .filter(|m| m.source == Source::Inside && self.rows[index].wants(m))
                .collect();
            if !boundary.is_machine() || round > self.plan.machine_rounds || wanted.is_empty() {
                continue;
            }
            self.tell(boundary, "All measures", round);
            let commands: Vec<_> = wanted.iter().map(|m| self.bench_command(program, m)).collect();
            let sample = self.job(boundary, &commands, Watch::Nothing, self.plan.timeout * (commands.len() as u32 + 1));
            self.check()?;
            match sample {
                Ok(sample) => {
                    for (position, measure) in wanted.into_iter().enumerate() {
                        let value = match sample.outputs.get(position) {
                            Some(output) => parse_bench(measure, output.exit, &output.stdout),
                            None => Err(Reason::new("the machine ended before this measure")),
                        };
                        self.rows[index].add(measure, value);
                    }
                }
                Err(reason) => {
                    for measure in wanted {
                        self.rows[index].add(measure, Err(reason.clone()));
                    }
                }
            }
            self.done += 1;
        }
        Ok(())
    }

    fn take(&self, boundary: &mut dyn Boundary, program: &str, measure: &'static Measure) -> Result<Value, Reason> {
        let value = |value: f64| Value { value, unit: measure.unit.into(), better: measure.better };
        match measure.source {
            Source::Start => Ok(value(self.succeed(boundary, &self.start_command(program))?.wall.as_nanos() as f64)),
            Source::Resident => {
                let command = vec![program.to_string(), "sleep".into(), "1.5".into()];
                let sample = self.job(boundary, &[command], Watch::Resident, self.plan.timeout)?;
                sample
                    .resident
                    .map(|bytes| value(bytes as f64))
                    .ok_or_else(|| Reason::new("it ended before its memory was read"))
            }
            _ => {
                let sample =
                    self.job(boundary, &[self.bench_command(program, measure)], Watch::Nothing, self.plan.timeout)?;
                let output = sample.outputs.first().cloned().unwrap_or_default();
                parse_bench(measure, output.exit, &output.stdout)
            }
        }
    }

    /// Runs the user's command; its exit status must be the same everywhere.
    fn command(&mut self, boundary: &mut dyn Boundary, argv: &[String], watch: Watch) -> Result<Sample, Reason> {
        let sample = self.job(boundary, &[argv.to_vec()], watch, self.plan.timeout)?;
        let exit = sample.outputs.first().ok_or_else(|| Reason::new("the command did not report an exit status"))?.exit;
        let (first, expected) = self.reference_exit.get_or_insert_with(|| (boundary.title().to_string(), exit));
        if exit != *expected {
            return Err(Reason(format!("the command's exit status was {exit}, behind {first} it was {expected}")));
        }
        Ok(sample)
    }

    fn record(&mut self, index: usize, values: &[(Source, f64)]) {
        for (source, value) in values {
            if let Some(measure) = self.measures.iter().copied().find(|m| m.source == *source) {
                self.rows[index]
                    .add(measure, Ok(Value { value: *value, unit: measure.unit.into(), better: measure.better }));
            }
        }
    }

    fn succeed(&self, boundary: &mut dyn Boundary, command: &[String]) -> Result<Sample, Reason> {
        let sample = self.job(boundary, &[command.to_vec()], Watch::Nothing, self.plan.timeout)?;
        match sample.outputs.first() {
            Some(output) if output.exit == 0 => Ok(sample),
            Some(output) => Err(Reason(format!(
                "`{}` ended with status {}{}",
                command.join(" "),
                output.exit,
                console::last_line(&output.stdout).map(|line| format!(": {line}")).unwrap_or_default()
            ))),
            None => Err(Reason(format!("`{}` did not report an exit status", command.join(" ")))),
        }
    }

    fn job(
        &self,
        boundary: &mut dyn Boundary,
        commands: &[Vec<String>],
        watch: Watch,
        timeout: Duration,
    ) -> Result<Sample, Reason> {
        let timeout = if boundary.is_machine() { timeout + self.plan.timeout } else { timeout };
        boundary.run_once(&Job { commands, watch, timeout, cancel: self.cancel })
    }

    fn start_command(&self, program: &str) -> Vec<String> {
        vec![program.into(), "true".into()]
    }

    fn bench_command(&self, program: &str, measure: &Measure) -> Vec<String> {
        let mut command: Vec<String> = vec![program.into(), "bench".into(), measure.name.into(), "--json".into()];
        // Files on the root file system, not in what some boundaries mount at /tmp and others do not.
        command.extend(["--dir".into(), FILES.into()]);
        command.extend(self.plan.bench_args.iter().cloned());
        command
    }

    fn check(&self) -> Result<(), Error> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn tell(&mut self, boundary: &dyn Boundary, measure: &str, round: u32) {
        let total: usize = boundaries_steps(self.plan, &self.measures, &self.rows);
        (self.progress)(Progress {
            boundary: boundary.title(),
            measure,
            round,
            done: self.done,
            total: total.max(self.done),
        });
    }

    fn report(mut self, boundaries: &[Box<dyn Boundary>]) -> Report {
        let bare = boundaries.iter().position(|b| b.id() == "bare");
        let measures = self
            .measures
            .iter()
            .map(|measure| {
                let cell = |index: usize| self.rows[index].cells.get(measure.name);
                let median = |index: usize| cell(index).and_then(|c| Summary::of(&c.samples)).map(|s| s.median);
                let (unit, better) = (0..boundaries.len())
                    .find_map(|index| cell(index)?.unit.clone())
                    .unwrap_or((measure.unit.into(), measure.better));
                let reference = bare.and_then(median);
                let results = boundaries.iter().enumerate().filter_map(|(index, boundary)| {
                    let cell = cell(index)?;
                    let outcome = match (Summary::of(&cell.samples), &cell.failure) {
                        (Some(s), _) => Outcome::Measured(Figures {
                            median: s.median,
                            p10: s.p10,
                            p90: s.p90,
                            n: s.n,
                            ratio: reference.and_then(|bare| cost_ratio(s.median, bare, better)),
                            samples: cell.samples.clone(),
                        }),
                        (None, failure) => {
                            Outcome::Failed { reason: failure.as_ref().map_or("no sample".into(), |f| f.0.clone()) }
                        }
                    };
                    Some((boundary.id().to_string(), outcome))
                });
                MeasureFacts {
                    name: measure.name.into(),
                    title: measure.title.into(),
                    group: measure.group.into(),
                    about: measure.about.into(),
                    unit,
                    better,
                    results: results.collect(),
                }
            })
            .collect();
        for (boundary, row) in boundaries.iter().zip(&self.rows) {
            for (name, cell) in &row.cells {
                if let (false, Some(failure)) = (cell.samples.is_empty(), &cell.failure) {
                    self.notes.push(format!(
                        "{}: {name} failed after {} good samples: {failure}",
                        boundary.title(),
                        cell.samples.len()
                    ));
                }
            }
        }
        let load = self.host.load_before[0];
        if load > 0.5 * self.host.cores as f64 {
            self.notes.push(format!(
                "The host was busy before the first run (load {load:.1} on {} processors): differences of a few per cent mean nothing here.",
                self.host.cores
            ));
        }
        if let Some((_, exit @ 1..)) = &self.reference_exit {
            self.notes.push(format!("The command's exit status was {exit} everywhere it ran."));
        }
        Report {
            schema: SCHEMA.into(),
            date: self.plan.date.clone(),
            preset: self.plan.preset.clone(),
            workload: match &self.plan.workload {
                Workload::Suite { .. } => "built-in measures".into(),
                Workload::Command { argv, .. } => argv.join(" "),
            },
            command: matches!(self.plan.workload, Workload::Command { .. }),
            rounds: self.plan.rounds,
            elapsed_s: self.started.elapsed().as_secs_f64(),
            host: self.host,
            boundaries: boundaries
                .iter()
                .zip(self.rows)
                .map(|(boundary, row)| BoundaryFacts {
                    id: boundary.id().into(),
                    title: boundary.title().into(),
                    mechanism: boundary.mechanism().into(),
                    version: row.version,
                    machine: boundary.is_machine(),
                    status: row.status.unwrap_or(Status::Ran),
                })
                .collect(),
            measures,
            notes: self.notes,
        }
    }
}

/// Directory in the root file system in which measures of files work.
pub(crate) const FILES: &str = "/";

/// Memory hardly varies and its workload only sleeps, so few rounds do.
const RESIDENT_ROUNDS: u32 = 2;

/// In how many rounds this kind of boundary is measured so.
fn rounds_of(plan: &Plan, machine: bool, source: Source) -> u32 {
    let rounds = if machine { plan.rounds.min(plan.machine_rounds) } else { plan.rounds };
    if source == Source::Resident { rounds.min(RESIDENT_ROUNDS) } else { rounds }
}

/// Runs of the user's command for its memory: watching disturbs, so they are not timed.
fn memory_rounds(plan: &Plan) -> u32 {
    if plan.rounds >= 5 { 3 } else { 1 }
}

/// Steps of the whole comparison as far as known: boundaries that dropped out need none.
fn boundaries_steps(plan: &Plan, measures: &[&Measure], rows: &[Row]) -> usize {
    let steps = |row: &Row| match plan.workload {
        Workload::Suite { .. } => {
            let outside = measures.iter().filter(|m| m.source != Source::Inside);
            let inside = measures.iter().filter(|m| m.source == Source::Inside).count() as u32;
            u32::from(plan.warm_up)
                + outside.map(|m| rounds_of(plan, row.machine, m.source)).sum::<u32>()
                + rounds_of(plan, row.machine, Source::Inside) * if row.machine { inside.min(1) } else { inside }
        }
        Workload::Command { .. } => memory_rounds(plan) + rounds_of(plan, row.machine, Source::CommandWall),
    };
    rows.iter().filter(|row| row.running()).map(|row| steps(row) as usize).sum()
}

/// Indices `0..count`, starting one further each round.
fn rotated(count: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (i + round as usize) % count.max(1))
}

/// The figure in the multi-call program's JSON line. The program ran behind an untrusted boundary's console: anything may
/// surround the line.
fn parse_bench(measure: &'static Measure, exit: i32, stdout: &[u8]) -> Result<Value, Reason> {
    let said = || console::last_line(stdout).map(|line| format!(": {line}")).unwrap_or_default();
    if exit != 0 {
        return Err(Reason(format!("ended with status {exit}{}", said())));
    }
    #[derive(serde::Deserialize)]
    struct Line {
        name: String,
        value: f64,
        unit: String,
        better: Better,
    }
    String::from_utf8_lossy(stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Line>(line.get(line.find('{')?..)?.trim_end()).ok())
        .find(|line| line.name == measure.name && line.value.is_finite() && line.value > 0.0)
        .map(|line| Value { value: line.value, unit: line.unit, better: line.better })
        .ok_or_else(|| Reason(format!("printed no figure for {}{}", measure.name, said())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::Output;

    type Answer = Result<(Vec<u8>, i32), Reason>;

    /// A boundary without processes: what it is asked goes into `log`.
    struct Fake {
        id: &'static str,
        machine: bool,
        unavailable: bool,
        answer: fn(&[String]) -> Answer,
        log: std::rc::Rc<std::cell::RefCell<Vec<String>>>,
    }

    impl Boundary for Fake {
        fn id(&self) -> &str {
            self.id
        }
        fn title(&self) -> &str {
            self.id
        }
        fn mechanism(&self) -> &'static str {
            "none"
        }
        fn is_machine(&self) -> bool {
            self.machine
        }
        fn available(&self) -> Result<(), Reason> {
            if self.unavailable { Err(Reason::new("not on this host")) } else { Ok(()) }
        }
        fn version(&self) -> Option<String> {
            Some("1".into())
        }
        fn prepare(&mut self, _: &Workload, _: &std::path::Path) -> Result<(), Reason> {
            Ok(())
        }
        fn run_once(&mut self, job: &Job<'_>) -> Result<Sample, Reason> {
            let mut outputs = Vec::new();
            for command in job.commands {
                self.log.borrow_mut().push(format!("{} {}", self.id, command[1..].join(" ")));
                let (stdout, exit) = (self.answer)(command)?;
                outputs.push(Output { stdout, exit });
            }
            let ms = Duration::from_millis(2);
            Ok(Sample { wall: ms, cpu: ms, peak_memory: 4096, resident: Some(8192), outputs })
        }
        fn clean_up(&mut self) {
            self.log.borrow_mut().push(format!("{} clean", self.id));
        }
    }

    fn good(command: &[String]) -> Answer {
        let name = command.get(2).map_or("", String::as_str);
        Ok((
            format!(
                r#"{{"name":"{name}","value":10.0,"unit":"ns","better":"lower","samples":3,"ops":9,"elapsed_ns":1}}"#
            )
            .into(),
            0,
        ))
    }

    fn slow(command: &[String]) -> Answer {
        let (text, exit) = good(command)?;
        Ok((String::from_utf8_lossy(&text).replace("10.0", "25.0").into(), exit))
    }

    fn broken(command: &[String]) -> Answer {
        if command.get(2).is_some_and(|n| n == "syscall") { Ok((b"no such call\n".to_vec(), 1)) } else { good(command) }
    }

    type Log = std::rc::Rc<std::cell::RefCell<Vec<String>>>;

    fn fakes(log: &Log) -> Vec<Box<dyn Boundary>> {
        let fake = |id, machine, unavailable, answer| -> Box<dyn Boundary> {
            Box::new(Fake { id, machine, unavailable, answer, log: log.clone() })
        };
        vec![
            fake("bare", false, false, good),
            fake("broken", false, false, broken as fn(&[String]) -> _),
            fake("absent", false, true, good),
            fake("box", true, false, slow),
        ]
    }

    fn plan(rounds: u32) -> Plan {
        let mut plan =
            Plan::new(Workload::Suite { rootfs: "/".into(), program: "/bin/toolbox".into() }, Preset::Quick, "a date");
        plan.rounds = rounds;
        plan.measures.retain(|m| matches!(m.name, "start" | "resident" | "integer" | "syscall"));
        plan
    }

    #[test]
    fn a_failing_cell_spoils_nothing_else() {
        let log = Log::default();
        let mut steps = Vec::new();
        let report =
            compare(&plan(4), &mut fakes(&log), &mut |p| steps.push((p.done, p.total)), &AtomicBool::new(false))
                .unwrap();
        let get = |name: &str| report.measures.iter().find(|m| m.name == name).unwrap();
        assert_eq!(get("integer").figures("bare").unwrap().n, 4);
        assert_eq!(get("integer").figures("box").unwrap().n, 1, "machines have fewer rounds");
        assert_eq!(get("integer").figures("box").unwrap().ratio, Some(2.5));
        assert_eq!(get("resident").figures("bare").unwrap().n, 2);
        let Outcome::Failed { reason } = &get("syscall").results["broken"] else { panic!("it failed") };
        assert_eq!(reason, "ended with status 1: no such call");
        assert_eq!(report.boundaries[2].status, Status::Unavailable { reason: "not on this host".into() });
        assert_eq!(report.ran().count(), 3);
        assert_eq!(log.borrow().iter().filter(|l| l.starts_with("broken bench syscall")).count(), 1, "not tried again");
        assert_eq!(log.borrow().iter().filter(|l| l.ends_with("clean")).count(), 3);
        assert!(steps.iter().all(|(done, total)| done <= total), "{steps:?}");
        let (done, total) = steps.last().unwrap();
        assert!(total - done <= 4, "{done} of {total}");
    }

    #[test]
    fn the_order_rotates() {
        let log = Log::default();
        compare(&plan(2), &mut fakes(&log), &mut |_| {}, &AtomicBool::new(false)).unwrap();
        let order: Vec<String> =
            log.borrow().iter().filter(|l| l.contains("integer") && !l.starts_with("box")).cloned().collect();
        assert_eq!(
            order[..2],
            ["broken bench integer --json --dir / --seconds 0.2", "bare bench integer --json --dir / --seconds 0.2"]
        );
        assert_eq!(
            order[2..],
            ["bare bench integer --json --dir / --seconds 0.2", "broken bench integer --json --dir / --seconds 0.2"]
        );
    }

    #[test]
    fn cancelling_cleans_up() {
        let log = Log::default();
        let cancel = AtomicBool::new(false);
        let mut count = 0;
        let result = compare(
            &plan(2),
            &mut fakes(&log),
            &mut |_| {
                count += 1;
                cancel.store(count == 6, Ordering::Relaxed);
            },
            &cancel,
        );
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert_eq!(log.borrow().iter().filter(|l| l.ends_with("clean")).count(), 3);
    }

    #[test]
    fn an_exit_status_that_differs_is_a_failure() {
        let log = Log::default();
        let mut boundaries = fakes(&log);
        boundaries.truncate(2);
        let workload = Workload::Command {
            rootfs: "/".into(),
            argv: vec!["a".into(), "b".into(), "syscall".into()],
            env: vec![],
            cwd: "/".into(),
        };
        let report =
            compare(&Plan::new(workload, Preset::Quick, ""), &mut boundaries, &mut |_| {}, &AtomicBool::new(false))
                .unwrap();
        assert_eq!(
            report.boundaries[1].status,
            Status::Failed { reason: "the command's exit status was 1, behind bare it was 0".into() }
        );
        assert_eq!(report.measures.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["wall", "cpu", "peak"]);
        assert_eq!(report.measures[0].figures("bare").unwrap().n, 4);
    }

    #[test]
    fn nothing_to_do_is_an_error() {
        let log = Log::default();
        let mut none = plan(1);
        none.measures.clear();
        assert!(matches!(compare(&none, &mut fakes(&log), &mut |_| {}, &AtomicBool::new(false)), Err(Error::Empty(_))));
        assert!(matches!(
            compare(&plan(1), &mut [], &mut |_| {}, &AtomicBool::new(false)),
            Err(Error::Empty("boundary"))
        ));
        let mut lost = plan(1);
        lost.workload = Workload::Suite { rootfs: "/no/such/place".into(), program: "/x".into() };
        assert!(matches!(
            compare(&lost, &mut fakes(&log), &mut |_| {}, &AtomicBool::new(false)),
            Err(Error::Rootfs { .. })
        ));
    }

    #[test]
    fn a_figure_is_found_in_noise_and_nothing_else_counts() {
        let measure = Measure::named("hash").unwrap();
        let line = r#"[ 1.2] x {"name":"hash","value":812.5,"unit":"MB/s","better":"higher","samples":1,"ops":2,"elapsed_ns":3}"#;
        let value = parse_bench(measure, 0, format!("noise\n\u{7}{line}\r\nmore").as_bytes()).unwrap();
        assert_eq!((value.value, value.unit.as_str(), value.better), (812.5, "MB/s", Better::Higher));
        for bad in [
            "",
            "{",
            "{\"name\":\"hash\"}",
            &line.replace("812.5", "-1"),
            &line.replace("hash", "float"),
            &line.replace("812.5", "\"a\""),
        ] {
            assert!(parse_bench(measure, 0, bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse_bench(measure, 0, &[0xff, 0xfe, b'{', b'\n', 0]).is_err());
        assert!(parse_bench(measure, 1, line.as_bytes()).is_err());
    }
}
