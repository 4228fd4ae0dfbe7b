"""A parked process that takes one command, becomes what the client would have been, and does it.

Until it says that it is ready it can refuse, and the client starts Python. When the client says "go" the command is
this process's, and dies with the client: by the kernel's hand, whatever becomes of anybody else.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
import sys
import time
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper

from lamina.linux.constants import PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_PDEATHSIG
from lamina.linux.process import pidfd_open, prctl
from lamina.values import value
from lamina.warm.copies import NONE
from lamina.warm.request import receive, told_to_go
from lamina.warm.surroundings import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from lamina.warm.copies import Copies
    from lamina.warm.request import Request
else:  # the module `signal` makes an enumeration member of every number that it is given
    import _signal as s


READY, REFUSED = b"r", b"n"
# of one that has done nothing; a client that has said "go" ends with the same (docker's status for what is its own)
FAILED = 125
SO_PEERPIDFD = 77  # Linux 6.5
F_SETSIG = 10
# no descriptor of the server's has such a number
ABOVE = 32
NOT_TO_BE_CHANGED = (9, 19, 32, 33)  # SIGKILL, SIGSTOP; the last two are the C library's, nptl(7)


@value
class Face:
    """Whose commands are done: `run` does the command line in `sys.argv`, `does_well_without` says whether that may be
    done here, given which standard streams are terminals, `rehearse` does what most command lines take and has no
    effect. `kind` says which pages a command is going to copy (copies.KINDS). `lingering` gives a list for the
    descriptors, put there by `run`, that are closed when the client has heard how it ended: they hold nothing but take
    time to close.
    """

    run: Callable[[], int]
    does_well_without: Callable[[Sequence[str], Sequence[int]], bool]
    rehearse: Callable[[], None]
    kind: Callable[[Sequence[str]], int]
    lingering: Callable[[], list[int]]


class Worker:
    """Takes commands from *listener* until one is done. `begun` is called when it has taken one; *coerced*: variables
    that Python sets by itself when it starts in such surroundings; *stale*: whether what was imported has changed;
    *copies*: of pages that commands write to.
    """

    def __init__(
        self,
        listener: socket.socket,
        face: Face,
        *,
        begun: Callable[[], None],
        stale: Callable[[], bool],
        coerced: tuple[bytes, ...],
        copies: Copies,
    ) -> None:
        self.listener, self.face, self.begun, self.stale, self.coerced = listener, face, begun, stale, coerced
        self.copies = copies
        self.kind = NONE

    def serve(self) -> NoReturn:
        """Refuse until there is something to do, do it, end."""
        if not self.copies.make():
            self._rehearse()
        self.copies.count()
        while True:
            connection = _accept(self.listener)
            try:
                taken = self._consider(connection)
            except OSError:  # the client went away, or is hidden from us
                taken = None
            if taken is not None:
                self._take_over(connection, *taken)
            connection.close()

    def _rehearse(self) -> None:
        """Do now, without consequences, what every command needs. The first touch of a page after a fork copies it,
        and these copies are a third of what a short command would take.
        """
        ourselves = Process(os.getpid())
        _signals(ourselves)
        _environment([key + b"=" + content for key, content in os.environb.items()], ())
        _standard_streams()
        self.stale()
        self.face.rehearse()

    def _consider(self, connection: socket.socket) -> tuple[Request, Process] | None:
        """What *connection* asks for, if it is for us to do. Who lives otherwise is not even listened to."""
        caller = _caller(connection)
        if caller is None:
            return None
        if caller.same is not None and caller.same == Process(os.getpid()).same:
            request = receive(connection)
            if request is None:
                return None
            if self._is_for_us(request):
                return request, caller
        with pidfd_open(os.getpid()) as ourselves:
            _say(connection, REFUSED, ourselves)
        return None

    def _is_for_us(self, request: Request) -> bool:
        # each descriptor is opened twice for a moment, above all numbers
        room = 2 * (max(request.numbers, default=0) + len(request.numbers)) + ABOVE
        if self.stale() or room > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            return False
        words = [os.fsdecode(word) for word in request.words[1:]]
        return self.face.does_well_without(words, request.terminals)

    def _take_over(self, connection: socket.socket, request: Request, caller: Process) -> NoReturn:
        """Become the client, and do what it was asked for. Whatever goes wrong before "go" leaves it to the client."""
        try:
            words = [os.fsdecode(word) for word in request.words[1:]]
            self.kind = self.face.kind(words)
            self.copies.expect(self.kind)
            self.begun()
            os.umask(caller.umask)
            _environment(request.variables, self.coerced)
            _signals(caller)
            sys.argv[1:] = words
            os.setpgid(0, 0)
            prctl(PR_SET_PDEATHSIG, 0)
            prctl(PR_SET_DUMPABLE, 1)
            prctl(PR_SET_NAME, b"lamina")
            with pidfd_open(os.getpid()) as ourselves:
                _say(connection, READY, ourselves)
            received = told_to_go(connection, len(request.numbers))
            if received is None:
                os._exit(FAILED)
        except BaseException:
            os._exit(FAILED)
        self._do(connection, request.numbers, received)

    def _do(self, connection: socket.socket, numbers: Sequence[int], received: list[int]) -> NoReturn:
        """What the face's own `main` does, with an end that the client hears of."""
        lingering: list[int] = []
        try:
            _die_with(connection)
            connection = _descriptors(numbers, received, connection)
            _standard_streams()
            lingering = self.face.lingering()
            status = self.face.run()
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            status = 1
        # who waits for the client may rely on everything being closed: locks, pipes
        _close_all(but=[*lingering, connection.fileno()])
        try:
            _outlive(connection)
            connection.send(bytes([status & 0xFF]))
            self.copies.note(self.kind)
        except OSError:
            pass
        os._exit(status & 0xFF)


def _accept(listener: socket.socket) -> socket.socket:
    while True:
        try:
            connection, _ = listener.accept()
            return connection
        except ConnectionAbortedError:
            continue


def _caller(connection: socket.socket) -> Process | None:
    """Who asks; None where that is another user, or cannot be said for certain."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid = (int.from_bytes(peer[at : at + 4], sys.byteorder) for at in (0, 4))
    if uid != os.geteuid() or not pid:
        return None
    try:
        alive = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:  # an older kernel
        alive = pidfd_open(pid).steal()
    try:
        found = Process(pid)
        poll = select.poll()
        poll.register(alive, select.POLLIN)
        # it lives: so the number was its own all the time
        return None if poll.poll(0) else found
    finally:
        os.close(alive)


def _say(connection: socket.socket, word: bytes, descriptor: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, int(descriptor).to_bytes(4, sys.byteorder))
    connection.sendmsg([word], [rights], socket.MSG_NOSIGNAL)


def _die_with(connection: socket.socket) -> None:
    """Have the kernel kill this process when the client is gone. It says nothing more, so whatever comes is its end."""
    number = connection.fileno()
    fcntl.fcntl(number, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(number, F_SETSIG, s.SIGKILL)
    fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(number, select.POLLIN)
    if poll.poll(0):  # gone before that
        os._exit(FAILED)


def _outlive(connection: socket.socket) -> None:
    """Take that back: what is left to do is nothing of the client's."""
    number = connection.fileno()
    fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) & ~os.O_ASYNC)


# -- becoming the client


def _descriptors(numbers: Sequence[int], received: list[int], connection: socket.socket) -> socket.socket:
    """Open exactly what the client had open, under the same *numbers*, and go where it was; of ours only the connection
    stays, out of the way.
    """
    *descriptors, cwd = received
    os.fchdir(cwd)
    base = max(*numbers, *received, connection.fileno(), ABOVE) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, base) for descriptor in descriptors]
    kept = fcntl.fcntl(connection.detach(), fcntl.F_DUPFD_CLOEXEC, base)
    os.closerange(0, base)
    for number, descriptor in zip(numbers, moved, strict=True):
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)
    return socket.socket(fileno=kept)


def _close_all(but: list[int]) -> None:
    """Every descriptor of this process, but these."""
    low = 0
    for number in sorted(but):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, 1 << 20)


def _environment(variables: Sequence[bytes], coerced: tuple[bytes, ...]) -> None:
    """The client's environment and nothing of ours. As Python reads it when it starts: of two of a name the first."""
    os.environ.clear()
    for variable in (*variables, *coerced):
        name, equals, content = variable.partition(b"=")
        if not equals or name in os.environb:
            continue
        if name:
            os.environb[name] = content
        else:  # putenv(3) takes no such name, Python's dictionary does
            os.environb._data[name] = content  # type: ignore[attr-defined]
    time.tzset()


def _signals(caller: Process) -> None:
    """What the client ignores is ignored, what it blocks is blocked; the rest is as in a Python that has just begun."""
    for number in caller.ignored.difference(NOT_TO_BE_CHANGED):
        s.signal(number, s.SIG_IGN)
    s.pthread_sigmask(s.SIG_SETMASK, caller.blocked)


def _standard_streams() -> None:
    """sys.stdin, stdout and stderr as Python makes them when it starts: None for one that is closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before: TextIOWrapper = getattr(sys, f"__{name}__")
        stream = None
        if _is_open(number):
            file = FileIO(number, "rb" if number == 0 else "wb", closefd=False)
            buffered = BufferedReader(file) if number == 0 else BufferedWriter(file)
            stream = TextIOWrapper(
                buffered,
                before.encoding,
                before.errors,
                newline=None if number == 0 else "\n",
                line_buffering=number == 2 or os.isatty(number),
            )
            stream.mode = before.mode  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
