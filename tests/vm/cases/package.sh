#!/usr/bin/env bash
# users: root
# The Debian package: installed, used, removed and purged, and nothing of it left.
set -euo pipefail
package=/opt/tests/belljar.deb
[ -f "$package" ] || { echo "$package is missing: tests/vm/suite puts it there" && exit 1; }
wrong() { echo "WRONG: $*" && exit 1; }
# The test host has no network, and what the package wants is there already.
failed=$(systemctl --failed --no-legend --plain)
# The test host is without the documentation of packages, by dpkg's configuration.
dpkg --path-include='/usr/share/doc/belljar*' --install "$package"
trap 'dpkg --purge belljar >/dev/null 2>&1 || true' EXIT
dpkg --verify belljar
mapfile -t files < <(dpkg -L belljar)
man -w belljar-systemd >/dev/null || wrong "no man page"
systemctl daemon-reload
said=$(systemd-analyze verify /usr/lib/systemd/system/belljar.service /usr/lib/systemd/system/belljar.socket /usr/lib/systemd/system/belljar@.service 2>&1) || wrong "$said"
[ -z "$said" ] || wrong "systemd-analyze verify: $said"
as_me() { runuser -u me -- env -C /home/me HOME=/home/me XDG_RUNTIME_DIR="/run/user/$(id -u me)" PATH=/usr/bin:/bin "$@"; }
said=$(as_me systemd-analyze --user verify /usr/lib/systemd/user/belljar.service /usr/lib/systemd/user/belljar.socket /usr/lib/systemd/user/belljar@.service 2>&1) || wrong "$said"
[ -z "$said" ] || wrong "systemd-analyze --user verify: $said"
as_me mkdir -p packaged
[ "$(as_me sh -c 'cd packaged && /usr/bin/belljar run -- id -u')" = 1000 ] || wrong "no run"
# The units of the package, which nobody has enabled.
as_me systemctl --user daemon-reload
[ "$(as_me systemctl --user is-enabled belljar.socket)" = disabled ] || wrong "it is enabled by itself"
as_me systemctl --user start belljar.socket
as_me curl -sS -m 60 --unix-socket "/run/user/$(id -u me)/belljar.sock" http://b/runs -d '{"group": "main", "command": ["true"]}' | grep -q '"error"\|exit_code' || wrong "the host process does not answer"
as_me systemctl --user stop belljar.socket belljar.service
# AppArmor: loaded where the kernel has it, and the parser knows the profile.
if [ -d /sys/kernel/security/apparmor ] && apparmor_parser --skip-kernel-load --skip-cache /usr/share/belljar/apparmor/belljar 2>/dev/null; then
    grep -q '^belljar ' /sys/kernel/security/apparmor/profiles || wrong "the profile is not loaded"
else
    echo "SKIPPED: the profile is not loaded here: AppArmor is off"
fi
DEBIAN_FRONTEND=noninteractive apt-get remove -y -qq belljar >/dev/null
[ ! -e /usr/bin/belljar ] || wrong "the program stays"
[ ! -e /etc/apparmor.d/belljar ] || wrong "the profile stays"
! grep -q '^belljar ' /sys/kernel/security/apparmor/profiles 2>/dev/null || wrong "the profile stays loaded"
dpkg --purge belljar
left=$(for file in "${files[@]}"; do [ -d "$file" ] || [ ! -e "$file" ] || echo "$file"; done)
[ -z "$left" ] || wrong "left: $left"
for directory in /usr/share/belljar /usr/share/doc/belljar; do
    [ ! -d "$directory" ] || wrong "$directory is left"
done
[ ! -e /var/lib/belljar-apparmor ] || wrong "a note is left"
[ "$(systemctl --failed --no-legend --plain)" = "$failed" ] || wrong "failed units: $(systemctl --failed --no-legend --plain)"
as_me systemctl --user daemon-reload
echo ok
