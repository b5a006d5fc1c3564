#!/bin/sh
# Checks Strata on the usual host: Debian with cgroup v2 only, systemd as process 1, Podman and containerd.
#
#   scripts/vm-check.sh build            make the virtual machine once, in $STRATA_VM (root; about 700 MB, minutes)
#   scripts/vm-check.sh [PROGRAM]        boot it and check PROGRAM there (default: target/release/strata); 2 minutes
#
# The machine is Debian's own, in QEMU without KVM, so this runs where Strata is developed: on any host. Each check
# prints `ok` or `FAIL` and what it saw; the exit code is 1 if one failed. Nothing is kept of a run.
set -eu

vm=${STRATA_VM:-/var/lib/strata/vm}
say() { echo "vm-check: $*"; }
die() { echo "vm-check: $*" >&2; exit 2; }

build() {
    [ "$(id -u)" = 0 ] || die "must run as root: it makes a root file system"
    for program in mmdebstrap mke2fs; do
        command -v $program >/dev/null || die "needs $program: apt-get install mmdebstrap e2fsprogs"
    done
    mkdir -p "$vm"
    root=$vm/root.new
    rm -rf "$root"
    mmdebstrap --mode=root --variant=minbase --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --include=systemd-sysv,dbus,dbus-user-session,libpam-systemd,podman,crun,containerd,busybox-static,procps \
        --include=iproute2,kmod,linux-image-cloud-amd64,uidmap,apparmor,slirp4netns,jq,udev,golang-github-containers-common \
        bookworm "$root"
    chroot "$root" useradd -m -s /bin/bash alice
    mkdir -p "$root/var/lib/systemd/linger" "$root/check"
    touch "$root/var/lib/systemd/linger/alice"
    echo '/dev/vda / ext4 defaults,noatime 0 0' >"$root/etc/fstab"
    cat >"$root/etc/systemd/system/vm-check.service" <<'UNIT'
[Unit]
After=multi-user.target user@1000.service
[Service]
ExecStart=/bin/sh -c 'tar xf /dev/vdb -C /check && exec /bin/sh /check/inside.sh >/dev/ttyS1 2>&1'
ExecStopPost=/usr/bin/systemctl poweroff --force --force
[Install]
WantedBy=multi-user.target
UNIT
    chroot "$root" systemctl enable vm-check.service
    chroot "$root" systemctl disable containerd.service
    chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer fstrim.timer e2scrub_all.timer
    cp "$root"/boot/vmlinuz-* "$vm/vmlinuz"
    cp "$root"/boot/initrd.img-* "$vm/initrd"
    mke2fs -q -t ext4 -d "$root" "$vm/disk.new" 2G
    mv "$vm/disk.new" "$vm/disk.img"
    rm -rf "$root"
    say "the machine is in $vm"
}

[ "${1:-}" != build ] || { build; exit; }

program=${1:-target/release/strata}
[ -x "$program" ] || die "no program at $program: build it with make build"
command -v qemu-system-x86_64 >/dev/null || die "needs qemu-system-x86_64: apt-get install qemu-system-x86"
[ -f "$vm/disk.img" ] || die "no machine in $vm: make it with scripts/vm-check.sh build"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/in"
cp "$program" "$work/in/strata"
strip "$work/in/strata" 2>/dev/null || true
cp "$(dirname "$0")/vm-check-inside.sh" "$work/in/inside.sh"
tar cf "$work/payload" -C "$work/in" .
truncate -s %512 "$work/payload"
: >"$work/out"
# The disk is not written: every run starts from the same machine.
timeout "${STRATA_VM_TIMEOUT:-600}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 \
    -kernel "$vm/vmlinuz" -initrd "$vm/initrd" -append "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0" \
    -drive file="$vm/disk.img",format=raw,if=virtio,snapshot=on \
    -drive file="$work/payload",format=raw,if=virtio,readonly=on \
    -display none -monitor none -nic none -no-reboot -serial file:"$work/console" -serial file:"$work/out" ||
    say "the machine did not end by itself"
tr -d '\r' <"$work/out"
if ! grep -q '^end of checks' "$work/out"; then
    tail -n 20 "$work/console"
    die "the checks did not come to their end"
fi
! grep -q '^FAIL' "$work/out"
