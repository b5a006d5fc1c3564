#!/bin/bash
# Writes crates/strata/hot.ld: the functions that starting a container takes, for the linker to lay side by side. Run it,
# as root, after changes of that path; a list that is out of date costs memory and time, nothing else.
# usage: scripts/hot-functions.sh   (needs target/release/strata from `make build`, busybox-static, jq and a C compiler)
set -euo pipefail
cd "$(dirname "$0")/.."
strata=$PWD/target/release/strata
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cc -O1 -o "$scratch/trace" scripts/hot-functions.c
mkdir -p "$scratch/rootfs/bin"
cp /bin/busybox "$scratch/rootfs/bin/true"
"$strata" spec --bundle "$scratch"
jq '.process.args = ["true"] | .process.terminal = false' "$scratch/config.json" > "$scratch/new"
mv "$scratch/new" "$scratch/config.json"
id=hot-functions-$$
{
    "$scratch/trace" "$strata" run --bundle "$scratch" "$id" < /dev/null
    "$scratch/trace" "$strata" create --bundle "$scratch" "$id" < /dev/null
    # The end of the tracer was that of the container's first process.
    "$scratch/trace" "$strata" delete "$id"
    "$strata" create --bundle "$scratch" "$id" < /dev/null
    "$scratch/trace" "$strata" start "$id"
    "$scratch/trace" "$strata" delete --force "$id"
} > "$scratch/names"
# Hashes differ from build to build: at the end of names in the old form, of crates and (their length) in back references
# of the new one; so does the number that a name gets at its end when it would stand twice.
{
    echo '/* Written by scripts/hot-functions.sh. */'
    echo 'SECTIONS'
    echo '{'
    echo '  .text.start_first : ALIGN(4096)'
    echo '  {'
    LC_ALL=C sort -u "$scratch/names" | sed -E \
        -e 's/^(_ZN.*17h)[0-9a-f]{16}E/\1????????????????E/' \
        -e '/^_R/ { s/Cs[0-9A-Za-z]+_/Cs*_/g; s/B[0-9a-zA-Z]*_/B*_/g; s/\.[0-9]+$/.*/ }' \
        -e 's/.*/    *(.text.&)/' | LC_ALL=C sort -u
    echo '  }'
    echo '}'
    echo 'INSERT BEFORE .text;'
} > crates/strata/hot.ld
