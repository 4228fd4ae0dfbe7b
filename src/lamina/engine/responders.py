"""Who answers for the names of a network: a process of its own, started with the network's first container, that leaves
some seconds after its last one (`responding`).

It holds `networks/<name>/responder.N`, where N is the number of the network's bridge: whoever can lock that file knows
that nobody answers there, and starts somebody. Its sockets are opened by who starts it, so that what is in the way is
an error of that start, and questions wait in them until it has begun.
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket
from contextlib import closing
from errno import EADDRINUSE

from lamina.errors import Conflict, KernelError
from lamina.linux.descriptors import LOCK_EX, LOCK_NB, LOCK_SH, duplicate, flock
from lamina.linux.fd import Fd
from lamina.network.model import place_of as place_at
from lamina.network.subnet import text_of
from lamina.store.lock import turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.network.model import Network
    from lamina.store.containers import Home
    from lamina.store.root import Store

PORT = 53
PREFIX = b"responder."
NAMES = "names"
# of the process that answers
LOCK, DATAGRAMS, LISTENER = 3, 4, 5
_SO_BINDTODEVICE = 25
_BACKLOG = 64


def ensure(store: Store, network: Network, index: int) -> None:
    """See that somebody answers on the network's bridge, which is the link *index*. Who begins to need it has a name in
    the network already: then nobody leaves who answers now.

    Raises Conflict where another program has the port, KernelError.
    """
    with turn(network.names, LOCK_SH), Fd(_opened(place_of(network, index))) as held:
        if not _lock(held):
            return
        _forget_others(network, index)
        datagrams, listener = _sockets(network)
        with closing(datagrams), closing(listener):
            _start(store, network, index, (held, datagrams.fileno(), listener.fileno()))


def answers(network: Network, index: int) -> bool:
    """Whether somebody does on its bridge, the link *index*. Nobody who needs one looks at the same time: he would take
    this look for somebody who answers.
    """
    try:
        with (
            turn(network.names, LOCK_EX),
            Fd(os.open(place_of(network, index), os.O_RDWR | os.O_CLOEXEC)) as held,
        ):
            return not _lock(held)
    except FileNotFoundError:
        return False


def place_of(network: Network, index: int) -> bytes:
    """The file that who answers there holds."""
    return os.path.dirname(network.names) + b"/" + PREFIX + str(index).encode()


def _opened(place: bytes) -> int:
    return os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _lock(held: int) -> bool:
    try:
        flock(held, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _forget_others(network: Network, index: int) -> None:
    """Of bridges that are gone: who answers there sees that, and leaves."""
    place = os.path.dirname(network.names)
    for entry in os.listdir(place):
        if entry.startswith(PREFIX) and entry != PREFIX + str(index).encode():
            try:
                os.unlink(place + b"/" + entry)
            except FileNotFoundError:
                continue


def _sockets(network: Network) -> tuple[socket, socket]:
    """Bound to the bridge: nothing arrives there that comes by another link, or from this host."""
    where = (text_of(network.gateways[0]), PORT)
    made = []
    try:
        for kind in (SOCK_DGRAM, SOCK_STREAM):
            one = socket(family_of(network), kind | SOCK_CLOEXEC)
            made.append(one)
            one.setsockopt(SOL_SOCKET, _SO_BINDTODEVICE, network.bridge.encode())
            if kind == SOCK_STREAM:
                one.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)  # connections of who answered before
            one.bind(where)
        made[1].listen(_BACKLOG)
    except OSError as error:
        for one in made:
            one.close()
        if error.errno == EADDRINUSE:
            raise Conflict(
                f"answer for the names of network {network.name}: a program of this host has port {PORT} of {where[0]}",
                remedy="have it leave out that address; or make the network with -o dns=false, without names",
            ) from error
        raise KernelError("bind", error.errno or 0, place_at(network.gateways[0], PORT)) from error
    return made[0], made[1]


def family_of(network: Network) -> int:
    """Of the gateway's address at which somebody answers, which is the first."""
    return AF_INET if len(network.gateways[0]) == 4 else AF_INET6


def _start(store: Store, network: Network, index: int, descriptors: tuple[int, int, int]) -> None:
    from lamina.engine.detaching import is_small
    from lamina.supervisor.interpreter import interpreter

    here = os.path.dirname(os.path.dirname(__file__))
    root = os.fsdecode(store.path)
    words = [
        interpreter(),
        "-I",
        "-S",
        f"{here}/isolated.py",
        "engine",
        root,
        network.name,
        NAMES,
        str(index),
    ]
    (_fork if is_small() else _spawn)(words, descriptors)


def _fork(words: list[str], descriptors: tuple[int, int, int]) -> None:
    """Twice, so that it is nobody's child; nothing of the caller's is open in it, not even for a moment longer."""
    from lamina.engine.detaching import reap
    from lamina.linux.process import close_range

    try:
        child = os.fork()
    except OSError as error:
        raise KernelError("fork who answers for names", error.errno or 0) from None
    if child:
        reap(child)
        return
    try:
        if os.fork() == 0:
            high = [duplicate(fd, 10) for fd in descriptors]
            null = os.open(os.devnull, os.O_RDWR)
            for number, fd in enumerate([null, null, null, *high]):
                os.dup2(fd, number)
            close_range(LISTENER + 1, 0xFFFFFFFF, 0)
            os.execve(words[0], words, {})
    finally:
        os._exit(0)


def _spawn(words: list[str], descriptors: tuple[int, int, int]) -> None:
    from lamina.engine.detaching import reap

    with Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
        high = [duplicate(fd, 10) for fd in descriptors]
        try:
            actions = [
                (os.POSIX_SPAWN_DUP2, fd, number)
                for number, fd in enumerate([int(null), int(null), int(null), *high])
            ]
            child = os.posix_spawn(words[0], [*words, "spawned"], {}, file_actions=actions)
        except OSError as error:
            raise KernelError("start who answers for names", error.errno or 0, words[0]) from None
        finally:
            for fd in high:
                os.close(fd)
    reap(child)  # it forks at once, and leaves


def rename(home: Home, name: str) -> None:
    """The container is called *name* now, also in its networks. Raises OSError."""
    from lamina.engine.network_record import Ledger
    from lamina.network import names
    from lamina.values import replace

    with turn(home.path, LOCK_EX):
        ledger = Ledger.of(home)
        for attachment in list(ledger.attachments):
            renamed = replace(attachment, title=name)
            ledger.note(renamed)
            for gone in set(attachment.names) - set(renamed.names):
                names.give_back(attachment.network.names, gone, home.id)
            for new in set(renamed.names) - set(attachment.names):
                names.take(attachment.network.names, new, home.id, attachment.addresses)
