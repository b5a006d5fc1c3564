#!/bin/sh
# Installs the peers that `strata compare` and `make bench` measure against, all from Debian packages.
#
#   scripts/peers.sh [DIRECTORY]      default: $STRATA_PEERS, else /var/lib/strata/peers
#
# Runtimes and tools of this Debian release are installed as packages. Two things are only unpacked into the
# directory, so that the host stays as it is:
#
#   DIRECTORY/kernel    Debian's cloud kernel for the guests of QEMU (installed, it would become bootable here)
#   DIRECTORY/newer     runsc, crun and QEMU of the next Debian release with their libraries. Their interpreter and
#                       library path are set to that directory, so each is an ordinary program that needs no chroot.
#
# Running it again only does what is missing. The package source of the next release is derived from the host's own.
set -eu

directory=${1:-${STRATA_PEERS:-/var/lib/strata/peers}}
packages="runc crun runsc user-mode-linux qemu-system-x86 podman containerd docker.io skopeo umoci mmdebstrap
busybox-static patchelf"
newer_packages="runsc crun qemu-system-x86"

say() { echo "peers: $*"; }
die() { echo "peers: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "must run as root: it installs packages"
command -v apt-get >/dev/null || die "needs apt-get: peers come from Debian packages"
case $directory in /*) ;; *) die "the directory must be absolute, not $directory" ;; esac
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
case $codename in
    bookworm) newer=trixie ;;
    trixie) newer= ;; # its own packages are the newer ones
    *) die "knows Debian 12 (bookworm) and 13 (trixie), not '${codename:-unnamed}'" ;;
esac
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

mkdir -p "$directory"
work=$(mktemp -d "$directory/.work.XXXXXX")
policy=
cleanup() {
    rm -rf "$work"
    [ -z "$policy" ] || rm -f "$policy"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# Quiet unless it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "failed: $*"; }
}

installed() { dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }

missing=
for package in $packages; do
    installed "$package" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing$missing"
    # Installing a daemon must not start it.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    quietly apt-get update
    # shellcheck disable=SC2086
    quietly apt-get install -y --no-install-recommends $missing
else
    say "packages of $codename are installed"
fi

if ls "$directory"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
    say "the guest kernel is there"
else
    say "unpacking Debian's cloud kernel"
    kernel_package() {
        apt-cache depends --important linux-image-cloud-amd64 2>/dev/null |
            sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
    }
    image=$(kernel_package)
    [ -n "$image" ] || { quietly apt-get update; image=$(kernel_package); }
    [ -n "$image" ] || die "no package linux-image-cloud-amd64 in the configured sources"
    # apt downloads as an unprivileged user only where that user may write.
    (cd "$work" && quietly apt-get -o APT::Sandbox::User=root download "$image")
    mkdir "$work/kernel"
    quietly dpkg -x "$work/$image"_*.deb "$work/kernel"
    rm -rf "$directory/kernel"
    mv "$work/kernel" "$directory/kernel"
fi

# The host's Debian source with the suite's name replaced; security and update suites too.
derive_source() {
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        awk -v old="$codename" -v new="$newer" '
            BEGIN { RS = ""; FS = "\n" }
            {
                wanted = 0; main = 0; text = ""
                for (i = 1; i <= NF; i++) {
                    line = $i
                    if (line ~ /^Enabled:[ \t]*no/) { wanted = 0; main = 0; break }
                    if (line ~ /^Suites:/) {
                        n = split(line, word, /[ \t]+/); line = word[1]
                        for (j = 2; j <= n; j++) {
                            if (word[j] == old || index(word[j], old "-") == 1) {
                                wanted = 1
                                line = line " " new substr(word[j], length(old) + 1)
                            }
                        }
                    }
                    if (line ~ /^Components:.*[ \t]main([ \t]|$)/) main = 1
                    if (line !~ /^#/) text = text line "\n"
                }
                if (wanted && main) print text
            }' "$file"
    done >"$work/newer.sources"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] || continue
        # deb [options] URI suite main ...
        sed -n -E "s,^(deb +(\[[^]]*\] +)?[^ ]+ +)$codename(-[a-z-]+|/updates)?( .*\<main\>.*)\$,\1$newer\3\4,p" "$file"
    done >"$work/newer.list"
    if [ -s "$work/newer.sources" ]; then
        echo "$work/newer.sources"
    elif [ -s "$work/newer.list" ]; then
        echo "$work/newer.list"
    else
        die "found no Debian source for $codename in /etc/apt to derive the one of $newer from"
    fi
}

has_newer() { [ -x "$1/usr/bin/crun" ] && [ -x "$1/usr/bin/runsc" ] && [ -x "$1/usr/bin/qemu-system-x86_64" ]; }

if [ -z "$newer" ]; then
    say "$codename is the newest release known; no second set"
elif has_newer "$directory/newer" && [ "$(cat "$directory/newer/.release" 2>/dev/null)" = "$newer $directory" ]; then
    say "peers of $newer are there"
else
    say "downloading $newer_packages of $newer with their libraries"
    source=$(derive_source)
    # A package database of its own, empty: so every library is downloaded and nothing on the host is touched.
    mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial"
    : >"$work/apt/status"
    newer_apt() {
        quietly apt-get -o APT::Sandbox::User=root -o "Dir::Etc::SourceList=$source" -o Dir::Etc::SourceParts=/dev/null \
            -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
            -o "Dir::State=$work/apt/state" -o "Dir::State::Status=$work/apt/status" -o "Dir::Cache=$work/apt/cache" "$@"
    }
    newer_apt update
    # shellcheck disable=SC2086
    newer_apt install -y --no-install-recommends --download-only $newer_packages
    say "unpacking them"
    mkdir "$work/newer"
    # A merged /usr first, or packages that still ship /lib would make directories of their own.
    for link in bin sbin lib lib64; do
        mkdir -p "$work/newer/usr/$link"
        ln -s "usr/$link" "$work/newer/$link"
    done
    for deb in "$work"/apt/cache/archives/*.deb; do
        # Not dpkg -x: it replaces the links above by directories.
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/newer" --keep-directory-symlink --no-same-owner 2>"$work/log" ||
            { cat "$work/log" >&2; die "cannot unpack $(basename "$deb")"; }
    done
    final="$directory/newer"
    libraries="$final/usr/lib/x86_64-linux-gnu:$final/usr/lib/x86_64-linux-gnu/pulseaudio:$final/usr/lib"
    for program in "$work"/newer/usr/bin/crun "$work"/newer/usr/bin/runsc "$work"/newer/usr/bin/qemu-system-x86_64 \
        "$work"/newer/usr/bin/qemu-system-i386; do
        [ -f "$program" ] || continue
        patchelf --print-interpreter "$program" >/dev/null 2>&1 || continue # static
        # --force-rpath: the libraries' own libraries must be found there too.
        quietly patchelf --set-interpreter "$final/usr/lib64/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libraries" "$program"
    done
    has_newer "$work/newer" || die "the packages of $newer did not bring crun, runsc and qemu-system-x86_64"
    # Documentation and locales are never read here.
    rm -rf "$work/newer/usr/share/doc" "$work/newer/usr/share/man" "$work/newer/usr/share/locale"
    echo "$newer $directory" >"$work/newer/.release"
    rm -rf "$final"
    mv "$work/newer" "$final"
fi

# A peer that does not start is no peer.
check() {
    if version=$("$@" --version 2>"$work/log"); then
        say "$1: $(echo "$version" | head -n 1)"
    else
        cat "$work/log" >&2
        die "$1 does not start"
    fi
}
check runc
check crun
check runsc
check linux.uml
check qemu-system-x86_64
if [ -n "$newer" ]; then
    check "$directory/newer/usr/bin/crun"
    check "$directory/newer/usr/bin/runsc"
    check "$directory/newer/usr/bin/qemu-system-x86_64"
fi
say "kernel: $(ls "$directory"/kernel/boot/vmlinuz-* | head -n 1)"
say "ready in $directory"
