"""An agent runner that knows only NanoClaw's formats.

One JSON on stdin; results between markers; then it polls /workspace/ipc/input for
messages every 200 ms until `_close` is there. Each turn is noted in `turns` of the
group's folder. What a message says decides what the turn is: the word after `do:`.
"""

import json
import os
import re
import sys
import time

INPUT = "/workspace/ipc/input"
FOLDER = "/workspace/group"
given = json.load(sys.stdin)
session = given.get("sessionId") or f"session-{given['groupFolder']}-{time.time_ns()}"
files = 0


def log(text):
    print(f"[agent-runner] {text}", file=sys.stderr, flush=True)


def note(name, value):
    with open(os.path.join(FOLDER, name), "a") as file:
        file.write(json.dumps(value) + "\n")


def result(**output):
    print("---NANOCLAW_OUTPUT_START---", flush=True)
    print(json.dumps(output), flush=True)
    print("---NANOCLAW_OUTPUT_END---", flush=True)


def success(text):
    result(status="success", result=text, newSessionId=session)


def write_ipc(directory, value):
    global files
    files += 1
    path = f"/workspace/ipc/{directory}/{time.time_ns()}-{files}.json"
    with open(path + ".tmp", "w") as file:
        json.dump(value, file, indent=2)
    os.rename(path + ".tmp", path)


def should_close():
    try:
        os.unlink(f"{INPUT}/_close")
        return True
    except FileNotFoundError:
        return False


def drain():
    texts = []
    for name in sorted(name for name in os.listdir(INPUT) if name.endswith(".json")):
        path = f"{INPUT}/{name}"
        try:
            with open(path) as file:
                message = json.load(file)
            os.unlink(path)
        except (OSError, ValueError) as error:
            log(f"{name}: {error}")
            continue
        if message.get("type") == "message" and message.get("text"):
            texts.append(message["text"])
    return texts


def turn(prompt):
    """One query: what comes meanwhile is read into it, as its MessageStream does."""
    note("turns", {"pid": os.getpid(), "session": session, "prompt": prompt})
    answered = False
    for word in re.findall(r"do:(\S+?)(?=[\s<]|$)", prompt):
        what, _, more = word.partition("=")
        if what == "slow":
            time.sleep(float(more))
        elif what == "wait":
            while not os.path.exists(os.path.join(FOLDER, more)):
                time.sleep(0.02)
        elif what == "many":
            for number in range(int(more)):
                success(f"part {number}")
            answered = True
        elif what == "null":
            success(None)
            return
        elif what == "error":
            result(status="error", result=None, newSessionId=session, error="the model is away")
            sys.exit(1)
        elif what == "once-error":
            if not os.path.exists(os.path.join(FOLDER, "failed")):
                note("failed", 1)
                result(status="error", result=None, error="the model is away")
                sys.exit(1)
        elif what == "die":
            success("said before the end")
            os._exit(7)
        elif what == "broken":
            print("---NANOCLAW_OUTPUT_START---\n{ not json\n---NANOCLAW_OUTPUT_END---", flush=True)
            return
        elif what == "message":
            write_ipc("messages", {"type": "message", "chatJid": more or given["chatJid"], "text": "by IPC",
                                   "groupFolder": given["groupFolder"], "timestamp": "x"})
        elif what == "task":
            write_ipc("tasks", {"type": "schedule_task", "taskId": "asked", "prompt": "a task's own",
                                "schedule_type": "once", "schedule_value": "2027-01-01T00:00:00Z",
                                "context_mode": "isolated", "targetJid": more or given["chatJid"], "createdBy": "x"})
        elif what == "snapshots":
            for name in ("current_tasks", "available_groups"):
                with open(f"/workspace/ipc/{name}.json") as file:
                    note(name, json.load(file))
    if not answered:
        success(f"<internal>thinking</internal>turn: {prompt}")


note("inputs", given)
log("received input")
prompt = given["prompt"]
if given.get("isScheduledTask"):
    prompt = f"[SCHEDULED TASK]\n\n{prompt}"
should_close()
pending = drain()
if pending:
    prompt += "\n" + "\n".join(pending)
while True:
    turn(prompt)
    # Its host hears of the session, also when there is nothing to say.
    result(status="success", result=None, newSessionId=session)
    prompt = None
    while prompt is None:
        if should_close():
            note("closed", os.getpid())
            sys.exit(0)
        if texts := drain():
            prompt = "\n".join(texts)
        else:
            time.sleep(0.2)
