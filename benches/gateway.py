#!/usr/bin/env python3
"""What belljar's gateway costs, beside other ways to the same TLS origin.

Contenders, measured in turn (A B C D, A B C D, ...) by the same client:

  direct      no proxy
  belljar     the client inside `belljar run`, TLS opened, a secret added to
              each request and masked in each response, every request recorded
  mitmproxy   mitmdump, bodies streamed, no log
  squid       ssl-bump, nothing cached, an access log

The bench runs in a network and mount namespace of its own, the origin in another
one at a public address that exists only there: nothing of the machine's network
is touched or used.

Exit code: 0 whether goals are met or not; 1 when direct or belljar fails.
mitmproxy and squid are skipped, with the reason, where they cannot run.
"""

import argparse
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

GOAL_ADDED = 0.3  # ms above direct at the median of kept connections, at most
GOAL_REQUESTS = 0.60  # of direct's requests a second with many clients, at least
GOAL_CONNECTIONS = 0.50  # of direct's new connections a second, at least
GOAL_BODY = 0.70  # of direct's throughput of a big body, at least
GOAL_MEMORY = 24.0  # MB, at most

HOST = "origin.test"
ADDRESS = "203.0.113.10"  # TEST-NET-3: no host of the world has it
NEIGHBOUR = "203.0.113.1"
MITMPROXY = ("127.0.0.1", 8081)
SQUID = ("127.0.0.1", 8082)
CERTGEN = "/usr/lib/squid/security_file_certgen"
TICKS = os.sysconf("SC_CLK_TCK")  # of processor time, a second
SELF = os.path.abspath(__file__)


class Failed(Exception):
    """A contender failed; the text says how."""


# ------------------------------------------------------------ the namespaces


def into_namespaces(arguments):
    """Runs this program again in a network and mount namespace of its own."""
    argv = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0:
        argv += ["--user", "--map-root-user"]
    argv += [sys.executable, SELF, "--inside", f"{os.getuid()}:{os.getgid()}", *arguments]
    os.execvp(argv[0], argv)


def command(*argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def start(argv, log, **options):
    with open(log, "wb") as file:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **options
        )


def wait_for(what, process, log, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            with open(log, errors="replace") as file:
                raise Failed(f"{what} did not start: {file.read().strip()[-600:]}")
        time.sleep(0.02)


def answers(address):
    try:
        socket.create_connection(address, 1).close()
        return True
    except OSError:
        return False


def start_origin(setup, protocols):
    """The origin in a namespace of its own, joined to this one, with a name."""
    log = os.path.join(setup.scratch, "origin.log")
    argv = ["unshare", "--net", setup.loadgen, "origin", "--name", HOST, "--protocols", protocols]
    origin = start([*argv, "--authority", setup.authority, "--expect", setup.token], log)
    try:
        wait_for("origin", origin, log, lambda: os.path.exists(setup.authority))
        there = ["nsenter", f"--target={origin.pid}", "--net"]
        command("ip", "link", "set", "lo", "up")
        command(
            "ip", "link", "add", "here", "type", "veth", "peer", "name", "there",
            "netns", str(origin.pid),
        )
        command("ip", "address", "add", f"{NEIGHBOUR}/24", "dev", "here")
        command("ip", "link", "set", "here", "up")
        command(*there, "ip", "address", "add", f"{ADDRESS}/24", "dev", "there")
        command(*there, "ip", "link", "set", "there", "up")
        hosts = os.path.join(setup.scratch, "hosts")
        with open(hosts, "w") as file:
            file.write(f"127.0.0.1 localhost\n{ADDRESS} {HOST}\n")
        command("mount", "--bind", hosts, "/etc/hosts")
        wait_for("origin", origin, log, lambda: answers((HOST, 443)))
    except Failed:
        origin.kill()
        raise
    return origin


# ------------------------------------------------------------ the contenders


def fields(path, *names):
    with open(path) as file:
        text = file.read()
    found = [re.search(rf"^{name}:\s+(\d+)", text, re.M) for name in names]
    return [int(each[1]) if each else 0 for each in found]


def peak_of(pid):
    """Peak resident memory of a process, in MB."""
    try:
        return fields(f"/proc/{pid}/status", "VmHWM")[0] / 1024
    except OSError:
        return 0.0  # it has ended


def processor_of(pid):
    """Seconds of processor time that a process has used."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            times = file.read().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / TICKS
    except OSError:
        return 0.0


def descendants(pid):
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found = []
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
        except OSError:
            pass
    return found


class Contender:
    """A way to the origin: a client's command line, and the proxy's processes."""

    def __init__(self, name, client, roots, proxy=None, server=None, prefix=(), options=None):
        self.name = name
        self.argv = [*prefix, client, "client", "--host", HOST]
        if roots:
            self.argv += ["--roots", roots]
        if proxy:
            self.argv += ["--proxy", "%s:%d" % proxy]
        self.server = server  # a proxy that runs all the time; belljar's is the client's parent
        self.options = options or {}
        self.memory = 0.0
        self.results = {}
        self.origin = None  # its process

    def measure(self, arguments, patience):
        """The client's figures, and the processor time that each part used."""
        process = subprocess.Popen(
            [*self.argv, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **self.options,
        )
        proxy = None
        if self.server:
            proxy = self.server.pid
        elif self.name == "belljar":
            proxy = process.pid
        watched = [pid for pid in (proxy, self.origin) if pid]
        begun = {pid: 0.0 if pid == process.pid else processor_of(pid) for pid in watched}
        used = {}
        end = time.monotonic() + patience
        while True:
            if proxy:
                pids = [proxy, *descendants(proxy)] if self.server else [proxy]
                self.memory = max(self.memory, sum(map(peak_of, pids)))
            for pid in watched:
                # Of a process that has just ended, what was seen last.
                used[pid] = max(used.get(pid, 0.0), processor_of(pid) - begun[pid])
            try:
                output, errors = process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    process.terminate()
                    process.communicate()
                    raise Failed(f"{self.name}: no end within {patience:.0f} s") from None
        if process.returncode != 0:
            raise Failed(f"{self.name} exited with {process.returncode}: {errors.strip()[-600:]}")
        result = json.loads(output)
        result["client us"] = result.pop("processor") / TICKS * 1e6
        result["origin us"] = used.get(self.origin, 0.0) * 1e6
        result["proxy us"] = used.get(proxy, 0.0) * 1e6
        return result


def as_caller(ids):
    """As root of a user namespace: what goes back to the caller's own ids."""
    if ids[0] == 0:
        return []
    return ["unshare", "--user", f"--map-user={ids[0]}", f"--map-group={ids[1]}"]


def belljar_contender(options, setup):
    home = os.path.join(setup.scratch, "home")
    project = os.path.join(setup.scratch, "project")
    os.makedirs(os.path.join(home, "config"))
    os.makedirs(project)
    shutil.copy(setup.loadgen, os.path.join(project, "loadgen"))
    with open(os.path.join(home, "config", "config.toml"), "w") as file:
        file.write(f"[gateway]\nextra_roots = [{json.dumps(setup.authority)}]\n")
    kept = ("HOME", "PATH", "USER", "LOGNAME", "XDG_RUNTIME_DIR")
    environment = {key: value for key, value in os.environ.items() if key in kept}
    environment["BELLJAR_HOME"] = home
    popen = {"env": environment, "cwd": project}
    belljar = [*setup.prefix, os.path.abspath(options.belljar)]
    add = ["secret", "add", "bench", "--host", HOST, "--bearer", "--env", "BENCH_TOKEN"]
    command(*belljar, *add, input=setup.token, **popen)
    contender = Contender(
        "belljar",
        "/workspace/project/loadgen",
        None,  # the run's variables name its bundle
        proxy=("127.0.0.1", 3128),
        prefix=[*belljar, "run", "--"],
        options=popen,
    )
    contender.measure(["auth"], 20)  # fails unless the origin got the secret
    return contender


def mitmproxy_contender(_options, setup):
    program = shutil.which("mitmdump")
    if not program:
        raise Failed("mitmproxy is not installed")
    directory = os.path.join(setup.scratch, "mitmproxy")
    os.makedirs(directory)
    authority = os.path.join(directory, "mitmproxy-ca-cert.pem")
    log = os.path.join(setup.scratch, "mitmproxy.log")
    argv = [*setup.prefix, program, "--quiet", "--listen-host", MITMPROXY[0]]
    argv += ["--listen-port", str(MITMPROXY[1]), "--set", f"confdir={directory}"]
    argv += ["--set", f"ssl_verify_upstream_trusted_ca={setup.authority}"]
    argv += ["--set", "stream_large_bodies=1"]
    server = setup.server(argv, log)
    wait_for("mitmproxy", server, log, lambda: answers(MITMPROXY) and os.path.exists(authority))
    return Contender("mitmproxy", setup.loadgen, authority, MITMPROXY, server, setup.prefix)


def squid_contender(_options, setup):
    program = shutil.which("squid", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if not program or not os.access(CERTGEN, os.X_OK):
        raise Failed("squid-openssl is not installed")
    directory = os.path.join(setup.scratch, "squid")
    os.makedirs(directory)
    within = lambda name: os.path.join(directory, name)
    command(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", "/CN=squid bench", "-addext", "basicConstraints=critical,CA:TRUE",
        "-keyout", within("key.pem"), "-out", within("ca.pem"),
    )
    with open(within("both.pem"), "w") as both:
        for name in ("ca.pem", "key.pem"):
            with open(within(name)) as file:
                both.write(file.read())
    command(*setup.prefix, CERTGEN, "-c", "-s", within("db"), "-M", "4MB")
    configuration = f"""\
http_port {SQUID[0]}:{SQUID[1]} ssl-bump tls-cert={within("both.pem")} generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program {CERTGEN} -s {within("db")} -M 4MB
sslcrtd_children 1
tls_outgoing_options cafile={setup.authority}
acl first at_step SslBump1
ssl_bump peek first
ssl_bump bump all
http_access allow all
cache deny all
access_log stdio:{within("access.log")}
cache_log {within("cache.log")}
pid_filename {within("pid")}
coredump_dir none
visible_hostname bench.test
dns_nameservers 127.0.0.1
hosts_file /etc/hosts
shutdown_lifetime 0 seconds
"""
    with open(within("squid.conf"), "w") as file:
        file.write(configuration)
    if setup.ids[0] == 0:
        # Started by root, squid goes on as its own user.
        owner = pwd.getpwnam("proxy")
        for path in [directory, *(os.path.join(at, name) for at, dirs, files in os.walk(directory) for name in dirs + files)]:
            os.chown(path, owner.pw_uid, owner.pw_gid)
    log = os.path.join(setup.scratch, "squid.log")
    server = setup.server([*setup.prefix, program, "-N", "-f", within("squid.conf")], log)
    wait_for("squid", server, log, lambda: answers(SQUID))
    return Contender("squid", setup.loadgen, within("ca.pem"), SQUID, server, setup.prefix)


def direct_contender(_options, setup):
    return Contender("direct", setup.loadgen, setup.authority, prefix=setup.prefix)


MAKERS = {
    "direct": direct_contender,
    "belljar": belljar_contender,
    "mitmproxy": mitmproxy_contender,
    "squid": squid_contender,
}


class Setup:
    """What all contenders share, and what is ended at the end."""

    def __init__(self, options, scratch):
        self.scratch = scratch
        self.ids = tuple(map(int, options.inside.split(":")))
        self.prefix = as_caller(self.ids)
        self.loadgen = os.path.join(scratch, "loadgen")
        shutil.copy(options.loadgen, self.loadgen)
        self.authority = os.path.join(scratch, "origin-ca.pem")
        self.token = "bench-" + secrets.token_urlsafe(32)
        self.running = [start_origin(self, options.protocols)]

    def server(self, argv, log):
        self.running.append(start(argv, log))
        return self.running[-1]

    def close(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# ------------------------------------------------------------------- figures


class Figure:
    """One thing that is measured."""

    def __init__(self, title, arguments, key, unit, better):
        self.title = title
        self.arguments = arguments
        self.key = key  # what the ratio to direct is made of
        self.unit = unit  # one of the client's, in what is printed
        self.better = better


def keep(path, clients, seconds):
    return ["keep", "--path", path, "--clients", str(clients), "--seconds", str(seconds)]


def figures(options):
    seconds, many = options.seconds, options.clients
    kept = "1 KiB on kept connections"
    rate = ("per_second", "requests/s", "more")
    return {
        "cl1": Figure(f"{kept}, Content-Length, 1 client", keep("/cl", 1, seconds), *rate),
        "chunked1": Figure(f"{kept}, chunked, 1 client", keep("/chunked", 1, seconds), *rate),
        "cl": Figure(f"{kept}, Content-Length, {many} clients", keep("/cl", many, seconds), *rate),
        "chunked": Figure(f"{kept}, chunked, {many} clients", keep("/chunked", many, seconds), *rate),
        "new": Figure(
            "a new TLS connection for each request, 4 clients",
            ["new", *keep("/cl", 4, seconds)[1:]],
            "per_second", "connections/s", "more",
        ),
        "sse": Figure(
            "from the request to the first byte of an event stream", ["sse"], "p50", None, "less"
        ),
        "big": Figure(
            f"one body of {options.bytes / 1e9:g} GB", ["big", "--bytes", str(options.bytes)],
            "bytes_per_second", "MB/s", "more",
        ),
    }


def measure_all(contenders, wanted, options, say):
    for number in range(options.rounds + 1):
        for name, figure in wanted.items():
            if number == 0 and name == "big":
                continue  # the first round warms caches, and is not counted
            for contender in contenders:
                try:
                    result = contender.measure(figure.arguments, 60 + options.bytes / 1e7)
                except Failed as error:
                    if contender.name in ("direct", "belljar"):
                        raise
                    if number == 0 or not contender.results.get(name):
                        say(f"SKIPPED: {figure.title}: {error}")
                    continue
                if number > 0:
                    contender.results.setdefault(name, []).append(result)


def median(contender, name, key):
    values = [result[key] for result in contender.results.get(name, []) if key in result]
    return statistics.median(values) if values else None


def table(contenders, name, figure, say):
    direct = median(contenders[0], name, figure.key)
    times = name != "big"
    say("")
    say(figure.title)
    head = f"  {'':<10}"
    if figure.unit:
        head += f" {figure.unit:>14}"
    if times:
        head += f" {'p50 ms':>9} {'p99 ms':>9}"
    say(head + f" {'x direct':>9}")
    for contender in contenders:
        value = median(contender, name, figure.key)
        if value is None:
            say(f"  {contender.name:<10} {'-':>14}")
            continue
        line = f"  {contender.name:<10}"
        if figure.unit:
            line += f" {value / 1e6 if name == 'big' else value:>14.0f}"
        if times:
            line += f" {median(contender, name, 'p50'):>9.3f} {median(contender, name, 'p99'):>9.3f}"
        say(line + f" {value / direct:>9.2f}")


def parts(contenders, say):
    """What each part of the way costs; with all processors busy, that is the limit."""
    say("")
    say("peak resident memory under all of that, and processor time of a request with many clients")
    say(f"  {'':<10} {'MB':>14} {'client us':>9} {'origin us':>9} {'proxy us':>9}")
    for contender in contenders:
        line = f"  {contender.name:<10} " + (f"{contender.memory:>14.1f}" if contender.memory else f"{'-':>14}")
        for part in ("client us", "origin us", "proxy us"):
            used, count = median(contender, "cl", part), median(contender, "cl", "all")
            line += f" {used / count:>9.1f}" if used else f" {'-':>9}"
        say(line)
    count = median(contenders[0], "cl", "all")
    client, origin = (median(contenders[0], "cl", part) / count for part in ("client us", "origin us"))
    if min(client, origin) > 0:
        # Direct is as fast as the slower of two threads, given a CPU for each.
        most = min(1, os.cpu_count() * max(client, origin) / (2 * (client + origin)))
        say("A proxy that opens TLS is a second client and a second origin. If it were nothing else,")
        say(f"these {os.cpu_count()} CPUs would have time for {most:.0%} of direct's requests/s.")


def mark(good):
    return "OK" if good else "MISSED"


def goals(direct, belljar, options, say):
    def goal(what, value, bound, good):
        say(f"  {what:<58} {value:>10}   goal {bound:<16} {mark(good)}")

    say("")
    say("goals of belljar")
    for name, what in (("cl1", "Content-Length"), ("chunked1", "chunked")):
        added = median(belljar, name, "p50") - median(direct, name, "p50")
        goal(f"p50 above direct, {what}, 1 client", f"{added:.3f} ms",
             f"at most {GOAL_ADDED} ms", added <= GOAL_ADDED)
    ratios = [
        ("cl", f"requests/s, Content-Length, {options.clients} clients", "per_second", GOAL_REQUESTS),
        ("chunked", f"requests/s, chunked, {options.clients} clients", "per_second", GOAL_REQUESTS),
        ("new", "new TLS connections/s", "per_second", GOAL_CONNECTIONS),
        ("big", "throughput of the big body", "bytes_per_second", GOAL_BODY),
    ]
    for name, what, key, least in ratios:
        ratio = median(belljar, name, key) / median(direct, name, key)
        goal(f"{what}, of direct", f"{ratio:.0%}", f"at least {least:.0%}", ratio >= least)
    goal("resident memory of a run's supervisor, peak", f"{belljar.memory:.1f} MB",
         f"at most {GOAL_MEMORY:g} MB", belljar.memory <= GOAL_MEMORY)


def measure(options, scratch, say):
    setup = Setup(options, scratch)
    try:
        contenders = []
        user = "root" if setup.ids[0] == 0 else "an ordinary user"
        say(f"belljar gateway bench: {options.rounds} rounds of {options.seconds:g} s as {user},")
        say(f"Linux {os.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}")
        say("- client, origin and each proxy share the CPUs; client and origin have one thread each")
        say("- TLS 1.3, no session is resumed; the origin has an ECDSA P-256 certificate")
        say(f"- the origin offers {options.protocols}, the client speaks http/1.1; which of them a proxy")
        say("  takes for its own way to the origin is its choice")
        say("- mitmproxy and squid only pass on; belljar also adds a secret, masks and records")
        say("- squid and belljar write a line for each request, mitmproxy does not")
        say("- proxies may keep connections to the origin for the next client's connection")
        for name in options.only:
            try:
                contender = MAKERS[name](options, setup)
                contender.origin = setup.running[0].pid
                contender.measure(keep("/cl", 1, 0.1), 20)
                contenders.append(contender)
            except Failed as error:
                if name in ("direct", "belljar"):
                    raise
                say(f"SKIPPED: {error}")
        wanted = figures(options)
        measure_all(contenders, wanted, options, say)
        for name, figure in wanted.items():
            table(contenders, name, figure, say)
        parts(contenders, say)
        by_name = {contender.name: contender for contender in contenders}
        if "belljar" in by_name and "direct" in by_name:
            goals(by_name["direct"], by_name["belljar"], options, say)
    finally:
        setup.close()


def main():
    top = os.path.dirname(os.path.dirname(SELF))
    release = os.path.join(top, "target", "release")
    parser = argparse.ArgumentParser(description="What belljar's gateway costs.")
    parser.add_argument("belljar", nargs="?", default=os.path.join(release, "belljar"),
                        help="the release binary")
    parser.add_argument("--loadgen", default=os.path.join(release, "examples", "loadgen"),
                        help="origin and client")
    parser.add_argument("-n", "--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (default 2)")
    parser.add_argument("--clients", type=int, default=16, help="at once (default 16)")
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="of the big body")
    parser.add_argument("--protocols", default="h2,http/1.1",
                        help="what the origin offers, the best first (default h2,http/1.1)")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(MAKERS),
                        help="contenders, with commas; direct comes first")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only[0] != "direct" or not set(options.only) <= set(MAKERS):
        parser.error(f"--only: direct, then any of {', '.join(list(MAKERS)[1:])}")
    if options.inside is None:
        into_namespaces(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    # Readable by the id that root's agent has.
    scratch = tempfile.mkdtemp(prefix="belljar-bench-", dir=os.environ.get("TMPDIR", "/tmp"))
    os.chmod(scratch, 0o755)
    try:
        measure(options, scratch, lambda line: print(line, flush=True))
    except Failed as error:
        print(f"gateway.py: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
