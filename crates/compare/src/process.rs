//! One measured run of host processes: started, read, watched from outside, and ended whatever happens.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::boundary::{Reason, Watch};
use crate::sys::{self, Note, Script, Step, View};

/// A run's output beyond this many bytes is read and dropped.
const OUTPUT_MAX: usize = 16 << 20;
/// How long processes that outlive the program itself may take to end.
const LINGER: Duration = Duration::from_secs(5);

/// What to start on the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Invocation {
    /// One program after another; one, except where a container's life is several.
    pub steps: Vec<Vec<String>>,
    /// `NAME=value`; nothing is inherited.
    pub env: Vec<String>,
    /// Absolute directory, inside the new root if there is one.
    pub cwd: PathBuf,
    /// Another root, with the host's `/proc`, `/sys` and `/dev` in it.
    pub root: Option<PathBuf>,
    /// A mount to hide: the unified hierarchy beside v1, which some runtimes refuse.
    pub hide: Option<PathBuf>,
    /// Text in the output after which a resident workload counts as asleep.
    pub ready: Option<String>,
    /// Whether output goes to `/dev/null`.
    pub quiet: bool,
    /// Whether orphans are reaped before the last program starts, as a container engine's shim does before it deletes.
    pub as_shim: bool,
}

impl Invocation {
    /// One program with the host's view and a plain environment.
    pub fn of(argv: Vec<String>) -> Invocation {
        Invocation {
            steps: vec![argv],
            env: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                "HOME=/root".into(),
                "LC_ALL=C".into(),
            ],
            cwd: "/".into(),
            ..Invocation::default()
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finished {
    /// From the start of the first program to the end of the last.
    pub wall: Duration,
    /// Wall time of each program.
    pub steps: Vec<Duration>,
    /// User and system time of all.
    pub cpu: Duration,
    /// Exit status of the last program, 128 + signal if a signal ended it.
    pub exit: i32,
    /// Largest resident set of one process, bytes.
    pub max_rss: u64,
    /// Largest sum of proportional set sizes seen, bytes; zero if not watched.
    pub peak: u64,
    /// Settled sum, bytes.
    pub resident: Option<u64>,
    /// Standard output and error.
    pub output: Vec<u8>,
}

/// Runs and waits. All processes have ended when it returns.
pub(crate) fn run(
    invocation: &Invocation,
    watch: Watch,
    timeout: Duration,
    cancel: &AtomicBool,
) -> Result<Finished, Reason> {
    let script = script(invocation)?;
    let started = || -> io::Result<(OwnedFd, OwnedFd, i32)> {
        let (output, output_write) = sys::pipe()?;
        let (report, report_write) = sys::pipe()?;
        let null;
        let out = if invocation.quiet {
            null = fs::OpenOptions::new().write(true).open("/dev/null")?;
            null.as_fd()
        } else {
            output_write.as_fd()
        };
        let pid = sys::start_watcher(&script, out, report_write.as_fd())?;
        Ok((output, report, pid))
    };
    let (output, report, pid) =
        started().map_err(|e| Reason(format!("cannot start {}: {e}", invocation.steps[0][0])))?;
    let mut run = Run {
        watcher: Watcher(pid),
        output,
        report,
        notes: Vec::new(),
        text: Vec::new(),
        memory: Memory::new(watch),
        ready: invocation.ready.clone().map(String::into_bytes),
        begun: Instant::now(),
    };
    run.wait(invocation, timeout, cancel)
}

fn script(invocation: &Invocation) -> Result<Script, Reason> {
    let c = |text: &str| CString::new(text).map_err(|_| Reason(format!("{text:?} contains a zero byte")));
    let path = |path: &Path| c(&path.to_string_lossy());
    let last = invocation.steps.len().saturating_sub(1);
    let mut steps = Vec::new();
    for (index, argv) in invocation.steps.iter().enumerate() {
        let program = argv.first().ok_or_else(|| Reason::new("the command is empty"))?;
        let found = find_program(program, invocation.root.as_deref(), &invocation.env)
            .ok_or_else(|| Reason(format!("{program}: no such program")))?;
        steps.push(Step {
            program: path(&found)?,
            argv: argv.iter().map(|a| c(a)).collect::<Result<_, _>>()?,
            reap_orphans: invocation.as_shim && index + 1 == last,
        });
    }
    if steps.is_empty() {
        return Err(Reason::new("nothing to run"));
    }
    let view = match (&invocation.root, &invocation.hide) {
        (Some(root), _) => {
            let mut binds = Vec::new();
            for name in ["proc", "sys", "dev"] {
                if root.join(name).is_dir() {
                    binds.push((path(&Path::new("/").join(name))?, path(&root.join(name))?));
                }
            }
            View::Root { root: path(root)?, binds }
        }
        (None, Some(hide)) => View::Without(path(hide)?),
        (None, None) => View::Host,
    };
    Ok(Script {
        steps,
        env: invocation.env.iter().map(|e| c(e)).collect::<Result<_, _>>()?,
        cwd: path(&invocation.cwd)?,
        view,
    })
}

/// Where a program is, by the environment's `PATH` unless it is a path; inside `root` if given, and then as seen from there.
pub(crate) fn find_program(program: &str, root: Option<&Path>, env: &[String]) -> Option<PathBuf> {
    // A link may point anywhere inside the root, so only its existence can be seen from here.
    let there = |path: &Path| {
        let outside = root.map_or(path.to_path_buf(), |root| root.join(path.strip_prefix("/").unwrap_or(path)));
        fs::symlink_metadata(outside).is_ok_and(|m| !m.is_dir())
    };
    if program.contains('/') {
        let path = PathBuf::from(program);
        return there(&path).then_some(path);
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH="))?;
    path.split(':').map(|directory| Path::new(directory).join(program)).find(|candidate| there(candidate))
}

/// The watcher of a run: dropping it ends everything it ever started.
struct Watcher(i32);

impl Watcher {
    /// Every process of the run, the watcher not included.
    fn tree(&self) -> Vec<i32> {
        descendants(self.0)
    }

    /// Asks politely, then ends everything. Bounded: what the kernel cannot end is left to it.
    fn end(&self) {
        let patience = Instant::now() + Duration::from_secs(1);
        for pid in self.tree() {
            sys::kill(pid, libc::SIGTERM);
        }
        while Instant::now() < patience && !self.tree().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        for _ in 0..250 {
            let tree = self.tree();
            if tree.is_empty() {
                break;
            }
            for pid in tree {
                sys::kill(pid, libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if sys::reap(self.0) {
            return;
        }
        self.end();
        for _ in 0..250 {
            if sys::reap(self.0) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        sys::kill(self.0, libc::SIGKILL);
        for _ in 0..250 {
            if sys::reap(self.0) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Run {
    watcher: Watcher,
    output: OwnedFd,
    report: OwnedFd,
    notes: Vec<u8>,
    text: Vec<u8>,
    memory: Memory,
    ready: Option<Vec<u8>>,
    begun: Instant,
}

impl Run {
    fn wait(&mut self, invocation: &Invocation, timeout: Duration, cancel: &AtomicBool) -> Result<Finished, Reason> {
        let name = &invocation.steps[0][0];
        let mut deadline = self.begun + timeout;
        let mut lingering = false;
        let mut open = true;
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(Reason::new("cancelled"));
            }
            let now = Instant::now();
            if now >= deadline {
                if lingering {
                    break; // The program itself ended in time; the guard ends the rest.
                }
                let said =
                    crate::console::last_line(&self.text).map(|l| format!(" (last output: {l})")).unwrap_or_default();
                return Err(Reason(format!("did not end within {} s{said}", timeout.as_secs())));
            }
            // Cancelling must be noticed, so never sleep longer than this.
            let mut sleep = (deadline - now).min(Duration::from_millis(100));
            if let Some(next) = self.memory.next() {
                sleep = sleep.min(next.saturating_duration_since(now));
            }
            let wait = Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: sleep.subsec_nanos().into() };
            let readable = {
                let mut fds = [PollFd::new(&self.report, PollFlags::IN), PollFd::new(&self.output, PollFlags::IN)];
                let count = if open { 2 } else { 1 };
                match poll(&mut fds[..count], Some(&wait)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(Reason(format!("poll: {e}"))),
                }
                [!fds[0].revents().is_empty(), count == 2 && !fds[1].revents().is_empty()]
            };
            if readable[1] {
                open = read_some(&self.output, &mut self.text, OUTPUT_MAX);
            }
            if readable[0] && !read_some(&self.report, &mut self.notes, 1 << 16) {
                break;
            }
            let notes = self.notes();
            if notes.last().is_some_and(|n| n.kind != Note::STEP) {
                break;
            }
            if !lingering && notes.len() == invocation.steps.len() {
                lingering = true;
                deadline = Instant::now() + LINGER;
            }
            if notes.is_empty() || invocation.steps.len() > 1 {
                self.memory.tick(
                    &self.watcher,
                    self.ready.as_deref().is_none_or(|r| contains(&self.text, r)),
                    self.begun,
                );
            }
        }
        // What was written before the end is still in the pipe; a survivor could hold it open, so only what is there now.
        while open
            && poll(&mut [PollFd::new(&self.output, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
        {
            open = read_some(&self.output, &mut self.text, OUTPUT_MAX);
        }
        let notes = self.notes();
        if let Some(failed) = notes.iter().find(|n| n.kind == Note::FAILED) {
            return Err(Reason(format!("cannot start {name}: {}", io::Error::from_raw_os_error(failed.status))));
        }
        let steps: Vec<&Note> = notes.iter().filter(|n| n.kind == Note::STEP).collect();
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
            return Err(Reason(format!("{name}: its watcher was killed")));
        };
        if steps.len() < invocation.steps.len() {
            return Err(Reason(format!("{name}: its watcher was killed")));
        }
        Ok(Finished {
            wall: Duration::from_nanos(last.end_ns.saturating_sub(first.begin_ns)),
            steps: steps.iter().map(|n| Duration::from_nanos(n.end_ns.saturating_sub(n.begin_ns))).collect(),
            cpu: Duration::from_nanos(notes.iter().map(|n| n.cpu_ns).sum()),
            exit: exit_status(steps.iter().map(|n| n.status).find(|s| *s != 0).unwrap_or(0)),
            max_rss: notes.iter().map(|n| n.max_rss).max().unwrap_or(0),
            peak: self.memory.peak,
            resident: self.memory.resident(),
            output: std::mem::take(&mut self.text),
        })
    }

    fn notes(&self) -> Vec<Note> {
        let (records, _) = self.notes.as_chunks::<{ Note::SIZE }>();
        records.iter().map(Note::from_bytes).collect()
    }
}

/// Reads once; false at the end. Beyond `max` the bytes are dropped.
fn read_some(fd: &OwnedFd, into: &mut Vec<u8>, max: usize) -> bool {
    let mut buffer = [0; 65536];
    match rustix::io::read(fd, &mut buffer) {
        Ok(0) => false,
        Ok(n) => {
            let room = max.saturating_sub(into.len());
            into.extend_from_slice(&buffer[..n.min(room)]);
            true
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
        Err(_) => false,
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|w| w == needle)
}

/// A wait status as a shell reports it.
fn exit_status(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// The sum of proportional set sizes over time.
struct Memory {
    watch: Watch,
    next: Instant,
    samples: Vec<u64>,
    peak: u64,
    settled: Option<u64>,
    asleep_since: Option<Instant>,
}

impl Memory {
    fn new(watch: Watch) -> Memory {
        Memory { watch, next: Instant::now(), samples: Vec::new(), peak: 0, settled: None, asleep_since: None }
    }

    fn next(&self) -> Option<Instant> {
        (self.watch != Watch::Nothing).then_some(self.next)
    }

    fn tick(&mut self, watcher: &Watcher, ready: bool, begun: Instant) {
        let now = Instant::now();
        if self.watch == Watch::Nothing || now < self.next {
            return;
        }
        let sum: u64 = watcher.tree().into_iter().filter_map(proportional_set_size).sum();
        let cost = now.elapsed();
        self.peak = self.peak.max(sum);
        // Reading page tables holds the workload up: keep that below a twentieth of its time.
        let interval = if self.watch == Watch::Peak { 5 + begun.elapsed().as_millis() as u64 / 20 } else { 100 };
        self.next = Instant::now() + (cost * 20).max(Duration::from_millis(interval.min(100)));
        if self.watch == Watch::Resident && ready {
            let since = *self.asleep_since.get_or_insert(now);
            self.samples.push(sum);
            if since.elapsed() >= Duration::from_millis(500)
                && let [.., a, b, c] = self.samples[..]
            {
                let (low, high) = (a.min(b).min(c), a.max(b).max(c));
                if low > 0 && high - low <= high / 50 {
                    self.settled = Some(c);
                }
            }
        }
    }

    /// The settled value; what never settled is given by its largest, not its luckiest, value.
    fn resident(&self) -> Option<u64> {
        self.settled.or_else(|| self.samples.iter().copied().max().filter(|&bytes| bytes > 0))
    }
}

/// `Pss` of `smaps_rollup`, bytes. `None` for a process that is gone.
fn proportional_set_size(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = text.lines().find_map(|l| l.strip_prefix("Pss:"))?.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(kib * 1024)
}

/// Every living descendant of `root`, itself excluded.
fn descendants(root: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((state, parent)) = state_and_parent(&stat)
            && state != 'Z'
        {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut index = 0;
    while index < found.len() {
        let parent = found[index];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        index += 1;
    }
    found.split_off(1)
}

/// State and parent in `/proc/PID/stat`, whose second field may contain anything, parentheses and spaces included.
fn state_and_parent(stat: &str) -> Option<(char, i32)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Invocation {
        Invocation::of(vec!["/bin/sh".into(), "-c".into(), script.into()])
    }

    fn go(invocation: &Invocation) -> Result<Finished, Reason> {
        run(invocation, Watch::Nothing, Duration::from_secs(20), &AtomicBool::new(false))
    }

    #[test]
    fn output_and_status() {
        let f = go(&sh("echo out; echo err >&2; exit 7")).unwrap();
        assert_eq!((f.exit, String::from_utf8_lossy(&f.output).as_ref()), (7, "out\nerr\n"));
        assert!(f.wall > Duration::ZERO && f.max_rss > 100 << 10);
    }

    #[test]
    fn a_signal_is_a_status() {
        assert_eq!(go(&sh("kill -9 $$")).unwrap().exit, 137);
    }

    #[test]
    fn no_such_program() {
        let e = go(&Invocation::of(vec!["/no/such/program".into()])).unwrap_err();
        assert!(e.0.contains("/no/such/program"), "{e}");
    }

    #[test]
    fn orphans_are_counted_and_awaited() {
        let begun = Instant::now();
        let f = go(&sh("(sleep 0.3; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done) & exit 0")).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert!(f.wall < Duration::from_millis(300), "the program itself ended before: {:?}", f.wall);
        assert!(f.cpu > Duration::from_millis(10), "the orphan's processor time counts: {:?}", f.cpu);
    }

    /// Processes whose command line contains `word`.
    fn living(word: &str) -> usize {
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter(|e| fs::read(e.path().join("cmdline")).is_ok_and(|c| contains(&c, word.as_bytes()))).count()
    }

    #[test]
    fn a_timeout_ends_even_what_hides_in_its_own_session() {
        let e = run(
            &sh("setsid setsid sleep 4242.17 & trap '' TERM; sleep 4242.17"),
            Watch::Nothing,
            Duration::from_millis(400),
            &AtomicBool::new(false),
        )
        .unwrap_err();
        assert!(e.0.contains("did not end"), "{e}");
        assert_eq!(living("4242.17"), 0);
    }

    #[test]
    fn cancelling_ends_it_at_once() {
        let cancel = AtomicBool::new(false);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                cancel.store(true, Ordering::Relaxed);
            });
            let e = run(&sh("sleep 4243.17"), Watch::Nothing, Duration::from_secs(60), &cancel).unwrap_err();
            assert_eq!(e.0, "cancelled");
        });
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(living("4243.17"), 0);
    }

    #[test]
    fn memory_of_the_whole_tree() {
        let script = "dd if=/dev/zero of=/dev/null bs=24M count=1 2>/dev/null; sleep 0.6";
        let alone = run(&sh("sleep 1.2"), Watch::Resident, Duration::from_secs(20), &AtomicBool::new(false)).unwrap();
        let small = alone.resident.unwrap();
        assert!(small > 50 << 10 && small < 16 << 20, "{small}");
        let f = run(&sh(script), Watch::Peak, Duration::from_secs(20), &AtomicBool::new(false)).unwrap();
        assert!(f.max_rss > 20 << 20, "{}", f.max_rss);
    }

    #[test]
    fn several_programs_as_a_shim_runs_them() {
        let mut invocation = sh("exit 0");
        invocation.steps = vec![
            vec!["/bin/sh".into(), "-c".into(), "sleep 0.2 & exit 0".into()],
            vec!["/bin/true".into()],
            vec!["/bin/true".into()],
        ];
        invocation.as_shim = true;
        let f = go(&invocation).unwrap();
        assert_eq!((f.exit, f.steps.len()), (0, 3));
        assert!(f.wall >= Duration::from_millis(200), "the orphan is reaped before the last program: {:?}", f.wall);
    }

    #[test]
    fn stat_with_a_hostile_name() {
        assert_eq!(state_and_parent("12 (a) S 1) R 7 1 1"), Some(('R', 7)));
        assert_eq!(state_and_parent("garbage"), None);
        assert_eq!(state_and_parent(""), None);
    }

    #[test]
    fn a_flood_of_output_is_bounded() {
        let f = go(&sh("head -c 20000000 /dev/zero")).unwrap();
        assert_eq!(f.output.len(), OUTPUT_MAX);
    }
}
