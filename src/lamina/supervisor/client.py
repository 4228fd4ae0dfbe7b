"""Being attached to a container: what it writes is shown here, what is typed here it reads, until one of both ends.

The other side, and what is said, is in packets.py.
"""

from __future__ import annotations

import _socket
import os
from errno import EAGAIN, EPIPE
from select import POLLIN, POLLOUT

from lamina.document import decode, encode
from lamina.supervisor.keys import Keys
from lamina.supervisor.packets import CHUNK, LONGEST, SIZE
from lamina.supervisor.pump import Sink, Watch
from lamina.supervisor.signals import Catcher, PipeSignalBlocked
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH

    from lamina.supervisor.terminal import RawTerminal
else:
    from _signal import SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH

# signals that end us; at a terminal that is ours to leave, not the container's
_ENDING = (SIGHUP, SIGINT, SIGQUIT, SIGTERM)
# a packet and its letter fit into a chunk: the other side reads no longer ones
_TYPED = CHUNK - 1


@value
class Attached:
    """How it ended: `status` is the container's exit status, None where it goes on: the `keys` were typed, a `signal`
    came that is not for it, nobody reads any more (`broken`), or who looked after the container is gone (`lost`).
    """

    status: int | None = None
    keys: bool = False
    signal: int = 0
    broken: bool = False
    lost: bool = False


def greet(channel: int, *, stdin: bool, stdout: bool, stderr: bool, terminal: int = -1) -> None:
    """Say hello on *channel*, and how large *terminal* is (-1: there is none). Raises OSError."""
    wanted = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    os.write(channel, b"h" + encode(wanted).encode())
    if terminal >= 0:
        from lamina.supervisor.terminal import size_of

        if (size := size_of(terminal)) is not None:
            os.write(channel, b"r" + SIZE.pack(*size))


class Client:
    """Attached by *channel*, which has been greeted. The descriptors are the caller's, -1 for none of it. At a *tty*,
    the container's, *keys* are what detaches, and our own terminal is raw. With *proxy* signals are the container's.
    """

    def __init__(
        self,
        channel: int,
        stdin: int,
        stdout: int,
        stderr: int,
        *,
        tty: bool,
        keys: bytes = b"",
        proxy: bool = True,
    ) -> None:
        self.tty, self.proxy = tty, proxy
        self._channel = _socket.socket(fileno=channel)
        self._channel.setblocking(False)
        self._stdin = stdin
        self._sinks = {
            b"o": Sink(stdout) if stdout >= 0 else None,
            b"e": Sink(stderr) if stderr >= 0 else None,
        }
        self._keys = Keys(keys if tty else b"")
        self._watch = Watch()
        self._shown, self._letter = memoryview(b""), b"o"
        self._typed: list[bytes] = []
        self._end: Attached | None = None
        self._raw: RawTerminal | None = None
        self._catcher: Catcher | None = None

    def stay(self) -> Attached:
        """Until it ends. Raises OSError for output that cannot be written here."""
        blocked = PipeSignalBlocked()
        try:
            self._begin()
            while self._end is None:
                self._arm()
                self._watch.wait(None)
            return self._end
        finally:
            if self._raw is not None:
                self._raw.restore()
            if self._catcher is not None:
                self._catcher.close()
            blocked.close()
            self.close()

    def _begin(self) -> None:
        caught: tuple[int, ...] = (SIGWINCH, SIGCONT)
        if self.proxy:
            from lamina.supervisor.signals import FORWARDED

            caught = (*FORWARDED, *caught)
        elif self.tty:
            caught = (*_ENDING, *caught)
        self._catcher = Catcher(caught)
        self._watch.set(self._catcher.fd, POLLIN, self._on_signal)
        if self.tty and self._stdin >= 0 and os.isatty(self._stdin):
            from lamina.supervisor.terminal import RawTerminal

            self._raw = RawTerminal(self._stdin)
            # poll(2) may have seen what was typed and not the signal before it: that the terminal has another size
            self._watch.tell_first(self._on_signal)

    def _arm(self) -> None:
        """Say what is waited for now: neither more output than can be shown, nor more input than is taken."""
        watch, channel = self._watch, self._channel.fileno()
        for sink in self._sinks.values():
            if sink is not None:
                watch.drop(sink.fd)
        mask = POLLOUT if self._typed else 0
        if self._shown:
            sink = self._sinks[self._letter]
            assert sink is not None
            watch.set(sink.fd, POLLOUT, self._on_room)
        else:
            mask |= POLLIN
        watch.set(channel, mask, self._on_channel)
        if self._stdin >= 0:
            if self._typed:
                watch.drop(self._stdin)
            else:
                watch.set(self._stdin, POLLIN, self._on_typed)

    # -- what the container writes

    def _on_channel(self, events: int) -> None:
        if self._typed and events & POLLOUT:
            self._send()
        # its end is heard when everything before it was shown
        if self._end is None and not self._shown and events & ~POLLOUT:
            self._hear()

    def _hear(self) -> None:
        try:
            packet = self._channel.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        word, rest = packet[:1], packet[1:]
        if not packet:
            self._end = Attached(lost=True)
        elif word == b"x":
            self._end = Attached(status=int(decode(rest, "the end of a container")["status"]))
        elif self._sinks.get(word) is not None:
            self._shown, self._letter = memoryview(rest), word
            sink = self._sinks[word]
            if sink is not None and sink.unblocked:
                self._on_room(0)

    def _on_room(self, _events: int) -> None:
        sink = self._sinks[self._letter]
        assert sink is not None
        try:
            self._shown = self._shown[sink.write(self._shown) :]
        except OSError as error:
            if error.errno != EPIPE:
                raise
            self._end = Attached(broken=True)

    # -- what is typed

    def _on_typed(self, _events: int) -> None:
        try:
            data = os.read(self._stdin, _TYPED)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # such as EIO: a terminal that was hung up, or that we may not read in the background
        over = not data
        data = self._keys.rest() if over else self._keys.pass_on(data)
        for at in range(0, len(data), _TYPED):
            self._typed.append(b"i" + data[at : at + _TYPED])
        if over:
            self._typed.append(b"c")
            self._watch.drop(self._stdin)
            self._stdin = -1
        elif self._keys.pressed:
            self._watch.drop(self._stdin)
            self._stdin = -1
        self._send()
        if self._keys.pressed:  # also if the container takes nothing: who wants to leave may
            self._end = Attached(keys=True)

    def _send(self) -> None:
        while self._typed:
            try:
                self._channel.send(self._typed[0])
            except OSError as error:
                if error.errno != EAGAIN:
                    self._typed.clear()  # what became of it, is heard
                return
            del self._typed[0]

    # -- signals

    def _on_signal(self, _events: int) -> None:
        assert self._catcher is not None
        for signal in self._catcher.take():
            if signal in (SIGWINCH, SIGCONT):
                self._resize(signal == SIGCONT)
            elif self.proxy:
                self._typed.append(b"s" + bytes((signal,)))
                self._send()
            else:
                self._end = Attached(signal=signal)

    def _resize(self, continued: bool) -> None:
        if self._raw is None:
            return
        from lamina.supervisor.terminal import size_of

        if continued:  # a shell that stopped us may have changed the terminal
            self._raw.enter()
        if (size := size_of(self._stdin)) is not None:
            self._typed.append(b"r" + SIZE.pack(*size))
            self._send()

    def close(self) -> None:
        """Close what is ours; a second call does nothing."""
        self._channel.close()
        for sink in self._sinks.values():
            if sink is not None:
                sink.close()
