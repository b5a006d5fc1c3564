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

as_alice strata run -- true >/dev/null 2>&1 # brings the embedded image in
check 'ordinary user, layers shared' 'overlay' as_alice strata run -- sh -c 'grep " / " /proc/mounts | cut -d" " -f3'
check 'ordinary user, cgroup seen' '67108864' as_alice strata run -m 64m -- cat /sys/fs/cgroup/memory.max

# A bundle of an ordinary user with the ids that /etc/subuid gives, by newuidmap.
first=$(sed -n 's/^alice:\([0-9]*\):.*/\1/p' /etc/subuid)
bundle() { # bundle DIR [OPTION]: a sample without a terminal, whose program is `sh -c "$script"`
    mkdir -p "$1/rootfs/bin" && cp /bin/busybox "$1/rootfs/bin/" && ln -s busybox "$1/rootfs/bin/sh"
    rm -f "$1/config.json"
    strata spec -b "$1" $2
    jq --arg script "$script" '.process.terminal = false | .process.args = ["sh", "-c", $script]' "$1/config.json" >"$1/new"
    mv "$1/new" "$1/config.json"
}
script='busybox id -u; busybox sed "s/ \+/ /g" /proc/self/uid_map; busybox touch /tmp/f && busybox chown 7 /tmp/f && busybox stat -c %u /tmp/f'
bundle /home/alice/ids --rootless=true
mkdir /home/alice/ids/rootfs/tmp
jq --argjson first "$first" '.root.readonly = false
    | .linux.uidMappings = [{containerID: 0, hostID: 1000, size: 1}, {containerID: 1, hostID: $first, size: 65536}]
    | .linux.gidMappings = .linux.uidMappings' /home/alice/ids/config.json >/tmp/new
cp /tmp/new /home/alice/ids/config.json
chown -R alice: /home/alice/ids
check 'newuidmap' "0  0 1000 1  1 $first 65536 7" as_alice strata run --bundle /home/alice/ids ids
check 'its files' $((first + 6)) stat -c %u /home/alice/ids/rootfs/tmp/f
jq '.linux.uidMappings[1] = {containerID: 1, hostID: 5, size: 1}' /tmp/new >/home/alice/ids/config.json
check "another's ids are refused, with a reason" yes sh -c \
    "systemd-run -q --machine alice@ --user --pipe --wait strata run --bundle /home/alice/ids ids 2>&1 | grep -q 'newuidmap failed' && echo yes"

# AppArmor: the profile allows all but one directory.
cat >/tmp/profile <<'P'
profile strata-check flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, signal, ptrace, unix, pivot_root,
  deny /secret/** rw,
}
P
check 'apparmor is on' Y cat /sys/module/apparmor/parameters/enabled
check 'a profile is loaded' '' apparmor_parser --replace /tmp/profile
script='busybox cat /proc/self/attr/current; busybox cat /open/f; busybox cat /secret/f 2>&1 | busybox grep -o "Permission denied"'
bundle /check/armor
for name in open secret; do mkdir "/check/armor/rootfs/$name" && echo $name >"/check/armor/rootfs/$name/f"; done
check 'without a profile' 'unconfined open' strata run --bundle /check/armor armor
cp /check/armor/config.json /tmp/armor.json
profile() { jq --arg name "$1" '.process.apparmorProfile = $name' /tmp/armor.json >/check/armor/config.json; }
profile strata-check
check 'a profile is enforced' 'strata-check (enforce) open Permission denied' strata run --bundle /check/armor armor
jq '.process.args = ["sh", "-c", "busybox sleep 1000"]' /check/armor/config.json >/tmp/new
cp /tmp/new /check/armor/config.json
check 'detached under a profile' '' sh -c 'strata run -d --bundle /check/armor armor >/dev/null 2>&1'
check 'exec is under it too' 'strata-check (enforce)' strata exec armor busybox cat /proc/self/attr/current
check 'and removed' '' strata delete --force armor
profile strata-nowhere
check 'a missing profile is named' yes sh -c 'strata run --bundle /check/armor armor 2>&1 | grep -q strata-nowhere && echo yes'
check 'doctor knows apparmor' yes sh -c 'strata doctor | grep -q apparmor && echo yes'
check 'doctor knows the layout' v2 sh -c 'strata doctor --json | jq -r .cgroups.layout'
check 'doctor finds newuidmap' yes sh -c \
    'systemd-run -q --machine alice@ --user --pipe --wait strata doctor --json | jq -r .user_namespaces.newuidmap.status'

check 'gc' '0 half-made containers, 0 instances, 0 B of image data removed' strata gc
check 'no container left' '[]' strata list --format json
check 'no cgroup left' '' find /sys/fs/cgroup -name '*strata*'
check 'no scope left' '' systemctl list-units --all --no-legend 'strata*' 'libpod*'
check 'no unit failed' '' systemctl --failed --no-legend
echo 'end of checks'
