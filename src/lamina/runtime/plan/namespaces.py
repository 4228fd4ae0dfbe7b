"""Namespaces: which are made, which are joined, in what order, and what each is furnished with.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces, namespaces(7)

Most namespaces are made by clone3(2) itself; a cgroup namespace only after the cgroups were joined, since its root is
where the process is at that moment (cgroup_namespaces(7)); a time namespace by unshare(2), since its clocks can only be
set while nobody is in it, and execve(2) enters it.

Most namespaces are joined by the new process itself. Three cannot be: a pid namespace only takes those who are born
into it, and a user or time namespace nobody who shares memory with somebody outside. And whoever is in a new user
namespace has no power over what belongs to others. In these cases a helper joins everything and then clones
(`Plan.enter`). Its child has a copy of the memory instead of sharing it, so that a process that is in such a namespace
already cannot reach ours through it.
"""

from __future__ import annotations

from errno import EINVAL, EPERM

from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.linux.constants import (
    AF_INET,
    AF_NETLINK,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    IFF_UP,
    PR_SET_DUMPABLE,
    SIOCSIFFLAGS,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_RAW,
)
from lamina.linux.program import Out, Reg, Step
from lamina.runtime.bundle import NULL
from lamina.runtime.plan.waits import lend_steps
from lamina.runtime.waits import ID_MAPS, LETTERS, NET_DEVICES, NETWORK, Wait
from lamina.values import value

_LONGEST_NAME = 64  # __NEW_UTS_LEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Joined, Spec, Wiring

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
# made by unshare(2) in the new process
LATER = CLONE_NEWCGROUP | CLONE_NEWTIME
# what the process cannot join by itself, see above
BY_HELPER = CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWTIME
# the first kernel whose execve(2) enters the time namespace that was made for the children
TIME_SINCE = (6, 3)
CLOCKS = ("monotonic", "boottime")
NETLINK_ROUTE = 0


@value
class Namespaces:
    """Which namespaces a container has of its own (CLONE_NEW*), made and joined; the others are the caller's."""

    made: int
    joined: tuple[Joined, ...] = ()

    @property
    def own(self) -> int:
        """Every kind that the container does not share with its caller."""
        own = self.made
        for namespace in self.joined:
            own |= FLAGS[namespace.kind]
        return own

    @property
    def helped(self) -> bool:
        """Whether a helper joins them, see above."""
        return bool(self.joined and (self.made & CLONE_NEWUSER or (self.own & ~self.made) & BY_HELPER))

    def enter(self) -> tuple[tuple[int, int], ...]:
        """(descriptor, CLONE_NEW*) in the order in which the helper must join them.

        What belongs to others needs the caller's privileges; whoever joins the user namespace gives them up for those
        over everything that belongs to it.
        """
        if not self.helped:
            return ()
        ordered = sorted(self.joined, key=_rank)
        return tuple((namespace.fd, FLAGS[namespace.kind]) for namespace in ordered)


def _rank(namespace: Joined) -> int:
    if namespace.kind == "user":
        return 2
    # the root that a mount namespace brings with it comes last, for there are paths no more
    return (1 if namespace.outside else 3) + (namespace.kind == "mount" and not namespace.outside)


def arrange(spec: Spec, wiring: Wiring) -> Namespaces:
    """Read `linux.namespaces`. Raises InvalidInput or Unsupported for what cannot be."""
    given = {namespace.kind: namespace for namespace in wiring.namespaces}
    linux = spec.get("linux") or {}
    made, seen = 0, 0
    joined = []
    for namespace in linux.get("namespaces") or []:
        kind = namespace["type"]
        if kind not in FLAGS:
            raise InvalidInput(f"create namespace {kind!r}: the types are {', '.join(FLAGS)}")
        flag = FLAGS[kind]
        if seen & flag:
            raise InvalidInput(f"create namespace {kind}: it is listed twice")
        seen |= flag
        if not namespace.get("path"):
            made |= flag
        elif kind not in given:
            raise LaminaError(
                f"join {kind} namespace {namespace['path']}: no descriptor was given to the plan"
            )
        elif given[kind].fd >= 0:
            joined.append(given[kind])
    found = Namespaces(made, tuple(joined))
    _check(spec, linux, found, wiring)
    return found


def _check(spec: Spec, linux: dict[str, Any], found: Namespaces, wiring: Wiring) -> None:
    """What asks for a namespace of the container's own."""
    if any(linux.get(key) for key in ("uidMappings", "gidMappings")) and not found.made & CLONE_NEWUSER:
        raise InvalidInput(
            "map ids: linux.uidMappings and gidMappings are for a new user namespace, and none is asked for",
            remedy='add {"type": "user"} to linux.namespaces, or leave the mappings out',
        )
    if linux.get("timeOffsets") and not found.made & CLONE_NEWTIME:
        raise InvalidInput(
            "set clocks: linux.timeOffsets are for a new time namespace, and none is asked for",
            remedy='add {"type": "time"} to linux.namespaces',
        )
    if found.made & CLONE_NEWTIME and wiring.release < TIME_SINCE:
        raise Unsupported(
            f"create time namespace: execve(2) enters it from Linux {TIME_SINCE[0]}.{TIME_SINCE[1]} on only"
        )
    for field, flag, kind in (
        ("hostname", CLONE_NEWUTS, "uts"),
        ("domainname", CLONE_NEWUTS, "uts"),
    ):
        if spec.get(field) and not found.own & flag:
            raise InvalidInput(
                f"set {field}: the container shares the {kind} namespace of the host",
                remedy=f'add {{"type": "{kind}"}} to linux.namespaces, or leave {field} out',
            )
    if linux.get("netDevices") and not found.own & CLONE_NEWNET:
        raise InvalidInput("move network devices: the container shares the network namespace of the host")


def entry_steps(spec: Spec, namespaces: Namespaces, wiring: Wiring) -> tuple[list[Step], list[Wait]]:
    """What comes first in the new process: namespaces joined, id maps awaited, session, cgroups, the late namespaces.

    cgroup v1 is joined through `tasks` with a 0: a write to `cgroup.procs` waits for an RCU grace period.
    """
    steps: list[Step] = []
    waits: list[Wait] = []
    if not namespaces.helped:
        for namespace in sorted(namespaces.joined, key=_rank):
            flag = FLAGS[namespace.kind]
            steps.append(Step("setns", namespace.fd, flag, note=f"join {namespace.kind} namespace"))
    linux = spec.get("linux") or {}
    if namespaces.made & CLONE_NEWUSER:
        steps += _user_steps(linux, wiring)
        maps = {key: linux.get(key) or [] for key in ("uidMappings", "gidMappings")}
        waits.append(Wait(ID_MAPS, maps))
    elif namespaces.own & CLONE_NEWUSER:
        # who is 0 there has all of its capabilities; where 0 is not mapped the ids stay what they are seen as
        steps.append(Step("setgroups", 0, None, tolerate=(EPERM,)))
        steps.append(Step("setresgid", 0, 0, 0, tolerate=(EINVAL,)))
        steps.append(Step("setresuid", 0, 0, 0, tolerate=(EINVAL,)))
        steps.append(
            Step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0, note="ids that change decide that by a sysctl")
        )
    steps += [Step("setsid"), Step("umask", 0)]
    for tasks, controller in zip(wiring.tasks, wiring.controllers, strict=True):
        steps.append(Step("write", tasks, b"0\n", 2, want=2, note=f"join the {controller.decode()} cgroup"))
    if namespaces.made & CLONE_NEWCGROUP:
        steps.append(Step("unshare", CLONE_NEWCGROUP))
    if namespaces.made & CLONE_NEWTIME:
        steps += _time_steps(linux.get("timeOffsets") or {}, wiring)
    return steps, waits


def network_steps(
    spec: Spec, namespaces: Namespaces, wiring: Wiring, *, networked: bool = False
) -> tuple[list[Step], list[Wait]]:
    """What the container's network begins with: `lo`, devices of the host's, and, if it is *networked*, links that the
    parent makes.
    """
    steps = loopback_steps() if namespaces.made & CLONE_NEWNET else []
    waits = []
    if networked:
        if not namespaces.made & CLONE_NEWNET:
            raise InvalidInput("make the links of a container: it has no network namespace of its own")
        if wiring.far != NULL:  # else who is killed before he has made them is waited for for ever
            steps.append(Step("close", wiring.far, note="see the end of the caller"))
        steps += _lent_netlink_steps(wiring.channel, NETWORK, "make its links")
        waits.append(Wait(NETWORK))
    if devices := (spec.get("linux") or {}).get("netDevices"):
        steps += _lent_netlink_steps(wiring.channel, NET_DEVICES, "move the devices in")
        waits.append(Wait(NET_DEVICES, devices))
    return steps, waits


def _user_steps(linux: dict[str, Any], wiring: Wiring) -> list[Step]:
    """Wait for the maps and become somebody whom they have: 0 if they have it."""
    uid, gid = (first_id(linux.get(key) or []) for key in ("uidMappings", "gidMappings"))
    steps = [Step("read", wiring.channel, Out(8), 1, want=1, note="wait for the id maps")]
    if wiring.setgroups:
        steps.append(Step("setgroups", 0, None))
    return [*steps, Step("setresgid", gid, gid, gid), Step("setresuid", uid, uid, uid)]


def first_id(mappings: list[dict[str, int]]) -> int:
    """The id under which a container is furnished: 0, or the lowest one that there is."""
    return min((mapping["containerID"] for mapping in mappings), default=0)


def _time_steps(offsets: dict[str, Any], wiring: Wiring) -> list[Step]:
    """Make the time namespace and set its clocks (time_namespaces(7)); nobody is in it before execve(2)."""
    if unknown := set(offsets) - set(CLOCKS):
        raise InvalidInput(f"set clock {sorted(unknown)[0]!r}: the clocks are {' and '.join(CLOCKS)}")
    steps = [Step("unshare", CLONE_NEWTIME)]
    lines = []
    for clock in CLOCKS:
        if offsets.get(clock):
            secs, nanosecs = (int(offsets[clock].get(part) or 0) for part in ("secs", "nanosecs"))
            if not 0 <= nanosecs < 10**9:
                raise InvalidInput(f"set clock {clock}: {nanosecs} nanoseconds are not less than a second")
            lines.append(f"{clock} {secs} {nanosecs}\n")
    if lines:
        from lamina.runtime.plan.procfs import write_steps

        steps += write_steps(wiring.proc, b"self/timens_offsets", "".join(lines).encode(), note="clocks")
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


def _lent_netlink_steps(channel: int | Reg, what: str, note: str) -> list[Step]:
    """Have the parent do it: with a socket of this namespace it names devices here, brings them up, gives addresses."""
    socket = Reg("netlink" if what == NET_DEVICES else "links")
    kind = SOCK_RAW | SOCK_CLOEXEC
    return [
        Step("socket", AF_NETLINK, kind, NETLINK_ROUTE, save=socket, note="network devices"),
        *lend_steps(channel, (socket,), LETTERS[what], note),
        Step("close", socket),
    ]


def hostname_steps(spec: Spec) -> list[Step]:
    """Host and domain name. Raises InvalidInput for one that is longer than the kernel's (uname(2))."""
    steps = []
    for key, call in (("hostname", "sethostname"), ("domainname", "setdomainname")):
        if spec.get(key):
            name = str(spec[key]).encode("utf-8", "surrogateescape")
            if len(name) > _LONGEST_NAME:
                raise InvalidInput(f"set {key} {spec[key]}: the kernel takes at most {_LONGEST_NAME} bytes")
            steps.append(Step(call, name, len(name)))
    return steps
