"""Every process of a container's control groups: who they are, and signals to all of them."""

from __future__ import annotations

import time
from errno import EMFILE, ENFILE, ESRCH

from lamina.errors import KernelError, TimeoutExpired, Unsupported
from lamina.linux.process import pidfd_open, pidfd_send_signal
from lamina.runtime.cgroups import freezer
from lamina.runtime.cgroups.tree import read_at, walk, write_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.fd import Fd
    from lamina.runtime.cgroups.cgroup import Cgroup

_SIGKILL = 9
# descriptors held at a time while signals are sent
_BATCH = 256


def processes(cgroup: Cgroup) -> list[int]:
    """See `Cgroup.processes`. All hierarchies are asked: a process may have been moved in one of them.

    Raises Unsupported when one of them is not visible from this pid namespace.
    """
    found = _listed(cgroup)
    if 0 in found:
        raise _invisible("list")
    return list(found)


def _listed(cgroup: Cgroup) -> set[int]:
    """Their ids; 0 stands for those that are not visible in our pid namespace."""
    found = set[int]()
    for place in dict.fromkeys(cgroup.paths.values()):
        for group in walk(place):
            found.update(map(int, read_at(group, b"cgroup.procs").split()))
    return found


def _invisible(verb: str) -> Unsupported:
    return Unsupported(
        f"{verb} processes of the container: some are not visible here",
        remedy="run this in the pid namespace of the host",
    )


def kill(cgroup: Cgroup, signal: int, timeout: float) -> None:
    """See `Cgroup.kill`."""
    end = time.monotonic() + timeout
    if signal != _SIGKILL:
        _signal_once(cgroup, signal, end)
        return
    pause = 0.0005
    if not _kill_v2(cgroup):
        _stop_forks(cgroup)
        _signal_all(cgroup, _SIGKILL)
    while left := _listed(cgroup):
        if time.monotonic() > end:
            raise TimeoutExpired(
                f"kill processes {', '.join(map(str, sorted(left)[:5]))}: they did not end within {timeout:g} seconds",
                remedy="they wait inside the kernel (a disk, NFS) and end when that answers",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
        if not _kill_v2(cgroup):
            _signal_all(cgroup, _SIGKILL)


def _kill_v2(cgroup: Cgroup) -> bool:
    """cgroup.kill kills the whole tree, what is being forked included; since Linux 5.14. False where it cannot.

    In a hybrid that is still everybody, unless somebody was moved.
    """
    place = cgroup.paths.get("")
    if place is None:
        return False
    try:
        with open(place + b"/cgroup.kill", "wb", buffering=0) as file:
            file.write(b"1")
    except OSError:
        return False
    return set(cgroup.paths.values()) == {place}


def _signal_once(cgroup: Cgroup, signal: int, end: float) -> None:
    """Frozen, so that nobody is born or gone between the list and the signal; they get it when they are thawed."""
    if not freezer.can_freeze(cgroup) or cgroup.frozen:
        _signal_all(cgroup, signal)
        return
    try:
        freezer.freeze(cgroup, max(0.0, end - time.monotonic()))
    except TimeoutExpired:
        _signal_all(cgroup, signal)  # one of them waits in the kernel; the others need not wait for it
        return
    try:
        _signal_all(cgroup, signal)
    finally:
        freezer.thaw(cgroup)


def _stop_forks(cgroup: Cgroup) -> None:
    """What forks faster than we kill is kept from it: nobody is born where the limit of processes is 0.

    Not by freezing: v1 gives a frozen process its end only when it is thawed. A frozen container is thawed, to die.
    """
    is_limited = False
    for name in ("pids", ""):  # v2's where that cannot kill a group at once (before Linux 5.14)
        for group in walk(cgroup.paths[name]) if name in cgroup.paths else ():
            try:
                write_at(group, b"pids.max", b"0")
                is_limited = True
            except OSError:
                pass  # going already; or v2 has not that controller
    if not is_limited and freezer.can_freeze(cgroup) and not cgroup.frozen:
        try:
            freezer.freeze(cgroup, 1.0)
        except (KernelError, TimeoutExpired):
            pass
    if freezer.can_freeze(cgroup):
        _signal_all(cgroup, _SIGKILL)
        try:
            freezer.thaw(cgroup)
        except KernelError:
            pass  # gone


def _signal_all(cgroup: Cgroup, signal: int) -> None:
    waiting = list(_listed(cgroup))
    if 0 in waiting:
        raise _invisible("signal")
    while waiting:
        batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
        held: dict[int, Fd] = {}
        try:
            for pid in batch:
                try:
                    held[pid] = pidfd_open(pid)
                except KernelError as error:
                    if error.errno in (EMFILE, ENFILE) and held:
                        waiting = [other for other in batch if other not in held] + waiting
                        break
                    if error.errno != ESRCH:  # ended, or not the leader of its threads
                        raise
            # who is still listed after the number was pinned down is the process that the descriptor refers to, or
            # that one has ended and the signal goes nowhere: never to somebody who got the number meanwhile
            listed = _listed(cgroup)
            for pid, pidfd in held.items():
                if pid in listed:
                    _send(pidfd, signal)
        finally:
            for pidfd in held.values():
                pidfd.close()


def _send(pidfd: Fd, signal: int) -> None:
    try:
        pidfd_send_signal(pidfd, signal)
    except KernelError as error:
        if error.errno != ESRCH:
            raise
