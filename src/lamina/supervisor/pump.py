"""Moving bytes between the caller's descriptors and a container's, in one thread, without blocking on either.

The caller's descriptors are never made non-blocking: that flag belongs to the open file, which other programs (the
shell, say) share. Where possible the same pipe or terminal is opened once more, with the flag; elsewhere as much is
written at once as poll(2) has promised room for.
"""

from __future__ import annotations

import os
from errno import EIO, EPIPE
from stat import S_ISCHR, S_ISFIFO, S_ISREG

from lamina.linux.descriptors import F_DUPFD_CLOEXEC, POLLERR, POLLHUP, POLLIN, POLLOUT, fcntl, poll
from lamina.linux.fd import CLOSED, INFINITE, Fd, owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.supervisor.keys import Keys
    from lamina.supervisor.logs import Writer

CHUNK = 1 << 16
# what a terminal holds of what was written to it and not read is less: 8 KiB in pty.c, 4 in n_tty.c
TERMINAL_HOLDS = 1 << 15
FIONREAD = 0x541B  # asm-generic/ioctls.h
PTMX = os.makedev(5, 2)
# pipe(7): poll promises room for PIPE_BUF bytes
PROMISED = 4096


class Watch:
    """Descriptors, what each is waited for, and whom to tell. A number is watched for one purpose at a time."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._first: Callable[[int], None] | None = None

    def set(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Wait for *mask* (0: for errors only) on *fd*, instead of what was said before."""
        self._masks[fd] = mask
        self._handlers[fd] = handler

    def drop(self, fd: int) -> None:
        """Forget *fd*; to be called before it is closed."""
        if self._masks.pop(fd, None) is not None:
            del self._handlers[fd]

    def tell_first(self, handler: Callable[[int], None]) -> None:
        """Whatever happens to whom, call *handler* before, with 0 for events: it looks itself."""
        self._first = handler

    def wait(self, seconds: float | None) -> bool:
        """Tell whoever waits what happened, for up to *seconds* (None: for ever); whether anything did."""
        milliseconds = -1 if seconds is None or seconds == INFINITE else max(0, int(seconds * 1000 + 0.999))
        happened = poll([*self._masks.items()], milliseconds)
        if happened and self._first is not None:
            self._first(0)
        for fd, events in happened:
            handler = self._handlers.get(fd)
            if handler is not None:  # else dropped by one that was told before
                handler(events)
        return bool(happened)


class Sink:
    """A descriptor of the caller to write to: our own copy of it, so that its number is ours alone."""

    def __init__(self, fd: int) -> None:
        status = os.fstat(fd)
        mode = status.st_mode
        self.unblocked = S_ISREG(mode)  # which never blocks for long
        self.fd = CLOSED
        # opening the master of a terminal once more makes another terminal (pts(4))
        if S_ISFIFO(mode) or (S_ISCHR(mode) and status.st_rdev != PTMX and os.isatty(fd)):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            try:
                self.fd = owned(os.open, b"/proc/self/fd/%d" % fd, flags)
                self.unblocked = True
            except OSError:
                pass  # another user's, or its reader is gone
        if self.fd < 0:
            self.fd = owned(fcntl, fd, F_DUPFD_CLOEXEC, 3)

    def write(self, data: memoryview) -> int:
        """Write what can be written without waiting; unless `unblocked` only after poll(2)."""
        try:
            return os.write(self.fd, data if self.unblocked else data[:PROMISED])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close our copy; a second call does nothing."""
        self.fd.close()
        self.fd = CLOSED


class Drain:
    """From a container's output *source* (ours from now on) to the log, and to a sink or into memory.

    A consumer that goes away closes the pipe, so that the container's next write fails as in any pipeline. With a
    terminal (*hold*) what comes later is read and dropped: closing it would hang up on the container.
    """

    def __init__(
        self,
        source: Fd,
        *,
        sink: Sink | None = None,
        chunks: list[bytes] | None = None,
        log: Writer | None = None,
        stream: bytes = b"o",
        hold: bool = False,
    ) -> None:
        os.set_blocking(source, False)
        self.source, self.sink, self.chunks = source, sink, chunks
        self.log, self.stream, self.hold = log, stream, hold
        self.error: OSError | None = None
        self.pending = memoryview(b"")
        self._left: int | None = None

    def arm(self, watch: Watch) -> None:
        """Say what this waits for now."""
        self._watch = watch
        if self.pending and self.sink is not None:
            if self.source >= 0:
                watch.drop(self.source)
            watch.set(self.sink.fd, POLLOUT, self._flush)
            return
        if self.sink is not None:
            watch.drop(self.sink.fd)
        if self.source >= 0:
            watch.set(self.source, POLLIN, self._read)

    def _read(self, _events: int) -> None:
        try:
            data = os.read(self.source, CHUNK if self._left is None else min(CHUNK, self._left))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != EIO:  # a terminal whose last user is gone
                raise
            data = b""
        if not data:
            self.close_source()
            return
        if self._left is not None:
            self._left -= len(data)
            if not self._left:
                self.close_source()
        if self.log is not None:
            self.log.write(self.stream, data)
        if self.chunks is not None:
            self.chunks.append(data)
        if self.sink is not None:
            self.pending = memoryview(data)
            if self.sink.unblocked:
                self._flush(0)
            else:
                self.arm(self._watch)

    def _flush(self, _events: int) -> None:
        if self.sink is None:
            return
        try:
            self.pending = self.pending[self.sink.write(self.pending) :]
        except OSError as error:
            if error.errno != EPIPE:
                self.error = error
            self.drop_consumer()
            return
        self.arm(self._watch)

    def finish(self) -> None:
        """Whoever is to be heard has ended: only what is in there is read, whoever else still writes to it. How much
        that is a terminal does not say, as it comes through a kernel worker; there is a most.
        """
        if self.source >= 0 and self.hold:
            self._left = TERMINAL_HOLDS
        elif self.source >= 0:
            from fcntl import ioctl

            room = bytearray(4)
            ioctl(self.source, FIONREAD, room)
            self._left = int.from_bytes(room, "little")
            if not self._left:
                self.close_source()

    def drop_consumer(self) -> None:
        """The consumer is gone, or nobody waits for it any more."""
        if self.sink is not None:
            self._watch.drop(self.sink.fd)
            self.sink.close()
            self.sink, self.pending = None, memoryview(b"")
        if self.hold:
            self.arm(self._watch)
        else:
            self.close_source()

    def close_source(self) -> None:
        """Nothing more is read; a second call does nothing."""
        if self.source >= 0:
            self._watch.drop(self.source)
            source, self.source = self.source, CLOSED
            source.close()

    def close(self) -> None:
        """Close everything, when nobody watches any more."""
        self.source.close()
        self.source = CLOSED
        if self.sink is not None:
            self.sink.close()


class Feed:
    """From *data*, or the caller's descriptor *source* (a copy, ours), to a container's input *target* (ours too).

    At the end of the source a pipe is closed; to a *terminal* the end of input is typed, and it stays open. When the
    container closes its end, nothing more is read from the caller; nor when the detach *keys* were typed. `take` is
    how the source is read, when it was said to be readable; `write` how the target is written to.
    """

    def __init__(
        self,
        target: Fd,
        *,
        data: bytes = b"",
        source: Fd = CLOSED,
        end_of_file: Callable[[int], bytes] | None = None,
        keys: Keys | None = None,
    ) -> None:
        os.set_blocking(target, False)
        self.target, self.source, self.end_of_file = target, source, end_of_file
        self.keys = keys
        self.take: Callable[[int, int], bytes] = os.read
        self.write: Callable[[int, memoryview], int] = os.write
        self.pending = memoryview(data)
        self._line_begins = True

    def arm(self, watch: Watch) -> None:
        """Say what this waits for now."""
        self._watch = watch
        if self.target < 0:
            return
        if self.pending:
            if self.source >= 0:
                watch.drop(self.source)
            watch.set(self.target, POLLOUT, self._write)
        elif self.source >= 0:
            watch.set(self.source, POLLIN, self._read)
            if self.end_of_file is None:
                watch.set(self.target, 0, self._write)
            else:
                watch.drop(self.target)  # a terminal that nobody has open would wake us again and again
        elif self.end_of_file is None:
            self.finish()
        else:
            watch.drop(self.target)

    def _read(self, _events: int) -> None:
        try:
            data = self.take(self.source, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # such as EIO: a terminal that was hung up, or that we may not read in the background
        over, pressed = not data, False
        if self.keys is not None:
            data = self.keys.rest() if over else self.keys.pass_on(data)
            pressed = self.keys.pressed
        if data:
            self._line_begins = data.endswith(b"\n")
        if over or pressed:
            self._close_source()
            if self.end_of_file is not None and not pressed:
                # within a line the first one only hands the line over (termios(3), VEOF)
                data += self.end_of_file(self.target) * (1 if self._line_begins else 2)
        self.pending = memoryview(data)
        self._write(0)

    def _write(self, events: int) -> None:
        if self.target >= 0 and self.pending:
            try:
                self.pending = self.pending[self.write(self.target, self.pending[:CHUNK]) :]
            except BlockingIOError:
                pass
            except OSError:  # EPIPE: the container closed its input; EIO: the terminal is gone
                self.finish()
                return
        elif events & (POLLERR | POLLHUP):
            self.finish()
            return
        self.arm(self._watch)

    def finish(self) -> None:
        """Nothing more is fed; a second call does nothing."""
        self._close_source()
        if self.target >= 0:
            self._watch.drop(self.target)
            target, self.target = self.target, CLOSED
            target.close()

    def _close_source(self) -> None:
        if self.source >= 0:
            self._watch.drop(self.source)
            source, self.source = self.source, CLOSED
            source.close()

    def close(self) -> None:
        """Close everything, when nobody watches any more."""
        for fd in (self.source, self.target):
            fd.close()
        self.source = self.target = CLOSED
