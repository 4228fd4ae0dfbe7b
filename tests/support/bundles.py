"""Bundles for the runtime's tests: small specifications, one thing added at a time."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from lamina.overlay.spec import MountSpec
from lamina.runtime.bundle import Bundle, Wiring

WIRING = Wiring(
    channel=100,
    stdin=101,
    stdout=102,
    stderr=103,
    launcher=104,
    limits=((7, 1024, 4096),),
    last_cap=40,
    proc=105,
)
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"]
SMALL: dict[str, Any] = {
    "process": {"args": ["/bin/true"], "env": ["PATH=/usr/bin:/bin"], "cwd": "/", "noNewPrivileges": True},
    "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
}
FULL: dict[str, Any] = {
    "process": {
        "args": ["true", "--really"],
        "env": ["PATH=/usr/bin:/bin", "HOME=/root"],
        "cwd": "/srv/data",
        "user": {"uid": 1000, "gid": 100, "additionalGids": [4, 24], "umask": 0o027},
        "noNewPrivileges": True,
        "oomScoreAdj": 500,
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
    },
    "root": {"readonly": True},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]},
        {"destination": "/srv/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
    ],
    "linux": {
        "namespaces": [{"type": t} for t in ("mount", "pid", "network", "ipc", "uts", "cgroup")],
        "maskedPaths": ["/proc/kcore", "/sys/firmware"],
        "readonlyPaths": ["/proc/sys"],
    },
}


def small(*args: str, **process: Any) -> dict[str, Any]:
    """The smallest specification that starts, with a command and more words of `process`."""
    spec = copy.deepcopy(SMALL)
    if args:
        spec["process"]["args"] = list(args)
    spec["process"].update(process)
    return spec


def full() -> dict[str, Any]:
    """A specification with everything."""
    return copy.deepcopy(FULL)


def printable(spec: dict[str, Any], **more: Any) -> Bundle:
    """A bundle that exists nowhere, for plans that are only looked at."""
    stack = MountSpec((b"/layers/b", b"/layers/a"), b"/box/upper", b"/box/work")
    return Bundle(**{"spec": spec, "rootfs": stack, "merged": b"/box/merged", **more})


def over_host(directory: Path, spec: dict[str, Any], **more: Any) -> Bundle:
    """A bundle over this machine's own root, with its upper in *directory*."""
    for name in ("upper", "work", "merged"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "upper").chmod(0o755)  # it is the root that the container sees
    stack = MountSpec((b"/",), os.fsencode(directory / "upper"), os.fsencode(directory / "work"))
    return Bundle(**{"spec": spec, "rootfs": stack, "merged": os.fsencode(directory / "merged"), **more})
