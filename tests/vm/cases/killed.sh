#!/usr/bin/env bash
# users: root me plain
# kill -9 of the supervisor; of its janitor and then the supervisor; and of all
# of belljar's processes at once: no process and no mount is left, what lies on
# disk is cleaned by the janitor or by the next command, and the receipt says so.
set -euo pipefail

me=$(id -un)
home=$(mktemp -d "$HOME/killed.XXXXXX")
export BELLJAR_HOME=$home/belljar
trap 'rm -rf "$home"' EXIT
mkdir -p "$home/project" "$home/data" "$BELLJAR_HOME/config"
echo "TOKEN=secret" >"$home/project/.env"
echo '{"allowedRoots": [{"path": "'"$home"'", "allowReadWrite": true}]}' >"$BELLJAR_HOME/config/mount-allowlist.json"
cd "$home/project"
failed=0

complain() {
    echo "$me, $1"
    failed=1
}

# soon COMMAND…: whether it succeeds within 20 seconds.
soon() {
    for _ in $(seq 100); do
        ! "$@" || return 0
        sleep 0.2
    done
    return 1
}

# A session that begins or ends has a directory of its own.
mounted() { grep -v ' /run/user/[0-9]* ' /proc/self/mountinfo | sort; }
# The suite runs beside this, as you.
cgroups() { find /sys/fs/cgroup -type d -name '*belljar*' -not -path "*/user-$(id -u you).slice/*"; }
# shellcheck disable=SC2317
no_process() { ! pgrep -f "sleep $mark" >/dev/null && ! pgrep -f -- "--name $mark" >/dev/null; }
# shellcheck disable=SC2317
no_run() { [ -z "$(ls -A "$BELLJAR_HOME/run" 2>/dev/null)" ]; }

number=0
for what in supervisor janitor-then-supervisor all-at-once; do
    number=$((number + 1))
    mark=77$$$number
    mounts=$(mounted)
    cgroups=$(cgroups)
    project=$(find "$home/project" -ls)
    rm -f "$home/data/begun"
    setsid belljar run --name "$mark" --mount "$home/data:data:rw" -- \
        sh -c "cat .env /workspace/project/.env 2>/dev/null; touch /workspace/extra/data/begun; (setsid sleep $mark &); sleep $mark" >"$home/out" 2>&1 </dev/null &
    supervisor=$!
    disown
    soon test -e "$home/data/begun" || complain "$what: the agent never began: $(cat "$home/out")"
    janitor=$(ps -o pid=,sid= --ppid "$supervisor" | awk '$1 == $2 { print $1; exit }')
    [ -n "$janitor" ] || complain "$what: no janitor was found"
    case $what in
    supervisor) kill -9 "$supervisor" ;;
    janitor-then-supervisor)
        kill -9 "$janitor"
        sleep 0.3
        kill -9 "$supervisor"
        ;;
    all-at-once)
        mapfile -t all < <(pgrep -f -- "--name $mark")
        kill -9 "${all[@]}"
        ;;
    esac
    soon no_process || complain "$what: processes are left: $(pgrep -a -f "$mark")"
    if [ $what = supervisor ]; then
        soon no_run || complain "$what: the janitor left $(ls -R "$BELLJAR_HOME/run")"
    fi
    ! grep -q secret "$home/out" || complain "$what: the agent read the secret"
    out=$(belljar ps --json) || true
    [ "$out" = "[]" ] || complain "$what: a dead run is listed: $out"
    out=$(belljar run -- id -u 2>&1) || true
    [ "$out" = 1000 ] || complain "$what: the next run: $out"
    no_run || complain "$what: the next run left $(ls -R "$BELLJAR_HOME/run")"
    status=$(belljar show "$mark" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["status"])')
    [ "$status" = interrupted ] || complain "$what: the receipt says $status"
    diff <(echo "$mounts") <(mounted) || complain "$what: mounts are left"
    [ "$(cgroups)" = "$cgroups" ] || complain "$what: cgroups are left: $(diff <(echo "$cgroups") <(cgroups))"
    diff <(echo "$project") <(find "$home/project" -ls) || complain "$what: the project is not as it was"
    [ $failed -ne 0 ] || echo "$me, $what: ok"
done
exit $failed
