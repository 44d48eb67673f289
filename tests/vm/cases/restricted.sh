#!/usr/bin/env bash
# users: root
# Where the host restricts namespaces, by a sysctl or by a directive of a unit,
# doctor and run give the same cause and the same cure, run exits with 125, and
# nothing is left. Sysctls are the host's own, and are put back.
set -euo pipefail

failed=0
limit=$(sysctl -n user.max_user_namespaces)
home=
apparmor=$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2>/dev/null || true)
# shellcheck disable=SC2317
put_back() {
    sysctl -qw user.max_user_namespaces="$limit"
    [ ! -e /proc/sys/kernel/unprivileged_userns_clone ] || sysctl -qw kernel.unprivileged_userns_clone=1
    [ -z "$apparmor" ] || sysctl -qw kernel.apparmor_restrict_unprivileged_userns="$apparmor"
    [ -z "$home" ] || rm -rf "$home"
}
trap put_back EXIT

bad() {
    echo "$*"
    failed=1
}

# plainly USER COMMAND…: as that user, without a session.
plainly() {
    local user=$1
    shift
    # shellcheck disable=SC2016
    runuser -u "$user" -- env -u XDG_RUNTIME_DIR -u DBUS_SESSION_BUS_ADDRESS HOME="$(getent passwd "$user" | cut -d: -f6)" \
        BELLJAR_HOME="$home/belljar" sh -c 'cd "$0" && exec "$@"' "$home/project" "$@"
}

# in_unit USER DIRECTIVE COMMAND…: in a unit of the host's manager.
# shellcheck disable=SC2317
in_unit() {
    local user=$1 directive=$2
    shift 2
    systemd-run --quiet --wait --pipe --collect --unit belljar-case --uid "$user" --property "$directive" \
        --setenv HOME="$(getent passwd "$user" | cut -d: -f6)" --setenv BELLJAR_HOME="$home/belljar" \
        --working-directory "$home/project" "$@"
}

# in_users_unit USER DIRECTIVE COMMAND…: in a unit of the user's own.
# shellcheck disable=SC2317
in_users_unit() {
    local user=$1 directive=$2
    shift 2
    runuser -u "$user" -- env -u DBUS_SESSION_BUS_ADDRESS XDG_RUNTIME_DIR="/run/user/$(id -u "$user")" \
        systemd-run --user --quiet --wait --pipe --collect --unit belljar-case --property "$directive" \
        --setenv BELLJAR_HOME="$home/belljar" --working-directory "$home/project" "$@"
}

# What a run could leave.
left() {
    # A session that begins or ends has a directory of its own.
    grep -v ' /run/user/[0-9]* ' /proc/self/mountinfo | sort
    find /sys/fs/cgroup -type d -name '*belljar-[0-9]*'
    pgrep -a -x belljar || true
    ls -A "$home/belljar/run" 2>/dev/null || true
}

# same WHAT USER CAUSE CURE HOW…: doctor and run by HOW, as USER.
same() {
    local what=$1 user=$2 cause=$3 cure=$4 found mend said code=0 before
    shift 4
    home=$(mktemp -d /var/tmp/restricted.XXXXXX)
    mkdir "$home/project" "$home/belljar"
    chmod 755 "$home"
    chown -R "$user" "$home/project" "$home/belljar"
    before=$(left)
    "$@" belljar doctor --json >"$home/doctor" 2>&1 </dev/null || code=$?
    [ $code -eq 1 ] || bad "$user, $what: doctor ended with $code"
    # The first that is missing is what stands in the way.
    found=$(python3 -c 'import json, sys; print([f for f in json.load(sys.stdin) if f["state"] == "missing"][0]["found"])' <"$home/doctor") || true
    mend=$(python3 -c 'import json, sys; print([f for f in json.load(sys.stdin) if f["state"] == "missing"][0]["mend"])' <"$home/doctor") || true
    code=0
    said=$("$@" belljar run -- touch /workspace/group/ran 2>&1 </dev/null) || code=$?
    if [ $code -ne 125 ]; then
        bad "$user, $what: run ended with $code: $said"
    elif [ "$(sed -n 's/^  because: //p' <<<"$said" | head -n 1)" != "$found" ] || [ "$(sed -n 's/^hint: //p' <<<"$said")" != "$mend" ]; then
        bad "$user, $what: doctor says: $found: $mend; run says: $said"
    elif [[ $found != *"$cause"* ]] || [[ $mend != *"$cure"* ]]; then
        bad "$user, $what: not the cause or not the cure: $found: $mend"
    elif [ -e "$home/belljar/data/groups/main/ran" ]; then
        bad "$user, $what: the agent ran"
    elif ! diff <(echo "$before") <(left); then
        bad "$user, $what: something is left"
    else
        echo "$user, $what: ok: $found"
    fi
    rm -rf "$home"
    home=
}

users=(root me plain)
sysctl -qw user.max_user_namespaces=0
for user in "${users[@]}"; do
    same "user.max_user_namespaces=0" "$user" "user.max_user_namespaces is 0" "sudo sysctl user.max_user_namespaces=" plainly "$user"
done
# Not to be seen before: the launcher has one, the container none.
sysctl -qw user.max_user_namespaces=1
for user in me plain; do
    same "user.max_user_namespaces=1" "$user" "user.max_user_namespaces is 1, and they are used up" "sudo sysctl" plainly "$user"
done
sysctl -qw user.max_user_namespaces="$limit"

if [ -e /proc/sys/kernel/unprivileged_userns_clone ]; then
    sysctl -qw kernel.unprivileged_userns_clone=0
    for user in root me plain; do
        same "kernel.unprivileged_userns_clone=0" "$user" "kernel.unprivileged_userns_clone is 0" \
            "sudo sysctl kernel.unprivileged_userns_clone=1" plainly "$user"
    done
    sysctl -qw kernel.unprivileged_userns_clone=1
else
    echo "SKIPPED: kernel.unprivileged_userns_clone: not a sysctl of this kernel"
fi

if [ -n "$apparmor" ]; then
    sysctl -qw kernel.apparmor_restrict_unprivileged_userns=1
    for user in me plain; do
        same "AppArmor" "$user" "AppArmor" "sudo apparmor_parser -r /etc/apparmor.d/belljar" plainly "$user"
    done
    sysctl -qw kernel.apparmor_restrict_unprivileged_userns="$apparmor"
else
    echo "SKIPPED: kernel.apparmor_restrict_unprivileged_userns: not a sysctl of this kernel; tests/namespaces.rs simulates it"
fi

for user in "${users[@]}"; do
    same "in a unit with RestrictNamespaces=yes" "$user" "a seccomp filter, as of the unit belljar-case.service, refuses user namespaces" \
        "systemctl edit belljar-case.service, with [Service] and RestrictNamespaces=no" in_unit "$user" RestrictNamespaces=yes
    same "in a unit with RestrictNamespaces=~net" "$user" "refuses namespaces of this kind: net" \
        "RestrictNamespaces=no" in_unit "$user" RestrictNamespaces=~net
    same "in a unit with ProtectKernelTunables=yes" "$user" "parts of /proc are covered: /proc/" \
        "ProtectKernelTunables=no" in_unit "$user" ProtectKernelTunables=yes
done
same "in a unit of the user's with RestrictNamespaces=yes" me "refuses user namespaces" \
    "systemctl --user edit belljar-case.service" in_users_unit me RestrictNamespaces=yes

# And when all of it is put back, runs are possible.
for user in "${users[@]}"; do
    home=$(mktemp -d /var/tmp/restricted.XXXXXX)
    mkdir "$home/project" "$home/belljar"
    chmod 755 "$home"
    chown -R "$user" "$home/project" "$home/belljar"
    got=$(plainly "$user" belljar run -- id -u 2>&1) || true
    [ "$got" = 1000 ] || bad "$user, afterwards: $got"
    rm -rf "$home"
    home=
done
exit $failed
