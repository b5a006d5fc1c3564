//! Every target on mutations of its seeds, on the stable toolchain. Bounded and repeatable: a failure prints the
//! seed of the random numbers and keeps the input; `STRATA_FUZZ_SEED` and `STRATA_FUZZ_ROUNDS` change the run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Inputs per target.
const ROUNDS: u64 = 50_000;
/// A target may take this long in all; on a busy machine fewer inputs are tried.
const TIME: Duration = Duration::from_secs(15);
/// One input may take this long.
const HANG: Duration = Duration::from_secs(10);
/// Inputs grow to this many bytes.
const LONGEST: usize = 16 << 10;

#[test]
fn targets_survive_mutated_seeds() {
    let setting = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let seed = setting("STRATA_FUZZ_SEED", 0x5eed);
    let rounds = setting("STRATA_FUZZ_ROUNDS", ROUNDS);
    let only = std::env::var("STRATA_FUZZ_TARGET").ok();
    for &(name, target) in strata_fuzz::TARGETS.iter().filter(|t| only.as_deref().is_none_or(|o| o == t.0)) {
        smoke(name, target, seed, rounds);
    }
}

fn smoke(name: &'static str, target: fn(&[u8]), seed: u64, rounds: u64) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(root.join("seeds").join(name))
        .unwrap_or_else(|e| panic!("seeds/{name}: {e}"))
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "seeds/{name} is empty");

    let attempt = |input: &[u8], round: u64| {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
        let slow = started.elapsed() > HANG;
        if outcome.is_err() || slow {
            let kept = std::env::temp_dir().join(format!("strata-fuzz-{name}-{seed:x}-{round}"));
            std::fs::write(&kept, input).unwrap();
            let what = if slow { "took too long" } else { "panicked" };
            panic!("{name} {what} in round {round} with STRATA_FUZZ_SEED={seed}; input kept in {}", kept.display());
        }
    };
    for input in &seeds {
        attempt(input, 0);
    }
    let watched = Watchdog::start(name);
    let mut random = Random(seed);
    let started = Instant::now();
    for round in 1..=rounds {
        let input = mutated(&seeds, &mut random);
        watched.store(round, Ordering::Relaxed);
        attempt(&input, round);
        if started.elapsed() > TIME {
            break;
        }
    }
    watched.store(u64::MAX, Ordering::Relaxed);
}

/// Ends the process when an input never returns.
struct Watchdog;

impl Watchdog {
    fn start(name: &'static str) -> &'static AtomicU64 {
        let round: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
        std::thread::spawn(move || {
            let mut last = 0;
            loop {
                std::thread::sleep(HANG * 2);
                let now = round.load(Ordering::Relaxed);
                if now == u64::MAX {
                    return;
                }
                if now == last {
                    eprintln!("{name} hangs in round {now}");
                    std::process::abort();
                }
                last = now;
            }
        });
        round
    }
}

/// xorshift64*: the same inputs on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 32) as usize % limit.max(1)
    }
}

/// A seed after one to eight small accidents.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const WORDS: [&str; 24] = [
        "null",
        "true",
        "-1",
        "0",
        "18446744073709551615",
        "18446744073709551616",
        "1e400",
        "[",
        "]",
        "{",
        "}",
        "\"",
        ",",
        ":",
        "..",
        "/",
        "//",
        "/../",
        "\\u0000",
        "\\012",
        "\0",
        "\n",
        " - ",
        "\u{fffd}",
    ];
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = (at + 1 + random.below(32)).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, WORDS[random.below(WORDS.len())].bytes())),
            4 => drop(input.splice(at..end, WORDS[random.below(WORDS.len())].bytes())),
            5 => {
                let copy = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let part = other[from..(from + random.below(256)).min(other.len())].to_vec();
                input.splice(at..at, part);
            }
            _ => input.truncate(at.max(input.len() / 2)),
        }
    }
    input.truncate(LONGEST);
    input
}
