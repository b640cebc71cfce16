#!/bin/busybox sh
# Process 1 of the test's virtual machine. A root on an initramfs cannot be pivoted away from, as every cell must, so it
# first moves everything to a file system of its own. A check is a function; what it prints last explains its failure.
export PATH=/applets:/bin SKEP_ROOT=/data TZ=UTC
busybox=/bin/busybox

if [ ! -e /moved ]; then
    $busybox mount -t tmpfs -o mode=755 tmpfs /new
    for each in bin etc lib lib64 modules root pool kernels init; do
        [ -e "/$each" ] && $busybox cp -a "/$each" /new/
    done
    $busybox mkdir /new/proc /new/sys /new/dev /new/tmp /new/run /new/data /new/applets /new/home
    $busybox touch /new/moved
    exec $busybox switch_root /new /init
fi

if [ -z "$checking" ]; then
    $busybox --install -s /applets
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mkdir /dev/pts
    mount -t devpts devpts /dev/pts
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    chmod 1777 /tmp
    for module in /modules/*; do insmod "$module" || echo "INFO $module was not loaded"; done
    mount -t ext4 /dev/vda /data
    mkdir /data/home
    mv /pool /data/pool
    mkdir /data/cache && mv /kernels /data/cache/kernels
    ip link set lo up
    echo "INFO Linux $(uname -r), cgroup2 with $(cat /sys/fs/cgroup/cgroup.controllers)"
    # Process 1 has to reap whatever is orphaned, or no pid namespace that an orphan is in would end: so it only waits.
    checking=yes sh /init &
    while [ -d /proc/$! ]; do wait $!; done
    poweroff -f
fi

image=deb:busybox-static
groups=/sys/fs/cgroup/skep
wanted=$(sed -n 's/.*checks=\([^ ]*\).*/\1/p' /proc/cmdline)

check() {
    name=$1
    shift
    case ",$wanted," in *",$name,"*) ;; *) return ;; esac
    if said=$("$@" 2>&1 < /dev/null); then echo "PASS $name"; else echo "FAIL $name: $(echo "$said" | tail -n 3 | tr '\n' '|')"; fi
}
fail() { echo "$*"; exit 1; }
same() { [ "$1" = "$2" ] || fail "'$1' is not '$2'"; }
# The processes whose command line has that in it.
processes() { ps -o pid,args | grep -v grep | grep -- "$1" | awk '{ print $1 }'; }
has() { case "$1" in *"$2"*) ;; *) fail "'$1' lacks '$2'" ;; esac; }
# A file of a cell's group.
group() { cat $groups/"$(skep inspect "$1" | sed -n 's/^ *"id": "\(.*\)".*/\1/p' | head -n 1)"*/"$2"; }
run() { skep run --rm --net none "$@"; }

version_2_alone() {
    ! grep -q ' cgroup ' /proc/mounts || fail "a version 1 hierarchy is mounted"
    has "$(cat /sys/fs/cgroup/cgroup.controllers)" memory
}
runs() { same "$(run $image -- busybox echo hello)" hello; }
code() { run $image -- busybox sh -c 'exit 7'; same $? 7; }
bridge() { has "$(skep run --rm $image -- busybox ip addr show dev eth0)" "inet "; }
own_users() { has "$(run --userns auto $image -- busybox sh -c 'id -u; echo x > /made; stat -c %u /made; cat /proc/self/uid_map')" 65536; }
limited() {
    skep run -d --net none --name s -m 64m --cpus 0.5 --pids-limit 20 $image -- busybox sleep 1000 || fail "run: $?"
    case "$(skep ps --json)" in *'"degraded":[{'*) fail "$(skep ps --json)" ;; esac
}
memory_limit() { same "$(group s memory.max)" 67108864; }
cpu_limit() {
    same "$(group s cpu.max)" "50000 100000"
    skep exec s busybox sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done' || fail "exec: $?"
    group s cpu.stat | grep -q '^nr_throttled [1-9]' || fail "never throttled: $(group s cpu.stat)"
}
pids_limit() {
    same "$(group s pids.max)" 20
    said=$(skep exec s busybox sh -c 'i=0; while [ $i -lt 40 ]; do busybox sleep 3 & i=$((i+1)); done; echo made $i' 2>&1)
    case "$said" in *"made 40"*) fail "made 40 processes" ;; esac
    sleep 4
}
stats() {
    said=$(skep stats s --json)
    has "$said" '"memory_limit":67108864'
    for field in cpu_ns throttled_ns memory memory_peak pids; do has "$said" "\"$field\":"; done
    case "$said" in *'"cpu_ns":null'* | *'"memory":null'* | *'"pids":null'*) fail "$said" ;; esac
}
changed() {
    skep set --memory 96m --cpus 0.25 s || fail "set: $?"
    same "$(group s memory.max) $(group s cpu.max)" "100663296 25000 100000"
}
pauses() {
    skep pause s || fail "pause: $?"
    has "$(group s cgroup.events)" "frozen 1"
    has "$(skep ps)" paused
    skep resume s || fail "resume: $?"
    has "$(group s cgroup.events)" "frozen 0"
}
executes() {
    same "$(skep exec s busybox sh -c 'cat /proc/self/cgroup; id -u')" "$(printf '0::/\n0')"
    same "$(skep exec s busybox cat /sys/fs/cgroup/memory.max)" 100663296
}
top() { has "$(skep top s)" "busybox sleep 1000"; }
stops() {
    skep stop -t 1 s || fail "stop: $?"
    has "$(skep ps -a)" "signal 15"
    same "$(ls $groups | grep -v '^cgroup\|\.' | wc -l)" 0
}
copies() {
    echo copied > /tmp/in
    skep cp /tmp/in s:/etc/in || fail "cp in: $?"
    skep cp s:/etc/in /tmp/out || fail "cp out: $?"
    same "$(cat /tmp/out)" copied
    skep start s || fail "start: $?"
    same "$(skep exec s busybox cat /etc/in)" copied
    skep rm -f s
}
# A toolbox at a cell: in its control group, under its filter, on a kernel that copies only what is mounted somewhere.
sessions() {
    # Under a name of its own: packages would be completed by a shell and its like.
    skep image tag $image tools || fail "tag: $?"
    skep run -d --net none --name d -m 64m $image -- busybox sleep 1000 > /dev/null || fail "run: $?"
    compare='for p in 2 self; do busybox cat /proc/$p/cgroup; busybox grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/$p/status; busybox echo; done'
    seen=$(skep debug d --toolbox tools -- busybox sh -c "$compare" 2>&1) || fail "debug: $seen"
    same "$(echo "$seen" | busybox sed '/^$/q')" "$(echo "$seen" | busybox sed '1,/^$/d')"
    has "$seen" "Seccomp:	2"
    same "$(skep debug d --swap --toolbox tools -- busybox cat /etc/hostname)" d
    skep rm -f d
}
# A toolbox that is unpacked as it is read, where the kernel can; this one cannot, so that it is unpacked, and says so.
lazy_session() {
    skep run -d --net none --name z $image -- busybox sleep 1000 > /dev/null || fail "run: $?"
    same "$(skep debug z --lazy --toolbox tools -- busybox cat /target/etc/hostname 2> /tmp/said)" z
    has "$(skep debug z --lazy --toolbox tools -- busybox sh -c 'busybox ls /usr/share/doc' 2>&1)" busybox-static
    skep rm -f z
}
# A container that runc made, which skep knows nothing of.
foreign_session() {
    mkdir -p /data/bundle/rootfs/bin && cp /bin/busybox /data/bundle/rootfs/bin/ && cd /data/bundle || fail "bundle"
    runc spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"busybox", "sleep", "1000"/' config.json
    runc --root /data/runc run -d --pid-file pid foreign > /dev/null 2>&1 < /dev/null || fail "runc: $?"
    compare='for p in 1 self; do busybox cat /proc/$p/cgroup; busybox grep -E "^(Cap|NoNewPrivs|Seccomp)" /proc/$p/status; busybox echo; done'
    seen=$(skep debug "pid:$(cat pid)" --toolbox tools -- busybox sh -c "$compare" 2>&1)
    status=$?
    files=$(skep debug "pid:$(cat pid)" --toolbox tools -- busybox ls /target/bin 2>&1)
    runc --root /data/runc delete -f foreign
    cd / && rm -rf /data/bundle /data/runc
    same "$status" 0
    same "$(echo "$seen" | busybox sed '/^$/q')" "$(echo "$seen" | busybox sed '1,/^$/d')"
    has "$seen" "NoNewPrivs:	1"
    same "$files" busybox
}
# What a slim image lacks is noted, and put back when that is asked for: looked up by name, or found by a listing.
slim() {
    skep image slim $image --exec 'busybox echo hello' --tag slim || fail "slim: $?"
    text=/usr/share/doc/busybox-static/copyright
    skep run --net none --name n slim -- busybox cat $text && fail "it is there"
    has "$(skep why n)" "missed: $text (slimming took it away; 'skep run"
    same "$(run --restore-misses slim -- busybox head -c 4 $text)" "$(run $image -- busybox head -c 4 $text)"
    skep run --net none --name r --restore-misses slim -- busybox ls /usr/share/doc/busybox-static || fail "ls: $?"
    has "$(skep why r)" "of /usr/share/doc/busybox-static, which was listed (slimming took it away; it was put back)"
    skep rm n r
}
out_of_memory() {
    skep run --net none --name m -m 16m $image -- busybox sh -c \
        'x=$(busybox head -c 100m /dev/zero | busybox tr "\0" x); echo ${#x}'
    same $? 137
    has "$(skep why m)" "it needed more memory than its limit of 16 MiB"
    skep rm m
}
stopped_exec() {
    skep run -d --net none --name e $image -- busybox sleep 1000 || fail "run: $?"
    # It holds nothing that would keep a failed check from ending.
    skep exec e busybox sleep 1000 > /dev/null 2>&1 &
    inner=$!
    sleep 2
    kill -STOP $inner
    skep stop -t 1 e || fail "stop: $?"
    has "$(skep ps -a)" "signal 15"
    kill -CONT $inner
    wait $inner
    skep rm e
}
lost_supervisor() {
    skep run -d --net none --name l $image -- busybox sleep 1234 || fail "run: $?"
    kill -9 "$(processes 'skep supervise' | head -n 1)"
    sleep 1
    has "$(skep ps -a)" supervisor
    has "$(skep why l)" supervisor
    same "$(processes 'sleep 1234')" ""
    skep rm -f l
}
ordinary_user() {
    cp -a /data/pool /data/home/ && chown -R 1000:1000 /data/home && chmod 755 /data
    as_user='export SKEP_ROOT=/data/home; skep run --net none --name u -d '$image' -- busybox sleep 1000 &&
        skep exec u busybox id -u && echo x > /tmp/theirs && skep cp /tmp/theirs u:/made && skep stop -t 1 u &&
        skep cp u:/made /tmp/back && cat /tmp/back && skep rm -f u'
    said=$(su user -c "$as_user") || fail "$said"
    has "$(echo $said)" "0 "
    has "$(echo $said)" " x"
}
# A guest of either engine: on a hardware's virtualization, as the emulator has it, and without any.
guest() { SKEP_ENGINE=$1; export SKEP_ENGINE; shift; run --as unikernel $image -- "$@"; }
unikernel() {
    same "$(guest "$1" busybox sh -c 'echo a | tr a b; ls /bin/busybox; (exit 3); echo $?')" "b
/bin/busybox
3"
    guest "$1" busybox sh -c 'exit 7'
    same $? 7
    guest "$1" busybox sh -c 'kill -9 $$'
    same $? 137
}
# A guest's clock is the host's, in a copy and after the rate was corrected, too: a second takes a second.
clock() {
    now='busybox date +%s'
    script="$now; busybox sleep 1; $now; (busybox sleep 1; $now)"
    before=$(date +%s)
    said=$(guest "$1" busybox sh -c "$script")
    after=$(date +%s)
    set -- $said
    [ $# = 3 ] && [ "$before" -le "$1" ] && [ "$1" -lt "$2" ] && [ "$2" -lt "$3" ] && [ "$3" -le "$after" ] ||
        fail "$(echo $said) between $before and $after"
}
forked() {
    SKEP_ENGINE=$1 skep run -d --net none --as unikernel --name f $image -- busybox sh -c 'while :; do sleep 1; done' || fail "run: $?"
    skep fork f -n 3 || fail "fork: $?"
    same "$(skep ps -q | wc -l)" 4
    same "$(skep exec f busybox echo inside)" inside
    skep rm -f f-1 f-2 f-3 f
}
# Who has taken over a sealed guest, where the processor's own walks of page tables are nested in the host's.
sealed() {
    SKEP_ENGINE=kvm skep image build --as unikernel -t tables --warm-until 'log warm' host:/bin/tables -- 20 ||
        fail "build: $?"
    said=$(SKEP_ENGINE=kvm skep run --net none --rm tables 2>&1) || fail "$said"
    for attempt in 'write an entry' 'have it followed' 'write a large entry' 'write to code' 'write to the gates'; do
        has "$said" "$attempt: refused"
    done
    has "$said" "the end: done"
}
# A machine whose kernel the processor executes: Debian's, in the emulated virtualization of an emulated processor.
machine() { run --as machine $image -- "$@"; }
native_machine() {
    same "$(machine busybox uname -sm)" "Linux x86_64"
    same "$(echo typed | run -i --as machine $image -- busybox sh -c 'busybox cat; echo out; kill -9 $$' 2>&1)" "typed
out"
    machine busybox sh -c 'exit 7'
    same $? 7
}
native_machine_verbs() {
    program='echo started; mkdir /w; echo page > /w/index.html; busybox httpd -p 80 -h /w
        trap "echo asked; exit 3" TERM; while :; do sleep 0.1; done'
    skep run -d -p 8080:80 --as machine --name k -m 256m $image -- busybox sh -c "$program" || fail "run: $?"
    same "$(skep exec k busybox hostname)" k
    skep exec k busybox sh -c 'exit 9'
    same $? 9
    head -c 1000000 /dev/urandom > /tmp/random
    same "$(skep exec -i k busybox md5sum < /tmp/random)" "$(md5sum < /tmp/random)"
    same "$(wget -q -O - http://127.0.0.1:8080/)" page
    skep cp /tmp/random k:/there || fail "cp: $?"
    same "$(skep exec k busybox md5sum /there)" "$(md5sum < /tmp/random | sed 's,-,/there,')"
    has "$(skep ps)" "machine  kvm"
    has "$(skep logs --kernel k)" "Linux version"
    has "$(skep debug k --gdb 2>&1 < /dev/null)" "whose programs run on the host's processors"
    skep stop k || fail "stop: $?"
    same "$(skep logs k)" "started
asked"
    has "$(skep why k)" "exit code 3"
    skep rm k
}
# Before Linux 6.12 a thread of the kernel's own is in the group of whoever has a virtual machine, and is not frozen.
native_machine_pauses() {
    skep run -d --net none --as machine --name k $image -- busybox sleep 1000 || fail "run: $?"
    same "$(skep exec k busybox echo inside)" inside
    skep pause k || fail "pause: $?"
    has "$(skep ps)" paused
    threads=$(group k cgroup.threads)
    sum() { for it in $threads; do cut -d ' ' -f 14,15 "/proc/$it/stat"; done; }
    before=$(sum)
    sleep 2
    same "$(sum)" "$before"
    skep resume k || fail "resume: $?"
    same "$(skep exec k busybox echo again)" again
    skep kill k
    skep rm -f k
}
native_machine_ends() {
    machine busybox poweroff -f
    same $? 0
    skep run --net none --as machine --name k $image -- busybox sh -c 'echo c > /proc/sysrq-trigger'
    same $? 125
    has "$(skep logs --kernel k)" "sysrq triggered crash"
    skep rm k
    machine nosuch
    same $? 127
    said=$(run -m 4096g --as machine $image -- busybox true 2>&1)
    has "$said" "give it less with --memory"
}
# More than fits below the devices. What its kernel takes for its own is not told of as memory.
native_machine_has_memory() {
    said=$(run -m 5g --as machine $image -- busybox sh -c 'busybox grep MemTotal /proc/meminfo; busybox md5sum /bin/busybox')
    set -- $(echo $said)
    [ "$2" -gt 4900000 ] && [ "$2" -le 5242880 ] || fail "$said"
    same "$4" "$(run $image -- busybox md5sum /bin/busybox | cut -d ' ' -f 1)"
}
# A machine with a program that counts, by itself, as the share and its memory have it.
counting() {
    skep run -d --net none --as machine --name k "$@" $image -- \
        busybox sh -c 'i=0; while :; do i=$((i+1)); echo $i > /counted; busybox sleep 0.2; done' || fail "run: $?"
    until [ "$(count k)" -gt 3 ]; do sleep 1; done
}
count() { skep exec "$1" busybox sh -c 'n=$(busybox cat /counted); echo ${n:-0}' || echo 0; }
# It goes on counting from there, sooner or later: where processors are emulated, several machines are slow.
goes_on() {
    now=$(count "$1")
    [ "$now" -ge "$2" ] || fail "$1 counts $now, and was at $2"
    tries=0
    until [ "$(count "$1")" -gt "$now" ]; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || fail "$1 stands at $now: $(skep logs --kernel "$1" | tail -n 20)"
        sleep 1
    done
}
native_machine_forks() {
    counting --cpus 2 -m 256m
    before=$(count k)
    skep fork k -n 2 || fail "fork: $?"
    skep fork k-1 || fail "fork of a fork: $?"
    for each in k k-1 k-2 k-1-1; do
        goes_on $each "$before"
        same "$(skep exec $each busybox nproc)" 2
    done
    [ $(($(skep exec k-1-1 busybox date +%s) - $(date +%s))) -ge -2 ] || fail "it has another time"
    skep kill k
    goes_on k-1 "$before"
    skep rm -f k k-1 k-2 k-1-1
}
native_machine_is_kept() {
    counting -m 256m
    before=$(count k)
    skep snapshot k kept || fail "snapshot: $?"
    until [ "$(count k)" -gt $((before + 40)) ]; do sleep 1; done
    skep rollback k kept || fail "rollback: $?"
    sleep 1
    after=$(count k)
    [ "$after" -lt $((before + 40)) ] || fail "it was at $before, and after that at $after"
    goes_on k "$before"
    # A processor that has all that its first leaf can say is none that there is.
    state=$(ls -d /data/cells/*/snapshots/kept)/state
    sed -i 's/\[1,0,0,\([0-9]*,[0-9]*,[0-9]*\),[0-9]*\]/[1,0,0,\1,4294967295]/' "$state"
    said=$(skep rollback k kept 2>&1; sleep 5; skep logs k 2>&1; skep why k)
    has "$said" "the machine cannot go on from where it was kept: the host's processor has not all that its has: it lacks bit"
    skep rm -f k
}
native_machine_has_two() {
    said=$(run --cpus 2 --as machine $image -- busybox sh -c 'nproc; for i in 0 1; do busybox taskset $((i + 1)) cut -d " " -f 39 /proc/self/stat; done')
    same "$(echo $said)" "2 0 1"
}
nothing_left() {
    skep ps -aq | while read -r id; do skep rm -f "$id"; done
    ls -d $groups/*/ && fail "control groups are left"
    same "$(grep -c 'overlay\|/data' /proc/mounts)" 1
    sleep 2
    case "$(ip -o link)" in *": skep"*) fail "$(ip -o link)" ;; esac
    same "$(processes 'skep supervise')" ""
}

check version-2-alone version_2_alone
check runs runs
check exit-code code
check bridge bridge
check own-users own_users
check limited limited
check memory-limit memory_limit
check cpu-limit cpu_limit
check pids-limit pids_limit
check stats stats
check changed changed
check pauses pauses
check executes executes
check top top
check stops stops
check copies copies
check sessions sessions
check lazy-session lazy_session
check foreign-session foreign_session
check slim slim
check out-of-memory out_of_memory
check stopped-exec stopped_exec
check lost-supervisor lost_supervisor
check ordinary-user ordinary_user
check unikernel-process unikernel process
check unikernel-kvm unikernel kvm
check clock-process clock process
check clock-kvm clock kvm
check fork-process forked process
check fork-kvm forked kvm
check sealed-kvm sealed
check native-machine native_machine
check native-machine-verbs native_machine_verbs
check native-machine-pauses native_machine_pauses
check native-machine-ends native_machine_ends
check native-machine-has-two native_machine_has_two
check native-machine-has-memory native_machine_has_memory
check native-machine-forks native_machine_forks
check native-machine-is-kept native_machine_is_kept
check nothing-left nothing_left
skep doctor 2>&1 | sed 's/^/INFO /'
echo END
poweroff -f
