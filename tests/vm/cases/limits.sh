#!/usr/bin/env bash
# users: root me
# Each limit holds, the run's end says which it was, and a second run on the same
# host answers meanwhile. A person has a transient scope; in a unit that was given
# its cgroup away, the run has one below that.
set -euo pipefail

me=$(id -un)
failed=0
receipt=$(mktemp)
units=(systemd-run --quiet --wait --pipe --collect --same-dir)
[ "$me" = root ] || units+=(--user)
mkdir -p ~/work
cd ~/work
exec </dev/null

bad() {
    echo "$me: $*"
    failed=1
}

# field EXPRESSION: of the receipt `r`.
field() { python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$receipt" "$1"; }

# expect WHAT CODE CAUSE REACHED COMMAND…: a run with a receipt.
expect() {
    local what=$1 code=$2 cause=$3 reached=$4 got=0 out
    shift 4
    out=$("$@" 2>&1) || got=$?
    if [ "$got" != "$code" ] || [ "$(field 'r["cause"]')" != "$cause" ] || [ "$(field '" ".join(r["limits_reached"])')" != "$reached" ]; then
        bad "$what: exit code $got, cause $(field 'r["cause"]'), reached $(field 'r["limits_reached"]'): $out"
    else
        echo "$me, $what: ok: $cause"
    fi
}

# jar OPTIONS…: belljar run with the receipt.
jar() { belljar run --receipt "$receipt" "$@"; }

hog='x = [bytearray(10 << 20) for _ in range(200)]'
# shellcheck disable=SC2016
bomb='for i in $(seq 400); do sleep 20 & done; wait'
expect "a memory hog" 137 "out of memory" memory jar --memory 100m -- python3 -c "$hog"
[ "$(field '90 << 20 < r["usage"]["memory_peak_bytes"] <= 100 << 20')" = True ] || bad "the hog's peak: $(field 'r["usage"]')"
expect "a hog in the private /tmp" 137 "out of memory" memory jar --memory 100m -- sh -c 'head -c 300m /dev/zero >/tmp/x'
expect "a hog among others" 137 "out of memory" memory jar --memory 100m -- sh -c "sleep 60 & python3 -c '$hog'; echo went on"
expect "a fork bomb" 2 "process limit (pids) reached, and failed with 2" pids jar --pids 40 -- sh -c "$bomb"
[ "$(field 'r["usage"]["pids_peak"]')" = 40 ] || bad "the bomb's peak: $(field 'r["usage"]')"
expect "one that fails by itself" 3 "exited with 3" "" jar --memory 500m --pids 40 -- sh -c 'exit 3'
expect "a time limit" 124 timeout timeout jar --timeout 4s --cpus 0.5 -- sh -c 'while :; do :; done'
expect "an output flood" 137 "output limit" output jar --output-limit 1m -- sh -c 'yes | head -c 30m'
expect "a disk filler" 137 "disk limit" disk jar --disk 20m -- sh -c 'head -c 60m /dev/zero >/workspace/group/full; sync; sleep 60'
expect "one without a name" 137 "disk limit" disk jar --disk 20m -- \
    sh -c 'exec 3>/workspace/group/gone; rm /workspace/group/gone; head -c 60m /dev/zero >&3; sync; sleep 60'
belljar run -- rm -f /workspace/group/full
expect "a tmpfs filler" 1 "exited with 1" "" jar --disk 20m -- sh -c 'head -c 60m /dev/zero >/tmp/full'

begun=$(date +%s)
jar --cpus 0.3 -- timeout 8 sh -c 'while :; do :; done' || true
took=$(($(date +%s) - begun))
[ "$(field "r['usage']['cpu_seconds'] <= 0.33 * $took")" = True ] || bad "a CPU hog: $(field 'r["usage"]') in $took s"

# Where the controller of disks is, and where it is not.
if [ "$me" = root ]; then
    begun=$(date +%s)
    jar --io 2m -- dd if=/dev/zero of=/workspace/group/slow bs=1M count=12 conv=fsync status=none
    [ $(($(date +%s) - begun)) -ge 4 ] || bad "12 MiB at 2 MiB/s took $(($(date +%s) - begun)) s"
    belljar run -- rm /workspace/group/slow
else
    code=0
    said=$(belljar run --io 2m -- true 2>&1) || code=$?
    if [ "$code" != 125 ] || [[ $said != *"--io cannot be enforced here"*"no controller io"*"hint: systemctl edit user@.service"* ]]; then
        bad "--io: $code $said"
    fi
    home=$(mktemp -d)
    mkdir "$home/config"
    printf '[limits]\nenforce = "best-effort"\n' >"$home/config/config.toml"
    BELLJAR_HOME=$home jar --io 2m -- true || bad "--io by best effort"
    [ "$(field 'r["not_in_force"]')" = "['io']" ] || bad "--io is not said not to be in force: $(field 'r["not_in_force"]')"
    rm -rf "$home"
fi

# A second run answers while the first is at its limit.
for first in "--memory 100m -- python3 -c 'x = bytearray(80 << 20); import time; time.sleep(60)'" "--pids 40 -- sh -c '$bomb; sleep 60'" \
    "--cpus 0.3 -- sh -c 'while :; do :; done'" "--disk 40m -- sh -c 'while head -c 20m /dev/zero >/workspace/group/full; do sync; done'" \
    "--output-limit 1t -- yes"; do
    eval "belljar run --name hog $first" >/dev/null 2>&1 &
    sleep 6
    [ "$(timeout 60 belljar run -- echo fine 2>&1)" = fine ] || bad "a second run beside $first"
    belljar stop hog >/dev/null 2>&1 || true
    wait $! || true
done

# In units: a cgroup that was given away is used, with the supervisor in it or below it.
for properties in "" "-p Delegate=yes" "-p Delegate=yes -p DelegateSubgroup=supervisor"; do
    read -ra options <<<"$properties"
    expect "a hog in a unit with '$properties'" 137 "out of memory" memory \
        "${units[@]}" "${options[@]}" belljar run --receipt "$receipt" --memory 100m -- python3 -c "$hog"
    where=$("${units[@]}" "${options[@]}" belljar explain --memory 100m -- true | grep '^limit *memory')
    case "$properties" in
    "") [[ $where == *"a transient scope of the"* ]] || bad "in a unit: $where" ;;
    *) [[ $where == *"a cgroup below /sys/fs/cgroup/"*.service ]] || bad "in a unit with $properties: $where" ;;
    esac
done

for backend in crun podman; do
    inside=$(belljar run --backend "$backend" --memory 100m -- cat /proc/self/cgroup 2>&1)
    [ "$inside" = "0::/" ] || bad "inside, with $backend: $inside"
    expect "a hog with $backend" 137 "out of memory" memory jar --backend "$backend" --memory 100m -- python3 -c "$hog"
done
expect "a hog with runc" 137 "out of memory" memory jar --runtime runc --memory 100m -- python3 -c "$hog"

for try in 1 2 3 4 5; do
    # The suite runs beside this, as you.
    left=$(find /sys/fs/cgroup -type d -name '*belljar-[0-9]*' -not -path "*/user-$(id -u you).slice/*")
    [ -n "$left" ] || break
    sleep "$try"
done
[ -z "$left" ] || bad "left: $left"
rm -f "$receipt"
exit $failed
