#!/usr/bin/env bash
# users: me root
# The units that belljar writes: verified and rated by systemd, started, stopped,
# and gone again; drop-ins and what others wrote stay.
set -euo pipefail
manager=--user units=~/.config/systemd/user best=30
if [ "$(id -u)" -eq 0 ]; then
    manager=--system units=/etc/systemd/system
    # Root needs capabilities; a user's units by the host's manager do not.
    best=48
fi
control() { systemctl "$manager" "$@"; }
say() { echo "$(id -un): $*"; }
wrong() { say "WRONG: $*" && exit 1; }
cleanup() {
    belljar systemd remove --all --force >/dev/null 2>&1 || true
    rm -rf "$units"/belljar* ~/unit-project
    # As other cases find it, which have runs of main without that project.
    for home in ~ /home/plain; do
        [ ! -w "$home" ] || rm -rf "$home"/.config/belljar "$home"/.local/share/belljar
    done
    control daemon-reload
    control reset-failed
}
cleanup
trap cleanup EXIT
mkdir -p ~/unit-project ~/.config/belljar "$units"
cd ~/unit-project
echo here >file
belljar group add sales 2>/dev/null || true
cat >~/.config/belljar/config.toml <<'CONFIG'
[group.sales]
command = ["sh", "-c", "echo working; sleep 60"]
[group.main]
project = "~/unit-project"
command = ["cat", "/workspace/project/file"]
CONFIG

check() {
    local unit names=("$@")
    systemd-analyze "$manager" verify "${names[@]/#/$units/}" 2>&1 | tee /tmp/verify.$$
    [ ! -s /tmp/verify.$$ ] || wrong "systemd-analyze verify has something to say"
    rm -f /tmp/verify.$$
    for unit in "${names[@]}"; do
        case $unit in *.socket | *.timer) continue ;; esac
        systemd-analyze "$manager" security --no-pager --threshold="$best" "${unit/@./@sales.}" >/tmp/rate.$$ ||
            wrong "$unit is rated $(tail -1 /tmp/rate.$$)"
        rm -f /tmp/rate.$$
    done
}

as_other=()
ways=(own)
[ "$(id -u)" -ne 0 ] || ways+=(as-user)
for way in "${ways[@]}"; do
    if [ "$way" = as-user ]; then
        as_other=(--as-user plain) best=30
        runuser -u plain -- env HOME=/home/plain sh -c 'mkdir -p ~/.config/belljar ~/proj; echo here >~/proj/file; belljar group add sales 2>/dev/null
            printf "[group.main]\nproject = \"~/proj\"\ncommand = [\"cat\", \"/workspace/project/file\"]\n[group.sales]\ncommand = [\"sh\", \"-c\", \"echo working; sleep 60\"]\n" >~/.config/belljar/config.toml'
        cd /home/plain/proj
    fi
    belljar systemd install "${as_other[@]}"
    check belljar.service belljar.socket belljar@.service
    # A template's run: ready when the agent is, ended by a stop, within the grace.
    control start belljar@sales
    [ "$(control is-active belljar@sales)" = active ] || wrong "not active"
    journalctl --no-pager BELLJAR_GROUP=sales BELLJAR_EVENT=output -o cat -n 1 | grep -qx working || wrong "no output in the journal"
    cgroup=$(control show --property=ControlGroup --value belljar@sales)
    find "/sys/fs/cgroup$cgroup" -name cgroup.procs -exec cat {} + | wc -l | grep -qv '^0$' || wrong "the run is not in the unit's cgroup"
    from=$SECONDS
    control stop belljar@sales
    [ $((SECONDS - from)) -lt 20 ] || wrong "the stop took $((SECONDS - from)) s"
    [ "$(control show --property=Result --value belljar@sales)" = success ] || wrong "a stop counts as failure"
    [ ! -d "/sys/fs/cgroup$cgroup" ] || wrong "the cgroup stays"
    control start belljar@main
    for _ in $(seq 20); do
        [ "$(control is-active belljar@main)" != active ] || sleep 1
    done
    [ "$(control show --property=Result --value belljar@main)" = success ] || wrong "main failed"
    say "install, $way: ok"

    # What the unit is told is what the agent gets.
    # shellcheck disable=SC2016
    belljar systemd unit "${as_other[@]}" --name odd --memory 300m --pids 100 -- sh -c 'printf "%s|" "$@"; echo' sh '50%' '$HOME' 'a"b' "c'd" 'e\f' '' ';' $'two\nlines' 'é' '%i' '# no'
    check belljar-odd.service
    control start belljar-odd
    got=$(journalctl --no-pager BELLJAR_EVENT=output -o cat -n 2)
    # shellcheck disable=SC2016
    [ "$got" = '50%|$HOME|a"b|c'"'"'d|e\f||;|two
lines|é|%i|# no|' ] || wrong "the arguments became $got"
    # A job that fails is a unit that fails; one that is refused says why.
    belljar systemd unit "${as_other[@]}" --name bad -- sh -c 'exit 7'
    if control start belljar-bad 2>/dev/null; then wrong "a job that failed is no failure"; fi
    [ "$(control show --property=ExecMainStatus --value belljar-bad)" = 7 ] || wrong "the exit code is not the agent's"
    if belljar systemd unit "${as_other[@]}" --name worse -g nobodys -- true 2>/tmp/said.$$; then wrong "a run that cannot be was written"; fi
    grep -q 'there is no group' /tmp/said.$$ && rm -f /tmp/said.$$
    [ ! -e "$units/belljar-worse.service" ] || wrong "a refused unit was written"
    say "jobs, $way: ok"

    # Others' files.
    mkdir -p "$units/belljar.service.d"
    printf '[Service]\nEnvironment=MINE=1\n' >"$units/belljar.service.d/mine.conf"
    belljar systemd install "${as_other[@]}" | grep -q '^unchanged: .*belljar.service' || wrong "a second install changes what is the same"
    control show --property=Environment belljar.service | grep -q MINE=1 || wrong "the drop-in does not count"
    echo '# mine' >>"$units/belljar@.service"
    if belljar systemd install "${as_other[@]}" 2>/dev/null; then wrong "an edited unit was written over"; fi
    belljar systemd install "${as_other[@]}" --force | grep -q '^wrote anew .*belljar@.service'
    belljar systemd remove --all
    [ -f "$units/belljar.service.d/mine.conf" ] || wrong "the drop-in is gone"
    rm -r "$units/belljar.service.d"
    [ -z "$(find "$units" -name 'belljar*')" ] || wrong "left: $(find "$units" -name 'belljar*')"
    say "others' files, $way: ok"
done
failed=$(control --failed --no-legend --plain | grep -v 'belljar-bad' || true)
[ -z "$failed" ] || wrong "failed units: $failed"
