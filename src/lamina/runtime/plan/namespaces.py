"""Namespaces, cgroups and the loopback device as clone flags and steps."""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.linux.constants import (
    AF_INET,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    IFF_UP,
    SIOCSIFFLAGS,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
)
from lamina.linux.program import Out, Reg, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.bundle import Spec, Wiring

# https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces
FLAGS = {
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}


def namespace_flags(spec: Spec) -> int:
    """The CLONE_NEW* flags of the specification's namespaces. Raises InvalidInput or Unsupported."""
    flags = 0
    for namespace in (spec.get("linux") or {}).get("namespaces") or []:
        kind = namespace["type"]
        if kind not in FLAGS:
            raise InvalidInput(f"create namespace {kind!r}: the types are {', '.join(FLAGS)}")
        if namespace.get("path"):
            raise Unsupported(
                f"join {kind} namespace {namespace['path']}: containers only get new namespaces so far"
            )
        if kind == "time":
            raise Unsupported("create time namespace: not supported so far")
        if flags & FLAGS[kind]:
            raise InvalidInput(f"create namespace {kind}: it is listed twice")
        flags |= FLAGS[kind]
    if not flags & CLONE_NEWNS or not flags & CLONE_NEWPID:
        raise Unsupported(
            "start a container without a mount and a pid namespace of its own: not supported so far"
        )
    return flags


def entry_steps(flags: int, wiring: Wiring) -> list[Step]:
    """What comes first in the new process: id maps awaited, session, cgroups joined, then a cgroup namespace.

    cgroup v1 is joined through `tasks` with a 0: a write to `cgroup.procs` waits for an RCU grace period, and the
    cgroup namespace must come after, since its root is where the process is at that moment (cgroup_namespaces(7)).
    """
    steps = []
    if flags & CLONE_NEWUSER:
        steps.append(Step("read", wiring.channel, Out(8), 1, want=1, note="wait for the id maps"))
        if wiring.setgroups:
            steps.append(Step("setgroups", 0, None))
        steps += [Step("setresgid", 0, 0, 0), Step("setresuid", 0, 0, 0)]
    steps += [Step("setsid"), Step("umask", 0)]
    for tasks, controller in zip(wiring.tasks, wiring.controllers, strict=True):
        steps.append(Step("write", tasks, b"0\n", 2, want=2, note=f"join the {controller.decode()} cgroup"))
    if flags & CLONE_NEWCGROUP:
        steps.append(Step("unshare", CLONE_NEWCGROUP))
    return steps


def loopback_steps() -> list[Step]:
    """Bring `lo` of a new network namespace up, as every engine does (netdevice(7))."""
    socket = Reg("socket")
    request = b"lo".ljust(16, b"\0") + IFF_UP.to_bytes(2, "little") + bytes(22)
    return [
        Step("socket", AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0, save=socket, note="bring lo up"),
        Step("ioctl", socket, SIOCSIFFLAGS, request),
        Step("close", socket),
    ]


def hostname_steps(spec: Spec) -> list[Step]:
    """Host and domain name."""
    steps = []
    for key, call in (("hostname", "sethostname"), ("domainname", "setdomainname")):
        if spec.get(key):
            name = str(spec[key]).encode()
            steps.append(Step(call, name, len(name)))
    return steps
