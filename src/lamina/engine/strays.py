"""Processes of a container that no record and no control group knows: of a start whose supervisor was killed before it
had written down whom it had started, where the user may not make control groups.
"""

from __future__ import annotations

import os
import time
from errno import ESRCH

from lamina.errors import Conflict, KernelError
from lamina.linux.process import pidfd_open, pidfd_send_signal

SIGKILL = 9
# seconds between two looks: a process that was still on its way when we looked first has its root then, or has ended
# because nobody answers it
BETWEEN = 0.05
MOST_LOOKS = 20


def kill_strays(identity: str) -> None:
    """Kill every process whose root is the container *identity*'s, until two looks in a row find none. Raises
    KernelError, Conflict where there are some after many looks: such as cannot die, or make others without end.
    """
    clean = 0
    found: list[int] = []
    for _ in range(MOST_LOOKS):
        found = [pid for pid in _numbers() if _is_in(pid, identity)]
        clean = 0 if found else clean + 1
        if clean == 2:
            return
        for pid in found:
            _kill(pid, identity)
        time.sleep(BETWEEN)
    if found:
        raise Conflict(
            f"end the processes of container {identity[:12]}: {len(found)} of them live on, {found[0]} among them",
            remedy=f"see what it waits for in /proc/{found[0]}/stack, and try again",
        )


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_in(pid: int, identity: str) -> bool:
    """Whether its root is an overlay with an upper of that container's; ids are random, no two are alike."""
    try:
        with open(f"/proc/{pid}/mountinfo", "rb", buffering=0) as file:
            lines = file.readall().splitlines()
    except OSError:  # gone, or another user's
        return False
    mark = b"/containers/%s/upper-" % identity.encode()
    return any(
        line.split(b" ", 5)[4:5] == [b"/"] and b" - overlay " in line and mark in line for line in lines
    )


def _kill(pid: int, identity: str) -> None:
    try:
        with pidfd_open(pid) as held:
            if _is_in(pid, identity):  # looked at again, now that the number cannot change hands
                pidfd_send_signal(held, SIGKILL)
    except KernelError as error:
        if error.errno != ESRCH:
            raise
