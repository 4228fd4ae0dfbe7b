"""Signals to a container, and its end."""

from __future__ import annotations

import os
from errno import ESRCH

from lamina.errors import Conflict, KernelError, NotFound, TimeoutExpired
from lamina.linux.fd import ready
from lamina.runtime.container import groups
from lamina.runtime.container.begin import first_process, run_logged
from lamina.runtime.container.directory import (
    CREATED,
    CREATING,
    STOPPED,
    Container,
    not_running,
    state_document,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import pidfd_send_signal
    from typing import Any

    from lamina.linux.fd import Fd

    Record = dict[str, Any]
else:
    from _signal import pidfd_send_signal  # the module `signal` is enums around it

CLONE_NEWPID = 0x20000000  # linux/sched.h
SIGKILL = 9
# seconds that a killed process may take to end
DYING = 10.0


def kill(container: Container, signal: int, *, everybody: bool = False) -> None:
    """Send *signal* to the first process, or to every process of the container.

    SIGKILL reaches everybody where the first process is not the kernel's own guarantee for that (a shared pid
    namespace), and those that are paused. Raises Conflict when it is not running, Unsupported where it is not known who
    is in it.
    """
    record = container.record()
    cgroup = groups.of(record)
    if everybody and cgroup is not None:
        cgroup.kill(signal)
        if signal == SIGKILL and cgroup.frozen:
            cgroup.thaw()
        return
    with first_process(container, record) as pidfd:
        if everybody:
            from lamina.runtime.container.members import signal_members

            signal_members(record["pid"], signal)
            return
        try:
            pidfd_send_signal(pidfd, signal)
        except OSError as error:
            if error.errno == ESRCH:
                raise not_running(container.id) from None
            raise KernelError("pidfd_send_signal", error.errno or 0, f"signal {signal}") from error
    if signal != SIGKILL or cgroup is None:
        return
    if cgroup.frozen:
        cgroup.thaw()
    if not record.get("namespaces", 0) & CLONE_NEWPID:
        cgroup.kill()


def end(pidfd: Fd) -> None:
    """Kill a process and wait for its end, whoever its parent is. Raises TimeoutExpired."""
    try:
        pidfd_send_signal(pidfd, SIGKILL)
    except OSError as error:
        if error.errno != ESRCH:
            raise
    if not ready(DYING, pidfd):
        raise TimeoutExpired(f"kill the container's first process: not ended within {DYING:g} s")


def delete(container: Container, *, force: bool = False) -> tuple[str, ...]:
    """Delete a container that is stopped, or was never started; with *force* any. What poststop hooks failed at.

    Whatever a killed lamina-runtime left behind goes as well. Raises Conflict when it still runs.
    """
    if force:
        _end_first(container)
    container.lock()
    try:
        record = container.record()
        status = container.status(record)
        if status == CREATING:  # we hold the lock: whoever created it is gone
            status = STOPPED
        if status not in (STOPPED, CREATED) and not force:
            raise Conflict(
                f"cannot delete container {container.id} that is not stopped: {status}",
                remedy="kill it first, or use --force",
            )
        _end_first(container, record)
        spec = container.spec() if "poststop" in record.get("hooks", ()) else {}
        _remove_groups(record)
        container.remove()
        if not spec:
            return ()
        state = state_document(container, record, STOPPED)
        return run_logged(spec, "poststop", state, os.fsencode(record.get("bundle") or "/"))
    finally:
        container.unlock()


def _end_first(container: Container, record: Record | None = None) -> None:
    try:
        record = container.record() if record is None else record
        thaw = groups.of(record)
        with first_process(container, record) as pidfd:
            try:
                pidfd_send_signal(pidfd, SIGKILL)
            except OSError:
                pass
            if thaw is not None and thaw.frozen:
                thaw.thaw()
            end(pidfd)
    except (Conflict, NotFound):
        pass  # it has ended, or never began


def _remove_groups(record: Record) -> None:
    cgroup = groups.of(record)
    if cgroup is None:
        groups.remove_left(record)
        return
    if cgroup.remove_unused():
        return
    if cgroup.processes():
        cgroup.kill()
    cgroup.remove()
