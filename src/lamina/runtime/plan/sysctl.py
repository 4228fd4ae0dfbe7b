"""Kernel parameters (`linux.sysctl`): only those that belong to a namespace of the container's own.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#sysctl, sysctl(8), namespaces(7)
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.linux.constants import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS
from lamina.linux.program import Step
from lamina.runtime.plan.procfs import write_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.bundle import Spec, Wiring

_KINDS = {
    CLONE_NEWIPC: "ipc",
    CLONE_NEWNET: "network",
    CLONE_NEWPID: "pid",
    CLONE_NEWUSER: "user",
    CLONE_NEWUTS: "uts",
}
# name: (its namespace, the kernel from which on it belongs to one; before, it is the whole machine's)
NAMES: dict[str, tuple[int, tuple[int, int]]] = {
    **{
        f"kernel/{name}": (CLONE_NEWIPC, (2, 6))
        for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
    },
    "kernel/msg_next_id": (CLONE_NEWIPC, (3, 8)),
    "kernel/sem_next_id": (CLONE_NEWIPC, (3, 8)),
    "kernel/shm_next_id": (CLONE_NEWIPC, (3, 8)),
    "kernel/auto_msgmni": (CLONE_NEWIPC, (3, 19)),
    "kernel/hostname": (CLONE_NEWUTS, (2, 6)),
    "kernel/domainname": (CLONE_NEWUTS, (2, 6)),
    "kernel/ns_last_pid": (CLONE_NEWPID, (3, 3)),
    "kernel/pid_max": (CLONE_NEWPID, (6, 14)),
    "vm/memfd_noexec": (CLONE_NEWPID, (6, 3)),
}
TREES: dict[str, tuple[int, tuple[int, int]]] = {
    "fs/mqueue/": (CLONE_NEWIPC, (2, 6)),
    "net/": (CLONE_NEWNET, (2, 6)),
    "user/": (CLONE_NEWUSER, (4, 9)),
}
# what another field of the specification says
_SAID_ELSEWHERE = {"kernel/hostname": "hostname", "kernel/domainname": "domainname"}


def path_of(name: str) -> str:
    """A parameter's path below /proc/sys. Whichever of "." and "/" comes first separates; the other is part of a name
    and stands for the first (sysctl(8): `net.ipv4.conf.eth0/1.forwarding`). Raises InvalidInput.
    """
    first = next((character for character in name if character in "./"), ".")
    path = name if first == "/" else "/".join(part.replace("/", ".") for part in name.split("."))
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in name:
        raise InvalidInput(f"set sysctl {name!r}: that is no kernel parameter's name")
    return path


def namespace_of(path: str, release: tuple[int, int]) -> int:
    """Which namespace (CLONE_NEW*) the parameter belongs to; 0: the whole machine has it."""
    kind, since = NAMES.get(path, (0, (0, 0)))
    for tree, found in TREES.items():
        if path.startswith(tree):
            kind, since = found
    return kind if release >= since else 0


def sysctl_steps(spec: Spec, own: int, wiring: Wiring) -> list[Step]:
    """Write `linux.sysctl`. *own* are the namespaces that the container does not share with the caller.

    Raises InvalidInput for a parameter without its namespace, or that contradicts another field; Unsupported for one
    that is the whole machine's.
    """
    steps: list[Step] = []
    for name, text in sorted(((spec.get("linux") or {}).get("sysctl") or {}).items()):
        path = path_of(name)
        kind = namespace_of(path, wiring.release)
        if not kind:
            raise Unsupported(
                f"set sysctl {name}: it belongs to the whole machine, not to a namespace",
                remedy=f"set it on the host: sysctl -w {name}={text}",
            )
        if not kind & own:
            raise InvalidInput(
                f"set sysctl {name}: it belongs to the {_KINDS[kind]} namespace, which the container shares with the "
                "host",
                remedy=f"give the container a {_KINDS[kind]} namespace (linux.namespaces)",
            )
        field = _SAID_ELSEWHERE.get(path)
        if field and spec.get(field) and spec[field] != text:
            raise InvalidInput(
                f"set sysctl {name}={text}: {field} is {spec[field]}", remedy="keep one of them"
            )
        value = str(text).encode("utf-8", "surrogateescape")
        if field:  # procfs keeps the two for the host's root, the calls for that of the namespace
            steps.append(Step(f"set{field}", value, len(value), note=f"sysctl {name}"))
            continue
        place = b"sys/" + path.encode("utf-8", "surrogateescape")
        steps += write_steps(wiring.proc, place, value, note=f"sysctl {name}")
    return steps
