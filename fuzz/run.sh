#!/bin/sh
# Runs one target under libFuzzer: ./run.sh TARGET [SECONDS] [libFuzzer options]. Needs a C++ compiler, no nightly toolchain:
# the instrumentation is in every rustc, only its options are unstable. No address sanitizer (its runtime is not shipped
# with stable); panics, overflows, hangs, stack and memory exhaustion are found.
set -eu
cd "$(dirname "$0")"
target=$1 seconds=${2:-60}
shift; [ $# -eq 0 ] || shift
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks --cfg fuzzing"
cargo build --quiet --release --features libfuzzer --target x86_64-unknown-linux-gnu --target-dir ../target/fuzz/libfuzzer --bins
mkdir -p "corpus/$target" artifacts
exec "../target/fuzz/libfuzzer/x86_64-unknown-linux-gnu/release/$target" "corpus/$target" "seeds/$target" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -artifact_prefix=artifacts/ -max_len=65536 "$@"
