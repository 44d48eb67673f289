#!/usr/bin/env bash
# users: root me plain
# A run works however its caller came in: with a session and without one, from
# cron, by su and sudo, in a unit. It prints what the agent prints, and leaves
# nothing: no mount, no cgroup, no run directory, no process.
set -euo pipefail

me=$(id -un)
failed=0
run='cd ~/work && belljar run -- id -u'

# What a run could leave on the host, whoever called it.
left() {
    # A session that begins or ends has a directory of its own.
    grep -v ' /run/user/[0-9]* ' /proc/self/mountinfo | sort
    # The suite runs beside this, as you.
    find /sys/fs/cgroup -type d -name '*belljar*' -not -path "*/user-$(id -u you).slice/*"
    for directory in /run/belljar "/run/user/0/belljar" "/run/user/$(id -u me)/belljar" /home/{me,plain}/.local/share/belljar/run /root/.local/share/belljar/run; do
        find "$directory" -mindepth 1 2>/dev/null || true
    done
    pgrep -u root,me,plain -a -x 'belljar|crun|conmon|pasta' || true
}

# check WHAT COMMAND…: its output, with its stderr, is 1000 and nothing else.
check() {
    local what=$1 before out code=0
    shift
    before=$(left)
    out=$(timeout 120 "$@" 2>&1 </dev/null) || code=$?
    if [ $code -ne 0 ] || [ "$out" != 1000 ]; then
        echo "$me, $what: exit code $code: $out"
        failed=1
    elif ! diff <(echo "$before") <(left); then
        echo "$me, $what: the run left something"
        failed=1
    else
        echo "$me, $what: ok"
    fi
}

mkdir -p ~/work
check "in a session" bash -c "$run"
check "without an environment" env -i HOME="$HOME" PATH=/usr/local/bin:/usr/bin:/bin bash -c "$run"
check "without a bus" env -u DBUS_SESSION_BUS_ADDRESS -u XDG_RUNTIME_DIR bash -c "$run"
check "in a session of its own of processes" setsid --wait bash -c "$run"

if [ "$me" = root ]; then
    check "in a unit of the system" systemd-run --wait --pipe --collect --quiet bash -c "$run"
    check "in a scope of the system" systemd-run --scope --collect --quiet bash -c "$run"
    check "in a unit of another user" systemd-run --wait --pipe --collect --quiet --uid=me bash -c "mkdir -p ~/work; $run"
    for user in me plain; do
        sudo -u "$user" mkdir -p "/home/$user/work"
        check "su - $user" su - "$user" -c "$run"
        check "su $user" su "$user" -c "cd /home/$user/work && HOME=/home/$user belljar run -- id -u"
        check "sudo -u $user" sudo -u "$user" -H bash -c "$run"
        check "sudo -i -u $user" sudo -i -u "$user" bash -c "$run"
        check "runuser -u $user" runuser -u "$user" -- env HOME="/home/$user" bash -c "$run"
    done
    # A server without PAM makes no session.
    key=$(mktemp -u)
    ssh-keygen -q -t ed25519 -N '' -C session.sh -f "$key"
    for user in me plain; do
        cat "$key.pub" >>"/home/$user/.ssh/authorized_keys"
        bare=(ssh -q -p 23 -i "$key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$user@127.0.0.1")
        # shellcheck disable=SC2016
        got=$("${bare[@]}" 'echo "${XDG_RUNTIME_DIR-}${XDG_SESSION_ID-}${DBUS_SESSION_BUS_ADDRESS-}"')
        [ -z "$got" ] || { echo "the control: there is a session after all: $got" && failed=1; }
        check "over ssh without a session as $user" "${bare[@]}" "$run"
        sed -i '/ session.sh$/d' "/home/$user/.ssh/authorized_keys"
    done
    rm -f "$key" "$key.pub"
else
    check "in a unit of the user" systemd-run --user --wait --pipe --collect --quiet bash -c "$run"
    check "in a scope of the user" systemd-run --user --scope --collect --quiet bash -c "$run"
    check "in a unit that delegates" systemd-run --user --wait --pipe --collect --quiet -p Delegate=yes bash -c "$run"
fi

if [ "$me" != plain ]; then
    before=$(left)
    rm -f ~/from-cron
    echo "* * * * * ( PATH=/usr/local/bin:\$PATH; $run ) >~/from-cron.new 2>&1; mv ~/from-cron.new ~/from-cron" | crontab -
    for _ in $(seq 80); do
        [ ! -f ~/from-cron ] || break
        sleep 1
    done
    crontab -r
    if [ "$(cat ~/from-cron 2>&1)" != 1000 ]; then
        echo "$me, from cron: $(cat ~/from-cron 2>&1)"
        failed=1
    elif ! diff <(echo "$before") <(left); then
        echo "$me, from cron: the run left something"
        failed=1
    else
        echo "$me, from cron: ok"
    fi
fi
exit $failed
