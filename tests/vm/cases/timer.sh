#!/usr/bin/env bash
# users: root
# A timer fires: the agent's output is in the journal under its fields, the
# receipt exists, the credential was injected on the way and lies nowhere in
# clear, and nothing is left. For a unit of a user's manager and for one of the
# host's, which gets the vault's key by LoadCredentialEncrypted=.
set -euo pipefail
token=tok-canary-51d0c2a9e04b56-vm
place=$(mktemp -d /var/tmp/timer.XXXXXX)
chmod 755 "$place"
say() { echo "$*"; }
wrong() { say "WRONG: $*" && exit 1; }
finish() {
    ip netns pids internet 2>/dev/null | xargs -r kill 2>/dev/null || true
    ip netns del internet 2>/dev/null || true
    ip link del vm0 2>/dev/null || true
    # In its place: a file that is renamed over it takes mounts on it away, of all namespaces.
    sed '/ origin.test$/d' /etc/hosts >"$place/hosts" && cat "$place/hosts" >/etc/hosts
    as_me belljar systemd remove --all --force >/dev/null 2>&1 || true
    belljar systemd remove --all --force >/dev/null 2>&1 || true
    rm -rf "$place" /home/me/.config/belljar /root/.config/belljar /etc/credstore.encrypted/belljar.key
    rm -rf /home/me/.local/share/belljar /root/.local/share/belljar
}
as_me() { runuser -u me -- env -C /home/me HOME=/home/me XDG_RUNTIME_DIR="/run/user/$(id -u me)" "$@"; }
finish
mkdir -p "$place/own"
trap finish EXIT

# An origin out there, in a network namespace with a public address.
ip netns add internet
ip link add vm0 type veth peer name out0 netns internet
ip addr add 198.51.100.1/24 dev vm0
ip link set vm0 up
ip route add 203.0.113.0/24 via 198.51.100.2
ip -n internet link set lo up
ip -n internet addr add 198.51.100.2/24 dev out0
ip -n internet link set out0 up
ip -n internet addr add 203.0.113.10/32 dev lo
echo '203.0.113.10 origin.test a.test origin.test' >>/etc/hosts
ip netns exec internet /opt/tests/origin serve "$place" "$place/own" >"$place/says" 2>&1 &
for _ in $(seq 60); do
    ! grep -q listening "$place/says" || break
    sleep 0.5
done
grep -q listening "$place/says" || wrong "the origin does not start: $(cat "$place/says")"
chmod a+r "$place/ca.pem"

# What belljar could leave behind.
left() {
    grep -v ' /run/user/[0-9]* ' /proc/self/mountinfo | sort
    # The suite runs beside this, as you.
    find /sys/fs/cgroup -type d -name '*belljar-2*' -not -path "*/user-$(id -u you).slice/*"
    find /run/belljar /run/user/0/belljar "/run/user/$(id -u me)/belljar" -mindepth 1 2>/dev/null || true
    pgrep -u root,me,plain -a -x 'belljar|crun|conmon|pasta' || true
}

# one WHO MANAGER: a whole night, for one of the two.
one() {
    local who=$1 manager=$2 run="as_me" home=/home/me before key from requests receipt journal
    # From here on only: other cases have such entries too.
    journal=(journalctl --no-pager -q "--since=@$(date +%s)")
    if [ "$who" = root ]; then run="env HOME=/root" home=/root; fi
    before=$(left)
    $run mkdir -p $home/.config/belljar
    echo "[gateway]
extra_roots = [\"$place/ca.pem\"]" | $run tee $home/.config/belljar/config.toml >/dev/null
    $run belljar group add sales
    echo "$token" | $run belljar secret add mail --host a.test --bearer --env MAIL_KEY --group sales
    key=$(cat $home/.config/belljar/vault.key)
    $run belljar systemd install --encrypt-key
    [ ! -e $home/.config/belljar/vault.key ] || wrong "$who: the key lies in clear"
    # Its digits are nowhere on the disk, nor are its bytes.
    if grep -rlF "$key" /etc $home /var/lib /run/systemd 2>/dev/null; then wrong "$who: the key's digits are on the disk"; fi
    if [ "$manager" = --system ]; then
        grep -q '^LoadCredentialEncrypted=belljar.key:/etc/credstore.encrypted/belljar.key$' /etc/systemd/system/belljar.service ||
            wrong "the unit does not load the credential"
    fi
    $run belljar secret list --check | grep -q mail || wrong "$who: the vault does not open in a shell"
    # shellcheck disable=SC2016
    $run belljar systemd timer --name night --on-calendar '*:*:0/4' -g sales --memory 400m -- \
        sh -c 'echo the agent says hello; curl -sS -o /dev/null -w "%{http_code}\n" -H "authorization: Bearer $MAIL_KEY" https://a.test/night-'"$who"
    from=$SECONDS
    until "${journal[@]}" -o cat BELLJAR_GROUP=sales BELLJAR_EVENT=ended _UID="$(stat -c %u $home)" 2>/dev/null | grep -q 'exited with 0'; do
        [ $((SECONDS - from)) -lt 90 ] || wrong "$who: no run ended well within 90 s: $(journalctl --no-pager -n 30 -o cat)"
        sleep 1
    done
    $run systemctl "$manager" disable --now --quiet belljar-night.timer
    while $run systemctl "$manager" is-active --quiet belljar-night.service || [ "$($run systemctl "$manager" is-active belljar-night.service)" = activating ]; do sleep 1; done
    receipt=$("${journal[@]}" -o json BELLJAR_GROUP=sales BELLJAR_EVENT=ended _UID="$(stat -c %u $home)" -n 1 |
        python3 -c 'import json, sys; print(json.loads(sys.stdin.readline())["BELLJAR_RUN"])')
    "${journal[@]}" -o cat BELLJAR_RUN="$receipt" BELLJAR_EVENT=output | grep -qx 'the agent says hello' || wrong "$who: the output is not in the journal"
    "${journal[@]}" -o cat BELLJAR_RUN="$receipt" BELLJAR_EVENT=output | grep -qx 200 || wrong "$who: the origin was not reached"
    "${journal[@]}" -o json BELLJAR_RUN="$receipt" BELLJAR_EVENT=request | grep -q '"BELLJAR_SECRET":"mail"' || wrong "$who: no request in the journal"
    $run belljar show "$receipt" | grep -q 'exited with 0' || wrong "$who: no receipt"
    requests=$(grep -F "/night-$who" "$place/own/requests.jsonl") || wrong "$who: no request came"
    grep -qF "Bearer $token" <<<"$requests" || wrong "$who: the credential was not injected: $requests"
    if "${journal[@]}" -o json | grep -qF "$token"; then wrong "$who: the credential is in the journal"; fi
    $run belljar systemd remove --all
    diff <(echo "$before") <(left) || wrong "$who: something is left"
    say "$who: ok"
}

one me --user
one root --system
