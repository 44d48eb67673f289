"""Speaks as Claude Code does with --input-format and --output-format stream-json:
a line for each message of a person's, and one `result` for each turn."""

import json
import os
import sys

arguments = sys.argv[1:]
resumed = arguments[arguments.index("--resume") + 1] if "--resume" in arguments else None
session = resumed or f"session-{os.getpid()}-{os.urandom(4).hex()}"
with open("begun", "a") as file:
    file.write(json.dumps({"arguments": arguments, "session": session}) + "\n")


def say(**line):
    print(json.dumps({**line, "session_id": session}), flush=True)


say(type="system", subtype="init", tools=[])
if resumed and os.path.exists("no-such-session"):
    say(type="result", subtype="error_during_execution", is_error=True)
    sys.exit(1)
for line in sys.stdin:
    given = json.loads(line)
    assert given["type"] == "user" and given["message"]["role"] == "user", given
    text = given["message"]["content"][0]["text"]
    say(type="assistant", message={"role": "assistant", "content": [{"type": "text", "text": "not this"}]})
    if "do:error" in text and not os.path.exists("failed"):
        open("failed", "w").close()
        say(type="result", subtype="success", is_error=True, result="API Error: 529")
        sys.exit(1)
    say(type="result", subtype="success", is_error=False, result=f"<internal>x</internal>turn: {text}")
    if "do:die" in text:
        os._exit(9)
with open("closed", "a") as file:
    file.write("closed\n")
