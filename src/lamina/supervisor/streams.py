"""The standard streams of a container that outlives whoever started it: logged, and shown to those who attach.

    <container>/out, err    fifos; the container has them open for reading as well, so that it can go on writing while
                            nobody of ours is there, and whoever adopts it reads what it wrote meanwhile
    <container>/in          the same for its input, if it has one
    <container>/attach      the socket of those who attach (packets.py says in what words)

A client that does not read holds the container back, as whoever reads a pipe does: nothing is lost and nothing grows.
"""

from __future__ import annotations

import _socket
import fcntl
import os
from errno import EAGAIN, EMFILE
from select import POLLIN
from time import sleep

from lamina.document import encode
from lamina.linux.fd import Fd
from lamina.runtime.bundle import NULL
from lamina.supervisor.flows import Input, Source
from lamina.supervisor.guests import Guest, flush_apart
from lamina.supervisor.packets import SIZE, SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.supervisor.logs import Writer
    from lamina.supervisor.pump import Watch

BACKLOG = 64
# seconds before somebody is let in again, where that failed for want of a descriptor
NONE_LEFT = 0.01
# how often who opens its input late is let in, and every how many seconds
LATE_LOOKS, LATE = 40, 0.25
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Streams:
    """The streams of one start.

    `child` are the descriptors for the container (NULL: its null device), until `started` is called. With *once* the
    end of a client's input is the container's end of input, as for a pipe; else it never ends. *adopt*: the container
    runs already. *deliver* is called with a signal that a client hands on, *type_* is how a terminal is written to.
    """

    def __init__(
        self,
        directory: bytes,
        *,
        interactive: bool = False,
        once: bool = False,
        tty: bool = False,
        log: Writer | None = None,
        deliver: Callable[[int], None] | None = None,
        type_: Callable[[int, bytes], int] = os.write,
        adopt: bool = False,
    ) -> None:
        self.child: tuple[int, int, int] = (NULL, NULL, NULL)
        self.once, self.tty, self.log, self.deliver = once, tty, log, deliver
        self.write = type_ if tty else os.write
        self.pty = -1
        self._directory = directory
        self._theirs: list[int] = []
        self._sources: list[Source] = []
        self._input: Input | None = None
        self.late_looks = 0
        self._clients: list[Guest] = []
        self._listener: _socket.socket | None = None
        self._watch: Watch | None = None
        try:
            if not tty:
                self._open_fifos(interactive, adopt)
        except BaseException:
            self.close()
            raise

    # -- the beginning

    def _open_fifos(self, interactive: bool, adopt: bool) -> None:
        out, err = self._output(b"/out", b"o", adopt), self._output(b"/err", b"e", adopt)
        self.child = (self._open_input(adopt) if interactive else NULL, out, err)

    def _output(self, name: bytes, letter: bytes, adopt: bool) -> int:
        path = self._directory + name
        if not adopt:
            _make_fifo(path)
        self._sources.append(Source(self, os.open(path, _READING), letter))
        return NULL if adopt else self._their(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))

    def _open_input(self, adopt: bool) -> int:
        path = self._directory + b"/in"
        theirs = NULL
        if not adopt:
            _make_fifo(path)
            # with a writer of its own it never meets the end of input, whatever becomes of us
            how = os.O_RDONLY | os.O_NONBLOCK if self.once else os.O_RDWR
            theirs = self._their(os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC))
            os.set_blocking(theirs, True)
        try:
            writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # ENXIO: adopted, and its input is closed
            return theirs
        self._input = Input(self, writer)
        return theirs

    def _their(self, fd: int) -> int:
        self._theirs.append(fd)
        return fd

    def started(self, pty: int | None) -> None:
        """The container runs and has its descriptors: ours of them are closed. *pty* is the terminal's master."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()
        if pty is None:
            return
        self.pty = fcntl.fcntl(pty, fcntl.F_DUPFD_CLOEXEC, 3)
        os.set_blocking(self.pty, False)
        self._sources.append(Source(self, self.pty, b"o"))
        self._input = Input(self, fcntl.fcntl(pty, fcntl.F_DUPFD_CLOEXEC, 3))
        for client in self._clients:  # who has said how large his terminal is
            client.resize()

    def join(self, fd: int) -> None:
        """*fd*, ours from now on, is a client's end of a socket pair; if its hello is there already, nothing of what
        the container writes escapes it.
        """
        client = Guest(self, fd)
        self._clients.append(client)
        client.hear(0)

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns of the terminal of a client that joined, None where none has said."""
        for client in self._clients:
            if client.size:
                rows, columns = SIZE.unpack(client.size)
                return rows, columns
        return None

    def listen(self, inherited: int = -1) -> None:
        """Let clients attach from now on, by the socket *inherited* where there is one. Raises OSError."""
        if inherited >= 0:
            self._listener = _socket.socket(fileno=inherited)
            return
        listener = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        )
        self._listener = listener
        with Fd(os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as place:
            try:
                os.unlink(SOCKET, dir_fd=place)
            except FileNotFoundError:
                pass
            # the path itself may be too long for a socket (unix(7))
            listener.bind(b"/proc/self/fd/%d/%s" % (place, SOCKET))
            os.chmod(SOCKET, 0o600, dir_fd=place)
        listener.listen(BACKLOG)

    # -- its life

    def arm(self, watch: Watch) -> None:
        """Begin to pump, and to hear clients."""
        self._watch = watch
        for client in self._clients:
            client.arm()
        self._arm_sources()
        if self._input is not None:
            self._input.arm()
        self._arm_listener()

    def _arm_listener(self) -> None:
        if self._listener is not None and self._watch is not None:
            self._watch.set(self._listener.fileno(), POLLIN, self._accept)

    def _accept(self, _events: int) -> None:
        assert self._listener is not None and self._watch is not None
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno == EMFILE and self._clients:  # until one of them goes
                self._watch.drop(self._listener.fileno())
            elif error.errno != EAGAIN:  # the machine has none left; nobody says when there are some again
                sleep(NONE_LEFT)
            return
        self._clients.append(client := Guest(self, fd))
        client.arm()

    def _arm_sources(self) -> None:
        """Read on, unless a client has not taken yet what was read before."""
        if self._watch is None:
            return
        held = any(client.pending for client in self._clients)
        for source in self._sources:
            if source.fd >= 0:
                if held:
                    self._watch.drop(source.fd)
                else:
                    self._watch.set(source.fd, POLLIN, source.read)

    def give(self, letter: bytes, data: bytes) -> None:
        """Something was read: to the log, and to whoever wants it."""
        if self.log is not None:
            self.log.write(letter, data)
        waiting = False
        for client in tuple(self._clients):
            if letter in client.wanted:
                client.send(letter + data)
                waiting = waiting or bool(client.pending)
        if waiting:
            self._arm_sources()

    def typed(self, data: bytes) -> None:
        """Input of a client."""
        if self._input is not None:
            self._input.add(data)

    @property
    def takes_input(self) -> bool:
        """Whether there is no input on its way that the container has not taken yet."""
        return self._input is None or not self._input.pending

    def input_ended(self) -> None:
        """The end of a client's input."""
        if self.once and self._input is not None:
            self._input.end()
            if not self.tty:
                self.late_looks = LATE_LOOKS

    def let_late_readers_in(self) -> None:
        """Who opens a fifo by its name (/dev/stdin) that nobody writes to any more waits for a writer, where a pipe
        gives the end of input (fifo(7)): be one for a moment, now and then.
        """
        if not self.late_looks or (self._input is not None and self._input.fd >= 0):
            return
        self.late_looks -= 1
        try:
            os.close(
                os.open(self._directory + b"/in", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            )
        except OSError:  # ENXIO: nobody has it open, so nobody can open it again
            self.late_looks = 0

    def input_taken(self) -> None:
        """The container has taken what was typed: clients are heard again."""
        for client in self._clients:
            client.arm()

    def client_took(self) -> None:
        """A client has taken everything: the container is read on, if the others have as well."""
        self._arm_sources()

    def gone(self, client: Guest) -> None:
        """A client has left."""
        if client in self._clients:
            self._clients.remove(client)
            client.close()
            if client.has_input and not self.tty:
                self.input_ended()
            self._arm_sources()
            self._arm_listener()

    def forget(self, fd: int) -> None:
        """Do not wait for *fd* any more; it is about to be closed."""
        if self._watch is not None:
            self._watch.drop(fd)

    @property
    def watch(self) -> Watch | None:
        """What waits for us, once it does."""
        return self._watch

    # -- its sleep

    @property
    def may_rest(self) -> bool:
        """Whether nobody is attached, nothing is on its way, and somebody else could wait in our place."""
        busy = self._clients or (self._input is not None and self._input.pending)
        lost = self.tty and self.pty < 0  # adopted: it is being hung up on
        return not busy and not lost and self._listener is not None

    def rest(self) -> bool:
        """Have the log in such a state that another writer can go on with it; whether it is."""
        return self.log is None or self.log.rest()

    @property
    def listener(self) -> int:
        """The socket for those who attach, -1 where there is none."""
        return -1 if self._listener is None else self._listener.fileno()

    @property
    def outputs(self) -> list[int]:
        """What the container's output is read from, as far as it is open."""
        return [source.fd for source in self._sources if source.fd >= 0]

    @property
    def input(self) -> int:
        """What the container's input is written to, -1 where it has none, or that has ended."""
        return -1 if self._input is None else self._input.fd

    # -- the end

    def finish(self, watch: Watch) -> None:
        """It has ended: read what is on its way, and no more, whoever else may still write."""
        if self._listener is not None:
            watch.drop(self._listener.fileno())
        if self._input is not None:
            watch.drop(self._input.fd)
        for client in self._clients:
            watch.drop(client.fd)
        for source in self._sources:
            watch.drop(source.fd)
        self._watch = None
        for source in self._sources:
            source.drain()
        if self.log is not None:  # a line that has no end is in it before anybody hears that this is the end
            self.log.close()

    def ended(self, status: int) -> None:
        """Tell the clients, and let them go. One that is slow is told the rest by a process of its own: what it waits
        for is nothing that should keep us.
        """
        end = b"x" + encode({"status": status}).encode()
        for client in tuple(self._clients):
            if client.wanted or client.has_input:
                client.send(end)
                if client.pending:
                    flush_apart(client)

    def close(self) -> None:
        """Close everything, when nobody watches any more; a second call does nothing."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()
        for source in self._sources:
            source.close()
        if self._input is not None:
            self._input.close()
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            try:
                os.unlink(self._directory + b"/" + SOCKET)
            except OSError:
                pass
        if self.log is not None:
            self.log.close()


def _make_fifo(path: bytes) -> None:
    """A new one: the container before this one may have left something in the old one. For every user of the
    container, who may open /dev/stdout by name; nobody else comes into the directory.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    os.mkfifo(path, 0o600)
    os.chmod(path, 0o666)
