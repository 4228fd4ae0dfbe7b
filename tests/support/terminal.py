"""A terminal with a program on it: what a person would type and see."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from types import TracebackType
from typing import Any


class Terminal:
    """Runs a command as leader of a session on a pseudo terminal of its own; killed, with its group, at the end.

    >>> with Terminal(["sh"]) as terminal:
    ...     terminal.type("echo $((6 * 7))\\n")
    ...     terminal.expect("42")
    """

    def __init__(
        self,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: Any = None,
        size: tuple[int, int] = (24, 80),
    ) -> None:
        """*size* is rows and columns."""
        self.output = ""
        self.seen = 0
        self.status: int | None = None
        # the slave stays open here too, so that its settings can still be read when the program has left
        self.master, self.slave = pty.openpty()
        self.resize(*size)
        self.untouched = self.settings()  # as the program finds it, which may change it at once
        self.pid = os.fork()
        if self.pid == 0:
            self._become(argv, {**os.environ, "TERM": "xterm", **(env or {})}, cwd)

    def _become(self, argv: list[str], env: dict[str, str], cwd: Any) -> None:
        try:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            for descriptor in (0, 1, 2):
                os.dup2(self.slave, descriptor)
            os.closerange(3, 256)
            if cwd is not None:
                os.chdir(cwd)
            os.execvpe(argv[0], argv, env)
        finally:
            os._exit(127)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is None:
            for target in (-self.pid, self.pid):
                try:
                    os.kill(target, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, rows: int, columns: int) -> None:
        """As a person drags the corner of the window."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys: "\\x03" is Ctrl-C, "\\x04" Ctrl-D."""
        os.write(self.master, text.encode())

    def expect(self, pattern: str, timeout: float = 100) -> re.Match[str]:
        """Read until what came since the last expectation matches; fails with what was seen instead."""
        end = time.monotonic() + timeout
        while (found := re.compile(pattern).search(self.output, self.seen)) is None:
            if time.monotonic() > end or not self._read(end - time.monotonic()):
                raise AssertionError(f"expected {pattern!r}, saw {self.output[self.seen :]!r} after the rest")
        self.seen = found.end()
        return found

    def wait(self, timeout: float = 100) -> int:
        """Read on until the program ends; its exit status (128 + n when a signal ended it)."""
        end = time.monotonic() + timeout
        while self.status is None:
            assert time.monotonic() < end, f"still running; saw {self.output!r}"
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code
        self._read_all(end)
        return self.status

    def _read_all(self, end: float) -> None:
        """All that was written until now: the kernel hands it over in its own time, but in the order of writing."""
        mark = f"\x01the end {os.urandom(4).hex()}\x01"
        ours = os.open(f"/proc/self/fd/{self.slave}", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            left = mark.encode()
            while mark not in self.output and time.monotonic() < end:
                try:
                    left = left[os.write(ours, left) :]
                except BlockingIOError:  # there is no room, or somebody has stopped it
                    pass
                self._read(0.05)
        finally:
            os.close(ours)
        self.output = self.output.replace(mark, "")

    def settings(self) -> list[Any]:
        """The terminal's settings, for comparison: who changes them puts them back."""
        return termios.tcgetattr(self.slave)

    def _read(self, timeout: float) -> bool:
        if not select.select([self.master], [], [], max(0.0, timeout))[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError as error:
            if error.errno == errno.EIO:
                return False
            raise
        self.output += data.decode(errors="replace")
        return True


def lamina(*arguments: str) -> list[str]:
    """The command line of the `lamina` under test."""
    return [sys.executable, "-m", "lamina", *arguments]
