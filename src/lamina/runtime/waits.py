"""What a new process needs of its parent on the way: as data, and done.

A plan lists these in the order in which they come (lamina/runtime/plan/waits.py makes the steps). `attend` is the
parent's side.
"""

from __future__ import annotations

import os
from errno import ESRCH

from lamina.errors import Conflict, LaminaError
from lamina.linux.descriptors import receive
from lamina.linux.fd import Fd, ready
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from signal import pidfd_send_signal
    from typing import Any

    from lamina.linux.packed import Child
    from lamina.runtime.bundle import Bundle
else:
    from _signal import pidfd_send_signal  # the module `signal` is enums around it

# linux/sched.h; a start by a kept plan does not load `constants`
CLONE_VM, CLONE_VFORK = 0x100, 0x4000
SIGKILL, SIGCONT = 9, 18
# names of a process that is about to execute its command
STARTING = b"lamina:starting"
# the launcher (runtime/init) has its file's, before Linux 6.14 its descriptor's; for the moment that it takes
LAUNCHERS = (b"4", b"memfd:lamina-in")
MOST_LOOKS = 100  # for a command may be called so as well
# the parent does something, and then writes GO
ID_MAPS = "id_maps"  # write `linux.uidMappings` and `linux.gidMappings`; the child says nothing before
NET_DEVICES = (
    "net_devices"  # move the payload's devices (linux.netDevices); comes with a netlink socket of theirs
)
NETWORK = "network"  # make its links (Bundle.connect); comes with a netlink socket of its network namespace
COPY_UP = "copy_up"  # fill a tmpfs with what it is going to cover; comes with the tmpfs and the directory
TAKE_MODE = (
    "take_mode"  # give a tmpfs the mode of what it is going to cover; comes with both, or the tmpfs twice
)
# the parent only takes what is handed over
TERMINAL = "terminal"  # the terminal's master
REPORT = "report"  # the reading end of the pipe on which the launcher reports
LISTENER = "listener"  # of seccomp notifications; the payload is `linux.seccomp`, which says where it goes

HANDED_OVER = {
    ID_MAPS: 0, NET_DEVICES: 1, NETWORK: 1, COPY_UP: 2, TAKE_MODE: 2, TERMINAL: 1, REPORT: 1, LISTENER: 1,
}  # fmt: skip
ANSWERED = frozenset((ID_MAPS, NET_DEVICES, NETWORK, COPY_UP, TAKE_MODE))
GO = b"g"
# what is said where the order does not say it (runtime/plan/created.py)
LETTERS = {NET_DEVICES: b"N", NETWORK: b"W", COPY_UP: b"C", TAKE_MODE: b"M", LISTENER: b"L"}


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


class Watch:
    """Waits for a new process that joins namespaces: whoever is in there may stop it, or trace it.

    Every `look` seconds that nothing is heard it is looked at and, if it is stopped, told to go on; after `most` of
    these it is given up. What cannot be looked at is waited for `patience` seconds.
    """

    look = 0.5
    most = 20
    patience = 10.0

    def __init__(self) -> None:
        self._stopped = 0

    def ready(self, pid: int, pidfd: Fd, *descriptors: int) -> list[int]:
        """Which of *descriptors* and *pidfd* can be read, or have ended. Raises Conflict when it is kept from it."""
        while not (readable := ready(self.look, *descriptors, pidfd)):
            if _state(pid) not in (b"T", b"t"):
                continue
            self._stopped += 1
            if self._stopped > self.most:
                raise _kept_stopped()
            try:
                pidfd_send_signal(pidfd, SIGCONT)
            except OSError:  # it has ended, or a filter of ours forbids it: seen at the next look
                pass
        return readable

    def hear_of_another(self, descriptor: int) -> None:
        """Wait for what another process says of itself, whose pid is not known yet. Raises Conflict likewise."""
        if not ready(self.patience, descriptor):
            raise _kept_stopped()

    def reap(self, pidfd: Fd) -> None:
        """Wait for the end of a child that was killed. If it is traced, its tracer is to wait for it first, and may
        never do so (ptrace(2)): then it is left to whoever reaps after us.
        """
        for _ in range(20):
            if not ready(self.patience / 20, pidfd):
                continue
            try:
                if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None:
                    return
            except ChildProcessError:
                return
            ready(self.patience / 200)

    def reap_group(self, group: int) -> None:
        """As `reap`, of all of our children in the process group of the one that was killed, which has its number."""
        try:
            for _ in range(200):
                while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
                    pass
                ready(self.patience / 2000)
        except ChildProcessError:  # there is none, or none any more
            pass


def _state(pid: int) -> bytes:
    """What a process is doing, a letter of proc_pid_stat(5); nothing when it is gone, or not to be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(512).rpartition(b") ")[2][:1]
    except OSError:
        return b""


def _kept_stopped() -> Conflict:
    return Conflict(
        "start a process in namespaces that others are in: one of them keeps it stopped (SIGSTOP, or ptrace)",
        remedy="end the container whose processes do that",
    )


def end_of(pidfd: int) -> int:
    """Wait for the end of a child: its exit status, 128 + n after signal n. Raises ChildProcessError for no child of
    ours, KernelError where a tracer keeps its status to itself.
    """
    looked = False
    while (ended := os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)) is None:
        if looked:  # it has ended, and waitid(2) without WNOHANG would wait for its tracer
            from lamina.runtime.traced import kept_status

            return kept_status(pidfd)
        ready(None, pidfd)
        looked = True
    return int(ended.si_status) if ended.si_code == os.CLD_EXITED else 128 + int(ended.si_status)


def reap(pidfd: int) -> int | None:
    """Wait for the end of a child: its exit status, 128 + n after signal n; None if it is not our child, or this
    program waits for any child, or lets the kernel reap.
    """
    try:
        return end_of(pidfd)
    except ChildProcessError:
        return None


def dismiss(child: Child) -> None:
    """Whatever it was doing, it need not go on: it is ended, and its end waited for. Raises OSError."""
    try:
        pidfd_send_signal(child.pidfd, SIGKILL)
    except OSError as error:
        if error.errno != ESRCH:
            raise
    reap(child.pidfd)
    child.settle()
    child.pidfd.close()


def ended_early(pid: int, pidfd: Fd) -> bool:
    """Of a process whose report is at its end: whether it ended without having executed its command. Who installs a
    filter of system calls, which may let nobody speak, takes a name before (plan/identity.py, `name_step`); execve(2)
    closes the report, and gives it another name a moment later. Of one that its parent has waited for already nothing
    is left to look at: it counts as one that executed a command, which was quick.
    """
    looks = 0
    while (name := _name(pid)) == STARTING or (name in LAUNCHERS and looks < MOST_LOOKS):
        if ready(0.001, pidfd):  # it may have executed a command that was quick, since its name was read
            return _name(pid) in (STARTING, *LAUNCHERS)
        looks += 1
    return False


def not_permitted(calls: str) -> LaminaError:
    """The error for one that `ended_early`; *calls* are those that a start takes after its filter was installed."""
    return LaminaError(
        "start: the process was killed before it could execute its command: by its filter of system calls "
        "(linux.seccomp), or by somebody",
        remedy=f"see that the filter permits {calls}",
    )


def _name(pid: int) -> bytes:
    """Its name, also when it is a zombie (proc_pid_comm(5)); nothing when it is gone, or not to be seen."""
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return file.read(64).rstrip(b"\n")
    except OSError:
        return b""


_MOST_RIGHTS = 4


def attend(wait: Wait, child: Child, ours: Fd, bundle: Bundle, watch: Watch | None = None) -> Fd | None:
    """Do what the child waits for at this point, and let it go on; gives the descriptor if that is what it is about.

    None when the child has ended before it came to this point, or there is nothing to give: the walk's outcome says
    why. Raises what the work itself raises, and Conflict of *watch*; then the child still waits, and is to be ended.
    """
    received: list[Fd] = []
    try:
        if HANDED_OVER[wait.kind]:
            received = receive_descriptors(ours, child, watch)
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
    elif wait.kind == NETWORK:
        if bundle.connect is None:
            raise LaminaError("start: nobody makes the container's links")
        bundle.connect(pid, received[0])
    elif wait.kind == COPY_UP:
        from lamina.runtime.copy_up import copy_up

        copy_up(received[0], received[1], pid, wait.payload)
    elif wait.kind == TAKE_MODE:
        from lamina.runtime.copy_up import take_mode

        take_mode(received[0], received[1], pid, wait.payload)
    elif wait.kind == LISTENER:
        from lamina.runtime.seccomp.listener import hand_on

        hand_on(received[0], wait.payload, pid, bundle)


def _answer(ours: Fd) -> None:
    try:
        os.write(ours, GO)
    except BrokenPipeError:  # it has ended: the outcome says why
        pass


def heard(child: Child, watch: Watch | None, descriptor: int) -> bool:
    """Wait until *descriptor* can be read, or the child has ended: whether it is the former."""
    if watch is not None:
        return descriptor in watch.ready(child.pid, child.pidfd, descriptor)
    return descriptor in ready(None, descriptor, child.pidfd)


def receive_descriptors(ours: Fd, child: Child, watch: Watch | None = None) -> list[Fd]:
    """The next descriptors that the child hands over; none when it has ended, or closed the channel, before that."""
    if not heard(child, watch, ours):
        return []
    numbers, more = receive(ours, _MOST_RIGHTS)
    received = [Fd(number) for number in numbers]
    if more:
        for fd in received:
            fd.close()
        raise LaminaError("start: the descriptors that were handed over are more than there is room for")
    return received
