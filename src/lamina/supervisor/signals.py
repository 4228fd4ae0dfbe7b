"""Signals on their way to a container.

The kernel protects the first process of a pid namespace: a signal whose action is the default does nothing to it, not
even SIGTERM (pid_namespaces(7)). A user who presses Ctrl-C expects what would happen to an ordinary process, so where
a container's first process neither handles nor ignores nor blocks a terminating signal, we carry its default out.
"""

from __future__ import annotations

import os

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from typing import Any, Protocol

    class Process(Protocol):
        """Who gets the signals: `lamina.runtime.launch.Running`, or a test's double."""

        pid: int

        def kill(self, signal: int) -> None: ...

else:  # the module `signal` makes enumerations of all this, which takes longer than a container's mounts
    import _signal as s

FORWARDED = (s.SIGHUP, s.SIGINT, s.SIGQUIT, s.SIGTERM, s.SIGUSR1, s.SIGUSR2, s.SIGALRM, s.SIGPWR, s.SIGIO)
# signal(7): those whose default is to end the process; of the rest none is worth an own end
_DEFAULT_ENDS = frozenset(FORWARDED)


# but for those that the C library keeps for itself (nptl(7))
_ALL = tuple({*range(1, s.NSIG)} - {32, 33})

# what becomes of a signal that is sent to a process
HANDLED, BLOCKED, PENDING, DEFAULT, GONE = "handled", "blocked", "pending", "default", "gone"


def standing(pid: int, signal: int) -> str:
    """What process *pid* would do about *signal*: HANDLED (or ignored), BLOCKED, PENDING (blocked, and one waits
    already), DEFAULT, or GONE where there is no such process. proc_pid_status(5)
    """
    masks = {}
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
            for line in status.readall().splitlines():  # whose groups come first, and may be many
                if line.startswith((b"Sig", b"ShdPnd")):
                    key, _, number = line.partition(b":")
                    masks[key] = key != b"SigQ" and int(number, 16) >> (signal - 1) & 1
    except OSError:
        return GONE
    if masks.get(b"SigIgn") or masks.get(b"SigCgt"):
        return HANDLED
    if masks.get(b"ShdPnd") or masks.get(b"SigPnd"):
        return PENDING
    return BLOCKED if masks.get(b"SigBlk") else DEFAULT


def _is_first_and_alone(pid: int) -> bool:
    """Whether *pid* is the first process of a pid namespace and has no children. proc_tid_children(5)"""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
            found = [line.split() for line in status.read(8192).splitlines() if line.startswith(b"NSpid:")]
        if not found or len(found[0]) < 3 or found[0][-1] != b"1":
            return False
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as children:
                if children.read(1):
                    return False
    except OSError:  # it has ended, or this kernel does not tell (CONFIG_PROC_CHILDREN)
        return False
    return True


class Deliverer:
    """Sends signals to a container's first process, and carries out the default action where nobody else does.

    A signal that is blocked is either waited for (sigwait, signalfd), or held back for a moment, as shells do while
    they fork; then the kernel drops it when it is let through. Which of the two it was shows afterwards, so as long
    as `unsure`, call `look_again` now and then. `carried_out` is the signal whose default action was ours.

    One that comes while a program with a handler executes another (`sh -c "...; exec ..."`) is lost: execve(2) takes
    the handler away, and the kernel drops what is pending, or sent a moment later. Afterwards that looks as if the
    handler had run, and had executed what is there; who does so must not be killed. The next signal is not lost.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.unsure: set[int] = set()
        self.carried_out: int | None = None

    def send(self, signal: int) -> None:
        """Send *signal*, or do what it would have done."""
        if signal not in _DEFAULT_ENDS:
            self._process.kill(signal)
            return
        found = standing(self._process.pid, signal)
        if found != DEFAULT:
            self._process.kill(signal)
        self._see_to(signal, found)

    def _see_to(self, signal: int, found: str) -> None:
        if found == DEFAULT:
            self._end(signal)
        elif found in (BLOCKED, PENDING):
            self.unsure.add(signal)

    def type(self, terminal: int, keys: bytes | memoryview) -> int:
        """Write *keys* to the container's *terminal* (its master), which by itself sends what Ctrl-C and Ctrl-\\ stand
        for to the group in its foreground, and do what that would have done to a first process that is spared it. How
        many were written; raises what os.write raises.

        Where it has children one of them has got the signal, and would be killed with it: a shell that waits for such a
        child ends by itself, when that has done what it does about the signal.
        """
        from lamina.supervisor.terminal import foreground_of, signals_of

        pid, keys = self._process.pid, bytes(keys)
        pressed = [(key, signal) for key, signal in signals_of(terminal) if key in keys]
        if pressed and not (foreground_of(terminal) == pid and _is_first_and_alone(pid)):
            pressed = []
        # before: who handles it may be done with that, and with its handlers, when the write returns
        found = [(key, signal, standing(pid, signal)) for key, signal in pressed]
        count = os.write(terminal, keys)
        for key, signal, what in found:
            if key in keys[:count]:
                self._see_to(signal, what)
        return count

    def look_again(self) -> None:
        """See what became of signals that were blocked."""
        for signal in tuple(self.unsure):
            found = standing(self._process.pid, signal)
            if found == PENDING:
                continue
            self.unsure.discard(signal)
            if found == DEFAULT:  # it was let through, and dropped
                self._end(signal)

    def _end(self, signal: int) -> None:
        self.unsure.clear()
        self.carried_out = signal
        self._process.kill(s.SIGKILL)


class Catcher:
    """Catches the signals that are to be forwarded while it is open; `fd` becomes readable when one arrives.

    Only for the main thread, and only where the caller asked for it: the handlers of the process are replaced, and put
    back by `close`. A signal that the caller ignores (nohup, a background job of a shell) stays ignored.
    """

    def __init__(self, signals: tuple[int, ...] = (*FORWARDED, s.SIGWINCH, s.SIGCONT)) -> None:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: list[tuple[int, Any]] = []
        try:
            self._wakeup = s.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        except ValueError:
            os.close(self.fd)
            os.close(self._writer)
            raise InvalidInput("run: forward_signals works in the main thread only") from None
        try:
            if (
                s.getsignal(s.SIGCHLD) == s.SIG_IGN
            ):  # inherited: no child would leave an exit status behind (wait(2))
                self._before.append((s.SIGCHLD, s.signal(s.SIGCHLD, s.SIG_DFL)))
            for signal in signals:
                before = s.getsignal(signal)
                # None: a handler that was not made by Python, and could not be put back
                if before is not None and before != s.SIG_IGN:
                    self._before.append((signal, s.signal(signal, _noted)))
        except BaseException:
            self.close()
            raise

    def take(self) -> bytes:
        """The numbers of the signals that arrived, one byte each."""
        try:
            return os.read(self.fd, 512)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Everything as it was before."""
        for signal, before in self._before:
            s.signal(signal, before)
        self._before.clear()
        if self._writer >= 0:
            s.set_wakeup_fd(self._wakeup)
            os.close(self.fd)
            os.close(self._writer)
            self._writer = -1


def _noted(number: int, frame: object) -> None:
    """The number is in the pipe already."""


class Undisturbed:
    """While open, handlers of Python's that could raise something wait: what is begun is noted before that.

    Handlers run in the main thread, whichever thread the kernel gives a signal to, so blocking signals would not do.
    In other threads there is nothing to wait for. Signals that end this process still do.
    """

    def __init__(self) -> None:
        self._before: list[tuple[int, Any]] = []
        self._arrived: list[tuple[int, Any]] = []

    def __enter__(self) -> None:
        try:
            for number in _ALL:
                handler = s.getsignal(number)
                if callable(handler) and handler is not _noted:
                    self._before.append((number, handler))
                    s.signal(number, self._wait)
        except BaseException as error:
            if any(s.getsignal(number) == self._wait for number, _ in self._before):
                self._restore()  # a handler raised while there were some left to be replaced
                raise
            self._before.clear()
            if not isinstance(error, ValueError):  # which says that this is not the main thread
                raise

    def _wait(self, number: int, frame: object) -> None:
        self._arrived += [(number, handler) for known, handler in self._before if known == number]

    def __exit__(self, *_: object) -> None:
        try:
            self._restore()
        finally:
            self._carry_out()

    def _restore(self) -> None:
        try:
            while self._before:
                s.signal(*self._before[-1])
                self._before.pop()
        except BaseException:  # of a handler that is back already
            self._restore()
            raise

    def _carry_out(self) -> None:
        """Call the handlers that waited, each of them even if one raises."""
        if self._arrived:
            number, handler = self._arrived.pop(0)
            try:
                handler(number, None)
            finally:
                self._carry_out()


class PipeSignalBlocked:
    """While open, writing to a closed pipe is an error of the write, also in a program that lets SIGPIPE kill it."""

    def __init__(self) -> None:
        self._mask = None
        if s.getsignal(s.SIGPIPE) == s.SIG_DFL:
            self._mask = s.pthread_sigmask(s.SIG_BLOCK, (s.SIGPIPE,))

    def close(self) -> None:
        """Take back what is pending, and the mask as it was."""
        if self._mask is None:
            return
        if s.SIGPIPE not in self._mask:
            while s.sigtimedwait((s.SIGPIPE,), 0) is not None:
                pass
        s.pthread_sigmask(s.SIG_SETMASK, self._mask)
        self._mask = None
