"""Processes killed for want of memory: how many, and a descriptor that tells when. memory.rst, cgroup-v2.rst."""

from __future__ import annotations

import os
import select

from lamina.errors import KernelError, Unsupported
from lamina.linux.fd import Fd
from lamina.runtime.cgroups.cgroup import counter
from lamina.runtime.cgroups.tree import read_at, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup


def kills_below(place: bytes) -> int:
    """v1: every group counts its own, so those made inside have to be added up."""
    return sum(counter(read_at(group, b"memory.oom_control"), b"oom_kill") for group in walk(place))


class OomWatch:
    """Tells of OOM kills. `fileno()` becomes readable (v1) or exceptional (v2: POLLPRI) when there may be a new one.

        watch = cgroup.watch_oom()
        poll.register(watch, watch.events)
        ...
        watch.kills()     # how many since it was last asked; 0 for a false alarm

    v1 tells of the group itself, not of those made inside it. `close()` when done, or use it in a `with`.
    """

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        place = cgroup.paths.get("memory")
        self._v1 = place is not None
        self.events = select.POLLIN if self._v1 else select.POLLPRI
        self._fd = _eventfd(place) if place is not None else _events_file(cgroup.paths.get(""))
        self._seen = cgroup.oom_kills()

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return int(self._fd)

    def kills(self) -> int:
        """How many there were since this was last asked."""
        if self._v1:
            try:
                os.eventfd_read(self._fd)
            except BlockingIOError:
                pass
        else:
            os.pread(self._fd, 4096, 0)  # what comes after this read is told
        now = self._cgroup.oom_kills()
        new, self._seen = now - self._seen, now
        return max(new, 0)

    def close(self) -> None:
        """Stop watching."""
        self._fd.close()

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _eventfd(place: bytes) -> Fd:
    event = Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    try:
        with (
            Fd(os.open(place + b"/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)) as control,
            open(place + b"/cgroup.event_control", "wb", buffering=0) as file,
        ):
            file.write(b"%d %d" % (int(event), int(control)))
    except OSError as error:
        event.close()
        raise KernelError("watch", error.errno or 0, os.fsdecode(place + b"/memory.oom_control")) from error
    return event


def _events_file(place: bytes | None) -> Fd:
    try:
        if place is None:
            raise FileNotFoundError
        fd = Fd(os.open(place + b"/memory.events", os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        raise Unsupported(
            "watch for OOM kills: the container is in no group of the memory controller",
            remedy="start it with a memory limit",
        ) from None
    os.pread(fd, 4096, 0)
    return fd
