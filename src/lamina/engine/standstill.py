"""A container that stands still for a moment, without being paused: nothing of it runs, nothing joins it, and whatever
becomes of us it goes on.

Others see nothing of that: it is no state, and no event. Whoever starts a process in it waits for the moment to pass,
and so does who would pause it (store/lock.py, `joining`). A process of ours, which outlives us, has the container go on
when we end before we did (runtime/swapping.py, `guard_steps`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import ENOENT
from time import monotonic

from lamina.engine.pausing import alone_with, group_of
from lamina.engine.settling import Process, state_of
from lamina.errors import Conflict, KernelError
from lamina.linux.constants import CLONE_VM
from lamina.linux.fd import Fd
from lamina.linux.process import pidfd_open
from lamina.linux.program import assemble
from lamina.runtime.cgroups import reopen
from lamina.runtime.cgroups.freezer import to_thaw
from lamina.runtime.swapping import Write, guard_steps
from lamina.store.containers import PAUSED, RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.linux.packed import Child
    from lamina.linux.program import Step
    from lamina.runtime.cgroups import Cgroup
    from lamina.store.containers import Home
    from lamina.store.lock import Lock

_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Standstill:
    """For a `with`, in which `stop` and `go_on` are called. *said* begins an error.

    Raises Conflict where it does not run, Unsupported where it is in no control group that can be frozen, NotFound,
    TimeoutExpired where it does not stop. `first` is its first process, `root` that one's root, `paused` whether it was
    paused before, and stays so.
    """

    def __init__(self, home: Home, said: str) -> None:
        self.home, self.said = home, said
        self.paused = False
        self.went_on = False
        self.began = 0.0
        self.first: Process
        self.root: Fd
        self.group: Cgroup
        self.finally_: list[Write] = []
        self._guard: Guard | None = None
        self._held: list[Fd] = []
        self._lock: Lock | None = None

    def __enter__(self) -> Standstill:
        self._lock = alone_with(self.home)
        try:
            self._find()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._guard is not None:
                self.go_on()
        finally:
            for fd in self._held:
                fd.close()
            if self._guard is not None:
                self._guard.release()
            if self._lock is not None:
                self._lock.release()

    def _find(self) -> None:
        home, said = self.home, self.said
        state = state_of(home)
        if state not in (RUNNING, PAUSED):
            raise Conflict(f"{said}: it is not running", remedy="'lamina start' starts it")
        self.paused = state == PAUSED
        record = home.read("state") or {}
        self.first = Process(record)
        if self.first.pidfd is not None:
            self._held.append(self.first.pidfd)
        self.group = self._groups(record)
        try:
            self.root = Fd(os.open(f"/proc/{self.first.pid}/root", _ROOT))
        except (FileNotFoundError, ProcessLookupError):
            raise self.has_ended() from None
        self._held.append(self.root)
        if not self.first.is_there:  # looked at after it was opened
            raise self.has_ended()

    def _groups(self, record: dict[str, object]) -> Cgroup:
        found = record.get("cgroup")
        if self.paused and found:
            return reopen(found)  # type: ignore[arg-type]
        with self.home.turn():
            return group_of(self.home, self.said)

    def has_ended(self) -> Conflict:
        """The error where its first process is gone."""
        return Conflict(f"{self.said}: it has just ended")

    def stop(self, undo: Sequence[Step] = (), held: Sequence[int] = ()) -> None:
        """Have it stand still; *undo* is done before it goes on, if we end before it does. The descriptors *held* are
        open in another process until all is over.
        """
        file, text = to_thaw(self.group)
        thaw = Fd(os.open(file, os.O_WRONLY | os.O_CLOEXEC))
        self._held.append(thaw)
        if not self.paused:
            self.finally_ = [Write(int(thaw), text)]
        assert self._lock is not None
        self._guard = Guard(undo, self.finally_, (*held, int(self.root), self._lock.fd))
        self.began = monotonic()
        if not self.paused:
            self.group.freeze()

    def go_on(self) -> None:
        """Let it go on, unless it was paused; another call does nothing."""
        if not self.went_on and not self.paused:
            try:
                self.group.thaw()
            except KernelError as error:
                if error.errno != ENOENT:  # it has ended meanwhile
                    raise
        self.went_on = True


class Guard:
    """A process that does *undo* and then *finally_* if we end, however that happens, before `release`. It has the
    descriptors *held* open until it ends, so that whatever takes long about their end is not waited for by us.
    """

    def __init__(self, undo: Sequence[Step], finally_: Sequence[Write], held: Sequence[int]) -> None:
        watch, ours = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        busy, our_work = os.pipe2(os.O_CLOEXEC)
        self._fd, self._busy = Fd(ours), Fd(our_work)
        with Fd(watch), Fd(busy), pidfd_open(os.getpid()) as we:
            steps = guard_steps(watch, busy, we, held, undo, finally_)
            self._child: Child = assemble(steps).spawn(CLONE_VM)
        with suppress(PermissionError):  # it has left our process group already
            os.setpgid(self._child.pid, 0)  # and before anything stands still

    def release(self) -> None:
        """It need not. It is reaped when it has ended, whoever waits for it."""
        try:
            os.write(self._fd, b"x")
        except BrokenPipeError:
            pass
        self._fd.close()
        self._busy.close()
        if not self._reap(os.WNOHANG):
            from lamina.engine.reaping import watch

            watch(self._child.pidfd, self._reap)

    def _reap(self, how: int = 0) -> bool:
        try:
            if os.waitid(os.P_PIDFD, self._child.pidfd, os.WEXITED | how) is None:
                return False
        except ChildProcessError:
            pass  # somebody in this program waits for any child
        self._child.settle()
        self._child.pidfd.close()
        return True
