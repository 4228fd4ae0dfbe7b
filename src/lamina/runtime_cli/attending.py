"""Staying with a process: signals are forwarded, and its terminal is joined with ours."""

from __future__ import annotations

import os

from lamina.linux.descriptors import POLLIN, POLLOUT, poll
from lamina.linux.fd import Fd, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from typing import Any
else:  # the module `signal` makes enumerations of all this, which takes longer than a container's mounts
    import _signal as s

# what is not forwarded: those that stop or end us whatever we do, and what tells of our own children and terminal
_OWN = {s.SIGKILL, s.SIGSTOP, s.SIGCHLD, s.SIGURG, s.SIGWINCH, s.SIGPIPE}
CHUNK = 1 << 16
# what a terminal holds of what was written to it and not read is less: 8 KiB in pty.c, 4 in n_tty.c
TERMINAL_HOLDS = 1 << 15


class Attendance:
    """What we do for a process in the foreground."""

    def __init__(self) -> None:
        self._master: Fd | None = None
        self._wakeup: tuple[Fd, Fd] | None = None
        self._before: Any = None
        self._typed = b""  # and not taken by the terminal so far
        self._typing = self._shown = True  # whether there is more to come at either end
        self._heard = True  # whether somebody still wants what it writes

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
        pidfd, signals = int(pidfd), int(self._wakeup[0])
        if self._master is not None:
            # a process that does not read what is typed must not keep us from reading what it writes
            os.set_blocking(self._master, False)
            self._raw()
            self._resize()
        found: dict[int, int] = {}
        while pidfd not in found:
            found = dict(poll([(pidfd, POLLIN), (signals, POLLIN), *self._wanted()], -1))
            if signals in found:
                self._forward(pidfd)
            if self._master is not None:
                self._serve(self._master, found)
        self._drain()

    def _wanted(self) -> list[tuple[int, int]]:
        """What to wait for at the two ends of the terminal."""
        wanted = []
        if self._master is not None and self._shown:
            wanted.append((int(self._master), POLLIN | (POLLOUT if self._typed else 0)))
            if self._typing and not self._typed:
                wanted.append((0, POLLIN))
        return wanted

    def _serve(self, master: Fd, found: dict[int, int]) -> None:
        """Carry what there is from one end to the other."""
        if 0 in found:
            self._typed = _read(0)
            self._typing = bool(self._typed)
        events = found.get(int(master), 0)
        if self._typed and events & POLLOUT:
            try:
                self._typed = self._typed[os.write(master, self._typed) :]
            except BlockingIOError:
                pass
            except OSError:  # nobody has the terminal open any more
                self._typed, self._typing = b"", False
        if events & ~POLLOUT:
            self._shown = self._show(master) > 0

    def _drain(self) -> None:
        """What it wrote before its end, and no more: others may have the terminal, and write for ever."""
        left = TERMINAL_HOLDS
        while self._master is not None and left > 0 and ready(0.2, self._master):
            if not (shown := self._show(self._master)):
                return
            left -= shown

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

    def _show(self, master: Fd) -> int:
        """One read's worth: how much, 0 at the end (EIO: nobody has the terminal open any more).

        When nobody reads what we write, it is dropped and the process goes on, as with runc; there it stops when its
        terminal is full.
        """
        try:
            data = os.read(master, CHUNK)
        except BlockingIOError:
            return 1
        except OSError:
            return 0
        view = memoryview(data)
        while view and self._heard:
            try:
                view = view[os.write(1, view) :]
            except BlockingIOError:  # whoever else has that file may have set O_NONBLOCK
                poll([(1, POLLOUT)], -1)
            except BrokenPipeError:
                self._heard = False
        return len(data)

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


def _read(source: int) -> bytes:
    try:
        return os.read(source, CHUNK)
    except OSError:
        return b""


def _noted(number: int, frame: object) -> None:
    """The number is in the pipe already."""
