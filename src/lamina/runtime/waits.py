"""What a new process needs of its parent on the way: as data, and done.

A plan lists these in the order in which they come (lamina/runtime/plan/waits.py makes the steps). `attend` is the
parent's side.
"""

from __future__ import annotations

import os

from lamina.errors import LaminaError
from lamina.linux.descriptors import receive
from lamina.linux.fd import Fd, ready
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.linux.packed import Child
    from lamina.runtime.bundle import Bundle

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


_MOST_RIGHTS = 4


def attend(wait: Wait, child: Child, ours: Fd, bundle: Bundle) -> Fd | None:
    """Do what the child waits for at this point, and let it go on; gives the descriptor if that is what it is about.

    None when the child has ended before it came to this point, or there is nothing to give: the walk's outcome says
    why. Raises what the work itself raises; then the child still waits, and is to be ended.
    """
    received: list[Fd] = []
    try:
        if HANDED_OVER[wait.kind]:
            received = receive_descriptors(ours, child)
            if len(received) != HANDED_OVER[wait.kind]:
                return None
        do(wait, child.pid, bundle, received)
        if wait.kind in ANSWERED:
            _answer(ours)
            return None
        if wait.kind == LISTENER:
            return None
        return received.pop()
    finally:
        for fd in received:
            fd.close()


def do(wait: Wait, pid: int, bundle: Bundle, received: Sequence[Fd]) -> None:
    """The work itself for the process *pid*, our child, with the descriptors that it handed over."""
    if wait.kind == ID_MAPS:
        from lamina.runtime.id_maps import write_id_maps

        write_id_maps(pid, wait.payload)
    elif wait.kind == NET_DEVICES:
        from lamina.runtime.net_devices import move_devices

        move_devices(wait.payload, pid, received[0])
    elif wait.kind == COPY_UP:
        from lamina.runtime.copy_up import copy_up

        copy_up(received[0], received[1], pid, wait.payload)
    elif wait.kind == LISTENER:
        from lamina.runtime.seccomp.listener import hand_on

        hand_on(received[0], wait.payload, pid, bundle)


def _answer(ours: Fd) -> None:
    try:
        os.write(ours, GO)
    except BrokenPipeError:  # it has ended: the outcome says why
        pass


def receive_descriptors(ours: Fd, child: Child) -> list[Fd]:
    """The next descriptors that the child hands over; none when it has ended, or closed the channel, before that."""
    if int(ours) not in ready(None, ours, child.pidfd):
        return []
    numbers, more = receive(ours, _MOST_RIGHTS)
    received = [Fd(number) for number in numbers]
    if more:
        for fd in received:
            fd.close()
        raise LaminaError("start: the descriptors that were handed over are more than there is room for")
    return received
