"""In what state a container is, and its first process, held so that it is that one or nobody."""

from __future__ import annotations

import os
import time
from errno import EINVAL, ESRCH

from lamina.errors import KernelError
from lamina.linux.constants import PIDFD_SIGNAL_PROCESS_GROUP
from lamina.linux.fd import Fd, ready
from lamina.linux.process import pidfd_open, pidfd_send_signal
from lamina.runtime.identity import boot_id, identity_of, same_process
from lamina.store.containers import CARRIED_MARK, KEPT_MARK, LIVING, STOPPED_MARK, no_such
from lamina.supervisor.signals import GONE, HANDLED, standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home

SIGKILL, WAKE, SIGCONT = 9, 10, 18
# how long somebody who is busy with a container that does not run is waited for
LETTING_GO = 10.0
# and who looked after it, once it has ended: its records are waited for until the disk has them
SYNCING = 60.0
# and how long before it is seen whether it is stopped: then it would never be done
LOOK = 1.0
# signal(7): those whose default action ends a process, which the kernel spares the first of a pid namespace
_DEFAULT_ENDS = frozenset((1, 2, 3, 6, 10, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, *range(34, 65)))


def state_of(home: Home) -> str:
    """Its state, the process looked at as well. Raises NotFound, Corrupt."""
    if not home.exists():
        raise no_such(home.short_id)
    return home.state(lives)


def lives(state: dict[str, Any]) -> bool:
    """Whether the process of that state record is still there."""
    with Process(state) as process:
        return process.is_there


def wake_supervisor(state: dict[str, Any]) -> None:
    """Have the supervisor in that state record look at the markers of its container, and whether it is still there."""
    if state.get("supervisor"):
        with Process(state["supervisor"]) as process:
            process.send(WAKE)
            process.send(SIGCONT)  # somebody may have stopped it, and who is not stopped does not notice


def keep(home: Home) -> None:
    """Whatever it ends by, do not remove it: this process starts it again."""
    own = identity_of(os.getpid())
    home.set_mark(KEPT_MARK, f"{own['pid']} {own['start_time']}")


def ended_by(home: Home, status: int) -> int:
    """The exit status of a container whose first process ended with *status*: that of the signal whose default action
    was carried out by a SIGKILL of ours.
    """
    if status == 128 + SIGKILL:
        for marker in (STOPPED_MARK, CARRIED_MARK):
            carried = home.mark_text(marker).rpartition(" ")[2]
            if carried.isascii() and carried.isdigit() and 0 < int(carried) < 65:
                return 128 + int(carried)
    return status


def is_kept(home: Home) -> bool:
    """Whether the process that said so is still there."""
    said = home.mark_text(KEPT_MARK).split()
    if len(said) != 2 or not all(word.isdigit() for word in said):
        return False
    state = {"pid": int(said[0]), "start_time": int(said[1]), "boot": boot_id()}
    return lives(state)


def hold(home: Home, most: float = SYNCING) -> bool:
    """Take the lock. Who holds it because the container has just ended, or is being looked at, is waited for, *most*
    seconds if need be; False where the container lives, or somebody is busy with it for longer. Raises NotFound.
    """
    begun, pause, looked = time.monotonic(), 0.001, 0
    while not home.hold():
        waited = time.monotonic() - begun
        if waited > LETTING_GO and (waited > most or not _is_attended(home)):
            return False
        if home.state() in LIVING and not has_just_ended(home):
            return False
        if waited > LOOK * (looked + 1):
            looked += 1
            _let_go_on(home)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True


def has_just_ended(home: Home) -> bool:
    """Whether its process is gone, and who looks after it has yet to write that down."""
    state = home.read("state")
    return state is not None and not home.has("exit") and not lives(state)


def _is_attended(home: Home) -> bool:
    """Whether who looked after it is there still. Raises Corrupt."""
    with Process((home.read("state") or {}).get("supervisor")) as supervisor:
        return supervisor.is_there


def _let_go_on(home: Home) -> None:
    """Have who looked after it go on, if somebody has stopped it. Raises Corrupt."""
    from lamina.engine.stuck import is_stopped

    with Process((home.read("state") or {}).get("supervisor")) as supervisor:
        if is_stopped(supervisor.pid):
            supervisor.send(SIGCONT)


class Process:
    """A process of a record, held by descriptor: it is that one or nobody."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.state = state
        self.pid = int((state or {}).get("pid") or 0)
        self._pidfd: Fd | None = None
        if state is None or not self.pid:
            return
        try:
            found = pidfd_open(self.pid)
        except KernelError as error:
            if error.errno != ESRCH:
                raise
            return
        if same_process(self.pid, state):
            self._pidfd = found
        else:
            found.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd is not None:
            self._pidfd.close()

    @property
    def pidfd(self) -> Fd | None:
        """Readable once it has ended; None where there is no such process."""
        return self._pidfd

    @property
    def is_there(self) -> bool:
        """Whether it runs."""
        return self._pidfd is not None and not ready(0, self._pidfd)

    def standing(self, signal: int, asked: dict[str, Any]) -> str:
        """What becomes of *signal* here (supervisor/signals.py): DEFAULT where it would end an ordinary process, but
        not the first of a pid namespace.
        """
        from lamina.engine.keeping import said_of

        if not self.is_there:
            return GONE
        if signal not in _DEFAULT_ENDS or said_of(asked).get("init"):
            return HANDLED
        return standing(self.pid, signal)

    def send(self, signal: int, flags: int = 0) -> None:
        """Send *signal*; nothing happens when it has ended already."""
        if self._pidfd is None:
            return
        try:
            pidfd_send_signal(self._pidfd, signal, flags)
        except KernelError as error:
            if error.errno != ESRCH:
                raise

    def send_to_group(self, signal: int) -> None:
        """Send *signal* to all of its process group; to it alone before Linux 6.9."""
        try:
            self.send(signal, PIDFD_SIGNAL_PROCESS_GROUP)
        except KernelError as error:
            if error.errno != EINVAL:
                raise
            self.send(signal)
