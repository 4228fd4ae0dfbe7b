"""Those who have attached to a container, as its supervisor sees them."""

from __future__ import annotations

import _socket
import fcntl
import os
import struct
from select import POLLIN, POLLOUT

from lamina.document import decode
from lamina.errors import InvalidInput
from lamina.supervisor.packets import LONGEST, SIZE
from lamina.supervisor.terminal import TIOCSWINSZ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.supervisor.streams import Streams

# packets that are read of one at once
TURN = 16
NSIG = 65  # signal(7), SIGRTMAX + 1


class Guest:
    """Somebody who has attached. `wanted` are the letters of what is sent to him, `pending` what he has not taken yet;
    `has_input`: he is who types.
    """

    def __init__(self, streams: Streams, fd: int) -> None:
        self.streams, self.fd = streams, fd
        self._socket = _socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self.wanted: tuple[bytes, ...] = ()
        self.has_input = False
        self.pending: list[bytes] = []
        self.size = b""

    def arm(self) -> None:
        """Say what this waits for now."""
        watch = self.streams.watch
        if watch is None or self.fd < 0:
            return
        mask = (POLLIN if self.streams.takes_input else 0) | (POLLOUT if self.pending else 0)
        if mask:
            watch.set(self.fd, mask, self._on_events)
        else:  # if it has hung up, that is heard when its turn comes
            watch.drop(self.fd)

    def _on_events(self, events: int) -> None:
        if self.pending and events & POLLOUT:
            self.flush()
        if events & ~POLLOUT and self.fd >= 0:
            self.hear(events)

    def hear(self, _events: int) -> None:
        """What it says, as long as the container takes what it types."""
        for _ in range(TURN):  # then it is the others' turn
            if self.fd < 0 or not self.streams.takes_input:
                break
            try:
                packet = self._socket.recv(LONGEST + 1)
            except BlockingIOError:
                return self.arm()
            except OSError:
                packet = b""
            if not packet:
                self.streams.gone(self)
                return None
            try:
                if len(packet) > LONGEST:
                    raise InvalidInput("hear who attached: the packet is too long")
                self._said(packet[:1], packet[1:])
            except (InvalidInput, struct.error):  # one that speaks nonsense is not served
                self.streams.gone(self)
                return None
        return self.arm()

    def _said(self, word: bytes, rest: bytes) -> None:
        if word == b"h":
            asked = decode(rest, "hello")
            letters = {"stdout": b"o", "stderr": b"e"}
            self.wanted = tuple(letter for name, letter in letters.items() if asked.get(name))
            self.has_input = bool(asked.get("stdin"))
            self.send(b"h")
        elif word == b"r":
            SIZE.unpack(rest)
            self.size = rest
            self.resize()
        elif word == b"i" and self.has_input:
            self.streams.typed(rest)
        elif word == b"c" and self.has_input:
            self.has_input = False
            self.streams.input_ended()
        elif word == b"s" and self.streams.deliver is not None:
            if len(rest) != 1 or not 1 <= rest[0] < NSIG:
                raise InvalidInput("hear who attached: that is no signal")
            self.streams.deliver(rest[0])

    def resize(self) -> None:
        """Give the container's terminal the size that was said."""
        if self.size and self.streams.pty >= 0:
            rows, columns = SIZE.unpack(self.size)
            try:
                fcntl.ioctl(self.streams.pty, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            except OSError:
                pass  # hung up

    def send(self, packet: bytes) -> None:
        """Send *packet*, now or after what waits already."""
        self.pending.append(packet)
        if len(self.pending) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what can be sent now."""
        if self.fd < 0:
            return
        waited = bool(self.pending)
        while self.pending:
            try:
                self._socket.send(self.pending[0])
            except BlockingIOError:
                break
            except OSError:
                self.streams.gone(self)
                return
            del self.pending[0]
        self.arm()
        if waited and not self.pending:
            self.streams.client_took()

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        if self.fd >= 0:
            self.streams.forget(self.fd)
            self.fd = -1
            self.pending.clear()
            self._socket.close()


def flush_apart(client: Guest) -> None:
    """Forked twice: it is nobody's child, and has nothing but the socket."""
    try:
        child = os.fork()
    except OSError:
        return  # no more processes: then what is on its way to a slow client ends early
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork():
            return
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number != client.fd:
                try:
                    os.close(number)
                except OSError:
                    pass
        client._socket.setblocking(True)
        for packet in client.pending:
            client._socket.send(packet)
    except OSError:
        pass
    finally:
        os._exit(0)
