"""Which descriptors a container gets, and what is pumped between them and the caller's.

A file or terminal of the caller is never handed in: through /proc/self/fd a container could open it anew, with other
rights, or change its mode; a fifo is such a file. There is a pipe between. Pipes and sockets go in as they are,
unless what passes must be logged or captured. Nor is the host's null device, whose mode a container could change too:
it gets its own, of which there is nothing but the word NULL before the start.
"""

from __future__ import annotations

import os
from stat import S_ISCHR, S_ISFIFO, S_ISSOCK

from lamina.linux.descriptors import F_DUPFD_CLOEXEC, fcntl
from lamina.linux.fd import CLOSED, Fd, owned, pipe
from lamina.runtime.bundle import NULL
from lamina.supervisor.pump import Drain, Feed, Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.supervisor.keys import Keys
    from lamina.supervisor.logs import Writer

# as in subprocess, with the same numbers; None inherits
PIPE, STDOUT, DEVNULL = -1, -2, -3
F_GETFD, FD_CLOEXEC = 1, 1  # asm-generic/fcntl.h


class Stdio:
    """What was asked for the three standard streams, made ready.

    `child` are the descriptors for the container (NULL: its null device), valid until `started` is called. `captured`
    holds what was collected from output and error, None for what was not. `terminal` is the caller's terminal for a
    container with one, -1 else. `keys` are those that detach from it.
    """

    def __init__(
        self,
        stdin: int | None,
        stdout: int | None,
        stderr: int | None,
        *,
        data: bytes | None = None,
        log: Writer | None = None,
        tty: bool = False,
        keys: Keys | None = None,
    ) -> None:
        self.feed: Feed | None = None
        self.drains: list[Drain] = []
        self.terminal = -1
        self.child: tuple[int, int, int] = (NULL, NULL, NULL)
        self._owned: list[Fd] = []
        self._copies: set[int] = set()
        self._chunks: dict[int, list[bytes]] = {}
        self._log, self._tty = log, tty
        self.keys = keys
        self._asked = (stdin, stdout, stderr, data)
        try:
            if not tty:
                out = self._output(1, stdout)
                self.child = (self._input(stdin, data), out, self._error(stderr, out))
        except BaseException:
            self.close()
            raise

    # -- before the start

    def _input(self, asked: int | None, data: bytes | None) -> int:
        if data is not None or asked == PIPE:
            reader, writer = self._pipe()
            self._fill(writer, -1, data or b"")
            return reader
        source = self._given(0, asked)
        if source < 0:
            return NULL
        if _may_go_in(source):
            return self._lend(source)
        reader, writer = self._pipe()
        self._fill(writer, source, b"")
        return reader

    def _output(self, number: int, asked: int | None) -> int:
        if asked == PIPE:
            return self._collect(number, -1)
        sink = self._given(number, asked)
        if sink < 0 and self._log is None:
            return NULL
        if sink >= 0 and self._log is None and _may_go_in(sink):
            return self._lend(sink)
        return self._collect(number, sink)

    def _error(self, asked: int | None, out: int) -> int:
        if asked == STDOUT:
            return out
        stdout = self._asked[1]
        # the same terminal or file for both: one pipe keeps the order of what is written to them
        if self._log is None and asked != PIPE and stdout != PIPE and len(self.drains) == 1:
            first, second = self._given(1, stdout), self._given(2, asked)
            if first >= 0 and second >= 0 and os.path.sameopenfile(first, second):
                return out
        return self._output(2, asked)

    def _collect(self, number: int, sink: int) -> int:
        reader, writer = self._pipe()
        self._drain(reader, number, sink, self._asked[number] == PIPE)
        return writer

    def _drain(self, source: Fd, number: int, sink: int, capture: bool) -> None:
        """Pump from *source* (ours) to *sink* (the caller's, -1 for nowhere), the log, and into memory."""
        chunks: list[bytes] | None = None
        if capture:
            chunks = self._chunks[number] = []
        consumer = Sink(sink) if sink >= 0 else None
        stream = b"e" if number == 2 else b"o"
        try:
            drain = Drain(source, sink=consumer, chunks=chunks, log=self._log, stream=stream, hold=self._tty)
        except BaseException:
            if consumer is not None:
                consumer.close()
            raise
        self.drains.append(drain)
        self._owned.remove(source)

    def _fill(
        self, target: Fd, source: int, data: bytes, end_of_file: Callable[[int], bytes] | None = None
    ) -> None:
        """Pump from *data* or a copy of the caller's *source* (-1 for none) to *target* (ours)."""
        copy = self._own(_copy(source)) if source >= 0 else CLOSED
        keys = self.keys if end_of_file is not None else None
        self.feed = Feed(target, data=data, source=copy, end_of_file=end_of_file, keys=keys)
        self._owned.remove(target)
        if copy >= 0:
            self._owned.remove(copy)

    def _given(self, number: int, asked: int | None) -> int:
        """What is to be the stream *number*: *asked*, or the caller's own, as of `_open`.

        One of the caller's own that is close-on-exec is none. Where a program was started without, the next file that
        is opened has its number, a lock of ours perhaps, or the other end of a pipe that is made here.
        """
        if asked is not None:
            return self._open(asked)
        try:
            return -1 if fcntl(number, F_GETFD) & FD_CLOEXEC else self._open(number)
        except OSError:
            return -1

    def _open(self, fd: int) -> int:
        """*fd*, or -1 for the null device and a descriptor that is closed."""
        if fd == DEVNULL:
            return -1
        try:
            found = os.fstat(fd)
        except OSError:
            return -1
        return -1 if S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3) else fd

    def _pipe(self) -> tuple[Fd, Fd]:
        reader, writer = pipe()
        if min(reader, writer) > 2:
            return self._own(reader), self._own(writer)
        return self._own(_copy(reader)), self._own(_copy(writer))

    def _lend(self, fd: int) -> int:
        """The caller's own goes in."""
        copy = self._own(_copy(fd))
        self._copies.add(copy)
        return copy

    def _own(self, fd: Fd) -> Fd:
        self._owned.append(fd)
        return fd

    def give_to(self, uid: int) -> None:
        """Let the container's user *uid*, of this machine, open /dev/stdout and the like by name: the pipes become his,
        the caller's as well (runc does so). Where we may not, or cannot say who he is (-1), ours are opened for
        everybody: they have no name here.
        """
        for fd in set(self.child) - {NULL}:
            try:
                if uid < 0:
                    raise PermissionError
                os.fchown(fd, uid, -1)
            except OSError:
                if fd in self._owned and fd not in self._copies:
                    os.fchmod(fd, 0o666)

    # -- after the start

    def started(self, pty: int | None) -> None:
        """The container runs and has its descriptors: ours of them are closed. *pty* is the terminal's master."""
        self._close_owned()
        if not self._tty or pty is None:
            return
        from lamina.supervisor.terminal import end_of_file, is_terminal

        stdin, stdout, _, data = self._asked
        capture = stdout == PIPE
        sink = -1 if capture else self._given(1, stdout)
        self._drain(self._own(_copy(pty)), 1, sink, capture)
        source = -1 if data is not None or stdin == PIPE else self._given(0, stdin)
        if source >= 0 and is_terminal(source):
            self.terminal = source
        if data is not None or source >= 0:
            self._fill(self._own(_copy(pty)), source, data or b"", end_of_file)

    def captured(self, number: int) -> bytes | None:
        """What was collected from stream *number* (1 or 2) so far, None if it was not asked for."""
        chunks = self._chunks.get(number)
        return None if chunks is None else b"".join(chunks)

    def close(self) -> None:
        """Close every descriptor of ours; a second call does nothing."""
        self._close_owned()
        if self.feed is not None:
            self.feed.close()
        for drain in self.drains:
            drain.close()

    def _close_owned(self) -> None:
        while self._owned:  # none is closed twice, also where a Ctrl-C comes between two
            self._owned.pop().close()


def _may_go_in(fd: int) -> bool:
    """Whether there is nothing of the host behind *fd*: a socket, or a pipe; a fifo has a name, a mode and an owner."""
    mode = os.fstat(fd).st_mode
    return S_ISSOCK(mode) or (S_ISFIFO(mode) and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:["))


def _copy(fd: int) -> Fd:
    """A copy above the standard descriptors, of which nobody else has the number."""
    return owned(fcntl, fd, F_DUPFD_CLOEXEC, 3)
