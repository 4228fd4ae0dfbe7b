"""Reaping the processes that this program started in containers, as soon as they have ended, whoever waits for them.

A container whose first process ends waits, in the kernel, until every other of its processes has been reaped
(pid_namespaces(7); zap_pid_ns_processes in kernel/pid_namespace.c). Those of `popen` and `exec_detached` are children
of this program: if they stayed zombies until it asks how they ended, nobody could stop the container, this program the
least. So there is a thread while there are any; it wakes when one of them ends, and gets no signal.
"""

from __future__ import annotations

import _thread
import os
from errno import EAGAIN

from lamina.errors import KernelError, LaminaError, Unsupported
from lamina.linux.descriptors import duplicate
from lamina.linux.fd import Fd, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from collections.abc import Callable
else:
    import _signal as s

_ALL = tuple({*range(1, s.NSIG)} - {32, 33})  # but for those that the C library keeps for itself (nptl(7))


class _Reaper:
    """The thread, and what it waits for."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._waiting: dict[Fd, Callable[[], object]] = {}
        self._wake: Fd | None = None  # there is one while there is a thread

    def watch(self, pidfd: int, ended: Callable[[], object]) -> None:
        """See the function."""
        with self._lock:
            if self._wake is None:
                wake = Fd(os.eventfd(0, os.EFD_CLOEXEC))
                without_signals(lambda: _thread.start_new_thread(self._run, (wake,)))
                self._wake = wake
            self._waiting[Fd(duplicate(pidfd, 3))] = ended
            os.eventfd_write(self._wake, 1)

    def _run(self, wake: Fd) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._wake = None
                    wake.close()
                    return
                waiting = [*self._waiting]
            happened = ready(None, wake, *waiting)
            if wake in happened:
                os.eventfd_read(wake)
            for pidfd in waiting:
                if int(pidfd) in happened:
                    with self._lock:
                        ended = self._waiting.pop(pidfd)
                    pidfd.close()
                    try:
                        ended()
                    except Exception:
                        pass  # the others are to be reaped all the same; who asks how this one ended is told

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to wait for, and no thread."""
        return self._wake is None


def without_signals(start: Callable[[], object]) -> None:
    """Have *start* begin a thread that gets no signal: one that arrived there would not interrupt what the main thread
    waits for. Raises KernelError where there can be none, Unsupported where Python itself does not want one.
    """
    mask = s.pthread_sigmask(s.SIG_BLOCK, _ALL)
    try:
        start()
    except RuntimeError as error:
        raise no_thread(error) from None
    finally:
        s.pthread_sigmask(s.SIG_SETMASK, mask)


def no_thread(error: RuntimeError) -> LaminaError:
    """What there is to say where Python could not begin a thread: it raises one class, whatever is in the way."""
    if str(error) == "can't start new thread":  # pthread_create(3) refused, which means this
        return KernelError("begin a thread", EAGAIN, remedy="allow this user or container more processes")
    if "interpreter shutdown" in str(error):
        return Unsupported(
            f"begin a thread: {error}",
            remedy="do it before the program ends: destructors and functions of atexit may be too late",
        )
    return Unsupported(
        f"begin a thread: {error}", remedy="do it in the main interpreter, or in a process of its own"
    )


_reaper = _Reaper()


def _begin_anew() -> None:
    """In a fork: there is no such thread, and they are not its children."""
    global _reaper
    _reaper = _Reaper()


os.register_at_fork(after_in_child=_begin_anew)


def watch(pidfd: int, ended: Callable[[], object]) -> None:
    """Have *ended* called, in a thread, when the process has ended. Nobody hears what it raises."""
    _reaper.watch(pidfd, ended)


def is_idle() -> bool:
    """Whether none is left that was to be watched."""
    return _reaper.is_idle
