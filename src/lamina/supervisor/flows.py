"""What is read of a container that lives by itself, and what is written to it: one descriptor each."""

from __future__ import annotations

import fcntl
import os
from errno import EIO
from select import POLLOUT

from lamina.linux.fd import ready
from lamina.supervisor.packets import CHUNK
from lamina.supervisor.pump import FIONREAD, TERMINAL_HOLDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.supervisor.streams import Streams

# what was written to a terminal comes through a kernel worker: seconds of silence after which there is no more
PATIENCE = 2.0


class Source:
    """A fifo or a terminal that the container writes to."""

    def __init__(self, streams: Streams, fd: int, letter: bytes) -> None:
        self.streams, self.fd, self.letter = streams, fd, letter

    def read(self, _events: int) -> None:
        """Read what there is and give it on."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != EIO:  # a terminal whose last user is gone
                raise
            data = b""
        if data:
            self.streams.give(self.letter, data)
        elif self.fd == self.streams.pty:
            self.streams.forget(self.fd)  # another may open it; and closing it would hang up on the container
        else:
            self.close()

    def drain(self) -> None:
        """Whoever wrote has ended: read what is there, and no more, whoever else still writes."""
        if self.fd < 0:
            return
        if self.fd == self.streams.pty:
            self._drain_terminal()
            return
        room = bytearray(4)
        fcntl.ioctl(self.fd, FIONREAD, room)
        left = int.from_bytes(room, "little")
        while left > 0 and (data := os.read(self.fd, min(left, CHUNK))):
            left -= len(data)
            self.streams.give(self.letter, data)

    def _drain_terminal(self) -> None:
        left = TERMINAL_HOLDS  # others that have it may write for ever
        while left > 0 and ready(PATIENCE, self.fd):
            try:
                data = os.read(self.fd, CHUNK)
            except OSError:
                return
            if not data:
                return
            left -= len(data)
            self.streams.give(self.letter, data)

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if self.fd >= 0:
            self.streams.forget(self.fd)
            fd, self.fd = self.fd, -1
            os.close(fd)


class Input:
    """What goes into the container."""

    def __init__(self, streams: Streams, fd: int) -> None:
        self.streams, self.fd = streams, fd
        self.pending = b""
        self._ending = False
        self._line_begins = True

    def arm(self) -> None:
        """Say what this waits for now."""
        watch = self.streams.watch
        if watch is None or self.fd < 0:
            return
        if self.pending:
            watch.set(self.fd, POLLOUT, self._write)
        else:
            watch.drop(self.fd)

    def add(self, data: bytes) -> None:
        """Write *data*, now or when there is room."""
        if self.fd < 0 or not data:
            return
        self.pending += data
        self._line_begins = data.endswith(b"\n")
        self._write(0)

    def end(self) -> None:
        """There is no more: a pipe is closed when everything is written, at a terminal that is typed."""
        if self.fd < 0:
            return
        if self.streams.tty:
            from lamina.supervisor.terminal import end_of_file

            # within a line the first one only hands the line over (termios(3), VEOF)
            self.add(end_of_file(self.fd) * (1 if self._line_begins else 2))
            return
        self._ending = True
        if not self.pending:
            self.close()

    def _write(self, _events: int) -> None:
        if self.fd < 0:
            return
        try:
            self.pending = self.pending[self.streams.write(self.fd, self.pending[:CHUNK]) :]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: the container closed its input; EIO: the terminal is gone
            self.pending = b""
            if not self.streams.tty:
                self.close()
        if not self.pending:
            if self._ending:
                self.close()
            self.streams.input_taken()
        self.arm()

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if self.fd >= 0:
            self.streams.forget(self.fd)
            fd, self.fd = self.fd, -1
            self.pending = b""
            os.close(fd)
