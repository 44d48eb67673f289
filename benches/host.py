#!/usr/bin/env python3
"""What belljar's host process costs, between a person's message and the agent.

Measured:

  latency      from POST /messages to the agent's first instruction, beside what
               `belljar run` with the same command takes to there: the difference is
               the host process's own. Beside the poll interval of 1 s of the system
               whose model this is, which looks for messages before it starts anything
  throughput   messages a second through the whole way: stored, given to an agent
               that repeats them, and in an answer that can be read; written as fast
               as they are taken, by one client, so that agents get several at once;
               and one at a time, each answered before the next, a container each
  start-up     with 100 groups and 10,000 messages that wait: until the socket
               answers, and the resident memory

Exit code: 0 whether goals are met or not; 1 when something fails.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

GOAL_ADDED = 20.0  # ms of the host process's own before the agent starts, at most
GOAL_POLL = 20  # times faster than the poll interval, at least
POLL = 1000.0  # ms
GOAL_MEMORY = 50.0  # MB, below
PATIENCE = 120  # seconds for anything
STARTED = "date +%s%N >started.tmp; mv started.tmp started; cat >/dev/null"
SELF = os.path.abspath(__file__)


class Failed(Exception):
    """Something failed; the text says how."""


class Unix(http.client.HTTPConnection):
    """HTTP on a Unix socket, kept open."""

    def __init__(self, path):
        super().__init__("belljar", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method, target, body=None):
        self.request(method, target, json.dumps(body) if body is not None else None)
        response = self.getresponse()
        text = response.read()
        if response.status >= 300:
            raise Failed(f"{method} {target}: {response.status} {text.decode()}")
        return json.loads(text)


class Home:
    """belljar's directories for one measurement, and a host process in them."""

    def __init__(self, options, scratch, name):
        self.belljar = options.belljar
        self.path = os.path.join(scratch, name)
        os.makedirs(os.path.join(self.path, "config"), mode=0o700)
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": self.path, "BELLJAR_HOME": self.path,
        }
        self.process = None

    def call(self, *arguments, **options):
        done = subprocess.run(
            [self.belljar, *arguments], env=self.environment, cwd=self.path,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, **options,
        )
        if done.returncode != 0:
            raise Failed(f"belljar {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def groups(self, names, command):
        for name in names:
            self.call("group", "add", name)
        with open(os.path.join(self.path, "config", "config.toml"), "w") as file:
            for name in names:
                file.write(f"[group.{name}]\ncommand = {json.dumps(command)}\n")
        os.chmod(file.name, 0o600)

    def folder(self, group, *below):
        return os.path.join(self.path, "data", "groups", group, *below)

    def serve(self):
        """Starts the host process; seconds until its socket answered."""
        begun = time.monotonic()
        self.log = open(os.path.join(self.path, "log"), "ab")
        self.process = subprocess.Popen(
            [self.belljar, "serve"], env=self.environment, cwd=self.path,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        while time.monotonic() - begun < PATIENCE:
            try:
                self.client().ask("GET", "/status")
                return time.monotonic() - begun
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.0005)
        with open(self.log.name) as file:
            raise Failed(f"belljar serve: {file.read()[-2000:]}")

    def client(self):
        return Unix(os.path.join(self.path, "data", "belljar.sock"))

    def memory(self, field):
        with open(f"/proc/{self.process.pid}/status") as file:
            for line in file:
                if line.startswith(field):
                    return int(line.split()[1]) / 1000
        return 0.0

    def close(self):
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def started(home, group):
    """When the agent's first instruction was: CLOCK_REALTIME in nanoseconds."""
    path = home.folder(group, "started")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with open(path) as file:
                at = int(file.read())
            os.unlink(path)
            return at
        except FileNotFoundError:
            time.sleep(0.0005)
    raise Failed("the agent has not started")


def quiet(home, client):
    until = time.monotonic() + PATIENCE
    while client.ask("GET", "/status")["runs"] != 0:
        if time.monotonic() > until:
            raise Failed("a run does not end")
        time.sleep(0.002)


# --------------------------------------------------------------- measurements


def latency(home, options):
    """ms to the agent's first instruction: by the host process, and by belljar run."""
    command = ["sh", "-c", STARTED]
    home.groups(["hosted", "direct"], command)
    home.serve()
    client = home.client()
    hosted, direct, wholes = [], [], []
    for number in range(options.rounds * 10 + 2):
        begun = time.time_ns()
        client.ask("POST", "/messages", {"group": "hosted", "text": f"message {number}"})
        taken = time.time_ns()
        at = started(home, "hosted")
        quiet(home, client)
        begun_run = time.time_ns()
        home.call("run", "--group", "direct", "--", *command)
        at_run = started(home, "direct")
        if number >= 2:  # the first ones warm caches
            hosted.append((at - begun) / 1e6)
            wholes.append((taken - begun) / 1e6)
            direct.append((at_run - begun_run) / 1e6)
    home.close()
    return hosted, direct, wholes


def throughput(home, options, groups):
    """Messages a second, written as fast as they are taken; and runs that it took."""
    names = [f"g{number}" for number in range(groups)]
    home.groups(names, ["cat"])
    home.serve()
    client = home.client()
    count = options.messages
    begun = time.monotonic()
    for number in range(count):
        client.ask("POST", "/messages", {"group": names[number % groups], "text": f"number {number}."})
    taken = time.monotonic()
    waiting, after = set(range(count)), dict.fromkeys(names, 0)
    while waiting:
        if time.monotonic() - begun > PATIENCE:
            raise Failed(f"{len(waiting)} messages are not answered")
        for name in names:
            for said in client.ask("GET", f"/messages?group={name}&after={after[name]}"):
                after[name] = said["seq"]
                for part in said["text"].split(">number ")[1:]:
                    waiting.discard(int(part.split(".")[0]))
        time.sleep(0.002)
    ended = time.monotonic()
    home.close()
    return {
        "per_second": count / (ended - begun), "taken_per_second": count / (taken - begun),
        "runs": sum(
            name.endswith(".json") for name in os.listdir(os.path.join(home.path, "data", "receipts"))
        ),
    }


def one_by_one(home, options):
    """ms from a message to its answer, each in a container of its own."""
    home.groups(["g"], ["cat"])
    home.serve()
    client = home.client()
    times = []
    for number in range(options.rounds * 10 + 2):
        begun = time.monotonic()
        told = client.ask("POST", "/messages", {"group": "g", "text": f"number {number}."})
        said = client.ask("GET", f"/messages?group=g&after={told['after']}&wait=60")
        if f"number {number}." not in said[0]["text"]:
            raise Failed(f"another answer: {said}")
        if number >= 2:
            times.append((time.monotonic() - begun) * 1000)
    home.close()
    return times


def start_up(home, options, groups, pending):
    """Seconds until the socket answers, MB when it does and at most."""
    names = [f"g{number}" for number in range(groups)]
    home.groups(names, ["sh", "-c", "cat >/dev/null; exec sleep 1000"])
    home.call("task", "list")  # makes the database
    if pending:
        with sqlite3.connect(os.path.join(home.path, "data", "belljar.db")) as database:
            database.executemany(
                "INSERT INTO message (chat, key, grp, sender, sender_name, text, wall, wakes, state)"
                " VALUES (?, ?, ?, 'ann', 'Ann', ?, ?, 1, 'waiting')",
                (
                    (f"local:{names[n % groups]}", str(n), names[n % groups], f"message {n} " * 10, n)
                    for n in range(pending)
                ),
            )
        database.close()
    times = []
    for _ in range(options.rounds):
        times.append(home.serve())
        at_start = home.memory("VmRSS")
        # Some runs begin: as many as may.
        time.sleep(1.0)
        most = home.memory("VmHWM")
        home.close()
    return {"seconds": statistics.median(times), "rss": at_start, "peak": most}


# -------------------------------------------------------------------- figures


def mark(good):
    return "OK" if good else "MISSED"


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def measure(options, scratch, say):
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    say(f"belljar host bench: {options.rounds} rounds as {user},")
    say(f"Linux {os.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}")
    homes = []

    def home(name):
        homes.append(Home(options, scratch, name))
        return homes[-1]

    try:
        hosted, direct, wholes = latency(home("latency"), options)
        added = statistics.median(hosted) - statistics.median(direct)
        say("")
        say("to the agent's first instruction, ms          p50       p90")
        for what, values in (
            ("from POST /messages", hosted), ("from `belljar run`", direct),
            ("POST /messages itself is answered after", wholes),
        ):
            say(f"  {what:<40} {statistics.median(values):>8.1f}  {percentile(values, 0.9):>8.1f}")
        say("")
        say("messages a second, through the whole way    taken/s  answered/s      runs")
        for groups in (1, 8):
            result = throughput(home(f"groups-{groups}"), options, groups)
            what = f"{options.messages} messages, {groups} group{'s' if groups > 1 else ''}"
            say(
                f"  {what:<40} {result['taken_per_second']:>8.0f}  {result['per_second']:>10.0f}"
                f"  {result['runs']:>8}"
            )
        times = one_by_one(home("one"), options)
        say(f"  one at a time, a container each          {'':>8}  {1000 / statistics.median(times):>10.1f}")
        say("")
        say("start-up                                         ms    MB then  MB at most")
        for groups, pending in ((1, 0), (100, 0), (100, 10_000)):
            full = start_up(home(f"start-{groups}-{pending}"), options, groups, pending)
            what = f"{groups} groups, {pending} messages wait"
            say(
                f"  {what:<40} {full['seconds'] * 1000:>8.0f}  {full['rss']:>9.1f}  {full['peak']:>10.1f}"
            )

        def goal(what, value, bound, good):
            say(f"  {what:<58} {value:>10}   goal {bound:<16} {mark(good)}")

        say("")
        say("goals of belljar")
        goal("message to agent start, above the container's own start", f"{added:.1f} ms",
             f"at most {GOAL_ADDED:g} ms", added <= GOAL_ADDED)
        times_faster = POLL / max(added, 0.1)
        goal("the same, beside a poll interval of 1 s", f"{times_faster:.0f} x",
             f"at least {GOAL_POLL} x", times_faster >= GOAL_POLL)
        goal("resident memory, 100 groups and 10,000 messages, peak", f"{full['peak']:.1f} MB",
             f"below {GOAL_MEMORY:g} MB", full["peak"] < GOAL_MEMORY)
    finally:
        for one in homes:
            one.close()


def main():
    top = os.path.dirname(os.path.dirname(SELF))
    parser = argparse.ArgumentParser(description="What belljar's host process costs.")
    parser.add_argument("belljar", nargs="?", default=os.path.join(top, "target", "release", "belljar"),
                        help="the release binary")
    parser.add_argument("-n", "--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--messages", type=int, default=2000, help="for the throughput (default 2000)")
    options = parser.parse_args()
    options.belljar = os.path.abspath(options.belljar)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    # Readable by the id that root's agent has.
    scratch = tempfile.mkdtemp(prefix="belljar-bench-", dir=os.environ.get("TMPDIR", "/tmp"))
    os.chmod(scratch, 0o755)
    try:
        measure(options, scratch, lambda line: print(line, flush=True))
    except Failed as error:
        print(f"host.py: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
