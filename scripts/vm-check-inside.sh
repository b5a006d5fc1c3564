# The checks of vm-check.sh, run as root inside the virtual machine. Each names what it wants and shows what it got.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
install -m 755 /check/strata /usr/local/bin/strata
cd /

# check NAME WANTED COMMAND…: the output of the command, on one line, is as wanted.
check() {
    name=$1 wanted=$2
    shift 2
    got=$("$@" 2>&1 | tr '\n' ' ' | sed 's/ *$//')
    if [ "$got" = "$wanted" ]; then echo "ok   $name"; else echo "FAIL $name: wanted '$wanted', got '$got'"; fi
}
# The cgroup of a process, and the limits in it.
cgroup_of() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }
limits() { (cd "/sys/fs/cgroup$1" && cat memory.max cpu.max pids.max); }
pid_of() { strata inspect "$1" | jq ".[0].state.pid"; }
limits_of() { limits "$(cgroup_of "$(pid_of "$1")")"; }
frozen() { grep frozen "/sys/fs/cgroup$(cgroup_of "$(pid_of "$1")")/cgroup.events"; }
LIMITS='-m 64m --cpus 0.5 --pids-limit 20'
WANTED='67108864 50000 100000 20'

check 'cgroup v2 alone' cgroup2fs stat -fc %T /sys/fs/cgroup
check 'limits seen inside' "$WANTED" strata run $LIMITS -- sh -c 'cd /sys/fs/cgroup; cat memory.max cpu.max pids.max'
check 'overlay, without a notice' overlay strata run -- sh -c 'grep " / " /proc/mounts | cut -d" " -f2-3 | cut -c3-'
for driver in --systemd-cgroup=false ''; do
    check "detached $driver" one strata run $driver -d --name one $LIMITS -- sleep 1000
    check "its limits $driver" "$WANTED" limits_of one
    check "pause $driver" '' strata pause one
    check "frozen $driver" 'frozen 1' frozen one
    check "resume $driver" '' strata resume one
    check "update $driver" '' strata update one --memory 134217728 --pids-limit 30
    systemctl daemon-reload
    check "limits after systemd's reload $driver" '134217728 50000 100000 30' limits_of one
    check "device refused $driver" '1' strata exec one -- sh -c 'mknod /k c 1 11; head -c1 /k 2>/dev/null; echo $?'
    check "exec is inside $driver" '0::/' strata exec one -- cat /proc/self/cgroup
    case $driver in
        ?*) check 'cgroup' /strata-one cgroup_of "$(pid_of one)" ;;
        '') check 'scope' /machine.slice/strata-one.scope cgroup_of "$(pid_of one)" ;;
    esac
    check "removed $driver" one strata rm -f one
done

tar -C / -c bin/busybox | podman import -q - bb >/dev/null 2>&1
sh_='/bin/busybox sh -c'
for manager in systemd cgroupfs; do
    engine="podman --cgroup-manager $manager --runtime /usr/local/bin/strata"
    check "podman run, $manager" "$WANTED" $engine run --rm --network none $LIMITS bb $sh_ \
        'cd /sys/fs/cgroup; /bin/busybox cat memory.max cpu.max pids.max'
    $engine run -d --name two --network none bb $sh_ 'trap "exit 7" TERM; while :; do /bin/busybox sleep 1; done' >/dev/null
    check "podman exec, $manager" '0::/' $engine exec two /bin/busybox cat /proc/self/cgroup
    check "podman pause, $manager" two $engine pause two
    check "podman paused, $manager" paused $engine inspect two --format '{{.State.Status}}'
    check "podman unpause, $manager" two $engine unpause two
    check "podman stop, $manager" two $engine stop two
    check "podman exit code, $manager" 7 $engine inspect two --format '{{.State.ExitCode}}'
    check "podman rm, $manager" two $engine rm two
done

cat >/tmp/user.sh <<'U'
strata run -d --name mine -m 64m --cpus 0.5 --pids-limit 20 $1 -- sleep 1000 >/dev/null
cd "/sys/fs/cgroup$(sed -n "s/^0:://p" /proc/$(strata inspect mine | jq ".[0].state.pid")/cgroup)" && cat memory.max cpu.max pids.max
cd /; strata rm -f mine
U
as_alice() { systemd-run -q --machine alice@ --user --pipe --wait "$@"; }
check 'ordinary user' "$WANTED mine" as_alice sh /tmp/user.sh
check 'ordinary user, no scope' "$WANTED mine" as_alice sh /tmp/user.sh --systemd-cgroup=false
podman save -q -o /tmp/bb.tar localhost/bb && chmod 644 /tmp/bb.tar
as_alice podman load -q -i /tmp/bb.tar >/dev/null 2>&1
check 'rootless podman' '67108864 33' as_alice podman --runtime /usr/local/bin/strata run --rm --network none -m 64m \
    --pids-limit 33 localhost/bb $sh_ 'cd /sys/fs/cgroup; /bin/busybox cat memory.max pids.max'

check 'gc' '0 half-made containers, 0 instances, 0 B of image data removed' strata gc
check 'no container left' '[]' strata list --format json
check 'no cgroup left' '' find /sys/fs/cgroup -name '*strata*'
check 'no scope left' '' systemctl list-units --all --no-legend 'strata*' 'libpod*'
check 'no unit failed' '' systemctl --failed --no-legend
echo 'end of checks'
