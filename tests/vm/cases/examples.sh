#!/usr/bin/env bash
# users: me
# The examples of docs/systemd.md, word for word: each section's blocks in one
# shell, at home, as a person would type them.
set -euo pipefail
document=/opt/tests/systemd.md
[ -f "$document" ] || { echo "$document is missing: tests/vm/suite puts it there" && exit 1; }
failed=0

# The blocks of a section.
blocks() {
    awk -v section="## $1" '
        /^## / { inside = $0 == section }
        /^```/ { if (fence) { fence = 0; next } fence = inside && $0 == "```sh"; if (fence) next }
        fence { print }' "$document"
}

# example SECTION PATTERN…: runs it; each pattern is in what it prints.
example() {
    local section=$1 out code=0 pattern script
    shift
    script=$(blocks "$section")
    [ -n "$script" ] || { echo "there is no section $section" && exit 1; }
    out=$(cd ~ && timeout 240 bash -euo pipefail -c "$script" 2>&1 </dev/null) || code=$?
    for pattern in "$@"; do
        grep -qE -- "$pattern" <<<"$out" || { echo "$section: no $pattern" && code=99; }
    done
    if [ $code -ne 0 ]; then
        printf '%s: %s\n%s\n' "$section" "$code" "$out"
        failed=1
    else
        echo "$section: ok"
    fi
}

cleanup() {
    belljar systemd remove --all --force >/dev/null 2>&1 || true
    belljar group remove sales --yes >/dev/null 2>&1 || true
    rm -rf ~/src ~/.config/belljar ~/.local/share/belljar
}
cleanup
trap cleanup EXIT
example "A nightly job" 'enabled belljar-nightly.timer' '^hello$' 'belljar-nightly.timer +belljar-nightly.service' 'exited with 0' \
    'removed .*belljar-nightly.timer'
example "An agent for each chat group" 'the sales agent is at work' 'run of group sales ended: exited with 0' 'the support agent sees' '^group$'
example "The host process, started by its socket" '"version":' '"stdout":"from the socket\\n1000\\n"' 'active \(running\)' 'removed .*belljar.socket'
left=$(pgrep -u me -a -x 'belljar|crun' || true)
[ -z "$left" ] || { echo "left: $left" && failed=1; }
exit $failed
