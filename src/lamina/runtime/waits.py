"""What a new process needs of its parent on the way, as data.

A plan lists these in the order in which they come (lamina/runtime/plan/waits.py makes the steps); attendance.py is the
parent's side.
"""

from __future__ import annotations

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# linux/sched.h; a start by a kept plan does not load `constants`
CLONE_VM, CLONE_VFORK = 0x100, 0x4000
# the parent does something, and then writes GO
ID_MAPS = "id_maps"  # write `linux.uidMappings` and `linux.gidMappings`; the child says nothing before
NET_DEVICES = (
    "net_devices"  # move the payload's devices (linux.netDevices); comes with a netlink socket of theirs
)
COPY_UP = "copy_up"  # fill a tmpfs with what it is going to cover; comes with the tmpfs and the directory
# the parent only takes what is handed over
TERMINAL = "terminal"  # the terminal's master
REPORT = "report"  # the reading end of the pipe on which the launcher reports
LISTENER = "listener"  # of seccomp notifications; the payload is `linux.seccomp`, which says where it goes

HANDED_OVER = {ID_MAPS: 0, NET_DEVICES: 1, COPY_UP: 2, TERMINAL: 1, REPORT: 1, LISTENER: 1}
ANSWERED = frozenset((ID_MAPS, NET_DEVICES, COPY_UP))
GO = b"g"
# what is said where the order does not say it (runtime/plan/created.py)
LETTERS = {NET_DEVICES: b"N", COPY_UP: b"C", LISTENER: b"L"}


@value
class Wait:
    """A point at which the child needs its parent: `kind` is one of the words above."""

    kind: str
    payload: Any = None


def sharing_of(waits: Sequence[Wait], enter: Sequence[tuple[int, int]]) -> int:
    """How a new process uses its parent's memory: 0 for a copy, where somebody who is in one of the namespaces *enter*
    already could reach it and, if it shared memory, us; else CLONE_VM, and CLONE_VFORK where the parent need not act.
    """
    if enter:
        return 0
    acts = any(wait.kind in ANSWERED or wait.kind == LISTENER for wait in waits)
    return CLONE_VM if acts else CLONE_VM | CLONE_VFORK
