#!/bin/sh
# Installs what is missing, and only that, for one of the make targets, on Debian 12 with root:
#
#   setup.sh run      a C compiler and linker for the build
#   setup.sh test     also the programs that the end-to-end tests drive
#   setup.sh bench    also the programs that the benchmarks compare with
#
# Quiet when nothing is missing. No service is started: the tests start their own daemons.
set -eu

build="gcc libc6-dev make musl-tools"
test="busybox-static catatonit conmon containerd crun docker-registry docker.io iproute2 iptables mmdebstrap passt podman procps qemu-utils runc skopeo slirp4netns tar uidmap umoci util-linux"
bench="busybox-static crun golang-github-containers-common mmdebstrap runc tar umoci"

case "${1:-}" in
run) wanted="$build" ;;
test) wanted="$build $test" ;;
bench) wanted="$build $bench" ;;
*)
    echo "usage: $0 run|test|bench" >&2
    exit 2
    ;;
esac

fail() {
    echo "setup: $1" >&2
    exit 1
}

if ! command -v cargo >/dev/null 2>&1 && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    fail "cargo is installed but not in PATH: add ${CARGO_HOME:-$HOME/.cargo}/bin to it"
fi
command -v cargo >/dev/null 2>&1 || fail "there is no Rust toolchain: install one with rustup, then run this again"

# Every program is linked statically against musl, whose compiled standard library is a part of its own.
target=x86_64-unknown-linux-musl
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    command -v rustup >/dev/null 2>&1 || fail "the Rust target $target is missing and there is no rustup to add it"
    echo "setup: adding the Rust target $target"
    rustup target add "$target" >/dev/null 2>&1 || fail "rustup could not add the target $target: run \`rustup target add $target\` to see why"
fi

command -v dpkg-query >/dev/null 2>&1 ||
    fail "this is not a Debian system; install the equivalents of these packages by hand: $wanted"

missing=""
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

[ "$(id -u)" = 0 ] || fail "these packages are missing and installing them needs root:$missing"

# Debian starts a package's services unless this file says no (invoke-rc.d, Debian policy 9.3.3). One that is there
# already is the administrator's.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
fi

echo "setup: installing$missing"
log=$(mktemp)
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install$missing; all of its output is in $log"
fi
rm -f "$log"
