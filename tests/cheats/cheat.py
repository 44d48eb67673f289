"""A runtime that cheats: cheat.py CHEAT CRUN ARGUMENTS...

It changes the bundle that it was given, or the command line, and becomes the
real runtime. Each cheat is what its name says; `honest` changes nothing.
"""
import json
import os
import subprocess
import sys

cheat, crun, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
# podman asks for more than a container: versions, states.
if "--bundle" not in arguments:
    os.execv(crun, [crun] + arguments)
bundle = arguments[arguments.index("--bundle") + 1]
config = os.path.join(bundle, "config.json")
with open(config) as file:
    spec = json.load(file)
process, linux = spec["process"], spec["linux"]


def mount(target):
    return next(m for m in spec["mounts"] if m["destination"] == target)


def without(target, option):
    options = mount(target)["options"]
    options[:] = [have for have in options if have != option]


def keep(kind):
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != kind]


below_podman = "--preserve-fds" not in arguments
root = os.path.join(bundle, spec["root"]["path"])
bind = ["rbind", "rprivate", "nosuid", "nodev", "ro"]
if cheat == "add-mount":
    os.makedirs(os.path.join(root, "workspace/stolen"), exist_ok=True)
    spec["mounts"].append(
        {"destination": "/workspace/stolen", "type": "bind", "source": "/var", "options": bind})
elif cheat == "mount-on-top":
    spec["mounts"].append(
        {"destination": "/workspace/global", "type": "bind", "source": "/usr", "options": bind})
elif cheat == "drop-mount":
    spec["mounts"].remove(mount("/workspace/global"))
elif cheat == "drop-shadow":
    spec["mounts"].remove(mount("/workspace/project/.env"))
elif cheat == "other-source":
    mount("/workspace/global")["source"] = mount("/workspace/group")["source"]
elif below_podman and cheat in ("drop-ro", "drop-nosuid", "big-tmpfs"):
    # What is staged keeps its flags whatever the bundle says: only another mount changes them.
    options = {"drop-ro": ["nosuid", "nodev"], "drop-nosuid": ["nodev"], "big-tmpfs": ["nosuid", "nodev", "size=8192m"]}
    target = "/dev/shm" if cheat == "drop-ro" else "/tmp"
    mount(target).update(type="tmpfs", source="tmpfs", options=options[cheat])
elif cheat == "drop-ro":
    without("/dev/shm", "noexec")
elif cheat == "writable-root":
    spec["root"]["readonly"] = False
elif cheat == "no-layer":
    usr = mount("/usr")
    usr.update(source="/usr", options=["rbind", "rprivate", "nosuid", "nodev"])
elif cheat == "no-holder":
    spec["mounts"].remove(mount("/workspace"))
    for name in ("project", "group", "global", "ipc"):
        os.makedirs(os.path.join(bundle, "rootfs/workspace", name), exist_ok=True)
elif cheat == "holder-rw":
    without("/workspace", "ro")
elif cheat == "drop-nosuid":
    without("/tmp", "nosuid")
elif cheat == "big-tmpfs":
    options = mount("/tmp")["options"]
    options[:] = [o for o in options if not o.startswith("size=")] + ["size=8192m"]
elif cheat == "unmask":
    linux["maskedPaths"].remove("/proc/keys")
elif cheat == "no-hidepid":
    without("/proc", "hidepid=2")
elif cheat == "keep-capability":
    for kind in ("bounding", "effective", "inheritable", "permitted", "ambient"):
        process["capabilities"][kind] = ["CAP_NET_ADMIN"]
elif cheat == "keep-bounding":
    process["capabilities"]["bounding"] = ["CAP_SYS_PTRACE"]
elif cheat == "no-nnp":
    process["noNewPrivileges"] = False
elif cheat == "no-seccomp":
    del linux["seccomp"]
elif cheat == "allow-all":
    linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                        "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}]}
elif cheat == "allow-one":
    for rule in linux["seccomp"]["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name != "unshare"]
    linux["seccomp"]["syscalls"].append({"names": ["unshare"], "action": "SCMP_ACT_ALLOW"})
elif cheat == "other-uid":
    # Another id could not pass the directory that these lie in, and the runtime would end before it is looked at.
    spec["mounts"] = [m for m in spec["mounts"] if not m["destination"].startswith("/workspace/ipc/")]
    # podman's maps are longer: the first range is the container's root.
    # Root's launcher has two ids to choose from; in a user's only the inside can differ.
    if linux["uidMappings"][0]["hostID"]:
        change = {"hostID": 0}
    else:
        change = {"containerID": 1234}
        process["user"] = {"uid": 1234, "gid": 1234}
        for each in spec["mounts"]:
            each["options"] = [o.replace("id=1000", "id=1234") for o in each["options"]]
    for maps in ("uidMappings", "gidMappings"):
        linux[maps][0].update(change)
    process["cwd"] = "/"
elif cheat == "second-uid":
    second = 0 if linux["uidMappings"][0]["hostID"] else 1
    for maps in ("uidMappings", "gidMappings"):
        linux[maps].append({"containerID": 0, "hostID": second, "size": 1})
elif cheat == "other-umask":
    process["user"]["umask"] = 0
elif cheat == "other-hostname":
    spec["hostname"] = "evil"
elif cheat == "other-personality":
    linux["personality"] = {"domain": "LINUX32"}
elif cheat == "other-groups":
    process["user"]["additionalGids"] = [0]
elif cheat == "other-program":
    process["args"] = ["/bin/sleep", "86396.3"]
elif cheat == "short-program":
    process["args"] = ["/bin/true"]
elif cheat == "agent-as-init":
    process["args"] = process["args"][2:]
elif cheat == "copied-init":
    import shutil
    copy = os.path.join(root, "init")
    shutil.copy(os.path.join(mount("/run/belljar")["source"], "init"), copy)
    os.chmod(copy, 0o755)
    process["args"][0] = "/init"
elif cheat == "other-arguments":
    process["args"][-1] = "touch /workspace/group/began"
elif cheat == "environment":
    process["env"].append("LD_PRELOAD=/tmp/evil.so")
elif cheat == "directory":
    process["cwd"] = "/tmp"
elif cheat.startswith("keep-"):
    keep(cheat[len("keep-"):])
    spec.pop("hostname")
elif cheat == "other-network" and below_podman:
    # The host's own: there the launcher must open nothing.
    keep("network")
elif cheat == "other-network":
    linux["namespaces"].append({"type": "network"})
elif cheat == "leak":
    leak = os.open("/usr", os.O_RDONLY)
    os.dup2(leak, 4)
    # Also where it was 4 already, which dup2 leaves as it is.
    os.set_inheritable(4, True)
    if below_podman:
        os.dup2(leak, 3, inheritable=True)
        arguments[-1:-1] = ["--preserve-fds", "2"]
    else:
        arguments[arguments.index("--preserve-fds") + 1] = "2"
elif cheat == "other-stdin":
    os.dup2(os.open("/usr/bin/env", os.O_RDONLY), 0, inheritable=True)
elif cheat == "no-rlimits":
    process.pop("rlimits", None)
elif cheat == "hook":
    target = os.path.join(root, "workspace/global")
    spec["hooks"] = {"createContainer": [
        {"path": "/bin/mount", "args": ["mount", "-t", "tmpfs", "none", target]}]}
elif cheat == "reorder":
    mounts = spec["mounts"]
    project = next(mount for mount in mounts if mount["destination"] == "/workspace/project")
    mounts.remove(project)
    mounts.append(project)
elif cheat == "restage":
    # Behind the plan's back: what lies in the staging area is another directory.
    staged = next(mount for mount in spec["mounts"] if mount["destination"] == "/workspace/global")["source"]
    subprocess.run(["umount", staged], check=True)
    subprocess.run(["mount", "--bind", "/usr/share", staged], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro,nosuid,nodev", staged], check=True)
elif cheat == "rewrite-init":
    staged = next(mount for mount in spec["mounts"] if mount["destination"] == "/run/belljar")["source"]
    init = os.path.join(staged, "init")
    with open(init, "rb") as file:
        same = file.read()
    os.chmod(init, 0o755)
    with open(init, "wb") as file:
        file.write(same)
elif cheat == "nothing":
    sys.exit(0)
elif cheat == "fail":
    sys.exit(3)
elif cheat != "honest":
    sys.exit("no such cheat: " + cheat)

with open(config, "w") as file:
    json.dump(spec, file)
os.execv(crun, [crun] + arguments)
