"""Work below the roots of containers with user namespaces, one call after the other, by a process that is there.

Each look at a file would otherwise start a program (within.py, 60 ms). The process is in a user namespace with the ids
of the containers, does what `roots.there` does for each request, and ends when nobody has asked for a minute, or
when the program that started it does: then its socket is at its end.
"""

from __future__ import annotations

import os
import socket
import threading
from errno import EPIPE

from lamina.engine.roots import become, owner_of
from lamina.engine.standing import Standing, Stood
from lamina.engine.within import FAILURE, FIRST_FILE, RESULT, Carried, inside, receive, send
from lamina.errors import Corrupt
from lamina.linux.fd import Fd, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.engine.within import Maps

IDLE = 60.0  # seconds
_BYTE = b"f"  # what descriptors travel with
_services: dict[str, Service] = {}
_lock = threading.Lock()


def ask(maps: Maps, root: Fd | Stood, write: bool, work: Callable[..., Any], *args: Any) -> Any:
    """`work(root, *args)` in a namespace with *maps*; a descriptor that is the result is handed over.

    Raises what *work* raises, Unsupported where this host lets nobody make such a namespace.
    """
    key = repr(sorted(maps.items()))
    for left in (True, False):
        with _lock:
            service = _services.get(key)
            if service is None or not service.usable:
                service = _services[key] = Service(maps)
        try:
            return service.ask(root, write, work, args)
        except _Gone:
            if not left:
                raise Corrupt("work in a user namespace: the process there ended without an answer") from None
    raise AssertionError("unreachable")


class _Gone(Corrupt):
    """It ended for want of work, just before it was asked."""


class Service:
    """One such process, seen from outside. Safe to be asked from several threads."""

    def __init__(self, maps: Maps) -> None:
        self._ours, theirs = socket.socketpair()
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._failure: BaseException | None = None
        self._ended = False
        # the kernel ends the process with the thread that started it: that one waits for nothing else
        self._keeping = threading.Thread(
            target=self._keep, args=(maps, theirs), name="lamina-files", daemon=True
        )
        self._keeping.start()

    @property
    def usable(self) -> bool:
        """Whether it is there, and this process's own: a fork shares its socket with its parent."""
        return self._pid == os.getpid() and not self._ended

    def _keep(self, maps: Maps, theirs: socket.socket) -> None:
        try:
            inside(maps, serve, owner_of(maps), files=(theirs.fileno(),))
        except BaseException as failure:
            self._failure = failure
        finally:
            self._ended = True
            theirs.close()

    def ask(self, root: Fd | Stood, write: bool, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """See the function `ask`."""
        with self._turn:
            try:
                kind, content, passed = self._asked(root, write, work, args)
            except (Corrupt, OSError) as error:
                if isinstance(error, OSError) and error.errno not in (EPIPE, None):
                    raise
                self._ended = True
                self._ours.close()
                self._keeping.join()
                if self._failure is not None:
                    raise self._failure from None
                raise _Gone("work in a user namespace: the process there has ended") from None
        if kind == FAILURE:
            raise content
        return passed if passed is not None else content

    def _asked(
        self, root: Fd | Stood, write: bool, work: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[str, Any, Fd | None]:
        descriptor = self._ours.fileno()
        given = [root] if isinstance(root, Fd) else []
        send(descriptor, work, args, None if given else root, write)
        if given:
            socket.send_fds(self._ours, [_BYTE], given)
        kind, content, has_file = receive(descriptor)
        return kind, content, _received(self._ours) if has_file else None


def _received(channel: socket.socket) -> Fd:
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        raise Corrupt("work in a user namespace: the process there ended without an answer")
    os.set_inheritable(descriptors[0], False)
    return Fd(descriptors[0])


# -- in the namespace


def serve(owner: tuple[int, int]) -> None:
    """Answer until the other side is gone, or has not asked for a while."""
    channel = socket.socket(fileno=FIRST_FILE)
    own = (os.geteuid(), os.getegid())
    while ready(IDLE, channel.fileno()):
        try:
            work, args, stood, write = receive(channel.fileno())
            root = _received(channel) if stood is None else None
        except (Corrupt, ConnectionError):
            return
        made: Fd | None = None
        try:
            result = _done(work, args, root, stood, write, own, owner)
            if isinstance(result, Fd):
                made, result = result, None
            answer = (RESULT, result, made is not None)
        except Exception as error:
            answer = (FAILURE, Carried(error), False)
        try:
            send(channel.fileno(), *answer)
            if made is not None:
                with made:
                    socket.send_fds(channel, [_BYTE], [made])
        except ConnectionError:
            return


def _done(
    work: Callable[..., Any],
    args: tuple[Any, ...],
    root: Fd | None,
    stood: Stood | None,
    write: bool,
    own: tuple[int, int],
    owner: tuple[int, int],
) -> Any:
    if root is not None:
        with root:
            become(owner)
            return work(root, *args)
    assert stood is not None
    become(own)  # the store is the user's, who need not be the container's root
    with Standing(stood, write=write) as standing:
        become(owner)
        return work(standing, *args)
