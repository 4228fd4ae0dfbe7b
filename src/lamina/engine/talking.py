"""Handing input to a process and reading what it writes, both at once: what `Process.communicate` does.

Time may run out in the middle: everything that is known is kept here, and a later call goes on with it.
"""

from __future__ import annotations

import os
from time import monotonic

from lamina.linux.descriptors import POLLIN, POLLOUT, poll
from lamina.supervisor.signals import PipeSignalBlocked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

CHUNK = 1 << 16


class Talk:
    """What was handed over and what came so far."""

    def __init__(
        self,
        stdin: IO[Any] | None,
        stdout: IO[Any] | None,
        stderr: IO[Any] | None,
        input: bytes | str | None,
        encoding: tuple[str, str] | None,
    ) -> None:
        self._stdin, self._encoding = stdin, encoding
        self._files: list[IO[Any] | None] = [stdout, stderr]
        self._chunks: list[list[bytes] | None] = [None if file is None else [] for file in self._files]
        if stdin is None:
            if input:
                raise ValueError("communicate: input is given, but its standard input is not a pipe")
            self._left = memoryview(b"")
            return
        try:
            stdin.flush()  # what somebody wrote before
        except BrokenPipeError:
            pass
        name, errors = encoding or ("utf-8", "strict")
        data = input.encode(name, errors) if isinstance(input, str) else input
        self._left = memoryview(data or b"")
        if not self._left:
            self._close_stdin()

    def go_on(self, deadline: float | None) -> bool:
        """Talk until all that it wrote was read, or until *deadline* (of `time.monotonic`); whether all was."""
        writing = self._stdin is not None and not self._stdin.closed
        if writing:
            assert self._stdin is not None
            os.set_blocking(self._stdin.fileno(), False)  # our end's flag alone
        blocked = PipeSignalBlocked()
        try:
            while wanted := self._wanted():
                left = -1 if deadline is None else max(0, int((deadline - monotonic()) * 1000 + 0.999))
                happened = poll(list(wanted), left)
                if not happened and deadline is not None and monotonic() >= deadline:
                    return False
                for fd, _ in happened:
                    self._do(fd)
        finally:
            blocked.close()
            if writing and self._stdin is not None and not self._stdin.closed:
                os.set_blocking(self._stdin.fileno(), True)
        return True

    def _wanted(self) -> list[tuple[int, int]]:
        wanted = [(file.fileno(), POLLIN) for file in self._files if file is not None and not file.closed]
        if self._stdin is not None and not self._stdin.closed:
            wanted.append((self._stdin.fileno(), POLLOUT))
        return wanted

    def _do(self, fd: int) -> None:
        if self._stdin is not None and not self._stdin.closed and self._stdin.fileno() == fd:
            self._write(fd)
            return
        for file, chunks in zip(self._files, self._chunks, strict=True):
            if file is not None and chunks is not None and not file.closed and file.fileno() == fd:
                data = os.read(fd, CHUNK)
                if data:
                    chunks.append(data)
                else:
                    file.close()

    def _write(self, fd: int) -> None:
        try:
            self._left = self._left[os.write(fd, self._left[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more: what it does about that is its own business
            self._left = memoryview(b"")
        if not self._left:
            self._close_stdin()

    def _close_stdin(self) -> None:
        assert self._stdin is not None
        try:
            self._stdin.close()
        except BrokenPipeError:
            pass

    def so_far(self) -> tuple[Any, Any]:
        """What came until now. Text may have been cut within a character: what is left of that is shown as such."""
        return self._given("replace")

    def result(self) -> tuple[Any, Any]:
        """What came. Raises UnicodeDecodeError."""
        return self._given("")

    def _given(self, errors: str) -> tuple[Any, Any]:
        out, err = (None if chunks is None else b"".join(chunks) for chunks in self._chunks)
        if self._encoding is None:
            return out, err
        from lamina.engine.parameters import decoded

        name, usual = self._encoding
        return decoded(out, name, errors or usual), decoded(err, name, errors or usual)
