"""Freezing and thawing: v1 freezer-subsystem.rst; cgroup-v2.rst, `cgroup.freeze`."""

from __future__ import annotations

import os
import select
import time
from errno import ENOENT

from lamina.errors import KernelError, TimeoutExpired, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup


def freeze(cgroup: Cgroup, timeout: float) -> None:
    """See `Cgroup.freeze`."""
    place, v2 = _freezer(cgroup)
    end = time.monotonic() + timeout
    done = _freeze_v2(place, end) if v2 else _freeze_v1(place, end)
    if not done:
        thaw(cgroup)
        raise TimeoutExpired(
            f"freeze {os.fsdecode(place)}: not all of its processes stopped within {timeout:g} seconds",
            remedy="one of them waits inside the kernel (a disk, NFS); try again later",
        )


def _freeze_v2(place: bytes, end: float) -> bool:
    """The kernel tells of the change: poll(2) reports POLLPRI on cgroup.events."""
    with open(place + b"/cgroup.events", "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        events.read()  # what comes after this read is told
        _write(place + b"/cgroup.freeze", b"1")
        while True:
            events.seek(0)
            if b"frozen 1" in events.read():
                return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)


def _freeze_v1(place: bytes, end: float) -> bool:
    """A process that is born meanwhile may leave the group FREEZING until the state is written once more."""
    pause = 0.0001
    while True:
        _write(place + b"/freezer.state", b"FROZEN")
        state = _read(place + b"/freezer.state")
        if state == b"FROZEN":
            return True
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def thaw(cgroup: Cgroup) -> None:
    """See `Cgroup.thaw`."""
    _write(*to_thaw(cgroup))


def to_thaw(cgroup: Cgroup) -> tuple[bytes, bytes]:
    """The file that thaws it, and what is to be written there: for whoever is to do it after us. Raises Unsupported."""
    place, v2 = _freezer(cgroup)
    return (place + b"/cgroup.freeze", b"0") if v2 else (place + b"/freezer.state", b"THAWED")


def can_freeze(cgroup: Cgroup) -> bool:
    """Whether one of its hierarchies can."""
    try:
        _freezer(cgroup)
    except Unsupported:
        return False
    return True


def _freezer(cgroup: Cgroup) -> tuple[bytes, bool]:
    place = cgroup.paths.get("")
    if place is not None and os.path.exists(place + b"/cgroup.freeze"):  # since Linux 5.2
        return place, True
    place = cgroup.paths.get("freezer")
    if place is not None:
        return place, False
    raise Unsupported(
        "freeze: the container is in no control group that can be frozen",
        remedy="it was started without, or this host has neither cgroup v2 (since Linux 5.2) nor v1's freezer",
    )


def _read(file: bytes) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return opened.readall().strip()


def _write(file: bytes, text: bytes) -> None:
    try:
        with open(file, "wb", buffering=0) as opened:
            opened.write(text)
    except OSError as error:
        if error.errno == ENOENT:
            raise KernelError(
                "write to", ENOENT, os.fsdecode(file), hint="the control group is gone"
            ) from error
        raise KernelError("write to", error.errno or 0, os.fsdecode(file)) from error
