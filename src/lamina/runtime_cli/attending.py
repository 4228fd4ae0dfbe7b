"""Staying with a process: signals are forwarded, and its terminal is joined with ours."""

from __future__ import annotations

import os
import select

from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from typing import Any
else:  # the module `signal` makes enumerations of all this, which takes longer than a container's mounts
    import _signal as s

# what is not forwarded: those that stop or end us whatever we do, and what tells of our own children and terminal
_OWN = {s.SIGKILL, s.SIGSTOP, s.SIGCHLD, s.SIGURG, s.SIGWINCH, s.SIGPIPE}
CHUNK = 1 << 16


class Attendance:
    """What we do for a process in the foreground."""

    def __init__(self) -> None:
        self._master: Fd | None = None
        self._wakeup: tuple[Fd, Fd] | None = None
        self._before: Any = None

    def take(self, master: Fd) -> None:
        """The process's terminal is ours to serve."""
        self._master = master

    def catch_signals(self, pidfd: int) -> None:
        """From now on every signal that can be is for the process."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = (Fd(reader), Fd(writer))
        s.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in s.valid_signals():
            if number not in _OWN and s.getsignal(number) != s.SIG_IGN:
                try:
                    s.signal(number, _noted)
                except OSError:
                    pass  # the C library's own
        s.signal(s.SIGWINCH, _noted)

    def stay(self, pidfd: int) -> None:
        """Until the process has ended, and everything it wrote to its terminal is written here."""
        assert self._wakeup is not None
        if self._master is not None:
            self._raw()
            self._resize()
        watched = [int(pidfd), int(self._wakeup[0])]
        if self._master is not None:
            watched += [int(self._master), 0]
        while int(pidfd) in watched:
            ready = select.select(watched, [], [])[0]
            if int(self._wakeup[0]) in ready:
                self._forward(pidfd)
            if self._master is not None and int(self._master) in ready and not self._copy(self._master, 1):
                watched.remove(int(self._master))
            if 0 in ready and self._master is not None and not self._copy(0, self._master):
                watched.remove(0)
            if int(pidfd) in ready:
                watched.remove(int(pidfd))
        self._drain()

    def _drain(self) -> None:
        while self._master is not None and select.select([int(self._master)], [], [], 0.2)[0]:
            if not self._copy(self._master, 1):
                return

    def _forward(self, pidfd: int) -> None:
        assert self._wakeup is not None
        for number in os.read(self._wakeup[0], 512):
            if number == s.SIGWINCH:
                self._resize()
                continue
            try:
                s.pidfd_send_signal(pidfd, number)
            except OSError:
                pass

    @staticmethod
    def _copy(source: int, target: int) -> bool:
        """One read's worth; False at the end (EIO: nobody has the terminal open any more)."""
        try:
            data = os.read(source, CHUNK)
        except OSError:
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        return bool(data)

    def _raw(self) -> None:
        if not os.isatty(0):
            return
        import termios
        import tty

        self._before = termios.tcgetattr(0)
        tty.setraw(0)

    def _resize(self) -> None:
        if self._master is None or not os.isatty(0):
            return
        import fcntl
        import termios

        size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        """The terminal as it was."""
        if self._before is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
            self._before = None


def _noted(number: int, frame: object) -> None:
    """The number is in the pipe already."""
