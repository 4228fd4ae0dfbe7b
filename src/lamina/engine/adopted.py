"""The first process of a container whose supervisor was killed, for the one that comes after it."""

from __future__ import annotations

import os
from errno import ESRCH
from time import monotonic, sleep

from lamina.engine.restarting import UNKNOWN
from lamina.errors import KernelError
from lamina.linux.fd import Fd
from lamina.linux.process import pidfd_get_info, pidfd_open, pidfd_send_signal
from lamina.runtime.identity import same_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.cgroups import Cgroup

# seconds for its new parent to wait for it, after which nobody knows how it ended
REAPING = 2.0


class Adopted:
    """The first process of a container whose supervisor was killed: no child of ours, and perhaps gone already."""

    def __init__(self, state: dict[str, Any], pidfd: Fd | None = None) -> None:
        self.pid = int(state["pid"])
        found = process_of(state) if pidfd is None else pidfd
        from lamina.runtime.cgroups import reopen

        self.unknown = found is None
        self.pidfd: Fd = Fd(os.eventfd(1, os.EFD_CLOEXEC)) if found is None else found
        self.cgroup: Cgroup | None = reopen(state["cgroup"]) if state.get("cgroup") else None

    def kill(self, signal: int) -> None:
        """Send *signal*; nothing happens when the process has ended already."""
        if not self.unknown:
            try:
                pidfd_send_signal(self.pidfd, signal)
            except KernelError as error:
                if error.errno != ESRCH:
                    raise

    def wait(self) -> int:
        """The exit status, 128 + n after signal n; UNKNOWN where nobody can tell (pidfd_open(2), PIDFD_GET_INFO)."""
        deadline = monotonic() + REAPING
        while not self.unknown:
            try:
                code = pidfd_get_info(self.pidfd).exit_status
            except KernelError:
                break
            if code is not None:
                return 128 + os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
            if monotonic() > deadline:  # its new parent does not wait for it
                break
            sleep(0.005)
        self.unknown = True
        return UNKNOWN

    def close(self) -> None:
        """Let go, and remove the control groups."""
        self.pidfd.close()
        if self.cgroup is not None:
            self.cgroup.remove()


def process_of(state: dict[str, Any]) -> Fd | None:
    """The process of that record, None if it is not there any more. Raises KernelError where that cannot be told."""
    try:
        found = pidfd_open(int(state["pid"]))
    except KernelError as error:
        if error.errno != ESRCH:
            raise
        return None
    if same_process(int(state["pid"]), state):
        return found
    found.close()
    return None
