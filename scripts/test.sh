#!/bin/bash
# Runs every test of the workspace and of fuzz/ and ends with one line a skipped test (its name and the reason) and one summary
# line. Arguments go to `cargo test`. The exit code is 0 only if every test that ran passed.
set -u -o pipefail

cd "$(dirname "$0")/.." || exit 2
directory=$(mktemp -d) || exit 2
trap 'rm -rf "$directory"' EXIT

export STRATA_TEST_SKIPS="$directory/skips"
: >"$STRATA_TEST_SKIPS"

cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$directory/output"
status=$?
# The fuzz targets on mutations of their seeds: a workspace of its own.
cargo test --manifest-path fuzz/Cargo.toml --locked 2>&1 | tee -a "$directory/output" || status=1

# One line a test program: "test result: ok. 10 passed; 0 failed; 1 ignored; ...".
total() {
    sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$directory/output" | awk '{ sum += $1 } END { print sum + 0 }'
}
passed=$(total passed)
failed=$(total failed)

sort -u "$STRATA_TEST_SKIPS" >"$directory/skipped"
# Tests that the harness itself passes over say so in their own line.
sed -n 's/^test \(.*\) \.\.\. ignored\(, \(.*\)\)\{0,1\}$/\1: ignored \3/p' "$directory/output" >>"$directory/skipped"
skipped=$(wc -l <"$directory/skipped")
# cargo counts a test that left early as passed. "NAME (PART): reason" names a part of a test that did run.
early=$(sort -u "$STRATA_TEST_SKIPS" | grep -vc '^[^:]*\(::[^:]*\)* (' || true)
passed=$((passed - early))

if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
    echo "cargo test ended with code $status although no test failed: something did not build, or a test program crashed"
    failed=1
fi

sed 's/^/skipped: /' "$directory/skipped"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$status" -eq 0 ]
