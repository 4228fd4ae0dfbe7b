"""The user's terminal: raw while a container has it, then as it was; and its size. termios(3), ioctl_tty(2)."""

from __future__ import annotations

import fcntl
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, SIGQUIT, SIGTTOU, pthread_sigmask
    from typing import Any
else:
    from _signal import SIG_BLOCK, SIG_SETMASK, SIGINT, SIGQUIT, SIGTTOU, pthread_sigmask

TIOCGPGRP, TIOCGWINSZ, TIOCSWINSZ = 0x540F, 0x5413, 0x5414  # asm-generic/ioctls.h
_WINSIZE = struct.Struct("HHHH")


def size_of(terminal: int) -> tuple[int, int] | None:
    """(rows, columns) of a terminal, None for anything else or a terminal that does not know."""
    if terminal < 0:
        return None
    try:
        rows, columns, _, _ = _WINSIZE.unpack(fcntl.ioctl(terminal, TIOCGWINSZ, bytes(_WINSIZE.size)))
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


def copy_size(source: int, target: int) -> None:
    """Give the terminal *target* the size of *source*; the kernel tells its processes if that is another one."""
    try:
        fcntl.ioctl(target, TIOCSWINSZ, fcntl.ioctl(source, TIOCGWINSZ, bytes(_WINSIZE.size)))
    except OSError:
        pass  # a terminal that is gone, or *source* is none


class RawTerminal:
    """Puts *terminal* into raw mode, and back with `restore`."""

    def __init__(self, terminal: int) -> None:
        import termios

        self._terminal = terminal
        self._before: list[Any] = termios.tcgetattr(terminal)
        self.enter()

    def enter(self) -> None:
        """Raw mode, as cfmakeraw(3): every byte goes to the container, which has line editing and echo of its own."""
        import termios as t

        raw: list[Any] = [list(part) if isinstance(part, list) else part for part in self._before]
        raw[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
        raw[1] &= ~t.OPOST
        raw[2] = raw[2] & ~(t.CSIZE | t.PARENB) | t.CS8
        raw[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
        raw[6][t.VMIN], raw[6][t.VTIME] = 1, 0
        self._set(raw)

    def restore(self) -> None:
        """As it was found."""
        self._set(self._before)

    def _set(self, attributes: list[Any]) -> None:
        import termios

        # from the background the call would stop us, and the terminal would stay raw
        mask = pthread_sigmask(SIG_BLOCK, (SIGTTOU,))
        try:
            termios.tcsetattr(self._terminal, termios.TCSANOW, attributes)
        except termios.error:
            pass  # hung up
        finally:
            pthread_sigmask(SIG_SETMASK, mask)


def end_of_file(terminal: int) -> bytes:
    """What typing the end of input is on *terminal*: its VEOF in canonical mode, nothing in raw mode."""
    import termios

    try:
        attributes = termios.tcgetattr(terminal)
    except termios.error:
        return b""
    end: bytes = attributes[6][termios.VEOF]
    return end if attributes[3] & termios.ICANON else b""


def signals_of(terminal: int) -> list[tuple[bytes, int]]:
    """The keys that *terminal* makes a signal of that ends a process, VINTR and VQUIT with ISIG, and that signal."""
    import termios

    try:
        attributes = termios.tcgetattr(terminal)
    except termios.error:
        return []
    if not attributes[3] & termios.ISIG:
        return []
    ends = [(attributes[6][termios.VINTR], SIGINT), (attributes[6][termios.VQUIT], SIGQUIT)]
    return [(key, signal) for key, signal in ends if key != b"\0"]


def foreground_of(terminal: int) -> int:
    """The process group in the foreground of *terminal*, also where that is a master; 0 where there is none."""
    try:
        return int.from_bytes(fcntl.ioctl(terminal, TIOCGPGRP, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def is_terminal(fd: int) -> bool:
    """Whether *fd* is a terminal; False for a closed descriptor."""
    try:
        return os.isatty(fd)
    except OSError:
        return False
