"""Work below the roots of containers with user namespaces, one call after the other, by a process that is there.

Each look at a file would otherwise start a program (within.py, 60 ms). The process is in a user namespace with the ids
of the containers, does what `roots.there` does for each request, and ends when nobody has asked for a minute, or
when the program that started it does, of which it is no child: a program that waits for any of its children never
meets it. A call that does not come back (a file system that hangs, in a volume) keeps its caller, and nobody else for
longer than a moment: others get another process.

It may do what the program could when it started it. So it looks, before each request, whether that may do so still: a
program that has given up rights gets another one, and whoever takes it over then gets nothing; nor does a process that
it forked, which has the socket, and may have given up rights (decision 0083).
"""

from __future__ import annotations

import os
import threading
from errno import ECONNRESET, EINVAL, EPIPE

from lamina.engine.mounted_root import Standing, Stood
from lamina.engine.roots import become
from lamina.engine.within import FAILURE, FIRST_FILE, RESULT, Carried, apart, frame, receive, send
from lamina.errors import Corrupt, TimeoutExpired
from lamina.linux.fd import Fd, ready
from lamina.linux.messages import SOCK_STREAM, have_told, received, socketpair
from lamina.linux.messages import send as send_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.engine.within import Maps
    from lamina.linux.messages import Sent

    Owner = tuple[int, int]
    Answer = tuple[str, Any, Fd | None]
    Wanted = tuple[Callable[..., Any], tuple[Any, ...], Owner]

IDLE = 60.0  # seconds
BUSY = 5.0  # seconds that one who asks waits for another before him
_BYTE = b"f"  # what descriptors travel with
_RIGHTS = (b"Uid:", b"Gid:", b"Groups:", b"Cap", b"NoNewPrivs:", b"Seccomp")  # of proc_pid_status(5)
_services: dict[str, Service] = {}
_lock = threading.Lock()
_GONE = (EPIPE, ECONNRESET)


def _forget() -> None:
    """In a fork: its parent's are not its own, and the lock may be held by a thread that is not there."""
    global _lock
    _lock = threading.Lock()
    _services.clear()


os.register_at_fork(after_in_child=_forget)


def ask(maps: Maps, owner: Owner, root: Fd | Stood, write: bool, work: Callable[..., Any], *args: Any) -> Any:
    """`work(root, *args)` in a namespace with *maps*, as *owner*; a descriptor that is the result is handed over.

    Raises what *work* raises, Unsupported where this host lets nobody make such a namespace.
    """
    key = repr(sorted(maps.items()))
    hangs: Service | None = None
    late: TimeoutExpired | None = None
    for _ in range(3):  # it may end for want of work just when it is asked
        with _lock:
            service = _services.get(key)
            if service is None or service is hangs or not service.usable:
                if service is not None and service is not hangs:
                    service.let_go()
                service = _services[key] = Service(maps)
        try:
            answer = service.ask((work, args, owner), root, write)
        except TimeoutExpired as busy:
            hangs, late = service, busy
            continue
        if answer is not None:
            kind, content, passed = answer
            if kind == FAILURE:
                raise content
            return content if passed is None else passed
    raise late or Corrupt("work in a user namespace: the process there ended without an answer")


class Service:
    """One such process, seen from outside. Safe to be asked from several threads."""

    def __init__(self, maps: Maps) -> None:
        """Raises Unsupported where this host lets nobody make such a namespace, OSError."""
        # no socket.socketpair(): where a program has set a time for its sockets (setdefaulttimeout) these do not wait
        self._ours, theirs = map(Fd, socketpair(SOCK_STREAM))
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._ended = False
        try:
            with theirs, Fd(os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)) as status:
                have_told(theirs, pidfd=False)
                apart(maps, serve, IDLE, self._pid, _rights(status), files=(theirs, status))
        except BaseException:
            self._ours.close()
            raise

    @property
    def usable(self) -> bool:
        """Whether it is there, and this process's own: a fork shares its socket with its parent."""
        return self._pid == os.getpid() and not self._ended

    def let_go(self) -> None:
        """Close our end: of one that is not usable any more, or that nobody is to ask again."""
        self._ours.close()

    def ask(self, wanted: Wanted, root: Fd | Stood, write: bool) -> Answer | None:
        """What came of it: RESULT or FAILURE, the result or the error, and a descriptor; None: it was gone already.

        Raises OSError, TimeoutExpired (it does what another asked for).
        """
        if not self._turn.acquire(timeout=BUSY):
            raise TimeoutExpired(
                "work in a user namespace: what others asked for before does not come to its end"
            )
        try:
            if self._ended:
                return None
            return self._asked(wanted, root, write)
        except BaseException as error:
            # also where this thread was interrupted: the answer to this would be taken for one to the next
            self._ended = True
            self._ours.close()
            gone = isinstance(error, Corrupt) or (isinstance(error, OSError) and error.errno in _GONE)
            if not gone:
                raise
        finally:
            self._turn.release()
        return None

    def _asked(self, wanted: Wanted, root: Fd | Stood, write: bool) -> Answer:
        given = (root,) if isinstance(root, Fd) else ()
        send(self._ours, wanted, None if given else root, write)
        if given:
            send_message(self._ours, _BYTE, given)
        kind, content, has_file = receive(self._ours)
        return kind, content, _received(self._ours) if has_file else None


def _received(channel: int) -> Fd:
    descriptors = received(channel, 1, 1).descriptors
    if not descriptors:
        raise Corrupt("work in a user namespace: the process there ended without an answer")
    return descriptors[0]


def _rights(status: int) -> list[bytes]:
    """What the process may do whose status that file is; [] of one that is gone."""
    text = b""
    try:
        while piece := os.pread(status, 1 << 16, len(text)):  # all groups come before the capabilities
            text += piece
    except ProcessLookupError:
        return []
    return [line for line in text.splitlines() if line.startswith(_RIGHTS)]


# -- in the namespace


class _Heard:
    """What the process *owner* says on the channel: of somebody else nothing is taken, and nobody is heard any more."""

    def __init__(self, channel: int, owner: int) -> None:
        self.channel, self.owner = channel, owner

    def read(self, size: int) -> bytes:
        """So many bytes. Raises Corrupt where there is somebody else, or nobody; OSError."""
        pieces = []
        while size:
            piece = self._next(min(size, 1 << 20), 0).data
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def descriptor(self) -> Fd:
        """The one that comes next. Raises as `read`."""
        found = self._next(1, 1).descriptors
        if not found:
            raise Corrupt("work in a user namespace: there is no root to work in")
        return found[0]

    def _next(self, size: int, most: int) -> Sent:
        # what several have sent is never one piece (unix(7), SO_PASSCRED)
        found = received(self.channel, size, most)
        if not found.data or found.sender is None or found.sender[0] != self.owner:
            raise Corrupt("work in a user namespace: the program has ended, or somebody else asks")
        return found


def serve(idle: float, owner: int, rights: list[bytes]) -> None:
    """Answer the process *owner* until the other side is gone, that may not do any more what it could (*rights*), or it
    has not asked for *idle* seconds.
    """
    heard = _Heard(FIRST_FILE, owner)
    own = (os.geteuid(), os.getegid())
    while ready(idle, FIRST_FILE) and _rights(FIRST_FILE + 1) == rights:
        try:
            wanted, stood, write = frame(heard.read)
            root = heard.descriptor() if stood is None else None
        except (Corrupt, ConnectionError):
            return
        made: Fd | None = None
        try:
            result = _done(wanted, root, stood, write, own)
            if isinstance(result, Fd):
                made, result = result, None
            answer = (RESULT, result, made is not None)
        except Exception as error:
            answer = (FAILURE, Carried(error), False)
        try:
            send(FIRST_FILE, *answer)
            if made is not None:
                with made:
                    send_message(FIRST_FILE, _BYTE, (made,))
        except ConnectionError:
            return


def _done(wanted: Wanted, root: Fd | None, stood: Stood | None, write: bool, own: Owner) -> Any:
    work, args, owner = wanted
    # the store and Python are the user's, who need not be the container's root
    try:
        if root is not None:
            with root:
                become(owner)
                return work(root, *args)
        assert stood is not None
        with Standing(stood, write=write) as standing:
            become(owner)
            return work(standing, *args)
    finally:
        try:
            become(own)
        except OSError as error:
            # somebody whom these maps do not have: then roots were mounted elsewhere, and modules are loaded by now
            if error.errno != EINVAL:
                raise
