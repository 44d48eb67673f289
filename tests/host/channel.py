"""A channel whose network is files in a directory.

    channel.py DIRECTORY [remembers]

`feed` has lines that are told to the host; messages in it are told again after a
start until the host has stored them. Each `send` is noted in `asked`, and when it
reaches the network, in `sent`. Files of these names are taken away and obeyed at
the next `send`: die-before, die-after (it reached the network), fail-later,
fail-never; and hold is waited for to go.
"""

import json
import os
import sys
import threading
import time

directory = sys.argv[1]
remembers = "remembers" in sys.argv[2:]
lock = threading.Lock()


def at(name):
    return os.path.join(directory, name)


def note(name, value):
    line = (json.dumps(value) + "\n").encode()
    descriptor = os.open(at(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line)  # one write: killed in between, it is there or not
    if name == "sent":
        os.fsync(descriptor)
    os.close(descriptor)


def noted(name):
    try:
        with open(at(name)) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def say(text):
    with lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def asked_to(what):
    try:
        os.unlink(at(what))
        return True
    except FileNotFoundError:
        return False


def feed():
    done = set(noted("stored"))
    position = 0
    while True:
        try:
            with open(at("feed")) as file:
                file.seek(position)
                while (line := file.readline()).endswith("\n"):
                    position = file.tell()
                    try:
                        known = json.loads(line)["id"] in done
                    except (ValueError, KeyError, TypeError):
                        known = False
                    if not known:
                        say(line.rstrip("\n"))
        except FileNotFoundError:
            pass
        except BrokenPipeError:
            return
        time.sleep(0.01)


def main():
    note("begun", os.getpid())
    sent = {one["id"] for one in noted("sent")} if remembers else set()
    say(json.dumps({"type": "ready", "remembers": remembers}))
    threading.Thread(target=feed, daemon=True).start()
    for line in sys.stdin:
        told = json.loads(line)
        if told["type"] == "stored":
            note("stored", told["id"])
            continue
        if told["type"] != "send":
            note("told", told)
            continue
        note("asked", told)
        while os.path.exists(at("hold")):
            time.sleep(0.01)
        if asked_to("die-before"):
            os._exit(3)
        if asked_to("fail-later"):
            say(json.dumps({"type": "failed", "id": told["id"], "error": "the network is away", "retry": True}))
            continue
        if asked_to("fail-never"):
            say(json.dumps({"type": "failed", "id": told["id"], "error": "no such chat", "retry": False}))
            continue
        if told["id"] not in sent:
            note("sent", told)
            if remembers:
                sent.add(told["id"])
        if asked_to("die-after"):
            os._exit(3)
        say(json.dumps({"type": "sent", "id": told["id"]}))


try:
    main()
except BrokenPipeError:
    os._exit(0)
os._exit(0)
