//! The workloads of `strata compare`. Each kernel runs in batches for a bounded time; a batch is long enough that the
//! clock, read through the vDSO between batches only, does not matter; the median batch is reported, so that a
//! disturbance of one batch is not. Work whose result is unused is kept by `black_box`.

use crate::io::{self, Out};
use crate::sys::{self, Fd};
use crate::{err, net, options, out, sha256};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::hint::black_box;

type Outcome<T> = core::result::Result<T, String>;

/// How a batch's time becomes the reported number.
#[derive(Clone, Copy)]
enum Report {
    /// Time of one operation, in this many nanoseconds.
    Latency(&'static str, f64),
    /// Operations, each worth this many units, in a second.
    Rate(&'static str, f64),
}

struct Workload {
    name: &'static str,
    help: &'static str,
    run: fn(&Bench) -> Outcome<Measured>,
}

struct Measured {
    report: Report,
    /// Nanoseconds an operation, of each batch.
    batches: Vec<f64>,
    ops: u64,
    elapsed: u64,
}

const WORKLOADS: &[Workload] = &[
    Workload { name: "integer", help: "xorshift, Collatz and a sieve on one core", run: integer },
    Workload { name: "float", help: "f64 matrix product, AVX2 where there", run: |b| float(b, true) },
    Workload { name: "float-sse2", help: "f64 matrix product with baseline instructions", run: |b| float(b, false) },
    Workload { name: "hash", help: "SHA-256 in ordinary instructions", run: hash },
    Workload { name: "membw", help: "copying 32 MiB", run: memory_copy },
    Workload { name: "memread", help: "reading 32 MiB", run: memory_read },
    Workload { name: "memlat", help: "dependent loads over 64 MiB", run: memory_latency },
    Workload { name: "syscall", help: "getppid", run: syscall },
    Workload { name: "clock", help: "clock_gettime", run: clock },
    Workload { name: "fork", help: "fork, exit, wait", run: |b| fork(b, false) },
    Workload { name: "forkexec", help: "fork, exec of true, wait", run: |b| fork(b, true) },
    Workload { name: "pagefault", help: "mmap, touch and munmap of one page", run: |b| pages(b, 1) },
    Workload { name: "pagefaults", help: "the same for 256 pages, per page", run: |b| pages(b, 256) },
    Workload { name: "pipe", help: "round trip between two processes over pipes", run: pipe },
    Workload { name: "file", help: "create, write 4 KiB, read, unlink", run: file },
    Workload { name: "seqio", help: "write 64 MiB, fsync, read it back", run: sequential },
    Workload { name: "randread", help: "4 KiB pread at random places of 16 MiB", run: |b| random(b, false) },
    Workload { name: "randio", help: "4 KiB pwrite at random places of 16 MiB", run: |b| random(b, true) },
    Workload { name: "tcprtt", help: "one-byte round trip over loopback TCP", run: tcp_round_trip },
    Workload { name: "tcpbw", help: "bulk transfer over loopback TCP", run: tcp_bandwidth },
    Workload { name: "resident", help: "resident memory of this process", run: resident },
];

struct Bench {
    nanoseconds: u64,
    ops: Option<u64>,
    directory: Vec<u8>,
}

/// The applet.
pub fn main(args: &[&[u8]]) -> i32 {
    let o = options!(args, "s:n:jd:", &[("seconds", b's'), ("ops", b'n'), ("json", b'j'), ("dir", b'd')]);
    let name = o.operands.first().copied().unwrap_or(b"LIST");
    // Measured from outside, by whoever starts this.
    if name == b"start" {
        return 0;
    }
    if name.eq_ignore_ascii_case(b"list") {
        let mut out = Out::new(1);
        out!(out, "{:<12} exit at once, measured from outside\n", "start");
        WORKLOADS.iter().for_each(|w| out!(out, "{:<12} {}\n", w.name, w.help));
        return 0;
    }
    let Some(workload) = WORKLOADS.iter().find(|w| w.name.as_bytes() == name) else {
        err!("bench: {}: no such workload; bench LIST names them", io::Text(name));
        return 2;
    };
    let seconds = o
        .value(b's')
        .map_or(Some(1_000_000_000), crate::system::duration)
        .filter(|n| *n > 0 && *n < 3600 * 1_000_000_000);
    let ops = o.value(b'n').map(|n| io::number(n).filter(|n| *n > 0));
    let (Some(nanoseconds), false) = (seconds, ops == Some(None)) else {
        err!("bench: --seconds is between 0 and 3600, --ops at least 1");
        return 2;
    };
    let directory = match o.value(b'd') {
        Some(directory) => directory.to_vec(),
        None if sys::access(b"/tmp", libc::W_OK).is_ok() => b"/tmp".to_vec(),
        None => b".".to_vec(),
    };
    let bench = Bench { nanoseconds, ops: ops.flatten().map(|n| n as u64), directory };
    let mut measured = match (workload.run)(&bench) {
        Ok(measured) => measured,
        Err(message) => {
            err!("bench: {}: {message}", workload.name);
            return 1;
        }
    };
    let median = median(&mut measured.batches);
    let (value, unit, better) = match measured.report {
        Report::Latency(unit, scale) => (median / scale, unit, "lower"),
        Report::Rate(unit, worth) => (worth * 1e9 / median.max(1e-9), unit, "higher"),
    };
    let (samples, ops, elapsed) = (measured.batches.len(), measured.ops, measured.elapsed);
    let mut out = Out::new(1);
    if !o.has(b'j') {
        out!(
            out,
            "{}: {value:.3} {unit} ({better} is better; median of {samples} batches, {ops} operations)\n",
            workload.name
        );
    }
    out!(out, "{{\"name\":\"{}\",\"value\":{value:.6},\"unit\":\"{unit}\",\"better\":\"{better}\",", workload.name);
    out!(out, "\"samples\":{samples},\"ops\":{ops},\"elapsed_ns\":{elapsed}}}\n");
    0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

impl Bench {
    /// Runs `kernel`, which does as many operations as it is told, in batches.
    fn measure(&self, report: Report, mut kernel: impl FnMut(u64) -> Outcome<()>) -> Outcome<Measured> {
        const BATCHES: u64 = 20;
        // The first calls warm caches and find how many operations fill a batch.
        let target = self.nanoseconds / BATCHES;
        let mut size = 1;
        if let Some(ops) = self.ops {
            size = (ops / BATCHES).max(1);
            kernel(size.min(100))?;
        } else {
            loop {
                let start = sys::now();
                kernel(size)?;
                let took = (sys::now() - start).max(1);
                if took >= target / 2 || size >= 1 << 40 {
                    size = ((size as f64 * target as f64 / took as f64) as u64).max(1);
                    break;
                }
                size *= if took < target / 16 { 8 } else { 2 };
            }
        }
        let mut batches = Vec::new();
        let start = sys::now();
        let mut last = start;
        let mut done = 0;
        loop {
            let count = self.ops.map_or(size, |ops| size.min(ops - done));
            kernel(count)?;
            let now = sys::now();
            batches.push((now - last) as f64 / count as f64);
            last = now;
            done += count;
            let finished = match self.ops {
                Some(ops) => done >= ops,
                None => now - start >= self.nanoseconds && batches.len() >= 3,
            };
            if finished || batches.len() >= 10_000 {
                return Ok(Measured { report, batches, ops: done, elapsed: last - start });
            }
        }
    }
}

fn failed(what: &str) -> impl Fn(sys::Errno) -> String + '_ {
    move |error| format!("{what}: {error}")
}

// ---- processor and memory ----

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// One operation: 64 pseudo-random numbers, the Collatz path of one of them, and a sieve of the first 512 numbers.
fn integer(bench: &Bench) -> Outcome<Measured> {
    let mut state = black_box(0x9e37_79b9_7f4a_7c15u64);
    bench.measure(Report::Rate("kops/s", 1e-3), |ops| {
        for _ in 0..ops {
            let mut sum = 0u64;
            for _ in 0..64 {
                sum = sum.wrapping_mul(31).wrapping_add(xorshift(&mut state));
            }
            let mut number = sum & 0xffff | 1;
            let mut steps = 0;
            while number != 1 && steps < 1000 {
                number = if number & 1 == 0 { number / 2 } else { 3 * number + 1 };
                steps += 1;
            }
            let mut composite = [false; 512];
            let limit = black_box(512);
            let mut primes = 0;
            for candidate in 2..limit {
                if !composite[candidate] {
                    primes += 1;
                    for multiple in (candidate * candidate..limit).step_by(candidate) {
                        composite[multiple] = true;
                    }
                }
            }
            black_box((sum, steps, primes));
        }
        Ok(())
    })
}

const SIDE: usize = 64;

/// `c = a b`, all `SIDE` square. The inner loop has no dependence between its turns, for the vector units' sake.
#[inline(always)]
fn multiply(a: &[f64], b: &[f64], c: &mut [f64]) {
    for (row, out) in a.chunks_exact(SIDE).zip(c.chunks_exact_mut(SIDE)) {
        let mut sums = [0.0f64; SIDE];
        for (factor, line) in row.iter().zip(b.chunks_exact(SIDE)) {
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum += *factor * *value;
            }
        }
        out.copy_from_slice(&sums);
    }
}

fn float(bench: &Bench, vector: bool) -> Outcome<Measured> {
    let mut state = 1;
    let mut matrix = || (0..SIDE * SIDE).map(|_| (xorshift(&mut state) >> 40) as f64 / 1e7).collect::<Vec<f64>>();
    let (a, b, mut c) = (matrix(), matrix(), alloc::vec![0.0; SIDE * SIDE]);
    let gflop = 2.0 * (SIDE * SIDE * SIDE) as f64 / 1e9;
    bench.measure(Report::Rate("GFLOP/s", gflop), |ops| {
        for _ in 0..ops {
            let (a, b) = (black_box(a.as_slice()), black_box(b.as_slice()));
            let done = vector
                && sys::with_avx2(
                    #[inline(always)]
                    || multiply(a, b, &mut c),
                );
            if !done {
                multiply(a, b, &mut c);
            }
            black_box(&mut c);
        }
        Ok(())
    })
}

fn hash(bench: &Bench) -> Outcome<Measured> {
    let block = alloc::vec![0x5au8; 64 << 10];
    bench.measure(Report::Rate("MB/s", block.len() as f64 / 1e6), |ops| {
        for _ in 0..ops {
            let mut hash = sha256::Sha256::default();
            hash.update(black_box(&block));
            black_box(hash.hexadecimal());
        }
        Ok(())
    })
}

const BUFFER: usize = 32 << 20;

fn memory_copy(bench: &Bench) -> Outcome<Measured> {
    let from: Vec<u64> = (0..BUFFER as u64 / 8).collect();
    let mut to = from.clone();
    bench.measure(Report::Rate("GB/s", BUFFER as f64 / 1e9), |ops| {
        for _ in 0..ops {
            black_box(&mut to).copy_from_slice(black_box(&from));
        }
        Ok(())
    })
}

fn memory_read(bench: &Bench) -> Outcome<Measured> {
    let from: Vec<u64> = (0..BUFFER as u64 / 8).collect();
    bench.measure(Report::Rate("GB/s", BUFFER as f64 / 1e9), |ops| {
        for _ in 0..ops {
            let mut sums = [0u64; 8];
            for chunk in black_box(&from).as_chunks::<8>().0 {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*value);
                }
            }
            black_box(sums);
        }
        Ok(())
    })
}

/// Lines of 64 bytes linked into one random cycle (Sattolo's shuffle): each load needs the one before.
fn memory_latency(bench: &Bench) -> Outcome<Measured> {
    let count = (64 << 20) / 64;
    let mut lines: Vec<[u32; 16]> = (0..count as u32).map(|n| [n; 16]).collect();
    let mut state = 88_172_645_463_325_252;
    for last in (1..count).rev() {
        let other = (xorshift(&mut state) % last as u64) as usize;
        let (a, b) = (lines[last][0], lines[other][0]);
        (lines[last][0], lines[other][0]) = (b, a);
    }
    let mut at = 0usize;
    bench.measure(Report::Latency("ns", 1.0), |ops| {
        for _ in 0..ops {
            at = lines[at][0] as usize;
        }
        black_box(at);
        Ok(())
    })
}

// ---- kernel ----

fn syscall(bench: &Bench) -> Outcome<Measured> {
    bench.measure(Report::Latency("ns", 1.0), |ops| {
        for _ in 0..ops {
            black_box(sys::getppid());
        }
        Ok(())
    })
}

fn clock(bench: &Bench) -> Outcome<Measured> {
    bench.measure(Report::Latency("ns", 1.0), |ops| {
        for _ in 0..ops {
            black_box(sys::now());
        }
        Ok(())
    })
}

fn fork(bench: &Bench, exec: bool) -> Outcome<Measured> {
    let paths = [sys::executable().unwrap_or(b"/proc/self/exe"), b"/proc/self/exe"];
    bench.measure(Report::Latency("us", 1e3), |ops| {
        for _ in 0..ops {
            match sys::fork().map_err(failed("fork"))? {
                None => {
                    if exec {
                        for path in paths {
                            sys::execve(path, &[b"true"], &[]);
                        }
                        sys::exit(127);
                    }
                    sys::exit(0)
                }
                Some(pid) => match sys::wait_for(pid) {
                    sys::End::Exited(0) => {}
                    end => return Err(format!("the child ended with {end:?}")),
                },
            }
        }
        Ok(())
    })
}

fn pages(bench: &Bench, count: u64) -> Outcome<Measured> {
    bench.measure(Report::Latency("ns", 1.0), |ops| {
        // Whole mappings; measure() divides by the operations asked for, so the rest is a smaller mapping.
        let mut left = ops;
        while left > 0 {
            let now = left.min(count);
            sys::touch_pages(now as usize).map_err(failed("mmap"))?;
            left -= now;
        }
        Ok(())
    })
}

/// A child process that ends when this value does.
struct Child(i32);

impl Child {
    fn start(body: impl FnOnce()) -> Outcome<Self> {
        match sys::fork().map_err(failed("fork"))? {
            None => {
                sys::die_with_parent();
                body();
                sys::exit(0)
            }
            Some(pid) => Ok(Self(pid)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = sys::kill(self.0, libc::SIGKILL);
        sys::wait_for(self.0);
    }
}

/// Sends back each byte until the other end closes.
fn echo(input: Fd, output: Fd) {
    let mut byte = [0u8; 1];
    while sys::read(input, &mut byte) == Ok(1) && sys::write(output, &byte) == Ok(1) {}
}

fn round_trips(bench: &Bench, input: Fd, output: Fd) -> Outcome<Measured> {
    bench.measure(Report::Latency("us", 1e3), |ops| {
        let mut byte = [1u8; 1];
        for _ in 0..ops {
            sys::write(output, &byte).map_err(failed("write"))?;
            if sys::read(input, &mut byte).map_err(failed("read"))? != 1 {
                return Err("the other end closed".to_string());
            }
        }
        Ok(())
    })
}

fn pipe(bench: &Bench) -> Outcome<Measured> {
    let there = sys::pipe().map_err(failed("pipe"))?;
    let back = sys::pipe().map_err(failed("pipe"))?;
    let child = Child::start(|| {
        sys::close(there[1]);
        sys::close(back[0]);
        echo(there[0], back[1]);
    })?;
    sys::close(there[0]);
    sys::close(back[1]);
    let measured = round_trips(bench, back[0], there[1]);
    sys::close(there[1]);
    drop(child);
    measured
}

// ---- files ----

/// A file that is removed when this value goes.
struct Scratch {
    path: Vec<u8>,
    fd: Fd,
}

impl Scratch {
    fn new(bench: &Bench) -> Outcome<Self> {
        let path = io::join(&bench.directory, format!("toolbox-bench-{}", sys::getpid()).as_bytes());
        let fd = sys::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600);
        let fd = fd.map_err(|error| format!("{}: {error}", io::Text(&path)))?;
        Ok(Self { path, fd })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        sys::close(self.fd);
        let _ = sys::unlink(&self.path);
    }
}

fn file(bench: &Bench) -> Outcome<Measured> {
    let path = io::join(&bench.directory, format!("toolbox-bench-{}", sys::getpid()).as_bytes());
    let mut block = [0x61u8; 4096];
    bench.measure(Report::Latency("us", 1e3), |ops| {
        for _ in 0..ops {
            let fd = sys::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600);
            let fd = fd.map_err(|error| format!("{}: {error}", io::Text(&path)))?;
            let wrote = sys::write_all(fd, &block).map_err(failed("write"));
            let read = sys::pread(fd, &mut block, 0).map_err(failed("read"));
            sys::close(fd);
            sys::unlink(&path).map_err(failed("unlink"))?;
            wrote?;
            if read? != block.len() {
                return Err("read less than was written".to_string());
            }
        }
        Ok(())
    })
}

fn sequential(bench: &Bench) -> Outcome<Measured> {
    const TOTAL: usize = 64 << 20;
    let scratch = Scratch::new(bench)?;
    let mut block = alloc::vec![0x5au8; 1 << 20];
    bench.measure(Report::Rate("MB/s", 2.0 * TOTAL as f64 / 1e6), |ops| {
        for _ in 0..ops {
            for offset in (0..TOTAL).step_by(block.len()) {
                let wrote = sys::pwrite(scratch.fd, &block, offset as u64).map_err(failed("write"))?;
                if wrote != block.len() {
                    return Err("wrote less than asked: is the disk full?".to_string());
                }
            }
            sys::fsync(scratch.fd).map_err(failed("fsync"))?;
            // So that the reads reach below the page cache where that is possible.
            sys::drop_cache(scratch.fd);
            for offset in (0..TOTAL).step_by(block.len()) {
                sys::pread(scratch.fd, &mut block, offset as u64).map_err(failed("read"))?;
            }
        }
        Ok(())
    })
}

fn random(bench: &Bench, write: bool) -> Outcome<Measured> {
    const BLOCKS: u64 = 4096;
    let scratch = Scratch::new(bench)?;
    let mut block = [0x5au8; 4096];
    for index in 0..BLOCKS {
        sys::pwrite(scratch.fd, &block, index * 4096).map_err(failed("write"))?;
    }
    let mut state = 1234;
    bench.measure(Report::Rate("IOPS", 1.0), |ops| {
        for _ in 0..ops {
            let offset = xorshift(&mut state) % BLOCKS * 4096;
            let moved = if write {
                sys::pwrite(scratch.fd, &block, offset)
            } else {
                sys::pread(scratch.fd, &mut block, offset)
            };
            if moved.map_err(failed("4 KiB transfer"))? != block.len() {
                return Err("moved less than a block".to_string());
            }
        }
        Ok(())
    })
}

// ---- network ----

/// Two connected loopback sockets; `lo` is brought up first where that is allowed.
fn tcp_pair() -> Outcome<(Fd, Fd)> {
    let listener = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).map_err(failed("socket"))?;
    let address = sys::address_v4([127, 0, 0, 1], 0);
    if sys::bind(listener, &address).is_err() {
        let _ = net::set_up(b"lo", true);
        sys::bind(listener, &address).map_err(failed("bind to 127.0.0.1"))?;
    }
    sys::listen(listener).map_err(failed("listen"))?;
    let port = sys::bound_port(listener).map_err(failed("getsockname"))?;
    let address = sys::address_v4([127, 0, 0, 1], port);
    let mut client = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).map_err(failed("socket"))?;
    if sys::connect(client, &address).is_err() {
        let _ = net::set_up(b"lo", true);
        sys::close(client);
        client = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).map_err(failed("socket"))?;
        sys::connect(client, &address).map_err(failed("connect over lo, which may be down"))?;
    }
    let server = sys::accept(listener).map_err(failed("accept"))?;
    sys::close(listener);
    for fd in [client, server] {
        sys::set_socket_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).map_err(failed("TCP_NODELAY"))?;
    }
    Ok((client, server))
}

fn tcp_round_trip(bench: &Bench) -> Outcome<Measured> {
    let (client, server) = tcp_pair()?;
    let child = Child::start(|| {
        sys::close(client);
        echo(server, server);
    })?;
    sys::close(server);
    let measured = round_trips(bench, client, client);
    sys::close(client);
    drop(child);
    measured
}

fn tcp_bandwidth(bench: &Bench) -> Outcome<Measured> {
    const CHUNK: usize = 128 << 10;
    let (client, server) = tcp_pair()?;
    // A batch is announced by its length; its end is acknowledged, so that only received bytes count.
    let child = Child::start(|| {
        sys::close(client);
        let mut buffer = alloc::vec![0u8; CHUNK];
        let mut header = [0u8; 8];
        while sys::read(server, &mut header) == Ok(8) {
            let mut left = u64::from_ne_bytes(header);
            while left > 0 {
                let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match sys::read(server, &mut buffer[..want]) {
                    Ok(n @ 1..) => left -= n as u64,
                    _ => return,
                }
            }
            let _ = sys::write_all(server, b"k");
        }
    })?;
    sys::close(server);
    let chunk = alloc::vec![0x5au8; CHUNK];
    let measured = bench.measure(Report::Rate("GB/s", CHUNK as f64 / 1e9), |ops| {
        sys::write_all(client, &(ops * CHUNK as u64).to_ne_bytes()).map_err(failed("write"))?;
        for _ in 0..ops {
            sys::write_all(client, &chunk).map_err(failed("write"))?;
        }
        let mut byte = [0u8; 1];
        if sys::read(client, &mut byte).map_err(failed("read"))? != 1 {
            return Err("the other end closed".to_string());
        }
        Ok(())
    });
    sys::close(client);
    drop(child);
    measured
}

fn resident(_: &Bench) -> Outcome<Measured> {
    let statm = io::read_file(b"/proc/self/statm").map_err(failed("/proc/self/statm"))?;
    let pages = io::words(&statm).nth(1).and_then(io::number).ok_or("/proc/self/statm: no second field")?;
    Ok(Measured { report: Report::Latency("KiB", 1.0), batches: Vec::from([pages as f64 * 4.0]), ops: 1, elapsed: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_batch_does_not_move_the_median() {
        assert_eq!(median(&mut [1.0, 1.0, 100.0]), 1.0);
        assert_eq!(median(&mut [4.0, 2.0]), 3.0);
    }

    #[test]
    fn the_two_matrix_products_agree() {
        let a: Vec<f64> = (0..SIDE * SIDE).map(|n| (n % 7) as f64).collect();
        let (mut plain, mut vector) = (alloc::vec![0.0; SIDE * SIDE], alloc::vec![0.0; SIDE * SIDE]);
        multiply(&a, &a, &mut plain);
        if !sys::with_avx2(|| multiply(&a, &a, &mut vector)) {
            multiply(&a, &a, &mut vector);
        }
        assert_eq!(plain, vector);
        assert_eq!(plain[1], (0..SIDE).map(|k| a[k] * a[k * SIDE + 1]).sum::<f64>());
    }

    #[test]
    fn asked_for_operations_are_done_exactly() {
        let bench = Bench { nanoseconds: 1_000_000, ops: Some(105), directory: Vec::new() };
        let mut done = Vec::new();
        let measured = bench.measure(Report::Latency("ns", 1.0), |ops| {
            done.push(ops);
            Ok(())
        });
        assert_eq!(measured.unwrap().ops, 105);
        // The first call is the warm-up.
        assert_eq!(done[1..].iter().sum::<u64>(), 105);
    }
}
