#!/usr/bin/env python3
"""Starts by backend and root, in one run, interleaved: belljar with crun, runc,
youki and podman on the host's root, a directory and an image, beside bare crun on
the directory and `podman run` of the same image. Then `belljar image import`
beside `podman load` of the same archive.

Each row first proves that it runs in the root that it is named for: a file that
only the small bench root has. A row that cannot run, or runs elsewhere, is said.

Exit code: 0 whether goals are met or not; 1 when belljar's own row of the host's
root fails.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from startup import Contender, Failed, Worker, bundle_of, mark, unified_cgroups

GOAL_IMAGE = 1.2  # times the host root's warm start with crun, at most
GOAL_PODMAN = 5.0  # times faster than `podman run` of the same image, at least
# What is typed for a container with a network, and the least that podman does.
PODMAN_RUN = {
    "podman run": [],
    "podman run, no network": ["--network", "none", "--read-only", "--cap-drop", "all"],
}
# Where a machine gives podman less: no cgroups, limits that cannot be raised.
MAY_NEED = (
    [],
    ["--cgroups=disabled"],
    ["--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"],
)
MARK = "/srv/belljar-bench-root"
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def small_root(path):
    """A root with sh, test and true, their libraries, and the mark."""
    files = set()
    for name in ("sh", "true"):
        program = shutil.which(name, path=SEARCH)
        libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        files.update(word for word in libraries.stdout.split() if word.startswith("/"))
        files.add("/bin/" + name)
    for file in files:
        target = path + file
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(os.path.realpath(file), target)
    os.makedirs(os.path.dirname(path + MARK))
    with open(path + MARK, "w") as file:
        file.write("bench\n")


def evict(paths):
    """Drops these files from the page cache, without anybody else's."""
    for top in paths:
        found = [top] if os.path.isfile(top) else [
            os.path.join(place, name) for place, _, names in os.walk(top) for name in names
        ]
        for path in found:
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


class Row:
    """A contender, and what is read from the disk when it starts cold."""

    def __init__(self, contender, files, probe, small):
        self.contender, self.files, self.cold = contender, files, []
        # The probe's exit code says whether the mark is there.
        found = contender.worker.run(contender.job(probe))
        if found["code"] != (0 if small else 1):
            said = found["stderr"].strip().splitlines()
            raise Failed(said[-1][:200] if said else "it does not run in the root it was given")
        contender.once()


def belljar_rows(options, scratch, worker, environment, image, say):
    """{(backend, root): Row}, the missing ones said."""
    root, home = os.path.join(scratch, "root"), environment["BELLJAR_HOME"]
    roots = {"host": [], "directory": ["--rootfs", root], "image": ["--image", image]}
    rows = {}
    for backend in ("crun", "runc", "youki", "podman"):
        # tests/youki builds it beside belljar.
        built = os.path.join(os.path.dirname(options.belljar), "..", "youki", "bin")
        program = shutil.which(backend, path=f"{SEARCH}:{built}")
        chosen = ["--backend", "podman"] if backend == "podman" else ["--runtime", program or backend]
        for kind, more in roots.items():
            name = f"belljar {backend}, {kind}"
            if program is None:
                say(f"NOT AVAILABLE: {name}: {backend} is not installed")
                continue
            if kind == "image" and image is None:
                say(f"NOT AVAILABLE: {name}: no podman made the bench's image")
                continue
            start = [options.belljar, "run", *chosen, *more, "--"]
            contender = Contender(
                name, worker, lambda _, start=start: [*start, "true"], environment,
                os.path.join(scratch, "project"),
            )
            files = [options.belljar, program]
            files += {"host": [], "directory": [root], "image": [os.path.join(home, "data", "images")]}[kind]
            try:
                probe = [*start, "sh", "-c", f"test -e {MARK}"]
                rows[backend, kind] = Row(contender, files, probe, kind != "host")
            except Failed as error:
                say(f"NOT AVAILABLE: {name}: {error}")
    return rows


def bare_crun(options, scratch, worker, environment):
    """crun alone with belljar's bundle of the directory; in a namespace where an
    ordinary user is 0."""
    project = os.path.join(scratch, "project")
    belljar = Contender("belljar", worker, lambda _: [options.belljar], environment, project)
    nested = not unified_cgroups() and os.geteuid() != 0
    path, _ = bundle_of(belljar, scratch, nested, ["--rootfs", os.path.join(scratch, "root")])
    program = shutil.which("crun", path=SEARCH)
    if program is None:
        raise Failed("crun is not installed")
    state = os.path.join(scratch, "crun")
    argv = [program, "--root", state, "--cgroup-manager=disabled", "run", "--bundle", path]
    return argv


def podman_image(root, name):
    """Makes the bench's image, or says why not."""
    if shutil.which("podman") is None:
        raise Failed("podman is not installed")
    with tempfile.TemporaryFile() as archive:
        subprocess.run(["tar", "-C", root, "-c", "."], stdout=archive, check=True)
        archive.seek(0)
        made = subprocess.run(
            ["podman", "import", "--quiet", "-", name], stdin=archive, capture_output=True, text=True
        )
    if made.returncode != 0:
        raise Failed(f"podman import: {made.stderr.strip()[-200:]}")


def imports(options, environment, say):
    """MB/s of belljar and podman, of the same archive, each into an empty store."""
    archive = options.archive
    if not os.path.exists(archive):
        say(f"NOT AVAILABLE: import: {archive} is not there: make image")
        return
    size, speed = os.path.getsize(archive) / 1e6, {}
    with tempfile.TemporaryDirectory(prefix="belljar-bench-") as store:
        commands = {
            "belljar image import": [options.belljar, "image", "import", f"oci-archive:{archive}"],
            "podman load": ["podman", "--root", store + "/s", "--runroot", store + "/r", "load", "-q", "-i", archive],
        }
        for name, argv in commands.items():
            own = {**environment, "BELLJAR_HOME": os.path.join(store, "home")}
            begun = time.perf_counter()
            try:
                done = subprocess.run(argv, env=own, capture_output=True, text=True)
            except OSError as error:
                say(f"NOT AVAILABLE: {name}: {error}")
                continue
            if done.returncode != 0:
                said = done.stderr.strip().splitlines() or ["no reason given"]
                say(f"NOT AVAILABLE: {name}: {said[0][:200]}")
                continue
            speed[name] = size / (time.perf_counter() - begun)
            say(f"{name:<24} {speed[name]:8.1f} MB/s of {size:.0f} MB")
        # podman's overlay of the store must not stay mounted.
        subprocess.run(["umount", store + "/s/overlay"], capture_output=True)
    if len(speed) == 2:
        say(f"belljar / podman         {speed['belljar image import'] / speed['podman load']:8.2f} x")


def measure(options, scratch, say):
    project, root = os.path.join(scratch, "project"), os.path.join(scratch, "root")
    os.makedirs(project)
    small_root(root)
    os.chmod(scratch, 0o755)
    kept = ("HOME", "PATH", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    environment["BELLJAR_HOME"] = os.path.join(scratch, "home")
    name = f"localhost/belljar-bench-{os.getpid()}:latest"
    here, unified = Worker(), unified_cgroups()
    inner = here
    if not unified:
        alone = ["--mount", "--propagation", "private"] if os.geteuid() == 0 else [
            "--user", "--map-root-user", "--mount", "--cgroup"]
        inner = Worker(["unshare", *alone], own_cgroup2=True)
    outer = inner if os.geteuid() == 0 else here
    try:
        image = name
        try:
            podman_image(root, name)
        except Failed as error:
            image = None
            say(f"NOT AVAILABLE: the rows of an image: {error}")
        say(f"{options.rounds} rounds as uid {os.geteuid()}, load {os.getloadavg()[0]:.2f}. warm: after")
        say("one start. cold: belljar, the runtime and the files of a directory or an image are")
        say("dropped from the page cache before each start; the host's root stays warm.")
        rows = belljar_rows(options, scratch, outer, environment, image, say)
        plain = {}
        try:
            bundled = bare_crun(options, scratch, outer, environment)
            start = lambda n: [*bundled, f"bench-{os.getpid()}-{n}"]  # noqa: E731
            bare = Contender("bare crun, directory", inner, start, environment, project)
            bare.once()
            plain["crun"] = bare
        except Failed as error:
            say(f"NOT AVAILABLE: bare crun: {error}")
        for name, options_of_podman in PODMAN_RUN.items() if image else ():
            argv = [shutil.which("podman"), "run", "--rm", *options_of_podman]
            for more in MAY_NEED:
                start = lambda _, argv=argv, more=more: [*argv, *more, image, "true"]  # noqa: E731
                podman = Contender(name, inner, start, environment, project)
                try:
                    podman.once()
                    plain[name] = podman
                    break
                except Failed as error:
                    why = error
            else:
                say(f"NOT AVAILABLE: {name}: {why}")
        for _ in range(options.rounds):
            for row in rows.values():
                row.contender.times.append(row.contender.once()["ms"])
            for contender in plain.values():
                contender.times.append(contender.once()["ms"])
        for _ in range(max(1, options.rounds // 5)):
            for row in rows.values():
                evict(row.files)
                row.cold.append(row.contender.once()["ms"])
        report(rows, plain, say)
        imports(options, environment, say)
    finally:
        for each in {here, inner}:
            each.close()
        if shutil.which("podman"):
            subprocess.run(["podman", "rmi", "--force", name], capture_output=True)
    if ("crun", "host") not in rows:
        raise Failed("belljar with crun does not run on the host's root")


def report(rows, plain, say):
    say("")
    say(f"{'ms':<28} {'warm':>8} {'min':>8} {'max':>8} {'cold':>8}")
    lines = [(row.contender, row.cold) for row in rows.values()]
    for contender, cold in [*lines, *((each, []) for each in plain.values())]:
        times = contender.times
        cold = f"{statistics.median(cold):8.2f}" if cold else f"{'-':>8}"
        say(f"{contender.name:<28} {statistics.median(times):8.2f} {min(times):8.2f} {max(times):8.2f} {cold}")
    say("")
    image, host = rows.get(("crun", "image")), rows.get(("crun", "host"))
    if image and host:
        mine = statistics.median(image.contender.times)
        ratio = mine / statistics.median(host.contender.times)
        say(f"image / host root, crun  {ratio:6.2f}  goal at most {GOAL_IMAGE}  {mark(ratio <= GOAL_IMAGE)}")
        for name in PODMAN_RUN:
            if name in plain:
                ratio = statistics.median(plain[name].times) / mine
                said = mark(ratio >= GOAL_PODMAN)
                say(f"{name:<28} / image, crun {ratio:6.2f}  goal at least {GOAL_PODMAN:g}  {said}")
    else:
        say("NOT MEASURED: both goals: there is no row of an image with crun")


def main():
    parser = argparse.ArgumentParser(description="Starts by backend and root.")
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("belljar", nargs="?", default=os.path.join(top, "target", "release", "belljar"))
    parser.add_argument("-n", "--rounds", type=int, default=25, help="rounds (default 25)")
    parser.add_argument("--archive", default=os.path.join(top, "target", "agent-image", "belljar-agent.tar"))
    options = parser.parse_args()
    options.belljar = os.path.abspath(options.belljar)
    scratch = tempfile.mkdtemp(prefix="belljar-bench-", dir=os.environ.get("TMPDIR", "/tmp"))
    try:
        measure(options, scratch, lambda line: print(line, flush=True))
    except Failed as error:
        print(f"backends.py: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
