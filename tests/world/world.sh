#!/usr/bin/env bash
# A small world of its own: "the host", on which belljar runs, and "the
# internet", where origins with public addresses listen. No route leads out of
# it, so nothing can be sent to a real address.
#
#   world.sh DIR ORIGIN [COMMAND [ARG…]]
#
# As root the host is a network and a mount namespace. As an ordinary user it is
# below a user namespace in which the user is root; what runs in the world runs
# in one more, in which the user is the user again and has no capabilities.
# DIR gets what the world knows: hosts, ca.pem, the origins' logs. ORIGIN is the
# program that serves. With a COMMAND it is executed in the world; without, the
# script prints READY with three process ids (the host's, the internet's and the
# one whose user namespace is to be joined) and stays until its stdin closes.
set -euo pipefail

if [ "${1:-}" != --inside ]; then
    dir=$(realpath "$1") origin=$(realpath "$2")
    uid=$(id -u) gid=$(id -g)
    shift 2
    here=(bash -c "${BASH_EXECUTION_STRING:-$(cat "$0")}" world.sh)
    user=(--user --map-root-user)
    [ "$uid" -ne 0 ] || user=()
    exec unshare "${user[@]}" --net --mount "${here[@]}" --inside "$dir" "$origin" "$uid" "$gid" "$PWD" "$@"
fi
shift
dir=$1 origin=$2 uid=$3 gid=$4 from=$5
shift 5

children=()
finish() {
    trap - EXIT TERM INT HUP
    [ ${#children[@]} -eq 0 ] || kill -KILL "${children[@]}" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

# Public addresses, one for each name, so that a log tells who was dialled.
public="203.0.113.10 203.0.113.11 203.0.113.12 203.0.113.13 203.0.113.14 203.0.113.20 203.0.113.21 203.0.113.22
203.0.113.23 203.0.113.24 203.0.113.25 203.0.113.26 203.0.113.66 203.0.113.67 203.0.113.68 203.0.113.69 203.0.113.70
203.0.113.71 203.0.113.80 198.51.100.53 8.8.8.8 1.1.1.1"
public6="2606:4700::1111 2606:4700::1112"
# What must be refused, and would be reached.
private="10.0.0.5 172.16.0.5 192.168.1.1 169.254.169.254 100.64.0.1"
private6="fd00::1 fd00:ec2::254 fec0::1 64:ff9b::a00:5 64:ff9b::a9fe:a9fe 2002:a00:5::1"

cat >"$dir/hosts" <<'END'
127.0.0.1 localhost loop.test
::1 localhost loop6.test
203.0.113.10 a.test api.a.test other.a.test
203.0.113.11 b.test
203.0.113.12 c.test
203.0.113.13 mixed.test
10.0.0.5 mixed.test
203.0.113.14 dual.test
2606:4700::1111 dual.test v6.test
203.0.113.20 api.anthropic.com
203.0.113.21 github.com
203.0.113.22 api.github.com
203.0.113.23 registry.npmjs.org
203.0.113.24 pypi.org
203.0.113.25 upload.pypi.org
203.0.113.26 files.pythonhosted.org
203.0.113.66 selfsigned.test
203.0.113.67 expired.test
203.0.113.68 wrongname.test
203.0.113.69 tls12.test
203.0.113.70 raw.test
203.0.113.71 noserver.test
203.0.113.80 api.openai.com gitlab.com static.crates.io index.crates.io statsig.anthropic.com
10.0.0.5 private.test
172.16.0.5 private172.test
192.168.1.1 lan.test
169.254.169.254 meta.test metadata.google.internal
100.64.0.1 cgnat.test
198.51.100.1 own.test
0.0.0.0 zero.test
fd00::1 ula.test
fd00:ec2::254 meta6.test
fec0::1 site.test
::ffff:10.0.0.5 mapped.test
64:ff9b::a00:5 nat64.test
2002:a00:5::1 sixtofour.test
END
# Every name that is not in it is asked of the origins' name server.
echo "nameserver 198.51.100.2" >"$dir/resolv.conf"
echo "options timeout:1 attempts:1" >>"$dir/resolv.conf"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$dir/nsswitch.conf"
for file in hosts resolv.conf nsswitch.conf; do
    mount --bind "$dir/$file" "/etc/$file"
done

# Where the journal's socket is; a test listens on it.
if [ -n "${WORLD_JOURNAL:-}" ]; then
    mkdir -p "$dir/journal"
    mount -t tmpfs -o mode=755 world /run
    mkdir -p /run/systemd/journal
    mount --bind "$dir/journal" /run/systemd/journal
fi

unshare --net sleep infinity &
internet=$!
children+=("$internet")
own=$(readlink /proc/self/ns/net)
for _ in $(seq 1000); do
    [ "$(readlink "/proc/$internet/ns/net")" = "$own" ] || break
done

{
    echo "link set lo up"
    for address in $public $private; do echo "addr add $address/32 dev lo"; done
    for address in $public6 $private6; do echo "addr add $address/128 dev lo nodad"; done
    echo "link add host0 type veth peer name net0 netns $$"
    echo "addr add 198.51.100.2/24 dev host0"
    echo "addr add 2606:4700:ffff::2/64 dev host0 nodad"
    echo "link set host0 up"
} | nsenter --target "$internet" --net ip -batch -
ip -batch - <<'END'
link set lo up
addr add 198.51.100.1/24 dev net0
addr add 2606:4700:ffff::1/64 dev net0 nodad
link set net0 up
route add default via 198.51.100.2
route add ::/0 via 2606:4700:ffff::2
route add local 203.0.113.201 dev lo
route add local 2606:4700::9999 dev lo
END

# The origins out there, and one on the host itself, which no agent may reach.
mkdir -p "$dir/internet" "$dir/host"
start_origin() {
    local what=$1
    shift
    coproc ORIGIN { exec "$@" "$origin" serve "$dir" "$dir/$what" 2>"$dir/$what/stderr"; }
    children+=("$ORIGIN_PID")
    if ! read -r -t 20 line <&"${ORIGIN[0]}" || [ "$line" != listening ]; then
        echo "world: the origin does not start: $(cat "$dir/$what/stderr")" >&2
        exit 1
    fi
}
start_origin internet nsenter --target "$internet" --net
if [ -n "${WORLD_HOST_ORIGIN:-}" ]; then
    start_origin host 2>/dev/null
fi

# Who joins the world: as an ordinary user by one more user namespace.
joined=$$
if [ "$uid" -ne 0 ]; then
    unshare --user --map-user="$uid" --map-group="$gid" sleep infinity &
    joined=$!
    children+=("$joined")
    mine=$(readlink /proc/self/ns/user)
    for _ in $(seq 1000); do
        [ "$(readlink "/proc/$joined/ns/user")" = "$mine" ] || break
    done
    for _ in $(seq 1000); do
        [ ! -s "/proc/$joined/uid_map" ] || break
    done
fi

if [ $# -gt 0 ]; then
    cd "$from"
    join=()
    [ "$uid" -eq 0 ] || join=(nsenter --target "$joined" --user --preserve-credentials)
    code=0
    "${join[@]}" "$@" || code=$?
    exit "$code"
fi
echo "READY $$ $internet $joined"
# Until whoever wanted the world goes, or asks for its end.
read -r _ || true
