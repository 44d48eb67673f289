#!/usr/bin/env bash
# users: root me
# belljar in a container that allows user namespaces: podman with an unmasked
# /proc and without a seccomp filter, which is what a nested container needs.
# In one that does not, belljar refuses, and says why.
set -euo pipefail

image=localhost/belljar-case
root=$(mktemp -d)
trap 'rm -rf "$root"; podman rmi -f "$image" >/dev/null 2>&1 || true' EXIT
mkdir -p "$root"/{etc/ssl,tmp,root,proc,sys,dev,usr,var/tmp,home,run,work}
chmod 1777 "$root/tmp" "$root/var/tmp"
ln -s usr/bin "$root/bin"
ln -s usr/sbin "$root/sbin"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
printf 'root:x:0:0::/root:/bin/sh\nsomebody:x:1000:1000::/home:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nsomebody:x:1000:\n' >"$root/etc/group"
chmod 777 "$root/home" "$root/work"
tar -C "$root" -c . | podman import --quiet - "$image" >/dev/null

# contained OPTIONS… -- COMMAND…
contained() {
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    timeout 120 podman run --rm --network none --volume /usr:/usr:ro --volume /etc/ssl:/etc/ssl:ro --env PATH=/usr/local/bin:/usr/bin --workdir /work \
        "${options[@]}" "$image" "${@:2}" </dev/null
}

open=(--security-opt seccomp=unconfined --security-opt unmask=ALL --security-opt apparmor=unconfined)
failed=0
for inside in 0 1000; do
    code=0
    # Root of a container has to be root there, with ids for agents that are not its own.
    [ $inside -ne 0 ] || open+=(--cap-add SYS_ADMIN)
    out=$(contained "${open[@]}" --user "$inside" --env HOME=/home -- belljar run -- id -u 2>&1) || code=$?
    if [ $code -eq 0 ] && [ "$out" = 1000 ]; then
        echo "in a container of $(id -un), as its $inside: ok"
    elif [ $inside -eq 0 ] && [ "$(id -u)" -ne 0 ] && [ $code -eq 125 ] && [[ $out == *"has no ids from"*"hint: call belljar outside of it, or in it as an ordinary user"* ]]; then
        echo "in a container of $(id -un), as its root: refused: $out"
    else
        echo "in a container of $(id -un), as its $inside: exit code $code: $out"
        contained "${open[@]}" --user "$inside" --env HOME=/home -- belljar doctor 2>&1 | sed 's/^/    /' || true
        failed=1
    fi
    [ $inside -ne 0 ] || unset 'open[-1]' 'open[-1]'
done

# As podman makes them by default, /proc is masked, and a new one cannot be mounted.
code=0
out=$(contained --env HOME=/home --user 1000 -- belljar run -- id -u 2>&1) || code=$?
if [ $code -eq 125 ] && [[ $out == *hint:* ]]; then
    echo "in a closed container of $(id -un): refused: $out"
else
    echo "in a closed container of $(id -un): exit code $code, and no hint: $out"
    failed=1
fi
exit $failed
