#!/usr/bin/env python3
"""What one belljar run costs, beside the nearest other ways to the same view.

Contenders, started in turn (A B C D, A B C D, ...), each around the command
`true` in the same root with the same binds:

  belljar   belljar run
  crun      bare `crun run` of the bundle that `belljar bundle` writes
  bwrap     bubblewrap with the binds of that bundle
  podman    `podman run --rootfs` with the root and the binds of that bundle

Then: the time of each step of belljar's own, the supervisor's memory, the walk
of a tree with many files, and many runs at once.

Exit code: 0 whether goals are met or not; 1 when belljar or crun fails. bwrap
and podman are skipped, with the reason, where they cannot run.
"""

import argparse
import ctypes
import glob
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

GOAL_CRUN = 1.25  # times bare crun, at most
GOAL_PODMAN = 8.0  # times faster than podman, at least
GOAL_MEMORY = 12.0  # MB, at most
GOAL_SPREAD = 3.0  # slowest of many runs at once, times their median, at most
GOAL_WALK = 150.0  # ms, at most

CGROUP2_MAGIC = 0x63677270  # statfs(2)
SELF = os.path.abspath(__file__)


class Failed(Exception):
    """A contender failed; the text says how."""


# ---------------------------------------------------------------- the worker
#
# Commands are started by a worker process, so that a contender that needs
# namespaces of the bench's own is timed without the making of them.


def empty():
    """Standard input at its end. Not /dev/null: crun 1.8 and others give what they
    get to the container's user, and root's /dev/null is the host's."""
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def spawn(job, errors):
    actions = [
        (os.POSIX_SPAWN_DUP2, EMPTY, 0),
        (os.POSIX_SPAWN_DUP2, OUTPUT, 1),
        (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    return os.posix_spawn(job["argv"][0], job["argv"], job["env"], file_actions=actions)


def unread():
    """A file for output that nobody reads."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


EMPTY, OUTPUT = empty(), unread()


def worker(own_cgroup2):
    if own_cgroup2:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"cgroup2", b"/sys/fs/cgroup", b"cgroup2", 0, None) != 0:
            print(json.dumps("mount cgroup2: " + os.strerror(ctypes.get_errno())), flush=True)
            return
    print(json.dumps("ready"), flush=True)
    scratch = tempfile.mkdtemp(prefix="belljar-bench-worker-")
    try:
        for line in sys.stdin:
            jobs = json.loads(line)
            running = {}
            results = [None] * len(jobs)
            for number, job in enumerate(jobs):
                errors = os.path.join(scratch, str(number))
                os.chdir(job["cwd"])
                begun = time.perf_counter()
                running[spawn(job, errors)] = (number, begun, errors)
            while running:
                pid, status = os.waitpid(-1, 0)
                ended = time.perf_counter()
                if pid not in running:
                    continue
                number, begun, errors = running.pop(pid)
                with open(errors, errors="replace") as file:
                    said = file.read()
                code = os.waitstatus_to_exitcode(status)
                results[number] = {"ms": (ended - begun) * 1000, "code": code, "stderr": said}
            print(json.dumps(results), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class Worker:
    """A process that starts commands and times them, here or in namespaces."""

    def __init__(self, prefix=(), own_cgroup2=False):
        argv = [*prefix, sys.executable, SELF, "--worker"]
        if own_cgroup2:
            argv.append("--own-cgroup2")
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        answer = self.process.stdout.readline()
        word = json.loads(answer) if answer else "it did not start"
        if word != "ready":
            raise Failed(f"{' '.join(prefix) or 'worker'}: {word}")

    def run_all(self, jobs):
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed("the bench's worker ended")
        return json.loads(answer)

    def run(self, job):
        return self.run_all([job])[0]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Contender:
    def __init__(self, name, worker, make_argv, environment, directory):
        self.name = name
        self.worker = worker
        self.make_argv = make_argv  # called with a number that no other run has
        self.environment = environment
        self.directory = directory
        self.times = []
        self.count = 0

    def job(self, argv=None):
        self.count += 1
        argv = argv or self.make_argv(self.count)
        return {"argv": argv, "env": self.environment, "cwd": self.directory}

    def check(self, result, expected=0):
        if result["code"] != expected:
            raise Failed(
                f"{self.name} exited with {result['code']}: {result['stderr'].strip()[-600:]}"
            )
        return result

    def once(self, argv=None):
        return self.check(self.worker.run(self.job(argv)))


# ------------------------------------------------------------ the contenders


def bundle_of(belljar, scratch, nested, more=()):
    """The bundle, and its configuration; changed only where a comment says so."""
    path = os.path.join(scratch, "bundle")
    belljar.once(belljar.make_argv(0)[:1] + ["bundle", "--output", path, *more, "--", "true"])
    config_path = os.path.join(path, "config.json")
    with open(config_path) as file:
        config = json.load(file)
    if nested:
        # The caller is uid 0 of the namespace that crun is started in.
        for key in ("uidMappings", "gidMappings"):
            for entry in config["linux"][key]:
                entry["hostID"] = 0
        with open(config_path, "w") as file:
            json.dump(config, file)
    return path, config


def option(mount, name, default=None):
    for entry in mount.get("options", []):
        key, _, value = entry.partition("=")
        if key == name:
            return value or True
    return default


def lower_directory(mount):
    return option(mount, "lowerdir").split(":")[-1]


def bwrap_arguments(bwrap, bundle, config):
    argv = [bwrap, "--unshare-all", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    argv += ["--hostname", config["hostname"], "--clearenv"]
    for variable in config["process"]["env"]:
        argv += ["--setenv", *variable.split("=", 1)]
    argv += ["--ro-bind", os.path.join(bundle, "rootfs"), "/"]
    for mount in config["mounts"]:
        kind, target = mount["type"], mount["destination"]
        readonly = option(mount, "ro") is not None
        if kind == "proc":
            argv += ["--proc", target]
        elif target == "/dev":
            argv += ["--dev", target]
        elif kind == "tmpfs":
            mode = str(option(mount, "mode", "755"))
            argv += ["--perms", mode.zfill(4), "--size", str(option(mount, "size"))]
            argv += ["--tmpfs", target]
        elif kind == "overlay":
            argv += ["--ro-bind", lower_directory(mount), target]
        elif kind == "bind" and mount["source"] == "/dev/null":
            argv += ["--dev-bind", mount["source"], target]
        elif kind == "bind":
            argv += ["--ro-bind" if readonly else "--bind", mount["source"], target]
    return [*argv, "--chdir", config["process"]["cwd"], "--", "true"]


def podman_arguments(podman, bundle, config, extra):
    argv = [podman, "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "all"]
    argv += ["--security-opt", "no-new-privileges", "--hostname", config["hostname"], *extra]
    argv += ["--workdir", config["process"]["cwd"]]
    for variable in config["process"]["env"]:
        argv += ["--env", variable]
    for mount in config["mounts"]:
        kind, target = mount["type"], mount["destination"]
        readonly = ":ro" if option(mount, "ro") is not None else ""
        if kind == "tmpfs" and not target.startswith("/dev"):
            argv += ["--tmpfs", f"{target}:size={option(mount, 'size')}"]
        elif kind == "overlay":
            argv += ["--volume", f"{lower_directory(mount)}:{target}:ro"]
        elif kind == "bind":
            argv += ["--volume", f"{mount['source']}:{target}{readonly}"]
    return [*argv, "--rootfs", os.path.join(bundle, "rootfs"), "true"]


def podman_that_runs(podman, bundle, config, worker, environment, directory):
    """The first of these sets of options that works here: a host may forbid cgroups
    to be made, or limits to be raised."""
    limits = []
    for name in ("nofile", "nproc"):
        soft = resource.getrlimit(getattr(resource, "RLIMIT_" + name.upper()))[0]
        low = 1024 if soft == resource.RLIM_INFINITY else min(soft, 1024)
        limits += ["--ulimit", f"{name}={low}:{low}"]
    why = "no reason given"
    for extra in ([], ["--cgroups=disabled"], ["--cgroups=disabled", *limits]):
        argv = podman_arguments(podman, bundle, config, extra)
        contender = Contender("podman", worker, lambda _, argv=argv: argv, environment, directory)
        try:
            contender.once()
            return contender, extra
        except Failed as error:
            why = str(error)
    raise Failed(why)


# ------------------------------------------------------------------- figures


def mark(good):
    return "ok" if good else "MISSED"


def spread(times):
    return f"{statistics.median(times):8.2f} {min(times):8.2f} {max(times):8.2f}"


def interleaved(contenders, rounds):
    for contender in contenders:
        for _ in range(2):
            contender.once()  # warm caches are not what is measured
    for _ in range(rounds):
        for contender in contenders:
            contender.times.append(contender.once()["ms"])


def steps_of(belljar, rounds):
    """Median of each step, from the lines of `belljar run -v`."""
    program = belljar.make_argv(0)[0]
    steps, wall = {}, []
    for _ in range(rounds):
        result = belljar.once([program, "run", "-v", "--", "true"])
        wall.append(result["ms"])
        for line in result["stderr"].splitlines():
            step = re.fullmatch(r"belljar: (.+): ([0-9.]+) ms", line)
            if step:
                steps.setdefault(step[1], []).append(float(step[2]))
            total = re.fullmatch(r"belljar: run .*, ([0-9.]+) ms in all", line)
            if total:
                steps.setdefault("", []).append(float(total[1]))
    medians = {name: statistics.median(times) for name, times in steps.items()}
    return medians.pop("", None), medians, statistics.median(wall)


def memory_of(belljar):
    """(VmHWM, VmRSS) of the supervisor and the PSS of each process of the run, in
    MB, while the agent sleeps."""
    argv = [belljar.make_argv(0)[0], "run", "--", "sh", "-c", "echo up; exec sleep 60"]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=belljar.environment,
        cwd=belljar.directory,
    )
    try:
        if process.stdout.readline() != b"up\n":
            raise Failed("belljar did not start a sleeping agent")
        time.sleep(0.3)
        with open(f"/proc/{process.pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        own = [int(status[key].split()[0]) / 1024 for key in ("VmHWM", "VmRSS")]
        shares, todo = [], [process.pid]
        while todo:
            pid = todo.pop(0)
            try:
                with open(f"/proc/{pid}/comm") as file:
                    name = file.read().strip()
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    pss = re.search(r"^Pss:\s+(\d+)", file.read(), re.M)
                shares.append((name, int(pss[1]) / 1024))
            except (OSError, TypeError):
                pass  # not readable for an ordinary user, or gone
            for path in glob.glob(f"/proc/{pid}/task/*/children"):
                with open(path) as file:
                    todo += map(int, file.read().split())
        return own, shares
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def make_tree(path, files):
    per_directory = 100
    for number in range(0, files, per_directory):
        directory = os.path.join(path, f"d{number // 10000:03}", f"d{number:06}")
        os.makedirs(directory)
        for file in range(min(per_directory, files - number)):
            os.close(os.open(os.path.join(directory, f"file{file}.txt"), os.O_CREAT | os.O_WRONLY))


def walk_times(belljar, tree, small, rounds):
    program = belljar.make_argv(0)[0]
    times = {tree: [], small: []}
    for turn in range(rounds + 2):
        for project, taken in times.items():
            argv = [program, "explain", "--project", project, "--", "true"]
            milliseconds = belljar.once(argv)["ms"]
            if turn >= 2:
                taken.append(milliseconds)
    return times[tree], times[small]


def at_once(contender, number):
    """The times, and what those said that failed."""
    results = contender.worker.run_all([contender.job() for _ in range(number)])
    errors = []
    for result in results:
        try:
            contender.check(result)
        except Failed as error:
            errors.append(str(error))
    return [result["ms"] for result in results], errors


# ---------------------------------------------------------------------- main


def unified_cgroups():
    """Whether /sys/fs/cgroup is a cgroup v2 tree: crun refuses hybrid hosts."""
    with open("/proc/self/mountinfo") as file:
        last = [line for line in file if line.split()[4] == "/sys/fs/cgroup"][-1:]
    return bool(last) and " - cgroup2 " in last[0]


def measure(options, scratch, say):
    belljar_path = os.path.abspath(options.belljar)
    if not os.access(belljar_path, os.X_OK):
        raise Failed(f"{belljar_path} is not there: cargo build --release")
    is_root = os.geteuid() == 0
    project = os.path.join(scratch, "project")
    os.makedirs(os.path.join(project, "src"))
    for name in (".env", "README", "src/main"):
        with open(os.path.join(project, name), "w") as file:
            file.write("example\n")
    os.chmod(scratch, 0o755)
    environment = {
        key: value
        for key, value in os.environ.items()
        if key in ("HOME", "PATH", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    }
    environment["BELLJAR_HOME"] = os.path.join(scratch, "home")

    here = Worker()
    workers = [here]
    unified = unified_cgroups()
    nested = not unified and not is_root
    if unified:
        inner = here
    elif is_root:
        inner = Worker(["unshare", "--mount", "--propagation", "private"], own_cgroup2=True)
    else:
        prefix = ["unshare", "--user", "--map-root-user", "--mount", "--cgroup"]
        inner = Worker(prefix, own_cgroup2=True)
    if inner is not here:
        workers.append(inner)
    # As root all are started from the same place. As a user belljar and bwrap must
    # not be, because there the user is uid 0.
    outer = inner if is_root else here

    run = [belljar_path, "run", "--", "true"]
    belljar = Contender("belljar", outer, lambda _: run, environment, project)
    belljar.once()
    bundle, config = bundle_of(belljar, scratch, nested)
    contenders = [belljar]

    crun_path = shutil.which("crun", path="/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin")
    if not crun_path:
        raise Failed("crun is not installed: apt-get install crun")
    state = os.path.join(scratch, "crun")
    crun_argv = [crun_path, "--root", state, "--cgroup-manager=disabled", "run", "--bundle", bundle]
    crun = Contender(
        "crun", inner, lambda n: [*crun_argv, f"bench-{n}"], environment, project
    )
    crun.once()
    contenders.append(crun)

    user = "root" if is_root else "an ordinary user"
    cgroups = "unified" if unified else "hybrid"
    say(f"belljar startup bench: {options.rounds} rounds as {user}, Linux {os.uname().release},")
    say(f"{os.cpu_count()} CPUs, cgroups {cgroups}, load {os.getloadavg()[0]:.2f}")
    if not unified:
        say("crun and podman start in a mount namespace with cgroup2 over /sys/fs/cgroup, made")
        say("once, outside of the timing: they refuse a hybrid host")

    podman = None
    if (bwrap_path := shutil.which("bwrap")) is None:
        say("SKIPPED: bwrap is not installed")
    else:
        bwrap_argv = bwrap_arguments(bwrap_path, bundle, config)
        bwrap = Contender("bwrap", outer, lambda _: bwrap_argv, environment, project)
        try:
            bwrap.once()
            contenders.append(bwrap)
            say("bwrap runs without a seccomp filter, and binds the project where the others merge")
        except Failed as error:
            say(f"SKIPPED: {error}")
    if (podman_path := shutil.which("podman")) is None:
        say("SKIPPED: podman is not installed")
    else:
        try:
            podman, extra = podman_that_runs(
                podman_path, bundle, config, inner, environment, project
            )
            contenders.append(podman)
            if extra:
                say(f"podman runs here only with {' '.join(extra)}")
        except Failed as error:
            say(f"SKIPPED: {error}")

    interleaved(contenders, options.rounds)
    base = statistics.median(belljar.times)
    bare = statistics.median(crun.times)
    say("")
    say(f"{'ms':<10} {'median':>8} {'min':>8} {'max':>8} {'x belljar':>10} {'x crun':>8}")
    for contender in contenders:
        median = statistics.median(contender.times)
        say(
            f"{contender.name:<10} {spread(contender.times)} {median / base:>10.2f}"
            f" {median / bare:>8.2f}"
        )
    say("")
    say(f"belljar / bare crun         {base / bare:6.2f}     goal at most {GOAL_CRUN}"
        f"     {mark(base / bare <= GOAL_CRUN)}")
    if podman:
        times = statistics.median(podman.times) / base
        say(f"podman / belljar            {times:6.2f}     goal at least {GOAL_PODMAN:g}"
            f"       {mark(times >= GOAL_PODMAN)}")

    inside, steps, wall = steps_of(belljar, options.rounds)
    say("")
    say("belljar's own steps, medians in ms")
    for name, median in steps.items():
        say(f"  {name:<40} {median:8.2f}")
    # What the supervisor calls its run is the launcher's steps, the agent, and the end.
    launcher = sum(ms for name, ms in steps.items() if name.startswith("launcher: "))
    if (whole := steps.get("supervisor: run")) is not None:
        say(f"  {'of supervisor: run, agent and end':<40} {whole - launcher:8.2f}")
    if inside is not None:
        say(f"  {'process, command line, plan':<40} {wall - inside:8.2f}")
    say(f"  {'whole process':<40} {wall:8.2f}")

    (peak, resident), shares = memory_of(belljar)
    say("")
    say(f"supervisor, peak resident   {peak:6.1f} MB  goal at most {GOAL_MEMORY:g} MB    "
        f"{mark(peak <= GOAL_MEMORY)}   (now {resident:.1f} MB)")
    if shares:
        listed = ", ".join(f"{name} {size:.1f}" for name, size in shares)
        say(f"its processes, PSS in MB    {sum(size for _, size in shares):6.1f}     ({listed})")

    failed = False
    say("")
    for contender in (belljar, crun):
        times, errors = at_once(contender, options.parallel)
        ratio = max(times) / statistics.median(times)
        goal = " " * 30
        if contender is belljar:
            good = mark(ratio <= GOAL_SPREAD and not errors)
            goal = f"goal at most {GOAL_SPREAD:g}       {good:<6}   "
        say(f"{options.parallel} at once, slowest/median {ratio:7.2f}     {goal}({contender.name}: median"
            f" {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms,"
            f" {len(errors)} failed)")
        for error in sorted(set(errors)):
            failed = True
            say(f"FAILED: {error}")

    tree = os.path.join(scratch, "tree")
    make_tree(tree, options.files)
    big, small = walk_times(belljar, tree, project, min(options.rounds, 11))
    walk = statistics.median(big) - statistics.median(small)
    say("")
    say(f"walk of {options.files} files, warm {walk:7.1f} ms  goal at most {GOAL_WALK:g} ms"
        f"   {mark(walk <= GOAL_WALK)}   (explain {statistics.median(big):.1f} ms,"
        f" of a small project {statistics.median(small):.1f} ms)")
    for each in workers:
        each.close()
    if failed:
        raise Failed("not every run succeeded")


def main():
    parser = argparse.ArgumentParser(description="What one belljar run costs.")
    parser.add_argument("belljar", nargs="?", help="the release binary")
    parser.add_argument("-n", "--rounds", type=int, default=25, help="rounds (default 25)")
    parser.add_argument("--parallel", type=int, default=50, help="runs at once (default 50)")
    parser.add_argument("--files", type=int, default=100_000, help="files of the tree")
    if sys.argv[1:2] == ["--worker"]:
        worker("--own-cgroup2" in sys.argv)
        return 0
    options = parser.parse_args()
    if options.belljar is None:
        top = os.path.dirname(os.path.dirname(SELF))
        options.belljar = os.path.join(top, "target", "release", "belljar")
    # Readable by the id that root's agent has.
    scratch = tempfile.mkdtemp(prefix="belljar-bench-", dir=os.environ.get("TMPDIR", "/tmp"))
    try:
        measure(options, scratch, lambda line: print(line, flush=True))
    except Failed as error:
        print(f"startup.py: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
